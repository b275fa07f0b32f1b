"""Operations: people, and what they do for the platform."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from orchestrator.governance.cards import PersonCard, PersonProject, TrainingCard
from orchestrator.governance.operations.declared import Operation, Scope
from orchestrator.governance.people import MOST_PEOPLE
from orchestrator.governance.states import PlatformRole
from orchestrator.terms import Value

PersonId = Annotated[str, Field(min_length=1, max_length=64)]


class Searching(Value):
    """Which people."""

    search: Annotated[str, Field(max_length=100)] = ""
    limit: Annotated[int, Field(ge=1, le=MOST_PEOPLE)] = 50
    #: the last id of the page before
    after: Annotated[str, Field(max_length=64)] = ""


class OnePerson(Value):
    """One person."""

    person: PersonId


class NewPerson(Value):
    """A person before their first login."""

    subject: Annotated[str, Field(min_length=1, max_length=255)]
    display_name: Annotated[str, Field(min_length=1, max_length=200)]
    email: Annotated[str, Field(max_length=254)] = ""


class Describing(Value):
    """Where a person comes from."""

    person: PersonId
    external: bool
    affiliation: Annotated[str, Field(max_length=200)] = ""


class OneRole(Value):
    """A platform role of a person."""

    person: PersonId
    role: PlatformRole


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "people.list",
        "GET",
        "/people",
        "People, by id",
        Scope.READ,
        Searching,
        list[PersonCard],
        lambda governance, by, asked: governance.people(by, asked.search, asked.limit, asked.after),
    ),
    Operation(
        "person.read",
        "GET",
        "/people/{person}",
        "A person",
        Scope.READ,
        OnePerson,
        PersonCard,
        lambda governance, by, asked: governance.read_person(by, asked.person),
    ),
    Operation(
        "person.trainings",
        "GET",
        "/people/{person}/trainings",
        "A person's trainings, the latest first",
        Scope.READ,
        OnePerson,
        list[TrainingCard],
        lambda governance, by, asked: governance.trainings_of(by, asked.person),
    ),
    Operation(
        "person.projects",
        "GET",
        "/people/{person}/projects",
        "The projects that a person is or was in, of those that one may read",
        Scope.READ,
        OnePerson,
        list[PersonProject],
        lambda governance, by, asked: governance.projects_of_person(by, asked.person),
    ),
    Operation(
        "person.add",
        "POST",
        "/people",
        "Add a person before their first login",
        Scope.ADMIN,
        NewPerson,
        PersonCard,
        lambda governance, by, asked: governance.add_person(by, asked.subject, asked.display_name, asked.email),
    ),
    Operation(
        "person.describe",
        "PUT",
        "/people/{person}",
        "Say whether a person is an external partner, and of which organisation",
        Scope.ADMIN,
        Describing,
        PersonCard,
        lambda governance, by, asked: governance.describe_person(by, asked.person, asked.external, asked.affiliation),
    ),
    Operation(
        "person.disable",
        "POST",
        "/people/{person}/disable",
        "Shut a person out everywhere, at once",
        Scope.ADMIN,
        OnePerson,
        None,
        lambda governance, by, asked: governance.disable_person(by, asked.person),
    ),
    Operation(
        "person.enable",
        "POST",
        "/people/{person}/enable",
        "Let a disabled person in again",
        Scope.ADMIN,
        OnePerson,
        None,
        lambda governance, by, asked: governance.enable_person(by, asked.person),
    ),
    Operation(
        "role.add",
        "POST",
        "/people/{person}/roles/{role}",
        "Give somebody else a platform role",
        Scope.ADMIN,
        OneRole,
        PersonCard,
        lambda governance, by, asked: governance.add_role(by, asked.person, asked.role),
    ),
    Operation(
        "role.remove",
        "DELETE",
        "/people/{person}/roles/{role}",
        "Take a platform role away",
        Scope.ADMIN,
        OneRole,
        PersonCard,
        lambda governance, by, asked: governance.remove_role(by, asked.person, asked.role),
    ),
)

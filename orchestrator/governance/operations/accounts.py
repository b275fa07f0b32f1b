"""Operations: one's own account, terms of use and training."""

from __future__ import annotations

from datetime import date
from typing import Annotated

from pydantic import Field

from orchestrator.governance.cards import Account, TrainingCard
from orchestrator.governance.operations.declared import Nothing, Operation, Scope
from orchestrator.governance.operations.people import PersonId
from orchestrator.terms import Value


class Accepting(Value):
    """The version of the terms of use that was read."""

    version: Annotated[str, Field(min_length=1, max_length=32)]


class Declaring(Value):
    """A training that one completed."""

    course: Annotated[str, Field(min_length=1, max_length=200)]
    completed: date
    #: where the proof is: a certificate's number, an address
    evidence: Annotated[str, Field(max_length=500)] = ""


class OneTraining(Value):
    """A training of a person."""

    person: PersonId
    training: Annotated[int, Field(ge=1)]


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "account.read",
        "GET",
        "/account",
        "My account: the terms of use in force, my trainings",
        Scope.READ,
        Nothing,
        Account,
        lambda governance, by, asked: governance.account(by),
    ),
    Operation(
        "terms.accept",
        "POST",
        "/account/terms",
        "Accept the terms of use in force",
        Scope.ACCOUNT,
        Accepting,
        None,
        lambda governance, by, asked: governance.accept_terms(by, asked.version),
    ),
    Operation(
        "training.declare",
        "POST",
        "/account/trainings",
        "Declare a training; somebody else confirms it",
        Scope.ACCOUNT,
        Declaring,
        TrainingCard,
        lambda governance, by, asked: governance.declare_training(by, asked.course, asked.completed, asked.evidence),
    ),
    Operation(
        "training.confirm",
        "POST",
        "/people/{person}/trainings/{training}/confirm",
        "Say that the proof of somebody's training was seen",
        Scope.MEMBERS,
        OneTraining,
        None,
        lambda governance, by, asked: governance.confirm_training(by, asked.person, asked.training),
    ),
)

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import ConflictError, InputError, NotFoundError, RefusedError
from orchestrator.governance import identity
from orchestrator.governance.cards import Person
from orchestrator.governance.identity import HUB, OPERATOR, RESERVED, person_id
from orchestrator.governance.people import People
from orchestrator.governance.states import INCOMPATIBLE_ROLES, PlatformRole
from tests.unit.governance.places import create, peopled, running


@given(st.text(min_size=1, max_size=255))
def test_ids_are_short_plain_and_distinct_from_reserved_names(subject):
    try:
        told = person_id(subject)
    except InputError:
        assert subject in RESERVED or any("\ud800" <= char <= "\udfff" for char in subject)
        return
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}|sub~[0-9a-f]{32}", told)
    assert (told == subject) == ("~" not in told)


@pytest.mark.parametrize("subject", sorted(RESERVED))
def test_nobody_is_called_like_a_part_of_the_platform(here, subject):
    with pytest.raises(InputError, match="reserved"):
        here.governance.login(subject, Person(subject=subject, display_name="X"))


def test_negative_control_without_reserved_names_a_person_acts_as_the_operator(here, monkeypatch):
    monkeypatch.setattr(identity, "RESERVED", frozenset())
    here.governance.login("operator", Person(subject="operator", display_name="X"))
    assert here.governance.person("operator").id == OPERATOR


def test_the_id_must_be_that_of_the_subject(here):
    with pytest.raises(InputError, match="not the id"):
        here.governance.login("custodian", Person(subject="somebody", display_name="X"))


def test_a_login_adds_and_follows(here):
    card = here.governance.login("ada", Person(subject="ada", display_name="Ada", email="ada@example.org"))
    assert (card.id, card.roles, card.disabled) == ("ada", (), False)
    before = len(here.events())
    here.governance.login("ada", Person(subject="ada", display_name="Ada", email="ada@example.org"))
    assert len(here.events()) == before, "nothing changed, nothing written"
    assert here.governance.login("ada", Person(subject="ada", display_name="Ada L.")).display_name == "Ada L."
    odd = person_id("https://idp.example/users/Ada 1")
    card = here.governance.login(odd, Person(subject="https://idp.example/users/Ada 1", display_name="Ada"))
    assert card.id.startswith("sub~")


def test_a_disabled_person_does_not_log_in(here):
    peopled(here.governance)
    here.governance.disable_person("admin", "lead")
    with pytest.raises(RefusedError, match="person-disabled"):
        here.governance.login("lead", Person(subject="lead", display_name="Lead"))
    here.governance.enable_person("admin", "lead")
    assert here.governance.login("lead", Person(subject="lead", display_name="Lead"))


@pytest.mark.parametrize("name", ["", "  ", "x" * 201, "a\x1b[31m"])
def test_bad_names(here, name):
    with pytest.raises(InputError, match="display name"):
        here.governance.add_person(OPERATOR, "ada", name)
    with pytest.raises(NotFoundError):
        here.governance.person("ada")


def test_who_adds_people(here):
    peopled(here.governance)
    here.governance.add_person("admin", "new", "New")
    with pytest.raises(ConflictError):
        here.governance.add_person("admin", "new", "New")
    for by in ("custodian", "lead", "outsider", "nobody"):
        with pytest.raises(RefusedError):
            here.governance.add_person(by, "newer", "Newer")


def test_nobody_gives_themselves_a_role(here):
    peopled(here.governance)
    with pytest.raises(RefusedError, match=r"role\.add/not-self"):
        here.governance.add_role("admin", "admin", PlatformRole.REVIEWER)
    for by in ("custodian", "lead", HUB):
        with pytest.raises(RefusedError, match="who-may"):
            here.governance.add_role(by, "researcher", PlatformRole.CUSTODIAN)
    assert here.governance.add_role("admin", "lead", PlatformRole.REVIEWER).roles == ("reviewer",)
    assert here.governance.add_role("admin", "lead", PlatformRole.REVIEWER).roles == ("reviewer",)
    assert here.governance.remove_role("admin", "lead", PlatformRole.REVIEWER).roles == ()


@pytest.mark.parametrize("pair", sorted(INCOMPATIBLE_ROLES, key=sorted), ids=lambda pair: "-".join(sorted(pair)))
def test_roles_that_exclude_each_other(here, pair):
    peopled(here.governance)
    first, second = sorted(pair)
    here.governance.add_role(OPERATOR, "outsider", first)
    with pytest.raises(RefusedError, match="separate-roles"):
        here.governance.add_role(OPERATOR, "outsider", second)


def test_of_a_persons_projects_one_sees_those_that_one_may_read(here):
    running(here.governance, "sleep")
    create(here.governance, "pain", lead="outsider")
    here.governance.activate_project("custodian", "pain")
    here.governance.request_membership("researcher", "pain", "researcher")

    def seen(by, person="researcher"):
        return [project.slug for project in here.governance.projects_of_person(by, person)]

    assert seen("lead") == ["sleep"], "what else a member studies is not their lead's to know"
    assert seen("outsider") == ["pain"]
    assert seen("auditor") == seen("admin") == seen("custodian2") == ["pain", "sleep"]
    with pytest.raises(RefusedError, match=r"person\.read"):
        seen("researcher", "lead")
    with pytest.raises(NotFoundError):
        seen("auditor", "nobody")


def test_negative_control_without_the_question_a_lead_sees_all_projects_of_a_member(here, monkeypatch):
    monkeypatch.setattr(People, "_may_read", lambda *_, **__: True)
    with pytest.raises(AssertionError, match="not their lead's"):
        test_of_a_persons_projects_one_sees_those_that_one_may_read(here)

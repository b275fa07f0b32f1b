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


class TestDescribing:
    def test_an_external_partner_has_an_organisation(self, here):
        peopled(here.governance)
        with pytest.raises(InputError, match="affiliation"):
            here.governance.describe_person("admin", "outsider", True)
        card = here.governance.describe_person("admin", "outsider", True, " Another Hospital ")
        assert (card.external, card.affiliation) == (True, "Another Hospital")
        assert not here.governance.describe_person("custodian", "outsider", False).external

    def test_nobody_describes_themselves(self, here):
        peopled(here.governance)
        for by in ("admin", "custodian"):
            with pytest.raises(RefusedError, match=r"person\.describe/not-self"):
                here.governance.describe_person(by, by, False)

    @pytest.mark.parametrize("by", ["lead", "outsider", "auditor", HUB])
    def test_who_does_not(self, here, by):
        peopled(here.governance)
        with pytest.raises(RefusedError, match=r"person\.describe/who-may"):
            here.governance.describe_person(by, "researcher", False)


class TestReading:
    def test_people_are_found_and_paged(self, here):
        peopled(here.governance)
        here.governance.add_person(OPERATOR, "zoe", "Zoé 100%_", "z@elsewhere.example")
        here.governance.describe_person("admin", "zoe", True, "Another Hospital")

        def found(**asked):
            return [card.id for card in here.governance.people("auditor", **asked)]

        assert found() == ["admin", "auditor", "custodian", "custodian2", "lead", "outsider", "researcher", "zoe"]
        assert found(limit=2) == ["admin", "auditor"]
        assert found(limit=2, after="auditor") == ["custodian", "custodian2"]
        assert found(search="CUSTO") == ["custodian", "custodian2"]
        assert found(search="elsewhere") == found(search="another hosp") == ["zoe"]
        assert found(search="Zoé") == ["zoe"]
        assert found(search="100%_") == ["zoe"]
        assert found(search="%") == ["zoe"], "no wildcard of the database"
        assert found(search="nothing") == []
        assert len(found(limit=-1)) == 1

    @pytest.mark.parametrize("by", ["lead", "researcher", "outsider"])
    def test_who_does_not_read_everybody(self, here, by):
        peopled(here.governance)
        with pytest.raises(RefusedError, match=r"people\.read/who-may"):
            here.governance.people(by)

    def test_one_reads_oneself_and_a_lead_their_members(self, sleep):
        governance = sleep.governance
        assert governance.read_person("outsider", "outsider").id == "outsider"
        assert governance.read_person("lead", "researcher").id == "researcher"
        for by, person in (("researcher", "lead"), ("lead", "outsider"), ("outsider", "nobody")):
            with pytest.raises(RefusedError, match=r"person\.read/who-may"):
                governance.read_person(by, person)
        governance.leave_project("researcher", "sleep")
        with pytest.raises(RefusedError):
            governance.read_person("lead", "researcher")


class TestTheProvider:
    def test_who_is_gone_is_shut_out_until_known_again(self, sleep):
        governance = sleep.governance
        governance.gone_person(HUB, "researcher", True)
        assert governance.person("researcher").gone
        with pytest.raises(RefusedError, match="removed-at-provider"):
            governance.may_open("researcher", "sleep")
        before = sleep.events()
        governance.gone_person(HUB, "researcher", True)
        assert sleep.events() == before, "nothing changed, nothing written"
        governance.gone_person(HUB, "researcher", False)
        assert governance.may_open("researcher", "sleep")

    def test_a_login_says_that_they_are_back(self, sleep):
        sleep.governance.gone_person(HUB, "lead", True)
        told = Person(subject="lead", display_name="Lead", email="lead@example.org")
        assert not sleep.governance.login("lead", told).gone

    @pytest.mark.parametrize("by", ["admin", "custodian", "researcher", OPERATOR])
    def test_only_the_hub_tells(self, sleep, by):
        with pytest.raises(RefusedError, match=r"person\.gone/who-may"):
            sleep.governance.gone_person(by, "researcher", True)
        with pytest.raises(RefusedError, match=r"role\.follow/who-may"):
            sleep.governance.follow_roles(by, "researcher", {PlatformRole.REVIEWER})

    def test_roles_follow_groups(self, here):
        peopled(here.governance)
        follow = here.governance.follow_roles
        assert follow(HUB, "lead", {PlatformRole.CUSTODIAN, PlatformRole.REVIEWER}).roles == ("custodian", "reviewer")
        before = here.events()
        assert follow(HUB, "lead", {PlatformRole.CUSTODIAN, PlatformRole.REVIEWER}).roles == ("custodian", "reviewer")
        assert here.events() == before, "nothing changed, nothing written"
        assert follow(HUB, "lead", {PlatformRole.REVIEWER}).roles == ("reviewer",)
        assert follow(HUB, "lead", ()).roles == ()

    def test_roles_that_somebody_here_gave_stay(self, here):
        peopled(here.governance)
        assert here.governance.follow_roles(HUB, "auditor", ()).roles == ("auditor",)
        here.governance.follow_roles(HUB, "lead", {PlatformRole.REVIEWER})
        here.governance.add_role("admin", "lead", PlatformRole.REVIEWER)
        assert here.governance.follow_roles(HUB, "lead", ()).roles == ("reviewer",)

    def test_a_role_taken_here_is_given_again_by_the_provider(self, here):
        peopled(here.governance)
        here.governance.follow_roles(HUB, "lead", {PlatformRole.REVIEWER})
        assert here.governance.remove_role("admin", "lead", PlatformRole.REVIEWER).roles == ()
        assert here.governance.follow_roles(HUB, "lead", {PlatformRole.REVIEWER}).roles == ("reviewer",)

    def test_no_group_gives_roles_that_exclude_each_other(self, here):
        peopled(here.governance)
        follow = here.governance.follow_roles
        for person, roles in (
            ("lead", {PlatformRole.CUSTODIAN, PlatformRole.AUDITOR}),
            ("admin", {PlatformRole.CUSTODIAN}),
        ):
            with pytest.raises(RefusedError, match="separate-roles"):
                follow(HUB, person, roles)
        assert here.governance.person("lead").roles == ()
        follow(HUB, "lead", {PlatformRole.AUDITOR})
        assert follow(HUB, "lead", {PlatformRole.CUSTODIAN}).roles == ("custodian",), "one group for another"
        with pytest.raises(RefusedError, match="separate-roles"):
            follow(HUB, "lead", {PlatformRole.AUDITOR, PlatformRole.ADMINISTRATOR})
        assert here.governance.person("lead").roles == (), "what was to go is gone"

    def test_nobody_disabled_is_given_a_role(self, here):
        peopled(here.governance)
        here.governance.disable_person("admin", "lead")
        with pytest.raises(RefusedError, match="not-for-disabled"):
            here.governance.follow_roles(HUB, "lead", {PlatformRole.REVIEWER})

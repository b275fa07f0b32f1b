"""Access at one moment: each condition counts, and the end is the earliest."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import RefusedError
from orchestrator.governance import access
from orchestrator.governance.access import ACCESS_RULES, Standing, why_not, why_stop
from orchestrator.governance.service import Governance
from orchestrator.governance.states import MembershipState, ProjectState
from orchestrator.terms import PermitTerms, SessionClaim
from tests.unit.governance.places import DAY, START, Shelf, create, draft

PERMIT = PermitTerms(version=3, tables=draft().tables, valid_from=START, valid_until=START + 20 * DAY)
NOW = START + 10 * DAY
GOOD = Standing(
    person_disabled=False,
    person_gone=False,
    terms_accepted=True,
    training_until=START + 300 * DAY,
    training_required=True,
    consent_missing=False,
    membership=MembershipState.ACTIVE,
    membership_ends=START + 30 * DAY,
    review_due=None,
    project=ProjectState.ACTIVE,
    project_starts=START,
    project_ends=START + 40 * DAY,
    permit=PERMIT,
)

BROKEN = {
    "person-disabled": {"person_disabled": True},
    "not-a-member": {"membership": None, "membership_ends": None},
    "removed-at-provider": {"person_gone": True},
    "membership-invited": {"membership": MembershipState.INVITED},
    "membership-requested": {"membership": MembershipState.REQUESTED},
    "membership-suspended": {"membership": MembershipState.SUSPENDED},
    "membership-ended": {"membership": MembershipState.ENDED},
    "project-over": {"project_ends": NOW},
    "membership-expired": {"membership_ends": NOW},
    "membership-not-reviewed": {"review_due": NOW},
    "external-not-agreed": {"consent_missing": True},
    "terms-not-accepted": {"terms_accepted": False},
    "no-training": {"training_until": None},
    "training-expired": {"training_until": NOW},
    "project-draft": {"project": ProjectState.DRAFT},
    "project-suspended": {"project": ProjectState.SUSPENDED},
    "project-closed": {"project": ProjectState.CLOSED},
    "project-deleted": {"project": ProjectState.DELETED},
    "project-not-started": {"project_starts": NOW + timedelta(seconds=1)},
    "no-permit": {"permit": None},
    "permit-not-yet-valid": {"permit": PERMIT.model_copy(update={"valid_from": NOW + timedelta(seconds=1)})},
    "permit-expired": {"permit": PERMIT.model_copy(update={"valid_until": NOW})},
}


def test_all_good():
    assert why_not(GOOD, NOW) is None
    assert why_stop(GOOD, 3, NOW) is None
    assert GOOD.ends_at == START + 20 * DAY


def test_every_rule_has_its_case():
    assert [rule.code for rule in ACCESS_RULES] == list(BROKEN)


@pytest.mark.parametrize("code", BROKEN)
def test_each_condition_is_named(code):
    standing = replace(GOOD, **BROKEN[code])
    assert why_not(standing, NOW).code == code
    assert why_stop(standing, 3, NOW).code == code


@pytest.mark.parametrize("code", BROKEN)
def test_negative_control_without_its_rule_the_condition_is_not_seen(code):
    standing = replace(GOOD, **BROKEN[code])
    fewer = [rule for rule in ACCESS_RULES if rule.code != code]
    assert why_not(standing, NOW, fewer) is None


@given(moments=st.lists(st.integers(1, 60), min_size=5, max_size=5), at=st.integers(0, 80), required=st.booleans())
def test_access_ends_at_the_earliest_end(moments, at, required):
    project, member, permit, review, training = ends = [START + days * DAY for days in moments]
    standing = replace(
        GOOD,
        project_ends=project,
        membership_ends=member,
        permit=PERMIT.model_copy(update={"valid_until": permit}),
        review_due=review,
        training_until=training,
        training_required=required,
    )
    assert standing.ends_at == min(ends if required else ends[:-1])
    now = START + at * DAY
    assert (why_not(standing, now) is None) == (now < standing.ends_at)


def test_a_superseded_version_stops():
    assert why_stop(GOOD, 2, NOW).code == "permit-replaced"


class TestInTheStore:
    def claim(self, grant, **changes):
        values = {
            "session": grant.session,
            "person": grant.person,
            "project_id": grant.project_id,
            "permit_version": grant.permit.version,
        }
        return SessionClaim(**{**values, **changes})

    def test_a_grant_says_what_is(self, sleep):
        grant = sleep.governance.may_open("researcher", "sleep")
        assert (grant.person, grant.project, grant.permit.version) == ("researcher", "sleep", 1)
        assert grant.ends_at == START + 100 * DAY
        assert grant.display_name == "Researcher"
        assert grant.session != sleep.governance.may_open("researcher", "sleep").session

    @pytest.mark.parametrize("who", ["outsider", "custodian", "admin", "auditor", "nobody"])
    def test_no_office_opens_a_workspace(self, sleep, who):
        with pytest.raises(RefusedError, match="not-a-member"):
            sleep.governance.may_open(who, "sleep")

    def test_a_project_that_is_not_there_is_refused_in_the_same_words(self, sleep):
        with pytest.raises(RefusedError) as foreign:
            sleep.governance.may_open("outsider", "sleep")
        with pytest.raises(RefusedError) as absent:
            sleep.governance.may_open("outsider", "never")
        assert str(foreign.value) == str(absent.value)

    @pytest.mark.parametrize(
        ("act", "code"),
        [
            (lambda g: g.suspend_project("admin", "sleep"), "project-suspended"),
            (lambda g: g.close_project("lead", "sleep"), "project-closed"),
            (lambda g: g.suspend_membership("lead", "sleep", "researcher"), "membership-suspended"),
            (lambda g: g.leave_project("researcher", "sleep"), "membership-ended"),
            (lambda g: g.revoke_permit("custodian", "sleep", 1), "no-permit"),
            (lambda g: g.disable_person("admin", "researcher"), "person-disabled"),
        ],
    )
    def test_a_decision_stops_what_runs_and_what_would_start(self, sleep, act, code):
        claim = self.claim(sleep.governance.may_open("researcher", "sleep"))
        assert sleep.governance.check_sessions([claim])[0].allowed
        act(sleep.governance)
        verdict = sleep.governance.check_sessions([claim])[0]
        assert not verdict.allowed
        assert verdict.reason.startswith(code)
        with pytest.raises(RefusedError, match=code):
            sleep.governance.may_open("researcher", "sleep")

    def test_a_new_permit_version_stops_sessions_under_the_old(self, sleep):
        claim = self.claim(sleep.governance.may_open("researcher", "sleep"))
        sleep.governance.draft_permit("lead", "sleep", draft("age"))
        assert sleep.governance.check_sessions([claim])[0].allowed, "a draft means nothing"
        sleep.governance.approve_permit("custodian", "sleep", 2)
        verdict = sleep.governance.check_sessions([claim])[0]
        assert verdict.reason.startswith("permit-replaced")
        assert sleep.governance.may_open("researcher", "sleep").permit.version == 2

    def test_expiry_needs_no_decision(self, sleep):
        claim = self.claim(sleep.governance.may_open("researcher", "sleep"))
        sleep.clock.pass_(99.9)
        assert sleep.governance.check_sessions([claim])[0].allowed
        sleep.clock.pass_(0.1)
        assert sleep.governance.check_sessions([claim])[0].reason.startswith("membership-expired")

    def test_claims_are_answered_in_order_and_unknown_ones_stop(self, sleep):
        grant = sleep.governance.may_open("researcher", "sleep")
        claims = [
            self.claim(grant, session="a" * 32, person="nobody"),
            self.claim(grant),
            self.claim(grant, session="b" * 32, project_id="f" * 32),
            self.claim(grant, session="c" * 32, person="outsider"),
        ]
        verdicts = sleep.governance.check_sessions(claims)
        assert [(one.session, one.allowed) for one in verdicts] == [
            ("a" * 32, False),
            (grant.session, True),
            ("b" * 32, False),
            ("c" * 32, False),
        ]

    def test_cards(self, sleep):
        create(sleep.governance, "asleep", lead="researcher")
        cards = sleep.governance.projects_of("researcher")
        assert [(card.slug, card.may_open) for card in cards] == [("asleep", False), ("sleep", True)]
        assert cards[0].why_not.code == "membership-requested"
        assert cards[0].permit is None
        table = cards[1].permit.tables[0]
        assert table.title == {"en": "Visits"}
        assert [(column.name, column.type) for column in table.columns] == [("age", "number"), ("docvis", "number")]

    def test_cards_outlive_their_dataset(self, sleep, monkeypatch):
        monkeypatch.setattr(Shelf, "tables", {})
        table = sleep.governance.projects_of("researcher")[0].permit.tables[0]
        assert (table.title, table.columns[0].name, table.columns[0].type) == ("visits", "age", "")

    def test_negative_control_without_access_rules_a_suspended_project_opens(self, sleep):
        sleep.governance.suspend_project("admin", "sleep")
        lax = Governance(sleep.store, sleep.audit, sleep.clock, Shelf(), access_rules=())
        assert lax.may_open("researcher", "sleep")


def test_readable_forms():
    from orchestrator.governance.sessions import readable_condition, readable_transform
    from orchestrator.terms import ColumnPermit, RowCondition

    assert readable_transform(ColumnPermit(name="age", transform="band", parameter=5)) == "band 5"
    assert readable_transform(ColumnPermit(name="day", transform="year")) == "year"
    assert readable_transform(ColumnPermit(name="age")) is None
    assert readable_condition(RowCondition(column="age", operator=">=", value=40)) == "age >= 40"
    assert readable_condition(RowCondition(column="sex", operator="in", value=("f", "m"))) == "sex in f, m"
    assert readable_condition(RowCondition(column="died", operator="is-null")) == "died is-null"
    assert access.UNKNOWN.code == "not-a-member"

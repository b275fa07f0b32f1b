"""The tables are complete, say what the documentation says, and each entry of them counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import RefusedError
from orchestrator.governance import desk, states
from orchestrator.governance.identity import HUB, NODE, OPERATOR
from orchestrator.governance.rules import TABLE, Action, Fact, judge, printed_table
from orchestrator.governance.states import (
    FIRST,
    TRANSITIONS,
    ApplicationState,
    MembershipState,
    PermitState,
    PlatformRole,
    ProjectState,
    check_transition,
    printed_diagrams,
    printed_transitions,
)

DOCUMENT = Path(__file__).parents[3] / "docs" / "governance.md"
FACTS = st.frozensets(st.sampled_from(Fact))


def test_every_action_has_a_row_with_somebody_who_may():
    assert set(TABLE) == set(Action)
    assert all(rule.may for rule in TABLE.values())
    assert all(Fact.DISABLED in rule.may_not for rule in TABLE.values())
    assert all(not rule.may & rule.may_not or rule.may > rule.may_not for rule in TABLE.values())


def test_an_action_without_a_row_is_refused():
    verdict = judge(Action.PERMIT_APPROVE, {Fact.CUSTODIAN}, MappingProxyType({}))
    assert (verdict.allowed, verdict.rule) == (False, "permit.approve/no-rule")


@given(action=st.sampled_from(Action), facts=FACTS)
def test_one_allowing_fact_is_needed_and_one_forbidding_is_enough(action, facts):
    verdict = judge(action, facts)
    rule = TABLE[action]
    assert verdict.allowed == (bool(facts & rule.may) and not facts & rule.may_not)
    assert verdict.rule.startswith(f"{action}/")
    if verdict.allowed:
        verdict.raise_if_refused()
    else:
        with pytest.raises(RefusedError, match=verdict.rule):
            verdict.raise_if_refused()


@given(action=st.sampled_from(Action), facts=FACTS)
def test_a_disabled_person_does_nothing(action, facts):
    assert not judge(action, facts | {Fact.DISABLED}).allowed


DATA = {
    Action.MEMBER_APPROVE,
    Action.MEMBER_INVITE,
    Action.MEMBER_CONSENT,
    Action.MEMBER_CONFIRM,
    Action.LEAD_APPOINT,
    Action.LEAD_CONFIRM,
    Action.PERMIT_DRAFT,
    Action.PERMIT_APPROVE,
    Action.APPLICATION_CHECK,
    Action.APPLICATION_APPROVE,
    Action.PROJECT_ACTIVATE,
    Action.PROJECT_RESUME,
}


@given(action=st.sampled_from(sorted(DATA)), facts=FACTS)
def test_an_administrator_gets_nothing_by_being_one(action, facts):
    without = judge(action, facts - {Fact.ADMINISTRATOR, Fact.OPERATOR, Fact.HUB})
    assert judge(action, facts).allowed == without.allowed


@pytest.mark.parametrize(
    ("action", "fact", "rule"),
    [
        (Action.MEMBER_APPROVE, Fact.SELF, "member.approve/not-self"),
        (Action.MEMBER_APPROVE, Fact.FOR_PERMIT_APPROVER, "member.approve/not-for-permit-approver"),
        (Action.LEAD_APPOINT, Fact.SELF, "lead.appoint/not-self"),
        (Action.LEAD_APPOINT, Fact.FOR_LEAD_APPOINTER, "lead.appoint/not-for-lead-appointer"),
        (Action.PERMIT_APPROVE, Fact.DRAFTER, "permit.approve/not-drafter"),
        (Action.PERMIT_APPROVE, Fact.INVOLVED, "permit.approve/not-involved"),
        (Action.ROLE_ADD, Fact.SELF, "role.add/not-self"),
        (Action.PROJECT_CREATE, Fact.SELF, "project.create/not-self"),
        (Action.PROJECT_ACTIVATE, Fact.INVOLVED, "project.activate/not-involved"),
    ],
)
def test_verdicts_name_the_rule(action, fact, rule):
    able = set(TABLE[action].may)
    assert judge(action, able).allowed
    assert judge(action, able | {fact}).rule == rule


def test_the_emergency_stop_is_open_to_both_offices_whatever_else_holds():
    for office in (Fact.CUSTODIAN, Fact.ADMINISTRATOR):
        assert judge(Action.PROJECT_SUSPEND, set(Fact) - {Fact.DISABLED} | {office}).allowed


def test_transitions_are_complete():
    kinds = (ProjectState, ApplicationState, MembershipState, PermitState)
    assert tuple(TRANSITIONS) == kinds
    for kind in kinds:
        assert set(TRANSITIONS[kind]) == set(kind)
        assert all(type(to) is kind for becomes in TRANSITIONS[kind].values() for to in becomes)
        assert all(state not in becomes for state, becomes in TRANSITIONS[kind].items())


@pytest.mark.parametrize("kind", list(TRANSITIONS))
def test_only_transitions_of_the_table_pass(kind):
    for current in kind:
        for wanted in kind:
            if wanted in TRANSITIONS[kind][current]:
                check_transition("it", current, wanted)
            else:
                with pytest.raises(RefusedError, match=f"is '{current}' and cannot become '{wanted}'"):
                    check_transition("it", current, wanted)


def test_states_of_two_kinds_do_not_mix():
    with pytest.raises(RefusedError):
        check_transition("it", ProjectState.SUSPENDED, MembershipState.ACTIVE)


def test_every_state_can_be_reached_and_final_ones_are_final():
    for kind in TRANSITIONS:
        reached, more = set(FIRST[kind]), list(FIRST[kind])
        while more:
            for state in TRANSITIONS[kind][more.pop()] - reached:
                reached.add(state)
                more.append(state)
        assert reached == set(kind)
    assert TRANSITIONS[ProjectState][ProjectState.CLOSED] == {ProjectState.DELETED}
    assert not TRANSITIONS[ProjectState][ProjectState.DELETED]
    assert not TRANSITIONS[PermitState][PermitState.REVOKED]


def test_negative_control_an_arrow_that_is_not_in_the_table_is_seen(monkeypatch):
    more = {**TRANSITIONS[PermitState], PermitState.REVOKED: frozenset({PermitState.APPROVED})}
    monkeypatch.setitem(TRANSITIONS, PermitState, more)
    for printed in (printed_transitions, printed_diagrams):
        assert printed() not in DOCUMENT.read_text(encoding="utf-8")


def test_incompatible_roles_are_pairs():
    assert all(len(pair) == 2 for pair in states.INCOMPATIBLE_ROLES)


@pytest.mark.parametrize("printed", [printed_table, printed_transitions, printed_diagrams])
def test_the_documentation_holds_the_tables(printed):
    assert printed() in DOCUMENT.read_text(encoding="utf-8"), "print it into docs/governance.md"


#: who somebody is → what the rules know of them
ROLES = {
    "operator": {Fact.OPERATOR},
    "hub": {Fact.HUB},
    "node agent": {Fact.NODE},
    "authority": {Fact.AUTHORITY},
    "administrator": {Fact.PERSON, Fact.ADMINISTRATOR},
    "custodian": {Fact.PERSON, Fact.CUSTODIAN},
    "reviewer": {Fact.PERSON, Fact.REVIEWER},
    "auditor": {Fact.PERSON, Fact.AUDITOR},
    "lead": {Fact.PERSON, Fact.INVOLVED, Fact.LEAD, Fact.MEMBERS_LEAD},
    "last lead": {Fact.PERSON, Fact.INVOLVED, Fact.LEAD, Fact.LAST_LEAD, Fact.MEMBERS_LEAD},
    "past lead": {Fact.PERSON, Fact.INVOLVED, Fact.PAST_LEAD},
    "member": {Fact.PERSON, Fact.INVOLVED, Fact.MEMBER},
    "who asked": {Fact.PERSON, Fact.INVOLVED},
    "oneself": {Fact.PERSON, Fact.SELF},
    "applicant": {Fact.PERSON, Fact.APPLICANT},
    "drafter": {Fact.PERSON, Fact.DRAFTER},
    "stranger": {Fact.PERSON},
}
#: written beside the table, not from it: who reads what
READERS = {
    Action.PERSON_READ: {"operator", "administrator", "custodian", "auditor", "lead", "last lead", "oneself"},
    Action.PEOPLE_READ: {"operator", "administrator", "custodian", "auditor"},
    Action.PROJECT_READ: {
        *("operator", "administrator", "custodian", "reviewer", "auditor"),
        *("lead", "last lead", "past lead", "member"),
    },
    Action.PROJECTS_READ: {"operator", "administrator", "custodian", "reviewer", "auditor"},
    Action.APPLICATION_READ: {"operator", "custodian", "auditor", "lead", "last lead", "past lead", "applicant"},
    Action.CATALOGUE_READ: set(ROLES) - {"hub", "node agent", "authority"},
    Action.AUDIT_READ: {"operator", "auditor"},
    Action.HEALTH_READ: {"operator", "administrator", "auditor"},
    Action.USAGE_READ: {
        *("operator", "administrator", "custodian", "auditor"),
        *("lead", "last lead", "oneself"),
    },
}
READS = [action for action in Action if action.name.endswith("_READ")]


def test_every_reading_is_in_the_table_of_readers():
    assert list(READERS) == READS


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("action", READS)
def test_who_reads_what(action, role):
    facts = ROLES[role]
    assert judge(action, facts).allowed == (role in READERS[action])
    assert not judge(action, facts | {Fact.DISABLED}).allowed


@pytest.mark.parametrize(("action", "fact"), [(action, fact) for action in READS for fact in sorted(TABLE[action].may)])
def test_negative_control_each_entry_of_a_reading_counts(action, fact):
    """Taken away, somebody who reads does not any more; so no entry stands there for nothing."""
    table = {**TABLE, action: replace(TABLE[action], may=TABLE[action].may - {fact})}
    assert {role for role, facts in ROLES.items() if judge(action, facts, table).allowed} < READERS[action]


@pytest.mark.parametrize("action", READS)
def test_negative_control_a_reading_open_to_one_more_is_seen(action):
    for fact in set(Fact) - TABLE[action].may - {Fact.DISABLED}:
        table = {**TABLE, action: replace(TABLE[action], may=TABLE[action].may | {fact})}
        reads = {role for role, facts in ROLES.items() if judge(action, facts, table).allowed}
        held = [role for role, facts in ROLES.items() if fact in facts]
        assert not held or reads > READERS[action] or set(held) <= READERS[action]


class TestInTheStore:
    """The facts as they are found, for each role, in a project that runs."""

    #: person → what they may read of project "sleep", of whom is in it, and of others
    MAY: ClassVar = {
        "custodian": {"person", "people", "project", "projects"},
        "admin": {"person", "people", "project", "projects", "health"},
        "auditor": {"person", "people", "project", "projects", "audit", "health"},
        "reviewer": {"project", "projects"},
        "lead": {"person", "project"},
        "researcher": {"person", "project"},
        "asked": set(),
        "invited": set(),
        "left": set(),
        "outsider": set(),
        OPERATOR: {"person", "people", "project", "projects", "audit", "health"},
        HUB: set(),
        NODE: set(),
    }

    @pytest.fixture
    def full(self, sleep):
        governance = sleep.governance
        for name in ("reviewer", "asked", "invited", "left"):
            governance.add_person(OPERATOR, name, name)
        governance.add_role("admin", "reviewer", PlatformRole.REVIEWER)
        governance.request_membership("asked", "sleep", "asked")
        governance.invite_member("lead", "sleep", "invited")
        governance.request_membership("left", "sleep", "left")
        governance.leave_project("left", "sleep")
        return sleep

    def test_what_each_role_reads(self, full):
        governance = full.governance
        reads = {
            "person": lambda session, by: {"action": Action.PERSON_READ, "person": "researcher"},
            "people": lambda session, by: {"action": Action.PEOPLE_READ},
            "project": lambda session, by: {
                "action": Action.PROJECT_READ,
                "project": desk.project_named(session, "sleep"),
            },
            "projects": lambda session, by: {"action": Action.PROJECTS_READ},
            "audit": lambda session, by: {"action": Action.AUDIT_READ},
            "health": lambda session, by: {"action": Action.HEALTH_READ},
        }
        with full.store.read() as session:
            found = {
                by: {what for what, asked in reads.items() if governance._may_read(session, by, **asked(session, by))}
                for by in self.MAY
            }
        assert found == self.MAY

    def test_a_stranger_reads_nothing(self, full):
        with full.store.read() as session, pytest.raises(RefusedError, match="not a person known here"):
            full.governance._may_read(session, "nobody", Action.CATALOGUE_READ)

"""The tables are complete, say what the documentation says, and each entry of them counts."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import RefusedError
from orchestrator.governance import states
from orchestrator.governance.rules import TABLE, Action, Fact, judge, printed_table
from orchestrator.governance.states import (
    FIRST,
    TRANSITIONS,
    ApplicationState,
    MembershipState,
    PermitState,
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
    Action.LEAD_APPOINT,
    Action.PERMIT_DRAFT,
    Action.PERMIT_APPROVE,
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

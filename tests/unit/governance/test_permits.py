from __future__ import annotations

import pytest

from orchestrator.config import Policy
from orchestrator.errors import BulleError, InputError, NotFoundError, RefusedError
from orchestrator.governance.identity import OPERATOR
from orchestrator.governance.permits import PermitDraft
from orchestrator.governance.service import Governance
from orchestrator.governance.signatures import terms_digest
from orchestrator.governance.states import MembershipState, PermitState
from tests.unit.governance.places import DAY, START, Shelf, draft


def states(governance) -> dict[int, PermitState]:
    return {one.version: one.state for one in governance.permits("sleep")}


def test_versions_follow_each_other(sleep):
    governance = sleep.governance
    assert governance.draft_permit("lead", "sleep", draft("age")) == 2
    assert governance.draft_permit("custodian", "sleep", draft("sex")) == 3
    assert governance.permit("sleep", 2).terms.version == 2
    governance.approve_permit("custodian2", "sleep", 3)
    assert states(governance) == {1: "superseded", 2: "draft", 3: "approved"}
    governance.revoke_permit("lead", "sleep", 3)
    assert states(governance) == {1: "superseded", 2: "draft", 3: "revoked"}
    with pytest.raises(RefusedError, match="cannot become 'approved'"):
        governance.approve_permit("custodian", "sleep", 1)


def test_who_drafts(sleep):
    for by in ("researcher", "outsider", "admin", OPERATOR):
        with pytest.raises(RefusedError, match=r"permit\.draft"):
            sleep.governance.draft_permit(by, "sleep", draft())
    assert list(states(sleep.governance)) == [1]


def test_who_approves(sleep):
    governance = sleep.governance
    governance.draft_permit("custodian", "sleep", draft("age"))
    for by in ("lead", "researcher", "admin", OPERATOR):
        with pytest.raises(RefusedError, match=r"permit\.approve/(who-may|not-involved)"):
            governance.approve_permit(by, "sleep", 2)
    with pytest.raises(RefusedError, match=r"permit\.approve/not-drafter"):
        governance.approve_permit("custodian", "sleep", 2)
    governance.approve_permit("custodian2", "sleep", 2)


@pytest.mark.parametrize("state", [MembershipState.REQUESTED, MembershipState.ACTIVE, MembershipState.SUSPENDED])
def test_a_custodian_in_the_project_approves_none_of_its_permits(sleep, state):
    governance = sleep.governance
    governance.request_membership("custodian2", "sleep", "custodian2")
    if state is not MembershipState.REQUESTED:
        governance.approve_membership("lead", "sleep", "custodian2")
    if state is MembershipState.SUSPENDED:
        governance.suspend_membership("lead", "sleep", "custodian2")
    governance.draft_permit("lead", "sleep", draft("age"))
    with pytest.raises(RefusedError, match="not-involved"):
        governance.approve_permit("custodian2", "sleep", 2)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (draft("height"), "no column 'height'"),
        (draft("age", "age"), "column 'age' stands twice"),
        (PermitDraft(valid_from=START, valid_until=START + DAY, tables=()), "at least one table"),
        (PermitDraft(valid_from=START, valid_until=START + DAY, tables=draft().tables * 2), "stands twice"),
        (PermitDraft(valid_from=START, valid_until=START, tables=draft().tables), "after valid_from"),
        (PermitDraft(valid_from=START - 9 * DAY, valid_until=START, tables=draft().tables), "in the future"),
    ],
)
def test_wrong_terms_leave_nothing(sleep, terms, message):
    with pytest.raises(InputError, match=message):
        sleep.governance.draft_permit("lead", "sleep", terms)
    assert list(states(sleep.governance)) == [1]


def test_terms_are_checked_again_when_approved(sleep, monkeypatch):
    sleep.governance.draft_permit("lead", "sleep", draft("age"))
    with monkeypatch.context() as patch:
        patch.setattr(Shelf, "tables", {})
        with pytest.raises(InputError, match="no table"):
            sleep.governance.approve_permit("custodian", "sleep", 2)
    assert states(sleep.governance) == {1: "approved", 2: "draft"}
    sleep.clock.pass_(201)
    with pytest.raises(InputError, match="in the future"):
        sleep.governance.approve_permit("custodian", "sleep", 2)


def test_a_version_that_is_not_there(sleep):
    with pytest.raises(NotFoundError, match="no permit version 9"):
        sleep.governance.approve_permit("custodian", "sleep", 9)


def test_dates_that_no_calendar_of_ours_has(sleep):
    tables = draft().tables
    for when in (START.replace(year=9999), START.replace(year=1)):
        dates = {"valid_from": min(when, START), "valid_until": max(when, START + DAY)}
        with pytest.raises(InputError, match="must be in the years"):
            sleep.governance.draft_permit("lead", "sleep", PermitDraft(tables=tables, **dates))
    assert list(states(sleep.governance)) == [1]


def test_two_custodians_for_a_permit_where_the_deployment_wants_two(sleep):
    policy = Policy(two_person=("permit.approve",))
    governance = Governance(sleep.store, sleep.audit, sleep.clock, Shelf(), policy)
    governance.draft_permit("lead", "sleep", draft("age"))
    for _ in range(2):
        with pytest.raises(BulleError):
            governance.approve_permit("custodian", "sleep", 2)
    assert states(governance)[2] is PermitState.DRAFT
    governance.approve_permit("custodian2", "sleep", 2)
    assert states(governance) == {1: "superseded", 2: "approved"}


def test_what_is_decided_names_the_terms_exactly(sleep, monkeypatch):
    """What two people must agree on, and what is signed, is the digest of every table, column, condition and date."""
    decided = []
    real = Governance._decide

    def keep(governance, change, project=None, **content):
        decided.append(content)
        real(governance, change, project, **content)

    monkeypatch.setattr(Governance, "_decide", keep)
    sleep.governance.draft_permit("lead", "sleep", draft("age"))
    sleep.governance.draft_permit("lead", "sleep", draft("sex"))
    sleep.governance.approve_permit("custodian", "sleep", 2)
    sleep.governance.approve_permit("custodian", "sleep", 3)
    terms = [sleep.governance.permit("sleep", version).terms for version in (2, 3)]
    assert [one["permit"] for one in decided] == [terms_digest(one) for one in terms]
    assert decided[0]["permit"] != decided[1]["permit"]

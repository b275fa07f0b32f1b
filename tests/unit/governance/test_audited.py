"""No change without its record; a change that fails says so; two at once exclude each other."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from orchestrator.errors import (
    AuditError,
    BulleError,
    ConflictError,
    InputError,
    UnavailableError,
)
from orchestrator.governance import desk
from orchestrator.governance.identity import HUB
from orchestrator.governance.service import Governance
from orchestrator.governance.states import PlatformRole
from orchestrator.governance.store import Base, Store
from orchestrator.terms import Outcome
from tests.unit.governance.places import Kept, Shelf, create, draft, peopled


class Full(Kept):
    """A log that cannot be written when an event has this outcome."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome

    def record(self, event):
        if event.outcome is self.outcome:
            raise AuditError("the disk is full")
        return super().record(event)


def state(store: Store) -> list:
    with store.read() as session:
        return [list(session.execute(text(f"SELECT * FROM {table.name}"))) for table in Base.metadata.sorted_tables]


CHANGES = {
    "person.add": lambda g: g.add_person("admin", "new", "New"),
    "person.describe": lambda g: g.describe_person("admin", "outsider", True, "Another Hospital"),
    "person.gone": lambda g: g.gone_person(HUB, "outsider", True),
    "role.follow": lambda g: g.follow_roles(HUB, "outsider", {PlatformRole.REVIEWER}),
    "training.declare": lambda g: g.declare_training("outsider", "Another", g.now().date()),
    "person.disable": lambda g: g.disable_person("admin", "outsider"),
    "role.add": lambda g: g.add_role("admin", "outsider", "reviewer"),
    "role.remove": lambda g: g.remove_role("admin", "auditor", "auditor"),
    "project.create": lambda g: create(g, "other"),
    "project.suspend": lambda g: g.suspend_project("admin", "sleep"),
    "project.close": lambda g: g.close_project("custodian", "sleep"),
    "member.request": lambda g: g.request_membership("outsider", "sleep", "outsider"),
    "member.invite": lambda g: g.invite_member("lead", "sleep", "outsider"),
    "member.approve": lambda g: g.approve_membership("lead", "sleep", "researcher", g.project("sleep").ends),
    "member.confirm": lambda g: g.confirm_membership("lead", "sleep", "researcher"),
    "lead.confirm": lambda g: g.confirm_membership("custodian", "sleep", "lead"),
    "member.leave": lambda g: g.leave_project("researcher", "sleep"),
    "member.suspend": lambda g: g.suspend_membership("lead", "sleep", "researcher"),
    "member.end": lambda g: g.end_membership("lead", "sleep", "researcher"),
    "lead.appoint": lambda g: g.approve_membership("custodian", "sleep", "lead", g.project("sleep").ends),
    "permit.draft": lambda g: g.draft_permit("lead", "sleep", draft("age")),
    "permit.revoke": lambda g: g.revoke_permit("lead", "sleep", 1),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_started_then_done(sleep, kind):
    before = len(sleep.events())
    CHANGES[kind](sleep.governance)
    assert sleep.events()[before:] == [(kind, "started"), (kind, "done")]


@pytest.mark.parametrize("kind", CHANGES)
def test_if_the_log_cannot_be_written_nothing_changes(sleep, kind):
    before = state(sleep.store)
    mute = Governance(sleep.store, Full(Outcome.STARTED), sleep.clock, Shelf())
    with pytest.raises(AuditError):
        CHANGES[kind](mute)
    assert state(sleep.store) == before


def test_negative_control_without_the_log_first_the_change_stays(sleep, monkeypatch):
    before = state(sleep.store)
    mute = Governance(sleep.store, Full(Outcome.STARTED), sleep.clock, Shelf())
    real = desk.Change.event

    def later(change, outcome, reason=None):
        # As if the commit came first: what is recorded before it is taken away.
        return real(change, Outcome.DONE if outcome is Outcome.STARTED else outcome, reason)

    monkeypatch.setattr(desk.Change, "event", later)
    CHANGES["permit.revoke"](mute)
    assert state(sleep.store) != before


def test_a_store_that_does_not_commit_is_a_failed_event(sleep, monkeypatch):
    before = state(sleep.store)

    def fail(session):
        raise UnavailableError("the governance store does not answer: disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Session, "commit", fail)
        with pytest.raises(UnavailableError):
            CHANGES["permit.revoke"](sleep.governance)
    assert sleep.events()[-2:] == [("permit.revoke", "started"), ("permit.revoke", "failed")]
    assert state(sleep.store) == before


def test_a_refusal_names_its_rule_in_the_log(sleep):
    with pytest.raises(BulleError):
        sleep.governance.approve_permit("researcher", "sleep", 1)
    record = list(sleep.audit.read())[-1]
    assert (record.event.kind, record.event.outcome, record.event.actor) == ("permit.approve", "refused", "researcher")
    assert "permit.approve/" in record.event.detail["reason"]


def test_wrong_input_changes_and_writes_nothing(sleep):
    before = (state(sleep.store), sleep.events())
    with pytest.raises(InputError):
        sleep.governance.draft_permit("lead", "sleep", draft("height"))
    assert (state(sleep.store), sleep.events()) == before


def at_once(*acts) -> list[BulleError | None]:
    gate, results = threading.Barrier(len(acts)), [None] * len(acts)

    def run(number, act):
        gate.wait()
        try:
            act()
        except BulleError as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(acts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_two_approvals_at_once(sleep):
    governance = sleep.governance
    governance.draft_permit("lead", "sleep", draft("age"))
    governance.draft_permit("lead", "sleep", draft("sex"))
    at_once(
        lambda: governance.approve_permit("custodian", "sleep", 2),
        lambda: governance.approve_permit("custodian2", "sleep", 3),
        lambda: governance.approve_permit("custodian", "sleep", 3),
    )
    assert [one.state for one in governance.permits("sleep")].count("approved") == 1


def test_the_same_at_once_happens_once(sleep):
    governance = sleep.governance
    results = at_once(*[lambda: governance.request_membership("outsider", "sleep", "outsider")] * 4)
    assert sorted(type(one).__name__ for one in results) == ["ConflictError"] * 3 + ["NoneType"]
    results = at_once(*[lambda: governance.approve_membership("lead", "sleep", "outsider")] * 3)
    assert sum(one is None for one in results) == 1
    results = at_once(*[lambda: create(governance, "another")] * 3)
    assert sum(one is None for one in results) == 1
    versions = at_once(*[lambda: governance.draft_permit("lead", "sleep", draft("age"))] * 3)
    assert versions == [None] * 3
    assert [one.version for one in governance.permits("sleep")] == [1, 2, 3, 4]


def test_the_database_itself_allows_one_approved_version(sleep):
    sleep.governance.draft_permit("lead", "sleep", draft("age"))
    with pytest.raises(ConflictError), sleep.store.write() as session:
        session.execute(text("UPDATE permit SET state = 'approved'"))
        session.commit()


def test_reads_do_not_take_the_write_lock(sleep):
    with sleep.store.write() as session:
        session.execute(text("UPDATE person SET email = 'x'"))
        assert sleep.governance.person("lead").email == "lead@example.org"


def test_people_are_listed(here):
    peopled(here.governance)
    assert len(here.governance.persons()) == 7

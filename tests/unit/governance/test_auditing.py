"""Reading the audit log: by whom, what of it, and that it is written down who read."""

from __future__ import annotations

import inspect
from datetime import timedelta

import pytest

from orchestrator.audit import Filters
from orchestrator.errors import AuditError, NotFoundError, RefusedError, UnavailableError
from orchestrator.governance import auditing
from orchestrator.governance.auditing import ACTIVITY_DETAIL, ACTIVITY_KINDS, MOST
from orchestrator.governance.identity import OPERATOR
from orchestrator.governance.rules import Action
from orchestrator.governance.service import Governance
from orchestrator.governance.sparsely import Sparsely
from orchestrator.terms import Event, Outcome
from tests.unit.governance.places import Kept, Shelf


def readings(place):
    return [record.event for record in place.audit.read() if record.event.kind == "audit.read"]


def told(place, kind="session.login", **fields):
    place.audit.record(Event(kind=kind, actor="hub", outcome=Outcome.DONE, **fields))


# -- the log ----------------------------------------------------------------------------------------------------
def test_an_auditor_reads_all_of_it_newest_first(sleep):
    page = sleep.governance.audit_page("auditor", Filters())
    assert [line.seq for line in page.records] == list(range(len(page.records), 0, -1))
    assert page.before is None
    assert page.records[-1].kind == "audit.open"
    newest = page.records[0]
    assert (newest.kind, newest.actor) == ("audit.read", "auditor"), "the reading itself is there already"


def test_filters_and_pages(sleep):
    every = [record.seq for record in sleep.audit.read(Filters(kind="permit.", project="sleep"))][::-1]
    first = sleep.governance.audit_page("auditor", Filters(kind="permit.", project="sleep"), limit=2)
    assert [line.seq for line in first.records] == every[:2]
    assert first.before == every[1]
    then = sleep.governance.audit_page("auditor", Filters(kind="permit.", project="sleep"), before=first.before)
    assert [line.seq for line in then.records] == every[2:]
    refused = sleep.governance.audit_page("auditor", Filters(outcome=Outcome.REFUSED))
    assert refused.records == ()


def test_no_page_is_larger_than_it_may_be(sleep):
    for number in range(MOST + 5):
        told(sleep, detail={"number": number})
    page = sleep.governance.audit_page("auditor", Filters(), limit=10**6)
    assert len(page.records) == MOST
    assert page.before == page.records[-1].seq


def test_what_root_appends_on_the_command_line_is_there(sleep, folder):
    from orchestrator.audit import AuditLog
    from tests.unit.governance.places import AUDIT_KEY

    sleep.governance.audit_page("auditor", Filters())
    other = AuditLog(folder / "audit", AUDIT_KEY, clock=sleep.clock)
    seq = other.record(Event(kind="dataset.ingest", actor="operator", outcome=Outcome.DONE))
    page = sleep.governance.audit_page("auditor", Filters(kind="dataset."))
    assert [line.seq for line in page.records] == [seq]


@pytest.mark.parametrize("by", ["custodian", "admin", "lead", "researcher", "outsider"])
def test_nobody_else_reads_it_and_the_attempt_is_in_it(sleep, by):
    for _ in range(3):
        with pytest.raises(RefusedError, match=r"audit.read/who-may"):
            sleep.governance.audit_page(by, Filters())
    (event,) = readings(sleep)
    assert (event.actor, event.outcome) == (by, Outcome.REFUSED)


def test_who_reads_it_is_written_down_before_the_answer(sleep, monkeypatch):
    sleep.governance.audit_page("auditor", Filters(person="researcher", outcome=Outcome.REFUSED))
    (event,) = readings(sleep)
    assert (event.actor, event.outcome) == ("auditor", Outcome.DONE)
    assert event.detail == {"person": "researcher", "outcome": "refused"}

    def full(_):
        raise AuditError("the disk is full")

    monkeypatch.setattr(sleep.audit, "record", full)
    monkeypatch.setattr(Governance, "_page", lambda *_: pytest.fail("answered though nobody knows who read"))
    with pytest.raises(AuditError):
        sleep.governance.audit_page("auditor", Filters(person="lead"))


def test_negative_control_without_it_an_auditor_looks_somebody_up_unseen(sleep, monkeypatch):
    monkeypatch.setattr(Governance, "_tell_read", lambda *_, **__: None)
    sleep.governance.audit_page("auditor", Filters(person="researcher"))
    assert readings(sleep) == []


def test_an_export_is_one_record_and_another_question_another(sleep):
    before = None
    for _ in range(5):
        before = sleep.governance.audit_page("auditor", Filters(), limit=3, before=before).before
    assert len(readings(sleep)) == 1
    sleep.governance.audit_page("auditor", Filters(person="lead"))
    sleep.governance.audit_page(OPERATOR, Filters())
    assert [(event.actor, event.detail) for event in readings(sleep)[1:]] == [
        ("auditor", {"person": "lead"}),
        (OPERATOR, {}),
    ]
    sleep.clock.now += timedelta(minutes=1)
    sleep.governance.audit_page("auditor", Filters(), limit=3)
    assert len(readings(sleep)) == 4


def test_negative_control_without_sparing_an_export_fills_the_log(sleep, monkeypatch):
    monkeypatch.setattr(Sparsely, "due", lambda *_: 1)
    for _ in range(5):
        sleep.governance.audit_page("auditor", Filters(), limit=3)
    assert len(readings(sleep)) == 5


def test_a_log_that_was_changed_is_not_shown(sleep, folder):
    path = folder / "audit" / "log.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"actor":"custodian"', b'"actor":"custodiam"', 1))
    with pytest.raises(AuditError, match="run bulle audit verify"):
        sleep.governance.audit_page("auditor", Filters(kind="project.create"))


def test_a_recorder_that_is_no_log_cannot_be_read(here):
    governance = Governance(here.store, Kept(), here.clock, Shelf())
    with pytest.raises(UnavailableError):
        governance.audit_page(OPERATOR, Filters())


# -- a project's activity --------------------------------------------------------------------------------------
def activity(place, by="researcher", **more):
    return place.governance.project_activity(by, "sleep", **more)


def test_a_member_reads_what_happened_to_their_project(sleep):
    lines = activity(sleep).records
    assert [line.kind for line in lines[:3]] == ["member.approve", "member.request", "permit.approve"]
    assert {line.outcome for line in lines} == {"done"}
    assert {line.project for line in lines} == {"sleep"}
    assert lines[0].actor == "lead" and lines[0].person == "researcher"


def test_members_read_nothing_of_workspaces_refusals_and_other_projects(sleep):
    before = activity(sleep)
    told(sleep, "workspace.start", person="lead", project="sleep", session="0" * 32)
    told(sleep, "grant.issue", person="lead", project="sleep")
    told(sleep, "view.build", person="lead", project="sleep")
    told(sleep, "permit.approve", project="other")
    sleep.audit.record(Event(kind="permit.approve", actor="lead", outcome=Outcome.REFUSED, project="sleep"))
    assert activity(sleep) == before


def test_members_read_of_the_detail_only_what_is_theirs(sleep):
    detail = {"version": 4, "reason": "somebody's secret", "subject": "x", "second": "custodian2", "ends": "2027-01-01"}
    told(sleep, "permit.approve", project="sleep", session="0" * 32, detail=detail)
    line = activity(sleep).records[0]
    assert line.detail == {"version": 4, "ends": "2027-01-01"}
    assert line.session is None


def test_negative_controls_of_what_members_read(sleep, monkeypatch):
    told(sleep, "workspace.start", person="lead", project="sleep", detail={"reason": "x"})
    monkeypatch.setattr(auditing, "_for_members", lambda line: line)
    monkeypatch.setattr(auditing, "ACTIVITY_KINDS", {*ACTIVITY_KINDS, "workspace.start"})
    line = activity(sleep).records[0]
    assert (line.kind, line.detail) == ("workspace.start", {"reason": "x"})


def test_it_is_read_by_pages(sleep, monkeypatch):
    monkeypatch.setattr(auditing, "_ACTIVITY", 2)
    every, before = [], None
    while True:
        page = activity(sleep, before=before)
        every += page.records
        assert len(page.records) <= 2
        if (before := page.before) is None:
            break
    monkeypatch.undo()
    assert tuple(every) == activity(sleep).records


@pytest.mark.parametrize("by", ["outsider", "nobody"])
def test_who_may_not_read_the_project_reads_no_activity(sleep, by):
    with pytest.raises(RefusedError):
        activity(sleep, by)


def test_who_was_removed_reads_no_more(sleep):
    sleep.governance.end_membership("lead", "sleep", "researcher")
    with pytest.raises(RefusedError, match=r"project.read/who-may"):
        activity(sleep)
    assert activity(sleep, "lead").records[0].kind == "member.end"


def test_a_project_that_is_not_there(sleep):
    with pytest.raises(NotFoundError):
        sleep.governance.project_activity("auditor", "none")


def test_what_members_see_is_of_projects_and_memberships():
    families = {"application", "project", "member", "lead", "permit", "quota"}
    assert {kind.split(".")[0] for kind in ACTIVITY_KINDS} == families
    of_families = {action for action in Action if action.split(".")[0] in families}
    assert of_families - ACTIVITY_KINDS == {Action.APPLICATION_EDIT, Action.PROJECT_READ, Action.APPLICATION_READ}
    assert not {"reason", "note", "subject", "email"} & ACTIVITY_DETAIL


def test_who_reads_is_an_argument_of_the_call_and_not_of_the_filters():
    assert "by" not in Filters.__dataclass_fields__
    assert list(inspect.signature(Governance.audit_page).parameters)[1] == "by"

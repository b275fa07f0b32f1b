"""Who tells what was used, who reads it, and a quota that stops a start and nothing that runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event, select

from orchestrator.config import Policy, Prices, Quotas
from orchestrator.errors import InputError, NotFoundError, RefusedError
from orchestrator.governance import sessions as sessions_room
from orchestrator.governance.authority import Authority, hub_app, node_app, portal_app
from orchestrator.governance.cards import FolderSize, Machine, NodeReport, SessionUsage
from orchestrator.governance.identity import OPERATOR
from orchestrator.governance.operations.usage import OPERATIONS
from orchestrator.governance.rules import TABLE, Action, Fact, Rule
from orchestrator.governance.store import StorageRow, UsageRow
from orchestrator.governance.usage import QUOTA_USED, VANISHED, Usage
from orchestrator.terms import SessionClaim
from tests.unit.governance.places import GRANT_KEY, START, Place, create

MACHINE = Machine(cpus=8, load=1.5, memory_total_gb=64, memory_free_gb=32, storage_total_gb=1000, storage_free_gb=600)
ONE, TWO = "1" * 32, "2" * 32
MONTH = "2026-01"


def project_id(here: Place, slug: str = "sleep") -> str:
    return here.governance.project(slug).id


def told(here: Place, session: str = ONE, **changes: Any) -> SessionUsage:
    fields: dict[str, Any] = {
        "session": session,
        "month": MONTH,
        "project_id": project_id(here),
        "person": "researcher",
        "began": START,
        "seen": START + timedelta(hours=1),
        "seconds": 3600.0,
        "cpu_seconds": 1800.0,
        "memory_gb_seconds": 7200.0,
    }
    return SessionUsage.model_validate({**fields, **changes})


def report(here: Place, *lines: SessionUsage, folders: tuple[FolderSize, ...] = ()) -> None:
    here.governance.record_usage(NodeReport(machine=MACHINE, sessions=lines, folders=folders))


def rows(here: Place) -> list[UsageRow]:
    with here.store.read() as session:
        found = list(session.scalars(select(UsageRow).order_by(UsageRow.session, UsageRow.month)))
        session.expunge_all()
    return found


@contextmanager
def policy(here: Place, **changes: Any) -> Iterator[None]:
    before = here.governance._policy
    here.governance._policy = before.model_copy(update=changes)
    try:
        yield
    finally:
        here.governance._policy = before


# -- what the node agent tells --------------------------------------------------------------------------------
def test_a_report_that_comes_twice_or_late_changes_nothing(sleep: Place) -> None:
    early, late = told(sleep), told(sleep, seconds=7200.0, cpu_seconds=3600.0, seen=START + timedelta(hours=2))
    for each in (early, late, late, early):
        report(sleep, each)
    (row,) = rows(sleep)
    assert (row.seconds, row.cpu_seconds, row.memory_gb_seconds) == (7200.0, 3600.0, 7200.0)
    assert row.seen == START + timedelta(hours=2) and row.ended is None


def test_a_session_over_the_months_end_has_a_line_in_each(sleep: Place) -> None:
    report(sleep, told(sleep), told(sleep, month="2026-02", seconds=60.0))
    assert [(row.month, row.seconds) for row in rows(sleep)] == [("2026-01", 3600.0), ("2026-02", 60.0)]


def test_a_session_told_of_as_somebody_elses_is_passed_over(sleep: Place) -> None:
    report(sleep, told(sleep))
    report(sleep, told(sleep, person="lead", seconds=99999.0), told(sleep, month="2026-02", person="lead"))
    (row,) = rows(sleep)
    assert (row.person_id, row.seconds) == ("researcher", 3600.0)


def test_lines_of_nobody_and_of_no_project_are_passed_over_and_the_rest_is_kept(sleep: Place) -> None:
    strange = [told(sleep, "3" * 32, person="nobody"), told(sleep, "4" * 32, project_id="f" * 32)]
    report(sleep, *strange, told(sleep), folders=(FolderSize(project_id="f" * 32, bytes_used=1),))
    assert [row.session for row in rows(sleep)] == [ONE]


@pytest.mark.parametrize(
    "changes",
    [{"seconds": -1.0}, {"cpu_seconds": float("nan")}, {"seconds": float("inf")}, {"month": "2026-13"}, {"extra": 1}],
    ids=str,
)
def test_figures_that_are_none_are_refused(sleep: Place, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"validation error"):
        told(sleep, **changes)


def vanished_is_ended(here: Place) -> None:
    report(here, told(here))
    here.clock.pass_(1 / 24)
    report(here)  # one hour later: just heard of
    assert rows(here)[0].ended is None
    here.clock.now += timedelta(minutes=6)
    report(here)
    assert rows(here)[0].ended == START + timedelta(hours=1)


def test_a_session_that_vanished_ends_at_its_last_report(sleep: Place) -> None:
    vanished_is_ended(sleep)
    # It was only the authority that was away: the next report opens it again.
    report(sleep, told(sleep, seen=START + timedelta(hours=2), seconds=7200.0))
    assert rows(sleep)[0].ended is None


def test_storage_is_kept_a_day_the_last_size_of_it(sleep: Place) -> None:
    home = FolderSize(project_id=project_id(sleep), person="researcher", bytes_used=5e9)
    for size in (5e9, 3e9):
        report(sleep, folders=(home.model_copy(update={"bytes_used": size}),))
    sleep.clock.pass_(1)
    report(sleep, folders=(home,))
    with sleep.store.read() as session:
        kept = [(row.day, row.bytes_used) for row in session.scalars(select(StorageRow).order_by(StorageRow.day))]
    assert kept == [("2026-01-01", 3e9), ("2026-01-02", 5e9)]


def apps(here: Place) -> dict[str, TestClient]:
    authority = Authority(here.governance, GRANT_KEY, "trial", embedded_custodian=True)
    made = {"hub": hub_app(authority), "portal": portal_app(authority), "node": node_app(authority)}
    return {name: TestClient(app, raise_server_exceptions=False) for name, app in made.items()}


def only_the_node_writes(here: Place, clients: dict[str, TestClient]) -> None:
    body = NodeReport(machine=MACHINE, sessions=(told(here),)).model_dump(mode="json")
    for name in ("hub", "portal"):
        assert clients[name].post("/v1/usage", json=body).status_code == 404, name
    assert rows(here) == []
    assert clients["node"].post("/v1/usage", json=body).status_code == 204
    assert len(rows(here)) == 1
    assert not any(operation.name.startswith("usage") and not operation.reads for operation in OPERATIONS)


def test_neither_portal_nor_hub_writes_usage(sleep: Place) -> None:
    only_the_node_writes(sleep, apps(sleep))


def test_negative_control_a_portal_with_the_nodes_calls_writes_usage(sleep: Place) -> None:
    clients = apps(sleep)
    with pytest.raises(AssertionError, match="portal"):
        only_the_node_writes(sleep, {**clients, "portal": clients["node"]})


# -- quotas ---------------------------------------------------------------------------------------------------
def quota_stops_a_start(here: Place) -> None:
    assert here.governance.may_open("researcher", "sleep")
    with policy(here, quotas=Quotas(hours=1)):
        report(here, told(here, seconds=3599.0))
        assert here.governance.may_open("researcher", "sleep")
        report(here, told(here, seconds=3600.0))
        with pytest.raises(RefusedError, match=r"quota-used: the project used 1\.00 of 1 hours .* 2026-02-01"):
            here.governance.may_open("lead", "sleep")
        (card,) = here.governance.projects_of("researcher")
        assert not card.may_open and card.why_not is not None and card.why_not.code == QUOTA_USED
        # What runs goes on.
        claim = SessionClaim(session=ONE, person="researcher", project_id=project_id(here), permit_version=1)
        assert here.governance.check_sessions([claim])[0].allowed
        # A new month counts anew.
        here.clock.pass_(31)
        assert here.governance.may_open("researcher", "sleep")


def test_a_quota_that_is_used_up_stops_a_start_and_nothing_that_runs(sleep: Place) -> None:
    quota_stops_a_start(sleep)


def test_negative_control_without_asking_for_quotas_a_start_goes_through(
    sleep: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions_room, "quotas_used", lambda *_: {})
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        quota_stops_a_start(sleep)


@pytest.mark.parametrize(("kind", "most"), [("cpu_hours", 0.5), ("memory_gb_hours", 2.0), ("storage_gb", 5.0)], ids=str)
def test_each_kind_of_quota_stops(sleep: Place, kind: Any, most: float) -> None:
    sizes = (
        FolderSize(project_id=project_id(sleep), person="researcher", bytes_used=3e9),
        FolderSize(project_id=project_id(sleep), bytes_used=2e9),
    )
    report(sleep, told(sleep), folders=sizes)
    sleep.governance.set_quota("custodian", "sleep", kind, most + 0.01)
    assert sleep.governance.may_open("researcher", "sleep")
    sleep.governance.set_quota("custodian", "sleep", kind, most)
    with pytest.raises(RefusedError, match="quota-used"):
        sleep.governance.may_open("researcher", "sleep")
    if kind == "storage_gb":
        report(sleep, folders=(sizes[0].model_copy(update={"bytes_used": 2.9e9}),))
        assert sleep.governance.may_open("researcher", "sleep")
    sleep.governance.set_quota("custodian", "sleep", kind, None)
    assert sleep.governance.may_open("researcher", "sleep")


def test_a_project_does_not_pay_for_another(sleep: Place) -> None:
    create(sleep.governance, "other")
    sleep.governance.activate_project("custodian", "other")
    report(sleep, told(sleep, project_id=project_id(sleep, "other"), person="lead", seconds=1e6))
    with policy(sleep, quotas=Quotas(hours=1)):
        assert sleep.governance.may_open("researcher", "sleep")


def test_who_sets_a_quota_is_not_in_the_project_and_it_is_in_the_log(sleep: Place) -> None:
    governance = sleep.governance
    for person in ("lead", "researcher", "outsider", "auditor"):
        with pytest.raises(RefusedError, match=r"quota\.set"):
            governance.set_quota(person, "sleep", "hours", 1e6)
    for person in ("custodian", "admin"):
        governance.set_quota(person, "sleep", "hours", 3.0)
    governance.set_quota("admin", "sleep", "hours", None)
    with pytest.raises(NotFoundError):
        governance.set_quota("admin", "nothing", "hours", 3.0)
    found = [each for each in sleep.events() if each[0] == "quota.set"]
    assert found.count(("quota.set", "refused")) >= 4 and found.count(("quota.set", "done")) == 3


def test_the_lead_is_told_before_a_quota_is_used_up_and_nobody_else(sleep: Place) -> None:
    def told_of(person: str) -> list[str | None]:
        return [each.project for each in sleep.governance.inbox(person) if each.kind == "quota"]

    with policy(sleep, quotas=Quotas(hours=10)):
        report(sleep, told(sleep, seconds=3600 * 8.9))
        assert told_of("lead") == []
        report(sleep, told(sleep, seconds=3600 * 9.1))
        assert told_of("lead") == ["sleep"]
        assert [told_of(person) for person in ("researcher", "custodian", "admin", "outsider")] == [[]] * 4
        sleep.governance.set_quota("custodian", "sleep", "hours", 20)
        assert told_of("lead") == []


def test_one_question_where_no_quota_is_set(sleep: Place) -> None:
    def questions(quotas: Quotas) -> int:
        asked: list[str] = []

        def count(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
            asked.append(statement)

        with policy(sleep, quotas=quotas):
            event.listen(sleep.store._engine, "before_cursor_execute", count)
            try:
                sleep.governance.may_open("researcher", "sleep")
            finally:
                event.remove(sleep.store._engine, "before_cursor_execute", count)
        return len([each for each in asked if "quota" in each or "usage" in each or "storage" in each])

    assert questions(Quotas()) == 1
    assert questions(Quotas(hours=10)) == 3


# -- reading --------------------------------------------------------------------------------------------------
def lines(here: Place, by: str, project: str | None = None) -> set[tuple[str, str]]:
    return {(each.project, each.person) for each in here.governance.usage(by, MONTH, project).lines}


def peopled_lines(here: Place) -> None:
    create(here.governance, "other", lead="outsider")
    here.governance.activate_project("custodian", "other")
    report(
        here,
        told(here),
        told(here, TWO, person="lead"),
        told(here, "3" * 32, person="outsider", project_id=project_id(here, "other")),
        folders=(FolderSize(project_id=project_id(here), bytes_used=1e9),),
    )


SLEEP = {("sleep", "researcher"), ("sleep", "lead"), ("sleep", "")}
OTHER = {("other", "outsider")}


def everybody_sees_theirs(here: Place) -> None:
    peopled_lines(here)
    assert lines(here, "researcher") == {("sleep", "researcher")}, "their own"
    assert lines(here, "researcher", "sleep") == {("sleep", "researcher")}
    assert lines(here, "lead") == lines(here, "lead", "sleep") == SLEEP
    assert lines(here, "outsider") == OTHER
    for person in ("custodian", "admin", "auditor", OPERATOR):
        assert lines(here, person) == SLEEP | OTHER, person
        assert lines(here, person, "other") == OTHER


def test_a_person_sees_their_own_lines_a_lead_the_projects_an_office_all(sleep: Place) -> None:
    everybody_sees_theirs(sleep)


def test_negative_control_with_a_wider_rule_a_member_sees_others(sleep: Place) -> None:
    wider = Rule(TABLE[Action.USAGE_READ].may | {Fact.PERSON}, TABLE[Action.USAGE_READ].may_not)
    sleep.governance._rules = {**TABLE, Action.USAGE_READ: wider}
    with pytest.raises(AssertionError, match="their own"):
        everybody_sees_theirs(sleep)


def same_words(here: Place) -> None:
    said = []
    for slug in ("sleep", "no-such-study"):
        with pytest.raises(RefusedError) as refused:
            here.governance.usage("outsider", MONTH, slug)
        said.append(refused.value.message)
    assert said[0] == said[1]


def test_a_project_of_others_is_refused_in_the_words_of_one_that_is_not_there(sleep: Place) -> None:
    same_words(sleep)


def test_who_left_sees_their_own_lines_and_no_longer_how_the_project_does(sleep: Place) -> None:
    report(sleep, told(sleep))
    assert sleep.governance.usage("researcher", MONTH, "sleep").used["hours"] == 1.0
    sleep.governance.end_membership("lead", "sleep", "researcher")
    page = sleep.governance.usage("researcher", MONTH, "sleep")
    assert [each.person for each in page.lines] == ["researcher"] and page.used == {} and page.quotas == {}


def test_a_disabled_person_reads_nothing(sleep: Place) -> None:
    sleep.governance.disable_person("admin", "researcher")
    for project in (None, "sleep"):
        with pytest.raises(RefusedError, match="disabled"):
            sleep.governance.usage("researcher", MONTH, project)


def test_a_month_that_is_none_is_refused(sleep: Place) -> None:
    with pytest.raises(InputError, match="not a month"):
        sleep.governance.usage(OPERATOR, "2026-14")


def test_lines_have_their_price_and_a_folder_costs_also_when_nobody_opens_it(sleep: Place) -> None:
    prices = Prices(currency="CHF", hour=Decimal("0.5"), storage_gb_month=Decimal("0.1"))
    report(sleep, told(sleep), folders=(FolderSize(project_id=project_id(sleep), bytes_used=100e9),))
    sleep.clock.pass_(80)
    with policy(sleep, prices=prices):
        january = sleep.governance.usage(OPERATOR, "2026-01")
        february = sleep.governance.usage(OPERATOR, "2026-02")
    assert {each.person: each.cost for each in january.lines} == {"": Decimal("10.00"), "researcher": Decimal("0.50")}
    assert [(each.person, each.storage_gb, each.cost) for each in february.lines] == [("", 100.0, Decimal("10.00"))]
    assert january.currency == "CHF"


def plans(here: Place, read: Any) -> list[str]:
    """How SQLite finds rows of usage and storage while ``read`` runs."""
    found: list[str] = []

    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT") and ("FROM usage" in statement or "FROM storage" in statement):
            asked = connection.connection.driver_connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            found.extend(row[3] for row in asked.fetchall())

    event.listen(here.store._engine, "before_cursor_execute", explain)
    try:
        read()
    finally:
        event.remove(here.store._engine, "before_cursor_execute", explain)
    return found


def scanned(steps: list[str]) -> list[str]:
    """Those that look through a whole table."""
    return [step for step in steps if step.startswith(("SCAN usage", "SCAN storage"))]


def test_what_others_use_elsewhere_costs_a_reader_nothing(sleep: Place) -> None:
    if sleep.store._engine.dialect.name != "sqlite":
        return  # a small table is scanned there whatever its indices; the benchmark looks at a large one
    peopled_lines(sleep)
    for read in (
        lambda: sleep.governance.usage("researcher", MONTH),
        lambda: sleep.governance.usage("lead", MONTH),
        lambda: sleep.governance.usage("researcher", MONTH, "sleep"),
    ):
        found = plans(sleep, read)
        assert len(found) >= 2 and not scanned(found), found
    with policy(sleep, quotas=Quotas(hours=5, storage_gb=5)):
        found = plans(sleep, lambda: sleep.governance.may_open("researcher", "sleep"))
    assert found and not scanned(found), found
    # Negative control: who may see every line has them looked through.
    assert scanned(plans(sleep, lambda: sleep.governance.usage(OPERATOR, MONTH)))


# -- health ---------------------------------------------------------------------------------------------------
def test_health_is_the_node_agents_last_word_and_says_when_it_was_heard(sleep: Place) -> None:
    governance = sleep.governance
    assert governance.health("admin").node.heard_at is None
    report(sleep)
    sleep.clock.now += timedelta(minutes=1)
    claim = SessionClaim(session=ONE, person="researcher", project_id=project_id(sleep), permit_version=1)
    assert apps(sleep)["node"].post("/v1/sessions/check", json=[claim.model_dump()]).status_code == 200
    sleep.clock.now += timedelta(minutes=1)
    governance.heard([claim])
    found = governance.health("auditor")
    assert found.node.heard_at == START + timedelta(minutes=2)
    assert (found.node.cpus, found.node.storage_free_gb, found.node.sessions) == (8, 600, 1)
    (running,) = found.sessions
    assert (running.session, running.person, running.project) == (ONE, "researcher", "sleep")
    assert running.since == START + timedelta(minutes=1), "since it was first heard of"
    governance.heard([])
    assert governance.health("admin").sessions == ()
    assert found.audit_records > 0


def test_of_several_node_agents_none_forgets_what_another_said(sleep: Place) -> None:
    governance = sleep.governance
    first, second = (
        SessionClaim(session=name, person="researcher", project_id=project_id(sleep), permit_version=1)
        for name in (ONE, TWO)
    )
    governance.heard([first], one_of_many=True)
    governance.heard([second], one_of_many=True)
    assert {each.session for each in governance.health("admin").sessions} == {ONE, TWO}
    sleep.clock.now += timedelta(seconds=10)
    governance.heard([second], one_of_many=True)
    sleep.clock.now += timedelta(seconds=10)
    governance.heard([second], one_of_many=True)
    assert [each.session for each in governance.health("admin").sessions] == [TWO], "its agent is silent"
    governance.heard([first])
    assert [each.session for each in governance.health("admin").sessions] == [ONE], "on one machine there is one"


def test_a_process_that_hears_no_node_agent_knows_what_runs_by_its_reports(sleep: Place) -> None:
    report(sleep, told(sleep, seen=START), told(sleep, TWO, seen=START, ended=START))
    other: Usage = type(sleep.governance)(sleep.store, sleep.audit, sleep.clock, sleep.governance._catalogue, Policy())
    assert [each.session for each in other.health(OPERATOR).sessions] == [ONE]


def all_nodes_count(here: Place) -> None:
    """Three nodes tell, and one of them is not heard of again."""
    for node, session in (("node-a", ONE), ("node-b", TWO), ("node-c", "")):
        lines = (told(here, session),) if session else ()
        here.governance.record_usage(NodeReport(machine=MACHINE, node=node, sessions=lines))
    assert {row.session for row in rows(here)} == {ONE, TWO}, "each tells of its own"
    node = here.governance.health("admin").node
    assert (node.cpus, node.load, node.memory_total_gb, node.memory_free_gb) == (24, 4.5, 192, 96)
    assert (node.storage_total_gb, node.storage_free_gb) == (1000, 600), "the same disks"
    here.clock.now += VANISHED + timedelta(seconds=1)
    here.governance.record_usage(NodeReport(machine=MACHINE, node="node-a"))
    assert here.governance.health("admin").node.cpus == 8
    assert sum(row.seconds for row in rows(here)) == 7200


def test_what_several_nodes_tell_is_added_up_and_a_lost_one_left_away(sleep: Place) -> None:
    all_nodes_count(sleep)


@pytest.mark.parametrize("person", ["custodian", "lead", "researcher", "outsider"])
def test_health_is_for_administrators_and_auditors(sleep: Place, person: str) -> None:
    with pytest.raises(RefusedError, match=r"health\.read"):
        sleep.governance.health(person)


def test_keys_in_a_file_are_warned_of_until_it_is_known_that_there_are_none(sleep: Place) -> None:
    assert sleep.governance.health(OPERATOR).embedded_custodian

"""What the node agent counts: time, processor and memory by month, folders, and reports that may be lost."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import NodeError, UnavailableError
from orchestrator.governance.cards import NodeReport, SessionUsage
from orchestrator.node import usage as room
from orchestrator.node.rounds import Rounds
from orchestrator.node.session_table import State
from orchestrator.node.usage import Meter, machine_of, shares
from orchestrator.terms import Grant
from orchestrator.workspaces.docker import used_of
from orchestrator.workspaces.runtime import Found, Used
from tests.unit.workspaces.test_spec import a_grant

BEGIN = datetime(2026, 11, 30, 23, 0, tzinfo=UTC)
MINE = "a" * 32


class Bench:
    """A machine with one session of three containers, and an authority that takes reports, or not."""

    def __init__(self, tmp_path: Path, kept: Path | None = None) -> None:
        self.seconds = 0.0
        self.running: dict[str, Grant] = {MINE: a_grant(MINE)}
        self.used = {"one": Used(10.0, 1e9), "two": Used(0.0, 0.5e9), "three": Used(0.0, 0.5e9)}
        self.sizes: dict[str, int] = {}
        self.reports: list[NodeReport] = []
        self.silent = False
        self.meter = Meter(
            sessions=SimpleNamespace(grants=self.grants),  # type: ignore[arg-type]
            runtime=SimpleNamespace(list=self.containers, used=self.look_at),  # type: ignore[arg-type]
            folders=SimpleNamespace(size=self.sizes.get),  # type: ignore[arg-type]
            state=tmp_path,
            desk=self,
            clock=lambda: BEGIN + timedelta(seconds=self.seconds),
            ticks=lambda: self.seconds,
            kept=kept,
        )

    def grants(self, *states: State) -> list[Grant]:
        assert states == (State.RUNNING,)
        return list(self.running.values())

    def containers(self, session: str) -> list[Found]:
        return [Found(name, session, name, True) for name in self.used]

    def look_at(self, container: str) -> Used:
        return self.used[container]

    def report_usage(self, report: NodeReport) -> None:
        if self.silent:
            raise UnavailableError("the authority is away")
        self.reports.append(report)

    def pass_(self, seconds: float, cpu: float = 0.0) -> None:
        """Time goes by, and one container works."""
        self.seconds += seconds
        one = self.used["one"]
        self.used["one"] = Used(one.cpu_seconds + cpu, one.memory_bytes)

    def told(self) -> dict[str, SessionUsage]:
        """By month, what the last report says of the session."""
        self.meter.report()
        return {line.month: line for line in self.reports[-1].sessions if line.session == MINE}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path)
    made.meter.sample()
    return made


def test_time_processor_and_memory_are_counted_since_the_session_began(bench: Bench) -> None:
    for _ in range(6):
        bench.pass_(10, cpu=4)
        bench.meter.sample()
    line = bench.told()["2026-11"]
    assert (line.seconds, line.cpu_seconds, line.memory_gb_seconds) == (60.0, 34.0, 120.0)
    assert (line.person, line.project_id, line.began, line.ended) == ("ann", "1" * 32, BEGIN, None)


def splits_at_midnight(bench: Bench) -> None:
    bench.pass_(3600 + 1800, cpu=900)  # 23:00 to 00:30: one hour before midnight, half an hour after it
    bench.meter.sample()
    lines = bench.told()
    assert set(lines) == {"2026-11", "2026-12"}, "two months"
    november, december = lines["2026-11"], lines["2026-12"]
    assert (november.seconds, december.seconds) == pytest.approx((3600, 1800)), "two months"
    assert (november.cpu_seconds, december.cpu_seconds) == pytest.approx((10 + 600, 300))
    assert (november.memory_gb_seconds, december.memory_gb_seconds) == pytest.approx((7200, 3600))


def test_a_session_over_the_months_end_is_split_there(bench: Bench) -> None:
    splits_at_midnight(bench)


def test_negative_control_without_the_split_all_is_in_one_month(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "shares", lambda since, until: [("2026-12", 1.0)])
    with pytest.raises(AssertionError, match="two months"):
        splits_at_midnight(bench)


def goes_on_with_the_next_agent(tmp_path: Path) -> None:
    kept = tmp_path / "usage.json"
    first = Bench(tmp_path, kept)
    first.meter.sample()
    first.pass_(100, cpu=30)
    first.meter.sample()
    # That agent ends; the session does not. The next one is there half a minute later.
    then = Bench(tmp_path, kept)
    then.seconds, then.used = 130.0, first.used
    then.pass_(0, cpu=5)
    then.meter = type(then.meter)(
        sessions=SimpleNamespace(grants=then.grants),
        runtime=SimpleNamespace(list=then.containers, used=then.look_at),  # type: ignore[arg-type]
        folders=SimpleNamespace(size=then.sizes.get),  # type: ignore[arg-type]
        state=tmp_path,
        desk=then,
        clock=lambda: BEGIN + timedelta(seconds=then.seconds),
        ticks=lambda: then.seconds - 5000,  # another process, on a machine that began anew at that
        kept=kept,
    )
    then.meter.sample()
    told = then.told()["2026-11"]
    assert (told.seconds, told.cpu_seconds) == (130.0, 45.0) and told.began == BEGIN
    assert told.memory_gb_seconds == pytest.approx(2 * 130)
    then.running = {}
    then.meter.report()
    then.meter.report()
    assert json.loads(kept.read_text()) == []


def test_what_a_session_used_goes_on_when_the_next_agent_takes_it_up(tmp_path: Path) -> None:
    goes_on_with_the_next_agent(tmp_path)


def test_negative_control_an_agent_that_forgets_begins_at_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Meter, "_keep", lambda self: None)
    with pytest.raises(AssertionError):
        goes_on_with_the_next_agent(tmp_path)


@pytest.mark.parametrize("text", ["", "[", "{}", "[1]", '[{"grant": {}}]'])
def test_counts_that_cannot_be_read_begin_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "usage.json").write_text(text)
    again = Bench(tmp_path, tmp_path / "usage.json")
    again.meter.sample()
    assert again.told()


def test_a_session_that_is_over_before_the_next_sample_used_something_too(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.meter.look()
    bench.pass_(2)
    bench.running.clear()
    line = bench.told()["2026-11"]
    assert (line.seconds, line.cpu_seconds, line.memory_gb_seconds) == (2.0, 10.0, 4.0)


moments = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))


@given(moments, st.timedeltas(timedelta(0), timedelta(days=400)))
def test_the_shares_of_months_add_up_and_are_in_order(since: datetime, length: timedelta) -> None:
    found = shares(since, since + length)
    assert sum(share for _, share in found) == pytest.approx(1)
    assert [month for month, _ in found] == sorted({month for month, _ in found})
    assert all(share > 0 for _, share in found)


def test_a_clock_that_is_set_back_takes_nothing_away() -> None:
    assert shares(BEGIN, BEGIN - timedelta(days=40)) == [("2026-10", 1.0)]


def test_a_report_that_is_lost_is_told_again_with_more(bench: Bench) -> None:
    bench.silent = True
    bench.pass_(30)
    with pytest.raises(UnavailableError):
        bench.meter.report()
    bench.silent = False
    bench.pass_(30)
    assert bench.told()["2026-11"].seconds == 60


def ends_are_told_until_they_are_heard(bench: Bench) -> None:
    bench.pass_(30)
    bench.running.clear()
    bench.meter.look()
    bench.silent = True
    bench.pass_(30)
    with pytest.raises(UnavailableError):
        bench.meter.report()
    bench.silent = False
    bench.pass_(30)
    line = bench.told()["2026-11"]
    assert line.ended == BEGIN + timedelta(seconds=30) and line.seconds == 30, "not a second after its end"
    bench.meter.report()
    assert bench.reports[-1].sessions == ()


def test_the_end_of_a_session_is_told_until_the_authority_heard_it_and_then_no_more(bench: Bench) -> None:
    ends_are_told_until_they_are_heard(bench)


def test_a_container_that_does_not_answer_costs_nothing_twice(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def stumbles(container: str) -> Used:
        if container == "two":
            raise NodeError("it just ended")
        return bench.used[container]

    bench.pass_(10, cpu=5)
    monkeypatch.setattr(bench.meter, "_runtime", SimpleNamespace(list=bench.containers, used=stumbles))
    bench.meter.sample()
    bench.pass_(10, cpu=5)
    monkeypatch.setattr(bench.meter, "_runtime", SimpleNamespace(list=bench.containers, used=bench.look_at))
    bench.meter.sample()
    assert bench.told()["2026-11"].cpu_seconds == 20.0


def test_a_container_that_was_made_anew_under_a_lower_count_takes_nothing_away(bench: Bench) -> None:
    bench.used["one"] = Used(1.0, 1e9)
    bench.meter.sample()
    assert bench.told()["2026-11"].cpu_seconds == 10.0


def test_folders_are_measured_once_an_hour_and_at_a_sessions_end(bench: Bench) -> None:
    grant = bench.running[MINE]
    home, shared = f"home/{grant.project_id}/ann", f"project/{grant.project_id}/folder"
    bench.sizes.update({home: 5_000_000, shared: 7_000_000})
    bench.meter.report()
    assert bench.reports[-1].folders == ()
    bench.meter.measure()
    bench.meter.report()
    assert {(each.person, each.bytes_used) for each in bench.reports[-1].folders} == {("ann", 5e6), ("", 7e6)}
    bench.meter.report()
    assert bench.reports[-1].folders == (), "told once"
    bench.sizes[home] = 6_000_000
    bench.running.clear()
    bench.meter.report()
    assert ("ann", 6e6) in {(each.person, each.bytes_used) for each in bench.reports[-1].folders}
    bench.meter.emptied(grant.project_id, ["ann", "bob"])
    bench.meter.measure()
    bench.meter.report()
    assert {(each.person, each.bytes_used) for each in bench.reports[-1].folders} == {("ann", 0), ("bob", 0), ("", 0)}


def test_sizes_that_the_authority_did_not_take_are_told_again(bench: Bench) -> None:
    bench.sizes[f"home/{bench.running[MINE].project_id}/ann"] = 5
    bench.meter.measure()
    bench.silent = True
    with pytest.raises(UnavailableError):
        bench.meter.report()
    bench.silent = False
    bench.meter.report()
    assert len(bench.reports[-1].folders) == 1


def test_many_sessions_are_told_in_several_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    bench.running = {f"{n:032x}": a_grant(f"{n:032x}") for n in range(25)}
    monkeypatch.setattr(room, "MOST", 10)
    bench.meter.look()
    bench.pass_(1)
    bench.meter.report()
    assert [len(report.sessions) for report in bench.reports] == [10, 10, 5]


def test_a_machine_without_sessions_is_heard_of_too(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.running.clear()
    bench.meter.report()
    (report,) = bench.reports
    assert report.machine.cpus >= 1 and report.machine.memory_total_gb > report.machine.memory_free_gb > 0
    assert machine_of(tmp_path).storage_total_gb > 0


# -- what the engine says -------------------------------------------------------------------------------------
def stats(usage: int, **parts: int) -> dict[str, Any]:
    return {
        "cpu_stats": {"cpu_usage": {"total_usage": 2_500_000_000}},
        "memory_stats": {"usage": usage, "stats": parts},
    }


@pytest.mark.parametrize(
    ("told", "memory"),
    [
        (stats(1000, total_inactive_file=300, inactive_file=1), 700),
        (stats(1000, inactive_file=400), 600),
        (stats(1000), 1000),
        (stats(1000, inactive_file=2000), 1000),
    ],
    ids=["version 1", "version 2", "without", "strange"],
)
def test_memory_is_counted_without_cache_in_both_versions_of_control_groups(told: dict[str, Any], memory: int) -> None:
    assert used_of(told) == Used(2.5, memory)


@pytest.mark.parametrize(
    "told", [{}, {"cpu_stats": {}}, {**stats(1), "memory_stats": {}}, {**stats(1), "cpu_stats": None}]
)
def test_an_engine_that_says_nothing_is_an_error(told: dict[str, Any]) -> None:
    with pytest.raises(NodeError, match="does not say"):
        used_of(told)


# -- rounds ---------------------------------------------------------------------------------------------------
def test_a_round_that_stumbles_holds_up_neither_the_next_nor_the_other_jobs() -> None:
    done, often = threading.Event(), [0, 0]

    def stumbles() -> None:
        often[0] += 1
        raise NodeError("no") if often[0] % 2 else RuntimeError("unforeseen")

    def works() -> None:
        often[1] += 1
        if often[1] == 3:
            done.set()

    rounds = Rounds([(0.0, stumbles), (0.0, works), (3600.0, lambda: None)], seconds=0.001)
    rounds.start()
    assert done.wait(30)
    assert rounds.stop()
    assert often[0] >= 2


def test_a_job_that_hangs_does_not_keep_the_agent_from_ending() -> None:
    begun, free = threading.Event(), threading.Event()

    def hangs() -> None:
        begun.set()
        free.wait(60)

    rounds = Rounds([(0.0, hangs)], seconds=0.001)
    rounds.start()
    assert begun.wait(30)
    assert not rounds.stop(0.01)
    free.set()
    assert rounds.stop(30)


def test_rounds_that_never_began_stop_too() -> None:
    assert Rounds([]).stop()

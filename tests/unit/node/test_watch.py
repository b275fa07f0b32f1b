"""The agent asks, and what the authority does not allow, or nobody can be asked about, does not run on."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.errors import BulleError, NodeError, RefusedError, UnavailableError
from orchestrator.node import asking
from orchestrator.node import watch as room
from orchestrator.node.journal import Journal
from orchestrator.node.session_table import SessionTable, State
from orchestrator.node.volumes import Kind, Publication
from orchestrator.node.watch import Watch
from orchestrator.terms import Event, Grant, SessionClaim, SessionVerdict
from orchestrator.workspaces.runtime import Found
from tests.unit.workspaces.test_spec import NOW, a_grant

MINE, ELSEWHERE = "a" * 32, "b" * 32


class Authority:
    """Allows what is in ``allowed``; says nothing of what is in ``passed_over``; silent if there is a ``mood``."""

    def __init__(self, *allowed: str) -> None:
        self.allowed = set(allowed)
        self.passed_over: set[str] = set()
        self.mood: BulleError | None = None
        self.asked: list[list[str]] = []

    def record(self, event: Event) -> int:
        if self.mood is not None:
            raise self.mood
        return 1

    def check_sessions(self, claims: Iterable[SessionClaim]) -> list[SessionVerdict]:
        names = [claim.session for claim in claims]
        self.asked.append(names)
        if self.mood is not None:
            raise self.mood
        return [
            SessionVerdict(session=name, allowed=name in self.allowed, reason="" if name in self.allowed else "left")
            for name in names
            if name not in self.passed_over
        ]


class Bench:
    """One session of the door, one volume of a session elsewhere (CSI), three containers, and a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 1000.0
        for each in (room, asking):
            monkeypatch.setattr(each, "time", SimpleNamespace(monotonic=lambda: self.seconds))
        self.running: dict[str, Grant] = {MINE: a_grant(MINE).model_copy(update={"ends_at": NOW + timedelta(hours=1)})}
        self.shown = [Publication(Kind.VIEW, a_grant(ELSEWHERE), Path("/m/data"))]
        self.lost: set[str] = set()
        self.stopped: dict[str, str] = {}
        self.alive = 3
        self.now = NOW
        self.authority = Authority(MINE, ELSEWHERE)
        self.ended = threading.Event()
        self.watch = Watch(
            sessions=self,  # type: ignore[arg-type]
            volumes=SimpleNamespace(
                published=lambda: list(self.shown), unpublish=self.unpublish, refuse_lost=self.refuse_lost
            ),  # type: ignore[arg-type]
            runtime=SimpleNamespace(list=self.containers),  # type: ignore[arg-type]
            authority=self.authority,
            journal=Journal(self.authority),
            clock=self.clock,
            seconds=0.01,
        )

    def clock(self) -> datetime:
        return self.now

    def containers(self) -> list[Found]:
        return [Found(str(n), name, "", True) for name in self.running for n in range(self.alive)]

    def unpublish(self, target: str) -> None:
        self.shown = [each for each in self.shown if str(each.target) != target]

    # -- as Volumes
    def published(self) -> list[Publication]:
        return list(self.shown)

    def refuse_lost(self, session: str) -> None:
        if session in self.lost:
            raise NodeError("the home folder was lost")

    # -- as Sessions
    def grants(self, *states: State) -> list[Grant]:
        return list(self.running.values()) if State.RUNNING in states else []

    def every(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(session=name) for name in self.running]

    def stop_all(self, reason: str, sessions: list[str] | None = None) -> None:
        for name in list(self.running) if sessions is None else sessions:
            if self.running.pop(name, None):
                self.stopped[name] = reason
                self.ended.set()

    #: the product's own: by reason, over the above
    stop_refused = SessionTable.stop_refused

    def retry(self) -> None: ...


def thirty_seconds_of_silence(bench: Bench) -> None:
    bench.watch.ask()
    bench.authority.mood = UnavailableError("gone")
    for _ in range(15):
        bench.seconds += 2
        bench.watch.ask()
    assert not bench.stopped and bench.shown, "a silence as short as a restart ends nothing"
    bench.seconds += 2
    bench.watch.ask()
    assert bench.stopped == {MINE: "the authority cannot be asked"}
    assert not bench.shown, "neither does a volume of a session elsewhere stay"


def test_after_thirty_seconds_without_the_authority_nothing_runs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asking.PATIENCE == 30
    thirty_seconds_of_silence(Bench(monkeypatch))


def test_negative_control_with_endless_patience_a_session_outlives_the_authority(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asking, "PATIENCE", math.inf)
    with pytest.raises(AssertionError):
        thirty_seconds_of_silence(Bench(monkeypatch))


def test_an_answer_begins_the_thirty_seconds_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    for mood in (UnavailableError("gone"), None, UnavailableError("gone")):
        bench.authority.mood = mood
        bench.seconds += 25
        bench.watch.ask()
    assert not bench.stopped
    bench.seconds += 25
    bench.watch.ask()
    assert bench.stopped


def test_an_authority_that_answers_with_errors_alone_is_a_silent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    bench.authority.mood = RefusedError("no")
    bench.seconds += 31
    bench.watch.ask()
    assert bench.stopped and not bench.shown


def what_is_not_allowed_stops(bench: Bench) -> None:
    bench.authority.allowed = {ELSEWHERE}
    bench.watch.ask()
    assert bench.stopped == {MINE: "left"} and bench.shown
    bench.authority.allowed = set()
    bench.watch.ask()
    assert not bench.shown


def test_what_is_not_allowed_any_more_is_stopped_and_unmounted(monkeypatch: pytest.MonkeyPatch) -> None:
    what_is_not_allowed_stops(Bench(monkeypatch))


def test_negative_control_without_being_asked_about_a_removed_member_works_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watch, "ask", lambda self: None)
    with pytest.raises(AssertionError):
        what_is_not_allowed_stops(Bench(monkeypatch))


def test_a_session_without_a_verdict_is_not_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    bench.authority.passed_over = {MINE, ELSEWHERE}
    bench.watch.ask()
    assert bench.stopped == {MINE: "no verdict"} and not bench.shown


def test_the_watch_asks_by_itself_again_and_again_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    stumbles = iter([RuntimeError("unforeseen")] * 3)

    def containers() -> list[Found]:
        bench.seconds += 2
        for error in stumbles:
            raise error
        return [Found(str(n), name, "", True) for name in bench.running for n in range(3)]

    bench.watch._runtime = SimpleNamespace(list=containers)  # type: ignore[assignment]
    bench.authority.allowed = set()
    bench.watch.start()
    try:
        assert bench.ended.wait(60)
    finally:
        bench.watch.stop()
    assert bench.stopped == {MINE: "left"}


def the_end_comes(bench: Bench) -> None:
    bench.now = NOW + timedelta(hours=1) - timedelta(seconds=1)
    bench.watch.look()
    assert not bench.stopped
    bench.now = NOW + timedelta(hours=1)
    bench.watch.look()
    assert bench.stopped == {MINE: "its end has come"}


def test_a_session_ends_at_its_end_without_anybody_being_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    the_end_comes(bench)
    assert bench.authority.asked == []


def test_negative_control_without_an_end_in_its_grant_a_session_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    bench.running[MINE] = bench.running[MINE].model_copy(update={"ends_at": datetime.max.replace(tzinfo=NOW.tzinfo)})
    with pytest.raises(AssertionError):
        the_end_comes(bench)


def a_dead_part_ends_it(bench: Bench) -> None:
    bench.watch.look()
    assert not bench.stopped
    bench.alive = 2
    bench.watch.look()
    assert bench.stopped == {MINE: "a part of it ended"}


def test_a_session_of_which_a_part_died_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    a_dead_part_ends_it(Bench(monkeypatch))


def test_a_session_whose_folder_another_machine_took_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    bench.lost = {MINE}
    bench.watch.look()
    assert bench.stopped == {MINE: "the home folder was lost"}


def test_negative_control_where_a_missing_part_is_not_counted_the_rest_runs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_PARTS", 0)
    with pytest.raises(AssertionError):
        a_dead_part_ends_it(Bench(monkeypatch))

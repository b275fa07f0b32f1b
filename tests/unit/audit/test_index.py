"""The index finds what a reading of the whole log finds, follows the log, and shows nothing that was not signed."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.audit import AuditIndex, AuditLog, Filters
from orchestrator.audit.chain import Record
from orchestrator.audit.log import LOG_NAME
from orchestrator.errors import AuditError
from orchestrator.terms import Outcome
from tests.unit.audit.logs import KEY, OTHER_KEY, START, event, opened, reader, ticking

KINDS = ("workspace.start", "workspace.stop", "grant.issue", "permit.approve")


@pytest.fixture(name="log", scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> AuditLog:
    log = opened(tmp_path_factory.mktemp("index") / "audit")
    for number in range(60):
        log.record(
            event(
                number,
                kind=KINDS[number % 4],
                actor="hub:person-1" if number % 5 == 0 else f"person-{number % 3}",
                person=None if number % 7 == 0 else f"person-{number % 4}",
                project=None if number % 11 == 0 else f"project-{number % 3}",
                outcome=(Outcome.DONE, Outcome.REFUSED)[number % 13 == 0],
            )
        )
    return log


def _seconds(number: int) -> Any:
    return START + timedelta(seconds=number)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    filters=st.builds(
        Filters,
        project=st.none() | st.sampled_from(["project-0", "project-2", "none"]),
        person=st.none() | st.sampled_from(["person-1", "person-3", "node-agent", "none"]),
        kind=st.none() | st.sampled_from([*KINDS, "workspace.", "workspace.*", "work", "none.", ""]),
        outcome=st.none() | st.sampled_from(list(Outcome)),
        kinds=st.none() | st.frozensets(st.sampled_from(KINDS)),
        since=st.none() | st.integers(-5, 150).map(_seconds),
        until=st.none() | st.integers(-5, 150).map(_seconds),
    ),
    before=st.none() | st.integers(-3, 80),
    limit=st.integers(1, 20),
)
def test_it_finds_what_a_reading_of_the_whole_log_finds(
    log: AuditLog, filters: Filters, before: int | None, limit: int
) -> None:
    every = [record for record in log.read(filters) if before is None or record.seq < before][::-1]
    found, more = AuditIndex(log).newest(filters, limit=limit, before=before)
    assert found == every[:limit]
    assert more == (found[-1].seq if len(every) > limit else None)


def test_pages_follow_one_another_and_end(log: AuditLog) -> None:
    index, told, before = AuditIndex(log), [], None
    while True:
        page, before = index.newest(Filters(kind="workspace."), limit=7, before=before)
        told += page
        if before is None:
            break
    assert told == list(log.read(Filters(kind="workspace.")))[::-1]


def test_it_finds_by_time_though_a_clock_was_set_back(tmp_path: Path) -> None:
    log = opened(tmp_path / "audit", 3)
    log._clock = lambda: START - timedelta(days=1)
    log.record(event(7))
    index = AuditIndex(log)
    early, _ = index.newest(Filters(until=START), limit=9)
    assert [record.seq for record in early] == [5]
    assert [record.seq for record in index.newest(Filters(since=START), limit=9)[0]] == [4, 3, 2, 1]


def test_it_follows_a_log_that_another_process_writes(tmp_path: Path) -> None:
    log = opened(tmp_path / "audit", 2)
    index = AuditIndex(reader(tmp_path / "audit"))
    assert len(index.newest(Filters(), limit=9)[0]) == 3
    AuditLog(tmp_path / "audit", KEY, clock=ticking()).record(event(9, project="other"))
    assert [one.seq for one in index.newest(Filters(project="other"), limit=9)[0]] == [4]
    log.record(event(10))
    assert [one.seq for one in index.newest(Filters(), limit=1)[0]] == [5]


def test_what_is_not_finished_is_not_there_yet(tmp_path: Path) -> None:
    log = opened(tmp_path / "audit", 1)
    index = AuditIndex(log)
    with (tmp_path / "audit" / LOG_NAME).open("ab") as file:
        file.write(b'{"event":{"actor":"x"')
    assert len(index.newest(Filters(), limit=9)[0]) == 2
    log.record(event(3))  # drops it, and says so
    assert [one.event.kind for one in index.newest(Filters(), limit=9)[0]] == [
        "workspace.start",
        "audit.recover",
        "workspace.start",
        "audit.open",
    ]


def test_another_log_in_its_place_is_indexed_anew(tmp_path: Path) -> None:
    index = AuditIndex(opened(tmp_path / "audit", 4))
    index.newest(Filters(), limit=1)
    opened(tmp_path / "new", 1)
    (tmp_path / "new" / LOG_NAME).replace(tmp_path / "audit" / LOG_NAME)
    assert len(index.newest(Filters(), limit=9)[0]) == 2


def _changed(folder: Path, seq: int) -> None:
    """Record ``seq`` made anew, well formed, by somebody without the log's key; all lines keep their length."""
    lines = (folder / LOG_NAME).read_bytes().splitlines()
    told = Record.parse(lines[seq - 1])
    event_ = told.event.model_copy(update={"person": "somebody"[: len(told.event.person or "")]})
    lines[seq - 1] = Record.make(told.seq, told.time, told.prev, event_, OTHER_KEY).line()
    (folder / LOG_NAME).write_bytes(b"".join(line + b"\n" for line in lines))


@pytest.mark.parametrize("known", [False, True])
def test_a_record_that_nobody_signed_is_not_shown(tmp_path: Path, known: bool) -> None:
    index = AuditIndex(opened(tmp_path / "audit", 4))
    if known:
        index.newest(Filters(), limit=1)
    _changed(tmp_path / "audit", 3)
    with pytest.raises(AuditError, match=r"record 3 .* not what was written"):
        index.newest(Filters(), limit=9)


def test_negative_control_without_the_signature_it_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = AuditIndex(opened(tmp_path / "audit", 4))
    _changed(tmp_path / "audit", 3)
    monkeypatch.setattr(Record, "signed_by", lambda *_: True)
    assert "somebody" in [one.event.person for one in index.newest(Filters(), limit=9)[0]]


@pytest.mark.parametrize(
    "line",
    [
        b"no record\n",
        b"[]\n",
        b'{"event":{"actor":"a","kind":["a"],"outcome":"done"},"seq":3,"time":"2026-01-01T00:00:00.000000Z"}\n',
        b'{"event":{"actor":"a","kind":"a.b","outcome":"done"},"seq":9,"time":"2026-01-01T00:00:00.000000Z"}\n',
        b'{"event":{"actor":"a","kind":"a.b","outcome":"done"},"seq":3,"time":"2026-01-01T00:00:00"}\n',
        b"x" * 70_000,
    ],
)
def test_a_line_that_is_no_record_stops_the_reading(tmp_path: Path, line: bytes) -> None:
    index = AuditIndex(opened(tmp_path / "audit", 1))
    with (tmp_path / "audit" / LOG_NAME).open("ab") as file:
        file.write(line)
    for _ in range(2):
        with pytest.raises(AuditError, match="record 3"):
            index.newest(Filters(), limit=9)


def test_a_log_that_is_not_there(tmp_path: Path) -> None:
    log = opened(tmp_path / "audit", 1)
    (tmp_path / "audit" / LOG_NAME).unlink()
    with pytest.raises(AuditError, match="cannot read"):
        AuditIndex(log).newest(Filters(), limit=9)

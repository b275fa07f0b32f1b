"""A writer killed at any step leaves a log that goes on; an attacker cannot pass for a killed writer."""

from __future__ import annotations

import multiprocessing
import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.audit import AuditLog, chain
from orchestrator.audit import log as log_module
from orchestrator.audit.chain import Record
from orchestrator.errors import AuditError
from tests.unit.audit.logs import KEY, OTHER_KEY, START, event, opened, parsed_head, ticking


class Killed(BaseException):
    """The process is gone: nothing that follows runs."""


@pytest.fixture
def log(tmp_path):
    return opened(tmp_path / "audit", 3)


def killed_before_head(log, monkeypatch):
    def kill(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(AuditLog, "_write_head", kill)
        with pytest.raises(Killed):
            log.record(event(77))


def test_killed_between_record_and_head(log, monkeypatch):
    killed_before_head(log, monkeypatch)
    assert parsed_head(log.folder).seq == 4
    found = log.verify()
    assert found.ok
    assert found.unfinished == "record 5, written but never acknowledged"
    assert log.record(event(78)) == 6
    found = log.verify()
    assert (found.ok, found.records, found.unfinished) == (True, 6, None)


def test_killed_twice_between_record_and_head(log, monkeypatch):
    killed_before_head(log, monkeypatch)
    # The second writer is killed when it signs the head for the first one's record.
    killed_before_head(log, monkeypatch)
    assert log.verify().ok
    assert log.record(event(1)) == 6
    assert log.verify().ok


@given(kept=st.integers(min_value=1, max_value=10_000))
@settings(max_examples=40, deadline=None)
def test_killed_within_a_record(tmp_path_factory, kept):
    log = opened(tmp_path_factory.mktemp("audit") / "audit", 2)
    path = log.folder / "log.jsonl"
    head = (log.folder / "head.json").read_bytes()
    whole = path.stat().st_size
    log.record(event(5))
    torn = path.read_bytes()
    path.write_bytes(torn[: whole + 1 + kept % (len(torn) - whole - 1)])
    (log.folder / "head.json").write_bytes(head)
    dropped = path.stat().st_size - whole
    found = log.verify()
    assert found.ok
    assert "never finished" in found.unfinished
    assert log.record(event(6)) == 5
    recovery = [record.event for record in log.read()][3]
    assert recovery.kind == "audit.recover"
    assert recovery.detail["dropped_bytes"] == dropped
    assert log.verify().ok


@pytest.mark.parametrize("key", [KEY, OTHER_KEY], ids=["other place", "other key"])
def test_a_record_forged_beyond_the_head_is_neither_verified_nor_adopted(log, key):
    head = log.head()
    previous = head.hash if key is OTHER_KEY else chain.GENESIS
    forged = Record.make(head.seq + 1, START, previous, event(66), key).line() + b"\n"
    with (log.folder / "log.jsonl").open("ab") as stream:
        stream.write(forged)
    found = log.verify()
    assert (found.ok, found.first_bad) == (False, 5)
    with pytest.raises(AuditError, match="forged"):
        log.record(event(67))


def test_negative_control_without_signatures_the_forged_record_is_adopted(log, monkeypatch):
    head = log.head()
    forged = Record.make(head.seq + 1, START, head.hash, event(66), OTHER_KEY).line() + b"\n"
    with (log.folder / "log.jsonl").open("ab") as stream:
        stream.write(forged)
    monkeypatch.setattr(Record, "signed_by", lambda *_: True)
    assert log.verify().ok
    assert log.record(event(67)) == 6


def test_two_records_beyond_the_head_are_tampering(log):
    head = (log.folder / "head.json").read_bytes()
    log.record(event(8))
    log.record(event(9))
    (log.folder / "head.json").write_bytes(head)
    found = log.verify()
    assert (found.ok, found.first_bad) == (False, 6)
    with pytest.raises(AuditError, match="beyond its head"):
        log.record(event(10))


def test_a_full_disk_leaves_nothing_and_says_so(log, monkeypatch):
    before = (log.folder / "log.jsonl").read_bytes()
    real, calls = os.write, []

    def full(fd, data):
        calls.append(fd)
        if len(calls) == 1:
            return real(fd, data[:10])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(log_module.os, "write", full)
        with pytest.raises(AuditError, match="No space left"):
            log.record(event(1))
    assert (log.folder / "log.jsonl").read_bytes() == before
    assert log.record(event(1)) == 5


def test_a_failed_fsync_is_an_error(log, monkeypatch):
    def fail(fd):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(log_module.os, "fsync", fail)
        with pytest.raises(AuditError, match="Input/output"):
            log.record(event(1))
    assert log.verify().ok


def test_the_public_key_alone_cannot_write(log):
    watching = AuditLog(log.folder, public_key=KEY.public_key(), clock=ticking())
    with pytest.raises(AuditError, match="without the key"):
        watching.record(event(1))
    with pytest.raises(AuditError, match="needs its"):
        AuditLog(log.folder, clock=ticking())


def test_a_log_is_not_begun_twice(log):
    with pytest.raises(AuditError, match="already"):
        log.create()


def test_a_symbolic_link_is_not_followed(log, tmp_path):
    path = log.folder / "log.jsonl"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AuditError):
        log.record(event(1))


def _write(folder, count):
    log = AuditLog(folder, KEY, clock=ticking())
    for number in range(count):
        log.record(event(number))


def test_processes_and_threads_write_one_chain(log):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write, args=(log.folder, 15)) for _ in range(2)]
    workers += [threading.Thread(target=_write, args=(log.folder, 15)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = log.verify()
    assert (found.ok, found.records) == (True, 4 + 5 * 15)

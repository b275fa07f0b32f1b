"""Any change to the log shows; and with the chain not looked at, it would not."""

from __future__ import annotations

import shutil

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orchestrator.audit import chain
from orchestrator.audit.chain import Head, Record, examine
from orchestrator.errors import AuditError
from tests.unit.audit.logs import KEY, OTHER_KEY, START, opened, reader

PUBLIC = KEY.public_key()
RECORDS = 8


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    log = opened(folder, RECORDS - 1)
    return (folder / "log.jsonl").read_bytes(), log.head()


def _lines(data: bytes) -> list[bytes]:
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def check(data: bytes, head: Head, anchor: Head | None = None):
    return examine(_lines(data), head, PUBLIC, anchor)


def test_an_untouched_log_verifies(whole):
    data, head = whole
    found = check(data, head)
    assert (found.ok, found.records, found.first_bad) == (True, RECORDS, None)


@given(position=st.integers(min_value=0), byte=st.integers(0, 255))
@settings(max_examples=600, deadline=None)
def test_any_single_byte_edit_is_found_at_its_record(whole, position, byte):
    data, head = whole
    position %= len(data)
    assume(data[position] != byte)
    found = check(data[:position] + bytes([byte]) + data[position + 1 :], head)
    assert not found.ok
    assert found.first_bad == data[:position].count(b"\n") + 1


@given(position=st.integers(min_value=0), insert=st.binary(min_size=1, max_size=3))
@settings(max_examples=200, deadline=None)
def test_any_inserted_bytes_are_found(whole, position, insert):
    data, head = whole
    position %= len(data)
    found = check(data[:position] + insert + data[position:], head)
    assert not found.ok


@given(start=st.integers(0, RECORDS - 1), length=st.integers(1, RECORDS))
@settings(deadline=None)
def test_any_deleted_run_is_found(whole, start, length):
    data, head = whole
    lines = _lines(data)
    found = check(b"".join(lines[:start] + lines[start + length :]), head)
    assert not found.ok
    assert found.first_bad == start + 1


@given(first=st.integers(0, RECORDS - 1), second=st.integers(0, RECORDS - 1))
@settings(deadline=None)
def test_any_swap_is_found(whole, first, second):
    assume(first < second)
    data, head = whole
    lines = _lines(data)
    lines[first], lines[second] = lines[second], lines[first]
    found = check(b"".join(lines), head)
    assert not found.ok
    assert found.first_bad == first + 1


@given(source=st.integers(0, RECORDS - 1), target=st.integers(0, RECORDS))
@settings(deadline=None)
def test_any_repeated_record_is_found(whole, source, target):
    data, head = whole
    lines = _lines(data)
    lines.insert(target, lines[source])
    found = check(b"".join(lines), head)
    assert not found.ok
    assert found.first_bad == target + 1 + (source == target)


def rehashed_without_the_key(data: bytes, seq: int) -> bytes:
    """What an attacker without the key does best: change a record and mend every link after it."""
    lines, previous = [], chain.GENESIS
    for line in _lines(data):
        record = Record.parse(line[:-1])
        event = record.event
        if record.seq == seq:
            event = event.model_copy(update={"person": "somebody-else"})
        record = Record(record.seq, record.time, previous, event, record.signature)
        lines.append(record.line() + b"\n")
        previous = chain.digest(record.line())
    return b"".join(lines)


@pytest.mark.parametrize("seq", range(2, RECORDS + 1))
def test_a_rewritten_chain_does_not_meet_the_head(whole, seq):
    data, head = whole
    assert not check(rehashed_without_the_key(data, seq), head).ok


def test_negative_control_without_the_links_edits_and_swaps_pass(whole, monkeypatch):
    data, head = whole
    lines = _lines(data)
    edited = data.replace(b'"person":"person-2"', b'"person":"person-9"', 1)
    swapped = b"".join([lines[0], lines[2], lines[1], *lines[3:]])
    assert not check(edited, head).ok
    assert not check(swapped, head).ok
    monkeypatch.setattr(chain, "link_fault", lambda *_: None)
    assert check(edited, head).ok
    assert check(swapped, head).ok


def test_negative_control_without_the_head_a_changed_last_record_passes(whole, monkeypatch):
    data, head = whole
    forged = rehashed_without_the_key(data, RECORDS)
    assert not check(forged, head).ok
    monkeypatch.setattr(chain, "head_fault", lambda *_: None)
    sizes = Head(head.seq, head.hash, len(forged), head.time, head.key, head.signature)
    assert check(forged, sizes).ok


def test_a_head_signed_by_another_key_is_refused(whole):
    _, head = whole
    forged = Head.make(head.seq, head.hash, head.size, START, OTHER_KEY)
    with pytest.raises(AuditError, match="names key"):
        Head.parse(forged.line(), PUBLIC)
    renamed = Head(forged.seq, forged.hash, forged.size, forged.time, head.key, forged.signature)
    with pytest.raises(AuditError, match="signature is wrong"):
        Head.parse(renamed.line(), PUBLIC)


class TestOnDisk:
    @pytest.fixture
    def log(self, tmp_path):
        return opened(tmp_path / "audit", 5)

    def test_verifies_with_the_public_key_alone(self, log):
        assert reader(log.folder).verify().ok

    def test_an_emptied_log_is_found(self, log):
        (log.folder / "log.jsonl").write_bytes(b"")
        found = log.verify()
        assert (found.ok, found.first_bad) == (False, 1)

    def test_a_missing_log_is_found(self, log):
        (log.folder / "log.jsonl").unlink()
        found = log.verify()
        assert (found.ok, found.first_bad) == (False, 1)

    def test_a_missing_head_is_found(self, log):
        (log.folder / "head.json").unlink()
        found = log.verify()
        assert (found.ok, found.first_bad) == (False, 7)
        assert "missing" in found.problem

    def test_missing_both_is_found_and_does_not_begin_again(self, log):
        (log.folder / "head.json").unlink()
        (log.folder / "log.jsonl").unlink()
        assert not log.verify().ok
        with pytest.raises(AuditError):
            log.record(chain.Event(kind="a.b", actor="x", outcome="done"))
        assert not (log.folder / "log.jsonl").exists()

    def test_a_missing_folder_is_found(self, log):
        shutil.rmtree(log.folder)
        assert not log.verify().ok

    @pytest.mark.parametrize("cut", [1, 5, 150, 700])
    def test_a_cut_end_is_found_and_nothing_is_written_after_it(self, log, cut):
        path = log.folder / "log.jsonl"
        data = path.read_bytes()[:-cut]
        path.write_bytes(data)
        found = log.verify()
        assert not found.ok
        assert found.first_bad == data.count(b"\n") + 1
        with pytest.raises(AuditError, match="was cut"):
            log.record(chain.Event(kind="a.b", actor="x", outcome="done"))
        assert path.read_bytes() == data

    def test_a_changed_end_stops_writing(self, log):
        path = log.folder / "log.jsonl"
        path.write_bytes(path.read_bytes().replace(b'"person":"person-4"', b'"person":"person-9"'))
        with pytest.raises(AuditError, match="was changed"):
            log.record(chain.Event(kind="a.b", actor="x", outcome="done"))

    def test_rollback_of_log_and_head_together_needs_an_exported_head(self, log):
        saved = {name: (log.folder / name).read_bytes() for name in ("log.jsonl", "head.json")}
        log.record(chain.Event(kind="permit.revoke", actor="x", outcome="done"))
        exported = log.parse_head(log.head().line())
        assert log.verify(exported).ok
        for name, data in saved.items():
            (log.folder / name).write_bytes(data)
        assert log.verify().ok, "log and head agree with each other"
        found = log.verify(exported)
        assert (found.ok, found.first_bad) == (False, 7)
        assert "rolled back" in found.problem

    def test_an_exported_head_over_other_records_is_found(self, tmp_path):
        first = opened(tmp_path / "one", 3)
        second = opened(tmp_path / "two", 2)
        second.record(chain.Event(kind="a.b", actor="x", outcome="done"))
        second.record(chain.Event(kind="a.b", actor="x", outcome="done"))
        assert second.verify().ok
        found = second.verify(first.head())
        assert (found.ok, found.first_bad) == (False, 4)

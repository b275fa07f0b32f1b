"""What may not be logged, and how what may is written."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.audit import Filters, details
from orchestrator.audit.chain import Record
from orchestrator.audit.details import canonical
from orchestrator.errors import AuditError
from tests.unit.audit.logs import KEY, START, event, opened

JWT = "eyJhbGciOiJFZERTQSJ9.eyJncmFudCI6e319.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "detail",
    [
        {"token": "x"},
        {"hub_token": "x"},
        {"client_secret": "x"},
        {"Password": "x"},
        {"deep": {"passphrase": "x"}},
        {"deep": [{"cookie": "x"}]},
        {"pin": "1234"},
        {"data_key": "6f1c"},
        {"key": "AAECAwQFBgcICQoLDA0ODw=="},
        {"keys": ["dataset/rwm/identifiers", "AAEC"]},
        {"raw": b"\x00\x01"},
        {"note": JWT},
        {"note": "-----BEGIN PRIVATE KEY-----"},
        {"note": "Authorization: Bearer abcdefghij"},
        {"number": float("nan")},
        {"number": 2**60},
        {"text": "x" * 5000},
        {"text": "\ud800"},
        {1: "x"},
        {"object": object()},
        {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": 1}}}}}}}},
    ],
    ids=lambda detail: str(detail)[:30],
)
def test_refused_details(tmp_path, detail):
    log = opened(tmp_path / "audit")
    before = (log.folder / "log.jsonl").read_bytes()
    bad = event().model_copy(update={"detail": detail})
    with pytest.raises(AuditError) as caught:
        log.record(bad)
    assert "AAEC" not in str(caught.value)
    assert JWT not in str(caught.value)
    assert (log.folder / "log.jsonl").read_bytes() == before


def test_negative_control_without_the_check_a_token_is_logged(tmp_path, monkeypatch):
    log = opened(tmp_path / "audit")
    bad = event(detail={"hub_token": "sesame"})
    with pytest.raises(AuditError):
        log.record(bad)
    monkeypatch.setattr(details, "_check_mapping", lambda *_, **__: None)
    log.record(bad)
    assert b"sesame" in (log.folder / "log.jsonl").read_bytes()


@pytest.mark.parametrize(
    "detail",
    [
        {"key": "dataset/rwm5yr/identifiers"},
        {"key_ids": ["project/0123/folder", "home/0123/sub~abc", "dataset/colon/1/colon/column/age.years"]},
        {"keys": 4},
        {"steps": ["a", "b"], "rows": 12, "share": 0.5, "none": None, "yes": True},
        {"permit": {"version": 2}, "rule": "not-a-member"},
    ],
)
def test_allowed_details_come_back(tmp_path, detail):
    log = opened(tmp_path / "audit")
    log.record(event(detail=detail))
    assert [record.event.detail for record in log.read()][1] == detail
    assert log.verify().ok


def test_an_event_as_long_as_a_line_is_refused(tmp_path):
    log = opened(tmp_path / "audit")
    with pytest.raises(AuditError, match="too large"):
        log.record(event(detail={f"text{number}": "x" * 4000 for number in range(20)}))
    assert log.record(event()) == 2


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcdef"), inner, max_size=3),
    max_leaves=6,
)


@given(detail=st.dictionaries(st.sampled_from(["rows", "step", "permit", "é", "\u2028"]), JSON))
@settings(deadline=None)
def test_a_record_is_its_line(detail):
    record = Record.make(3, START, "0" * 64, event(detail=detail), KEY)
    assert Record.parse(record.line()) == record
    assert b"\n" not in record.line()
    assert record.signed_by(KEY.public_key())


def test_canonical_form():
    assert canonical({"b": 1, "a": [True, None, "é\n"]}) == '{"a":[true,null,"é\\n"],"b":1}'.encode()


def test_filters(tmp_path):
    log = opened(tmp_path / "audit", 3)
    log.record(event(9, kind="grant.issue", actor="hub", session="a" * 32))
    log.record(event(9, kind="member.approve", actor="portal:person-1", project="heart"))

    def found(**fields):
        return [record.seq for record in log.read(Filters(**fields))]

    assert found() == [1, 2, 3, 4, 5, 6]
    assert found(project="sleep") == [2, 3, 4, 5]
    assert found(person="person-1") == [3, 6]
    assert found(session="a" * 32) == [5]
    assert found(kind="grant.issue") == found(kind="grant.*") == found(kind="grant.") == [5]
    assert found(kind="grant") == []
    times = [record.time for record in log.read()]
    assert found(since=times[4]) == [5, 6]
    assert found(until=times[1]) == [1]

"""The judgement of a probe's report: anything but a whole report of blocked attempts is a refusal."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import IsolationError
from orchestrator.workspaces import isolation, probe
from orchestrator.workspaces.isolation import evaluate, parse_report, refusal, targets_of
from tests.unit.workspaces.test_spec import SETTINGS

TARGETS = targets_of(SETTINGS, "heart")


def whole() -> list[dict[str, str]]:
    return [
        {"attempt": attempt, "target": target, "result": "blocked", "detail": "x"}
        for attempt, target in probe.plan(TARGETS)
    ]


def test_a_whole_report_of_blocked_attempts_has_no_finding() -> None:
    assert evaluate(whole(), TARGETS) == []
    assert len(whole()) > 100


@given(st.integers(0, len(whole()) - 1), st.sampled_from(["OPEN", "open", "Blocked", "", "blocked "]))
def test_any_open_attempt_is_found(index: int, result: str) -> None:
    report = whole()
    report[index]["result"] = result
    (finding,) = evaluate(report, TARGETS)
    assert (finding.attempt, finding.target) == (report[index]["attempt"], report[index]["target"])
    assert report[index]["attempt"] in str(refusal([finding]))


@given(st.sets(st.integers(0, len(whole()) - 1), min_size=1))
def test_an_attempt_that_was_not_made_is_found(left_out: set[int]) -> None:
    report = [row for index, row in enumerate(whole()) if index not in left_out]
    assert len(evaluate(report, TARGETS)) == len(left_out)


@given(st.integers(0, len(whole()) - 1))
def test_doubled_and_unknown_attempts_are_found(index: int) -> None:
    assert len(evaluate([*whole(), whole()[index]], TARGETS)) == 1
    unknown = {"attempt": "nothing", "target": "x", "result": "blocked", "detail": ""}
    assert len(evaluate([*whole(), unknown], TARGETS)) == 1


def test_a_report_for_other_targets_is_none() -> None:
    assert evaluate(whole(), {**TARGETS, "tcp": ["192.0.2.7:1"]})


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"null",
        b"{}",
        b"[1]",
        b'[{"attempt": "tcp"}]',
        b"[" * 100_000,
        b"\xff\xfe",
        b'[{"attempt":"tcp","target":"x","result":1,"detail":""}]',
    ],
)
def test_garbled_answers_are_refused(output: bytes) -> None:
    with pytest.raises(IsolationError):
        parse_report(0, output)


@given(st.integers(-10, 300).filter(bool))
def test_a_probe_that_failed_is_refused(status: int) -> None:
    with pytest.raises(IsolationError, match="status"):
        parse_report(status, json.dumps(whole()).encode())


@given(
    st.recursive(
        st.none() | st.booleans() | st.text() | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_no_json_passes_as_a_whole_report(value: Any) -> None:
    try:
        report = parse_report(0, json.dumps(value).encode())
    except IsolationError:
        return
    assert evaluate(report, TARGETS)


def test_the_control_plane_is_among_the_targets() -> None:
    assert {f"172.31.250.1:{port}" for port in range(8081, 8085)} <= set(TARGETS["tcp"])
    assert "172.31.250.1" in TARGETS["ping"] and "172.31.250.1:53" in TARGETS["resolvers"]
    listening = SETTINGS.model_copy(update={"listen": "198.51.100.1:443"})
    assert "198.51.100.1:443" in targets_of(listening, "heart")["tcp"]


def test_an_attempt_that_nobody_foresaw_counts_as_open() -> None:
    assert probe.carry_out("tcp", "not-an-address")[0] == "OPEN"


# -- negative controls --------------------------------------------------------------------------------------
def test_negative_control_without_a_plan_a_probe_that_was_cut_short_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    report = whole()[:3]
    assert evaluate(report, TARGETS)
    monkeypatch.setattr(probe, "plan", lambda targets, locked: [(row["attempt"], row["target"]) for row in report])
    assert evaluate(report, TARGETS) == []


def test_negative_control_without_its_addresses_nobody_knocks_at_the_control_plane(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(isolation, "range", lambda *_: [], raising=False)
    found = targets_of(SETTINGS, "heart")
    monkeypatch.setitem(TARGETS, "tcp", found["tcp"])
    with pytest.raises(AssertionError):
        test_the_control_plane_is_among_the_targets()

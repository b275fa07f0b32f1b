"""No metric has a person, a project or anything of data in a label, whatever it is called with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.routing import Mount, Route

from orchestrator.errors import BulleError, IsolationError, RefusedError, SecondPersonError
from orchestrator.governance import measures as authority_measures
from orchestrator.governance.operations import OPERATIONS
from orchestrator.metrics import measures
from orchestrator.metrics.measures import DECLARED, OTHER, PARTS, Count, Level, Timing, exposition
from orchestrator.node import measures as node_measures
from orchestrator.node.session_table import AbortedError, State
from orchestrator.node.volumes import Kind
from orchestrator.portal import measures as portal_measures
from orchestrator.portal.application import Portal

ROOT = Path(__file__).parents[3]
#: what must never be in a monitoring system; each could be the value that a careless caller passes on
HOSTILE = ("ada@hospital.example", "Ada Lovelace", "doctor-visits", "f" * 32, "/data/rwm5yr/x.parquet", 'a"} 1\nb{c="')
_ALL = [
    each
    for module in (authority_measures, node_measures, portal_measures)
    for each in vars(module).values()
    if isinstance(each, Count | Level | Timing)
]


def samples() -> Iterator[tuple[str, dict[str, str]]]:
    """Every sample that is told now: the metric's name and its labels."""
    for part in PARTS:
        for family in text_string_to_metric_families(exposition(part).decode()):
            for sample in family.samples:
                yield (family.name, sample.labels)


def strange() -> list[tuple[str, str, str]]:
    """Labels that say what their metric did not declare."""
    declared = {name.removesuffix("_total"): each.labels for name, each in DECLARED.items()}
    return [
        (name, label, value)
        for name, labels in samples()
        for label, value in labels.items()
        if label != "le" and value not in declared[name].get(label, ())
    ]


def call(metric: Count | Level | Timing, value: str) -> None:
    """Use a metric with ``value`` in each of its labels."""
    labels = dict.fromkeys(DECLARED[metric._name].labels, value)
    if isinstance(metric, Count):
        metric.add(**labels)
    elif isinstance(metric, Timing):
        metric.took(0.1, **labels)
    elif labels:
        metric.follow(lambda: 1, **labels)


@pytest.mark.parametrize("metric", _ALL, ids=lambda metric: metric._name)
def test_what_was_not_declared_becomes_other(metric: Count | Level | Timing) -> None:
    for value in HOSTILE:
        call(metric, value)
    assert strange() == []
    told = "".join(exposition(part).decode() for part in PARTS)
    assert [value for value in HOSTILE if value.splitlines()[0] in told] == []
    if DECLARED[metric._name].labels:
        assert f'"{OTHER}"' in told


def test_without_the_control_it_would_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: labels that take any value, and the same look at them."""
    monkeypatch.setattr(measures, "_at", lambda metric, name, given: metric.labels(**given))
    authority_measures.REFUSALS.add(rule=HOSTILE[0])
    try:
        assert strange() == [("bulle_refusals", "rule", HOSTILE[0])]
    finally:
        authority_measures.REFUSALS._metric.remove(HOSTILE[0])


def test_every_metric_that_is_told_was_declared() -> None:
    for part in PARTS:
        told = {family.name for family in text_string_to_metric_families(exposition(part).decode())}
        assert told == {name.removesuffix("_total") for name, each in DECLARED.items() if each.part == part}


@pytest.mark.parametrize("name", DECLARED)
def test_a_label_says_nothing_of_people_projects_or_data(name: str) -> None:
    for label, values in DECLARED[name].labels.items():
        assert label not in {"person", "project", "session", "user", "name", "dataset", "table", "column", "file"}
        assert all(re.fullmatch(r"[a-z0-9_.-]{1,32}", value) for value in values), values
        assert len(values) < 200


def test_the_rules_that_refuse_are_all_known() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "orchestrator" / "governance").glob("*.py"))
    named = set(re.findall(r"refused by rule ([a-z.-]{2,})[:/ ]", sources)) - {"or"}
    assert len(named) > 5
    assert named - authority_measures.RULES == set()


@pytest.mark.parametrize(
    ("told", "rule"),
    [
        ("refused by rule permit.approve/not-drafter: no", "permit.approve"),
        ("refused by rule no-training: no", "no-training"),
        ("refused by rule ada@hospital.example: no", OTHER),
        ("you have too many passkeys already", OTHER),
    ],
)
def test_a_refusal_counts_for_the_rule_that_it_names(told: str, rule: str) -> None:
    before = count("bulle_refusals_total", rule=rule)
    authority_measures.refused(told)
    assert count("bulle_refusals_total", rule=rule) == before + 1


def count(name: str, **labels: str) -> float:
    for part in PARTS:
        for family in text_string_to_metric_families(exposition(part).decode()):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return sample.value
    return 0.0


def test_what_parts_measure_are_the_states_that_there_are() -> None:
    assert set(node_measures.STATES) == set(State)
    assert set(node_measures.KINDS) == set(Kind)
    source = (ROOT / "orchestrator" / "node" / "sessions.py").read_text()
    told = {node_measures._MEASURED_AS.get(step, step) for step in re.findall(r'Step\("(\w+)"', source)}
    assert told == {*node_measures.STEPS, "ready"}


def test_every_page_of_the_portal_is_measured_under_its_name(portal: Portal) -> None:
    (mount,) = portal.application().routes
    assert isinstance(mount, Mount)
    paths = [each.path for each in mount.routes if isinstance(each, Route | Mount)]
    assert {portal_measures.page_of(portal_measures.PREFIX + path.lstrip("/")) for path in paths} == set(
        portal_measures.PAGES
    )


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "done"),
        (IsolationError("x"), "isolation"),
        (RefusedError("x"), "refused"),
        (AbortedError("x"), "aborted"),
        (ValueError("x"), "failed"),
    ],
)
def test_how_a_start_ended(error: BaseException | None, outcome: str) -> None:
    before = count("bulle_workspace_starts_total", outcome=outcome)
    timed = count("bulle_workspace_start_seconds_count")
    steps = node_measures.Steps()
    for step in ("starting", "proving", "keys", "view", "folders", "view", "desktop", "ready"):
        steps.enter(step)
    steps.over(error)
    assert count("bulle_workspace_starts_total", outcome=outcome) == before + 1
    assert count("bulle_workspace_start_seconds_count") == timed + (error is None)
    assert count("bulle_workspace_start_step_seconds_count", step=OTHER) <= len(HOSTILE)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(None, "done"), (RefusedError("x"), "refused"), (SecondPersonError("x"), "waits"), (BulleError("x"), "failed")],
)
def test_how_an_operation_ended(error: BulleError | None, outcome: str) -> None:
    name = next(iter(OPERATIONS))
    before = count("bulle_operation_seconds_count", operation=name, outcome=outcome)
    try:
        with authority_measures.operation(name):
            if error is not None:
                raise error
    except BulleError:
        pass
    assert count("bulle_operation_seconds_count", operation=name, outcome=outcome) == before + 1


def test_a_level_that_cannot_be_told_stops_nothing() -> None:
    def fails() -> float:
        raise RuntimeError("gone")

    node_measures.LOAD.follow(fails)
    node_measures.CPUS.follow(lambda: 3)
    told = exposition("node").decode()
    assert "bulle_machine_load NaN" in told and "bulle_machine_cpus 3.0" in told

"""The dashboard, the alarms and the page about them name metrics that exist, with labels and values that they have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import orchestrator.governance.measures
import orchestrator.node.measures
import orchestrator.portal.measures  # noqa: F401 - each declares its metrics
from orchestrator.config import Metrics
from orchestrator.metrics.gather import UP
from orchestrator.metrics.measures import DECLARED, OTHER

FOLDER = Path(__file__).parents[3] / "docs" / "monitoring"
PAGE = FOLDER.with_suffix(".md")
LABELS = {UP: {"part": frozenset({"authority", "node", "portal", "hub"})}}
LABELS |= {name: dict(each.labels) for name, each in DECLARED.items()}
_SUFFIXES = ("_bucket", "_count", "_sum")


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in rules())
    for panel in json.loads((FOLDER / "grafana-dashboard.json").read_text())["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))


def wrong(expression: str) -> list[str]:
    """What of an expression no metric here has."""
    found = []
    for name, _, chosen in re.findall(r"\b(bulle_\w+)(\{([^}]*)\})?", expression):
        base = name
        for suffix in _SUFFIXES:
            if name.removesuffix(suffix) in DECLARED and DECLARED[name.removesuffix(suffix)].kind == "histogram":
                base = name.removesuffix(suffix)
        if base not in LABELS or (base == name and base in DECLARED and DECLARED[base].kind == "histogram"):
            found.append(name)
            continue
        for label, values in re.findall(r'(\w+)\s*[!=]=?~?\s*"([^"]*)"', chosen):
            known = LABELS[base].get(label, frozenset())
            found += [f"{name}: {label}={value}" for value in values.split("|") if value not in known - {OTHER}]
    grouped = {each.strip() for group in re.findall(r"\bby \(([^)]*)\)", expression) for each in group.split(",")}
    labels = {
        label
        for name in re.findall(r"bulle_\w+?(?=_bucket|_count|_sum|\b)", expression)
        for label in LABELS.get(name, {})
    }
    return found + [f"by {label}" for label in grouped - labels - {"le"}]


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_an_expression_names_what_is_measured(expression: str) -> None:
    assert wrong(expression) == []


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("bulle_nothing > 1", ["bulle_nothing"]),
        ('bulle_workspaces{state="asleep"}', ["bulle_workspaces: state=asleep"]),
        ("bulle_decision_seconds > 1", ["bulle_decision_seconds"]),
        ("sum by (person) (bulle_workspaces)", ["by person"]),
        (
            'rate(bulle_workspace_starts_total{outcome=~"failed|lost"}[5m])',
            ["bulle_workspace_starts_total: outcome=lost"],
        ),
    ],
)
def test_a_wrong_expression_is_seen(expression: str, found: list[str]) -> None:
    assert wrong(expression) == found


def test_every_metric_is_on_the_dashboard_or_in_an_alarm() -> None:
    text = " ".join(expressions())
    assert [name for name in LABELS if not re.search(rf"\b{name}(_bucket|_count|_sum)?\b", text)] == []


def test_every_alarm_says_what_it_means_and_what_to_do() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "warn")
        assert rule["annotations"]["summary"] and rule["annotations"]["action"]


def test_the_page_tells_of_every_metric_and_every_alarm_as_it_is() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(bulle_\w+)` \| (\w+)((?:, `\w+`)*) \| (.*) \|$", text, re.MULTILINE)
    told = {name: (kind, tuple(re.findall(r"`(\w+)`", labels)), words) for name, kind, labels, words in rows}
    assert told.pop(UP)[:2] == ("gauge", ("part",))
    assert told == {name: (each.kind, tuple(each.labels), each.words) for name, each in DECLARED.items()}
    assert re.findall(r"^\| `(Bulle\w+)` \((\w+)\)", text, re.MULTILINE) == [
        (rule["alert"], rule["labels"]["severity"]) for rule in rules()
    ]


def test_the_address_that_is_scraped_is_the_one_that_is_served() -> None:
    (job,) = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": [Metrics.model_fields["listen"].default]}]
    assert job["authorization"]["type"] == "Bearer"

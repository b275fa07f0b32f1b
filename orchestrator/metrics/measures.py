"""What a part can measure: counts, levels and times, each with labels of which every value is known beforehand.

Stops: a person, a project or anything of data that gets into a monitoring system, which more people read than may know
of it, and which keeps it for years. A label is declared with all of its values; what is none of them becomes
``other``, so that no caller, however careless, can put anything else there. Shown by
tests/unit/metrics/test_labels.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

Part = Literal["authority", "node", "portal"]
PARTS: tuple[Part, ...] = ("authority", "node", "portal")
PREFIX = "bulle_"
OTHER = "other"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: seconds; from a page to a start that builds a large view
STARTS = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 60.0, 120.0)
CALLS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 5.0)

# The moment at which each series began says nothing here and doubles what is read.
prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

_REGISTRIES: dict[Part, CollectorRegistry] = {part: CollectorRegistry() for part in PARTS}
_Wrapped = TypeVar("_Wrapped", Counter, Gauge, Histogram)


@dataclass(frozen=True)
class Declared:
    """A metric as it was declared: its part, kind and words, and every value that each of its labels can have."""

    part: Part
    kind: Literal["counter", "gauge", "histogram"]
    words: str
    labels: Mapping[str, frozenset[str]]


#: every metric by its name
DECLARED: dict[str, Declared] = {}


def _declare(
    part: Part,
    kind: Literal["counter", "gauge", "histogram"],
    name: str,
    words: str,
    labels: Mapping[str, Iterable[str]],
) -> str:
    full = PREFIX + name
    closed = {label: frozenset(map(str, values)) | {OTHER} for label, values in labels.items()}
    DECLARED[full] = Declared(part, kind, words, closed)
    return full


def _at(metric: _Wrapped, name: str, given: Mapping[str, object]) -> _Wrapped:
    closed = DECLARED[name].labels
    if not closed:
        return metric
    told = {label: str(given[label]) for label in closed}
    return metric.labels(**{label: value if value in closed[label] else OTHER for label, value in told.items()})


class Count:
    """How often something happened since the part began."""

    def __init__(self, part: Part, name: str, words: str, **labels: Iterable[str]) -> None:
        self._name = _declare(part, "counter", name, words, labels)
        self._metric = Counter(self._name, words, tuple(labels), registry=_REGISTRIES[part])

    def add(self, amount: float = 1, **labels: object) -> None:
        """Once more, or ``amount`` times."""
        _at(self._metric, self._name, labels).inc(amount)


class Level:
    """How much there is now."""

    def __init__(self, part: Part, name: str, words: str, **labels: Iterable[str]) -> None:
        self._name = _declare(part, "gauge", name, words, labels)
        self._metric = Gauge(self._name, words, tuple(labels), registry=_REGISTRIES[part])

    def follow(self, ask: Callable[[], float | None], **labels: object) -> None:
        """From now on, ask when somebody reads it. What cannot be told, or fails, is ``NaN`` and stops nothing."""

        def told() -> float:
            try:
                found = ask()
            except Exception:  # noqa: BLE001 - whatever it was, the other figures must be told
                return float("nan")
            return float("nan") if found is None else float(found)

        _at(self._metric, self._name, labels).set_function(told)


class Timing:
    """How long something took, in seconds."""

    def __init__(
        self, part: Part, name: str, words: str, buckets: tuple[float, ...] = CALLS, **labels: Iterable[str]
    ) -> None:
        self._name = _declare(part, "histogram", name, words, labels)
        self._metric = Histogram(
            self._name, words, tuple(labels), registry=_REGISTRIES[part], buckets=(*buckets, float("inf"))
        )

    def took(self, seconds: float, **labels: object) -> None:
        """It took so long."""
        _at(self._metric, self._name, labels).observe(seconds)

    @contextmanager
    def timed(self, **labels: object) -> Iterator[None]:
        """Measure the block, whatever comes of it."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.took(time.perf_counter() - began, **labels)


def exposition(part: Part) -> bytes:
    """All of a part's metrics as Prometheus reads them (text format 0.0.4)."""
    return prometheus_client.generate_latest(_REGISTRIES[part])


def wrapped(part: Part) -> list[MetricWrapperBase]:
    """The metrics of a part as the library has them, for tests that read every label."""
    return [each for each in _REGISTRIES[part]._collector_to_names if isinstance(each, MetricWrapperBase)]

"""Months, money and storage: what was used, added up and priced. Pure.

Hours are hours, GB are 10^9 bytes, months are calendar months in UTC. Money is decimal: quantities are taken to a
millionth, the price of a line is computed exactly and rounded once, half up, to a hundredth of the currency. A total
is the sum of rounded lines, so that it is what somebody gets who adds the lines up.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Literal, get_args

from orchestrator.config import Prices, Quotas
from orchestrator.errors import InputError
from orchestrator.governance.cards import UsageLine, UsagePage

GB = 1e9
_HOUR = 3600.0
_MILLIONTH = Decimal("0.000001")
_CENT = Decimal("0.01")

QuotaKind = Literal["hours", "cpu_hours", "memory_gb_hours", "storage_gb"]
#: kind of quota → the unit in which people are told
UNITS: dict[QuotaKind, str] = {
    "hours": "hours of workspaces",
    "cpu_hours": "processor hours",
    "memory_gb_hours": "GB hours of memory",
    "storage_gb": "GB of storage",
}
KINDS: tuple[QuotaKind, ...] = get_args(QuotaKind)


def month_of(moment: datetime) -> str:
    """The calendar month in UTC, such as ``2026-11``."""
    return moment.astimezone(UTC).strftime("%Y-%m")


def first_day(month: str) -> date:
    """The first day of a month. Raises InputError where it is none."""
    try:
        return date.fromisoformat(f"{month}-01")
    except ValueError as error:
        raise InputError(f"'{month}' is not a month", hint="write it like 2026-11") from error


def next_month(month: str) -> date:
    """The first day of the month after ``month``."""
    first = first_day(month)
    return first + timedelta(days=monthrange(first.year, first.month)[1])


@dataclass(frozen=True)
class Used:
    """An amount of use; ``gb_months`` is storage over the days that went by, ``gb`` its mean over them."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory_gb_seconds: float = 0.0
    gb: float = 0.0
    gb_months: float = 0.0


def storage_in(sizes: Iterable[tuple[str, float]], month: str, today: date) -> tuple[float, float]:
    """Storage of a folder in ``month``: mean GB over its days until ``today``, and GB months.

    ``sizes`` are (day, bytes), in any order. A folder keeps its size until the next measurement: one that nobody
    opens is not measured and does not change.
    """
    first, after = first_day(month), next_month(month)
    last = min(after - timedelta(days=1), today)
    days = (last - first).days + 1
    if days <= 0:
        return 0.0, 0.0
    known = sorted(sizes)
    sum_gb, held, at = 0.0, 0.0, 0
    for number in range(days):
        day = (first + timedelta(days=number)).isoformat()
        while at < len(known) and known[at][0] <= day:
            held = known[at][1] / GB
            at += 1
        sum_gb += held
    return sum_gb / days, sum_gb / (after - first).days


def _exact(amount: float) -> Decimal:
    return Decimal(amount).quantize(_MILLIONTH)


def cost(used: Used, prices: Prices) -> Decimal:
    """What it costs, rounded once."""
    told = (
        _exact(used.seconds / _HOUR) * prices.hour
        + _exact(used.cpu_seconds / _HOUR) * prices.cpu_hour
        + _exact(used.memory_gb_seconds / _HOUR) * prices.memory_gb_hour
        + _exact(used.gb_months) * prices.storage_gb_month
    )
    return told.quantize(_CENT, ROUND_HALF_UP)


def line(project: tuple[str, str], person: tuple[str, str], used: Used, prices: Prices) -> UsageLine:
    """A line of the page: project (slug, title), person (id, name; empty for the project's folder)."""
    return UsageLine(
        project=project[0],
        project_title=project[1],
        person=person[0],
        person_name=person[1],
        hours=used.seconds / _HOUR,
        cpu_hours=used.cpu_seconds / _HOUR,
        memory_gb_hours=used.memory_gb_seconds / _HOUR,
        storage_gb=used.gb,
        cost=cost(used, prices),
    )


@dataclass(frozen=True)
class Limited:
    """What a project used this month and holds now, against what it may."""

    used: dict[QuotaKind, float]
    most: dict[QuotaKind, float | None]

    def exceeded(self, part: float = 1.0) -> QuotaKind | None:
        """The first kind that is used up, or of which ``part`` is."""
        for kind in KINDS:
            limit = self.most[kind]
            if limit is not None and self.used[kind] >= limit * part:
                return kind
        return None

    def message(self, kind: QuotaKind, month: str) -> str:
        """What people are told when ``kind`` is used up."""
        told = f"the project used {self.used[kind]:.2f} of {self.most[kind]:g} {UNITS[kind]}"
        if kind == "storage_gb":
            return f"{told}; a workspace opens when a quota is raised or storage is given back"
        return f"{told} in {month}; it is counted anew from {next_month(month).isoformat()}"


def limits_of(quotas: Quotas, own: Sequence[tuple[str, float]]) -> dict[QuotaKind, float | None]:
    """The deployment's quotas, with a project's own in their place."""
    overriding = dict(own)
    return {kind: overriding.get(kind, getattr(quotas, kind)) for kind in KINDS}


CSV_HEADER = (
    "month",
    "project",
    "project_title",
    "person",
    "person_name",
    "hours",
    "cpu_hours",
    "memory_gb_hours",
    "storage_gb",
    "cost",
    "currency",
)


def csv_rows(page: UsagePage) -> list[tuple[str | Decimal, ...]]:
    """The page as a table with a header, for the command line and the portal alike."""
    rows: list[tuple[str | Decimal, ...]] = [CSV_HEADER]
    for one in page.lines:
        amounts = (_exact(one.hours), _exact(one.cpu_hours), _exact(one.memory_gb_hours), _exact(one.storage_gb))
        who = (one.project, one.project_title, one.person, one.person_name)
        rows.append((page.month, *who, *amounts, one.cost, page.currency))
    return rows

"""Months, storage and money: added up, priced and rounded as docs/usage.md says."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import Prices, Quotas
from orchestrator.errors import InputError
from orchestrator.governance import costs
from orchestrator.governance.cards import UsagePage
from orchestrator.governance.costs import GB, Limited, Used, cost, csv_rows, limits_of, line, month_of, storage_in

PRICES = Prices(
    hour=Decimal("0.10"), cpu_hour=Decimal("0.02"), memory_gb_hour=Decimal("0.005"), storage_gb_month=Decimal("0.03")
)


def test_a_month_is_a_calendar_month_in_utc() -> None:
    assert month_of(datetime.fromisoformat("2026-12-01T00:30:00+01:00")) == "2026-11"
    assert costs.next_month("2026-12") == date(2027, 1, 1)
    for wrong in ("2026-13", "2026", "november", "2026-11-01"):
        with pytest.raises(InputError, match="not a month"):
            costs.first_day(wrong)


def test_a_folder_keeps_its_size_until_it_is_measured_again() -> None:
    sizes = [("2026-10-20", 10 * GB), ("2026-11-16", 20 * GB)]
    assert storage_in(sizes, "2026-11", date(2026, 12, 5)) == (15.0, 15.0)
    # In the middle of the month only the days that went by count: mean so far, and half a month of it.
    assert storage_in(sizes, "2026-11", date(2026, 11, 15)) == (10.0, 5.0)
    assert storage_in(sizes, "2026-09", date(2026, 12, 5)) == (0.0, 0.0)
    assert storage_in(sizes, "2027-01", date(2026, 12, 5)) == (0.0, 0.0)
    # Destroyed on the 1st: nothing is held, nothing costs.
    assert storage_in([*sizes, ("2026-12-01", 0.0)], "2026-12", date(2026, 12, 31)) == (0.0, 0.0)


def test_a_line_is_priced_exactly_and_rounded_once_half_up() -> None:
    used = Used(seconds=3600 * 10, cpu_seconds=3600 * 3, memory_gb_seconds=3600 * 40, gb=5, gb_months=5)
    assert cost(used, PRICES) == Decimal("1.41")
    # 0.005 is half a cent: up, where floats or bankers' rounding would give 0.00.
    assert cost(Used(memory_gb_seconds=3600), PRICES) == Decimal("0.01")
    assert cost(Used(memory_gb_seconds=3599), PRICES) == Decimal("0.00")
    assert cost(used, Prices()) == Decimal("0.00")


amounts = st.floats(0, 1e9, allow_nan=False)


@given(amounts, amounts, amounts, st.floats(0, 1e5))
def test_money_is_never_negative_and_never_more_precise_than_a_cent(
    seconds: float, cpu: float, memory: float, gb: float
) -> None:
    found = cost(Used(seconds, cpu, memory, gb, gb), PRICES)
    assert found >= 0 and found == found.quantize(Decimal("0.01"))


def test_a_projects_own_quota_stands_in_place_of_the_deployments() -> None:
    most = limits_of(Quotas(hours=100, storage_gb=50), [("hours", 20.0), ("cpu_hours", 7.0)])
    assert most == {"hours": 20.0, "cpu_hours": 7.0, "memory_gb_hours": None, "storage_gb": 50}


def test_a_quota_is_used_up_when_it_is_reached_and_says_which_how_much_and_until_when() -> None:
    used = {"hours": 20.0, "cpu_hours": 6.0, "memory_gb_hours": 1e9, "storage_gb": 0.0}
    most = limits_of(Quotas(hours=20, cpu_hours=7), [])
    found = Limited(used, most)  # type: ignore[arg-type]
    assert found.exceeded() == "hours"
    told = found.message("hours", "2026-12")
    assert "20.00 of 20 hours" in told and "2026-12" in told and "2027-01-01" in told
    assert Limited({**used, "hours": 19.99}, most).exceeded() is None  # type: ignore[dict-item]


def test_the_table_names_its_month_and_currency_in_each_row() -> None:
    one = line(("sleep", "Sleep"), ("ann", "Ann"), Used(3600, 1800, 0, 2.5, 2.5), PRICES)
    page = UsagePage(month="2026-11", currency="EUR", lines=(one,), quotas={}, used={})
    header, row = csv_rows(page)
    told = dict(zip(header, row, strict=True))
    assert told["hours"] == Decimal("1.000000") and told["cpu_hours"] == Decimal("0.500000")
    assert (told["month"], told["person"], told["cost"], told["currency"]) == ("2026-11", "ann", Decimal("0.19"), "EUR")


def test_months_split_at_midnight_utc() -> None:
    assert month_of(datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC)) == "2026-11"
    assert month_of(datetime(2026, 12, 1, tzinfo=UTC)) == "2026-12"

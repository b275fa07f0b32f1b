"""Tables as CSV (RFC 4180), a piece at a time, safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

#: what a spreadsheet takes for the beginning of a formula; full-width forms become these under NFKC
_FORMULA = ("=", "+", "-", "@", "|", "%")
#: tells a spreadsheet that the file is UTF-8 (RFC 3629, section 6)
BYTE_ORDER_MARK = "\ufeff"

Cell = str | int | float | Decimal | datetime | bool | None


def written(cell: Cell) -> str:
    """A cell's text.

    Stops: a text that somebody chose, such as a project's title or a file's name, and that a spreadsheet would run as a
    formula when an auditor opens the file (CSV injection): it gets an apostrophe in front. Numbers and moments are
    ours and stay as they are. Shown by tests/unit/portal/test_spreadsheet.py.
    """
    if cell is None:
        return ""
    if isinstance(cell, datetime):
        return cell.isoformat()
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if not isinstance(cell, str):
        return str(cell)
    begins = unicodedata.normalize("NFKC", cell).lstrip().removeprefix("\ufeff").lstrip()
    if begins.startswith(_FORMULA) or cell[:1] in ("\t", "\r", "\n"):
        return "'" + cell
    return cell


def rows(lines: Iterable[Iterable[Cell]]) -> str:
    """Lines of cells as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerows([written(cell) for cell in line] for line in lines)
    return text.getvalue()

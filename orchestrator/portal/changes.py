"""What an application would change of what is in force, made readable: words that come and go, columns and rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from difflib import SequenceMatcher
from typing import Literal

from orchestrator.governance.cards import ApplicationContent, ProjectRecord, RequestedColumn, RequestedTable
from orchestrator.portal.conditions import written_condition
from orchestrator.portal.dictionary import coarsened
from orchestrator.terms import ColumnPermit, PermitTerms, TablePermit

Kind = Literal["same", "new", "gone"]


@dataclass(frozen=True)
class Piece:
    """A piece of a text: it stays, comes or goes."""

    kind: Kind
    text: str


@dataclass(frozen=True)
class Column:
    """A column that comes, goes or is shown otherwise; ``before`` and ``after`` are coarsenings."""

    name: str
    kind: Literal["new", "gone", "other"]
    before: str | None = None
    after: str | None = None


@dataclass(frozen=True)
class Rows:
    """A condition on rows that comes or goes."""

    kind: Kind
    text: str


@dataclass(frozen=True)
class Change:
    """One thing that would change. ``part`` is a part of the application (orchestrator.portal.words.PARTS).

    A text has ``pieces``, a date ``before`` and ``after``, a table ``table``, ``kind``, ``columns`` and ``rows``.
    """

    part: str
    pieces: tuple[Piece, ...] = ()
    before: datetime | None = None
    after: datetime | None = None
    table: str = ""
    kind: Literal["new", "gone", "other"] = "other"
    columns: tuple[Column, ...] = ()
    rows: tuple[Rows, ...] = ()


def changes(wanted: ApplicationContent, project: ProjectRecord, permit: PermitTerms | None) -> list[Change]:
    """All that ``wanted`` would change of the project and its permit in force, in the order of an application."""
    found = []
    for part in ("title", "lay_summary", "purpose", "legal_basis", "outputs"):
        before, after = getattr(project, part), getattr(wanted, part)
        if before.split() != after.split():
            found.append(Change(part, pieces=tuple(pieces(before, after))))
    for part in ("starts", "ends"):
        was, becomes = getattr(project, part), getattr(wanted, part)
        if was != becomes:
            found.append(Change(part, before=was, after=becomes))
    return [*found, *_tables(wanted.tables, permit.tables if permit else ())]


def pieces(before: str, after: str) -> Iterator[Piece]:
    """The words of both texts in one, each marked as what stays, goes or comes."""
    # A word with the space after it: else a sentence of other words is cut at each space that both have.
    old, new = re.findall(r"\S+\s*|\s+", before), re.findall(r"\S+\s*|\s+", after)
    for tag, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            yield Piece("same", "".join(old[a:b]))
            continue
        if b > a:
            yield Piece("gone", "".join(old[a:b]))
        if d > c:
            yield Piece("new", "".join(new[c:d]))


def _tables(wanted: tuple[RequestedTable, ...], permitted: tuple[TablePermit, ...]) -> Iterator[Change]:
    old = {f"{table.dataset}/{table.table}": table for table in permitted}
    new = {f"{table.dataset}/{table.table}": table for table in wanted}
    for name in dict.fromkeys([*new, *old]):
        columns = tuple(_columns(old.get(name), new.get(name)))
        rows = tuple(_rows(old.get(name), new.get(name)))
        if columns or rows or name not in old or name not in new:
            kind: Literal["new", "gone", "other"] = "new" if name not in old else "gone" if name not in new else "other"
            yield Change("tables", table=name, kind=kind, columns=columns, rows=rows)


def _columns(before: TablePermit | None, after: RequestedTable | None) -> Iterator[Column]:
    old: dict[str, ColumnPermit] = {column.name: column for column in before.columns} if before else {}
    new: dict[str, RequestedColumn] = {column.name: column for column in after.columns} if after else {}
    for name in dict.fromkeys([*new, *old]):
        was = coarsened(old[name]) if name in old else None
        becomes = coarsened(new[name]) if name in new else None
        if name not in old:
            yield Column(name, "new", after=becomes)
        elif name not in new:
            yield Column(name, "gone", before=was)
        elif was != becomes:
            yield Column(name, "other", was, becomes)


def _rows(before: TablePermit | None, after: RequestedTable | None) -> Iterator[Rows]:
    old = [written_condition(condition) for condition in before.rows] if before else []
    new = [written_condition(condition) for condition in after.rows] if after else []
    yield from (Rows("gone", text) for text in old if text not in new)
    yield from (Rows("new", text) for text in new if text not in old)

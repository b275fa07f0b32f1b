"""Rows of the governance store as lines of JSON: the same from SQLite and from PostgreSQL, and into either.

The first line names the schema. Each other is ``{"table": …, "row": {column: value}}``; moments in ISO 8601, bytes in
base64. Tables stand in an order in which each row's references are there before it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from enum import Enum
from typing import Any

from sqlalchemy import ColumnElement, LargeBinary, Table, func, insert, select, text
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import Session

from orchestrator.errors import ConflictError, InputError
from orchestrator.governance.store import SCHEMA, Base, SchemaVersion, UtcDateTime

_AT_ONCE = 500
_LONGEST = 16 << 20
#: made by the migrations, and no content
_OWN = {SchemaVersion.__tablename__}


def tables() -> list[Table]:
    """The tables that hold something, each after those that it refers to."""
    return [table for table in Base.metadata.sorted_tables if table.name not in _OWN]


def dumped(session: Session) -> Iterator[bytes]:
    """All rows of the store, in the moment that the session's transaction sees."""
    yield _line({"schema": SCHEMA})
    for table in tables():
        for row in rows(session, table):
            yield _line({"table": table.name, "row": row})


def rows(session: Session, table: Table, *where: ColumnElement[bool]) -> Iterator[dict[str, Any]]:
    """Rows of one table in JSON's types, in the order of their keys."""
    wanted = select(table).where(*where).order_by(*table.primary_key.columns)
    for row in session.execute(wanted.execution_options(yield_per=_AT_ONCE)).mappings():
        yield {column.name: _plain(row[column.name]) for column in table.columns}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.value if isinstance(value, Enum) else value


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def decoded(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    """A row with its values as the table takes them. Raises InputError where it is no row of the table."""
    # Exactly: a column that is left away would be filled by chance, one too many is another program's.
    if not isinstance(row, dict) or set(row) != {column.name for column in table.columns}:
        raise InputError(f"a row of table '{table.name}' does not have that table's columns")
    try:
        return {column.name: _typed(column.type, row[column.name]) for column in table.columns}
    except (TypeError, ValueError) as error:
        raise InputError(f"a row of table '{table.name}' has a value of another kind") from error


def _typed(kind: Any, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(kind, UtcDateTime):
        return datetime.fromisoformat(value)
    return base64.b64decode(value, validate=True) if isinstance(kind, LargeBinary) else value


def check_empty(session: Session) -> None:
    """Refuse a store that holds something. Raises ConflictError."""
    for table in tables():
        # Stops: a backup that is mixed with what is there. Shown by tests/unit/moving/test_store.py.
        if session.scalar(select(func.count()).select_from(table)):
            raise ConflictError(f"the governance store is not empty: table '{table.name}' has rows")


def load(session: Session, lines: Iterable[bytes]) -> int:
    """Insert what :func:`dumped` gave into an empty store; the number of rows. The caller commits.

    Raises:
        InputError: it is of another schema, or damaged.
        ConflictError: the store is not empty.
    """
    check_empty(session)
    known = {table.name: table for table in tables()}
    count = 0
    waiting: list[dict[str, Any]] = []
    of: Table | None = None
    for number, line in enumerate(lines):
        content = _read(line, number)
        if not number:
            if content != {"schema": SCHEMA}:
                raise InputError(
                    f"the store in the archive follows schema {content.get('schema')}; this program knows {SCHEMA}",
                    hint="restore with the version of Bulle that made the backup, and upgrade then",
                )
            continue
        named = known.get(str(content.get("table")))
        if named is None or set(content) != {"table", "row"}:
            raise InputError(f"line {number + 1} of the store in the archive is of no table that this program knows")
        if of is not None and (named is not of or len(waiting) >= _AT_ONCE):
            _insert(session, of, waiting)
            waiting = []
        of = named
        waiting.append(decoded(named, content["row"]))
        count += 1
    if of is not None:
        _insert(session, of, waiting)
    _count_on(session)
    return count


def _read(line: bytes, number: int) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except ValueError as error:
        raise InputError(f"line {number + 1} of the store in the archive is not JSON") from error
    if not isinstance(content, dict):
        raise InputError(f"line {number + 1} of the store in the archive is not a row")
    return content


def _insert(session: Session, table: Table, content: list[dict[str, Any]]) -> None:
    try:
        session.execute(insert(table), content)
    except StatementError as error:
        if error.orig is None or isinstance(error.orig, TypeError | ValueError):
            raise InputError(f"a row of table '{table.name}' has a value of another kind") from error
        raise


def _count_on(session: Session) -> None:
    """On PostgreSQL, let each sequence of numbers go on after the largest that was inserted."""
    if session.get_bind().dialect.name != "postgresql":
        return
    for table in tables():
        for column in table.primary_key.columns:
            name = {"table": table.name, "column": column.name}
            sequence = session.scalar(text("SELECT pg_get_serial_sequence(:table, :column)"), name)
            largest = session.scalar(select(func.max(column))) if sequence else None
            if largest is not None:
                session.execute(text("SELECT setval(:sequence, :largest)"), {"sequence": sequence, "largest": largest})

"""Where a text file is wrong: a slow, careful second reading that names the row and the column."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import pyarrow as pa

from orchestrator.data.schema import TableSchema
from orchestrator.data.values import convert
from orchestrator.errors import InputError

_ROWS = 1 << 14
_UNDECODED = range(0xDC80, 0xDD00)  # where Python puts bytes that the encoding lacks (PEP 383)


@contextmanager
def open_text(path: Path, encoding: str) -> Iterator[TextIO]:
    """Open a text file so that wrong bytes are kept, for :func:`raise_first_fault` to name.

    Raises:
        InputError: it is in UTF-16, which no schema can name.
    """
    _refuse_wide_encodings(path)
    known = "utf-8-sig" if encoding == "utf-8" else encoding
    with path.open(encoding=known, errors="surrogateescape", newline="") as text:
        yield text


def raise_first_fault(path: Path, schema: TableSchema) -> None:
    """Raise for the first row that is not what the schema says; return if none is found.

    Raises:
        InputError: names the row (of data, from 1), the line and the column.
    """
    limit = csv.field_size_limit(sys.maxsize)
    try:
        with open_text(path, schema.encoding) as text:
            _scan(csv.reader(text, delimiter=schema.delimiter, strict=True), path.name, schema)
    finally:
        csv.field_size_limit(limit)


def _refuse_wide_encodings(path: Path) -> None:
    with path.open("rb") as stream:
        start = stream.read(4)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{path.name} is in UTF-16", hint="convert it to UTF-8 first")


class _Pending:
    """Rows whose shape is right, until their values are looked at."""

    def __init__(self, header: list[str], where: str, schema: TableSchema) -> None:
        self._header, self._where, self._schema = header, where, schema
        self._nulls = frozenset(schema.nulls)
        self._rows: list[list[str]] = []
        self._first = 1

    def add(self, row: list[str]) -> None:
        self._rows.append(row)
        if len(self._rows) >= _ROWS:
            self.check()

    def check(self) -> None:
        """Raise for the first wrong value, first by row, then by column."""
        faults: list[tuple[int, InputError]] = []
        for column in self._schema.columns:
            at = self._header.index(column.name)
            values = [None if row[at] in self._nulls else row[at] for row in self._rows]
            # up to the earliest fault so far, so that what remains is earlier
            end = faults[-1][0] if faults else len(values)
            fault = self._first_fault(pa.array(values[:end], pa.string()), column.name)
            if fault is not None:
                faults.append(fault)
        if faults:
            raise faults[-1][1]
        self._first += len(self._rows)
        self._rows.clear()

    def _first_fault(self, values: pa.Array, name: str) -> tuple[int, InputError] | None:
        column = self._schema.column(name)
        assert column is not None  # noqa: S101 - it is one of the schema's own
        try:
            convert(values, column, self._first, self._where)
        except InputError as error:
            fault = error
        else:
            return None
        low, high = 0, len(values)  # convert refuses [:high] and accepts [:low]
        while high - low > 1:
            middle = (low + high) // 2
            try:
                convert(values[:middle], column, self._first, self._where)
            except InputError as earlier:
                high, fault = middle, earlier
            else:
                low = middle
        return low, fault


def _scan(rows: Iterator[list[str]], where: str, schema: TableSchema) -> None:
    header: list[str] | None = None
    pending: _Pending | None = None
    number = 0
    try:
        for row in rows:
            if not row:
                continue
            line = getattr(rows, "line_num", 0)
            if header is None or pending is None:
                header, pending = row, _Pending(row, where, schema)
                continue
            number += 1
            if len(row) != len(header):
                pending.check()
                _refuse_shape(row, header, f"{where}: row {number} (line {line})")
            try:
                refuse_characters(row, header, f"{where}: row {number} (line {line})")
            except InputError:
                pending.check()
                raise
            pending.add(row)
    except csv.Error as error:
        if pending is not None:
            pending.check()
        raise InputError(f"{where}: row {number + 1}: {error}", hint="is a quotation mark not closed?") from error
    if pending is not None:
        pending.check()


def _refuse_shape(row: list[str], header: list[str], where: str) -> None:
    if len(row) < len(header):
        absent = ", ".join(repr(name) for name in header[len(row) :])
        raise InputError(f"{where} is short: {len(row)} values for {len(header)} columns, without {absent}")
    raise InputError(
        f"{where} is long: {len(row)} values for {len(header)} columns, the last of which is {header[-1]!r}",
        hint="a value that holds the delimiter must be quoted",
    )


def refuse_characters(row: list[str], header: list[str], where: str) -> None:
    """Raise :class:`InputError` for a value of a row that holds NUL or bytes that did not decode."""
    for name, value in zip(header, row, strict=True):
        shown = name.encode("ascii", "backslashreplace").decode().replace("\0", "\\0")
        if "\0" in value:
            raise InputError(f"{where}, column '{shown}': a NUL character")
        if any(ord(character) in _UNDECODED for character in value):
            raise InputError(
                f"{where}, column '{shown}': bytes that are not of the schema's encoding",
                hint="name the file's encoding in the schema, such as 'encoding: windows-1252'",
            )

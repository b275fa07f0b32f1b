"""Source files, read in batches whose columns are what the schema says. Nothing is ever held whole."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn

import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from orchestrator.data.schema import TableSchema
from orchestrator.data.text_faults import open_text, raise_first_fault, refuse_characters
from orchestrator.data.values import ARROW_TYPES, convert
from orchestrator.errors import InputError

_BATCH_ROWS = 1 << 18
_BLOCK_BYTES = 1 << 24
_PARQUET_MAGIC = b"PAR1"
_TRUE = ["1", "true", "True", "TRUE"]
_FALSE = ["0", "false", "False", "FALSE"]


class Source:
    """A file and its schema; iterating gives batches in the file's order."""

    #: rows in the whole file, where that is known before reading
    rows_total: int | None = None

    def __init__(self, path: Path, schema: TableSchema) -> None:
        self._path = path
        #: for messages
        self.name = path.name
        self._schema = schema
        self._names = [column.name for column in schema.columns]

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        row = 1
        for batch in self._raw():
            arrays = [
                convert(batch.column(column.name), column, row, self._path.name) for column in self._schema.columns
            ]
            yield pa.RecordBatch.from_arrays(arrays, names=self._names)
            row += batch.num_rows

    def _raw(self) -> Iterator[pa.RecordBatch]:
        raise NotImplementedError


def open_source(path: Path, schema: TableSchema) -> Source:
    """Look at a file's kind and its columns.

    Raises:
        InputError: absent, empty, or its columns are not those of the schema; all are named.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(len(_PARQUET_MAGIC))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    if not start:
        raise InputError(f"{path.name} is empty")
    return ParquetSource(path, schema) if start == _PARQUET_MAGIC else TextSource(path, schema)


class ParquetSource(Source):
    """A Parquet file in clear."""

    def __init__(self, path: Path, schema: TableSchema) -> None:
        super().__init__(path, schema)
        try:
            self._file = pq.ParquetFile(path)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{path.name} is not a Parquet file that can be read: {error}") from error
        schema.check_names(self._file.schema_arrow.names, path.name)
        self.rows_total = self._file.metadata.num_rows

    def _raw(self) -> Iterator[pa.RecordBatch]:
        try:
            for batch in self._file.iter_batches(_BATCH_ROWS, columns=self._names):
                batch.validate(full=True)
                yield batch
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{self._path.name} is damaged: {error}") from error


class TextSource(Source):
    """A file of delimited text (RFC 4180): quoted values may hold newlines; empty lines are skipped.

    The fast reader says what is wrong but not always where. When it stumbles, the file is read once more by a
    slow one that finds the first wrong row and column.
    """

    def __init__(self, path: Path, schema: TableSchema) -> None:
        super().__init__(path, schema)
        with open_text(path, schema.encoding) as text:
            rows = (row for row in csv.reader(text, delimiter=schema.delimiter) if row)
            try:
                header = next(rows, None)
            except csv.Error as error:
                raise InputError(f"{path.name}: the header cannot be read: {error}") from error
        if header is None:
            raise InputError(f"{path.name} is empty")
        refuse_characters(header, header, f"{path.name}: the header")
        schema.check_names(header, path.name)

    def _raw(self) -> Iterator[pa.RecordBatch]:
        types = {}
        for column in self._schema.columns:
            # a type's own reader would not know the column's format of dates
            types[column.name] = pa.string() if column.format else ARROW_TYPES[column.type]
        try:
            with self._path.open("rb") as stream:
                reader = arrow_csv.open_csv(
                    _Checked(stream, self._schema.encoding),
                    read_options=arrow_csv.ReadOptions(block_size=_BLOCK_BYTES),
                    parse_options=arrow_csv.ParseOptions(delimiter=self._schema.delimiter, newlines_in_values=True),
                    convert_options=arrow_csv.ConvertOptions(
                        column_types=types,
                        include_columns=self._names,
                        null_values=list(self._schema.nulls),
                        strings_can_be_null=True,
                        true_values=_TRUE,
                        false_values=_FALSE,
                        timestamp_parsers=[arrow_csv.ISO8601],
                    ),
                )
                yield from reader
        except (pa.ArrowInvalid, pa.ArrowKeyError, UnicodeError) as error:
            self._find_fault(error)

    def _find_fault(self, cause: Exception) -> NoReturn:
        raise_first_fault(self._path, self._schema)
        raise InputError(f"{self._path.name} cannot be read: {cause}") from cause


class _Checked(io.RawIOBase):
    """Bytes of a text file as UTF-8 without a byte order mark; NUL or a wrong byte is an error."""

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        super().__init__()
        self._stream = stream
        self._decoder = None if encoding == "utf-8" else codecs.getincrementaldecoder(encoding)("strict")
        self._at_start = True

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        block = self._stream.read(size)
        if b"\0" in block:
            raise UnicodeError("a NUL byte")
        if self._decoder is not None:
            # single-byte encodings: a block that is not the last is never empty after decoding
            return self._decoder.decode(block, final=not block).encode()
        if self._at_start:
            self._at_start = False
            if block.startswith(codecs.BOM_UTF8):
                block = block.removeprefix(codecs.BOM_UTF8) or self.read(size)
        return block

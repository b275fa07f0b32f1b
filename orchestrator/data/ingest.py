"""From a source file to a new version of a table: checked, pseudonymised, encrypted, published whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from orchestrator.data.catalogue import Catalogue, TableInfo
from orchestrator.data.manifest import SCHEMA_METADATA, check_name
from orchestrator.data.pseudonyms import LEVEL_ONE, LevelOne
from orchestrator.data.schema import Role, TableSchema, Type
from orchestrator.data.sealed import SealedWriter
from orchestrator.data.source import Source, open_source
from orchestrator.data.store import BeforeKeys, DatasetStore, Staging
from orchestrator.data.values import ARROW_TYPES, refuse_missing
from orchestrator.errors import InputError
from orchestrator.keys import KeyRing

GROUP_ROWS = 1 << 19
"""Rows in a row group: what a view holds in memory at a time."""

Progress = Callable[[int, int | None], None]
"""Told the rows done, and the rows in all where that is known."""


def ingest(
    source: Path,
    schema: TableSchema,
    *,
    dataset: str,
    folder: Path,
    ring: KeyRing,
    table: str | None = None,
    progress: Progress = lambda done, total: None,
    before_keys: BeforeKeys = lambda key_ids: None,
    _encrypted: bool = True,
) -> TableInfo:
    """Ingest a CSV or Parquet file as the next version of a table.

    The identifiers become level-one pseudonyms before anything is written, and every byte that is written is
    ciphertext. On any error, and after a kill, nothing of it stays.

    Args:
        source: the file.
        schema: what it should hold.
        dataset: name of the dataset; made if there is none.
        folder: folder of all datasets.
        ring: where keys are made and kept.
        table: name of the table; None: the dataset's name.
        progress: told how far it is.
        before_keys: told which keys will be made, before.
        _encrypted: False only in tests that show that the scan for clear bytes finds them.

    Raises:
        InputError: a name, the file or a value in it is wrong; row and column are named.
        ConflictError: another ingest of the dataset is running.
        UnavailableError: the disk is full or cannot be written.
        CustodyError: the custodian does not wrap keys.
    """
    table = dataset if table is None else table
    check_name("dataset", dataset)
    check_name("table", table)
    opened = open_source(source, schema)
    with DatasetStore(folder, ring).staging(dataset, table, schema, before_keys) as (staging, publish):
        rows = _write(opened, schema, staging, progress=progress, encrypted=_encrypted)
        if rows == 0:
            raise InputError(f"{source.name} has no rows")
        publish(rows)
    return Catalogue(folder).table(dataset, table)


def stored_schema(schema: TableSchema) -> pa.Schema:
    """How a table is kept: identifiers as 16 raw bytes, the schema itself in the metadata."""
    fields = [
        pa.field(column.name, LEVEL_ONE if column.role is Role.IDENTIFIER else ARROW_TYPES[column.type])
        for column in schema.columns
    ]
    return pa.schema(fields, metadata={SCHEMA_METADATA: schema.model_dump_json().encode()})


def _write(opened: Source, schema: TableSchema, staging: Staging, *, progress: Progress, encrypted: bool) -> int:
    stored = stored_schema(schema)
    writer = SealedWriter(
        staging.path,
        stored,
        footer_key_id=staging.footer_key,
        column_key_ids={name: staging.column_key(name) for name in stored.names},
        keys=staging.keys,
        dictionary=[column.name for column in schema.columns if repeats(column.role, column.type)],
        _encrypted=encrypted,
    )
    rows = 0
    writing: Future[None] | None = None
    pool = ThreadPoolExecutor(1)
    try:
        for group in _pseudonymised(opened, schema, staging.secret):
            # one row group is encoded and encrypted while the next is read and hashed
            if writing is not None:
                writing.result()
            writing = pool.submit(writer.write, group)
            rows += group.num_rows
            progress(rows, opened.rows_total)
        if writing is not None:
            writing.result()
        writer.close()
    except BaseException:
        pool.shutdown(wait=True)
        writer.abort()
        raise
    finally:
        pool.shutdown(wait=True)
    return rows


def repeats(role: Role, kind: Type) -> bool:
    """Whether a column is likely to repeat few values, so that a dictionary makes it small."""
    return role not in (Role.IDENTIFIER, Role.FREE_TEXT) and kind not in (Type.NUMBER, Type.DATETIME)


def _pseudonymised(source: Source, schema: TableSchema, secret: bytes) -> Iterator[pa.Table]:
    """Row groups, their identifiers replaced."""
    level_one = {
        entity: LevelOne(secret, entity)
        for entity in {column.identified for column in schema.columns if column.role is Role.IDENTIFIER}
    }
    stored = stored_schema(schema)
    row = 1
    for group in _groups(source):
        table = pa.Table.from_batches(group)
        arrays = []
        for column in schema.columns:
            array = table[column.name]
            if column.role is Role.IDENTIFIER:
                array = level_one[column.identified](pa.concat_arrays(array.chunks))
                refuse_missing(array, column, row, source.name)  # a blank identifier is none
            arrays.append(array)
        yield pa.Table.from_arrays(arrays, schema=stored)
        row += table.num_rows


def _groups(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Batches gathered and cut into groups of :data:`GROUP_ROWS`."""
    group: list[pa.RecordBatch] = []
    rows = 0
    for whole in batches:
        batch = whole
        while rows + batch.num_rows >= GROUP_ROWS:
            fits = GROUP_ROWS - rows
            yield [*group, batch.slice(0, fits)]
            batch, group, rows = batch.slice(fits), [], 0
        if batch.num_rows:
            group.append(batch)
            rows += batch.num_rows
    if group:
        yield group

"""Tables that travel with a project: as far as its permit reaches, and sealed under keys of this one journey.

What is left behind: columns that the permit neither shows nor filters by, rows that it does not show, and where that
changes nothing for the view, values finer than it shows. What cannot be left behind: columns by which it filters, and
values in bands of fractional width, for which coarsening twice is not coarsening once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator.data.catalogue import Catalogue, TableInfo
from orchestrator.data.ingest import repeats, stored_schema
from orchestrator.data.manifest import SCHEMA_METADATA, column_key, footer_key
from orchestrator.data.rows import coarsen, keep
from orchestrator.data.schema import Column, TableSchema, Type
from orchestrator.data.sealed import SealedFile, SealedWriter
from orchestrator.data.store import BeforeKeys, DatasetStore
from orchestrator.errors import CustodyError, InputError
from orchestrator.keys import KeyRing
from orchestrator.terms import ColumnPermit, TablePermit, Transform, Value

Release = Callable[[str], bytes]
_KEY_BYTES = 32
#: the number of a table's version while it travels; the destination counts by itself
_ON_THE_WAY = 1


class Travelling(Value):
    """A table on its way."""

    dataset: str
    table: str
    rows: int
    description: TableSchema

    @property
    def part(self) -> str:
        """Its name in the archive."""
        return f"tables/{self.dataset}/{self.table}.parquet"

    @property
    def footer(self) -> str:
        """Key id of its footer while it travels."""
        return footer_key(self.dataset, _ON_THE_WAY, self.table)

    def column(self, name: str) -> str:
        """Key id of a column while it travels."""
        return column_key(self.dataset, _ON_THE_WAY, self.table, name)

    @property
    def key_ids(self) -> tuple[str, ...]:
        """All its keys."""
        return (self.footer, *(self.column(column.name) for column in self.description.columns))


def settles(shown: ColumnPermit, column: Column) -> bool:
    """Whether coarsening a second time changes nothing, so that it can be done before the table travels."""
    return shown.transform is not Transform.BAND or column.type is Type.INTEGER


def reached(info: TableInfo, permit: TablePermit) -> TableSchema:
    """The schema of what a permit reaches of a table, its columns in the table's order."""
    names = {column.name for column in permit.columns} | {condition.column for condition in permit.rows}
    columns = tuple(column for column in info.schema.columns if column.name in names)
    return info.schema.model_copy(update={"columns": columns, "omit": ()})


def seal_for_journey(
    catalogue: Catalogue, permit: TablePermit, release: Release, into: Path
) -> tuple[Travelling, dict[str, bytes]]:
    """Write what a permit reaches of a table to ``into``, and make its keys. Nothing of it is ever in clear on a disk.

    Raises:
        CustodyError: the table was altered, or a key is refused.
    """
    info = catalogue.table(permit.dataset, permit.table)
    schema = reached(info, permit)
    names = [column.name for column in schema.columns]
    keys = {key_id: release(key_id) for key_id in (info.footer_key, *(info.column_key(name) for name in names))}
    opened = SealedFile(catalogue.path(info), keys, [])
    try:
        # Control: the manifest is in clear on a disk whose host could rewrite it; see the data room's view.
        if opened.schema.metadata.get(SCHEMA_METADATA) != info.schema.model_dump_json().encode():
            raise CustodyError(f"the manifest of '{info.dataset}/{info.table}' is not the one that was ingested")
        travelling = Travelling(dataset=info.dataset, table=info.table, rows=0, description=schema)
        fresh = {key_id: os.urandom(_KEY_BYTES) for key_id in travelling.key_ids}
        path = into / travelling.part
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        rows = _copy(_groups(opened, permit, schema), schema, path, _names(travelling), fresh)
    finally:
        opened.close()
    return travelling.model_copy(update={"rows": rows}), fresh


def _groups(opened: SealedFile, permit: TablePermit, schema: TableSchema) -> Iterator[pa.Table]:
    columns = {column.name: column for column in schema.columns}
    filtered = {condition.column for condition in permit.rows}
    coarse = {
        shown.name: shown
        for shown in permit.columns
        if shown.transform is not None and shown.name not in filtered and settles(shown, columns[shown.name])
    }
    for group in range(opened.groups):
        table = keep(opened.read(group, list(columns)), permit.rows, columns).combine_chunks()
        for name, shown in coarse.items():
            place = table.schema.get_field_index(name)
            values = coarsen(pa.concat_arrays(table[name].chunks), shown, columns[name]) if table.num_rows else None
            if values is not None:
                table = table.set_column(place, table.schema.field(place), values)
        yield table.select([column.name for column in schema.columns])


def _names(travelling: Travelling) -> dict[str, str]:
    return {column.name: travelling.column(column.name) for column in travelling.description.columns} | {
        "": travelling.footer
    }


def _copy(
    groups: Iterator[pa.Table], schema: TableSchema, path: Path, key_ids: dict[str, str], keys: dict[str, bytes]
) -> int:
    """Write groups of rows as a new sealed file; the number of rows. Empty groups are none."""
    stored = stored_schema(schema)
    writer = SealedWriter(
        path,
        stored,
        footer_key_id=key_ids[""],
        column_key_ids={name: key_ids[name] for name in stored.names},
        keys=keys,
        dictionary=[column.name for column in schema.columns if repeats(column.role, column.type)],
    )
    rows = 0
    try:
        for group in groups:
            if group.num_rows:
                writer.write(pa.Table.from_arrays([group[name] for name in stored.names], schema=stored))
                rows += group.num_rows
        writer.close()
    except BaseException:
        writer.abort()
        raise
    return rows


def settle(  # noqa: PLR0917 - what it is made of
    came: Travelling, path: Path, keys: dict[str, bytes], folder: Path, ring: KeyRing, before_keys: BeforeKeys
) -> TableInfo:
    """Make a table that came a dataset of this deployment, under keys that nobody else ever saw.

    Raises:
        InputError: it is not what was said of it.
        CustodyError: its keys do not open it.
        ConflictError: an ingest of the dataset is running.
    """
    opened = SealedFile(path, {key_id: keys[key_id] for key_id in came.key_ids}, [])
    try:
        _check_file(opened, came)
        store = DatasetStore(folder, ring)
        with store.staging(came.dataset, came.table, came.description, before_keys) as (staging, publish):
            ids: dict[str, Any] = {name: staging.column_key(name) for name in opened.schema.names}
            names = list(opened.schema.names)
            groups = (opened.read(group, names) for group in range(opened.groups))
            rows = _copy(groups, came.description, staging.path, {**ids, "": staging.footer_key}, staging.keys)
            if rows != came.rows:
                raise InputError(f"table '{came.dataset}/{came.table}' has {rows} rows, and {came.rows} were sent")
            publish(rows)
    finally:
        opened.close()
    return Catalogue(folder).table(came.dataset, came.table)


def _check_file(opened: SealedFile, came: Travelling) -> None:
    wanted = stored_schema(came.description)
    # Stops: a column that travels as a measure and is an identifier, or of a type that its schema does not say.
    if not opened.schema.equals(wanted, check_metadata=True):
        raise InputError(f"table '{came.dataset}/{came.table}' is not what its schema says")


def is_same(came: Travelling, path: Path, keys: dict[str, bytes], catalogue: Catalogue, release: Release) -> bool:
    """Whether a table that came is, row for row, the one of that name that is here.

    Raises:
        NotFoundError: there is none of that name.
        CustodyError, InputError: a key is refused, or the table is not what was said of it.
    """
    info = catalogue.table(came.dataset, came.table)
    if (info.schema, info.rows) != (came.description, came.rows):
        return False
    names = [column.name for column in info.columns]
    here = {key_id: release(key_id) for key_id in (info.footer_key, *(info.column_key(name) for name in names))}
    with ExitStack() as opened:
        theirs = SealedFile(path, {key_id: keys[key_id] for key_id in came.key_ids}, [])
        opened.callback(theirs.close)
        _check_file(theirs, came)
        ours = SealedFile(catalogue.path(info), here, [])
        opened.callback(ours.close)
        if not ours.schema.equals(theirs.schema, check_metadata=True) or ours.groups != theirs.groups:
            return False
        return all(ours.read(group, names).equals(theirs.read(group, names)) for group in range(ours.groups))

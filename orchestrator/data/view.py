"""A permit made real: its columns and rows, coarsened as it says, under the project's pseudonyms.

Reading, decrypting and filtering one row group overlaps with encoding and writing the one before; Arrow does
both without holding Python's lock, so two cores are busy and two row groups are in memory.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.config import PseudonymForm
from orchestrator.data.catalogue import Catalogue, TableInfo, check_table
from orchestrator.data.manifest import SCHEMA_METADATA
from orchestrator.data.pseudonyms import LEVEL_ONE, LevelTwo
from orchestrator.data.rows import coarsen, keep
from orchestrator.data.schema import Column, Role, Type
from orchestrator.data.sealed import SealedFile
from orchestrator.data.values import ARROW_TYPES
from orchestrator.errors import CustodyError, UnavailableError
from orchestrator.terms import PermitTerms, TablePermit

ColumnKey = Callable[[str], bytes]
"""Gives the data key of a key id, having audited it; raises to refuse."""

_PAGE_BYTES = 8 << 20


@dataclass(frozen=True)
class ViewReport:
    """What was written: files below the target, and rows in all of them."""

    files: tuple[Path, ...]
    rows: int


def required_keys(catalogue: Catalogue, terms: PermitTerms) -> list[str]:
    """Ids of exactly the keys that a view of these terms needs: footers, shown columns, columns of row
    filters.

    Raises:
        NotFoundError, InputError: a dataset, table or column does not exist.
    """
    return [
        key_id for permit in terms.tables for key_id in _keys_of(catalogue.table(permit.dataset, permit.table), permit)
    ]


def build_view(  # noqa: PLR0917 - keywords at every call
    catalogue: Catalogue,
    terms: PermitTerms,
    project_key: bytes,
    column_key: ColumnKey,
    target: Path,
    form: PseudonymForm = PseudonymForm.TEXT,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ViewReport:
    """Write ``<target>/<dataset>/<table>.parquet`` for every table of a permit.

    The target is in RAM; what is written there is in clear. Names, types and roles are taken from the files'
    authenticated footers, so a host of the disks that edits a manifest cannot have an identifier shown as a
    measure.

    Args:
        catalogue: the datasets.
        terms: what the permit allows.
        project_key: 256-bit key of the project's pseudonyms.
        column_key: releases the data keys named by :func:`required_keys`, and is asked for no other.
        target: an existing, empty folder on a tmpfs.
        form: how pseudonyms look.
        progress: told the source rows done, and all.

    Raises:
        InputError: the permit names what does not exist.
        CustodyError: a key does not open its column, or a file or manifest was altered.
        UnavailableError: the target is full.
    """
    catalogue.check(terms)
    tables = [(catalogue.table(permit.dataset, permit.table), permit) for permit in terms.tables]
    total = sum(info.rows for info, _ in tables)
    files: list[Path] = []
    done = rows = 0
    for info, permit in tables:
        keys = {key_id: column_key(key_id) for key_id in _keys_of(info, permit)}
        path = target / info.dataset / f"{info.table}.parquet"
        source = _Table(catalogue.path(info), info, permit, keys, LevelTwo(project_key, form))
        try:
            path.parent.mkdir(mode=0o755, exist_ok=True)
            for read, kept in source.write(path):
                done, rows = done + read, rows + kept
                progress(done, total)
            path.chmod(0o644)
            path.parent.chmod(0o755)
        except OSError as error:
            path.unlink(missing_ok=True)
            full = error.errno == errno.ENOSPC
            raise UnavailableError(
                f"the view of '{info.dataset}/{info.table}' cannot be written: {error.strerror or error}",
                hint="the machine's memory for views is full" if full else None,
            ) from error
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            source.close()
        files.append(path)
    return ViewReport(tuple(files), rows)


def _keys_of(info: TableInfo, permit: TablePermit) -> list[str]:
    return [info.footer_key, *(info.column_key(info.column(name).name) for name in _needed(permit))]


def _needed(permit: TablePermit) -> list[str]:
    """Names of shown columns and of those that filters look at, each once."""
    shown = (column.name for column in permit.columns)
    return list(dict.fromkeys([*shown, *(condition.column for condition in permit.rows)]))


class _Table:
    """One encrypted table, seen through one permit."""

    def __init__(
        self, path: Path, info: TableInfo, permit: TablePermit, keys: dict[str, bytes], level_two: LevelTwo
    ) -> None:
        self._permit = permit
        self._names = _needed(permit)
        self._columns = {name: info.column(name) for name in self._names}
        self._level_two = level_two
        filtered = {condition.column for condition in permit.rows}
        # text that repeats is passed on as the dictionary it is stored as, instead of being spelt out and
        # gathered
        self._coded = [name for name, column in self._columns.items() if name not in filtered and _stays_coded(column)]
        self._file = SealedFile(path, keys, self._coded)
        # Control: the manifest is in clear on a disk whose host could rewrite it; the footer is
        # authenticated. Test: tests/unit/data/test_view.py::test_an_edited_manifest_is_refused
        if self._file.schema.metadata.get(SCHEMA_METADATA) != info.schema.model_dump_json().encode():
            self.close()
            raise CustodyError(f"the manifest of '{info.dataset}/{info.table}' is not the one that was ingested")
        check_table(permit, info.schema)

    def close(self) -> None:
        self._file.close()

    def write(self, path: Path) -> Iterator[tuple[int, int]]:
        """Write the view; yields for each row group the rows read and the rows kept."""
        fields = [
            pa.field(column.name, self._shown_type(self._columns[column.name])) for column in self._permit.columns
        ]
        schema = pa.schema(fields)
        pool = ThreadPoolExecutor(1)
        writer = pq.ParquetWriter(
            path,
            schema,
            compression="none",  # it lies in RAM and is read many times
            use_dictionary=self._coded,
            write_statistics=False,
            data_page_size=_PAGE_BYTES,
            store_schema=False,  # readers see plain text, not Arrow's dictionaries
        )
        try:
            ahead: Future[pa.Table] | None = pool.submit(self._read, 0) if self._file.groups else None
            for group in range(self._file.groups):
                assert ahead is not None  # noqa: S101
                table = ahead.result()
                ahead = pool.submit(self._read, group + 1) if group + 1 < self._file.groups else None
                if table.num_rows:
                    writer.write_table(table, row_group_size=table.num_rows)
                yield self._file.group_rows(group), table.num_rows
            writer.close()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            writer.close()

    def _shown_type(self, column: Column) -> pa.DataType:
        if column.role is Role.IDENTIFIER:
            return self._level_two.type
        if column.name in self._coded:
            return pa.dictionary(pa.int32(), pa.string())
        return ARROW_TYPES[column.type]

    def _read(self, group: int) -> pa.Table:
        table = keep(self._file.read(group, self._names), self._permit.rows, self._columns)
        arrays = []
        for shown in self._permit.columns:
            column = self._columns[shown.name]
            whole = table[shown.name].combine_chunks()
            array = whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
            if column.role is Role.IDENTIFIER:
                assert array.type == LEVEL_ONE  # noqa: S101
                array = self._level_two(array)
            elif shown.transform is not None:
                array = coarsen(array, shown, column)
            arrays.append(_without_unused(array) if self._permit.rows else array)
        return pa.Table.from_arrays(arrays, names=[shown.name for shown in self._permit.columns])


def _without_unused(array: pa.Array) -> pa.Array:
    """A column of text without the dictionary's entries that no row has, in the order in which rows have them."""
    # Stops: texts of rows outside the permit, which a filter drops and whose dictionary would stay, to be read in the
    # bytes of the view. Shown by tests/unit/data/test_view.py::test_no_text_of_a_dropped_row_is_in_the_view.
    if not isinstance(array, pa.DictionaryArray):
        return array
    used = pc.unique(array.indices).drop_null()
    places = np.zeros(len(array.dictionary), np.int32)
    places[used.to_numpy()] = np.arange(len(used), dtype=np.int32)
    indices = pc.take(pa.array(places), array.indices)
    return pa.DictionaryArray.from_arrays(indices, array.dictionary.take(used))


def _stays_coded(column: Column) -> bool:
    return column.type is Type.STRING and column.role not in (Role.IDENTIFIER, Role.FREE_TEXT)

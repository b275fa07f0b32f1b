"""Which datasets, tables and columns there are, and whether a permit names what exists. Never opens data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.data.manifest import (
    MANIFEST,
    Manifest,
    column_key,
    footer_key,
    read_current,
    read_part,
)
from orchestrator.data.schema import Column, Role, TableSchema, Translated, Type, fits
from orchestrator.errors import InputError, NotFoundError
from orchestrator.terms import ColumnPermit, Operator, PermitTerms, RowCondition, TablePermit, Transform


@dataclass(frozen=True)
class TableInfo:
    """The current version of a table."""

    dataset: str
    table: str
    version: int
    rows: int
    schema: TableSchema

    @property
    def title(self) -> Translated:
        """Title in the languages of the portal."""
        assert isinstance(self.schema.title, Translated)  # noqa: S101 - validated so
        return self.schema.title

    @property
    def description(self) -> Translated:
        """Description in the languages of the portal."""
        assert isinstance(self.schema.description, Translated)  # noqa: S101 - validated so
        return self.schema.description

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns with type, role, description and codes."""
        return self.schema.columns

    def column(self, name: str) -> Column:
        """One column.

        Raises:
            InputError: there is none of that name.
        """
        found = self.schema.column(name)
        if found is None:
            raise InputError(
                f"table '{self.dataset}/{self.table}' has no column '{name}'",
                hint=f"it has {', '.join(column.name for column in self.columns)}",
            )
        return found

    @property
    def footer_key(self) -> str:
        """Key id of the footer."""
        return footer_key(self.dataset, self.version, self.table)

    def column_key(self, name: str) -> str:
        """Key id of a column."""
        return column_key(self.dataset, self.version, self.table, name)


@dataclass(frozen=True)
class DatasetInfo:
    """A dataset and its tables."""

    name: str
    tables: tuple[TableInfo, ...]


class Catalogue:
    """Reads the manifests in a folder of datasets, afresh each time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def folder(self) -> Path:
        """Where the datasets are."""
        return self._folder

    def datasets(self) -> tuple[DatasetInfo, ...]:
        """All published datasets, by name."""
        if not self._folder.is_dir():
            return ()
        names = sorted(path.name for path in self._folder.iterdir() if path.is_dir() and path.name[0] != ".")
        found = (DatasetInfo(name, tuple(self._tables(name))) for name in names)
        return tuple(dataset for dataset in found if dataset.tables)

    def dataset(self, name: str) -> DatasetInfo:
        """One dataset.

        Raises:
            NotFoundError: there is none of that name.
        """
        for dataset in self.datasets():
            if dataset.name == name:
                return dataset
        raise NotFoundError(f"there is no dataset '{name}'", hint="bulle dataset list")

    def table(self, dataset: str, table: str) -> TableInfo:
        """The current version of a table.

        Raises:
            NotFoundError: there is no such dataset or table.
        """
        for info in self.dataset(dataset).tables:
            if info.table == table:
                return info
        raise NotFoundError(f"dataset '{dataset}' has no table '{table}'", hint=f"bulle dataset show {dataset}")

    def path(self, info: TableInfo) -> Path:
        """Where a table's encrypted file is."""
        return self._folder / info.dataset / str(info.version) / f"{info.table}.parquet"

    def check(self, terms: PermitTerms | Iterable[TablePermit]) -> None:
        """Compare what a permit names with what there is.

        Raises:
            InputError: names the first dataset, table, column, value or transform that does not exist or fit.
        """
        tables = terms.tables if isinstance(terms, PermitTerms) else tuple(terms)
        twice = [pair for pair, n in Counter((table.dataset, table.table) for table in tables).items() if n > 1]
        if twice:
            raise InputError(f"the permit names table '{'/'.join(twice[0])}' twice")
        for permit in tables:
            try:
                info = self.table(permit.dataset, permit.table)
            except NotFoundError as error:
                raise InputError(error.message, hint=error.hint) from error
            check_table(permit, info.schema)

    def _tables(self, dataset: str) -> Iterator[TableInfo]:
        folder = self._folder / dataset
        for table, version in sorted(read_current(folder).tables.items()):
            manifest = read_part(Manifest, folder / str(version) / MANIFEST)
            yield TableInfo(dataset, table, version, manifest.rows, manifest.description)


def check_table(permit: TablePermit, schema: TableSchema) -> None:
    """The rules of :meth:`Catalogue.check` for one table. Pure.

    Raises:
        InputError: names what does not exist or fit.
    """
    where = f"table '{permit.dataset}/{permit.table}'"
    twice = [name for name, n in Counter(shown.name for shown in permit.columns).items() if n > 1]
    if twice:
        raise InputError(f"{where}: the permit names column '{twice[0]}' twice")
    for shown in permit.columns:
        _check_transform(shown, _existing(schema, shown.name, where), where)
    for condition in permit.rows:
        _check_condition(condition, _existing(schema, condition.column, where), where)


def _existing(schema: TableSchema, name: str, where: str) -> Column:
    column = schema.column(name)
    if column is None:
        known = ", ".join(column.name for column in schema.columns)
        raise InputError(f"{where} has no column '{name}'", hint=f"it has {known}")
    return column


_TRANSFORMED: dict[Transform, tuple[Type, ...]] = {
    Transform.YEAR: (Type.DATE, Type.DATETIME),
    Transform.MONTH: (Type.DATE, Type.DATETIME),
    Transform.BAND: (Type.INTEGER, Type.NUMBER),
    Transform.TOP: (Type.INTEGER, Type.NUMBER),
}


def _check_transform(shown: ColumnPermit, column: Column, where: str) -> None:
    if shown.transform is None:
        return
    if column.role is Role.IDENTIFIER:
        raise InputError(f"{where}: column '{column.name}' is an identifier, which is never transformed")
    if column.type not in _TRANSFORMED[shown.transform]:
        raise InputError(
            f"{where}: transform '{shown.transform}' does not go with column '{column.name}', a {column.type}"
        )
    if column.type is Type.INTEGER and shown.parameter is not None and not shown.parameter.is_integer():
        raise InputError(f"{where}: column '{column.name}' holds whole numbers, not {shown.parameter}")


_ORDERING = (Operator.LT, Operator.LE, Operator.GT, Operator.GE)
_PRESENCE = (Operator.IS_NULL, Operator.NOT_NULL)


def _check_condition(condition: RowCondition, column: Column, where: str) -> None:
    if condition.operator in _PRESENCE:
        return
    if column.role is Role.IDENTIFIER:
        # A permit that picked people by identifier would be a list of identifiers in clear, in the store.
        raise InputError(f"{where}: column '{column.name}' is an identifier: a filter may only ask if it is there")
    if condition.operator in _ORDERING and column.type is Type.BOOLEAN:
        raise InputError(f"{where}: column '{column.name}' is true or false: '{condition.operator}' orders nothing")
    values = condition.value if isinstance(condition.value, tuple) else (condition.value,)
    for value in values:
        if not fits(value, column.type):
            raise InputError(
                f"{where}: a filter compares column '{column.name}', a {column.type}, with {value!r}",
                hint="dates are written in ISO 8601, such as '1985-12-31'",
            )

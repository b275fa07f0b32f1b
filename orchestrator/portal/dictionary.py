"""What is asked for or allowed of data, in readable form: columns with their meaning, and conditions on rows."""

from __future__ import annotations

from orchestrator.governance.cards import CatalogueEntry, ColumnCard, RequestedColumn, RequestedTable, TableCard
from orchestrator.portal.conditions import written_condition
from orchestrator.terms import ColumnPermit, TablePermit


def readable_table(table: TablePermit | RequestedTable, entry: CatalogueEntry | None) -> TableCard:
    """A table with what the catalogue says of its columns; one that went away shows names only."""
    known = next((card for card in entry.tables if card.table == table.table), None) if entry else None
    columns = {column.name: column for column in known.columns} if known else {}
    return TableCard(
        dataset=table.dataset,
        table=table.table,
        title=known.title if known else table.table,
        rows_filter=tuple(written_condition(condition) for condition in table.rows),
        columns=tuple(_column(column, columns.get(column.name)) for column in table.columns),
    )


def _column(column: ColumnPermit | RequestedColumn, known: ColumnCard | None) -> ColumnCard:
    return ColumnCard(
        name=column.name,
        role=known.role if known else "",
        type=known.type if known else "",
        description=known.description if known else "",
        transform=coarsened(column),
    )


def coarsened(column: ColumnPermit | RequestedColumn) -> str | None:
    """``year``, ``band 5``; None where the column is shown as it is."""
    if not column.transform:
        return None
    return str(column.transform) if column.parameter is None else f"{column.transform} {column.parameter:g}"

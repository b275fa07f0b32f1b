"""The catalogue of datasets, without rows."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from sqlalchemy import select

from orchestrator.errors import NotFoundError
from orchestrator.governance.cards import CatalogueEntry, ColumnCard, TableCard, Text
from orchestrator.governance.desk import Desk, ListedDataset, ListedTable
from orchestrator.governance.rules import Action
from orchestrator.governance.states import MembershipState, PermitState, ProjectState
from orchestrator.governance.store import MembershipRow, PermitRow, ProjectRow

#: letters that are one sign and searched for as two
_PAIRS = str.maketrans({"œ": "oe", "æ": "ae"})


class Shelf(Desk):
    """Part of Governance: the catalogue."""

    def catalogue(self, by: str, search: str = "") -> list[CatalogueEntry]:
        """The datasets that hold all words of ``search`` in a title, a description or a column, in either language.

        Case and accents count for nothing. Raises RefusedError.
        """
        words = re.findall(r"\w+", folded(search))
        used = self._used_in(by)
        return [
            _entry(dataset, used.get(dataset.name, ()))
            for dataset in self._catalogue.datasets()
            if _holds_all(dataset, words)
        ]

    def catalogue_entry(self, by: str, dataset: str) -> CatalogueEntry:
        """One dataset. Raises RefusedError, NotFoundError."""
        used = self._used_in(by)
        for found in self._catalogue.datasets():
            if found.name == dataset:
                return _entry(found, used.get(dataset, ()))
        raise NotFoundError(f"there is no dataset '{dataset}'")

    def _used_in(self, by: str) -> dict[str, tuple[str, ...]]:
        """Dataset → the projects that ``by`` is in and whose permit in force names it."""
        now = self._clock()
        # Stops: somebody who learns from the catalogue which projects use what. Shown by test_shelf.py.
        mine = (
            select(ProjectRow.slug, PermitRow.terms)
            .join(MembershipRow, MembershipRow.project_id == ProjectRow.id)
            .join(PermitRow, PermitRow.project_id == ProjectRow.id)
            .where(
                MembershipRow.person_id == by,
                MembershipRow.state == MembershipState.ACTIVE,
                MembershipRow.ends > now,
                ProjectRow.state.in_((ProjectState.ACTIVE, ProjectState.SUSPENDED)),
                PermitRow.state == PermitState.APPROVED,
            )
            .order_by(ProjectRow.slug)
        )
        used: dict[str, tuple[str, ...]] = {}
        with self._store.read() as session:
            self._judge_read(session, by, Action.CATALOGUE_READ)
            for slug, terms in session.execute(mine):
                for dataset in {table["dataset"] for table in terms["tables"]}:
                    used[dataset] = (*used.get(dataset, ()), slug)
        return used


def folded(text: str) -> str:
    """``text`` without case and accents."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return "".join(char for char in plain if not unicodedata.combining(char)).translate(_PAIRS)


def _holds_all(dataset: ListedDataset, words: list[str]) -> bool:
    told = folded("\n".join(_texts(dataset)))
    return all(word in told for word in words)


def _texts(dataset: ListedDataset) -> Iterator[str]:
    """All that is searched in."""
    yield dataset.name
    for table in dataset.tables:
        yield table.table
        for told in (table.title, table.description, *(column.description for column in table.columns)):
            yield from _languages(told).values()
        for column in table.columns:
            yield column.name


def _languages(told: Any) -> dict[str, str]:
    """A text by language; one in no language is under ``""``."""
    if isinstance(told, BaseModel):
        told = told.model_dump(exclude_none=True)
    if isinstance(told, Mapping):
        return {str(language): str(text) for language, text in told.items() if text}
    return {"": str(told)} if told else {}


def _text(told: Any) -> Text:
    languages = _languages(told)
    return languages.get("", "") if "" in languages or not languages else languages


def _entry(dataset: ListedDataset, used_in: tuple[str, ...]) -> CatalogueEntry:
    first = dataset.tables[0]
    alone = len(dataset.tables) == 1
    versions = sorted({table.version for table in dataset.tables})
    return CatalogueEntry(
        dataset=dataset.name,
        # A dataset has no title of its own: that of its one table, or its name.
        title=_text(first.title) if alone else dataset.name,
        description=_text(first.description) if alone else _titles(dataset),
        version=versions[0] if len(versions) == 1 else ", ".join(map(str, versions)),
        rows=sum(table.rows for table in dataset.tables),
        tables=tuple(_table(dataset.name, table) for table in dataset.tables),
        used_in=used_in,
    )


def _titles(dataset: ListedDataset) -> Text:
    """The titles of all tables in each language that there is; one that lacks it is in the first that it has."""
    titles = [_languages(table.title) or {"": table.table} for table in dataset.tables]
    languages = sorted({language for one in titles for language in one} - {""})
    if not languages:
        return "; ".join(one[""] for one in titles)
    return {
        language: "; ".join(one.get(language) or next(iter(one.values())) for one in titles) for language in languages
    }


def _table(dataset: str, table: ListedTable) -> TableCard:
    return TableCard(
        dataset=dataset,
        table=table.table,
        title=_text(table.title) or table.table,
        rows_filter=(),
        columns=tuple(
            ColumnCard(
                name=column.name,
                role=str(column.role),
                type=str(column.type),
                description=_text(column.description),
                transform=None,
            )
            for column in table.columns
        ),
    )

"""Operations: the catalogue of datasets, without rows."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from orchestrator.governance.cards import CatalogueEntry
from orchestrator.governance.operations.declared import Operation, Scope
from orchestrator.terms import Value


class CatalogueQuestion(Value):
    """Words to look for."""

    search: Annotated[str, Field(max_length=100)] = ""


class OneDataset(Value):
    """One dataset, by its name."""

    dataset: Annotated[str, Field(max_length=64)]


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "catalogue.search",
        "GET",
        "/catalogue",
        "Datasets by words in their titles, descriptions and columns",
        Scope.READ,
        CatalogueQuestion,
        list[CatalogueEntry],
        lambda governance, by, asked: governance.catalogue(by, asked.search),
    ),
    Operation(
        "catalogue.read",
        "GET",
        "/catalogue/{dataset}",
        "A dataset: its description and columns, no row",
        Scope.READ,
        OneDataset,
        CatalogueEntry,
        lambda governance, by, asked: governance.catalogue_entry(by, asked.dataset),
    ),
)

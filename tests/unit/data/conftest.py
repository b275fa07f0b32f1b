"""A deployment's data in small: a custodian, a key ring, a folder of datasets, a function that ingests text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from orchestrator.data.catalogue import Catalogue, TableInfo
from orchestrator.data.ingest import ingest
from orchestrator.data.schema import TableSchema, parse_schema
from orchestrator.keys import FileCustodian, KeyRing
from orchestrator.terms import PermitTerms, TablePermit

PEOPLE = {
    "title": "People",
    "columns": [
        {"name": "pid", "type": "string", "role": "identifier", "entity": "person", "nullable": False},
        {"name": "born", "type": "date", "role": "date"},
        {"name": "sex", "type": "integer", "role": "quasi-identifier", "codes": {1: "male", 2: "female"}},
        {"name": "weight", "type": "number", "role": "measure"},
        {"name": "town", "type": "string", "role": "quasi-identifier"},
        {"name": "note", "type": "string", "role": "free-text"},
    ],
}
ROWS = """pid,born,sex,weight,town,note
QX-PLANTED-1,1950-03-17,1,71.25,Lyon-Planted,"said ""hello"",
then left"
QX-PLANTED-2,1962-11-02,2,58.5,Brest-Planted,
QX-PLANTED-1,1950-03-17,1,73.75,Lyon-Planted,note-planted-three
QX-PLANTED-3,,2,,,
"""


@dataclass
class Data:
    """Where datasets and keys are."""

    root: Path
    ring: KeyRing
    asked: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.root / "datasets"

    @property
    def catalogue(self) -> Catalogue:
        return Catalogue(self.folder)

    def source(self, content: str | bytes, name: str = "source.csv") -> Path:
        path = self.root / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def ingest(self, content: str | bytes | Path = ROWS, schema: Any = None, **options: Any) -> TableInfo:
        described = schema if isinstance(schema, TableSchema) else parse_schema(schema or PEOPLE, "schema")
        path = content if isinstance(content, Path) else self.source(content)
        return ingest(path, described, folder=self.folder, ring=self.ring, **{"dataset": "people", **options})

    def key(self, key_id: str) -> bytes:
        """Release a key, remembering that it was asked for."""
        self.asked.append(key_id)
        return self.ring.get(key_id)

    def nothing_is_left(self) -> bool:
        """No dataset, no staging, no key."""
        visible = [path for path in self.folder.glob("*") if not path.name.endswith(".lock")]
        return not visible and not list((self.root / "ring").iterdir())


@pytest.fixture
def data(tmp_path: Path) -> Data:
    FileCustodian.create(tmp_path / "custodian" / "kek")
    return Data(tmp_path, KeyRing(tmp_path / "ring", FileCustodian(tmp_path / "custodian" / "kek")))


@pytest.fixture
def permit() -> Callable[..., PermitTerms]:
    def make(*columns: Any, rows: Any = (), dataset: str = "people", table: str = "people") -> PermitTerms:
        shown = [{"name": column} if isinstance(column, str) else column for column in columns]
        wanted = TablePermit.model_validate(
            {"dataset": dataset, "table": table, "columns": shown, "rows": tuple(rows)}, strict=False
        )
        return PermitTerms(
            version=1,
            tables=(wanted,),
            valid_from=datetime(2026, 1, 1, tzinfo=UTC),
            valid_until=datetime(2027, 1, 1, tzinfo=UTC),
        )

    return make

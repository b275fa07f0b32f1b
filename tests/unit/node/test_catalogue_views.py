"""The node agent opens the keys whose release is in the audit log, and no others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from orchestrator.config import PseudonymForm
from orchestrator.data.ingest import ingest
from orchestrator.data.schema import load_schema
from orchestrator.errors import CustodyError
from orchestrator.keys import FileCustodian, KeyRing
from orchestrator.node.catalogue_views import CatalogueViews
from orchestrator.terms import ColumnPermit, Grant, PermitTerms, TablePermit

SCHEMA = """
title: Visits
columns:
  - {name: person, type: string, role: identifier}
  - {name: visits, type: integer, role: measure}
  - {name: remark, type: string, role: free-text}
"""


class RecordingKeys:
    """The real key ring, with a note of every key that was asked for."""

    def __init__(self, ring: KeyRing) -> None:
        self.ring = ring
        self.asked: list[str] = []

    def get(self, key_id: str) -> bytes:
        self.asked.append(key_id)
        return self.ring.get(key_id)

    def get_or_create(self, key_id: str) -> bytes:
        self.asked.append(key_id)
        return self.ring.get_or_create(key_id)


@pytest.fixture
def stage(tmp_path: Path) -> tuple[CatalogueViews, RecordingKeys, Path]:
    FileCustodian.create(tmp_path / "custodian")
    keys = RecordingKeys(KeyRing(tmp_path / "keyring", FileCustodian(tmp_path / "custodian")))
    (tmp_path / "datasets").mkdir()
    put(tmp_path, keys)
    return CatalogueViews(tmp_path / "datasets", keys, PseudonymForm.TEXT), keys, tmp_path


def put(folder: Path, keys: RecordingKeys) -> None:
    (folder / "visits.csv").write_text("person,visits,remark\na,1,x\nb,2,y\n")
    (folder / "visits.yaml").write_text(SCHEMA)
    schema = load_schema(folder / "visits.yaml")
    ingest(folder / "visits.csv", schema, dataset="visits", folder=folder / "datasets", ring=keys.ring)


def grant() -> Grant:
    now = datetime.now(UTC)
    columns = (ColumnPermit(name="person"), ColumnPermit(name="visits"))
    return Grant(
        person="researcher",
        display_name="researcher",
        project_id="0" * 32,
        project="study",
        project_title="Study",
        session="1" * 32,
        permit=PermitTerms(
            version=1,
            tables=(TablePermit(dataset="visits", table="visits", columns=columns),),
            valid_from=now,
            valid_until=now + timedelta(days=1),
        ),
        ends_at=now + timedelta(days=1),
    )


def test_exactly_the_released_keys_are_opened(stage: tuple[CatalogueViews, RecordingKeys, Path]) -> None:
    views, keys, folder = stage
    released = views.required_keys(grant())
    assert not any("remark" in key for key in released)
    views.build(grant(), frozenset(released), folder, lambda done, total: None)
    assert set(keys.asked) == set(released)
    assert pq.read_table(folder / "visits" / "visits.parquet").column_names == ["person", "visits"]


def test_a_key_that_was_not_released_is_not_opened(stage: tuple[CatalogueViews, RecordingKeys, Path]) -> None:
    views, keys, folder = stage
    for missing in views.required_keys(grant()):
        keys.asked.clear()
        released = frozenset(views.required_keys(grant())) - {missing}
        with pytest.raises(CustodyError, match="was not released"):
            views.build(grant(), released, folder, lambda done, total: None)
        assert missing not in keys.asked


def test_a_table_ingested_anew_after_the_release_opens_nothing(
    stage: tuple[CatalogueViews, RecordingKeys, Path],
) -> None:
    views, keys, folder = stage
    released = frozenset(views.required_keys(grant()))
    put(folder, keys)
    keys.asked.clear()
    with pytest.raises(CustodyError, match="was not released"):
        views.build(grant(), released, folder, lambda done, total: None)
    assert not any(key.startswith("dataset/visits/2") for key in keys.asked)


class Everything(frozenset[str]):
    """A set in which everything is: the check is there, and refuses nothing."""

    def __contains__(self, key_id: object) -> bool:
        return True


def test_negative_control_where_every_key_counts_as_released_a_new_tables_keys_are_opened(
    stage: tuple[CatalogueViews, RecordingKeys, Path],
) -> None:
    views, keys, folder = stage
    put(folder, keys)
    keys.asked.clear()
    views.build(grant(), Everything(), folder, lambda done, total: None)
    assert any(key.startswith("dataset/visits/2") for key in keys.asked), "and no record names them"

"""The store's rows: from SQLite and PostgreSQL, into either."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import ConflictError, InputError
from orchestrator.governance import rows
from orchestrator.governance.identity import OPERATOR
from orchestrator.governance.store import Base, Store
from tests.postgres import Server, server
from tests.unit.moving.stage import Deployment


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    with server() as running:
        yield running


def dump(store: Store) -> list[bytes]:
    with store.read() as session:
        return list(rows.dumped(session))


def load(store: Store, lines: list[bytes]) -> int:
    with store.write() as session:
        count = rows.load(session, lines)
        session.commit()
    return count


def empty(folder: Path) -> Store:
    store = Store(f"sqlite:///{folder / 'empty.sqlite'}")
    store.prepare()
    return store


def test_there_and_back_through_the_other_database(source: Deployment, postgres: Server, folder: Path) -> None:
    lines = dump(source.store())
    elsewhere = Store(postgres.url(postgres.create()))
    elsewhere.prepare()
    assert load(elsewhere, lines) == len(lines) - 1 > 8
    assert dump(elsewhere) == lines
    back = empty(folder)
    load(back, dump(elsewhere))
    assert dump(back) == lines
    elsewhere.close()


def test_numbers_go_on_where_they_were(source: Deployment, postgres: Server) -> None:
    elsewhere = Store(postgres.url(postgres.create()))
    elsewhere.prepare()
    load(elsewhere, dump(source.store()))
    governance = source.governance()
    governance._store = elsewhere
    # a membership, whose number PostgreSQL would otherwise begin to count at 1 again
    governance.add_person(OPERATOR, "another", "Another")
    governance.request_membership("another", "sleep", "another")
    assert len([line for line in dump(elsewhere) if b'"table":"membership"' in line]) == 3
    elsewhere.close()


def test_every_table_is_in_it() -> None:
    named = {table.name for table in rows.tables()}
    assert named == set(Base.metadata.tables) - {"schema_version"}


def test_a_store_that_is_not_empty_is_not_mixed(source: Deployment) -> None:
    lines = dump(source.store())
    with pytest.raises(ConflictError, match="not empty"):
        load(source.store(), lines)
    assert dump(source.store()) == lines


@pytest.mark.parametrize(
    "wrong",
    [
        b'{"schema":"0001"}',
        b"no json",
        b"[]",
        b'{"table":"nothing","row":{}}',
        b'{"table":"person","row":{"id":"x"}}',
        b'{"table":"person","row":[]}',
        json.dumps(
            {"table": "deletion", "row": {"project_id": "0" * 32, "certificate": "x", "at": "yesterday"}}
        ).encode(),
        json.dumps(
            {"table": "platform_role", "row": {"person_id": "lead", "role": "god", "from_provider": False}}
        ).encode(),
    ],
)
def test_what_is_no_row_is_refused_whole(source: Deployment, folder: Path, wrong: bytes) -> None:
    lines = dump(source.store())
    store = empty(folder)
    for content in ([wrong, *lines[1:]], [*lines, wrong]):
        with pytest.raises(InputError):
            load(store, content)
        assert len(dump(store)) == 1

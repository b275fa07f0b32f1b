"""The databases on which governance is tested: the same tests on SQLite and on PostgreSQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from orchestrator.governance.store import Store
from tests.postgres import Server

KINDS = ("sqlite", "postgresql")


@cache
def _template() -> bytes:
    """A prepared SQLite store, as bytes: to copy it is a tenth of the time to migrate it."""
    with TemporaryDirectory() as name:
        path = Path(name) / "template.sqlite"
        store = Store(f"sqlite:///{path}")
        store.prepare()
        store.close()
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
        connection.close()
        return path.read_bytes()


def prepared_sqlite(folder: Path) -> str:
    """The URL of a store below ``folder``, made with its tables where it is not there yet."""
    path = folder / "governance.sqlite"
    if not path.exists():
        path.write_bytes(_template())
    return f"sqlite:///{path}"


def store_in_memory() -> Store:
    """A prepared store that goes with its object; for walks that need many."""
    store = Store("sqlite://")
    with store._engine.connect() as connection:
        raw = connection.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        raw.deserialize(_template())
        raw.execute("PRAGMA foreign_keys = ON")
    return store


class Databases:
    """Hands out prepared stores of one kind, one for each folder, and removes them."""

    def __init__(self, kind: str, server: Callable[[], Server]) -> None:
        self.kind = kind
        self._server = server
        self._made: dict[Path, str] = {}

    def url(self, folder: Path) -> str:
        """The URL of the prepared store that belongs to ``folder``."""
        if self.kind == "sqlite":
            return prepared_sqlite(folder)
        if folder not in self._made:
            self._made[folder] = self._server().prepared()
        return self._server().url(self._made[folder])

    def empty(self, folder: Path) -> str:
        """The URL of a database without a table, which belongs to ``folder``."""
        if self.kind == "sqlite":
            return f"sqlite:///{folder / 'empty.sqlite'}"
        key = folder / "empty"
        if key not in self._made:
            self._made[key] = self._server().create()
        return self._server().url(self._made[key])

    def remove(self) -> None:
        """Remove what was made on a server."""
        for name in self._made.values():
            self._server().drop(name)

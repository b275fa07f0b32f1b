"""The two databases that keep governance, SQLite and PostgreSQL, made to behave alike.

On both one transaction writes at a time, from its first statement on, so that of two changes that contradict each other
the second sees what the first did; and a reader sees one moment, and waits for nobody.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DisconnectionError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from orchestrator.errors import SettingsError
from orchestrator.secretfile import read_secret

#: execution option of a transaction that writes
WRITES = "bulle_writes"
#: execution option of the one that changes the schema
MIGRATES = "bulle_migrates"

#: seconds after which a transaction that waits for another to write gives up
PATIENCE = 15
#: seconds for which a connection that was used is taken to be alive
_FRESH = 1.0
#: of an advisory lock that only we use: "bulle" as a number
_MIGRATION_LOCK = 0x62756C6C65


def open_engine(url: str, password_file: Path | None = None) -> Engine:
    """The engine for ``url``; the password, where there is one, is read at each connection and kept nowhere.

    Raises:
        SettingsError: the URL names no database that can be used.
    """
    try:
        if url.startswith("sqlite"):
            return _sqlite(url)
        if url.startswith("postgresql"):
            return _postgresql(url, password_file)
    except (SQLAlchemyError, ImportError) as error:
        raise SettingsError(f"database: not a usable SQLAlchemy URL ({type(error).__name__})") from error
    raise SettingsError("database: SQLite and PostgreSQL are the databases that can be used")


def _sqlite(url: str) -> Engine:
    in_memory = url in ("sqlite://", "sqlite:///:memory:")
    options: dict[str, Any] = {"connect_args": {"timeout": PATIENCE, "check_same_thread": False}}
    if in_memory:
        options["poolclass"] = StaticPool
    engine = create_engine(url, **options)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, record: Any) -> None:
        # The driver would begin transactions by itself, and only before a write: too late to exclude another.
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")
        if not in_memory:
            connection.execute("PRAGMA journal_mode = WAL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        options = connection.get_execution_options()
        writes = options.get(WRITES, False) or options.get(MIGRATES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgresql(url: str, password_file: Path | None) -> Engine:
    engine = create_engine(
        url,
        # A writer that has the lock below meets no other, so this is the second net under the first.
        isolation_level="SERIALIZABLE",
        connect_args={"connect_timeout": PATIENCE, "application_name": "bulle"},
    )

    @event.listens_for(engine, "do_connect")
    def _password(dialect: Any, record: Any, arguments: Any, options: dict[str, Any]) -> None:
        if password_file is not None:
            options["password"] = read_secret(password_file)
            # Stops: a server that somebody else put behind the socket, and that asks for the password in clear.
            # Shown by tests/unit/governance/test_store.py.
            options["require_auth"] = "scram-sha-256"

    # A connection that lay there is tried first, because the server may have been restarted; one that was just used is
    # not, because to try takes as long as to ask.
    @event.listens_for(engine, "checkin")
    def _used(connection: Any, record: Any) -> None:
        record.info["used"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _try(connection: Any, record: Any, proxy: Any) -> None:
        if time.monotonic() - record.info.get("used", time.monotonic()) < _FRESH:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise DisconnectionError from error

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        options = connection.get_execution_options()
        if options.get(MIGRATES, False):
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")
        elif options.get(WRITES, False):
            # The lock comes before the moment that the transaction sees: PostgreSQL takes that at the first query,
            # which LOCK is not.
            patience = f"SET LOCAL lock_timeout = '{PATIENCE}s'"
            connection.exec_driver_sql(f"{patience}; LOCK TABLE schema_version IN SHARE ROW EXCLUSIVE MODE")

    return engine

"""The store's schema, step by step: each change of the tables is one migration in ``versions``, never edited once
released.

They run in the program, on the connection of :meth:`orchestrator.governance.store.Store.prepare`, in its one
transaction. A migration adds; it does not drop or narrow what an older program reads. SQLite rewrites a table for
most other changes, which foreign keys forbid within a transaction.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from orchestrator.errors import SettingsError

#: the schema of before the migrations; such a store has no ``alembic_version``
FIRST = "0001"


def upgrade(connection: Connection) -> None:
    """Bring the tables up to date, in the transaction of ``connection``.

    Raises:
        SettingsError: the store is newer than this program, or its tables are none that it knows.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    found = MigrationContext.configure(connection).get_current_heads()
    if not found and inspect(connection).has_table("schema_version"):
        version = connection.scalar(text("SELECT max(version) FROM schema_version"))
        if version != 1:
            raise SettingsError(f"the governance store follows schema {version}, which this version does not know")
        command.stamp(config, FIRST)
    _check_known(config, found)
    command.upgrade(config, "head")


def _check_known(config: Config, found: tuple[str, ...]) -> None:
    # Stops: a program that was put back to an older version, and writes rows without what the newer one relies on.
    # Shown by tests/unit/governance/test_migrations.py.
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if not known.issuperset(found):
        raise SettingsError(
            f"the governance store is newer than this program (schema {', '.join(found)})",
            hint="run the version of Bulle that it was made with, or restore the backup of before the upgrade",
        )

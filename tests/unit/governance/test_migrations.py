"""A store of before comes up to date with all that is in it, once, and none is taken that is newer."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Column, Integer, MetaData, inspect, text

from orchestrator.errors import SettingsError
from orchestrator.governance import migrations
from orchestrator.governance import store as store_module
from orchestrator.governance.service import Governance
from orchestrator.governance.states import MembershipState, PermitState, ProjectState
from orchestrator.governance.store import SCHEMA, Base, MembershipRow, Store
from tests.unit.governance.places import START, Clock, Kept, Shelf

ROOT = Path(__file__).parents[3]

#: the tables as the program of before the migrations made them, and what it wrote into them
OLD = """
CREATE TABLE schema_version (version INTEGER NOT NULL, PRIMARY KEY (version));
CREATE TABLE person (id VARCHAR(64) NOT NULL, subject VARCHAR(255) NOT NULL, display_name VARCHAR(200) NOT NULL,
  email VARCHAR(254) NOT NULL, disabled BOOLEAN NOT NULL, PRIMARY KEY (id), UNIQUE (subject));
CREATE TABLE project (id VARCHAR(32) NOT NULL, slug VARCHAR(40) NOT NULL, title VARCHAR(200) NOT NULL,
  purpose TEXT NOT NULL, state VARCHAR(20) NOT NULL, starts {moment} NOT NULL, ends {moment} NOT NULL,
  created_by VARCHAR(64) NOT NULL, created_at {moment} NOT NULL, PRIMARY KEY (id), UNIQUE (slug));
CREATE TABLE platform_role (person_id VARCHAR(64) NOT NULL, role VARCHAR(20) NOT NULL,
  PRIMARY KEY (person_id, role), FOREIGN KEY(person_id) REFERENCES person (id));
CREATE TABLE membership (id {serial} NOT NULL, project_id VARCHAR(32) NOT NULL, person_id VARCHAR(64) NOT NULL,
  role VARCHAR(20) NOT NULL, state VARCHAR(20) NOT NULL, ends {moment} NOT NULL, requested_by VARCHAR(64) NOT NULL,
  approved_by VARCHAR(64), changed_at {moment} NOT NULL, PRIMARY KEY (id), UNIQUE (project_id, person_id),
  FOREIGN KEY(project_id) REFERENCES project (id), FOREIGN KEY(person_id) REFERENCES person (id));
CREATE INDEX ix_membership_person_id ON membership (person_id);
CREATE INDEX ix_membership_project_id ON membership (project_id);
CREATE TABLE appointment (id {serial} NOT NULL, project_id VARCHAR(32) NOT NULL, lead VARCHAR(64) NOT NULL,
  appointed_by VARCHAR(64) NOT NULL, appointed_at {moment} NOT NULL, PRIMARY KEY (id),
  FOREIGN KEY(project_id) REFERENCES project (id), FOREIGN KEY(lead) REFERENCES person (id));
CREATE INDEX ix_appointment_project_id ON appointment (project_id);
CREATE TABLE permit (id {serial} NOT NULL, project_id VARCHAR(32) NOT NULL, version INTEGER NOT NULL,
  state VARCHAR(20) NOT NULL, terms JSON NOT NULL, drafted_by VARCHAR(64) NOT NULL, drafted_at {moment} NOT NULL,
  approved_by VARCHAR(64), approved_at {moment}, ended_by VARCHAR(64), ended_at {moment}, PRIMARY KEY (id),
  UNIQUE (project_id, version), FOREIGN KEY(project_id) REFERENCES project (id));
CREATE INDEX ix_permit_project_id ON permit (project_id);
CREATE UNIQUE INDEX permit_one_approved ON permit (project_id) WHERE state = 'approved';
INSERT INTO schema_version VALUES (1);
INSERT INTO person VALUES ('custodian', 'custodian', 'Custodian', '', {no}), ('lead', 'lead', 'Lead', 'l@x.org', {no}),
  ('researcher', 'researcher', 'Researcher', '', {no}), ('left', 'left', 'Left', '', {yes});
INSERT INTO platform_role VALUES ('custodian', 'custodian');
INSERT INTO project VALUES ('{p1}', 'sleep', 'Sleep', 'To see.', 'active', '2026-01-01 00:00:00.000000',
  '2027-01-01 00:00:00.000000', 'custodian', '2026-01-01 00:00:00.000000'), ('{p2}', 'old', 'Old', 'Seen.', 'closed',
  '2024-01-01 00:00:00.000000', '2025-01-01 00:00:00.000000', 'custodian', '2024-01-01 00:00:00.000000');
INSERT INTO membership (project_id, person_id, role, state, ends, requested_by, approved_by, changed_at) VALUES
  ('{p1}', 'lead', 'lead', 'active', '2027-01-01 00:00:00.000000', 'custodian', 'custodian',
   '2026-01-01 00:00:00.000000'),
  ('{p1}', 'researcher', 'member', 'active', '2026-06-01 00:00:00.000000', 'researcher', 'lead',
   '2026-01-02 03:04:05.000000'),
  ('{p1}', 'left', 'member', 'ended', '2026-06-01 00:00:00.000000', 'left', 'lead', '2026-01-03 00:00:00.000000');
INSERT INTO appointment (project_id, lead, appointed_by, appointed_at) VALUES
  ('{p1}', 'lead', 'custodian', '2026-01-01 00:00:00.000000');
INSERT INTO permit (project_id, version, state, terms, drafted_by, drafted_at, approved_by, approved_at) VALUES
  ('{p1}', 1, 'approved', '{{"version": 1, "valid_from": "2026-01-01T00:00:00Z", "valid_until": "2026-12-31T00:00:00Z",
   "tables": [{{"dataset": "visits", "table": "visits", "columns": [{{"name": "age"}}]}}]}}', 'lead',
   '2026-01-01 00:00:00.000000', 'custodian', '2026-01-01 00:00:00.000000');
"""
_WORDS = {
    "sqlite": {"moment": "DATETIME", "serial": "INTEGER", "yes": "1", "no": "0"},
    "postgresql": {"moment": "TIMESTAMP WITH TIME ZONE", "serial": "SERIAL", "yes": "true", "no": "false"},
}


def fill(store: Store) -> None:
    """Make the store of before, by its statements."""
    statements = OLD.format(**_WORDS[store.kind], p1="1" * 32, p2="2" * 32)
    with store._engine.begin() as connection:
        for statement in statements.split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement)


def rows(store: Store) -> dict[str, list[dict[str, object]]]:
    """What is in each table, in some order that stays."""
    with store._engine.connect() as connection:
        return {
            table: [dict(row) for row in connection.execute(text(f'SELECT * FROM "{table}" ORDER BY 1, 2')).mappings()]
            for table in sorted(inspect(connection).get_table_names())
            if table not in ("schema_version", "alembic_version")
        }


@pytest.fixture
def empty(folder, databases):
    """A store on a database without a table."""
    made = Store(databases.empty(folder))
    yield made
    made.close()


@pytest.fixture
def old(empty):
    """One that the program of before made and filled."""
    fill(empty)
    return empty


def test_the_name_of_the_latest_migration_is_the_schema_of_this_program():
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    assert ScriptDirectory.from_config(config).get_heads() == [SCHEMA]


def compared(store: Store) -> list[object]:
    with store._engine.connect() as connection:
        return list(compare_metadata(MigrationContext.configure(connection), Base.metadata))


def test_the_migrations_make_exactly_the_tables_of_the_program(empty):
    empty.prepare()
    assert compared(empty) == []
    assert empty.schema() == SCHEMA


def test_a_migrated_store_has_exactly_the_tables_of_the_program(old):
    old.prepare()
    assert compared(old) == []


def test_negative_control_a_forgotten_migration_is_seen(empty, monkeypatch):
    empty.prepare()
    changed = MetaData()
    for table in Base.metadata.sorted_tables:
        table.to_metadata(changed)
    changed.tables["person"].append_column(Column("height", Integer))
    with empty._engine.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection), changed)
    assert [(one[0], one[3].name) for one in found] == [("add_column", "height")]


def test_every_row_of_before_is_there_after(old):
    before = rows(old)
    old.prepare()
    after = rows(old)
    assert sum(map(len, before.values())) == 12
    for table, kept in before.items():
        assert [{name: row[name] for name in was} for was, row in zip(kept, after[table], strict=True)] == kept


def test_the_program_works_with_them(old):
    old.prepare()
    governance = Governance(old, Kept(), Clock(START + timedelta(days=3)), Shelf())
    assert governance.project("sleep").state is ProjectState.ACTIVE
    assert [one.state for one in governance.permits("sleep")] == [PermitState.APPROVED]
    assert governance.person("left").disabled and not governance.person("lead").disabled
    governance.suspend_project("custodian", "sleep")
    assert governance.project("sleep").state is ProjectState.SUSPENDED


def test_a_member_of_before_is_reviewed_in_half_a_year(old):
    old.prepare()
    with old.read() as session:
        due = {row.person_id: (row.state, row.review_due) for row in session.query(MembershipRow)}
    assert due["left"] == (MembershipState.ENDED, None)
    for person in ("lead", "researcher"):
        state, moment = due[person]
        assert state is MembershipState.ACTIVE
        assert timedelta(days=179) < moment - datetime.now(UTC) < timedelta(days=181)


def test_once_is_enough(old):
    old.prepare()
    before = rows(old)
    old.prepare()
    assert rows(old) == before


def test_a_migration_that_fails_leaves_the_store_as_it_was(old, monkeypatch):
    before = rows(old)

    def fail(*arguments, **named):
        raise SettingsError("the machine stopped here")

    monkeypatch.setattr(migrations.command, "upgrade", fail)
    with pytest.raises(SettingsError):
        old.prepare()
    assert rows(old) == before and old.schema() is None
    monkeypatch.undo()
    old.prepare()
    assert old.schema() == SCHEMA


def test_one_that_fails_half_way_does_too(old, monkeypatch):
    before = rows(old)
    real = Operations.execute

    def fail(self, sqltext, *arguments, **named):
        if "schema_version" in str(sqltext):  # the last statement of the second migration
            raise SettingsError("the machine stopped here")
        return real(self, sqltext, *arguments, **named)

    monkeypatch.setattr(Operations, "execute", fail)
    with pytest.raises(SettingsError):
        old.prepare()
    assert rows(old) == before and old.schema() is None


def a_second_program_waits(first: Store, second: Store, seconds: float = 0.5) -> None:
    with ThreadPoolExecutor() as pool:
        with first._migrates.begin() as connection:
            waits = pool.submit(second.prepare)
            with pytest.raises(FutureTimeout):
                waits.result(timeout=seconds)
            migrations.upgrade(connection)
        waits.result(timeout=30)


def test_of_programs_that_start_at_once_one_migrates(folder, databases, old):
    other = Store(databases.empty(folder))
    a_second_program_waits(old, other)
    other.close()
    assert compared(old) == []


def test_negative_control_without_the_lock_both_are_at_it(folder, databases, old, monkeypatch):
    monkeypatch.setattr(store_module, "MIGRATES", "nothing")
    stores = [Store(databases.empty(folder)) for _ in range(2)]
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        a_second_program_waits(*stores, seconds=60)
    for store in stores:
        store.close()


PROGRAM = """
import sys
from orchestrator.governance.store import Store
Store(sys.argv[1]).prepare()
"""


def test_of_two_processes_one_migrates(folder, databases, old):
    started = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, databases.empty(folder)], cwd=ROOT, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    assert [(process.communicate(timeout=60)[1], process.returncode) for process in started] == [(b"", 0)] * 2
    assert compared(old) == []


def newer(store: Store) -> None:
    with store._engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))


def test_a_store_that_is_newer_than_the_program_is_refused(empty):
    empty.prepare()
    newer(empty)
    with pytest.raises(SettingsError, match="newer than this program"):
        empty.prepare()
    assert empty.schema() == "9999"


def test_without_our_check_alembic_itself_goes_no_further(empty, monkeypatch):
    empty.prepare()
    newer(empty)
    monkeypatch.setattr(migrations, "_check_known", lambda config, found: None)
    with pytest.raises(CommandError, match="9999"):
        empty.prepare()


def test_a_program_of_before_turns_away_from_a_store_of_now(old):
    """It knew one table only, and refused any other number than its own."""
    old.prepare()
    with old._engine.connect() as connection:
        assert connection.execute(text("SELECT version FROM schema_version")).scalars().all() == [2]


def test_tables_that_no_version_made_are_refused(old):
    with old._engine.begin() as connection:
        connection.execute(text("UPDATE schema_version SET version = 7"))
    with pytest.raises(SettingsError, match="schema 7"):
        old.prepare()

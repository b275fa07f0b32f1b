"""PostgreSQL as a deployment has it: settings, the command line, the doctor, and the authority with no network."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from sqlalchemy import text

from orchestrator.cli import main
from orchestrator.config import Settings, Uid, load_settings
from orchestrator.errors import UnavailableError
from orchestrator.governance.client import AuthorityClient
from orchestrator.governance.keys import create_signing_keys
from orchestrator.governance.store import SCHEMA, Store
from orchestrator.machine.doctor import Level, check_database, check_secrets
from orchestrator.terms import SessionClaim
from tests.postgres import STRICT, programs
from tests.unit.governance.test_migrations import fill, newer, rows

ROOT = Path(__file__).parents[3]


@pytest.fixture
def deployment(postgres, folder, monkeypatch):
    """The settings of a deployment whose store is on PostgreSQL, behind a socket and a password."""
    running = postgres()
    name = running.create(owner=STRICT)
    password = folder / "database-password"
    password.write_text(running.password + "\n")
    password.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(password, Uid.AUTHORITY, Uid.AUTHORITY)
    else:
        monkeypatch.setattr(Uid, "AUTHORITY", os.geteuid())
    written = {
        "deployment": "trial",
        "state": str(folder / "state"),
        "oidc": {"issuer": "http://127.0.0.1:9", "client_id": "x", "client_secret_file": str(password)},
        "database": f"postgresql://{STRICT}@/{name}",
        "database_socket": str(running.socket),
        "database_password_file": str(password),
    }
    path = folder / "bulle.yaml"
    path.write_text(yaml.safe_dump(written))
    settings = load_settings(path)
    create_signing_keys(settings.layout)
    monkeypatch.setenv("BULLE_SETTINGS", str(path))
    monkeypatch.delenv("BULLE_AS", raising=False)
    yield settings
    running.drop(name)


def bulle(capsys, *arguments: str) -> tuple[int, str]:
    code = 0
    try:
        main(list(arguments))
    except SystemExit as ended:
        code = int(ended.code or 0)
    told = capsys.readouterr()
    return code, told.out + told.err


def test_the_command_line_works_on_it(deployment, capsys):
    assert bulle(capsys, "person", "add", "researcher", "--name", "Researcher")[0] == 0
    code, told = bulle(capsys, "person", "list")
    assert code == 0 and "Researcher" in told
    assert not deployment.layout.database.exists(), "and nothing is kept elsewhere"


def test_a_wrong_password_is_one_clear_line_without_it(deployment, capsys):
    deployment.database_password_file.write_text("hunter2")
    code, told = bulle(capsys, "person", "list")
    assert code != 0 and "authentication failed" in told
    assert "hunter2" not in told and "Traceback" not in told


def serving(settings: Settings) -> subprocess.Popen[bytes]:
    """The authority as its container runs it: with no network but a loopback that is down."""
    apart = ["unshare", "--net"] if os.geteuid() == 0 and shutil.which("unshare") else []
    for name in ("hub", "portal", "node"):
        settings.layout.socket(name).parent.mkdir(parents=True)
    process = subprocess.Popen(
        [*apart, sys.executable, "-m", "orchestrator.cli", "serve", "authority"],
        cwd=ROOT,
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
    )
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        try:
            with AuthorityClient(settings.layout.socket("node")) as node:
                node.check_sessions([])
                return process
        except UnavailableError:
            time.sleep(0.05)
    process.kill()
    raise AssertionError(process.communicate()[0].decode())


def test_the_authority_keeps_its_store_there_and_has_no_network(deployment):
    process = serving(deployment)
    try:
        proc = Path(f"/proc/{process.pid}")
        shown = (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()
        assert deployment.database_password_file.read_text().strip().encode() not in shown
        with AuthorityClient(deployment.layout.socket("hub")) as hub:
            hub.person_upsert("researcher", "researcher", "Researcher")
        claim = SessionClaim(session="a" * 32, person="researcher", project_id="b" * 32, permit_version=1)
        with AuthorityClient(deployment.layout.socket("node")) as node:
            assert [verdict.allowed for verdict in node.check_sessions([claim])] == [False]
    finally:
        process.terminate()
        told = process.communicate(timeout=30)[0].decode()
    assert deployment.database_password_file.read_text().strip() not in told
    store = Store(deployment.database_url, deployment.database_password_file)
    with store.read() as session:
        assert session.connection().exec_driver_sql("SELECT id FROM person").scalars().all() == ["researcher"]
    store.close()


# -- backup -----------------------------------------------------------------------------------------------------------
def test_a_dump_of_postgresql_brings_everything_back(postgres, folder):
    """As docs/administration.md has it, with Debian's programs."""
    server = postgres()
    first, second = server.create(), server.create()
    store = Store(server.url(first))
    fill(store)
    store.prepare()
    reach = ["--host", server.socket, "--username", "postgres"]
    copy = folder / "copy"
    subprocess.run([programs() / "pg_dump", *reach, "--format", "custom", "--file", copy, first], check=True)
    subprocess.run([programs() / "pg_restore", *reach, "--dbname", second, copy], check=True)
    restored = Store(server.url(second))
    restored.prepare()
    assert rows(restored) == rows(store) and restored.schema() == SCHEMA
    for one, name in ((store, first), (restored, second)):
        one.close()
        server.drop(name)


def test_a_copy_of_sqlite_while_it_is_in_use_brings_everything_back(folder):
    store = Store(f"sqlite:///{folder / 'used.sqlite'}")
    fill(store)
    store.prepare()
    with store.write() as session:  # somebody is at it; what they did not finish is not in the copy
        session.execute(text("UPDATE person SET display_name = 'x'"))
        with sqlite3.connect(folder / "used.sqlite") as source, sqlite3.connect(folder / "copy.sqlite") as target:
            source.backup(target)
        source.close()
        target.close()
    restored = Store(f"sqlite:///{folder / 'copy.sqlite'}")
    restored.prepare()
    assert rows(restored) == rows(store)
    restored.close()
    store.close()


# -- the doctor -------------------------------------------------------------------------------------------------------
def test_the_doctor_says_how_the_database_is(deployment):
    assert check_database(deployment).level is Level.WARNING  # without tables yet
    store = Store(deployment.database_url, deployment.database_password_file)
    store.prepare()
    found = check_database(deployment)
    assert (found.level, found.message) == (Level.FINE, f"PostgreSQL, schema {SCHEMA}")
    newer(store)
    store.close()
    assert "newer" in check_database(deployment).message
    assert check_database(deployment).level is Level.FAULT


def test_the_doctor_says_that_the_database_does_not_answer(deployment, tmp_path):
    elsewhere = deployment.model_copy(update={"database_socket": tmp_path})
    assert check_database(elsewhere).level is Level.FAULT
    deployment.database_password_file.write_text("hunter2")
    found = check_database(deployment)
    assert found.level is Level.FAULT and "hunter2" not in found.message


def test_the_doctor_sees_a_password_of_somebody_elses_or_open_to_others(deployment):
    deployment.layout.secrets.mkdir(parents=True)
    deployment.database_password_file.chmod(0o640)
    assert check_secrets(deployment).level is Level.FAULT
    deployment.database_password_file.chmod(0o600)
    assert check_secrets(deployment).level is Level.FINE
    if os.geteuid() == 0:
        os.chown(deployment.database_password_file, 0, 0)
        assert check_database(deployment).level is Level.FAULT


def test_the_doctor_looks_at_sqlite_and_changes_nothing(deployment):
    small = deployment.model_copy(update={"database": None, "database_socket": None, "database_password_file": None})
    assert check_database(small).level is Level.FINE
    store = Store(small.database_url)
    store.prepare()
    store.close()
    before = small.layout.database.read_bytes()
    found = check_database(small)
    assert (found.level, found.message) == (Level.FINE, f"SQLite, schema {SCHEMA}")
    assert small.layout.database.read_bytes() == before

"""One store on two databases: one moment for a reader, one writer at a time, and what it says when it fails."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress

import pytest
from sqlalchemy import event, text

from orchestrator.errors import BulleError, ConflictError, SettingsError, UnavailableError
from orchestrator.governance import database
from orchestrator.governance import store as store_module
from orchestrator.governance.service import Governance
from orchestrator.governance.states import MembershipState, ProjectState
from orchestrator.governance.store import MembershipRow, PersonRow, ProjectRow, RoleRow, Store
from tests.postgres import OWNER, STRICT
from tests.unit.governance.databases import prepared_sqlite
from tests.unit.governance.places import Kept, Shelf, store_url

on_postgresql = pytest.mark.parametrize("databases", ["postgresql"], indirect=True)


def test_the_store_survives_its_process(folder, sleep):
    again = Store(store_url(folder))
    again.prepare()
    other = Governance(again, Kept(), sleep.clock, Shelf())
    assert other.project("sleep") == sleep.governance.project("sleep")
    assert other.persons() == sleep.governance.persons()
    again.close()


def test_sqlite_waits_for_the_disk_and_keeps_its_references(folder):
    store = Store(prepared_sqlite(folder))
    with store.read() as session:
        assert session.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert session.execute(text("PRAGMA foreign_keys")).scalar() == 1
        assert session.execute(text("PRAGMA synchronous")).scalar() == 2
    store.close()


def test_a_store_that_is_not_there(tmp_path):
    for url in (f"sqlite:///{tmp_path / 'no' / 'folder'}", f"postgresql+psycopg://bulle@/bulle?host={tmp_path}"):
        with pytest.raises(UnavailableError) as caught:
            Store(url).prepare()
        assert "INSERT" not in str(caught.value)


@pytest.mark.parametrize("url", ["nonsense", "mysql://bulle@/bulle", "postgresql+nothing://bulle@/bulle"])
def test_another_database_is_refused(url):
    with pytest.raises(SettingsError, match="database"):
        Store(url)


# -- one moment -------------------------------------------------------------------------------------------------------
def test_a_reader_sees_one_moment_and_no_writer_waits_for_it(sleep):
    with sleep.store.read() as session:
        before = session.scalars(text("SELECT state FROM project")).all()
        with ThreadPoolExecutor() as pool:
            pool.submit(sleep.governance.suspend_project, "admin", "sleep").result(timeout=10)
        session.expire_all()
        assert session.scalars(text("SELECT state FROM project")).all() == before
    assert sleep.governance.project("sleep").state is ProjectState.SUSPENDED


@on_postgresql
def test_a_reader_changes_nothing_on_postgresql(sleep):
    with pytest.raises(UnavailableError, match="read-only"), sleep.store.read() as session:
        session.execute(text("UPDATE project SET title = 'x'"))


# -- one writer -------------------------------------------------------------------------------------------------------
def two_at_once(first, second) -> list[BaseException | None]:
    """Two threads whose transactions overlap: each waits, once it is in, for the other to be in or to wait."""
    with ThreadPoolExecutor(2) as pool:
        return [one.exception(timeout=60) for one in (pool.submit(first), pool.submit(second))]


def leaving(store: Store, person: str, met: threading.Barrier, seconds: float):
    """Leaves the project if somebody else is there to stay: right alone, wrong for two at once."""

    def leave() -> None:
        with store.write() as session:
            rows = {row.person_id: row for row in session.query(MembershipRow).all()}
            others = [row for name, row in rows.items() if name != person and row.state is MembershipState.ACTIVE]
            with suppress(threading.BrokenBarrierError):
                met.wait(timeout=seconds)  # both have looked, if both can
            if not others:
                raise ConflictError("the last one stays")
            rows[person].state = MembershipState.ENDED
            session.commit()

    return leave


def the_last_one_stays(store: Store, seconds: float = 0.5) -> None:
    met = threading.Barrier(2)
    failed = two_at_once(leaving(store, "lead", met, seconds), leaving(store, "researcher", met, seconds))
    assert sorted(type(one).__name__ for one in failed) == ["ConflictError", "NoneType"]
    with store.read() as session:
        left = [row for row in session.query(MembershipRow) if row.state is MembershipState.ACTIVE]
    assert len(left) == 1


def test_two_that_contradict_each_other_do_not_both_happen(sleep):
    the_last_one_stays(sleep.store)


def test_the_second_sees_what_the_first_did(sleep):
    """Not by a conflict that is somebody's to try again: it waits its turn."""
    told: list[str] = []

    def rename(name: str):
        def run() -> None:
            with sleep.store.write() as session:
                row = session.get(PersonRow, "researcher")
                told.append(row.display_name)
                row.display_name = row.display_name + name
                session.commit()

        return run

    assert two_at_once(rename("+one"), rename("+two")) == [None, None]
    assert told[1].startswith(told[0]) and len(told[1]) > len(told[0])


@on_postgresql
def test_negative_control_without_both_nets_both_happen(sleep):
    """The lock is one, the server's own serialisation the other."""
    sleep.store._writes = sleep.store._engine.execution_options(isolation_level="READ COMMITTED")
    with pytest.raises(AssertionError):
        the_last_one_stays(sleep.store, seconds=30)


@pytest.mark.parametrize("databases", ["sqlite"], indirect=True)
def test_negative_control_without_the_lock_at_its_beginning_sqlite_fails_instead_of_waiting(sleep):
    sleep.store._writes = sleep.store._engine
    sleep.store._turn = nullcontext()
    with pytest.raises(AssertionError, match="ailableError"):
        the_last_one_stays(sleep.store, seconds=30)


def many_at_once(folder, monkeypatch, *, turn: bool) -> list[BaseException | None]:
    """Writers of one program on a SQLite that lets nobody try twice, while another one is in."""
    monkeypatch.setattr(database, "PATIENCE", 0)
    store = Store(prepared_sqlite(folder))
    if not turn:
        store._turn = nullcontext()
    begun = threading.Barrier(5)

    def change() -> None:
        begun.wait(timeout=60)
        with store.write() as session:
            session.execute(text("UPDATE person SET email = email || 'x'"))
            session.commit()

    with ThreadPoolExecutor(4) as pool:
        with store.write() as session:
            session.execute(text("UPDATE person SET email = ''"))
            waiting = [pool.submit(change) for _ in range(4)]
            begun.wait(timeout=60)
            if not turn:  # each of them has tried, once
                return [one.exception(timeout=60) for one in waiting]
            session.commit()
        return [one.exception(timeout=60) for one in waiting]


def test_writers_of_one_program_wait_for_their_turn(folder, monkeypatch):
    """However busy the machine is: none of them depends on trying at the right moment."""
    assert many_at_once(folder, monkeypatch, turn=True) == [None] * 4


def test_negative_control_without_turns_each_of_them_must_be_lucky(folder, monkeypatch):
    failed = many_at_once(folder, monkeypatch, turn=False)
    assert [type(one) for one in failed] == [UnavailableError] * 4


def test_a_turn_is_waited_for_with_patience_and_no_longer(folder, monkeypatch):
    store = Store(prepared_sqlite(folder))
    monkeypatch.setattr(store_module, "PATIENCE", 0.01)
    with store.write(), ThreadPoolExecutor(1) as pool:
        error = pool.submit(lambda: store.write().__enter__()).exception(timeout=60)
    assert isinstance(error, UnavailableError)
    with store.write():
        pass


@on_postgresql
def test_without_the_lock_postgresql_itself_lets_one_of_them_fail(sleep):
    sleep.store._writes = sleep.store._engine  # serialisable, and no lock
    the_last_one_stays(sleep.store, seconds=30)


@on_postgresql
def test_who_waits_too_long_for_another_is_told_so(sleep, monkeypatch):
    monkeypatch.setattr(database, "PATIENCE", 1)
    with sleep.store.write() as session:
        session.execute(text("UPDATE project SET title = 'x'"))
        with ThreadPoolExecutor() as pool:
            error = pool.submit(sleep.governance.suspend_project, "admin", "sleep").exception(timeout=30)
    assert isinstance(error, ConflictError)


def test_a_reference_to_nobody_is_a_conflict_without_its_values(sleep):
    with pytest.raises(ConflictError) as caught, sleep.store.write() as session:
        session.add(RoleRow(person_id="nobody", role="reviewer"))
        session.commit()
    assert "nobody" not in str(caught.value)


def test_moments_come_back_in_utc_and_without_a_zone_are_refused(sleep):
    with sleep.store.read() as session:
        assert session.query(ProjectRow).one().ends.utcoffset().total_seconds() == 0
    with pytest.raises(BulleError), sleep.store.write() as session:
        row = session.query(ProjectRow).one()
        row.ends = row.ends.replace(tzinfo=None)
        session.commit()


# -- a server that was restarted --------------------------------------------------------------------------------------
def cut(store: Store) -> None:
    """What a restart does to the connections of a program."""
    with store.read() as session:
        session.execute(text("SELECT 1"))
    other = Store(store._engine.url.render_as_string(hide_password=False))
    cut_all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    with other._engine.begin() as connection:
        connection.execute(text(f"{cut_all} WHERE pid <> pg_backend_pid() AND datname = current_database()"))
    other.close()


@on_postgresql
def test_a_restart_of_the_server_is_not_noticed_after_a_moment(sleep, monkeypatch):
    monkeypatch.setattr(database, "_FRESH", 0.0)
    cut(sleep.store)
    assert sleep.governance.project("sleep").slug == "sleep"


@on_postgresql
def test_negative_control_untried_a_connection_that_was_cut_fails_once_and_once_only(sleep, monkeypatch):
    monkeypatch.setattr(database, "_FRESH", 1e9)
    cut(sleep.store)
    with pytest.raises(UnavailableError):
        sleep.governance.project("sleep")
    assert sleep.governance.project("sleep").slug == "sleep"


# -- the password -----------------------------------------------------------------------------------------------------
@pytest.fixture
def locked(postgres, tmp_path):
    """A database whose owner has to show a password: its server, URL and password file."""
    running = postgres()
    name = running.create(owner=STRICT)
    file = tmp_path / "password"
    file.write_text(running.password + "\n")
    file.chmod(0o600)
    yield running, running.url(name, STRICT), file
    running.drop(name)


def test_the_password_comes_from_its_file_and_shows_nowhere(locked, caplog):
    running, url, file = locked
    store = Store(url, file)
    with caplog.at_level("DEBUG"):
        store.prepare()
    store.close()
    assert store.schema() is not None
    shown = repr(store._engine) + str(store._engine.url) + caplog.text
    assert running.password not in shown


def test_a_wrong_password_is_refused_and_not_told(locked):
    running, url, file = locked
    file.write_text("another-one")
    with pytest.raises(UnavailableError) as caught:
        Store(url, file).prepare()
    assert "another-one" not in str(caught.value) and running.password not in str(caught.value)


def test_a_password_that_others_can_read_is_not_used(locked):
    _, url, file = locked
    file.chmod(0o644)
    with pytest.raises(SettingsError, match="can be read by everybody"):
        Store(url, file).prepare()


def a_server_that_asks_in_clear_gets_no_password(running, name, file) -> None:
    """Its role needs no password here: it stands for a server that takes whatever it is told."""
    with pytest.raises(UnavailableError, match="authentication"):
        Store(running.url(name, OWNER), file).schema()


def test_a_server_that_does_not_prove_itself_is_not_talked_to(locked):
    running, _, file = locked
    a_server_that_asks_in_clear_gets_no_password(running, "postgres", file)


def test_negative_control_without_the_demand_any_server_is_talked_to(locked):
    running, _, file = locked
    store = Store(running.url("postgres", OWNER), file)

    @event.listens_for(store._engine, "do_connect")
    def forget(dialect, record, arguments, options):
        options.pop("require_auth")

    assert store.schema() is None
    store.close()

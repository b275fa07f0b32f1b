"""No query behind a person's own pages grows with the projects that they are not in: told by both databases' plans."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from benchmarks import crowd
from orchestrator.audit import AuditLog
from orchestrator.errors import RefusedError
from orchestrator.governance.cards import Person
from orchestrator.governance.operations import OPERATIONS
from orchestrator.governance.service import Governance
from orchestrator.governance.store import Base, Store
from orchestrator.terms import SessionClaim
from tests.unit.governance.databases import KINDS, prepared_sqlite
from tests.unit.governance.places import AUDIT_KEY, Shelf

PROJECTS, PEOPLE, MEMBERSHIPS = 1000, 2000, 10_000

#: read for everybody, or for people in office; lists of these are cut to a page
OFFICE = {
    "people.list",
    "person.projects",
    "person.passkeys",
    "projects.list",
    "audit.read",
    "health.read",
    "catalogue.search",
    "catalogue.read",
}
#: a person's own: name of the operation → its arguments, for a person and a project of theirs
OWN = {
    "account.read": lambda person, project: {},
    "application.read": lambda person, project: {"project": project, "number": 1},
    "applications.list": lambda person, project: {},
    "inbox.read": lambda person, project: {},
    "passkey.list": lambda person, project: {},
    "person.read": lambda person, project: {"person": person},
    "person.trainings": lambda person, project: {"person": person},
    "project.activity": lambda person, project: {"project": project},
    "project.read": lambda person, project: {"project": project},
    "projects.mine": lambda person, project: {},
    "token.list": lambda person, project: {},
    "usage.read": lambda person, project: {"project": project},
}
#: empty here, so that PostgreSQL takes any way through them
EMPTY = {"api_token", "decision", "deletion", "notice", "passkey", "quota"}
#: an application is its writer's and the leads'
NOT_THEIRS = ("member", "application.read")
#: what waits for a second person: few, and gone once decided
SMALL = {"endorsement"}


@pytest.fixture(scope="module", params=KINDS)
def region(request, postgres):
    """A large store: governance, and a lead with their project."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        if request.param == "sqlite":
            store = Store(prepared_sqlite(Path(name)))
        else:
            server = postgres()
            database = server.prepared()
            store = Store(server.url(database))
        members = crowd.fill(store, PROJECTS, PEOPLE, MEMBERSHIPS)
        audit = AuditLog(Path(name) / "audit", AUDIT_KEY, clock=lambda: datetime.now(UTC))
        audit.create()
        yield Governance(store, audit, lambda: datetime.now(UTC), Shelf()), members
        store.close()
        if request.param == "postgresql":
            server.drop(database)


Told = list[tuple[str, Any]]


@contextmanager
def statements(store: Store) -> Iterator[Told]:
    """What reaches the database, with its values."""
    told: Told = []

    def keep(connection: Any, cursor: Any, statement: str, values: Any, *more: Any) -> None:
        told.append((statement, values))

    event.listen(store._engine, "before_cursor_execute", keep)
    try:
        yield told
    finally:
        event.remove(store._engine, "before_cursor_execute", keep)


def walks(store: Store, told: Told) -> set[str]:
    """The tables that these statements go through from end to end, as the database says."""
    found: set[str] = set()
    with store._engine.connect() as connection:
        if store.kind == "postgresql":
            # Where a table is small, PostgreSQL goes through it though there is an index. Whether there is one to
            # go by when it is large is the question here.
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            leading = dict(connection.exec_driver_sql(LEADING).all())
        for statement, values in told:
            if not statement.lstrip("( \n").startswith("SELECT"):
                continue
            if store.kind == "sqlite":
                for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values):
                    if row[3].startswith("SCAN "):
                        found.add(row[3].split()[1])
            else:
                plan = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", values).scalar_one()
                found |= set(_walked(json.loads(plan) if isinstance(plan, str) else plan, leading))
    looked_at = {table.name for table in Base.metadata.sorted_tables} - SMALL
    return found & (looked_at if store.kind == "sqlite" else looked_at - EMPTY)


#: PostgreSQL: each index, and the first of its columns
LEADING = """SELECT index.relname, field.attname FROM pg_index JOIN pg_class AS index ON index.oid = indexrelid
JOIN pg_attribute AS field ON field.attrelid = indrelid AND field.attnum = indkey[0]"""


def _walked(node: Any, leading: dict[str, str], parent: str = "") -> Iterator[str]:
    """Relations that a plan of PostgreSQL's reads without a condition on the first column of an index."""
    if isinstance(node, list):
        for one in node:
            yield from _walked(one, leading, parent)
    elif isinstance(node, dict):
        relation = node.get("Relation Name", parent)
        if node.get("Node Type") == "Seq Scan":
            yield relation
        elif "Index Name" in node:
            column = leading[node["Index Name"]]
            if not re.search(rf"\b{column}\b", node.get("Index Cond", "")):
                yield relation
        yield from _walked(node.get("Plan"), leading, relation)
        yield from _walked(node.get("Plans"), leading, relation)


def test_every_reading_operation_is_looked_at():
    reads = {name for name, operation in OPERATIONS.items() if operation.reads}
    assert set(OWN) | OFFICE == reads and not set(OWN) & OFFICE


@pytest.mark.parametrize(
    ("who", "name"), [(who, name) for who in ("lead", "member") for name in sorted(OWN) if (who, name) != NOT_THEIRS]
)
def test_a_persons_own_pages_walk_through_nothing(region, who, name):
    governance, members = region
    leads = {crowd.slug(number): crowd.person(number % PEOPLE) for number in range(PROJECTS)}
    person, project = next(
        (person, project) for person, project, _ in members if (leads[project] == person) == (who == "lead")
    )
    operation = OPERATIONS[name]
    arguments = operation.arguments.model_validate(OWN[name](person, project))
    with statements(governance._store) as told:
        operation.run(governance, person, arguments)
    assert told and walks(governance._store, told) == set()


def test_decisions_walk_through_nothing(region):
    governance, members = region
    person, project, project_id = members[0]
    claim = SessionClaim(session="a" * 32, person=person, project_id=project_id, permit_version=2)
    with statements(governance._store) as told:
        assert governance.may_open(person, project).permit.version == 2
        assert governance.check_sessions([claim])[0].allowed
    assert walks(governance._store, told) == set()


def test_a_login_walks_through_nothing(region):
    governance, members = region
    with statements(governance._store) as told:
        governance.login(members[0][0], Person(subject=members[0][0], display_name="Somebody", email=""))
    assert walks(governance._store, told) == set()


def test_negative_control_a_walk_is_seen(region):
    governance, _ = region
    with statements(governance._store) as told:
        governance.projects()
    assert walks(governance._store, told) == {"project"}


def test_negative_control_without_an_index_a_walk_is_seen(region):
    governance, members = region
    store = governance._store
    with statements(store) as told:
        governance.projects_of(members[0][0])
    assert walks(store, told) == set()
    with store.write() as session:
        session.connection().exec_driver_sql("DROP INDEX ix_membership_person_id")
        session.commit()
    try:
        assert walks(store, told) == {"membership"}
    finally:
        with store.write() as session:
            session.connection().exec_driver_sql("CREATE INDEX ix_membership_person_id ON membership (person_id)")
            session.commit()


@pytest.mark.parametrize("kind", ["may_open", "check_sessions"])
def test_a_decision_is_never_one_that_was_kept(region, kind):
    """The same question just before and just after somebody else's change, asked often enough to be prepared."""
    governance, members = region
    person, project, project_id = members[1]
    claim = SessionClaim(session="a" * 32, person=person, project_id=project_id, permit_version=2)

    def allowed() -> bool:
        if kind == "check_sessions":
            return governance.check_sessions([claim])[0].allowed
        try:
            return bool(governance.may_open(person, project))
        except RefusedError:
            return False

    other = Store(governance._store._engine.url.render_as_string(hide_password=False))
    for disabled in (True, False) * 2:
        assert [allowed() for _ in range(8)] == [disabled] * 8
        with other.write() as session:
            value = str(disabled).lower() if other.kind == "postgresql" else int(disabled)
            session.connection().exec_driver_sql(f"UPDATE person SET disabled = {value} WHERE id = '{person}'")
            session.commit()
    assert allowed()
    other.close()

"""A deployment's governance, small and real: SQLite, the real audit log, a catalogue of one dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from orchestrator.audit import AuditLog
from orchestrator.errors import InputError, NotFoundError
from orchestrator.governance.identity import OPERATOR
from orchestrator.governance.permits import PermitDraft
from orchestrator.governance.service import Governance
from orchestrator.governance.states import PlatformRole
from orchestrator.governance.store import AcceptanceRow, Store, TrainingRow
from orchestrator.terms import ColumnPermit, Event, TablePermit
from tests.unit.governance.databases import Databases, prepared_sqlite

AUDIT_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
GRANT_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(2, 34)))
START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)

PEOPLE = ("custodian", "custodian2", "admin", "auditor", "lead", "researcher", "outsider")


class Clock:
    def __init__(self, now: datetime = START) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, days: float) -> None:
        self.now += timedelta(days=days)


@dataclass(frozen=True)
class Column:
    name: str
    role: str = "measure"
    type: str = "number"
    description: str = ""


@dataclass(frozen=True)
class Table:
    title: dict[str, str]
    columns: tuple[Column, ...]
    table: str = "visits"
    version: int = 1
    rows: int = 27326
    description: str = ""


@dataclass(frozen=True)
class Dataset:
    name: str
    tables: tuple[Table, ...]


class Shelf:
    """One dataset with one table of three columns."""

    tables: ClassVar = {("visits", "visits"): Table({"en": "Visits"}, (Column("age"), Column("sex"), Column("docvis")))}

    def datasets(self) -> tuple[Dataset, ...]:
        return tuple(Dataset(dataset, (table,)) for (dataset, _), table in self.tables.items())

    def check(self, tables: Sequence[TablePermit], /) -> None:
        for table in tables:
            known = self.tables.get((table.dataset, table.table))
            if known is None:
                raise InputError(f"there is no table {table.dataset}/{table.table}")
            for column in table.columns:
                if column.name not in {one.name for one in known.columns}:
                    raise InputError(f"table {table.table} has no column '{column.name}'")

    def table(self, dataset: str, table: str, /) -> Table:
        if (dataset, table) not in self.tables:
            raise NotFoundError(f"no {dataset}/{table}")
        return self.tables[dataset, table]


class Kept:
    """A recorder that keeps events in memory, for tests whose point is not the log."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def record(self, event: Event) -> int:
        self.events.append(event)
        return len(self.events)


@dataclass
class Place:
    governance: Governance
    store: Store
    audit: AuditLog
    clock: Clock

    def events(self) -> list[tuple[str, str]]:
        return [(record.event.kind, str(record.event.outcome)) for record in self.audit.read()][1:]


#: the databases of the test that runs (tests/unit/governance/conftest.py); SQLite where none is told
DATABASES: Databases | None = None


def store_url(folder: Path) -> str:
    """The URL of the prepared store that belongs to ``folder``, on the database of the test that runs."""
    return prepared_sqlite(folder) if DATABASES is None else DATABASES.url(folder)


def place(folder: Path, url: str | None = None) -> Place:
    clock = Clock()
    audit = AuditLog(folder / "audit", AUDIT_KEY, clock=clock)
    audit.create()
    store = Store(url or store_url(folder))
    store.prepare()
    return Place(Governance(store, audit, clock, Shelf()), store, audit, clock)


def peopled(governance: Governance) -> None:
    for name in PEOPLE:
        governance.add_person(OPERATOR, name, name.title(), f"{name}@example.org")
    governance.add_role(OPERATOR, "custodian", PlatformRole.CUSTODIAN)
    governance.add_role(OPERATOR, "custodian2", PlatformRole.CUSTODIAN)
    governance.add_role(OPERATOR, "admin", PlatformRole.ADMINISTRATOR)
    governance.add_role(OPERATOR, "auditor", PlatformRole.AUDITOR)
    # As ready() does for one, straight into the store: each test would wait for twenty changes more.
    now = governance.now()
    with governance._store.write() as session:
        for name in PEOPLE:
            session.add(AcceptanceRow(person_id=name, version=governance.terms_version, accepted_at=now))
            session.add(
                TrainingRow(
                    person_id=name,
                    course="Working with health data",
                    completed=now,
                    expires=now + 365 * DAY,
                    declared_by=name,
                    declared_at=now,
                    confirmed_by=OPERATOR,
                    confirmed_at=now,
                )
            )
        session.commit()


def ready(governance: Governance, person: str) -> None:
    """Let a person accept the terms, and have a training that counts from today."""
    governance.accept_terms(person, governance.terms_version)
    training = governance.declare_training(person, "Working with health data", governance.now().date(), "certificate")
    governance.confirm_training(OPERATOR, person, training.id)


def draft(*columns: str, start: datetime = START, days: float = 200) -> PermitDraft:
    names = columns or ("age", "docvis")
    return PermitDraft(
        valid_from=start,
        valid_until=start + timedelta(days=days),
        tables=(
            TablePermit(dataset="visits", table="visits", columns=tuple(ColumnPermit(name=name) for name in names)),
        ),
    )


def create(governance: Governance, slug: str = "sleep", by: str = "custodian", lead: str = "lead", days: float = 365):
    return governance.create_project(
        by, slug, title="Sleep", purpose="To see.", lead=lead, starts=START, ends=START + timedelta(days=days)
    )


def running(governance: Governance, slug: str = "sleep") -> None:
    """People, an active project with its lead, an approved permit, and one member."""
    peopled(governance)
    create(governance, slug)
    governance.activate_project("custodian", slug)
    governance.draft_permit("lead", slug, draft())
    governance.approve_permit("custodian", slug, 1)
    governance.request_membership("researcher", slug, "researcher")
    governance.approve_membership("lead", slug, "researcher", START + 100 * DAY)

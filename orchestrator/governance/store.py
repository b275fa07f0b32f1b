"""The store of governance: tables, and transactions that exclude each other.

The same on SQLite and PostgreSQL (orchestrator/governance/database.py says how). Changes of the tables are migrations
(orchestrator/governance/migrations).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    inspect,
    text,
)
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
from sqlalchemy.types import TypeDecorator

from orchestrator.errors import BulleError, ConflictError, UnavailableError
from orchestrator.governance.database import MIGRATES, PATIENCE, WRITES, open_engine
from orchestrator.governance.states import (
    ApplicationKind,
    ApplicationState,
    MemberRole,
    MembershipState,
    PermitState,
    PlatformRole,
    ProjectState,
)

#: the latest migration (orchestrator/governance/migrations): each change of these tables adds one
SCHEMA = "0002"

#: PostgreSQL: not serialisable, deadlock, waited too long for another to write
_CONFLICTS = ("40001", "40P01", "55P03")


class UtcDateTime(TypeDecorator[datetime]):
    """An aware moment, kept in UTC; a naive one is refused."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a moment without a time zone: {value.isoformat()}")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From the database: SQLite keeps no zone, so what it returns is UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class _AsText(TypeDecorator[Any]):
    """An enum kept as its value, so that a new state needs no change of the schema."""

    impl = String(20)
    cache_ok = True

    def __init__(self, kind: type[Any]) -> None:
        super().__init__()
        self.kind = kind

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """To the database."""
        return None if value is None else str(self.kind(value).value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """From the database."""
        return None if value is None else self.kind(value)


class Base(DeclarativeBase):
    """Tables of governance."""


class SchemaVersion(Base):
    """Its one row turns away programs of before the migrations, which know it alone."""

    __tablename__ = "schema_version"

    version: Mapped[int] = mapped_column(Integer, primary_key=True)


class PersonRow(Base):
    """A person who logged in or was added."""

    __tablename__ = "person"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    subject: Mapped[str] = mapped_column(String(255), unique=True)
    display_name: Mapped[str] = mapped_column(String(200))
    email: Mapped[str] = mapped_column(String(254))
    disabled: Mapped[bool] = mapped_column(Boolean, default=False)
    #: of another organisation: a membership needs a custodian's consent too
    external: Mapped[bool] = mapped_column(Boolean, default=False)
    affiliation: Mapped[str] = mapped_column(String(200), default="")
    #: when the login provider no longer knew this person; a later login clears it
    gone_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    roles: Mapped[list[RoleRow]] = relationship(order_by="RoleRow.role", cascade="all, delete-orphan")


class RoleRow(Base):
    """A platform role of a person."""

    __tablename__ = "platform_role"

    person_id: Mapped[str] = mapped_column(ForeignKey("person.id"), primary_key=True)
    role: Mapped[PlatformRole] = mapped_column(_AsText(PlatformRole), primary_key=True, index=True)
    #: whether a group at the login provider gives it, and takes it away
    from_provider: Mapped[bool] = mapped_column(Boolean, default=False)


class ProjectRow(Base):
    """A project. Rows are never deleted, so a slug is never used again."""

    __tablename__ = "project"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    slug: Mapped[str] = mapped_column(String(40), unique=True)
    title: Mapped[str] = mapped_column(String(200))
    purpose: Mapped[str] = mapped_column(Text)
    state: Mapped[ProjectState] = mapped_column(_AsText(ProjectState))
    starts: Mapped[datetime] = mapped_column(UtcDateTime)
    ends: Mapped[datetime] = mapped_column(UtcDateTime)
    created_by: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    lay_summary: Mapped[str] = mapped_column(Text, default="")
    legal_basis: Mapped[str] = mapped_column(Text, default="")
    outputs: Mapped[str] = mapped_column(Text, default="")
    #: what the custodian's decision demands
    conditions: Mapped[str] = mapped_column(Text, default="")
    closed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    #: when the keys of a closed project are destroyed
    retain_until: Mapped[datetime | None] = mapped_column(UtcDateTime, index=True)
    archived_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    #: days from closing to ``retain_until``, where the decision set others than the deployment's
    retain_days: Mapped[int | None] = mapped_column(Integer)


class MembershipRow(Base):
    """A person's part in a project; one row for each pair."""

    __tablename__ = "membership"
    __table_args__ = (UniqueConstraint("project_id", "person_id"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"))
    person_id: Mapped[str] = mapped_column(ForeignKey("person.id"), index=True)
    role: Mapped[MemberRole] = mapped_column(_AsText(MemberRole))
    state: Mapped[MembershipState] = mapped_column(_AsText(MembershipState))
    ends: Mapped[datetime] = mapped_column(UtcDateTime)
    requested_by: Mapped[str] = mapped_column(String(64))
    approved_by: Mapped[str | None] = mapped_column(String(64))
    changed_at: Mapped[datetime] = mapped_column(UtcDateTime)
    #: the custodian who agreed to an external partner
    consented_by: Mapped[str | None] = mapped_column(String(64))
    #: until when the last review counts; an active membership past it counts for nothing
    review_due: Mapped[datetime | None] = mapped_column(UtcDateTime)
    confirmed_by: Mapped[str | None] = mapped_column(String(64))


class AppointmentRow(Base):
    """Who ever made somebody the lead of a project; kept when the lead changes."""

    __tablename__ = "appointment"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"), index=True)
    lead: Mapped[str] = mapped_column(ForeignKey("person.id"))
    appointed_by: Mapped[str] = mapped_column(String(64))
    appointed_at: Mapped[datetime] = mapped_column(UtcDateTime)


class PermitRow(Base):
    """One version of a project's permit; at most one is approved at a time."""

    __tablename__ = "permit"
    __table_args__ = (
        UniqueConstraint("project_id", "version"),
        Index(
            "permit_one_approved",
            "project_id",
            unique=True,
            sqlite_where=text("state = 'approved'"),
            postgresql_where=text("state = 'approved'"),
        ),
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"), index=True)
    version: Mapped[int] = mapped_column(Integer)
    state: Mapped[PermitState] = mapped_column(_AsText(PermitState))
    terms: Mapped[dict[str, Any]] = mapped_column(JSON)
    drafted_by: Mapped[str] = mapped_column(String(64))
    drafted_at: Mapped[datetime] = mapped_column(UtcDateTime)
    approved_by: Mapped[str | None] = mapped_column(String(64))
    approved_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    ended_by: Mapped[str | None] = mapped_column(String(64))
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


#: an application that is not decided yet: a project has one at most
_OPEN = "state IN ('draft', 'submitted', 'returned', 'complete')"


class ApplicationRow(Base):
    """One version of an application: for a new project, an amendment or a renewal."""

    __tablename__ = "application"
    __table_args__ = (
        UniqueConstraint("project_id", "number"),
        Index(
            "application_one_open",
            "project_id",
            unique=True,
            sqlite_where=text(_OPEN),
            postgresql_where=text(_OPEN),
        ),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"))
    number: Mapped[int] = mapped_column(Integer)
    kind: Mapped[ApplicationKind] = mapped_column(_AsText(ApplicationKind))
    state: Mapped[ApplicationState] = mapped_column(_AsText(ApplicationState), index=True)
    content: Mapped[dict[str, Any]] = mapped_column(JSON)
    drafted_by: Mapped[str] = mapped_column(ForeignKey("person.id"), index=True)
    drafted_at: Mapped[datetime] = mapped_column(UtcDateTime)
    submitted_by: Mapped[str | None] = mapped_column(String(64))
    submitted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    checked_by: Mapped[str | None] = mapped_column(String(64))
    decided_by: Mapped[str | None] = mapped_column(String(64))
    decided_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    #: what the decision demands
    conditions: Mapped[str] = mapped_column(Text, default="")
    #: why it was returned or refused
    note: Mapped[str] = mapped_column(Text, default="")
    #: the permit version that the approval made
    permit_version: Mapped[int | None] = mapped_column(Integer)


class AcceptanceRow(Base):
    """That a person accepted a version of the terms of use."""

    __tablename__ = "acceptance"

    person_id: Mapped[str] = mapped_column(ForeignKey("person.id"), primary_key=True)
    version: Mapped[str] = mapped_column(String(32), primary_key=True)
    accepted_at: Mapped[datetime] = mapped_column(UtcDateTime)


class TrainingRow(Base):
    """A training that a person declared; it counts once somebody else confirmed it, until it expires."""

    __tablename__ = "training"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    person_id: Mapped[str] = mapped_column(ForeignKey("person.id"), index=True)
    course: Mapped[str] = mapped_column(String(200))
    evidence: Mapped[str] = mapped_column(String(500), default="")
    completed: Mapped[datetime] = mapped_column(UtcDateTime)
    expires: Mapped[datetime] = mapped_column(UtcDateTime)
    declared_by: Mapped[str] = mapped_column(String(64))
    declared_at: Mapped[datetime] = mapped_column(UtcDateTime)
    confirmed_by: Mapped[str | None] = mapped_column(String(64))
    confirmed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class EndorsementRow(Base):
    """That one of two people took an action which needs two; ``subject`` is the digest of exactly what."""

    __tablename__ = "endorsement"

    subject: Mapped[str] = mapped_column(String(64), primary_key=True)
    action: Mapped[str] = mapped_column(String(40))
    project_id: Mapped[str | None] = mapped_column(ForeignKey("project.id"), index=True)
    person_id: Mapped[str | None] = mapped_column(String(64))
    by: Mapped[str] = mapped_column(String(64))
    at: Mapped[datetime] = mapped_column(UtcDateTime)


class PasskeyRow(Base):
    """A person's passkey (WebAuthn credential). It signs decisions once somebody vouched for it."""

    __tablename__ = "passkey"

    id: Mapped[str] = mapped_column(String(400), primary_key=True)  # the credential's id, base64url
    person_id: Mapped[str] = mapped_column(ForeignKey("person.id"), index=True)
    name: Mapped[str] = mapped_column(String(100))
    public_key: Mapped[bytes] = mapped_column(LargeBinary)  # COSE (RFC 9052)
    sign_count: Mapped[int] = mapped_column(Integer, default=0)
    transports: Mapped[list[str]] = mapped_column(JSON, default=list)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    vouched_by: Mapped[str | None] = mapped_column(String(64))
    vouched_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    removed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class DecisionRow(Base):
    """A decision and its signature: ``record`` is the exact text that was signed."""

    __tablename__ = "decision"
    __table_args__ = (Index("decision_of", "project_id", "action", "person_id"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)  # the record's nonce
    project_id: Mapped[str | None] = mapped_column(ForeignKey("project.id"))
    person_id: Mapped[str | None] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(40))
    record: Mapped[str] = mapped_column(Text)
    by: Mapped[str] = mapped_column(String(64))
    passkey_id: Mapped[str] = mapped_column(ForeignKey("passkey.id"))
    assertion: Mapped[dict[str, Any]] = mapped_column(JSON)
    at: Mapped[datetime] = mapped_column(UtcDateTime)


class TokenRow(Base):
    """A token for the REST API. Only its SHA-256 is kept."""

    __tablename__ = "api_token"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    person_id: Mapped[str] = mapped_column(ForeignKey("person.id"), index=True)
    name: Mapped[str] = mapped_column(String(100))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires: Mapped[datetime] = mapped_column(UtcDateTime)
    used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class UsageRow(Base):
    """What one session has used so far, in one calendar month."""

    __tablename__ = "usage"
    __table_args__ = (
        Index("usage_of_project", "project_id", "month"),
        Index("usage_of_person", "person_id", "month"),
        Index("usage_of_month", "month"),
    )

    session: Mapped[str] = mapped_column(String(32), primary_key=True)
    month: Mapped[str] = mapped_column(String(7), primary_key=True)  # 2026-11
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"))
    person_id: Mapped[str] = mapped_column(ForeignKey("person.id"))
    began: Mapped[datetime] = mapped_column(UtcDateTime)
    seen: Mapped[datetime] = mapped_column(UtcDateTime)
    ended: Mapped[datetime | None] = mapped_column(UtcDateTime)
    seconds: Mapped[float] = mapped_column(Float, default=0.0)
    cpu_seconds: Mapped[float] = mapped_column(Float, default=0.0)
    memory_gb_seconds: Mapped[float] = mapped_column(Float, default=0.0)


class StorageRow(Base):
    """How large a folder was on a day: a home, or (``person_id`` empty) the project folder."""

    __tablename__ = "storage"

    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"), primary_key=True)
    person_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    day: Mapped[str] = mapped_column(String(10), primary_key=True)
    bytes_used: Mapped[float] = mapped_column(Float)


class QuotaRow(Base):
    """A project's own limit, in place of the deployment's."""

    __tablename__ = "quota"

    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20), primary_key=True)
    most: Mapped[float] = mapped_column(Float)
    set_by: Mapped[str] = mapped_column(String(64))
    set_at: Mapped[datetime] = mapped_column(UtcDateTime)


class NoticeRow(Base):
    """Something a person is told once; ``key`` keeps it from being told twice."""

    __tablename__ = "notice"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    key: Mapped[str] = mapped_column(String(200), unique=True)
    person_id: Mapped[str] = mapped_column(ForeignKey("person.id"), index=True)
    project_id: Mapped[str | None] = mapped_column(ForeignKey("project.id"))
    kind: Mapped[str] = mapped_column(String(40))
    detail: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    sent_at: Mapped[datetime | None] = mapped_column(UtcDateTime, index=True)
    attempts: Mapped[int] = mapped_column(Integer, default=0)


class DeletionRow(Base):
    """Proof that a project's keys were destroyed: a certificate signed by the authority."""

    __tablename__ = "deletion"

    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"), primary_key=True)
    certificate: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(UtcDateTime)


class _Turn:
    """A lock that is waited for with patience, and no longer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=PATIENCE):
            raise UnavailableError("the governance store does not answer: another change takes too long")

    def __exit__(self, *told: object) -> None:
        self._lock.release()


class Store:
    """An open store. Threads may share it."""

    def __init__(self, url: str, password_file: Path | None = None) -> None:
        self._engine = open_engine(url, password_file)
        self._reads, self._writes, self._migrates = self._engine, self._engine, self._engine
        if self._engine.dialect.name == "postgresql":
            # A reader needs one moment of the store and no more: it then never conflicts with a writer.
            self._reads = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            # Who waited for another to change the schema must see what that one did.
            self._migrates = self._engine.execution_options(isolation_level="READ COMMITTED")
        # Whoever finds SQLite locked sleeps and tries again, in no order: of many threads on a busy machine, one can be
        # passed over for as long as it has patience. Here they wait for each other, and are woken.
        # Shown by tests/unit/governance/test_store.py.
        self._turn: AbstractContextManager[object] = _Turn() if self.kind == "sqlite" else nullcontext()
        self._writes = self._engine.execution_options(**{WRITES: True})
        self._migrates = self._migrates.execution_options(**{MIGRATES: True})

    def prepare(self) -> None:
        """Make the tables, or bring those of an older version up to date, with all that is in them.

        Raises:
            SettingsError: the store is newer than this program.
            UnavailableError: the database does not answer.
        """
        if self.schema() == SCHEMA:
            return
        from orchestrator.governance import migrations  # noqa: PLC0415 - costly, and seldom needed

        # One transaction, which excludes any other of its kind: of two programs that start at once, one migrates.
        with _typed_errors(), self._migrates.begin() as connection:
            migrations.upgrade(connection)

    def schema(self) -> str | None:
        """The schema that the tables follow; None where there are none, or those of before the migrations.

        Raises:
            UnavailableError: the database does not answer.
        """
        with _typed_errors(), self._reads.begin() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            found = connection.scalars(text("SELECT version_num FROM alembic_version")).all()
            return found[0] if len(found) == 1 else None

    @property
    def kind(self) -> str:
        """``sqlite`` or ``postgresql``."""
        return self._engine.dialect.name

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that changes nothing and sees one moment."""
        with _typed_errors(), Session(self._reads, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that no other writes beside; the caller commits, and leaving without a commit rolls back.

        Raises:
            ConflictError: another transaction was first.
            UnavailableError: the database does not answer.
        """
        with self._turn, _typed_errors(), Session(self._writes, expire_on_commit=False) as session:
            yield session

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()


@contextmanager
def _typed_errors() -> Iterator[None]:
    try:
        yield
    except BulleError:
        raise
    except IntegrityError as error:
        raise ConflictError("the same was done at the same time by somebody else") from error
    except SQLAlchemyError as error:
        if isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _CONFLICTS:
            raise ConflictError("something else was changed at the same time", hint="try again") from error
        # Not the whole error: it quotes the statement and its values.
        told = error.orig if isinstance(error, DBAPIError) else type(error).__name__
        raise UnavailableError(f"the governance store does not answer: {told}") from error

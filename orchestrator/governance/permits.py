"""Permits: what a project may see, version by version."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pydantic import AwareDatetime, ValidationError
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from orchestrator.errors import InputError, NotFoundError
from orchestrator.governance.cards import PermitRecord
from orchestrator.governance.desk import Change, Desk, approved_permit, project_named
from orchestrator.governance.projects import checked_moment
from orchestrator.governance.rules import Action, Fact
from orchestrator.governance.signatures import terms_digest
from orchestrator.governance.states import PermitState, check_transition
from orchestrator.governance.store import PermitRow, ProjectRow
from orchestrator.terms import PermitTerms, TablePermit, Value


class PermitDraft(Value):
    """Terms that somebody proposes; the store gives them their version."""

    valid_from: AwareDatetime
    valid_until: AwareDatetime
    tables: tuple[TablePermit, ...]


def permit_record(row: PermitRow, may: Sequence[str] = ()) -> PermitRecord:
    """The permit version as governance keeps it."""
    return PermitRecord(
        version=row.version,
        state=row.state,
        terms=PermitTerms.model_validate(row.terms),
        drafted_by=row.drafted_by,
        drafted_at=row.drafted_at,
        approved_by=row.approved_by,
        approved_at=row.approved_at,
        may=tuple(may),
    )


def _named(session: Session, project: ProjectRow, version: int) -> PermitRow:
    wanted = select(PermitRow).where(PermitRow.project_id == project.id, PermitRow.version == version)
    row = session.scalars(wanted).first()
    if row is None:
        raise NotFoundError(f"project '{project.slug}' has no permit version {version}")
    return row


def check_terms(valid_from: datetime, valid_until: datetime, tables: Sequence[TablePermit], now: datetime) -> None:
    """Raises InputError where terms are wrong in themselves."""
    if valid_from >= valid_until:
        raise InputError(f"valid_until must be after valid_from; got {valid_from} to {valid_until}")
    if valid_until <= now:
        raise InputError(f"valid_until must be in the future; got {valid_until}")
    if not tables:
        raise InputError("a permit must name at least one table")
    seen: set[tuple[str, str]] = set()
    for table in tables:
        name = f"{table.dataset}/{table.table}"
        if (table.dataset, table.table) in seen:
            raise InputError(f"table {name} stands twice")
        seen.add((table.dataset, table.table))
        columns = [column.name for column in table.columns]
        twice = sorted({column for column in columns if columns.count(column) > 1})
        if twice:
            raise InputError(f"table {name}: column '{twice[0]}' stands twice")


def next_version(session: Session, project: ProjectRow) -> int:
    """The number of the project's next permit version."""
    latest = session.scalar(select(func.max(PermitRow.version)).where(PermitRow.project_id == project.id))
    return (latest or 0) + 1


def made_terms(version: int, tables: Sequence[TablePermit], valid_from: datetime, valid_until: datetime) -> PermitTerms:
    """The terms of a permit version. Raises InputError."""
    try:
        return PermitTerms(
            version=version,
            tables=tuple(tables),
            valid_from=checked_moment("valid_from", valid_from),
            valid_until=checked_moment("valid_until", valid_until),
        )
    except ValidationError as error:
        raise InputError(f"the permit's terms are wrong: {error}") from error


def supersede(change: Change, project: ProjectRow) -> None:
    """End the approved version, because another takes its place in the same transaction; its sessions end."""
    before = approved_permit(change.session, project.id)
    if before is None:
        return
    check_transition(f"permit version {before.version}", before.state, PermitState.SUPERSEDED)
    before.state, before.ended_by, before.ended_at = PermitState.SUPERSEDED, change.by, change.now
    change.session.flush()  # the store allows one approved version, also within a transaction
    change.detail["supersedes"] = before.version


class Permits(Desk):
    """Part of Governance: permit versions."""

    def permits(self, slug: str) -> list[PermitRecord]:
        """All permit versions of a project, oldest first."""
        with self._store.read() as session:
            project = project_named(session, slug)
            wanted = select(PermitRow).where(PermitRow.project_id == project.id).order_by(PermitRow.version)
            return [permit_record(row) for row in session.scalars(wanted)]

    def permit(self, slug: str, version: int) -> PermitRecord:
        """One permit version. Raises NotFoundError."""
        with self._store.read() as session:
            return permit_record(_named(session, project_named(session, slug), version))

    def draft_permit(self, by: str, slug: str, draft: PermitDraft) -> int:
        """Propose terms; returns their version. They mean nothing until a custodian approves them.

        Raises:
            InputError: the terms are wrong in themselves or do not fit the datasets; nothing is kept.
            RefusedError: the rules forbid it.
        """
        with self._change(by, Action.PERMIT_DRAFT, project=slug) as change:
            project = project_named(change.session, slug, open_only=True)
            self._judge(change, project)
            check_terms(draft.valid_from, draft.valid_until, draft.tables, change.now)
            self._catalogue.check(draft.tables)
            version = next_version(change.session, project)
            terms = made_terms(version, draft.tables, draft.valid_from, draft.valid_until)
            change.session.add(
                PermitRow(
                    project_id=project.id,
                    version=version,
                    state=PermitState.DRAFT,
                    terms=terms.model_dump(mode="json"),
                    drafted_by=by,
                    drafted_at=change.now,
                )
            )
            change.detail = {"permit": version}
        return version

    def approve_permit(self, by: str, slug: str, version: int) -> None:
        """Put a draft into effect; the version approved before is superseded, and its sessions end.

        Raises:
            InputError: the terms no longer fit the datasets, or are over.
            RefusedError: the rules forbid it.
        """
        with self._change(by, Action.PERMIT_APPROVE, project=slug, permit=version) as change:
            session = change.session
            project = project_named(session, slug, open_only=True)
            row = _named(session, project, version)
            self._judge(change, project, *((Fact.DRAFTER,) if row.drafted_by == by else ()))
            check_transition(f"permit version {version}", row.state, PermitState.APPROVED)
            terms = PermitTerms.model_validate(row.terms)
            check_terms(terms.valid_from, terms.valid_until, terms.tables, change.now)
            self._catalogue.check(terms.tables)
            self._decide(change, project, version=version, permit=terms_digest(terms))
            supersede(change, project)
            row.state, row.approved_by, row.approved_at = PermitState.APPROVED, by, change.now

    def revoke_permit(self, by: str, slug: str, version: int) -> None:
        """Take a permit back; sessions under it end within seconds. A draft is withdrawn."""
        with self._change(by, Action.PERMIT_REVOKE, project=slug, permit=version) as change:
            project = project_named(change.session, slug)
            row = _named(change.session, project, version)
            self._judge(change, project)
            check_transition(f"permit version {version}", row.state, PermitState.REVOKED)
            row.state, row.ended_by, row.ended_at = PermitState.REVOKED, by, change.now

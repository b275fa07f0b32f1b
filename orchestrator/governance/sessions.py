"""Who may open a workspace now, which sessions may go on, and what a person sees of their projects."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator.errors import BulleError, RefusedError
from orchestrator.governance.access import UNKNOWN, Standing, why_not, why_stop
from orchestrator.governance.cards import ColumnCard, PermitCard, ProjectCard, TableCard, Text, WhyNot
from orchestrator.governance.desk import Desk, TableInfo, approved_permit, membership_of, person_named
from orchestrator.governance.states import MembershipState
from orchestrator.governance.store import MembershipRow, PersonRow, ProjectRow
from orchestrator.terms import (
    ColumnPermit,
    Grant,
    PermitTerms,
    RowCondition,
    SessionClaim,
    SessionVerdict,
    TablePermit,
)


def _standing(session: Session, person: PersonRow, project: ProjectRow, membership: MembershipRow | None) -> Standing:
    permit = approved_permit(session, project.id)
    return Standing(
        person_disabled=person.disabled,
        membership=None if membership is None else membership.state,
        membership_ends=None if membership is None else membership.ends,
        project=project.state,
        project_starts=project.starts,
        project_ends=project.ends,
        permit=None if permit is None else PermitTerms.model_validate(permit.terms),
    )


class Sessions(Desk):
    """Part of Governance: access as it stands at one moment."""

    def may_open(self, person: str, project: str, now: datetime | None = None) -> Grant:
        """The grant that the person may have in the project with slug ``project``, with a new session id.

        Raises:
            RefusedError: names the rule. A project that is not there is refused like one that is not theirs.
        """
        now = now or self._clock()
        with self._store.read() as session:
            who = session.get(PersonRow, person)
            row = session.scalars(select(ProjectRow).where(ProjectRow.slug == project)).first()
            if who is None or row is None:
                raise _refused(UNKNOWN)
            standing = _standing(session, who, row, membership_of(session, row, person))
            refused = why_not(standing, now, self._access_rules)
            if refused is not None:
                raise _refused(refused)
            if standing.permit is None or standing.ends_at is None:  # only with access rules taken away
                raise _refused(UNKNOWN)
            return Grant(
                person=who.id,
                display_name=who.display_name,
                project_id=row.id,
                project=row.slug,
                project_title=row.title,
                session=secrets.token_hex(16),
                permit=standing.permit,
                ends_at=standing.ends_at,
            )

    def check_sessions(self, claims: Sequence[SessionClaim], now: datetime | None = None) -> list[SessionVerdict]:
        """Whether each running session may go on; all are judged by one state of the store."""
        now = now or self._clock()
        with self._store.read() as session:
            return [self._verdict(session, claim, now) for claim in claims]

    def _verdict(self, session: Session, claim: SessionClaim, now: datetime) -> SessionVerdict:
        who = session.get(PersonRow, claim.person)
        project = session.get(ProjectRow, claim.project_id)
        stop: WhyNot | None = UNKNOWN
        if who is not None and project is not None:
            standing = _standing(session, who, project, membership_of(session, project, who.id))
            stop = why_stop(standing, claim.permit_version, now, self._access_rules)
        if stop is None:
            return SessionVerdict(session=claim.session, allowed=True)
        return SessionVerdict(session=claim.session, allowed=False, reason=f"{stop.code}: {stop.message}")

    def projects_of(self, person: str, now: datetime | None = None) -> list[ProjectCard]:
        """The person's projects, but those they left, by title. Raises NotFoundError."""
        now = now or self._clock()
        with self._store.read() as session:
            who = person_named(session, person)
            wanted = (
                select(MembershipRow, ProjectRow)
                .join(ProjectRow, ProjectRow.id == MembershipRow.project_id)
                .where(MembershipRow.person_id == who.id)
                .order_by(ProjectRow.title, ProjectRow.slug)
            )
            return [
                self._card(_standing(session, who, project, membership), project, membership, now)
                for membership, project in session.execute(wanted).all()
                if membership.state is not MembershipState.ENDED
            ]

    def _card(self, standing: Standing, project: ProjectRow, membership: MembershipRow, now: datetime) -> ProjectCard:
        refused = why_not(standing, now, self._access_rules)
        return ProjectCard(
            slug=project.slug,
            title=project.title,
            purpose=project.purpose,
            role=membership.role,
            project_state=project.state,
            membership_state=membership.state,
            membership_ends=membership.ends,
            permit=None if standing.permit is None else self._permit_card(standing.permit),
            may_open=refused is None,
            why_not=refused,
        )

    def _permit_card(self, terms: PermitTerms) -> PermitCard:
        return PermitCard(
            version=terms.version,
            valid_from=terms.valid_from,
            valid_until=terms.valid_until,
            tables=tuple(self._table_card(table) for table in terms.tables),
        )

    def _table_card(self, table: TablePermit) -> TableCard:
        info: TableInfo | None
        try:
            info = self._catalogue.table(table.dataset, table.table)
        except BulleError:
            # A dataset that went away must not hide a person's projects: the card then shows names only.
            info = None
        known = {} if info is None else {column.name: column for column in info.columns}
        columns = []
        for column in table.columns:
            about = known.get(column.name)
            columns.append(
                ColumnCard(
                    name=column.name,
                    role="" if about is None else str(about.role),
                    type="" if about is None else str(about.type),
                    description="" if about is None else _text(about.description),
                    transform=readable_transform(column),
                )
            )
        return TableCard(
            dataset=table.dataset,
            table=table.table,
            title=(None if info is None else _text(info.title)) or table.table,
            rows_filter=tuple(readable_condition(condition) for condition in table.rows),
            columns=tuple(columns),
        )


def _refused(why: WhyNot) -> RefusedError:
    return RefusedError(f"refused by rule {why.code}: {why.message}")


def _text(told: Any) -> Text:
    """A text, or its languages by code, from text, a mapping or a model of languages; None is no text."""
    if isinstance(told, BaseModel):
        told = told.model_dump(exclude_none=True)
    if isinstance(told, Mapping):
        return {str(language): str(text) for language, text in told.items() if text}
    return "" if told is None else str(told)


def readable_transform(column: ColumnPermit) -> str | None:
    """``year``, ``band 5``; None where the column is shown as it is."""
    if column.transform is None:
        return None
    return str(column.transform) if column.parameter is None else f"{column.transform} {column.parameter:g}"


def readable_condition(condition: RowCondition) -> str:
    """``age >= 40``, ``sex in f, m``, ``died is-null``."""
    value = condition.value
    if value is None:
        return f"{condition.column} {condition.operator}"
    told = ", ".join(str(one) for one in value) if isinstance(value, tuple) else str(value)
    return f"{condition.column} {condition.operator} {told}"

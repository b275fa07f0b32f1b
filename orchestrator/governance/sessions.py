"""Who may open a workspace now, which sessions may go on, and what a person sees of their projects."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel
from sqlalchemy import Select, func, literal, select
from sqlalchemy.orm import Session, lazyload

from orchestrator.config import Policy
from orchestrator.errors import BulleError, RefusedError
from orchestrator.governance.access import UNKNOWN, Standing, why_not, why_stop
from orchestrator.governance.cards import ColumnCard, PermitCard, ProjectCard, TableCard, Text, WhyNot
from orchestrator.governance.desk import Desk, TableInfo, person_named
from orchestrator.governance.states import MembershipState, PermitState
from orchestrator.governance.store import (
    AcceptanceRow,
    MembershipRow,
    PermitRow,
    PersonRow,
    ProjectRow,
    TrainingRow,
)
from orchestrator.governance.usage import quotas_used
from orchestrator.terms import (
    ColumnPermit,
    Grant,
    PermitTerms,
    RowCondition,
    SessionClaim,
    SessionVerdict,
    TablePermit,
)


def _standings(policy: Policy, *, members_only: bool = False) -> Select[Any]:
    """Person, project, membership, approved permit, acceptance of the terms and latest training, in one row each.

    With ``members_only``, only where there is a membership: the way for lists, which never look at other projects.
    """
    trained = (
        select(func.max(TrainingRow.expires))
        .where(TrainingRow.person_id == PersonRow.id, TrainingRow.confirmed_by.is_not(None))
        .scalar_subquery()
    )
    accepted = (AcceptanceRow.person_id == PersonRow.id) & (AcceptanceRow.version == policy.terms.version)
    member = (MembershipRow.person_id == PersonRow.id) & (MembershipRow.project_id == ProjectRow.id)
    permitted = (PermitRow.project_id == ProjectRow.id) & (PermitRow.state == PermitState.APPROVED)
    wanted = select(PersonRow, ProjectRow, MembershipRow, PermitRow.terms, AcceptanceRow.accepted_at, trained).options(
        lazyload(PersonRow.roles)
    )
    if members_only:
        mine = MembershipRow.person_id == PersonRow.id
        wanted = wanted.select_from(PersonRow).join(MembershipRow, mine)
        wanted = wanted.join(ProjectRow, ProjectRow.id == MembershipRow.project_id)
    else:
        wanted = wanted.select_from(PersonRow).join(ProjectRow, literal(value=True)).outerjoin(MembershipRow, member)
    return wanted.outerjoin(PermitRow, permitted).outerjoin(AcceptanceRow, accepted)


@dataclass(frozen=True)
class _Found:
    """One row of :func:`_standings`."""

    person: PersonRow
    project: ProjectRow
    membership: MembershipRow | None
    standing: Standing


def _found(row: Any, policy: Policy) -> _Found:
    person, project, membership, terms, accepted_at, trained = row
    standing = Standing(
        person_disabled=person.disabled,
        person_gone=person.gone_at is not None,
        terms_accepted=accepted_at is not None,
        training_until=trained,
        training_required=policy.training_required,
        consent_missing=person.external and (membership is None or membership.consented_by is None),
        membership=None if membership is None else membership.state,
        membership_ends=None if membership is None else membership.ends,
        review_due=None if membership is None else membership.review_due,
        project=project.state,
        project_starts=project.starts,
        project_ends=project.ends,
        permit=None if terms is None else PermitTerms.model_validate(terms),
    )
    return _Found(person, project, membership, standing)


class Sessions(Desk):
    """Part of Governance: access as it stands at one moment."""

    def may_open(self, person: str, project: str, now: datetime | None = None) -> Grant:
        """The grant that the person may have in the project with slug ``project``, with a new session id.

        Raises:
            RefusedError: names the rule. A project that is not there is refused like one that is not theirs.
        """
        now = now or self._clock()
        with self._store.read() as session:
            wanted = _standings(self._policy).where(PersonRow.id == person, ProjectRow.slug == project)
            row = session.execute(wanted).first()
            if row is None:
                raise _refused(UNKNOWN)
            found = _found(row, self._policy)
            standing, who, at = found.standing, found.person, found.project
            refused = why_not(standing, now, self._access_rules)
            if refused is not None:
                raise _refused(refused)
            spent = quotas_used(session, self._policy, [at.id], now).get(at.id)
            if spent is not None:
                raise _refused(spent)
            if standing.permit is None or standing.ends_at is None:  # only with access rules taken away
                raise _refused(UNKNOWN)
            grant = Grant(
                person=who.id,
                display_name=who.display_name,
                project_id=at.id,
                project=at.slug,
                project_title=at.title,
                session=secrets.token_hex(16),
                permit=standing.permit,
                ends_at=standing.ends_at,
            )
            return grant.model_copy(update={"decisions": self._chain(session, grant)})

    def check_sessions(self, claims: Sequence[SessionClaim], now: datetime | None = None) -> list[SessionVerdict]:
        """Whether each running session may go on; all are judged by one state of the store."""
        now = now or self._clock()
        with self._store.read() as session:
            return [self._verdict(session, claim, now) for claim in claims]

    def _verdict(self, session: Session, claim: SessionClaim, now: datetime) -> SessionVerdict:
        wanted = _standings(self._policy).where(PersonRow.id == claim.person, ProjectRow.id == claim.project_id)
        row = session.execute(wanted).first()
        stop: WhyNot | None = UNKNOWN
        if row is not None:
            stop = why_stop(_found(row, self._policy).standing, claim.permit_version, now, self._access_rules)
        if stop is None:
            return SessionVerdict(session=claim.session, allowed=True)
        return SessionVerdict(session=claim.session, allowed=False, reason=f"{stop.code}: {stop.message}")

    def projects_of(self, person: str, now: datetime | None = None) -> list[ProjectCard]:
        """The person's projects, but those they left, by title. Raises NotFoundError."""
        now = now or self._clock()
        with self._store.read() as session:
            return self._cards(session, person_named(session, person), now)

    def _cards(self, session: Session, who: PersonRow, now: datetime, slug: str | None = None) -> list[ProjectCard]:
        """The person's projects by title, but those they left; with ``slug``, that one only."""
        wanted = (
            _standings(self._policy, members_only=True)
            .where(PersonRow.id == who.id)
            .where(MembershipRow.state != MembershipState.ENDED)
            .order_by(ProjectRow.title, ProjectRow.slug)
        )
        if slug is not None:
            wanted = wanted.where(ProjectRow.slug == slug)
        every = [_found(row, self._policy) for row in session.execute(wanted)]
        spent = quotas_used(session, self._policy, {found.project.id for found in every}, now)
        return [
            self._card(found.standing, found.project, found.membership, now, spent.get(found.project.id))
            for found in every
            if found.membership is not None
        ]

    def _card(
        self,
        standing: Standing,
        project: ProjectRow,
        membership: MembershipRow,
        now: datetime,
        spent: WhyNot | None = None,
    ) -> ProjectCard:
        # A quota stops a start and nothing that runs: it is asked about here and not when sessions are checked.
        refused = why_not(standing, now, self._access_rules) or spent
        return ProjectCard(
            slug=project.slug,
            title=project.title,
            purpose=project.purpose,
            role=membership.role,
            project_state=project.state,
            membership_state=membership.state,
            membership_ends=membership.ends,
            review_due=membership.review_due,
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

"""Who may open a workspace now, which sessions may go on, and what a person sees of their projects."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel
from sqlalchemy.orm import Session

from orchestrator.errors import BulleError, RefusedError
from orchestrator.governance import standings
from orchestrator.governance.access import UNKNOWN, why_not, why_stop
from orchestrator.governance.cards import ColumnCard, PermitCard, ProjectCard, TableCard, Text, WhyNot
from orchestrator.governance.desk import Desk, TableInfo, person_named
from orchestrator.governance.store import PersonRow
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


class Sessions(Desk):
    """Part of Governance: access as it stands at one moment."""

    def may_open(self, person: str, project: str, now: datetime | None = None) -> Grant:
        """The grant that the person may have in the project with slug ``project``, with a new session id.

        Raises:
            RefusedError: names the rule. A project that is not there is refused like one that is not theirs.
        """
        now = now or self._clock()
        with self._store.read() as session:
            found = standings.by_slug(session, self._policy, person, project)
            if found is None:
                raise _refused(UNKNOWN)
            standing = found.standing
            refused = why_not(standing, now, self._access_rules)
            if refused is not None:
                raise _refused(refused)
            spent = quotas_used(session, self._policy, [found.project_id], now).get(found.project_id)
            if spent is not None:
                raise _refused(spent)
            if standing.permit is None or standing.ends_at is None:  # only with access rules taken away
                raise _refused(UNKNOWN)
            grant = Grant(
                person=found.person,
                display_name=found.display_name,
                project_id=found.project_id,
                project=found.slug,
                project_title=found.title,
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
        found = standings.by_id(session, self._policy, claim.person, claim.project_id)
        stop: WhyNot | None = UNKNOWN
        if found is not None:
            stop = why_stop(found.standing, claim.permit_version, now, self._access_rules)
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
        every = standings.of_person(session, self._policy, who.id, slug)
        spent = quotas_used(session, self._policy, {found.project_id for found in every}, now)
        return [self._card(found, now, spent.get(found.project_id)) for found in every]

    def _card(self, found: standings.Found, now: datetime, spent: WhyNot | None) -> ProjectCard:
        standing = found.standing
        assert found.role is not None and standing.membership is not None  # noqa: S101 - the list is of members
        assert standing.membership_ends is not None  # noqa: S101
        # A quota stops a start and nothing that runs: it is asked about here and not when sessions are checked.
        refused = why_not(standing, now, self._access_rules) or spent
        return ProjectCard(
            slug=found.slug,
            title=found.title,
            purpose=found.purpose,
            role=found.role,
            project_state=standing.project,
            membership_state=standing.membership,
            membership_ends=standing.membership_ends,
            review_due=standing.review_due,
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

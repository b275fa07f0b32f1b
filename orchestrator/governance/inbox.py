"""What waits for a person, computed from how things stand: there is no list that could be forgotten or be stale.

Each kind says who must act. The queries are few, and none looks at a project that the person has nothing to do with.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, exists, func, select, union
from sqlalchemy.orm import Session, aliased

from orchestrator.governance.cards import Waiting
from orchestrator.governance.desk import Desk, person_named
from orchestrator.governance.lapsing import IN_EFFECT, closes_at
from orchestrator.governance.rules import Action
from orchestrator.governance.states import (
    ApplicationState,
    MemberRole,
    MembershipState,
    PermitState,
    PlatformRole,
    ProjectState,
)
from orchestrator.governance.store import (
    AcceptanceRow,
    ApplicationRow,
    EndorsementRow,
    MembershipRow,
    PermitRow,
    PersonRow,
    ProjectRow,
    TrainingRow,
)
from orchestrator.governance.usage import quotas_near

#: how long before a review or a training runs out it begins to wait
AHEAD = timedelta(days=30)
#: at most so many of one kind are told; the first to come are first
MOST = 200

_OPEN = (ProjectState.DRAFT, ProjectState.ACTIVE, ProjectState.SUSPENDED)
_THERE = (MembershipState.REQUESTED, MembershipState.ACTIVE, MembershipState.SUSPENDED)


class Inbox(Desk):
    """Part of Governance: see the module."""

    def inbox(self, person: str) -> list[Waiting]:
        """All that waits for this person now, what is due first at the top. Raises NotFoundError."""
        now = self._clock()
        with self._store.read() as session:
            who = person_named(session, person)
            if who.disabled:
                return []
            custodian = any(role.role is PlatformRole.CUSTODIAN for role in who.roles)
            found = [*self._of_oneself(session, person, now), *self._of_a_lead(session, person, now)]
            found += self._of_quotas(session, person, now)
            if custodian:
                found += self._of_a_custodian(session, person, now)
            found += self._of_a_second_person(session, person)
        late = datetime.max.replace(tzinfo=now.tzinfo)
        return sorted(found, key=lambda one: (one.due or late, one.since))

    # -- what only the person can do --------------------------------------------------------------------
    def _of_oneself(self, session: Session, person: str, now: datetime) -> Iterator[Waiting]:
        wanted = (
            select(MembershipRow, ProjectRow)
            .join(ProjectRow, ProjectRow.id == MembershipRow.project_id)
            .where(MembershipRow.person_id == person, MembershipRow.state != MembershipState.ENDED)
            .where(ProjectRow.state.in_(_OPEN), MembershipRow.ends > now)
        )
        rows = session.execute(wanted).all()
        for membership, project in rows:
            if membership.state is MembershipState.INVITED:
                yield _about("invitation", project, since=membership.changed_at, due=membership.ends)
        if rows:
            since = min(membership.changed_at for membership, _ in rows)
            if session.get(AcceptanceRow, (person, self._policy.terms.version)) is None:
                yield Waiting(kind="terms", since=since)
            if self._policy.training_required:
                yield from self._of_training(session, person, since, now)
        yield from self._of_renewals(session, person, now)
        yield from (
            _about("application-returned", project, since=row.decided_at or row.drafted_at, number=row.number)
            for row, project in session.execute(_applications(ApplicationState.RETURNED, _mine(person, now)))
        )

    def _of_renewals(self, session: Session, person: str, now: datetime) -> Iterator[Waiting]:
        """Projects that the person led until their end, and that close by themselves unless they are renewed."""
        wanted = (
            select(ProjectRow)
            .join(MembershipRow, MembershipRow.project_id == ProjectRow.id)
            .where(MembershipRow.person_id == person, MembershipRow.state == MembershipState.ACTIVE)
            .where(MembershipRow.role == MemberRole.LEAD, MembershipRow.ends >= ProjectRow.ends)
            .where(ProjectRow.state.in_(IN_EFFECT), ProjectRow.ends <= now)
        )
        for project in session.scalars(wanted):
            closing = closes_at(session, project, self._policy.closing_days)
            if closing is not None and now < closing:
                yield _about("renewal", project, since=project.ends, due=closing)

    @staticmethod
    def _of_training(session: Session, person: str, since: datetime, now: datetime) -> Iterator[Waiting]:
        latest = select(func.max(TrainingRow.expires)).where(TrainingRow.person_id == person)
        declared = session.scalar(latest)
        if declared is None or declared <= now + AHEAD:
            confirmed = session.scalar(latest.where(TrainingRow.confirmed_by.is_not(None)))
            yield Waiting(kind="training", since=since, due=confirmed)

    # -- what a lead decides ----------------------------------------------------------------------------
    def _of_a_lead(self, session: Session, person: str, now: datetime) -> Iterator[Waiting]:
        leads = _leads(person, now)
        wanted = _memberships(MembershipRow.project_id.in_(leads), MembershipRow.person_id != person)
        wanted = wanted.where(MembershipRow.role == MemberRole.MEMBER)
        yield from _requests("member-approve", session, wanted)
        yield from _reviews("member-review", session, wanted, now)
        members = _memberships(MembershipRow.project_id.in_(leads), MembershipRow.person_id != person)
        trained = (
            members.join(TrainingRow, TrainingRow.person_id == MembershipRow.person_id)
            .add_columns(TrainingRow)
            .where(MembershipRow.state == MembershipState.ACTIVE, TrainingRow.confirmed_by.is_(None))
            .where(TrainingRow.expires > now)
        )
        for _, project, who, training in session.execute(trained.limit(MOST)):
            yield _about("training-confirm", project, who, since=training.declared_at, number=training.id)

    def _of_quotas(self, session: Session, person: str, now: datetime) -> Iterator[Waiting]:
        wanted = select(ProjectRow).where(ProjectRow.id.in_(_leads(person, now)), ProjectRow.state.in_(_OPEN))
        projects = session.scalars(wanted.limit(MOST)).all()
        near = quotas_near(session, self._policy, [project.id for project in projects], now)
        month = now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        yield from (_about("quota", project, since=month) for project in projects if project.id in near)

    # -- what a custodian decides -----------------------------------------------------------------------
    def _of_a_custodian(self, session: Session, person: str, now: datetime) -> Iterator[Waiting]:
        # Who is in a project decides nothing about it (rules.py): it does not wait for them either.
        mine = aliased(MembershipRow)
        asked_by_others = and_(mine.state == MembershipState.REQUESTED, mine.requested_by != person)
        apart = ~exists().where(
            mine.project_id == ProjectRow.id, mine.person_id == person, mine.state.in_(_THERE), ~asked_by_others
        )
        by_others = and_(ApplicationRow.drafted_by != person, ApplicationRow.submitted_by != person, apart)
        for state, kind in (
            (ApplicationState.SUBMITTED, "application-check"),
            (ApplicationState.COMPLETE, "application-decide"),
        ):
            for row, project in session.execute(_applications(state, by_others)):
                yield _about(kind, project, since=row.submitted_at or row.drafted_at, number=row.number)
        wanted = _memberships(apart, MembershipRow.person_id != person)
        leads = wanted.where(MembershipRow.role == MemberRole.LEAD, ProjectRow.state != ProjectState.DRAFT)
        yield from _requests("lead-appoint", session, leads)
        yield from _reviews("lead-review", session, leads, now)
        external = wanted.where(PersonRow.external, MembershipRow.consented_by.is_(None)).where(
            MembershipRow.state.in_((MembershipState.REQUESTED, MembershipState.ACTIVE)), MembershipRow.ends > now
        )
        for membership, project, who in session.execute(external.limit(MOST)):
            yield _about("member-consent", project, who, since=membership.changed_at)
        drafts = (
            select(PermitRow, ProjectRow)
            .join(ProjectRow, ProjectRow.id == PermitRow.project_id)
            .where(PermitRow.state == PermitState.DRAFT, PermitRow.drafted_by != person, apart)
            .where(ProjectRow.state.in_(_OPEN))
        )
        for permit, project in session.execute(drafts.order_by(PermitRow.drafted_at).limit(MOST)):
            yield _about("permit-approve", project, since=permit.drafted_at, number=permit.version)
        applied = exists().where(ApplicationRow.project_id == ProjectRow.id)
        projects = select(ProjectRow).where(ProjectRow.state == ProjectState.DRAFT, apart, ~applied)
        for project in session.scalars(projects.order_by(ProjectRow.created_at).limit(MOST)):
            yield _about("project-activate", project, since=project.created_at)

    # -- what another person began ----------------------------------------------------------------------
    def _of_a_second_person(self, session: Session, person: str) -> Iterator[Waiting]:
        wanted = (
            select(EndorsementRow, ProjectRow, PersonRow)
            .outerjoin(ProjectRow, ProjectRow.id == EndorsementRow.project_id)
            .outerjoin(PersonRow, PersonRow.id == EndorsementRow.person_id)
            .where(EndorsementRow.by != person)
        )
        for row, project, who in session.execute(wanted.order_by(EndorsementRow.at).limit(MOST)):
            if self._may_read(session, person, Action(row.action), person=row.person_id, project=project):
                yield _about("second-person", project, who, since=row.at)


def _about(
    kind: str, project: ProjectRow | None, who: PersonRow | None = None, *, since: datetime, **more: Any
) -> Waiting:
    return Waiting(
        kind=kind,
        since=since,
        project=None if project is None else project.slug,
        project_title=None if project is None else project.title,
        person=None if who is None else who.id,
        person_name=None if who is None else who.display_name,
        **more,
    )


def _leads(person: str, now: datetime) -> Select[str]:
    """Ids of the projects that the person leads now."""
    return select(MembershipRow.project_id).where(
        MembershipRow.person_id == person,
        MembershipRow.role == MemberRole.LEAD,
        MembershipRow.state == MembershipState.ACTIVE,
        MembershipRow.ends > now,
    )


def _mine(person: str, now: datetime) -> ColumnElement[bool]:
    # Two lists by an index each. "Or" would have a database go through all applications, a project's or not.
    led = select(ApplicationRow.id).where(ApplicationRow.project_id.in_(_leads(person, now)))
    own = union(select(ApplicationRow.id).where(ApplicationRow.drafted_by == person), led).subquery()
    return ApplicationRow.id.in_(select(own.c.id))


def _applications(state: ApplicationState, which: ColumnElement[bool]) -> Select[ApplicationRow, ProjectRow]:
    return (
        select(ApplicationRow, ProjectRow)
        .join(ProjectRow, ProjectRow.id == ApplicationRow.project_id)
        .where(ApplicationRow.state == state, which)
        .order_by(ApplicationRow.submitted_at)
        .limit(MOST)
    )


def _memberships(*which: ColumnElement[bool]) -> Select[MembershipRow, ProjectRow, PersonRow]:
    return (
        select(MembershipRow, ProjectRow, PersonRow)
        .join(ProjectRow, ProjectRow.id == MembershipRow.project_id)
        .join(PersonRow, PersonRow.id == MembershipRow.person_id)
        .where(ProjectRow.state.in_(_OPEN), PersonRow.disabled.is_(False), *which)
    )


Members = Select[MembershipRow, ProjectRow, PersonRow]


def _requests(kind: str, session: Session, wanted: Members) -> Iterator[Waiting]:
    asked = wanted.where(MembershipRow.state == MembershipState.REQUESTED).order_by(MembershipRow.changed_at)
    for membership, project, who in session.execute(asked.limit(MOST)):
        yield _about(kind, project, who, since=membership.changed_at)


def _reviews(kind: str, session: Session, wanted: Members, now: datetime) -> Iterator[Waiting]:
    due = wanted.where(MembershipRow.state == MembershipState.ACTIVE, MembershipRow.review_due <= now + AHEAD)
    # Not where the membership ends anyway before it would lapse, nor once it has ended.
    due = due.where(MembershipRow.ends > MembershipRow.review_due, MembershipRow.ends > now)
    for membership, project, who in session.execute(due.order_by(MembershipRow.review_due).limit(MOST)):
        yield _about(kind, project, who, since=membership.changed_at, due=membership.review_due)

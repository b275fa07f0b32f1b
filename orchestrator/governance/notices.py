"""What people are told: news of decisions about them, reminders before an end, a digest for leads. Once each.

A notice names a kind, a project and moments, and nothing of any data; what a person reads is worded by the
portal, which also sends it (the authority has no network). ``key`` is unique in the store: however often the
clock strikes, and whoever else runs it, nobody is told twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from orchestrator.governance.cards import Notice
from orchestrator.governance.desk import Change, Desk
from orchestrator.governance.lapsing import IN_EFFECT, closes_at
from orchestrator.governance.rules import Action
from orchestrator.governance.states import MemberRole, MembershipState, PermitState, PlatformRole, ProjectState
from orchestrator.governance.store import (
    ApplicationRow,
    MembershipRow,
    NoticeRow,
    PermitRow,
    PersonRow,
    ProjectRow,
    RoleRow,
    TrainingRow,
)
from orchestrator.terms import PermitTerms

#: after so many failures a notice is given up; the log of the portal says why it failed
MOST_ATTEMPTS = 20
#: how many notices are handed out at once
BATCH = 50

#: actions of which the person whom they are about is told
_NEWS_TO_PERSON = frozenset(
    {
        Action.MEMBER_INVITE,
        Action.MEMBER_APPROVE,
        Action.MEMBER_SUSPEND,
        Action.MEMBER_END,
        Action.LEAD_APPOINT,
        Action.TRAINING_CONFIRM,
        Action.ROLE_ADD,
        Action.ROLE_REMOVE,
    }
)
#: actions of which the project's leads are told
_NEWS_TO_LEADS = frozenset(
    {
        Action.MEMBER_REQUEST,
        Action.MEMBER_ACCEPT,
        Action.MEMBER_LEAVE,
        Action.PERMIT_APPROVE,
        Action.PERMIT_REVOKE,
        Action.PROJECT_ACTIVATE,
        Action.PROJECT_SUSPEND,
        Action.PROJECT_RESUME,
        Action.PROJECT_CLOSE,
        Action.APPLICATION_APPROVE,
    }
)
#: actions of which whoever applied is told
_NEWS_TO_APPLICANT = frozenset(
    {Action.APPLICATION_RETURN, Action.APPLICATION_CHECK, Action.APPLICATION_APPROVE, Action.APPLICATION_REFUSE}
)


@dataclass(frozen=True)
class _New:
    """A notice that is made, unless one with its key was."""

    key: str
    person: str
    project: str | None
    kind: str
    detail: dict[str, Any]


def _add(session: Session, new: _New, now: datetime) -> bool:
    key = new.key[:200]
    if session.scalars(select(NoticeRow.id).where(NoticeRow.key == key)).first() is not None:
        return False
    told = {name: value for name, value in new.detail.items() if value is not None}
    row = NoticeRow(key=key, person_id=new.person, project_id=new.project, kind=new.kind, detail=told, created_at=now)
    session.add(row)
    session.flush()
    return True


def _lead_ids(project: str, now: datetime) -> Select[str]:
    return select(MembershipRow.person_id).where(
        MembershipRow.project_id == project,
        MembershipRow.role == MemberRole.LEAD,
        MembershipRow.state == MembershipState.ACTIVE,
        MembershipRow.ends > now,
    )


def _past_lead_ids(project: ProjectRow) -> Select[str]:
    """Who led a project until its end, which has passed."""
    return select(MembershipRow.person_id).where(
        MembershipRow.project_id == project.id,
        MembershipRow.role == MemberRole.LEAD,
        MembershipRow.state == MembershipState.ACTIVE,
        MembershipRow.ends >= project.ends,
    )


def _custodian_ids() -> Select[str]:
    return (
        select(RoleRow.person_id)
        .join(PersonRow, PersonRow.id == RoleRow.person_id)
        .where(RoleRow.role == PlatformRole.CUSTODIAN, PersonRow.disabled.is_(False))
    )


def _of_a_lapse(session: Session, project: ProjectRow) -> list[str]:
    """Whom a project concerns that closes because its time is over: nobody leads it any more."""
    return sorted({*session.scalars(_past_lead_ids(project)), *session.scalars(_custodian_ids())})


class Notices(Desk):
    """Part of Governance: see the module."""

    def _tell(self, change: Change) -> None:
        """Add the notices of one change to its own transaction: what was not done is not told, and the reverse."""
        if not self._tells:
            return
        told: set[str] = set()
        if change.action in _NEWS_TO_PERSON and change.person is not None:
            told.add(change.person)
        project = None
        if change.project is not None:
            row = change.session.scalars(select(ProjectRow).where(ProjectRow.slug == change.project)).first()
            project = None if row is None else row.id
            if row is not None and change.action is Action.PROJECT_LAPSE:
                told |= set(_of_a_lapse(change.session, row))
        if project is not None and change.action in _NEWS_TO_LEADS:
            told |= set(change.session.scalars(_lead_ids(project, change.now)))
        if project is not None and change.action in _NEWS_TO_APPLICANT:
            latest = select(ApplicationRow.drafted_by).where(ApplicationRow.project_id == project)
            told |= set(change.session.scalars(latest.order_by(ApplicationRow.number.desc()).limit(1)))
        news = [(person, change.action, change.person) for person in sorted(told - {change.by})]
        # Whom an approved application invites is told what everybody is told who is invited.
        news += [(person, Action.MEMBER_INVITE, person) for person in change.detail.get("invited", ())]
        for person, action, about in news:
            key = f"{action}/{change.project or ''}/{about or ''}/{person}/{change.now.isoformat()}"
            _add(change.session, _New(key, person, project, str(action), {"about": about}), change.now)

    def remind(self, weekday: int | None = None) -> int:
        """Make the reminders that are due now, and on ``weekday`` the leads' digest. Returns how many were made.

        Safe to call as often as one likes, by several at once.
        """
        if not self._tells:
            return 0
        now = self._clock()
        with self._store.write() as session:
            due = [*self._of_memberships(session, now), *self._of_trainings(session, now)]
            due += [*self._of_projects(session, now), *self._of_lapses(session, now)]
            if weekday is not None and now.weekday() == weekday:
                due += _digests(session, now)
            made = sum(_add(session, one, now) for one in due)
            session.commit()
        return made

    def unsent(self) -> list[Notice]:
        """The oldest notices that wait to be sent."""
        wanted = (
            select(NoticeRow, PersonRow, ProjectRow)
            .join(PersonRow, PersonRow.id == NoticeRow.person_id)
            .outerjoin(ProjectRow, ProjectRow.id == NoticeRow.project_id)
            .where(NoticeRow.sent_at.is_(None), NoticeRow.attempts < MOST_ATTEMPTS)
            .order_by(NoticeRow.attempts, NoticeRow.id)
            .limit(BATCH)
        )
        with self._store.read() as session:
            return [
                Notice(
                    id=row.id,
                    kind=row.kind,
                    person=who.id,
                    name=who.display_name,
                    # A person who was shut out is told nothing more.
                    email="" if who.disabled or who.gone_at is not None else who.email,
                    project=None if project is None else project.slug,
                    project_title=None if project is None else project.title,
                    created_at=row.created_at,
                    detail=row.detail,
                )
                for row, who, project in session.execute(wanted)
            ]

    def unsent_count(self) -> int:
        """How many notices wait to be sent, those given up included."""
        with self._store.read() as session:
            return session.scalar(select(func.count()).where(NoticeRow.sent_at.is_(None))) or 0

    def told(self, notice: int, *, sent: bool) -> None:
        """Note that a notice went out, or that it could not."""
        change = update(NoticeRow).where(NoticeRow.id == notice, NoticeRow.sent_at.is_(None))
        with self._store.write() as session:
            if sent:
                session.execute(change.values(sent_at=self._clock()))
            else:
                session.execute(change.values(attempts=NoticeRow.attempts + 1))
            session.commit()

    # -- reminders ----------------------------------------------------------------------------------
    @property
    def _days(self) -> list[int]:
        return sorted(set(self._policy.reminder_days))

    def _horizon(self, now: datetime) -> datetime:
        return now + timedelta(days=max(self._days, default=0))

    def _reminder(
        self, kind: str, person: str, ends: datetime, now: datetime, *, project: str | None, about: str | None
    ) -> _New:
        # One for each of the days named: the smallest that the end is within. A moved end is another end.
        within = next(one for one in self._days if ends <= now + timedelta(days=one))
        key = f"{kind}/{project or ''}/{about or ''}/{person}/{ends:%Y-%m-%dT%H:%M}/{within}"
        return _New(key, person, project, kind, {"ends": ends.isoformat(), "about": about})

    def _of_memberships(self, session: Session, now: datetime) -> Iterator[_New]:
        horizon = self._horizon(now)
        member = (
            select(MembershipRow, ProjectRow)
            .join(ProjectRow, ProjectRow.id == MembershipRow.project_id)
            .where(MembershipRow.state == MembershipState.ACTIVE, ProjectRow.state == ProjectState.ACTIVE)
        )
        ending = member.where(MembershipRow.ends > now, MembershipRow.ends <= horizon)
        for row, project in session.execute(ending).all():
            person = row.person_id
            yield self._reminder("ending.membership", person, row.ends, now, project=project.id, about=person)
        review = member.where(MembershipRow.review_due > now, MembershipRow.review_due <= horizon)
        for row, project in session.execute(review).all():
            if row.review_due is None or row.review_due >= row.ends:
                continue
            for lead in set(session.scalars(_lead_ids(project.id, now))) - {row.person_id}:
                due, about = row.review_due, row.person_id
                yield self._reminder("ending.review", lead, due, now, project=project.id, about=about)

    def _of_trainings(self, session: Session, now: datetime) -> Iterator[_New]:
        if not self._policy.training_required:
            return
        last = func.max(TrainingRow.expires)
        latest = select(TrainingRow.person_id, last).where(TrainingRow.confirmed_by.is_not(None))
        latest = latest.group_by(TrainingRow.person_id).having(last > now, last <= self._horizon(now))
        for person, expires in session.execute(latest).all():
            yield self._reminder("ending.training", person, expires, now, project=None, about=person)

    def _of_projects(self, session: Session, now: datetime) -> Iterator[_New]:
        horizon = self._horizon(now)
        wanted = (
            select(ProjectRow, PermitRow)
            .outerjoin(PermitRow, (PermitRow.project_id == ProjectRow.id) & (PermitRow.state == PermitState.APPROVED))
            .where(ProjectRow.state == ProjectState.ACTIVE, ProjectRow.ends > now)
        )
        for project, permit in session.execute(wanted).all():
            ends: list[tuple[str, datetime]] = [("ending.project", project.ends)]
            if permit is not None:
                until = PermitTerms.model_validate(permit.terms).valid_until
                ends += [("ending.permit", until)] if until < project.ends else []
            due = [(kind, end) for kind, end in ends if now < end <= horizon]
            for lead in session.scalars(_lead_ids(project.id, now)).all() if due else ():
                for kind, end in due:
                    yield self._reminder(kind, lead, end, now, project=project.id, about=None)

    def _of_lapses(self, session: Session, now: datetime) -> Iterator[_New]:
        horizon = self._horizon(now)
        wanted = select(ProjectRow).where(ProjectRow.state.in_(IN_EFFECT), ProjectRow.ends <= now)
        for project in session.scalars(wanted):
            closing = closes_at(session, project, self._policy.closing_days)
            if closing is None or not now < closing <= horizon:
                continue
            for person in _of_a_lapse(session, project):
                yield self._reminder("ending.closing", person, closing, now, project=project.id, about=None)


def _digests(session: Session, now: datetime) -> Iterator[_New]:
    year, week, _ = now.isocalendar()
    wanted = (
        select(MembershipRow.person_id, ProjectRow.id, ProjectRow.slug, ProjectRow.title)
        .join(ProjectRow, ProjectRow.id == MembershipRow.project_id)
        .where(MembershipRow.role == MemberRole.LEAD, MembershipRow.state == MembershipState.ACTIVE)
        .where(MembershipRow.ends > now, ProjectRow.state == ProjectState.ACTIVE)
        .order_by(MembershipRow.person_id, ProjectRow.title)
    )
    rows = session.execute(wanted).all()
    counts = _counts(session, now)
    for person, mine in itertools.groupby(rows, key=lambda row: row[0]):
        projects = [
            {
                "project": slug,
                "title": title,
                "members": counts.get((project, MembershipState.ACTIVE), 0),
                "waiting": counts.get((project, MembershipState.REQUESTED), 0),
            }
            for _, project, slug, title in mine
        ]
        yield _New(f"digest/{person}/{year}-{week:02}", person, None, "digest", {"projects": projects})


def _counts(session: Session, now: datetime) -> dict[tuple[str, MembershipState], int]:
    wanted = (
        select(MembershipRow.project_id, MembershipRow.state, func.count())
        .where(MembershipRow.ends > now)
        .group_by(MembershipRow.project_id, MembershipRow.state)
    )
    return {(project, state): number for project, state, number in session.execute(wanted)}

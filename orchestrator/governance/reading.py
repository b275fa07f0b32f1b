"""What people may read of projects and applications, by the rules.

Whoever may not read something is refused in the same words whether it is there or not. No query here grows with the
projects that a person has no part in, but those for people in office, who may see them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, or_, select, union
from sqlalchemy.orm import Session

from orchestrator.errors import NotFoundError
from orchestrator.governance.applications import Applications, about_application, application_in
from orchestrator.governance.cards import (
    ApplicationLine,
    ApplicationRecord,
    PermitRecord,
    ProjectLine,
    ProjectPage,
)
from orchestrator.governance.desk import membership_of
from orchestrator.governance.in_force import content_of
from orchestrator.governance.lapsing import closes_at, is_over
from orchestrator.governance.memberships import Memberships
from orchestrator.governance.permits import permit_record
from orchestrator.governance.projects import (
    OPEN,
    project_record,
    project_sought,
    proposed_lead,
    undecided_application,
)
from orchestrator.governance.rules import Action, Fact, judge
from orchestrator.governance.sessions import Sessions
from orchestrator.governance.states import (
    TRANSITIONS,
    ApplicationState,
    MemberRole,
    MembershipState,
    PermitState,
    ProjectState,
)
from orchestrator.governance.store import (
    ApplicationRow,
    DeletionRow,
    MembershipRow,
    PermitRow,
    PersonRow,
    ProjectRow,
)

#: the most that a list tells at once
MOST_LINES = 500

#: in which states of the project something can be done with it, where the rules allow it
_POSSIBLE: Mapping[Action, tuple[ProjectState, ...]] = {
    Action.PROJECT_ACTIVATE: (ProjectState.DRAFT,),
    Action.PROJECT_SUSPEND: (ProjectState.ACTIVE,),
    Action.PROJECT_RESUME: (ProjectState.SUSPENDED,),
    Action.PROJECT_CLOSE: OPEN,
    Action.PROJECT_RETAIN: (ProjectState.CLOSED,),
    Action.PROJECT_EXPORT: (ProjectState.ACTIVE, ProjectState.SUSPENDED),
    Action.QUOTA_SET: OPEN,
    Action.APPLICATION_AMEND: (ProjectState.ACTIVE, ProjectState.SUSPENDED),
    Action.MEMBER_INVITE: OPEN,
    Action.MEMBER_REQUEST: OPEN,
    Action.MEMBER_ACCEPT: OPEN,
    Action.MEMBER_LEAVE: tuple(ProjectState),
    Action.PERMIT_DRAFT: OPEN,
    Action.PERMIT_APPROVE: OPEN,
    Action.PERMIT_REVOKE: tuple(ProjectState),
}


class Reading(Memberships, Sessions, Applications):
    """Part of Governance: what is read of projects and applications."""

    # -- projects ---------------------------------------------------------------------------------------
    def project_page(self, by: str, slug: str) -> ProjectPage:
        """All of a project that ``by`` may see: members and leads of their own, people in office of any.

        Raises:
            RefusedError: it is not theirs to read, or is not there; the words are the same.
            NotFoundError: it is not there, and they may read any.
        """
        now = self._clock()
        with self._store.read() as session:
            project = self._readable(session, by, Action.PROJECT_READ, slug)
            facts = self._facts(session, by, now, project=project)
            who = session.get(PersonRow, by)
            permits = self._permits_for(session, by, project, facts)
            in_force = next((one for one in permits if one.state is PermitState.APPROVED), None)
            deletion = session.get(DeletionRow, project.id)
            ended = is_over(project, now)
            return ProjectPage(
                project=project_record(project),
                mine=None if who is None else next(iter(self._cards(session, who, now, slug)), None),
                permit=None if in_force is None else self._permit_card(in_force.terms),
                members=self._members_for(session, project, by),
                permits=tuple(permits),
                applications=tuple(self._applications_in(session, by, project, facts)),
                certificate=None if deletion is None else deletion.certificate,
                may=tuple(self._may_with_project(session, by, project, facts, permits)),
                ended=ended,
                closes_at=closes_at(session, project, self._policy.closing_days) if ended else None,
            )

    def list_projects(
        self, by: str, search: str = "", state: ProjectState | None = None, limit: int = 50, after: str = ""
    ) -> list[ProjectLine]:
        """Projects with ``search`` in their name or title, by name, from the one that follows ``after``; for people in
        office. Three queries, however many there are.
        """
        now = self._clock()
        wanted = select(ProjectRow).where(ProjectRow.slug > after)
        if search.strip():
            wanted = wanted.where(
                or_(
                    ProjectRow.slug.icontains(search.strip(), autoescape=True),
                    ProjectRow.title.icontains(search.strip(), autoescape=True),
                )
            )
        if state is not None:
            wanted = wanted.where(ProjectRow.state == state)
        with self._store.read() as session:
            self._judge_read(session, by, Action.PROJECTS_READ)
            rows = list(session.scalars(wanted.order_by(ProjectRow.slug).limit(max(1, min(limit, MOST_LINES)))))
            there = (
                MembershipRow.project_id.in_([row.id for row in rows]),
                MembershipRow.state == MembershipState.ACTIVE,
                MembershipRow.ends > now,
            )
            count = select(MembershipRow.project_id, func.count()).where(*there).group_by(MembershipRow.project_id)
            counts = {project: number for project, number in session.execute(count)}
            led = (
                select(MembershipRow.project_id, PersonRow.display_name)
                .join(PersonRow, PersonRow.id == MembershipRow.person_id)
                .where(*there, MembershipRow.role == MemberRole.LEAD)
                .order_by(PersonRow.display_name)
            )
            leads: dict[str, list[str]] = {}
            for project, name in session.execute(led):
                leads.setdefault(project, []).append(name)
        return [
            ProjectLine(
                slug=row.slug,
                title=row.title,
                state=row.state,
                starts=row.starts,
                ends=row.ends,
                leads=tuple(leads.get(row.id, ())),
                members=counts.get(row.id, 0),
            )
            for row in rows
        ]

    # -- applications -----------------------------------------------------------------------------------
    def read_application(self, by: str, slug: str, number: int) -> ApplicationRecord:
        """One application, for who wrote it, the project's leads, custodians and auditors.

        Raises:
            RefusedError: it is not theirs to read, or is not there; the words are the same.
            NotFoundError: it is not there, and they may read any.
        """
        with self._store.read() as session:
            project = project_sought(session, slug)
            row = None if project is None else application_in(session, project, number)
            if project is None or row is None:
                # Stops: somebody who tells by the answers which projects and applications there are.
                # Shown by tests/unit/governance/test_reading.py.
                self._judge_read(session, by, Action.APPLICATION_READ, project=project)
                raise NotFoundError(f"there is no application {number} of a project '{slug}'")
            about = about_application(session, by, project, row, content_of(row))
            extra = about[Action.APPLICATION_READ]
            self._judge_read(session, by, Action.APPLICATION_READ, project=project, extra=extra)
            return self._record(session, by, project, row, self._clock())

    def list_applications(
        self, by: str, state: ApplicationState | None = None, limit: int = MOST_LINES
    ) -> list[ApplicationLine]:
        """The applications that ``by`` may read, newest first: all for custodians and auditors, else those that they
        wrote and those of the projects that they lead.
        """
        wanted = _lines()
        if state is not None:
            wanted = wanted.where(ApplicationRow.state == state)
        with self._store.read() as session:
            facts = self._facts(session, by, self._clock())
            if not judge(Action.APPLICATION_READ, facts, self._rules).allowed:
                if Fact.DISABLED in facts:
                    self._judge_read(session, by, Action.APPLICATION_READ)
                wanted = wanted.where(ApplicationRow.id.in_(_own(by, self._clock())))
            newest = wanted.order_by(ApplicationRow.drafted_at.desc(), ApplicationRow.id)
            return [_line(found) for found in session.execute(newest.limit(max(1, min(limit, MOST_LINES))))]

    # -- parts ------------------------------------------------------------------------------------------
    def _readable(self, session: Session, by: str, action: Action, slug: str) -> ProjectRow:
        project = project_sought(session, slug)
        # Stops: somebody who tells by the answer which projects there are. Shown by test_reading.py.
        self._judge_read(session, by, action, project=project)
        if project is None:
            raise NotFoundError(f"there is no project '{slug}'")
        return project

    def _permits_for(self, session: Session, by: str, project: ProjectRow, facts: set[Fact]) -> list[PermitRecord]:
        wanted = select(PermitRow).where(PermitRow.project_id == project.id).order_by(PermitRow.version)
        told = []
        for row in session.scalars(wanted):
            held = facts | ({Fact.DRAFTER} if row.drafted_by == by else set())
            becomes = TRANSITIONS[PermitState][row.state]
            may = []
            if PermitState.APPROVED in becomes and project.state in OPEN and self._allows(Action.PERMIT_APPROVE, held):
                may.append(Action.PERMIT_APPROVE)
            if PermitState.REVOKED in becomes and self._allows(Action.PERMIT_REVOKE, held):
                may.append(Action.PERMIT_REVOKE)
            told.append(permit_record(row, may))
        return told

    def _applications_in(
        self, session: Session, by: str, project: ProjectRow, facts: set[Fact]
    ) -> Iterator[ApplicationLine]:
        wanted = _lines().where(ApplicationRow.project_id == project.id)
        if not self._allows(Action.APPLICATION_READ, facts):
            wanted = wanted.where(ApplicationRow.drafted_by == by)
        for found in session.execute(wanted.order_by(ApplicationRow.number)):
            yield _line(found)

    def _may_with_project(
        self,
        session: Session,
        by: str,
        project: ProjectRow,
        facts: set[Fact],
        permits: list[PermitRecord],
    ) -> Iterator[str]:
        """What the rules and the states let somebody do with the project, of whom ``facts`` hold in it."""
        mine = membership_of(session, project, by)
        undecided = undecided_application(session, project) is not None
        lead = proposed_lead(session, project)
        for action, states in _POSSIBLE.items():
            held = set(facts)
            if project.state not in states:
                continue
            match action:
                case Action.PROJECT_ACTIVATE:
                    if undecided or lead is None:
                        continue
                    held = self._facts(session, by, self._clock(), lead.person_id, project)
                case Action.APPLICATION_AMEND if undecided:
                    continue
                case Action.MEMBER_REQUEST if mine is None or mine.state is MembershipState.ENDED:
                    held.add(Fact.SELF)
                case Action.MEMBER_ACCEPT | Action.MEMBER_LEAVE:
                    wanted = MembershipState.REQUESTED if action is Action.MEMBER_ACCEPT else MembershipState.ENDED
                    if mine is None or wanted not in TRANSITIONS[MembershipState][mine.state]:
                        continue
                    if action is Action.MEMBER_ACCEPT and mine.state is not MembershipState.INVITED:
                        continue
                    held.add(Fact.SELF)
                case Action.PERMIT_APPROVE | Action.PERMIT_REVOKE:
                    if any(action in permit.may for permit in permits):
                        yield action
                    continue
            if self._allows(action, held):
                yield action

    def _allows(self, action: Action, facts: set[Fact]) -> bool:
        return judge(action, facts, self._rules).allowed


def _lines() -> Select[Any]:
    """Lines of a list. The title alone is read out of what may be long."""
    return select(
        ProjectRow.slug,
        ApplicationRow.number,
        ApplicationRow.kind,
        ApplicationRow.state,
        ApplicationRow.content["title"].as_string(),
        ApplicationRow.drafted_by,
        ApplicationRow.submitted_at,
    ).join(ProjectRow, ProjectRow.id == ApplicationRow.project_id)


def _line(found: Any) -> ApplicationLine:
    slug, number, kind, state, title, drafted_by, submitted_at = found
    return ApplicationLine(
        project=slug,
        number=number,
        kind=kind,
        state=state,
        title=title or "",
        drafted_by=drafted_by,
        submitted_at=submitted_at,
    )


def _own(by: str, now: datetime) -> Select[Any]:
    """Ids of the applications that a person wrote, or whose project they lead: by two indexes, never by a walk."""
    led = (
        select(ApplicationRow.id)
        .join(MembershipRow, MembershipRow.project_id == ApplicationRow.project_id)
        .where(
            MembershipRow.person_id == by,
            MembershipRow.role == MemberRole.LEAD,
            MembershipRow.state == MembershipState.ACTIVE,
            MembershipRow.ends > now,
        )
    )
    own = union(select(ApplicationRow.id).where(ApplicationRow.drafted_by == by), led).subquery()
    return select(own.c.id)

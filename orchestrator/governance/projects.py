"""Projects: proposed, in effect, suspended, closed."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator.errors import ConflictError, InputError, RefusedError
from orchestrator.governance.cards import ProjectRecord
from orchestrator.governance.desk import (
    Change,
    Desk,
    checked_text,
    person_named,
    project_named,
)
from orchestrator.governance.memberships import admit, checked_ends, requested
from orchestrator.governance.rules import Action
from orchestrator.governance.states import (
    ApplicationState,
    MemberRole,
    MembershipState,
    ProjectState,
    check_transition,
)
from orchestrator.governance.store import ApplicationRow, MembershipRow, ProjectRow

# What JupyterHub takes as the name of a server: a project with another name could never be opened.
_SLUG = re.compile(r"(?=.{1,30}\Z)[a-z](?:-?[a-z0-9])*")


# Stands where a project's name stands in addresses of the API.
_TAKEN = frozenset({"mine"})

#: an application in one of these is not decided yet
UNDECIDED = (
    ApplicationState.DRAFT,
    ApplicationState.SUBMITTED,
    ApplicationState.RETURNED,
    ApplicationState.COMPLETE,
)

#: a project in one of these is not closed
OPEN = (ProjectState.DRAFT, ProjectState.ACTIVE, ProjectState.SUSPENDED)

_YEARS = range(1900, 2200)


def checked_slug(slug: str) -> str:
    """``slug``, if a project may be called so. Raises InputError."""
    if not _SLUG.fullmatch(slug):
        raise InputError(f"project name '{slug}': 1 to 30 of a-z, 0-9 and single '-', beginning with a letter")
    if slug in _TAKEN:
        raise InputError(f"project name '{slug}' is taken by an address", hint="choose another")
    return slug


def checked_moment(what: str, when: datetime) -> datetime:
    """``when`` in UTC. Raises InputError where it has no zone, or is in no time that anybody plans for."""
    if when.tzinfo is None:
        raise InputError(f"{what} must have a time zone; got {when.isoformat()}")
    if when.year not in _YEARS:  # also: some moments of the years 1 and 9999 cannot be said in UTC
        raise InputError(f"{what} must be in the years {_YEARS[0]} to {_YEARS[-1]}; got {when.year}")
    return when.astimezone(UTC)


def project_sought(session: Session, slug: str) -> ProjectRow | None:
    """The project's row, if there is one."""
    return session.scalars(select(ProjectRow).where(ProjectRow.slug == slug)).first()


def undecided_application(session: Session, project: ProjectRow) -> ApplicationRow | None:
    """The one application of the project that is not decided yet."""
    wanted = select(ApplicationRow).where(ApplicationRow.project_id == project.id, ApplicationRow.state.in_(UNDECIDED))
    return session.scalars(wanted).first()


def add_project(  # noqa: PLR0917 - what a draft is made of
    change: Change, slug: str, title: str, purpose: str, starts: datetime, ends: datetime
) -> ProjectRow:
    """A draft under a name that no project ever had. Raises ConflictError."""
    if change.session.scalars(select(ProjectRow.id).where(ProjectRow.slug == slug)).first():
        raise ConflictError(f"project '{slug}' exists already; names are never used again")
    project = ProjectRow(
        id=uuid.uuid4().hex,
        slug=slug,
        title=title,
        purpose=purpose,
        state=ProjectState.DRAFT,
        starts=starts,
        ends=ends,
        created_by=change.by,
        created_at=change.now,
    )
    change.session.add(project)
    change.session.flush()
    return project


def close(change: Change, project: ProjectRow, retention_days: int) -> None:
    """Close a project, and the application that is under way. What it leaves is kept for ``retention_days``."""
    drafted = project.state is ProjectState.DRAFT
    check_transition(f"project '{project.slug}'", project.state, ProjectState.CLOSED)
    project.state, project.closed_at = ProjectState.CLOSED, change.now
    if not drafted:  # nobody ever had a workspace in a draft: there is nothing to archive, and no key
        days = retention_days if project.retain_days is None else project.retain_days
        project.retain_until = change.now + timedelta(days=days)
        change.detail["retain_until"] = project.retain_until.isoformat()
    application = undecided_application(change.session, project)
    if application is not None:
        what = f"application {application.number} of '{project.slug}'"
        check_transition(what, application.state, ApplicationState.WITHDRAWN)
        application.state = ApplicationState.WITHDRAWN
        application.decided_by, application.decided_at = change.by, change.now


def project_record(row: ProjectRow) -> ProjectRecord:
    """The project as governance keeps it."""
    return ProjectRecord(
        id=row.id,
        slug=row.slug,
        title=row.title,
        purpose=row.purpose,
        state=row.state,
        starts=row.starts,
        ends=row.ends,
        created_by=row.created_by,
        lay_summary=row.lay_summary,
        legal_basis=row.legal_basis,
        outputs=row.outputs,
        conditions=row.conditions,
        closed_at=row.closed_at,
        retain_until=row.retain_until,
        archived_at=row.archived_at,
        retain_days=row.retain_days,
    )


class Projects(Desk):
    """Part of Governance: projects and memberships."""

    def project(self, slug: str) -> ProjectRecord:
        """One project. Raises NotFoundError."""
        with self._store.read() as session:
            return project_record(project_named(session, slug))

    def projects(self) -> list[ProjectRecord]:
        """All projects, by slug."""
        with self._store.read() as session:
            return [project_record(row) for row in session.scalars(select(ProjectRow).order_by(ProjectRow.slug))]

    def create_project(
        self, by: str, slug: str, *, title: str, purpose: str, lead: str, starts: datetime, ends: datetime
    ) -> ProjectRecord:
        """A project in draft, with ``lead`` proposed. It does nothing until a custodian activates it.

        Raises:
            InputError: a field is wrong.
            ConflictError: the slug is, or once was, another project's.
            RefusedError: the rules forbid it.
        """
        checked_slug(slug)
        title = checked_text("a title", title, 200)
        purpose = checked_text("a purpose", purpose, 5000)
        starts, ends = checked_moment("a start", starts), checked_moment("an end", ends)
        if starts >= ends:
            raise InputError(f"a project must end after it starts; got {starts} to {ends}")
        with self._change(by, Action.PROJECT_CREATE, person=lead, project=slug) as change:
            person_named(change.session, lead)
            self._judge(change)
            if ends <= change.now:
                raise InputError(f"a project must end in the future; got {ends.isoformat()}")
            project = add_project(change, slug, title, purpose, starts, ends)
            change.session.add(requested(change, project, lead, MemberRole.LEAD, ends))
            return project_record(project)

    def activate_project(self, by: str, slug: str) -> None:
        """Put a draft into effect and appoint its proposed lead, or resume a suspended project."""
        with self._change(by, Action.PROJECT_ACTIVATE, project=slug) as change:
            project = project_named(change.session, slug)
            if project.state is ProjectState.SUSPENDED:
                self._becomes(change, Action.PROJECT_RESUME, project)
                self._judge(change, project)
                self._decide(change, project)
            else:
                lead = self._proposed_lead(change, project)
                change.person = lead.person_id
                self._judge(change, project)
                check_transition(f"project '{slug}'", project.state, ProjectState.ACTIVE)
                # Stops: a project that somebody applied for, put into effect without a look at what they wrote.
                # Shown by tests/unit/governance/test_projects.py.
                if undecided_application(change.session, project) is not None:
                    raise RefusedError(
                        f"project '{slug}' is applied for", hint=f"decide it: bulle application approve {slug} 1"
                    )
                checked_ends(lead.ends, project, change.now)
                self._decide(change, project, lead=lead.person_id, ends=lead.ends.isoformat())
                admit(change, lead, self._policy.review_days)
            project.state = ProjectState.ACTIVE

    def _proposed_lead(self, change: Change, project: ProjectRow) -> MembershipRow:
        lead = proposed_lead(change.session, project)
        if lead is None:
            # Judged all the same: who may not activate is told so, and nothing else.
            self._judge(change, project)
            check_transition(f"project '{project.slug}'", project.state, ProjectState.ACTIVE)
            raise RefusedError(
                f"project '{project.slug}' has no proposed lead",
                hint=f"bulle member request {project.slug} PERSON --lead",
            )
        return lead

    def suspend_project(self, by: str, slug: str) -> None:
        """The emergency stop: no workspace of the project opens, and those that run end within seconds."""
        with self._change(by, Action.PROJECT_SUSPEND, project=slug) as change:
            project = project_named(change.session, slug)
            self._judge(change, project)
            check_transition(f"project '{slug}'", project.state, ProjectState.SUSPENDED)
            project.state = ProjectState.SUSPENDED

    def close_project(self, by: str, slug: str) -> None:
        """End a project for good. Its folders are archived, and its keys destroyed when its retention is over."""
        with self._change(by, Action.PROJECT_CLOSE, project=slug) as change:
            project = project_named(change.session, slug)
            self._judge(change, project)
            close(change, project, self._policy.retention_days)


def proposed_lead(session: Session, project: ProjectRow) -> MembershipRow | None:
    """Who was proposed first to lead the project, and is not turned down."""
    wanted = select(MembershipRow).where(
        MembershipRow.project_id == project.id,
        MembershipRow.role == MemberRole.LEAD,
        MembershipRow.state == MembershipState.REQUESTED,
    )
    return session.scalars(wanted.order_by(MembershipRow.id)).first()

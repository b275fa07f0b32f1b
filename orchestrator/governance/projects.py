"""Projects: proposed, in effect, suspended, closed."""

from __future__ import annotations

import re
import uuid
from datetime import datetime

from sqlalchemy import select

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
from orchestrator.governance.states import MemberRole, MembershipState, ProjectState, check_transition
from orchestrator.governance.store import MembershipRow, ProjectRow

# What JupyterHub takes as the name of a server: a project with another name could never be opened.
_SLUG = re.compile(r"(?=.{1,30}\Z)[a-z](?:-?[a-z0-9])*")


def _record(row: ProjectRow) -> ProjectRecord:
    return ProjectRecord(
        id=row.id,
        slug=row.slug,
        title=row.title,
        purpose=row.purpose,
        state=row.state,
        starts=row.starts,
        ends=row.ends,
        created_by=row.created_by,
    )


class Projects(Desk):
    """Part of Governance: projects and memberships."""

    def project(self, slug: str) -> ProjectRecord:
        """One project. Raises NotFoundError."""
        with self._store.read() as session:
            return _record(project_named(session, slug))

    def projects(self) -> list[ProjectRecord]:
        """All projects, by slug."""
        with self._store.read() as session:
            return [_record(row) for row in session.scalars(select(ProjectRow).order_by(ProjectRow.slug))]

    def create_project(
        self, by: str, slug: str, *, title: str, purpose: str, lead: str, starts: datetime, ends: datetime
    ) -> ProjectRecord:
        """A project in draft, with ``lead`` proposed. It does nothing until a custodian activates it.

        Raises:
            InputError: a field is wrong.
            ConflictError: the slug is, or once was, another project's.
            RefusedError: the rules forbid it.
        """
        if not _SLUG.fullmatch(slug):
            raise InputError(f"project name '{slug}': 1 to 30 of a-z, 0-9 and single '-', beginning with a letter")
        title = checked_text("a title", title, 200)
        purpose = checked_text("a purpose", purpose, 5000)
        if starts >= ends:
            raise InputError(f"a project must end after it starts; got {starts} to {ends}")
        with self._change(by, Action.PROJECT_CREATE, person=lead, project=slug) as change:
            person_named(change.session, lead)
            self._judge(change)
            if ends <= change.now:
                raise InputError(f"a project must end in the future; got {ends.isoformat()}")
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
                created_by=by,
                created_at=change.now,
            )
            change.session.add(project)
            change.session.flush()
            change.session.add(requested(change, project, lead, MemberRole.LEAD, ends))
            return _record(project)

    def activate_project(self, by: str, slug: str) -> None:
        """Put a draft into effect and appoint its proposed lead, or resume a suspended project."""
        with self._change(by, Action.PROJECT_ACTIVATE, project=slug) as change:
            project = project_named(change.session, slug)
            if project.state is ProjectState.SUSPENDED:
                change.action = Action.PROJECT_RESUME
                self._judge(change, project)
            else:
                lead = self._proposed_lead(change, project)
                change.person = lead.person_id
                self._judge(change, project)
                check_transition(f"project '{slug}'", project.state, ProjectState.ACTIVE)
                checked_ends(lead.ends, project, change.now)
                admit(change, lead)
            project.state = ProjectState.ACTIVE

    def _proposed_lead(self, change: Change, project: ProjectRow) -> MembershipRow:
        wanted = select(MembershipRow).where(
            MembershipRow.project_id == project.id,
            MembershipRow.role == MemberRole.LEAD,
            MembershipRow.state == MembershipState.REQUESTED,
        )
        lead = change.session.scalars(wanted.order_by(MembershipRow.id)).first()
        if lead is None:
            check_transition(f"project '{project.slug}'", project.state, ProjectState.ACTIVE)
            raise RefusedError(
                f"project '{project.slug}' has no proposed lead",
                hint=f"bulle member request {project.slug} PERSON --lead",
            )
        return lead

    def suspend_project(self, by: str, slug: str) -> None:
        """The emergency stop: no workspace of the project opens, and those that run end within seconds."""
        self._end_project(by, Action.PROJECT_SUSPEND, slug, ProjectState.SUSPENDED)

    def close_project(self, by: str, slug: str) -> None:
        """End a project for good."""
        self._end_project(by, Action.PROJECT_CLOSE, slug, ProjectState.CLOSED)

    def _end_project(self, by: str, action: Action, slug: str, state: ProjectState) -> None:
        with self._change(by, action, project=slug) as change:
            project = project_named(change.session, slug)
            self._judge(change, project)
            check_transition(f"project '{slug}'", project.state, state)
            project.state = state

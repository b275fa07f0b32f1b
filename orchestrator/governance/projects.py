"""Projects and their members."""

from __future__ import annotations

import re
import uuid
from datetime import datetime

from sqlalchemy import select

from orchestrator.errors import ConflictError, InputError, NotFoundError, RefusedError
from orchestrator.governance.cards import MemberRecord, ProjectRecord
from orchestrator.governance.desk import (
    Change,
    Desk,
    checked_text,
    membership_of,
    person_named,
    project_named,
)
from orchestrator.governance.rules import Action
from orchestrator.governance.states import MemberRole, MembershipState, ProjectState, check_transition
from orchestrator.governance.store import AppointmentRow, MembershipRow, PersonRow, ProjectRow

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


def _checked_ends(ends: datetime, project: ProjectRow, now: datetime) -> datetime:
    if ends > project.ends:
        bound = f"{project.ends:%Y-%m-%d %H:%M}"
        raise InputError(f"a membership of '{project.slug}' ends by {bound}; got {ends:%Y-%m-%d %H:%M}")
    if ends <= now:
        raise InputError(f"a membership must end in the future; got {ends:%Y-%m-%d %H:%M}")
    return ends


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

    def members(self, slug: str) -> list[MemberRecord]:
        """All memberships of a project, also those that ended, by person."""
        with self._store.read() as session:
            project = project_named(session, slug)
            wanted = (
                select(MembershipRow, PersonRow)
                .join(PersonRow, PersonRow.id == MembershipRow.person_id)
                .where(MembershipRow.project_id == project.id)
                .order_by(MembershipRow.person_id)
            )
            return [
                MemberRecord(
                    person=row.person_id,
                    display_name=person.display_name,
                    role=row.role,
                    state=row.state,
                    ends=row.ends,
                    requested_by=row.requested_by,
                    approved_by=row.approved_by,
                )
                for row, person in session.execute(wanted)
            ]

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
            change.session.add(_requested(change, project, lead, MemberRole.LEAD, ends))
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
                _checked_ends(lead.ends, project, change.now)
                _admit(change, lead)
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

    def request_membership(
        self,
        by: str,
        slug: str,
        person: str,
        role: MemberRole = MemberRole.MEMBER,
        ends: datetime | None = None,
    ) -> None:
        """Ask for a membership, for oneself or (lead, custodian) for somebody else.

        ``ends`` is the project's end where it is not given.
        """
        with self._change(by, Action.MEMBER_REQUEST, person=person, project=slug, role=str(role)) as change:
            project = project_named(change.session, slug, open_only=True)
            person_named(change.session, person)
            self._judge(change, project)
            ends = _checked_ends(ends or project.ends, project, change.now)
            row = membership_of(change.session, project, person)
            if row is None:
                change.session.add(_requested(change, project, person, role, ends))
                return
            if row.state is not MembershipState.ENDED:
                raise ConflictError(f"'{person}' is in '{slug}' already: {row.role}, {row.state}")
            check_transition(f"membership of '{person}'", row.state, MembershipState.REQUESTED)
            row.role, row.state, row.ends = role, MembershipState.REQUESTED, ends
            row.requested_by, row.approved_by, row.changed_at = by, None, change.now

    def approve_membership(self, by: str, slug: str, person: str, ends: datetime | None = None) -> None:
        """Admit a member (the lead) or appoint a further lead (a custodian), also after a suspension.

        With ``ends``, the end of an active membership is moved.
        """
        with self._change(by, Action.MEMBER_APPROVE, person=person, project=slug) as change:
            project, row = self._membership(change, slug, person)
            if row.role is MemberRole.LEAD:
                change.action = Action.LEAD_APPOINT
            self._judge(change, project)
            if project.state is ProjectState.DRAFT:
                raise RefusedError(f"project '{slug}' is a draft", hint=f"bulle project activate {slug}")
            if row.state is not MembershipState.ACTIVE or ends is None:
                check_transition(f"membership of '{person}'", row.state, MembershipState.ACTIVE)
            row.ends = _checked_ends(ends or row.ends, project, change.now)
            _admit(change, row)
            change.detail = {"role": str(row.role), "ends": row.ends.isoformat()}

    def suspend_membership(self, by: str, slug: str, person: str) -> None:
        """Take a member's access away until it is approved again."""
        self._end_membership(by, Action.MEMBER_SUSPEND, slug, person, MembershipState.SUSPENDED)

    def end_membership(self, by: str, slug: str, person: str) -> None:
        """End a membership, or turn a request down."""
        self._end_membership(by, Action.MEMBER_END, slug, person, MembershipState.ENDED)

    def _end_membership(self, by: str, action: Action, slug: str, person: str, state: MembershipState) -> None:
        with self._change(by, action, person=person, project=slug) as change:
            project, row = self._membership(change, slug, person, open_only=False)
            self._judge(change, project)
            check_transition(f"membership of '{person}'", row.state, state)
            row.state, row.changed_at = state, change.now

    def _membership(
        self, change: Change, slug: str, person: str, *, open_only: bool = True
    ) -> tuple[ProjectRow, MembershipRow]:
        project = project_named(change.session, slug, open_only=open_only)
        row = membership_of(change.session, project, person)
        if row is None:
            raise NotFoundError(f"'{person}' has no membership of '{slug}'", hint="request it first")
        return project, row


def _requested(change: Change, project: ProjectRow, person: str, role: MemberRole, ends: datetime) -> MembershipRow:
    return MembershipRow(
        project_id=project.id,
        person_id=person,
        role=role,
        state=MembershipState.REQUESTED,
        ends=ends,
        requested_by=change.by,
        changed_at=change.now,
    )


def _admit(change: Change, row: MembershipRow) -> None:
    row.state, row.approved_by, row.changed_at = MembershipState.ACTIVE, change.by, change.now
    if row.role is MemberRole.LEAD:
        change.session.add(
            AppointmentRow(
                project_id=row.project_id, lead=row.person_id, appointed_by=change.by, appointed_at=change.now
            )
        )

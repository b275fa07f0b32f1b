"""Memberships: who is in a project, from an invitation to the end."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select

from orchestrator.errors import ConflictError, InputError, NotFoundError, RefusedError
from orchestrator.governance.cards import MemberRecord
from orchestrator.governance.desk import Change, Desk, membership_of, person_named, project_named
from orchestrator.governance.rules import Action
from orchestrator.governance.states import MemberRole, MembershipState, ProjectState, check_transition
from orchestrator.governance.store import AppointmentRow, MembershipRow, PersonRow, ProjectRow


def checked_ends(ends: datetime, project: ProjectRow, now: datetime) -> datetime:
    """``ends``, if a membership of the project may end then. Raises InputError."""
    if ends > project.ends:
        bound = f"{project.ends:%Y-%m-%d %H:%M}"
        raise InputError(f"a membership of '{project.slug}' ends by {bound}; got {ends:%Y-%m-%d %H:%M}")
    if ends <= now:
        raise InputError(f"a membership must end in the future; got {ends:%Y-%m-%d %H:%M}")
    return ends


class Memberships(Desk):
    """Part of Governance: memberships."""

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
            ends = checked_ends(ends or project.ends, project, change.now)
            row = membership_of(change.session, project, person)
            if row is None:
                change.session.add(requested(change, project, person, role, ends))
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
            row.ends = checked_ends(ends or row.ends, project, change.now)
            admit(change, row)
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


def requested(change: Change, project: ProjectRow, person: str, role: MemberRole, ends: datetime) -> MembershipRow:
    """A membership that somebody asks for; the caller adds it."""
    return MembershipRow(
        project_id=project.id,
        person_id=person,
        role=role,
        state=MembershipState.REQUESTED,
        ends=ends,
        requested_by=change.by,
        changed_at=change.now,
    )


def admit(change: Change, row: MembershipRow) -> None:
    """Put a membership into effect; an appointed lead is remembered for good."""
    row.state, row.approved_by, row.changed_at = MembershipState.ACTIVE, change.by, change.now
    if row.role is MemberRole.LEAD:
        change.session.add(
            AppointmentRow(
                project_id=row.project_id, lead=row.person_id, appointed_by=change.by, appointed_at=change.now
            )
        )

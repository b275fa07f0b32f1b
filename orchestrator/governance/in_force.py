"""What an approved application puts into effect: permit, project, lead and team; and what is in force, as the
application that asked for just that.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator.errors import RefusedError
from orchestrator.governance.cards import ApplicationContent, RequestedColumn, RequestedTable
from orchestrator.governance.desk import Change, approved_permit, membership_of, person_named
from orchestrator.governance.memberships import admit, requested
from orchestrator.governance.permits import supersede
from orchestrator.governance.states import (
    ApplicationState,
    MemberRole,
    MembershipState,
    PermitState,
    ProjectState,
    check_transition,
)
from orchestrator.governance.store import ApplicationRow, MembershipRow, PermitRow, ProjectRow
from orchestrator.terms import PermitTerms


def content_of(row: ApplicationRow) -> ApplicationContent:
    """What the application says."""
    return ApplicationContent.model_validate(row.content)


def put_permit(change: Change, project: ProjectRow, row: ApplicationRow, terms: PermitTerms) -> None:
    """Add the terms as an approved version, in place of the one before."""
    supersede(change, project)
    change.session.add(
        PermitRow(
            project_id=project.id,
            version=terms.version,
            state=PermitState.APPROVED,
            terms=terms.model_dump(mode="json"),
            drafted_by=row.submitted_by or row.drafted_by,
            drafted_at=row.submitted_at or row.drafted_at,
            approved_by=change.by,
            approved_at=change.now,
        )
    )


def put_project(
    change: Change, project: ProjectRow, content: ApplicationContent, conditions: str, retain_days: int | None
) -> None:
    """Make the project what the application says; a draft comes into effect. Conditions stay until others are set."""
    assert content.starts is not None and content.ends is not None  # noqa: S101 - it is complete
    project.title, project.lay_summary, project.purpose = content.title, content.lay_summary, content.purpose
    project.legal_basis, project.outputs = content.legal_basis, content.outputs
    project.starts, project.ends = content.starts, content.ends
    project.conditions = conditions or project.conditions
    project.retain_days = project.retain_days if retain_days is None else retain_days
    if project.state is ProjectState.DRAFT:
        check_transition(f"project '{project.slug}'", project.state, ProjectState.ACTIVE)
        project.state = ProjectState.ACTIVE
    # No membership ends later than its project.
    late = select(MembershipRow).where(MembershipRow.project_id == project.id, MembershipRow.ends > project.ends)
    for membership in change.session.scalars(late):
        membership.ends = project.ends


def appoint(change: Change, project: ProjectRow, lead: str, review_days: int) -> None:
    """Make ``lead`` the project's lead until its end, whatever they were in it before."""
    row = membership_of(change.session, project, lead)
    if row is None:
        row = requested(change, project, lead, MemberRole.LEAD, project.ends)
        change.session.add(row)
    elif row.state is MembershipState.SUSPENDED:  # also told as missing
        raise RefusedError(f"the membership of '{lead}' in '{project.slug}' is suspended")
    elif row.state is not MembershipState.ACTIVE:
        if row.state is not MembershipState.REQUESTED:
            check_transition(f"membership of '{lead}'", row.state, MembershipState.REQUESTED)
            row.requested_by, row.consented_by = change.by, None
        check_transition(f"membership of '{lead}'", MembershipState.REQUESTED, MembershipState.ACTIVE)
    row.role, row.ends = MemberRole.LEAD, project.ends
    admit(change, row, review_days)


def invite(change: Change, project: ProjectRow, row: ApplicationRow, content: ApplicationContent) -> list[str]:
    """Invite those of the team who are not in the project; returns whom. It is theirs to accept."""
    invited = []
    for person in content.team:
        person_named(change.session, person)
        mine = membership_of(change.session, project, person)
        if mine is None:
            mine = requested(change, project, person, MemberRole.MEMBER, project.ends, MembershipState.INVITED)
            change.session.add(mine)
        elif mine.state is MembershipState.ENDED:
            check_transition(f"membership of '{person}'", mine.state, MembershipState.INVITED)
            mine.role, mine.state, mine.ends = MemberRole.MEMBER, MembershipState.INVITED, project.ends
            mine.changed_at = change.now
            mine.approved_by = mine.consented_by = mine.confirmed_by = mine.review_due = None
        else:
            continue
        mine.requested_by = row.submitted_by or row.drafted_by
        invited.append(person)
    return invited


def in_force(session: Session, project: ProjectRow) -> ApplicationContent:
    """What an application would have to say for everything to stay as it is."""
    there = select(MembershipRow).where(
        MembershipRow.project_id == project.id, MembershipRow.state != MembershipState.ENDED
    )
    members = list(session.scalars(there.order_by(MembershipRow.id)))
    leads = [one.person_id for one in members if one.role is MemberRole.LEAD and one.state is MembershipState.ACTIVE]
    return ApplicationContent(
        title=project.title,
        lay_summary=project.lay_summary,
        purpose=project.purpose,
        legal_basis=project.legal_basis,
        outputs=project.outputs,
        lead=leads[0] if leads else "",
        team=tuple(one.person_id for one in members if one.person_id not in leads),
        starts=project.starts,
        ends=project.ends,
        tables=_tables_in_force(session, project),
    )


def _tables_in_force(session: Session, project: ProjectRow) -> tuple[RequestedTable, ...]:
    """The permit's tables, each column with the reason that it was last approved for."""
    wanted = select(ApplicationRow).where(
        ApplicationRow.project_id == project.id, ApplicationRow.state == ApplicationState.APPROVED
    )
    last = session.scalars(wanted.order_by(ApplicationRow.number.desc()).limit(1)).first()
    before: tuple[RequestedTable, ...] = () if last is None else content_of(last).tables
    permit = approved_permit(session, project.id)
    if permit is None:
        return before
    reasons: dict[tuple[str, str, str], str] = {}
    about: dict[tuple[str, str], str] = {}
    for table in before:
        about[table.dataset, table.table] = table.reason
        reasons |= {(table.dataset, table.table, column.name): column.reason for column in table.columns}
    return tuple(
        RequestedTable(
            dataset=table.dataset,
            table=table.table,
            columns=tuple(
                RequestedColumn(
                    name=column.name,
                    reason=reasons.get((table.dataset, table.table, column.name), ""),
                    transform=None if column.transform is None else str(column.transform),
                    parameter=column.parameter,
                )
                for column in table.columns
            ),
            rows=table.rows,
            reason=about.get((table.dataset, table.table), ""),
        )
        for table in PermitTerms.model_validate(permit.terms).tables
    )

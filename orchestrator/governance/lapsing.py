"""A project whose end has passed: for some days its last lead can ask for a renewal, then it closes by itself."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator.governance.states import ApplicationKind, ApplicationState, ProjectState
from orchestrator.governance.store import ApplicationRow, ProjectRow

#: a project in one of these has an end that passes; a draft is not in effect, and what is closed is past it
IN_EFFECT = (ProjectState.ACTIVE, ProjectState.SUSPENDED)

#: a renewal in one of these waits for a custodian: their delay closes nothing
_WITH_CUSTODIANS = (ApplicationState.SUBMITTED, ApplicationState.COMPLETE)


def is_over(project: ProjectRow, now: datetime) -> bool:
    """Whether the project is in effect by its state, and its end has passed."""
    return project.state in IN_EFFECT and project.ends <= now


def closes_at(session: Session, project: ProjectRow, days: int) -> datetime | None:
    """When a project that is over closes by itself; None while a renewal waits for a custodian's decision.

    That is ``days`` after its end. Where a custodian returned the renewal, it is ``days`` after that: who has to mend
    one has as much time as who begins one.
    """
    wanted = select(ApplicationRow.state, ApplicationRow.decided_at).where(
        ApplicationRow.project_id == project.id,
        ApplicationRow.kind == ApplicationKind.RENEWAL,
        ApplicationRow.state.in_((*_WITH_CUSTODIANS, ApplicationState.RETURNED)),
    )
    begins = project.ends
    for state, decided_at in session.execute(wanted):  # one at most: a project has one undecided application
        if state in _WITH_CUSTODIANS:
            return None
        begins = max(begins, decided_at or begins)
    return begins + timedelta(days=days)


def can_be_renewed(session: Session, project: ProjectRow, days: int, now: datetime) -> bool:
    """Whether the project is over, and not so long that it closes by itself."""
    if not is_over(project, now):
        return False
    closing = closes_at(session, project, days)
    return closing is None or now < closing

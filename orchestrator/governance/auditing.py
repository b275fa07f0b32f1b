"""Reading the audit log: auditors all of it, members of a project what happened to the project."""

from __future__ import annotations

from datetime import timedelta
from functools import cached_property

from sqlalchemy import select

from orchestrator.audit import AuditIndex, AuditLog, Filters, Record
from orchestrator.errors import NotFoundError, RefusedError, UnavailableError
from orchestrator.governance.cards import AuditLine, AuditPage
from orchestrator.governance.desk import Desk
from orchestrator.governance.rules import Action
from orchestrator.governance.sparsely import Sparsely
from orchestrator.governance.store import ProjectRow
from orchestrator.terms import Event, Outcome

#: records in one answer
MOST = 500
_ACTIVITY = 50
#: the same reader's reading of the same is written down once in this time: an export is many pages
_READ_EVERY = timedelta(minutes=1)

#: what members see of their project: its life, not who opened a workspace when, and no refused attempt
ACTIVITY_KINDS = frozenset(
    {
        Action.APPLICATION_BEGIN,
        Action.APPLICATION_AMEND,
        Action.APPLICATION_SUBMIT,
        Action.APPLICATION_WITHDRAW,
        Action.APPLICATION_RETURN,
        Action.APPLICATION_CHECK,
        Action.APPLICATION_APPROVE,
        Action.APPLICATION_REFUSE,
        Action.PROJECT_CREATE,
        Action.PROJECT_ACTIVATE,
        Action.PROJECT_SUSPEND,
        Action.PROJECT_RESUME,
        Action.PROJECT_CLOSE,
        Action.PROJECT_LAPSE,
        Action.PROJECT_RETAIN,
        Action.PROJECT_ARCHIVE,
        Action.PROJECT_DELETE,
        Action.PROJECT_EXPORT,
        Action.PROJECT_IMPORT,
        Action.QUOTA_SET,
        Action.MEMBER_INVITE,
        Action.MEMBER_ACCEPT,
        Action.MEMBER_REQUEST,
        Action.MEMBER_APPROVE,
        Action.MEMBER_CONSENT,
        Action.MEMBER_CONFIRM,
        Action.MEMBER_SUSPEND,
        Action.MEMBER_LEAVE,
        Action.MEMBER_END,
        Action.LEAD_APPOINT,
        Action.LEAD_CONFIRM,
        Action.PERMIT_DRAFT,
        Action.PERMIT_APPROVE,
        Action.PERMIT_REVOKE,
    }
)
#: of a record's detail, what members see
ACTIVITY_DETAIL = frozenset({"role", "number", "version", "permit", "kind", "most", "ends", "until", "retain_until"})


def _line(record: Record) -> AuditLine:
    event = record.event
    return AuditLine(
        seq=record.seq,
        time=record.time,
        kind=event.kind,
        actor=event.actor,
        outcome=str(event.outcome),
        person=event.person,
        project=event.project,
        session=event.session,
        detail=event.detail,
    )


def _for_members(line: AuditLine) -> AuditLine:
    shown = {name: value for name, value in line.detail.items() if name in ACTIVITY_DETAIL}
    return line.model_copy(update={"session": None, "detail": shown})


class Auditing(Desk):
    """Part of Governance: reading the audit log."""

    def audit_page(self, by: str, filters: Filters, *, before: int | None = None, limit: int = MOST) -> AuditPage:
        """Records that match, newest first, of those numbered below ``before``.

        That it was read, and by whom, is in the log before the answer: once a minute for the same reader and the
        same filters, so that an export of a hundred pages is one record and not a hundred. A refused attempt is
        there as well.

        Raises:
            RefusedError: the rules forbid it.
            AuditError: the log cannot be read or written, or does not hold what was written.
        """
        asked = {
            name: str(value)
            for name in ("kind", "person", "project", "outcome", "since", "until")
            if (value := getattr(filters, name)) is not None
        }
        try:
            with self._store.read() as session:
                self._judge_read(session, by, Action.AUDIT_READ)
        except RefusedError as error:
            self._tell_read(by, Outcome.REFUSED, {"reason": error.message[:1000]}, key=by)
            raise
        # Stops: an auditor who looks somebody up unseen. Shown by tests/unit/governance/test_auditing.py.
        self._tell_read(by, Outcome.DONE, asked, key=repr((by, sorted(asked.items()))))
        return self._page(filters, before, min(limit, MOST))

    def project_activity(self, by: str, slug: str, before: int | None = None) -> AuditPage:
        """What happened to a project, newest first: for who may read the project.

        Raises:
            RefusedError: the rules forbid it.
            NotFoundError: there is no such project.
            AuditError: the log cannot be read, or does not hold what was written.
        """
        with self._store.read() as session:
            project = session.scalars(select(ProjectRow).where(ProjectRow.slug == slug)).first()
            # Stops: somebody who tells by the answer which projects there are. Shown by
            # tests/unit/portal/test_every_route.py.
            self._judge_read(session, by, Action.PROJECT_READ, project=project)
            if project is None:
                raise NotFoundError(f"there is no project '{slug}'")
        kinds = frozenset(map(str, ACTIVITY_KINDS))
        page = self._page(Filters(project=slug, kinds=kinds, outcome=Outcome.DONE), before, _ACTIVITY)
        # Stops: a member who reads of others more than that the project changed. Shown by test_auditing.py.
        return AuditPage(records=tuple(map(_for_members, page.records)), before=page.before)

    def _page(self, filters: Filters, before: int | None, limit: int) -> AuditPage:
        records, more = self._audit_index.newest(filters, limit=limit, before=before)
        return AuditPage(records=tuple(map(_line, records)), before=more)

    def _tell_read(self, by: str, outcome: Outcome, detail: dict[str, str], *, key: str) -> None:
        if self._readings.due(f"{outcome} {key}", self._clock(), _READ_EVERY) is not None:
            self._audit.record(Event(kind=str(Action.AUDIT_READ), actor=by, outcome=outcome, detail=dict(detail)))

    @cached_property
    def _readings(self) -> Sparsely:
        return Sparsely()

    @cached_property
    def _audit_index(self) -> AuditIndex:
        if not isinstance(self._audit, AuditLog):
            raise UnavailableError("the audit log cannot be read from here")
        return AuditIndex(self._audit)

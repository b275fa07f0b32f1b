"""Operations: reading the audit log."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, Field

from orchestrator.audit import Filters
from orchestrator.governance.auditing import MOST
from orchestrator.governance.cards import AuditPage
from orchestrator.governance.operations.declared import Operation, Scope
from orchestrator.terms import Outcome, Value

Number = Annotated[int, Field(ge=1, le=2**31 - 1)]


class AuditQuestion(Value):
    """Which records to read; what is not set does not narrow."""

    #: such as ``grant.issue``, or ``grant.`` for all that begins so
    kind: Annotated[str, Field(max_length=64)] | None = None
    #: who acted, or whom it was about
    person: Annotated[str, Field(max_length=64)] | None = None
    project: Annotated[str, Field(max_length=64)] | None = None
    outcome: Outcome | None = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    #: records numbered below it
    before: Number | None = None
    limit: Annotated[int, Field(ge=1, le=MOST)] = 100

    def filters(self) -> Filters:
        """As the log takes them."""
        return Filters(
            kind=self.kind,
            person=self.person,
            project=self.project,
            outcome=self.outcome,
            since=self.since,
            until=self.until,
        )


class ActivityQuestion(Value):
    """Whose activity to read."""

    project: Annotated[str, Field(max_length=64)]
    #: records numbered below it
    before: Number | None = None


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "audit.read",
        "GET",
        "/audit",
        "The audit log, newest first",
        Scope.READ,
        AuditQuestion,
        AuditPage,
        lambda governance, by, asked: governance.audit_page(
            by, asked.filters(), before=asked.before, limit=asked.limit
        ),
    ),
    Operation(
        "project.activity",
        "GET",
        "/projects/{project}/activity",
        "What happened to a project, newest first",
        Scope.READ,
        ActivityQuestion,
        AuditPage,
        lambda governance, by, asked: governance.project_activity(by, asked.project, asked.before),
    ),
)

"""Operations: applications for a project, an amendment, a renewal."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from orchestrator.governance.applications import MOST_DAYS
from orchestrator.governance.cards import ApplicationContent, ApplicationLine, ApplicationRecord
from orchestrator.governance.operations.declared import Operation, Scope
from orchestrator.governance.operations.memberships import Slug
from orchestrator.governance.reading import MOST_LINES
from orchestrator.governance.states import ApplicationKind, ApplicationState
from orchestrator.terms import Value

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Beginning(Value):
    """A new project's name, never used again, and what is said of it so far."""

    project: Slug
    content: ApplicationContent = ApplicationContent()


class Amending(Value):
    """Which project, and whether its end is to be later (a renewal) or anything else to change."""

    project: Slug
    kind: Literal[ApplicationKind.AMENDMENT, ApplicationKind.RENEWAL]


class OneApplication(Value):
    """One application of a project."""

    project: Slug
    number: Annotated[int, Field(ge=1, le=1_000_000)]


class Editing(OneApplication):
    """All that an application says from now on."""

    content: ApplicationContent


class Seen(OneApplication):
    """An application, and the ``digest`` of what the person saw: another content is not decided."""

    seen: Digest | None = None


class Noted(Seen):
    """An application, and what its applicant is told."""

    note: Annotated[str, Field(min_length=1, max_length=5000)]


class Approving(Seen):
    """An application, what the decision demands, and for how many days the keys are kept after closing."""

    conditions: Annotated[str, Field(max_length=5000)] = ""
    retain_days: Annotated[int, Field(ge=0, le=MOST_DAYS)] | None = None


class Listing(Value):
    """Which applications."""

    state: ApplicationState | None = None
    limit: Annotated[int, Field(ge=1, le=MOST_LINES)] = MOST_LINES


_ONE = "/projects/{project}/applications/{number}"

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "application.begin",
        "POST",
        "/applications",
        "Apply for a new project",
        Scope.PROJECTS,
        Beginning,
        ApplicationRecord,
        lambda governance, by, asked: governance.begin_application(by, asked.project, asked.content),
    ),
    Operation(
        "application.amend",
        "POST",
        "/projects/{project}/applications",
        "Begin an amendment or a renewal, filled with what is in force",
        Scope.PROJECTS,
        Amending,
        ApplicationRecord,
        lambda governance, by, asked: governance.amend_application(by, asked.project, asked.kind),
    ),
    Operation(
        "application.edit",
        "PUT",
        _ONE,
        "Replace what an application says, before it is submitted",
        Scope.PROJECTS,
        Editing,
        ApplicationRecord,
        lambda governance, by, asked: governance.edit_application(by, asked.project, asked.number, asked.content),
    ),
    Operation(
        "application.submit",
        "POST",
        f"{_ONE}/submit",
        "Hand a complete application in",
        Scope.PROJECTS,
        OneApplication,
        ApplicationRecord,
        lambda governance, by, asked: governance.submit_application(by, asked.project, asked.number),
    ),
    Operation(
        "application.withdraw",
        "POST",
        f"{_ONE}/withdraw",
        "Take an application back for good",
        Scope.PROJECTS,
        OneApplication,
        ApplicationRecord,
        lambda governance, by, asked: governance.withdraw_application(by, asked.project, asked.number),
    ),
    Operation(
        "application.check",
        "POST",
        f"{_ONE}/check",
        "Say that an application is complete",
        Scope.DECIDE,
        Seen,
        ApplicationRecord,
        lambda governance, by, asked: governance.check_application(by, asked.project, asked.number, seen=asked.seen),
    ),
    Operation(
        "application.return",
        "POST",
        f"{_ONE}/return",
        "Give an application back to be mended",
        Scope.DECIDE,
        Noted,
        ApplicationRecord,
        lambda governance, by, asked: governance.return_application(
            by, asked.project, asked.number, asked.note, seen=asked.seen
        ),
    ),
    Operation(
        "application.refuse",
        "POST",
        f"{_ONE}/refuse",
        "Turn an application down for good",
        Scope.DECIDE,
        Noted,
        ApplicationRecord,
        lambda governance, by, asked: governance.refuse_application(
            by, asked.project, asked.number, asked.note, seen=asked.seen
        ),
    ),
    Operation(
        "application.approve",
        "POST",
        f"{_ONE}/approve",
        "Put a checked application into effect",
        Scope.DECIDE,
        Approving,
        ApplicationRecord,
        lambda governance, by, asked: governance.approve_application(
            by,
            asked.project,
            asked.number,
            asked.conditions,
            retain_days=asked.retain_days,
            seen=asked.seen,
        ),
    ),
    Operation(
        "application.read",
        "GET",
        _ONE,
        "One application",
        Scope.READ,
        OneApplication,
        ApplicationRecord,
        lambda governance, by, asked: governance.read_application(by, asked.project, asked.number),
    ),
    Operation(
        "applications.list",
        "GET",
        "/applications",
        "The applications that one may read, newest first",
        Scope.READ,
        Listing,
        list[ApplicationLine],
        lambda governance, by, asked: governance.list_applications(by, asked.state, asked.limit),
    ),
)

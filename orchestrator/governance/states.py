"""Roles and states, and the one table of what may become what."""

from __future__ import annotations

from enum import StrEnum

from orchestrator.errors import RefusedError


class PlatformRole(StrEnum):
    """What a person does for the whole deployment. None of them gives access to data."""

    CUSTODIAN = "custodian"
    REVIEWER = "reviewer"
    AUDITOR = "auditor"
    ADMINISTRATOR = "administrator"


# Pairs that nobody holds together: who runs the platform does not decide about data, who audits does
# neither.
INCOMPATIBLE_ROLES: frozenset[frozenset[PlatformRole]] = frozenset(
    {
        frozenset({PlatformRole.ADMINISTRATOR, PlatformRole.CUSTODIAN}),
        frozenset({PlatformRole.ADMINISTRATOR, PlatformRole.AUDITOR}),
        frozenset({PlatformRole.CUSTODIAN, PlatformRole.AUDITOR}),
    }
)


class ProjectState(StrEnum):
    """Where a project stands."""

    DRAFT = "draft"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    CLOSED = "closed"
    DELETED = "deleted"  # its keys are destroyed


class MemberRole(StrEnum):
    """A person's part in one project."""

    LEAD = "lead"
    MEMBER = "member"


class MembershipState(StrEnum):
    """Where a membership stands. One whose end has passed counts for nothing, whatever its state."""

    INVITED = "invited"
    REQUESTED = "requested"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    ENDED = "ended"


class PermitState(StrEnum):
    """Where a permit version stands."""

    DRAFT = "draft"
    APPROVED = "approved"
    REVOKED = "revoked"
    SUPERSEDED = "superseded"


class ApplicationKind(StrEnum):
    """What is applied for."""

    NEW = "new"
    AMENDMENT = "amendment"
    RENEWAL = "renewal"


class ApplicationState(StrEnum):
    """Where one version of an application stands."""

    DRAFT = "draft"
    SUBMITTED = "submitted"
    RETURNED = "returned"  # something is missing; it can be submitted again
    COMPLETE = "complete"  # checked, and waiting for the decision
    APPROVED = "approved"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"


State = ProjectState | ApplicationState | MembershipState | PermitState

#: kind of state → state → what it may become. By kind first: states of two kinds may be called the same.
TRANSITIONS: dict[type[State], dict[State, frozenset[State]]] = {
    ProjectState: {
        ProjectState.DRAFT: frozenset({ProjectState.ACTIVE, ProjectState.CLOSED}),
        ProjectState.ACTIVE: frozenset({ProjectState.SUSPENDED, ProjectState.CLOSED}),
        ProjectState.SUSPENDED: frozenset({ProjectState.ACTIVE, ProjectState.CLOSED}),
        ProjectState.CLOSED: frozenset({ProjectState.DELETED}),
        ProjectState.DELETED: frozenset(),
    },
    ApplicationState: {
        ApplicationState.DRAFT: frozenset({ApplicationState.SUBMITTED, ApplicationState.WITHDRAWN}),
        ApplicationState.SUBMITTED: frozenset(
            {
                ApplicationState.RETURNED,
                ApplicationState.COMPLETE,
                ApplicationState.REFUSED,
                ApplicationState.WITHDRAWN,
            }
        ),
        ApplicationState.RETURNED: frozenset({ApplicationState.SUBMITTED, ApplicationState.WITHDRAWN}),
        ApplicationState.COMPLETE: frozenset(
            {
                ApplicationState.RETURNED,
                ApplicationState.APPROVED,
                ApplicationState.REFUSED,
                ApplicationState.WITHDRAWN,
            }
        ),
        ApplicationState.APPROVED: frozenset(),
        ApplicationState.REFUSED: frozenset(),
        ApplicationState.WITHDRAWN: frozenset(),
    },
    MembershipState: {
        MembershipState.INVITED: frozenset({MembershipState.REQUESTED, MembershipState.ENDED}),
        MembershipState.REQUESTED: frozenset({MembershipState.ACTIVE, MembershipState.ENDED}),
        MembershipState.ACTIVE: frozenset({MembershipState.SUSPENDED, MembershipState.ENDED}),
        MembershipState.SUSPENDED: frozenset({MembershipState.ACTIVE, MembershipState.ENDED}),
        MembershipState.ENDED: frozenset({MembershipState.INVITED, MembershipState.REQUESTED}),
    },
    PermitState: {
        PermitState.DRAFT: frozenset({PermitState.APPROVED, PermitState.REVOKED}),
        PermitState.APPROVED: frozenset({PermitState.REVOKED, PermitState.SUPERSEDED}),
        PermitState.REVOKED: frozenset(),
        PermitState.SUPERSEDED: frozenset(),
    },
}

#: in which states something may begin; an approved application makes a permit that is approved at once
FIRST: dict[type[State], frozenset[State]] = {
    ProjectState: frozenset({ProjectState.DRAFT}),
    ApplicationState: frozenset({ApplicationState.DRAFT}),
    MembershipState: frozenset({MembershipState.INVITED, MembershipState.REQUESTED}),
    PermitState: frozenset({PermitState.DRAFT, PermitState.APPROVED}),
}


def check_transition(what: str, current: State, wanted: State) -> None:
    """Raises RefusedError where ``current`` may not become ``wanted``; ``what`` names the thing."""
    possible = TRANSITIONS[type(current)][current]
    if type(current) is not type(wanted) or wanted not in possible:
        allowed = " or ".join(f"'{state}'" for state in sorted(possible)) or "nothing else"
        told = f"{what} is '{current}' and cannot become '{wanted}'"
        raise RefusedError(told, hint=f"it can become {allowed}")


def printed_transitions() -> str:
    """The table in Markdown, as docs/governance.md holds it."""
    lines = ["| what | state | may become |", "|---|---|---|"]
    for kind, states in TRANSITIONS.items():
        name = kind.__name__.removesuffix("State").lower()
        for state in kind:
            becomes = ", ".join(f"`{one}`" for one in kind if one in states[state]) or "nothing"
            lines.append(f"| {name} | `{state}` | {becomes} |")
    return "\n".join(lines)


def printed_diagrams() -> str:
    """The same as pictures (Mermaid state diagrams), as docs/governance.md holds them."""
    pictures = []
    for kind, states in TRANSITIONS.items():
        lines = ["```mermaid", "---", f"title: {kind.__name__.removesuffix('State').lower()}", "---", "stateDiagram-v2"]
        lines += ["    direction LR"]
        lines += [f"    [*] --> {state}" for state in kind if state in FIRST[kind]]
        for state in kind:
            lines += [f"    {state} --> {one}" for one in kind if one in states[state]]
        lines += [f"    {state} --> [*]" for state in kind if not states[state]]
        pictures.append("\n".join([*lines, "```"]))
    return "\n\n".join(pictures)

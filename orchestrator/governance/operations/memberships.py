"""Operations: memberships, from an invitation or a request to the end."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, Field

from orchestrator.governance.operations.declared import Operation, Scope
from orchestrator.governance.operations.people import PersonId
from orchestrator.governance.states import MemberRole
from orchestrator.terms import Value

Slug = Annotated[str, Field(min_length=1, max_length=40)]


class Inviting(Value):
    """Whom to invite; the end is the project's where it is not given."""

    project: Slug
    person: PersonId
    role: MemberRole = MemberRole.MEMBER
    ends: AwareDatetime | None = None


class Asking(Value):
    """Who wants to be in the project: oneself, where nobody is named."""

    project: Slug
    person: PersonId | None = None
    role: MemberRole = MemberRole.MEMBER
    ends: AwareDatetime | None = None


class OneProject(Value):
    """One's own part in a project."""

    project: Slug


class OneMember(Value):
    """Somebody's membership."""

    project: Slug
    person: PersonId


class Admitting(OneMember):
    """Somebody's membership, and another end for it."""

    ends: AwareDatetime | None = None


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "member.invite",
        "POST",
        "/projects/{project}/invitations",
        "Invite somebody to a project",
        Scope.MEMBERS,
        Inviting,
        None,
        lambda governance, by, asked: governance.invite_member(by, asked.project, asked.person, asked.role, asked.ends),
    ),
    Operation(
        "member.accept",
        "POST",
        "/projects/{project}/invitations/accept",
        "Accept an invitation; an approval puts it into effect",
        Scope.MEMBERS,
        OneProject,
        None,
        lambda governance, by, asked: governance.accept_invitation(by, asked.project),
    ),
    Operation(
        "member.request",
        "POST",
        "/projects/{project}/members",
        "Ask for a membership",
        Scope.MEMBERS,
        Asking,
        None,
        lambda governance, by, asked: governance.request_membership(
            by, asked.project, by if asked.person is None else asked.person, asked.role, asked.ends
        ),
    ),
    Operation(
        "member.approve",
        "POST",
        "/projects/{project}/members/{person}/approve",
        "Admit a member or appoint a lead; with an end, also move one",
        Scope.MEMBERS,
        Admitting,
        None,
        lambda governance, by, asked: governance.approve_membership(by, asked.project, asked.person, asked.ends),
    ),
    Operation(
        "member.consent",
        "POST",
        "/projects/{project}/members/{person}/consent",
        "Agree to an external partner, beside the lead's approval",
        Scope.DECIDE,
        OneMember,
        None,
        lambda governance, by, asked: governance.consent_external(by, asked.project, asked.person),
    ),
    Operation(
        "member.confirm",
        "POST",
        "/projects/{project}/members/{person}/confirm",
        "Periodic review: say that somebody is still needed",
        Scope.MEMBERS,
        OneMember,
        None,
        lambda governance, by, asked: governance.confirm_membership(by, asked.project, asked.person),
    ),
    Operation(
        "member.suspend",
        "POST",
        "/projects/{project}/members/{person}/suspend",
        "Take a member's access away until it is approved again",
        Scope.MEMBERS,
        OneMember,
        None,
        lambda governance, by, asked: governance.suspend_membership(by, asked.project, asked.person),
    ),
    Operation(
        "member.end",
        "POST",
        "/projects/{project}/members/{person}/end",
        "Remove somebody at once, or turn a request down",
        Scope.MEMBERS,
        OneMember,
        None,
        lambda governance, by, asked: governance.end_membership(by, asked.project, asked.person),
    ),
    Operation(
        "member.leave",
        "POST",
        "/projects/{project}/leave",
        "Leave a project, or decline an invitation",
        Scope.MEMBERS,
        OneProject,
        None,
        lambda governance, by, asked: governance.leave_project(by, asked.project),
    ),
)

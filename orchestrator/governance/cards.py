"""What the authority tells about people and projects: the answers on its sockets."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from orchestrator.governance.states import (
    MemberRole,
    MembershipState,
    PermitState,
    PlatformRole,
    ProjectState,
)
from orchestrator.terms import PermitTerms, SessionId, Value

Text = str | dict[str, str]
"""A text, or one in several languages by code (``{"en": …, "fr": …}``)."""


class PersonCard(Value):
    """A person, and what they do for the deployment."""

    id: str
    subject: str
    display_name: str
    email: str
    disabled: bool
    roles: tuple[PlatformRole, ...]


class ColumnCard(Value):
    """A column that a permit shows. ``transform`` is readable, such as ``year`` or ``band 5``."""

    name: str
    role: str
    type: str
    description: Text
    transform: str | None


class TableCard(Value):
    """A table that a permit shows, and the conditions on its rows in readable form."""

    dataset: str
    table: str
    title: Text
    rows_filter: tuple[str, ...]
    columns: tuple[ColumnCard, ...]


class PermitCard(Value):
    """The approved permit of a project."""

    version: int
    valid_from: datetime
    valid_until: datetime
    tables: tuple[TableCard, ...]


class WhyNot(Value):
    """Why a workspace cannot be opened: ``code`` names the rule, and is stable."""

    code: str
    message: str


class ProjectCard(Value):
    """One of a person's projects, from that person's side."""

    slug: str
    title: str
    purpose: str
    role: MemberRole
    project_state: ProjectState
    membership_state: MembershipState
    membership_ends: datetime
    permit: PermitCard | None
    may_open: bool
    why_not: WhyNot | None


class DeploymentCard(Value):
    """What the portal shows of the deployment; with an embedded custodian it must warn."""

    deployment: str
    embedded_custodian: bool


class IssuedGrant(Value):
    """A signed grant, the session that it names, and when that session must be over."""

    grant: str
    session: SessionId
    ends_at: datetime


class Recorded(Value):
    """The number under which the audit log holds an event."""

    seq: int


class Person(Value):
    """What a login tells about a person (``PUT /v1/persons/{person}``)."""

    subject: Annotated[str, Field(max_length=255)]
    display_name: Annotated[str, Field(max_length=200)]
    email: Annotated[str, Field(max_length=254)] = ""


class GrantRequest(Value):
    """Who wants to open a workspace in which project (``POST /v1/grants``)."""

    person: Annotated[str, Field(max_length=64)]
    project: Annotated[str, Field(max_length=64)]


class ProjectRecord(Value):
    """A project as governance keeps it."""

    id: str
    slug: str
    title: str
    purpose: str
    state: ProjectState
    starts: datetime
    ends: datetime
    created_by: str


class MemberRecord(Value):
    """A membership as governance keeps it."""

    person: str
    display_name: str
    role: MemberRole
    state: MembershipState
    ends: datetime
    requested_by: str
    approved_by: str | None


class PermitRecord(Value):
    """A permit version as governance keeps it."""

    version: int
    state: PermitState
    terms: PermitTerms
    drafted_by: str
    drafted_at: datetime
    approved_by: str | None
    approved_at: datetime | None

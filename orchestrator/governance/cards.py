"""What the authority tells about people and projects: the answers on its sockets."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, FiniteFloat

from orchestrator.governance.states import (
    ApplicationKind,
    ApplicationState,
    MemberRole,
    MembershipState,
    PermitState,
    PlatformRole,
    ProjectState,
)
from orchestrator.terms import PermitTerms, RowCondition, SessionId, Value

Text = str | dict[str, str]
"""A text, or one in several languages by code (``{"en": …, "fr": …}``)."""


class TrainingCard(Value):
    """A training that a person declared; it counts once ``confirmed_by`` somebody else, until ``expires``."""

    id: int
    course: str
    evidence: str
    completed: datetime
    expires: datetime
    declared_at: datetime
    confirmed_by: str | None
    confirmed_at: datetime | None


class PersonCard(Value):
    """A person, and what they do for the deployment."""

    id: str
    subject: str
    display_name: str
    email: str
    disabled: bool
    roles: tuple[PlatformRole, ...]
    external: bool = False
    affiliation: str = ""
    gone: bool = False


class PersonProject(Value):
    """A project of a person's, as somebody else may see that they are in it."""

    slug: str
    title: str
    project_state: ProjectState
    role: MemberRole
    membership_state: MembershipState
    membership_ends: datetime


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
    #: until when the lead's last review counts; None where none is due yet
    review_due: datetime | None = None
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


class SessionNews(Value):
    """What a node agent told of a session since the authority's start (``GET /v1/sessions/{session}``)."""

    #: whether its isolation probe passed; None: it has not ended
    isolated: bool | None = None
    #: its view, home and project folder are open
    opened: bool = False
    #: why the node agent took its data away; None: it did not
    ended: str | None = None


class Person(Value):
    """What a login tells about a person (``PUT /v1/persons/{person}``)."""

    subject: Annotated[str, Field(max_length=255)]
    display_name: Annotated[str, Field(max_length=200)]
    email: Annotated[str, Field(max_length=254)] = ""
    #: those groups at the login provider that the settings give a role for
    groups: Annotated[tuple[Annotated[str, Field(max_length=255)], ...], Field(max_length=200)] = ()


class Groups(Value):
    """What fresh tokens tell about a person who is logged in (``PUT /v1/persons/{person}/groups``)."""

    groups: Annotated[tuple[Annotated[str, Field(max_length=255)], ...], Field(max_length=200)]


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
    lay_summary: str = ""
    legal_basis: str = ""
    outputs: str = ""
    conditions: str = ""
    closed_at: datetime | None = None
    retain_until: datetime | None = None
    archived_at: datetime | None = None
    #: days from closing to ``retain_until``, where the decision set others than the deployment's
    retain_days: int | None = None


class MemberRecord(Value):
    """A membership as governance keeps it."""

    person: str
    display_name: str
    role: MemberRole
    state: MembershipState
    ends: datetime
    requested_by: str
    approved_by: str | None
    external: bool = False
    affiliation: str = ""
    consented_by: str | None = None
    review_due: datetime | None = None
    #: until when the person's confirmed training counts, and the one they declared that waits
    training_until: datetime | None = None
    training_declared: TrainingCard | None = None
    terms_accepted: bool = False
    #: what the reader may do with this membership (:class:`orchestrator.governance.rules.Action`)
    may: tuple[str, ...] = ()


class PermitRecord(Value):
    """A permit version as governance keeps it."""

    version: int
    state: PermitState
    terms: PermitTerms
    drafted_by: str
    drafted_at: datetime
    approved_by: str | None
    approved_at: datetime | None
    #: what the reader may do with this version
    may: tuple[str, ...] = ()


class RequestedColumn(Value):
    """A column that an application asks for, and why."""

    name: Annotated[str, Field(max_length=63)]
    reason: Annotated[str, Field(max_length=1000)] = ""
    transform: Annotated[str, Field(max_length=20)] | None = None
    parameter: FiniteFloat | None = None


class RequestedTable(Value):
    """A table that an application asks for; ``rows`` as in a permit file."""

    dataset: Annotated[str, Field(max_length=40)]
    table: Annotated[str, Field(max_length=40)]
    columns: Annotated[tuple[RequestedColumn, ...], Field(max_length=1000)] = ()
    rows: Annotated[tuple[RowCondition, ...], Field(max_length=50)] = ()
    reason: Annotated[str, Field(max_length=2000)] = ""


class ApplicationContent(Value):
    """What an application says. A draft may lack anything; what is submitted is complete."""

    title: Annotated[str, Field(max_length=200)] = ""
    lay_summary: Annotated[str, Field(max_length=5000)] = ""
    purpose: Annotated[str, Field(max_length=5000)] = ""
    legal_basis: Annotated[str, Field(max_length=2000)] = ""
    outputs: Annotated[str, Field(max_length=5000)] = ""
    #: person ids; the lead stands for the whole project, the team is invited when it is approved
    lead: Annotated[str, Field(max_length=64)] = ""
    team: Annotated[tuple[Annotated[str, Field(max_length=64)], ...], Field(max_length=200)] = ()
    starts: AwareDatetime | None = None
    ends: AwareDatetime | None = None
    tables: Annotated[tuple[RequestedTable, ...], Field(max_length=50)] = ()


class ApplicationRecord(Value):
    """One version of an application. ``missing`` says what it lacks before it can be submitted."""

    id: str
    project: str
    number: int
    kind: ApplicationKind
    state: ApplicationState
    content: ApplicationContent
    drafted_by: str
    drafted_at: datetime
    submitted_by: str | None
    submitted_at: datetime | None
    checked_by: str | None
    decided_by: str | None
    decided_at: datetime | None
    conditions: str
    note: str
    permit_version: int | None
    missing: tuple[str, ...]
    #: what the reader may do with it
    may: tuple[str, ...]
    #: names the content exactly: given back as ``seen``, it keeps a decision from falling on what nobody looked at
    digest: str = ""
    #: display names of the people in it, for readers who may see them
    names: Mapping[str, str] = Field(default_factory=dict)


class ApplicationLine(Value):
    """An application in a list."""

    project: str
    number: int
    kind: ApplicationKind
    state: ApplicationState
    title: str
    drafted_by: str
    submitted_at: datetime | None


class ProjectLine(Value):
    """A project in a list for people in office."""

    slug: str
    title: str
    state: ProjectState
    starts: datetime
    ends: datetime
    #: display names of those who lead it now
    leads: tuple[str, ...]
    #: how many are in it now, leads included
    members: int


class ClosingDue(Value):
    """What the node agent does for a closed project: ``archive`` its folders read-only, or ``destroy`` its keys."""

    project_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    #: the slug
    project: str
    action: Literal["archive", "destroy"]
    #: everybody who ever had a membership: whose homes there may be
    persons: tuple[str, ...] = ()


class ClosingDone(Value):
    """What the node agent did for a closed project; ``keys`` (ids) and ``folders`` (names) are those destroyed."""

    done: Literal["archived", "destroyed"]
    keys: Annotated[tuple[str, ...], Field(max_length=5000)] = ()
    folders: Annotated[tuple[str, ...], Field(max_length=5000)] = ()


class ClosingReceipt(Value):
    """The authority's answer; with destroyed keys, the signed certificate."""

    certificate: str | None = None


class ProjectPage(Value):
    """A project as a reader may see it: everything but data."""

    project: ProjectRecord
    #: the reader's own card, where they are in it
    mine: ProjectCard | None
    permit: PermitCard | None
    members: tuple[MemberRecord, ...]
    permits: tuple[PermitRecord, ...]
    applications: tuple[ApplicationLine, ...]
    #: certificate of deletion, once the keys are destroyed
    certificate: str | None
    #: what the reader may do with the project
    may: tuple[str, ...]
    #: whether its time is over, and nobody closed it yet
    ended: bool = False
    #: when it then closes by itself; None while a renewal waits for its decision
    closes_at: datetime | None = None


class Waiting(Value):
    """One thing that waits for a person. ``kind`` is stable: see :mod:`orchestrator.governance.inbox`."""

    kind: str
    since: datetime
    project: str | None = None
    project_title: str | None = None
    #: whom it is about
    person: str | None = None
    person_name: str | None = None
    #: application number, permit version, or training
    number: int | None = None
    #: when it is too late
    due: datetime | None = None


class Account(Value):
    """A person's own account."""

    person: PersonCard
    terms_version: str
    #: the text, by language (Markdown)
    terms: dict[str, str]
    terms_accepted_at: datetime | None
    training_required: bool
    trainings: tuple[TrainingCard, ...]
    training_until: datetime | None


class PasskeyCard(Value):
    """A passkey of a person. ``usable``: vouched for, and not removed."""

    id: str
    name: str
    created_at: datetime
    vouched_by: str | None
    vouched_at: datetime | None
    removed_at: datetime | None
    usable: bool
    #: what two people compare to know that they mean the same one
    fingerprint: str


class DecisionWanted(Value):
    """Which decision a person is about to sign (``POST /v1/decisions``)."""

    by: Annotated[str, Field(max_length=64)]
    operation: Annotated[str, Field(max_length=60)]
    arguments: Annotated[dict[str, Any], Field(default_factory=dict)]


class PreparedDecision(Value):
    """What a person would sign (canonical JSON), and what their browser asks the passkey with.

    Both are None where they decide without a signature.
    """

    record: str | None
    options: dict[str, Any] | None


class TokenCard(Value):
    """An API token, without its secret."""

    id: str
    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires: datetime
    used_at: datetime | None
    revoked_at: datetime | None


class NewToken(Value):
    """A token that was just made: the one time that its secret is told."""

    card: TokenCard
    secret: str


class CatalogueEntry(Value):
    """A dataset in the catalogue: its description and columns, no row."""

    dataset: str
    title: Text
    description: Text
    version: int | str
    rows: int | None
    tables: tuple[TableCard, ...]
    #: slugs of the reader's projects whose permit names it
    used_in: tuple[str, ...]


class AuditLine(Value):
    """A record of the audit log."""

    seq: int
    time: datetime
    kind: str
    actor: str
    outcome: str
    person: str | None
    project: str | None
    session: str | None
    detail: dict[str, Any]


class AuditPage(Value):
    """Records of the audit log, newest first; ``before`` asks for the ones that follow."""

    records: tuple[AuditLine, ...]
    before: int | None


class UsageLine(Value):
    """Usage of a project and person (empty: the project's folder) in a month, and its cost."""

    project: str
    project_title: str
    person: str
    person_name: str
    hours: float
    cpu_hours: float
    memory_gb_hours: float
    storage_gb: float
    cost: Decimal


class UsagePage(Value):
    """Usage in one month, as far as the reader may see it."""

    month: str
    currency: str
    lines: tuple[UsageLine, ...]
    #: kind → limit, for a single project
    quotas: dict[str, float | None]
    #: kind → used this month
    used: dict[str, float]


Month = Annotated[str, Field(pattern=r"^[0-9]{4}-(?:0[1-9]|1[0-2])$")]
"""A calendar month in UTC, such as ``2026-11``."""

Amount = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)]


class SessionUsage(Value):
    """What a session used in one month, from its beginning until ``seen``: told again, it changes nothing."""

    session: SessionId
    month: Month
    project_id: Annotated[str, Field(max_length=32)]
    person: Annotated[str, Field(max_length=64)]
    began: AwareDatetime
    seen: AwareDatetime
    ended: AwareDatetime | None = None
    seconds: Amount = 0.0
    cpu_seconds: Amount = 0.0
    memory_gb_seconds: Amount = 0.0


class FolderSize(Value):
    """Bytes that an encrypted folder takes on the disk: a person's home, or (no person) the project's folder."""

    project_id: Annotated[str, Field(max_length=32)]
    person: Annotated[str, Field(max_length=64)] = ""
    bytes_used: Amount


class Machine(Value):
    """What a machine of workspaces has, and has left."""

    cpus: Amount
    load: Amount
    memory_total_gb: Amount
    memory_free_gb: Amount
    storage_total_gb: Amount
    storage_free_gb: Amount


class NodeReport(Value):
    """What the node agent measured (``POST /v1/usage``)."""

    machine: Machine
    #: of a cluster; empty on one machine
    node: Annotated[str, Field(max_length=253)] = ""
    sessions: Annotated[tuple[SessionUsage, ...], Field(max_length=1000)] = ()
    folders: Annotated[tuple[FolderSize, ...], Field(max_length=1000)] = ()


class NodeHealth(Value):
    """What the node agent last said of its machine; on a cluster, what all nodes have together."""

    heard_at: datetime | None
    sessions: int
    cpus: float
    load: float
    memory_total_gb: float
    memory_free_gb: float
    storage_total_gb: float
    storage_free_gb: float


class RunningSession(Value):
    """A workspace that runs, for administrators: whose, where and since when, nothing of what is in it."""

    session: str
    person: str
    project: str
    since: datetime


class Health(Value):
    """How the deployment does."""

    version: str
    node: NodeHealth
    sessions: tuple[RunningSession, ...]
    embedded_custodian: bool
    notices_unsent: int
    audit_records: int


class Notice(Value):
    """Something that a person is to be told; ``email`` is empty where they have none, or must not be told any more."""

    id: int
    kind: str
    person: str
    name: str
    email: str
    project: str | None
    project_title: str | None
    created_at: datetime
    detail: dict[str, Any]


class Told(Value):
    """Whether a notice went out."""

    sent: bool

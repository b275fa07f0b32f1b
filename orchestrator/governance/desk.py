"""What every change of governance has in common: facts, the rules' verdict, the audit log before the
commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session, aliased

from orchestrator.config import Policy, Signatures
from orchestrator.errors import (
    BulleError,
    InputError,
    NotFoundError,
    RefusedError,
    SecondPersonError,
    SettingsError,
)
from orchestrator.governance.access import ACCESS_RULES, AccessRule
from orchestrator.governance.identity import AUTHORITY, HUB, NODE, OPERATOR
from orchestrator.governance.lapsing import can_be_renewed, is_over
from orchestrator.governance.rules import TABLE, Action, Fact, Rule, Verdict, judge
from orchestrator.governance.signatures import Signing, two_people
from orchestrator.governance.states import (
    MemberRole,
    MembershipState,
    PermitState,
    PlatformRole,
    ProjectState,
)
from orchestrator.governance.store import (
    AppointmentRow,
    MembershipRow,
    PermitRow,
    PersonRow,
    ProjectRow,
    Store,
)
from orchestrator.terms import Event, Grant, Outcome, SignedDecision, TablePermit

_ROLE_FACTS = {
    PlatformRole.ADMINISTRATOR: Fact.ADMINISTRATOR,
    PlatformRole.CUSTODIAN: Fact.CUSTODIAN,
    PlatformRole.REVIEWER: Fact.REVIEWER,
    PlatformRole.AUDITOR: Fact.AUDITOR,
}


class Recorder(Protocol):
    """The audit log, as governance needs it."""

    def record(self, event: Event) -> int:
        """Write durably, or raise AuditError."""


class ColumnInfo(Protocol):
    """What a card shows of a column."""

    @property
    def name(self) -> str:
        """Name in the view."""

    @property
    def role(self) -> Any:
        """Role in the schema (text, or an enum of text)."""

    @property
    def type(self) -> Any:
        """Type in the schema (text, or an enum of text)."""

    @property
    def description(self) -> Any:
        """Text, or a mapping of language to text."""


class TableInfo(Protocol):
    """What a card shows of a table."""

    @property
    def title(self) -> Any:
        """Text, or a mapping of language to text."""

    @property
    def columns(self) -> Sequence[ColumnInfo]:
        """All columns of the table."""


class ListedTable(TableInfo, Protocol):
    """A table as the catalogue lists it."""

    @property
    def table(self) -> str:
        """Its name."""

    @property
    def version(self) -> int:
        """Version in force."""

    @property
    def rows(self) -> int:
        """How many rows it has."""

    @property
    def description(self) -> Any:
        """Text, or a mapping of language to text."""


class ListedDataset(Protocol):
    """A dataset as the catalogue lists it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def tables(self) -> Sequence[ListedTable]:
        """At least one."""


class Catalogue(Protocol):
    """The datasets that are there."""

    def datasets(self) -> Sequence[ListedDataset]:
        """All of them, by name."""

    def check(self, tables: Sequence[TablePermit], /) -> None:
        """Raises InputError where a dataset, table, column, condition or transform does not exist or fit."""

    def table(self, dataset: str, table: str, /) -> TableInfo:
        """Raises NotFoundError where there is none."""


@dataclass
class Change:
    """A change under way; what is set here is what the audit log says of it."""

    by: str
    action: Action
    now: datetime
    session: Session
    person: str | None = None
    project: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    #: who else decided, and the decision's signature: told in the log besides ``detail``
    seals: dict[str, Any] = field(default_factory=dict)
    #: set by ``_decide`` where the change is to be signed first: a question, and no attempt that the log tells of
    unsigned: bool = False
    #: set by ``_decide`` where the change waits for a second person
    first: Any = None

    def event(self, outcome: Outcome, reason: str | None = None) -> Event:
        """The audit event of this change."""
        detail = {**self.detail, **self.seals}
        if reason is not None:
            detail["reason"] = reason[:1000]
        return Event(
            kind=str(self.action),
            actor=self.by,
            outcome=outcome,
            person=self.person,
            project=self.project,
            detail=detail,
        )


class Desk:
    """Base of the parts of :class:`orchestrator.governance.service.Governance`."""

    def __init__(
        self,
        store: Store,
        audit: Recorder,
        clock: Callable[[], datetime],
        catalogue: Catalogue,
        policy: Policy | None = None,
        *,
        tells: bool = False,
        signing: Signing | None = None,
        rules: Mapping[Action, Rule] = TABLE,
        access_rules: Sequence[AccessRule] = ACCESS_RULES,
    ) -> None:
        self._store = store
        self._audit = audit
        self._clock = clock
        self._catalogue = catalogue
        self._policy = policy or Policy()
        self._two_person = two_people(self._policy)
        self._signing = signing
        if self._policy.signatures is not Signatures.OFF:
            if signing is None:
                raise SettingsError("governance.signatures: where passkeys are used is not known")
            signing.check()
        self._tells = tells
        self._rules = rules
        self._access_rules = access_rules

    @property
    def audit(self) -> Recorder:
        """The audit log that every change is written to."""
        return self._audit

    def now(self) -> datetime:
        """The moment, by the clock that all rules are judged with."""
        return self._clock()

    @contextmanager
    def _change(
        self, by: str, action: Action, *, person: str | None = None, project: str | None = None, **detail: Any
    ) -> Iterator[Change]:
        """A transaction around one change.

        The log says ``started`` before the commit, so no change is ever without its record: if it cannot be
        written, nothing changes. Then it says ``done``, or ``failed`` if the store did not commit. A change
        that a rule forbids is ``refused`` there. Shown by tests/unit/governance/test_audited.py.
        """
        started, change = False, None
        try:
            with self._store.write() as session:
                change = Change(by, action, self._clock(), session, person, project, detail)
                try:
                    yield change
                except NotFoundError:
                    # Stops: somebody who tries names and tells by the answer which studies there are, and who is in
                    # them. Who may not is refused in the same words. Shown by tests/unit/portal/test_every_route.py.
                    wanted = select(ProjectRow).where(ProjectRow.slug == (change.project or ""))
                    self._judge(change, session.scalars(wanted).first())
                    raise
                self._stop_a_rehearsal()
                session.flush()
                self._tell(change)
                self._audit.record(change.event(Outcome.STARTED))
                started = True
                session.commit()
        except SecondPersonError:
            if change is not None:
                self._endorse(change)
            raise
        except RefusedError as error:
            if change is not None and not change.unsigned:
                self._audit.record(change.event(Outcome.REFUSED, error.message))
            raise
        except BulleError as error:
            if change is not None and started:
                self._audit.record(change.event(Outcome.FAILED, error.message))
            raise
        self._audit.record(change.event(Outcome.DONE))

    def _judge(self, change: Change, project: ProjectRow | None = None, *extra: Fact) -> None:
        """Raises RefusedError where the rules forbid the change to who makes it."""
        self._verdict_on(
            change.session, change.by, change.action, change.now, change.person, project, *extra
        ).raise_if_refused()

    def _tell(self, change: Change) -> None:
        """Add what people are told of a change (:mod:`orchestrator.governance.notices`)."""

    def _becomes(self, change: Change, action: Action, project: ProjectRow) -> None:
        """The change turns out to be another ``action``, by what it is about; to be judged as that.

        Stops: a stranger to the project who tells by which of the two is refused who leads it or how it stands.
        Shown by tests/unit/portal/test_every_route.py.
        """
        told = self._may_read(change.session, change.by, Action.PROJECT_READ, project=project)
        if not told and change.person != change.by:
            self._judge(change, project)
        change.action = action

    def _decide(self, change: Change, project: ProjectRow | None = None, **content: Any) -> None:
        """Call in every action of :data:`~orchestrator.governance.rules.DECISIONS` after all its checks, before the
        first change: asks for the second person and the signature where the deployment wants them.

        ``content`` says what exactly is put into effect, in JSON's types: whoever signs, signs that. It must be the
        same whenever the same is decided, so nothing in it may be made of the moment or of chance.

        Raises:
            SignatureError: it must be signed, and is not.
            SecondPersonError: it waits for a second person; nothing but that is kept.
        """
        raise NotImplementedError  # :class:`orchestrator.governance.decisions.Decisions`

    def _endorse(self, change: Change) -> None:
        """Keep that one of two people decided ``change``, which itself was undone."""
        raise NotImplementedError

    def _chain(self, session: Session, grant: Grant) -> tuple[SignedDecision, ...]:
        """The signed decisions that a grant rests on, where the deployment requires them."""
        raise NotImplementedError

    def _stop_a_rehearsal(self) -> None:
        """Where a change is only rehearsed, end it here, before anything is kept."""
        raise NotImplementedError

    def _may_read(
        self,
        session: Session,
        by: str,
        action: Action,
        *,
        person: str | None = None,
        project: ProjectRow | None = None,
        extra: Iterable[Fact] = (),
    ) -> bool:
        """Whether the rules let ``by`` read this, now."""
        return self._verdict_on(session, by, action, self._clock(), person, project, *extra).allowed

    def _judge_read(
        self,
        session: Session,
        by: str,
        action: Action,
        *,
        person: str | None = None,
        project: ProjectRow | None = None,
        extra: Iterable[Fact] = (),
    ) -> None:
        """Raises RefusedError where the rules forbid ``by`` to read this."""
        self._verdict_on(session, by, action, self._clock(), person, project, *extra).raise_if_refused()

    def _verdict_on(  # noqa: PLR0917 - called from here only
        self,
        session: Session,
        by: str,
        action: Action,
        now: datetime,
        person: str | None,
        project: ProjectRow | None,
        *extra: Fact,
    ) -> Verdict:
        return judge(action, self._facts(session, by, now, person, project) | set(extra), self._rules)

    def _facts(
        self, session: Session, by: str, now: datetime, person: str | None = None, project: ProjectRow | None = None
    ) -> set[Fact]:
        """What the rules know of ``by``, towards ``person`` and in ``project``. Raises RefusedError for a stranger."""
        facts = _facts_of_actor(session, by)
        if person is not None:
            facts |= _facts_about(session, by, person, now)
        if project is not None:
            facts |= _facts_in_project(session, project, by, person, now)
            if self._led_until_the_end(session, project, by, now):
                facts.add(Fact.PAST_LEAD)
        return facts

    def _led_until_the_end(self, session: Session, project: ProjectRow, by: str, now: datetime) -> bool:
        """Whether ``by`` led the project until its time ran out, which can still be renewed."""
        if not is_over(project, now):
            return False
        mine = membership_of(session, project, by)
        # Stops: somebody whose lead ended, by a day or a decision, before the project did, and who would come back in.
        # Shown by tests/unit/governance/test_lapsing.py.
        if mine is None or (mine.role, mine.state) != (MemberRole.LEAD, MembershipState.ACTIVE):
            return False
        return mine.ends >= project.ends and can_be_renewed(session, project, self._policy.closing_days, now)


#: parts of the platform that act by themselves, and the fact that holds of each
PARTS = {OPERATOR: Fact.OPERATOR, HUB: Fact.HUB, NODE: Fact.NODE, AUTHORITY: Fact.AUTHORITY}


def _facts_of_actor(session: Session, by: str) -> set[Fact]:
    if by in PARTS:
        return {PARTS[by]}
    actor = session.get(PersonRow, by)
    if actor is None:
        raise RefusedError(f"'{by}' is not a person known here")
    facts = {Fact.PERSON, *(_ROLE_FACTS[row.role] for row in actor.roles)}
    if actor.disabled:
        facts.add(Fact.DISABLED)
    return facts


# Made once: an alias costs as much as the query that it is for.
_MINE, _THEIRS = aliased(MembershipRow), aliased(MembershipRow)


def _facts_about(session: Session, by: str, person: str, now: datetime) -> set[Fact]:
    facts: set[Fact] = set()
    if person == by:
        facts.add(Fact.SELF)
    subject = session.get(PersonRow, person)
    if subject is not None and subject.disabled:
        facts.add(Fact.FOR_DISABLED)
    leads = (
        select(_MINE.id)
        .join(_THEIRS, _THEIRS.project_id == _MINE.project_id)
        .join(ProjectRow, ProjectRow.id == _MINE.project_id)
        .where(
            _MINE.person_id == by,
            _MINE.role == MemberRole.LEAD,
            _MINE.state == MembershipState.ACTIVE,
            _MINE.ends > now,
            _THEIRS.person_id == person,
            # As _takes_part: inviting somebody must not open their account to whoever invites.
            or_(
                _THEIRS.state.in_((MembershipState.ACTIVE, MembershipState.SUSPENDED)),
                and_(_THEIRS.state == MembershipState.REQUESTED, _THEIRS.requested_by == _THEIRS.person_id),
            ),
            ProjectRow.state.in_((ProjectState.ACTIVE, ProjectState.SUSPENDED)),
        )
    )
    if session.scalars(leads.limit(1)).first() is not None:
        facts.add(Fact.MEMBERS_LEAD)
    return facts


def _facts_in_project(session: Session, project: ProjectRow, by: str, subject: str | None, now: datetime) -> set[Fact]:
    facts: set[Fact] = set()
    mine = membership_of(session, project, by)
    if mine is not None and _takes_part(mine):
        facts.add(Fact.INVOLVED)
        if mine.state is MembershipState.ACTIVE and now < mine.ends:
            facts.add(Fact.LEAD if mine.role is MemberRole.LEAD else Fact.MEMBER)
            if mine.role is MemberRole.LEAD and not _other_lead(session, project, by, now):
                facts.add(Fact.LAST_LEAD)
    if subject is not None:
        approved = select(PermitRow.id).where(PermitRow.project_id == project.id, PermitRow.approved_by == subject)
        if session.scalars(approved.limit(1)).first() is not None:
            facts.add(Fact.FOR_PERMIT_APPROVER)
        appointed = select(AppointmentRow.id).where(
            AppointmentRow.project_id == project.id, AppointmentRow.appointed_by == subject
        )
        if session.scalars(appointed.limit(1)).first() is not None:
            facts.add(Fact.FOR_LEAD_APPOINTER)
    return facts


def _takes_part(row: MembershipRow) -> bool:
    """Whether the person is in the project, or asked to be."""
    # Stops: a lead who chooses the custodian by inviting or proposing all others out of their office. Who is proposed
    # without their doing and then approves a permit can never be admitted: that is a rule of its own.
    # Shown by tests/unit/governance/test_memberships.py.
    asked = row.state is MembershipState.REQUESTED and row.requested_by == row.person_id
    return asked or row.state in (MembershipState.ACTIVE, MembershipState.SUSPENDED)


def _other_lead(session: Session, project: ProjectRow, person: str, now: datetime) -> bool:
    """Whether somebody besides ``person`` leads the project now."""
    wanted = select(MembershipRow.id).where(
        MembershipRow.project_id == project.id,
        MembershipRow.person_id != person,
        MembershipRow.role == MemberRole.LEAD,
        MembershipRow.state == MembershipState.ACTIVE,
        MembershipRow.ends > now,
    )
    return session.scalars(wanted.limit(1)).first() is not None


def person_named(session: Session, person: str) -> PersonRow:
    """The person's row. Raises NotFoundError."""
    row = session.get(PersonRow, person)
    if row is None:
        raise NotFoundError(f"there is no person '{person}'")
    return row


def project_named(session: Session, slug: str, *, open_only: bool = False) -> ProjectRow:
    """The project's row. Raises NotFoundError, and with ``open_only`` RefusedError where it is closed."""
    row = session.scalars(select(ProjectRow).where(ProjectRow.slug == slug)).first()
    if row is None:
        raise NotFoundError(f"there is no project '{slug}'")
    if open_only and row.state in (ProjectState.CLOSED, ProjectState.DELETED):
        raise RefusedError(f"project '{slug}' is closed", hint="begin a new project")
    return row


def membership_of(session: Session, project: ProjectRow, person: str) -> MembershipRow | None:
    """The person's membership row in the project."""
    wanted = select(MembershipRow).where(MembershipRow.project_id == project.id, MembershipRow.person_id == person)
    return session.scalars(wanted).first()


def approved_permit(session: Session, project_id: str) -> PermitRow | None:
    """The one approved permit version of a project."""
    wanted = select(PermitRow).where(PermitRow.project_id == project_id, PermitRow.state == PermitState.APPROVED)
    return session.scalars(wanted).first()


def checked_text(what: str, text: str, longest: int) -> str:
    """``text`` without surrounding space. Raises InputError where it is empty, too long or has control
    characters.
    """
    text = text.replace("\r\n", "\n").strip()  # as a browser sends the lines of a text
    if not text or len(text) > longest:
        raise InputError(f"{what} must have 1 to {longest} characters; got {len(text)}")
    if any(ord(char) < 32 and char != "\n" for char in text):
        raise InputError(f"{what} must not have control characters")
    return text

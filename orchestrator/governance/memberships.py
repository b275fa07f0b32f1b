"""Memberships: who is in a project, from an invitation or a request to the end."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from orchestrator.errors import ConflictError, InputError, NotFoundError, RefusedError
from orchestrator.governance.accounts import confirm, training_card
from orchestrator.governance.cards import MemberRecord
from orchestrator.governance.desk import Change, Desk, membership_of, person_named, project_named
from orchestrator.governance.rules import Action, Fact, judge
from orchestrator.governance.states import TRANSITIONS, MemberRole, MembershipState, ProjectState, check_transition
from orchestrator.governance.store import (
    AcceptanceRow,
    AppointmentRow,
    MembershipRow,
    PermitRow,
    PersonRow,
    ProjectRow,
    TrainingRow,
)

_OPEN = (ProjectState.DRAFT, ProjectState.ACTIVE, ProjectState.SUSPENDED)


def checked_ends(ends: datetime, project: ProjectRow, now: datetime) -> datetime:
    """``ends``, if a membership of the project may end then. Raises InputError."""
    if ends > project.ends:
        bound = f"{project.ends:%Y-%m-%d %H:%M}"
        raise InputError(f"a membership of '{project.slug}' ends by {bound}; got {ends:%Y-%m-%d %H:%M}")
    if ends <= now:
        raise InputError(f"a membership must end in the future; got {ends:%Y-%m-%d %H:%M}")
    return ends


class Memberships(Desk):
    """Part of Governance: memberships."""

    def members(self, slug: str) -> list[MemberRecord]:
        """All memberships of a project, also those that ended, by person; for the machine's operator."""
        with self._store.read() as session:
            return [record for record, _ in self._member_records(session, project_named(session, slug))]

    def request_membership(
        self,
        by: str,
        slug: str,
        person: str,
        role: MemberRole = MemberRole.MEMBER,
        ends: datetime | None = None,
    ) -> None:
        """Ask for a membership, for oneself or (lead, custodian) for somebody else.

        ``ends`` is the project's end where it is not given.
        """
        self._begin(by, Action.MEMBER_REQUEST, slug, person, MembershipState.REQUESTED, role, ends)

    def invite_member(
        self,
        by: str,
        slug: str,
        person: str,
        role: MemberRole = MemberRole.MEMBER,
        ends: datetime | None = None,
    ) -> None:
        """Invite somebody (lead, custodian). It is theirs to accept, and still needs an approval."""
        self._begin(by, Action.MEMBER_INVITE, slug, person, MembershipState.INVITED, role, ends)

    def _begin(  # noqa: PLR0917 - called from here only
        self,
        by: str,
        action: Action,
        slug: str,
        person: str,
        state: MembershipState,
        role: MemberRole,
        ends: datetime | None,
    ) -> None:
        with self._change(by, action, person=person, project=slug, role=str(role)) as change:
            project = project_named(change.session, slug, open_only=True)
            person_named(change.session, person)
            self._judge(change, project)
            ends = checked_ends(ends or project.ends, project, change.now)
            row = membership_of(change.session, project, person)
            if row is None:
                change.session.add(requested(change, project, person, role, ends, state))
                return
            if row.state is not MembershipState.ENDED:
                hint = f"bulle member accept {slug}" if row.state is MembershipState.INVITED else None
                raise ConflictError(f"'{person}' is in '{slug}' already: {row.role}, {row.state}", hint=hint)
            check_transition(f"membership of '{person}'", row.state, state)
            # Nothing of the membership that ended counts in the new one.
            row.role, row.state, row.ends = role, state, ends
            row.requested_by, row.changed_at = by, change.now
            row.approved_by = row.consented_by = row.confirmed_by = row.review_due = None

    def accept_invitation(self, by: str, slug: str) -> None:
        """Accept an invitation; a lead's approval (a custodian's, to become a lead) then puts it into effect."""
        with self._change(by, Action.MEMBER_ACCEPT, person=by, project=slug) as change:
            project, row = self._own_membership(change, slug)
            self._judge(change, project)
            if row.state is not MembershipState.INVITED:
                raise ConflictError(f"there is no invitation to accept: the membership is {row.state}")
            check_transition(f"membership of '{by}'", row.state, MembershipState.REQUESTED)
            checked_ends(row.ends, project, change.now)
            # From now on it is the person's own wish; who invited them is in the audit log.
            row.state, row.requested_by, row.changed_at = MembershipState.REQUESTED, by, change.now

    def approve_membership(self, by: str, slug: str, person: str, ends: datetime | None = None) -> None:
        """Admit a member (the lead) or appoint a further lead (a custodian), also after a suspension.

        The person must have accepted the terms in force, and have a training in force or a declared one: approving
        confirms that one, so who approves has looked at its proof. With ``ends``, the end of an active membership is
        moved.

        Raises:
            RefusedError: the rules forbid it, or the person lacks terms or training.
        """
        with self._change(by, Action.MEMBER_APPROVE, person=person, project=slug) as change:
            project, row = self._membership(change, slug, person)
            if row.role is MemberRole.LEAD:
                self._becomes(change, Action.LEAD_APPOINT, project)
            self._judge(change, project)
            if project.state is ProjectState.DRAFT:
                raise RefusedError(f"project '{slug}' is a draft", hint=f"bulle project activate {slug}")
            training = None
            if row.state is not MembershipState.ACTIVE or ends is None:
                check_transition(f"membership of '{person}'", row.state, MembershipState.ACTIVE)
                training = self._check_ready(change, person)
            until = checked_ends(ends or row.ends, project, change.now)
            change.detail = {"role": str(row.role), "ends": until.isoformat()}
            self._decide(change, project, role=str(row.role), ends=until.isoformat())
            if training is not None:
                confirm(change, training)
                change.detail["training"] = training.id
            row.ends = until
            admit(change, row, self._policy.review_days)

    def _check_ready(self, change: Change, person: str) -> TrainingRow | None:
        """Raises RefusedError where terms or training are missing; the training that approving would confirm."""
        session, version = change.session, self._policy.terms.version
        if session.get(AcceptanceRow, (person, version)) is None:
            told = f"'{person}' has not accepted the terms of use in force (version {version})"
            raise RefusedError(f"refused by rule terms-not-accepted: {told}", hint="they accept them in their account")
        if not self._policy.training_required:
            return None
        wanted = select(TrainingRow).where(TrainingRow.person_id == person, TrainingRow.expires > change.now)
        confirmed = wanted.where(TrainingRow.confirmed_by.is_not(None))
        if session.scalars(confirmed.limit(1)).first() is not None:
            return None
        declared = session.scalars(wanted.order_by(TrainingRow.expires.desc(), TrainingRow.id.desc()).limit(1)).first()
        if declared is None:
            told = f"'{person}' has no training in force, and declared none"
            raise RefusedError(f"refused by rule no-training: {told}", hint="they declare it in their account")
        return declared

    def consent_external(self, by: str, slug: str, person: str) -> None:
        """Agree to an external partner (a custodian); needed beside the lead's approval, before it or after."""
        with self._change(by, Action.MEMBER_CONSENT, person=person, project=slug) as change:
            project, row = self._membership(change, slug, person)
            self._judge(change, project)
            who = person_named(change.session, person)
            if not who.external:
                raise ConflictError(f"'{person}' is not an external partner: the lead's approval is enough")
            if row.state is MembershipState.ENDED:
                raise ConflictError(f"the membership of '{person}' in '{slug}' has ended")
            if row.consented_by is not None:
                raise ConflictError(f"{row.consented_by} has agreed to '{person}' already")
            change.detail = {"affiliation": who.affiliation}
            self._decide(change, project, affiliation=who.affiliation)
            row.consented_by, row.changed_at = by, change.now

    def confirm_membership(self, by: str, slug: str, person: str) -> None:
        """The periodic review: say that a member (the lead) or a lead (a custodian) is still needed.

        Counts anew from today. One that lapsed for want of a review is in force again; one that ended is not.
        """
        with self._change(by, Action.MEMBER_CONFIRM, person=person, project=slug) as change:
            project, row = self._membership(change, slug, person)
            if row.role is MemberRole.LEAD:
                self._becomes(change, Action.LEAD_CONFIRM, project)
            self._judge(change, project)
            if row.state is not MembershipState.ACTIVE or row.ends <= change.now:
                told = row.state if row.state is not MembershipState.ACTIVE else "over"
                raise ConflictError(f"only an active membership is confirmed; that of '{person}' is {told}")
            row.review_due = review_due(change.now, row.ends, self._policy.review_days)
            row.confirmed_by = by

    def suspend_membership(self, by: str, slug: str, person: str) -> None:
        """Take a member's access away until it is approved again."""
        with self._change(by, Action.MEMBER_SUSPEND, person=person, project=slug) as change:
            project, row = self._membership(change, slug, person, open_only=False)
            self._judge(change, project)
            check_transition(f"membership of '{person}'", row.state, MembershipState.SUSPENDED)
            row.state, row.changed_at = MembershipState.SUSPENDED, change.now

    def end_membership(self, by: str, slug: str, person: str) -> None:
        """End somebody's membership at once, or turn a request down."""
        with self._change(by, Action.MEMBER_END, person=person, project=slug) as change:
            project, row = self._membership(change, slug, person, open_only=False)
            self._judge(change, project)
            _end(change, row)

    def leave_project(self, by: str, slug: str) -> None:
        """End one's own membership, or decline an invitation. The last lead asks a custodian."""
        with self._change(by, Action.MEMBER_LEAVE, person=by, project=slug) as change:
            project, row = self._own_membership(change, slug)
            self._judge(change, project)
            _end(change, row)

    def _membership(
        self, change: Change, slug: str, person: str, *, open_only: bool = True
    ) -> tuple[ProjectRow, MembershipRow]:
        project = project_named(change.session, slug, open_only=open_only)
        row = membership_of(change.session, project, person)
        if row is None:
            raise NotFoundError(f"'{person}' has no membership of '{slug}'", hint="request it first")
        return project, row

    def _own_membership(self, change: Change, slug: str) -> tuple[ProjectRow, MembershipRow]:
        wanted = (
            select(ProjectRow, MembershipRow)
            .join(MembershipRow, MembershipRow.project_id == ProjectRow.id)
            .where(ProjectRow.slug == slug, MembershipRow.person_id == change.by)
        )
        found = change.session.execute(wanted).first()
        if found is None:  # in the same words for a project that is not there
            raise NotFoundError(f"you have no part in a project '{slug}'")
        return found[0], found[1]

    # -- what is told of the members --------------------------------------------------------------------
    def _members_for(self, session: Session, project: ProjectRow, by: str) -> tuple[MemberRecord, ...]:
        """The project's members as ``by`` may see them, each with what ``by`` may do, in a fixed number of queries.

        Only who may read a person sees their terms and training, and plain members do not see who left. Whether
        ``by`` may read the project at all is the caller's to ask.
        """
        now = self._clock()
        facts = self._facts(session, by, now, project=project)
        approvers = set(session.scalars(select(PermitRow.approved_by).where(PermitRow.project_id == project.id)))
        appointers = set(
            session.scalars(select(AppointmentRow.appointed_by).where(AppointmentRow.project_id == project.id))
        )
        told = []
        for record, disabled in self._member_records(session, project):
            mine = set(facts)
            if record.person == by:
                mine.add(Fact.SELF)
            if disabled:
                mine.add(Fact.FOR_DISABLED)
            if record.person in approvers:
                mine.add(Fact.FOR_PERMIT_APPROVER)
            if record.person in appointers:
                mine.add(Fact.FOR_LEAD_APPOINTER)
            if Fact.LEAD in facts and _counts_for_lead(record, project):
                mine.add(Fact.MEMBERS_LEAD)
            # A lead has to see the training of whom they are asked to admit.
            reads = Fact.LEAD in mine or judge(Action.PERSON_READ, mine, self._rules).allowed
            if record.state is MembershipState.ENDED and not reads:
                continue
            may = tuple(self._may_with(record, project, mine, now))
            private = {} if reads else {"training_until": None, "training_declared": None, "terms_accepted": False}
            told.append(record.model_copy(update={"may": may, **private}))
        return tuple(told)

    def _may_with(self, record: MemberRecord, project: ProjectRow, facts: set[Fact], now: datetime) -> Iterable[str]:
        """The operations on this membership that would not be refused by rule or state."""
        lead = record.role is MemberRole.LEAD
        becomes = TRANSITIONS[MembershipState][record.state]
        open_ = project.state in _OPEN
        active = record.state is MembershipState.ACTIVE and now < record.ends

        def allowed(action: Action) -> bool:
            return judge(action, facts, self._rules).allowed

        if open_ and record.state is MembershipState.INVITED and allowed(Action.MEMBER_ACCEPT):
            yield Action.MEMBER_ACCEPT
        if (
            project.state in (ProjectState.ACTIVE, ProjectState.SUSPENDED)
            and (MembershipState.ACTIVE in becomes or record.state is MembershipState.ACTIVE)
            and allowed(Action.LEAD_APPOINT if lead else Action.MEMBER_APPROVE)
        ):
            yield Action.MEMBER_APPROVE
        if (
            open_
            and record.external
            and record.consented_by is None
            and record.state is not MembershipState.ENDED
            and allowed(Action.MEMBER_CONSENT)
        ):
            yield Action.MEMBER_CONSENT
        if open_ and active and allowed(Action.LEAD_CONFIRM if lead else Action.MEMBER_CONFIRM):
            yield Action.MEMBER_CONFIRM
        if record.training_declared is not None and allowed(Action.TRAINING_CONFIRM):
            yield Action.TRAINING_CONFIRM
        if MembershipState.SUSPENDED in becomes and allowed(Action.MEMBER_SUSPEND):
            yield Action.MEMBER_SUSPEND
        if MembershipState.ENDED in becomes:
            yield from (action for action in (Action.MEMBER_LEAVE, Action.MEMBER_END) if allowed(action))

    def _member_records(self, session: Session, project: ProjectRow) -> list[tuple[MemberRecord, bool]]:
        """Each membership of a project, and whether its person is disabled; two queries, however many there are."""
        now, version = self._clock(), self._policy.terms.version
        trained = (
            select(func.max(TrainingRow.expires))
            .where(TrainingRow.person_id == PersonRow.id, TrainingRow.confirmed_by.is_not(None))
            .scalar_subquery()
        )
        accepted = (AcceptanceRow.person_id == PersonRow.id) & (AcceptanceRow.version == version)
        wanted = (
            select(MembershipRow, PersonRow, trained, AcceptanceRow.accepted_at)
            .join(PersonRow, PersonRow.id == MembershipRow.person_id)
            .outerjoin(AcceptanceRow, accepted)
            .where(MembershipRow.project_id == project.id)
            .order_by(MembershipRow.person_id)
        )
        waiting = (
            select(TrainingRow)
            .join(MembershipRow, MembershipRow.person_id == TrainingRow.person_id)
            .where(MembershipRow.project_id == project.id)
            .where(TrainingRow.confirmed_by.is_(None), TrainingRow.expires > now)
            .order_by(TrainingRow.expires, TrainingRow.id)
        )
        declared = {row.person_id: training_card(row) for row in session.scalars(waiting)}
        return [
            (
                MemberRecord(
                    person=row.person_id,
                    display_name=person.display_name,
                    role=row.role,
                    state=row.state,
                    ends=row.ends,
                    requested_by=row.requested_by,
                    approved_by=row.approved_by,
                    external=person.external,
                    affiliation=person.affiliation,
                    consented_by=row.consented_by,
                    review_due=row.review_due,
                    training_until=until,
                    training_declared=declared.get(row.person_id),
                    terms_accepted=accepted_at is not None,
                ),
                person.disabled,
            )
            for row, person, until, accepted_at in session.execute(wanted)
        ]


def _counts_for_lead(record: MemberRecord, project: ProjectRow) -> bool:
    """Whether a lead of the project is, to this person, a lead of a project that they are in or asked to be in."""
    asked = record.state is MembershipState.REQUESTED and record.requested_by == record.person
    there = asked or record.state in (MembershipState.ACTIVE, MembershipState.SUSPENDED)
    return there and project.state in (ProjectState.ACTIVE, ProjectState.SUSPENDED)


def requested(  # noqa: PLR0917 - what a membership is made of
    change: Change,
    project: ProjectRow,
    person: str,
    role: MemberRole,
    ends: datetime,
    state: MembershipState = MembershipState.REQUESTED,
) -> MembershipRow:
    """A membership that somebody asks for, or is invited to; the caller adds it."""
    return MembershipRow(
        project_id=project.id,
        person_id=person,
        role=role,
        state=state,
        ends=ends,
        requested_by=change.by,
        changed_at=change.now,
    )


def review_due(now: datetime, ends: datetime, review_days: int) -> datetime:
    """Until when a review of today counts: at most to the membership's end."""
    return min(now + timedelta(days=review_days), ends)


def admit(change: Change, row: MembershipRow, review_days: int) -> None:
    """Put a membership into effect; an appointed lead is remembered for good."""
    row.state, row.approved_by, row.changed_at = MembershipState.ACTIVE, change.by, change.now
    row.review_due, row.confirmed_by = review_due(change.now, row.ends, review_days), change.by
    if row.role is MemberRole.LEAD:
        change.session.add(
            AppointmentRow(
                project_id=row.project_id, lead=row.person_id, appointed_by=change.by, appointed_at=change.now
            )
        )


def _end(change: Change, row: MembershipRow) -> None:
    check_transition(f"membership of '{row.person_id}'", row.state, MembershipState.ENDED)
    row.state, row.changed_at = MembershipState.ENDED, change.now
    # A custodian agreed to this membership, not to whatever the person comes back with.
    row.consented_by = None

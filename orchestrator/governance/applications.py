"""Applications: for a project, an amendment, a renewal. Written by who applies, checked and decided by custodians.

What is decided is what was submitted: content can be edited only before it is submitted and after it was returned,
and content that was submitted anew must be checked anew.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from orchestrator.errors import ConflictError, InputError, NotFoundError, RefusedError
from orchestrator.governance.cards import ApplicationContent, ApplicationRecord
from orchestrator.governance.completeness import Circumstances, checked_content, missing, named, permitted
from orchestrator.governance.desk import Change, Desk, checked_text
from orchestrator.governance.in_force import appoint, content_of, in_force, invite, put_permit, put_project
from orchestrator.governance.lapsing import is_over
from orchestrator.governance.permits import made_terms, next_version
from orchestrator.governance.projects import (
    OPEN,
    UNDECIDED,
    add_project,
    checked_slug,
    close,
    project_sought,
    undecided_application,
)
from orchestrator.governance.rules import Action, Fact, judge
from orchestrator.governance.signatures import canonical, digest, terms_digest
from orchestrator.governance.states import (
    TRANSITIONS,
    ApplicationKind,
    ApplicationState,
    MembershipState,
    ProjectState,
    check_transition,
)
from orchestrator.governance.store import (
    ApplicationRow,
    AppointmentRow,
    MembershipRow,
    PersonRow,
    ProjectRow,
)

#: how many new projects one person may apply for in a day, besides those that are not decided yet
MOST_NEW = 20
#: the longest retention that a decision may set: 100 years
MOST_DAYS = 36_500

EDITABLE = frozenset({ApplicationState.DRAFT, ApplicationState.RETURNED})

#: what each action makes of an application
BECOMES = {
    Action.APPLICATION_SUBMIT: ApplicationState.SUBMITTED,
    Action.APPLICATION_WITHDRAW: ApplicationState.WITHDRAWN,
    Action.APPLICATION_RETURN: ApplicationState.RETURNED,
    Action.APPLICATION_CHECK: ApplicationState.COMPLETE,
    Action.APPLICATION_REFUSE: ApplicationState.REFUSED,
    Action.APPLICATION_APPROVE: ApplicationState.APPROVED,
}


def content_digest(content: ApplicationContent) -> str:
    """What names the content exactly."""
    return digest(canonical(content.model_dump(mode="json")))


def application_in(session: Session, project: ProjectRow, number: int) -> ApplicationRow | None:
    """The project's application of that number."""
    wanted = select(ApplicationRow).where(ApplicationRow.project_id == project.id, ApplicationRow.number == number)
    return session.scalars(wanted).first()


def about_application(
    session: Session, by: str, project: ProjectRow, row: ApplicationRow, content: ApplicationContent
) -> dict[Action, set[Fact]]:
    """What the rules must know besides about ``by`` and this application, by action."""
    facts: set[Fact] = set()
    # Only the one that made the project: who once applied for it must not keep a hand on what its leads ask for later.
    # Shown by test_applications.py::test_who_applied_first_has_no_hand_on_what_the_leads_ask_for.
    if by == row.drafted_by and row.kind is ApplicationKind.NEW:
        facts.add(Fact.APPLICANT)
    # Each lead may have edited it, and each lead was appointed: who ever was one decides none of its applications.
    led = select(AppointmentRow.id).where(AppointmentRow.project_id == project.id, AppointmentRow.lead == by)
    if by in (row.drafted_by, row.submitted_by) or session.scalars(led.limit(1)).first() is not None:
        facts.add(Fact.DRAFTER)
    # Stops: a custodian who lets through what names them. They can still return it: else an applicant would choose
    # the custodian by naming all others. Shown by test_applications.py::test_who_is_named_in_it.
    here = {Fact.INVOLVED} if by in named(content) else set()
    found = {action: set(facts) for action in BECOMES}
    found[Action.APPLICATION_EDIT] = set(facts)
    found[Action.APPLICATION_READ] = facts | ({Fact.APPLICANT} if by == row.drafted_by else set())
    found[Action.APPLICATION_CHECK] |= here
    found[Action.APPLICATION_APPROVE] |= here
    return found


class Applications(Desk):
    """Part of Governance: applications."""

    # -- by who applies ---------------------------------------------------------------------------------
    def begin_application(self, by: str, slug: str, content: ApplicationContent) -> ApplicationRecord:
        """Apply for a project: makes it as a draft, which does nothing until the application is approved.

        Anybody with an account may, also to lead it themselves: a custodian decides.

        Raises:
            InputError: the name or a field cannot be kept. What only lacks is told in ``missing``.
            ConflictError: the name is, or once was, another project's, or the person applied too often.
        """
        content = checked_content(content)
        checked_slug(slug)
        with self._change(by, Action.APPLICATION_BEGIN, person=content.lead or None, project=slug) as change:
            self._judge(change)
            _check_number(change)
            project = add_project(change, slug, slug, "", change.now, change.now)
            _show(project, content, change.now)
            return self._add(change, project, 1, ApplicationKind.NEW, content)

    def amend_application(self, by: str, slug: str, kind: ApplicationKind) -> ApplicationRecord:
        """Begin an amendment or a renewal of a project, filled with what is in force.

        Raises:
            ConflictError: another application of the project is not decided yet.
        """
        if kind is ApplicationKind.NEW:
            raise InputError("only an amendment or a renewal is asked for a project that is there")
        with self._change(by, Action.APPLICATION_AMEND, project=slug, kind=str(kind)) as change:
            project = self._sought_project(change, slug)
            self._judge(change, project)
            _check_open(project)
            if project.state is ProjectState.DRAFT:
                raise RefusedError(f"project '{slug}' is not in effect yet")
            if kind is not ApplicationKind.RENEWAL and is_over(project, change.now):
                raise RefusedError(f"the time of project '{slug}' is over", hint="ask for a renewal")
            other = undecided_application(change.session, project)
            if other is not None:
                raise ConflictError(f"application {other.number} of '{slug}' is {other.state}", hint="finish that one")
            latest = select(func.max(ApplicationRow.number)).where(ApplicationRow.project_id == project.id)
            number = (change.session.scalar(latest) or 0) + 1
            return self._add(change, project, number, kind, in_force(change.session, project))

    def edit_application(self, by: str, slug: str, number: int, content: ApplicationContent) -> ApplicationRecord:
        """Replace what an application says, before it is submitted or after it was returned."""
        content = checked_content(content)
        person = content.lead or None
        with self._on(by, Action.APPLICATION_EDIT, slug, number, person=person) as (change, project, row):
            # Stops: content that changes under the eyes of who decides.
            # Shown by test_applications.py::test_what_was_submitted_is_not_edited.
            if row.state not in EDITABLE:
                told = f"application {number} of '{slug}' is '{row.state}' and cannot be edited"
                raise RefusedError(told, hint="ask a custodian to return it")
            row.content = content.model_dump(mode="json")
            if row.kind is ApplicationKind.NEW:
                _show(project, content, change.now)
            return self._record(change.session, by, project, row, change.now)

    def submit_application(self, by: str, slug: str, number: int) -> ApplicationRecord:
        """Hand a complete application in. Raises InputError naming all that it lacks."""
        with self._on(by, Action.APPLICATION_SUBMIT, slug, number) as (change, project, row):
            _check_becomes(slug, row, ApplicationState.SUBMITTED)
            self._check_complete(change, project, row)
            row.state, row.submitted_by, row.submitted_at = ApplicationState.SUBMITTED, by, change.now
            row.checked_by = row.decided_by = row.decided_at = None
            return self._record(change.session, by, project, row, change.now)

    def withdraw_application(self, by: str, slug: str, number: int) -> ApplicationRecord:
        """Take an application back for good; a project that it asked for is closed."""
        with self._on(by, Action.APPLICATION_WITHDRAW, slug, number) as (change, project, row):
            self._end(change, project, row, ApplicationState.WITHDRAWN)
            return self._record(change.session, by, project, row, change.now)

    # -- by custodians ----------------------------------------------------------------------------------
    def check_application(self, by: str, slug: str, number: int, *, seen: str | None = None) -> ApplicationRecord:
        """Say that an application is complete, so that it can be decided.

        With ``seen``, the digest of what was looked at, it is refused where that is not what it says now.
        """
        with self._on(by, Action.APPLICATION_CHECK, slug, number) as (change, project, row):
            _check_seen(row, seen)
            _check_becomes(slug, row, ApplicationState.COMPLETE)
            self._check_complete(change, project, row)
            row.state, row.checked_by = ApplicationState.COMPLETE, by
            return self._record(change.session, by, project, row, change.now)

    def return_application(
        self, by: str, slug: str, number: int, note: str, *, seen: str | None = None
    ) -> ApplicationRecord:
        """Give an application back to be mended; ``note`` says what is missing."""
        note = checked_text("a note", note, 5000)
        with self._on(by, Action.APPLICATION_RETURN, slug, number) as (change, project, row):
            _check_seen(row, seen)
            _check_becomes(slug, row, ApplicationState.RETURNED)
            row.state, row.note, row.checked_by = ApplicationState.RETURNED, note, None
            row.decided_by, row.decided_at = by, change.now
            return self._record(change.session, by, project, row, change.now)

    def refuse_application(
        self, by: str, slug: str, number: int, note: str, *, seen: str | None = None
    ) -> ApplicationRecord:
        """Turn an application down for good; ``note`` says why. A project that it asked for is closed."""
        note = checked_text("a note", note, 5000)
        with self._on(by, Action.APPLICATION_REFUSE, slug, number) as (change, project, row):
            _check_seen(row, seen)
            self._end(change, project, row, ApplicationState.REFUSED)
            row.note = note
            return self._record(change.session, by, project, row, change.now)

    def approve_application(
        self,
        by: str,
        slug: str,
        number: int,
        conditions: str = "",
        *,
        retain_days: int | None = None,
        seen: str | None = None,
    ) -> ApplicationRecord:
        """Put a checked application into effect, all of it or nothing.

        The project becomes what it says, its permit a new version that supersedes the one before, its lead is
        appointed until its end, its team is invited. ``conditions`` is what the decision demands of the project;
        ``retain_days`` for how long its keys are kept after closing, where not as long as everywhere.

        Raises:
            InputError: it lacks something by now.
        """
        conditions = checked_text("conditions", conditions, 5000) if conditions.strip() else ""
        if retain_days is not None and not 0 <= retain_days <= MOST_DAYS:
            raise InputError(f"retain_days must be 0 to {MOST_DAYS}; got {retain_days}")
        with self._on(by, Action.APPLICATION_APPROVE, slug, number) as (change, project, row):
            content = content_of(row)
            change.person = content.lead or None
            self._judge_about(change, project, row, content)
            _check_seen(row, seen)
            _check_becomes(slug, row, ApplicationState.APPROVED)
            self._check_complete(change, project, row)
            starts, ends = content.starts, content.ends
            assert starts is not None and ends is not None  # noqa: S101 - it is complete
            version = next_version(change.session, project)
            terms = made_terms(version, [permitted(table) for table in content.tables], starts, ends)
            # Under the names by which the chain of signatures finds them: permit, lead, ends.
            decided: dict[str, Any] = {"permit": terms_digest(terms), "lead": content.lead, "ends": ends.isoformat()}
            decided |= {"application": number, "version": version, "content": content_digest(content)}
            decided |= {"conditions": conditions, "retain_days": retain_days}
            # Who agreed to a submission that was returned since did not agree to the next one, the same or not.
            decided["submitted"] = None if row.submitted_at is None else row.submitted_at.isoformat()
            change.detail |= {key: decided[key] for key in ("version", "ends", "content")}
            self._decide(change, project, **decided)
            put_permit(change, project, row, terms)
            put_project(change, project, content, conditions, retain_days)
            appoint(change, project, content.lead, self._policy.review_days)
            change.detail["invited"] = invite(change, project, row, content)
            row.state, row.permit_version = ApplicationState.APPROVED, version
            row.conditions, row.note = conditions, ""
            row.decided_by, row.decided_at = by, change.now
            return self._record(change.session, by, project, row, change.now)

    # -- what is told -----------------------------------------------------------------------------------
    def _record(
        self, session: Session, by: str, project: ProjectRow, row: ApplicationRow, now: datetime
    ) -> ApplicationRecord:
        """The application as ``by`` sees it, with what they may do."""
        session.flush()
        content = content_of(row)
        facts = self._facts(session, by, now, project=project)
        reads = bool(facts & {Fact.LEAD, Fact.PAST_LEAD, Fact.OPERATOR, Fact.CUSTODIAN, Fact.AUDITOR})
        undecided = row.state in UNDECIDED
        return ApplicationRecord(
            id=row.id,
            project=project.slug,
            number=row.number,
            kind=row.kind,
            state=row.state,
            content=content,
            drafted_by=row.drafted_by,
            drafted_at=row.drafted_at,
            submitted_by=row.submitted_by,
            submitted_at=row.submitted_at,
            checked_by=row.checked_by,
            decided_by=row.decided_by,
            decided_at=row.decided_at,
            conditions=row.conditions,
            note=row.note,
            permit_version=row.permit_version,
            missing=missing(content, self._circumstances(session, project, row, content, now)) if undecided else (),
            may=tuple(self._may_with_application(session, by, project, row, facts)),
            digest=content_digest(content),
            names=_names(session, row, content) if reads else {},
        )

    def _may_with_application(
        self, session: Session, by: str, project: ProjectRow, row: ApplicationRow, facts: set[Fact]
    ) -> Iterator[str]:
        """What the rules and the states let somebody do with it, of whom ``facts`` hold in the project."""
        if row.state not in UNDECIDED or project.state not in OPEN:
            return
        content = content_of(row)
        about = about_application(session, by, project, row, content)
        possible = [action for action, state in BECOMES.items() if state in TRANSITIONS[ApplicationState][row.state]]
        if row.state in EDITABLE:
            possible.insert(0, Action.APPLICATION_EDIT)
        for action in possible:
            held = facts | about[action]
            if action is Action.APPLICATION_APPROVE:
                held |= self._facts(session, by, self._clock(), content.lead or None, project)
            if judge(action, held, self._rules).allowed:
                yield action

    # -- within a change --------------------------------------------------------------------------------
    @contextmanager
    def _on(
        self, by: str, action: Action, slug: str, number: int, person: str | None = None
    ) -> Iterator[tuple[Change, ProjectRow, ApplicationRow]]:
        """A change of one application, which the rules allow so far."""
        with self._change(by, action, person=person, project=slug, application=number) as change:
            project = self._sought_project(change, slug)
            row = application_in(change.session, project, number)
            if row is None:
                # Stops: somebody who tells by the answers what there is. Who may not act on any is told that.
                # Shown by test_applications.py::test_what_is_not_there_is_refused_like_what_is_not_ones_own.
                self._judge(change, project)
                raise NotFoundError(f"project '{slug}' has no application {number}")
            self._judge_about(change, project, row, content_of(row))
            _check_open(project)
            yield change, project, row

    def _sought_project(self, change: Change, slug: str) -> ProjectRow:
        project = project_sought(change.session, slug)
        if project is None:
            self._judge(change)
            raise NotFoundError(f"there is no project '{slug}'")
        return project

    def _judge_about(
        self, change: Change, project: ProjectRow, row: ApplicationRow, content: ApplicationContent
    ) -> None:
        about = about_application(change.session, change.by, project, row, content)[change.action]
        # Who could not act on any is told no more: not that this one names them.
        self._judge(change, project, *(about & {Fact.APPLICANT}))
        self._judge(change, project, *about)

    def _add(
        self, change: Change, project: ProjectRow, number: int, kind: ApplicationKind, content: ApplicationContent
    ) -> ApplicationRecord:
        row = ApplicationRow(
            id=uuid.uuid4().hex,
            project_id=project.id,
            number=number,
            kind=kind,
            state=ApplicationState.DRAFT,
            content=content.model_dump(mode="json"),
            drafted_by=change.by,
            drafted_at=change.now,
            conditions="",
            note="",
        )
        change.session.add(row)
        change.detail["application"] = number
        return self._record(change.session, change.by, project, row, change.now)

    def _circumstances(
        self, session: Session, project: ProjectRow, row: ApplicationRow, content: ApplicationContent, now: datetime
    ) -> Circumstances:
        people = sorted(named(content))
        able = select(PersonRow.id).where(
            PersonRow.id.in_(people), PersonRow.disabled.is_(False), PersonRow.gone_at.is_(None)
        )
        suspended = select(MembershipRow.person_id).where(
            MembershipRow.project_id == project.id, MembershipRow.state == MembershipState.SUSPENDED
        )
        return Circumstances(
            kind=row.kind,
            now=now,
            project_ends=None if project.state is ProjectState.DRAFT else project.ends,
            able=frozenset(session.scalars(able)),
            suspended=frozenset(session.scalars(suspended.where(MembershipRow.person_id.in_(people)))),
            check=self._catalogue.check,
        )

    def _check_complete(self, change: Change, project: ProjectRow, row: ApplicationRow) -> None:
        content = content_of(row)
        lacks = missing(content, self._circumstances(change.session, project, row, content, change.now))
        if lacks:
            raise InputError(f"application {row.number} of '{project.slug}' is not complete: {'; '.join(lacks)}")

    def _end(self, change: Change, project: ProjectRow, row: ApplicationRow, state: ApplicationState) -> None:
        _check_becomes(project.slug, row, state)
        row.state, row.decided_by, row.decided_at = state, change.by, change.now
        if row.kind is ApplicationKind.NEW:
            change.session.flush()
            close(change, project, self._policy.retention_days)


def _show(project: ProjectRow, content: ApplicationContent, now: datetime) -> None:
    """Let lists show a draft by what its application says."""
    project.title, project.purpose = content.title or project.slug, content.purpose
    project.starts = content.starts or now
    project.ends = max(content.ends or project.starts, project.starts)


def _check_open(project: ProjectRow) -> None:
    if project.state not in OPEN:
        raise RefusedError(f"project '{project.slug}' is closed", hint="begin a new project")


def _check_number(change: Change) -> None:
    # Stops: somebody who takes every name, or buries the custodians. Shown by test_applications.py.
    mine = select(func.count()).where(
        ApplicationRow.drafted_by == change.by,
        ApplicationRow.kind == ApplicationKind.NEW,
        or_(ApplicationRow.state.in_(UNDECIDED), ApplicationRow.drafted_at > change.now - timedelta(days=1)),
    )
    if (change.session.scalar(mine) or 0) >= MOST_NEW:
        raise ConflictError(
            f"{MOST_NEW} applications of yours are not decided, or of today", hint="finish or withdraw one, or wait"
        )


def _check_seen(row: ApplicationRow, seen: str | None) -> None:
    # Stops: a decision in a page that was opened before the content changed. Shown by test_applications.py.
    if seen is not None and seen != content_digest(content_of(row)):
        raise ConflictError("the application was changed since you opened it", hint="read it again")


def _check_becomes(slug: str, row: ApplicationRow, state: ApplicationState) -> None:
    check_transition(f"application {row.number} of '{slug}'", row.state, state)


def _names(session: Session, row: ApplicationRow, content: ApplicationContent) -> dict[str, str]:
    people: set[Any] = set(named(content)) | {row.drafted_by, row.submitted_by, row.checked_by, row.decided_by}
    wanted = select(PersonRow.id, PersonRow.display_name).where(PersonRow.id.in_(sorted(people - {None})))
    return {person: name for person, name in session.execute(wanted)}

"""A person's own account: the terms of use that they accept, and the trainings that they declare."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from orchestrator.errors import ConflictError, InputError, NotFoundError
from orchestrator.governance.cards import Account, TrainingCard
from orchestrator.governance.desk import Change, Desk, checked_text, person_named
from orchestrator.governance.people import person_card
from orchestrator.governance.rules import Action
from orchestrator.governance.store import AcceptanceRow, TrainingRow
from orchestrator.governance.terms_of_use import terms_digest, terms_texts

#: trainings of one person that wait to be confirmed: enough for anybody, too few to fill a disk
MOST_WAITING = 20


def training_card(row: TrainingRow) -> TrainingCard:
    """What is told of a training."""
    return TrainingCard(
        id=row.id,
        course=row.course,
        evidence=row.evidence,
        completed=row.completed,
        expires=row.expires,
        declared_at=row.declared_at,
        confirmed_by=row.confirmed_by,
        confirmed_at=row.confirmed_at,
    )


class Accounts(Desk):
    """Part of Governance: terms of use and trainings."""

    @property
    def terms_version(self) -> str:
        """The version of the terms of use in force."""
        return self._policy.terms.version

    def account(self, by: str) -> Account:
        """One's own account, with the terms of use in force. Raises NotFoundError, UnavailableError."""
        texts = terms_texts(self._policy.terms)
        with self._store.read() as session:
            card = person_card(person_named(session, by))
            accepted = session.get(AcceptanceRow, (by, self.terms_version))
            accepted_at = None if accepted is None else accepted.accepted_at
            trainings = self._trainings(session, by)
        confirmed = [one.expires for one in trainings if one.confirmed_by is not None]
        return Account(
            person=card,
            terms_version=self.terms_version,
            terms=texts,
            terms_accepted_at=accepted_at,
            training_required=self._policy.training_required,
            trainings=trainings,
            training_until=max(confirmed, default=None),
        )

    def trainings_of(self, by: str, person: str) -> list[TrainingCard]:
        """A person's trainings, the latest first, for who may read the person."""
        with self._store.read() as session:
            self._judge_read(session, by, Action.PERSON_READ, person=person)
            person_named(session, person)
            return list(self._trainings(session, person))

    @staticmethod
    def _trainings(session: Session, person: str) -> tuple[TrainingCard, ...]:
        wanted = select(TrainingRow).where(TrainingRow.person_id == person)
        rows = session.scalars(wanted.order_by(TrainingRow.completed.desc(), TrainingRow.id.desc()))
        return tuple(training_card(row) for row in rows)

    def accept_terms(self, by: str, version: str) -> None:
        """Accept the terms of use in force. Nobody accepts for somebody else; accepting twice is no error.

        Raises:
            ConflictError: ``version`` is not the one in force, so it is not what the person should have read.
            UnavailableError: the text cannot be read.
        """
        text = terms_digest(terms_texts(self._policy.terms))
        with self._store.read() as session:
            person_named(session, by)
            self._check_terms_version(version)
            if session.get(AcceptanceRow, (by, version)) is not None:
                return
        with self._change(by, Action.TERMS_ACCEPT, person=by, version=version, text=text) as change:
            person_named(change.session, by)
            self._judge(change)
            change.session.add(AcceptanceRow(person_id=by, version=version, accepted_at=change.now))

    def _check_terms_version(self, version: str) -> None:
        force = self._policy.terms.version
        if version != force:
            raise ConflictError(f"the terms of use in force are version {force}, not {version}", hint="read them anew")

    def declare_training(self, by: str, course: str, completed: date, evidence: str = "") -> TrainingCard:
        """Say that one completed a training. It counts for nothing until somebody else confirms it.

        Raises:
            InputError: a text is wrong, or the day lies ahead or so far back that the training has expired.
            ConflictError: too many of one's trainings wait to be confirmed.
        """
        course = checked_text("a course", course, 200)
        evidence = checked_text("the evidence", evidence, 500) if evidence.strip() else ""
        with self._change(by, Action.TRAINING_DECLARE, person=by, course=course) as change:
            person_named(change.session, by)
            self._judge(change)
            day = datetime.combine(completed, time(), UTC)
            if day > change.now:
                raise InputError(f"a training lies behind; got {completed}")
            expires = day + timedelta(days=self._policy.training_days)
            if expires <= change.now:
                raise InputError(
                    f"a training of {completed} has expired: one counts for {self._policy.training_days} days"
                )
            if self._waiting(change.session, by) >= MOST_WAITING:
                raise ConflictError(f"{MOST_WAITING} of your trainings wait to be confirmed", hint="ask your lead")
            row = TrainingRow(
                person_id=by,
                course=course,
                evidence=evidence,
                completed=day,
                expires=expires,
                declared_by=by,
                declared_at=change.now,
            )
            change.session.add(row)
            change.session.flush()
            change.detail["training"] = row.id
            return training_card(row)

    def _waiting(self, session: Session, person: str) -> int:
        wanted = select(func.count()).where(TrainingRow.person_id == person, TrainingRow.confirmed_by.is_(None))
        return session.scalar(wanted) or 0

    def confirm_training(self, by: str, person: str, training: int) -> None:
        """Say that one has seen the proof of somebody else's training; it counts from now until it expires.

        Raises:
            NotFoundError: that person declared no such training.
            ConflictError: it is confirmed already, or has expired.
        """
        with self._change(by, Action.TRAINING_CONFIRM, person=person, training=training) as change:
            person_named(change.session, person)
            self._judge(change)
            row = declared(change.session, person, training)
            if row is None:
                raise NotFoundError(f"'{person}' declared no training {training}")
            confirm(change, row)


def declared(session: Session, person: str, training: int) -> TrainingRow | None:
    """The training with this number, where this person declared it."""
    # Stops: confirming one's own training, or a stranger's, under the name of somebody for whom one may.
    # Shown by tests/unit/governance/test_accounts.py.
    row = session.get(TrainingRow, training)
    return row if row is not None and row.person_id == person else None


def confirm(change: Change, row: TrainingRow) -> None:
    """Make a declared training count. Raises ConflictError where it cannot."""
    if row.confirmed_by is not None:
        raise ConflictError(f"training {row.id} is confirmed already, by {row.confirmed_by}")
    if row.expires <= change.now:
        raise ConflictError(f"training {row.id} has expired", hint="a newer one must be declared")
    row.confirmed_by, row.confirmed_at = change.by, change.now

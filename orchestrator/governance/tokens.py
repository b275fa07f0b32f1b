"""Tokens for the REST API, and whose call a call is."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from orchestrator.errors import ConflictError, InputError, LoginError, NotFoundError, RefusedError
from orchestrator.governance.cards import NewToken, TokenCard
from orchestrator.governance.desk import Desk, checked_text, person_named
from orchestrator.governance.identity import RESERVED
from orchestrator.governance.rules import Action
from orchestrator.governance.sparsely import Sparsely
from orchestrator.governance.store import PersonRow, TokenRow
from orchestrator.terms import Event, Outcome

if TYPE_CHECKING:
    from orchestrator.governance.operations.declared import Operation

PREFIX = "bulle_"
LONGEST_DAYS = 365
#: tokens in force that one person may have
MOST_TOKENS = 20
#: how often the use of one token, or refused ones, are written down
_USE_EVERY = timedelta(hours=1)
_REFUSED_EVERY = timedelta(minutes=10)
_FORM = re.compile(r"bulle_[A-Za-z0-9_-]{43}")  # 32 bytes in base64url (RFC 4648, section 5)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _card(row: TokenRow) -> TokenCard:
    return TokenCard(
        id=row.id,
        name=row.name,
        scopes=tuple(row.scopes),
        created_at=row.created_at,
        expires=row.expires,
        used_at=row.used_at,
        revoked_at=row.revoked_at,
    )


class Tokens(Desk):
    """Part of Governance: tokens, and whose call a call is."""

    def acting(self, by: str) -> str:
        """The person ``by``, who may act. Raises RefusedError.

        Stops: a portal in an attacker's hands that acts as the operator, the hub or the node agent, and somebody
        who was shut out while their pages were open. Shown by tests/unit/governance/test_operations.py.
        """
        if by in RESERVED:
            raise RefusedError(f"refused by rule a-person: '{by}' is a part of the platform, not a person")
        with self._store.read() as session:
            why = _why_not_acting(session.get(PersonRow, by))
        if why is not None:
            raise RefusedError(f"refused by rule {why[0]}: {why[1]}")
        return by

    def bearer(self, secret: str, operation: Operation) -> tuple[str, str]:
        """The person and the id of the token with this ``secret``, which is good for ``operation``.

        It is looked up by its SHA-256, of which 256 random bits give no hint: there is nothing to compare in
        constant time, and nothing to guess.

        Raises:
            LoginError: it is unknown, over or revoked, or its person may not act.
            RefusedError: it is not meant for this operation.
        """
        now = self._clock()
        with self._store.read() as session:
            row = None
            if _FORM.fullmatch(secret):
                row = session.scalars(select(TokenRow).where(TokenRow.digest == _digest(secret))).first()
            if row is None:
                self._tell_refused(now, "", None, "unknown")
                raise LoginError("there is no such token", hint="make one on your account's page")
            why = _why_worthless(row, session.get(PersonRow, row.person_id), now)
            if why is not None:
                self._tell_refused(now, row.id, row.person_id, why)
                raise LoginError(f"this token is worth nothing: {why}", hint="make one on your account's page")
            token, person, scopes, used_at = row.id, row.person_id, tuple(row.scopes), row.used_at
        if operation.scope is None:
            told = f"no token is good for '{operation.name}'"
            raise RefusedError(f"refused by rule token-scope: {told}", hint="do this in the browser")
        if operation.scope not in scopes:
            told = f"this token lacks the scope '{operation.scope}'"
            raise RefusedError(f"refused by rule token-scope: {told}", hint="make one that has it")
        if used_at is None or now - used_at >= _USE_EVERY:
            self._tell_used(token, now)
        return person, token

    def tokens(self, by: str) -> list[TokenCard]:
        """The person's own tokens, newest first. Raises NotFoundError."""
        with self._store.read() as session:
            person_named(session, by)
            wanted = select(TokenRow).where(TokenRow.person_id == by).order_by(TokenRow.created_at.desc(), TokenRow.id)
            return [_card(row) for row in session.scalars(wanted.limit(10 * MOST_TOKENS))]

    def create_token(self, by: str, name: str, scopes: Iterable[str], days: int) -> NewToken:
        """A token that acts for ``by``, for whoever holds its secret, which is told this once.

        ``scopes`` are values of :class:`~orchestrator.governance.operations.declared.Scope`; any other gives nothing.

        Raises:
            InputError: the name, the scopes or the days are not what they may be.
            ConflictError: the person has as many as they may.
        """
        name = checked_text("a token's name", name, 100)
        chosen = sorted({str(scope) for scope in scopes})
        if not chosen:
            raise InputError("a token needs at least one scope")
        if not 1 <= days <= LONGEST_DAYS:
            raise InputError(f"a token is good for 1 to {LONGEST_DAYS} days; got {days}")
        token, secret = secrets.token_hex(8), PREFIX + secrets.token_urlsafe(32)
        with self._change(by, Action.TOKEN_CREATE, person=by, id=token, scopes=chosen) as change:
            self._judge(change)
            person_named(change.session, by)
            if _in_force(change.session, by, change.now) >= MOST_TOKENS:
                raise ConflictError(f"you have {MOST_TOKENS} tokens in force already", hint="revoke one")
            row = TokenRow(
                id=token,
                person_id=by,
                name=name,
                digest=_digest(secret),
                scopes=chosen,
                created_at=change.now,
                expires=change.now + timedelta(days=days),
            )
            change.detail["expires"] = row.expires.isoformat()
            change.session.add(row)
        return NewToken(card=_card(row), secret=secret)

    def revoke_token(self, by: str, token: str) -> None:
        """Make a token worth nothing, at once. One that is so already is no error. Raises NotFoundError."""
        with self._store.read() as session:
            person = _token_named(session, token).person_id
        with self._change(by, Action.TOKEN_REVOKE, person=person, id=token) as change:
            self._judge(change)
            row = _token_named(change.session, token)
            row.revoked_at = row.revoked_at or change.now

    def _tell_used(self, token: str, now: datetime) -> None:
        try:
            with self._store.write() as session:
                row = _token_named(session, token)
                if row.used_at is not None and now - row.used_at < _USE_EVERY:
                    return
                row.used_at = now
                session.flush()
                # Before the commit, as every change: a token whose use cannot be written down is not used.
                self._audit.record(_event("token.use", Outcome.DONE, row.person_id, row.person_id, id=token))
                session.commit()
        except ConflictError:
            return  # another call wrote the same

    def _tell_refused(self, now: datetime, token: str, person: str | None, why: str) -> None:
        # Stops: somebody who fills the disk with records of wrong tokens. Shown by test_tokens.py.
        told = self._refusals.due(token, now, _REFUSED_EVERY)
        if told is not None:
            detail = {"reason": why, "times": told, **({"id": token} if token else {})}
            self._audit.record(_event("token.refused", Outcome.REFUSED, "nobody", person, **detail))

    @cached_property
    def _refusals(self) -> Sparsely:
        return Sparsely()


def _event(kind: str, outcome: Outcome, actor: str, person: str | None, **detail: object) -> Event:
    return Event(kind=kind, actor=actor, outcome=outcome, person=person, detail=detail)


def _why_not_acting(row: PersonRow | None) -> tuple[str, str] | None:
    if row is None:
        return "a-person", "this is not a person known here"
    if row.disabled:
        return "person-disabled", "this person is disabled"
    if row.gone_at is not None:
        return "removed-at-provider", "the login service no longer knows this person"
    return None


def _why_worthless(row: TokenRow, person: PersonRow | None, now: datetime) -> str | None:
    if row.revoked_at is not None:
        return "it was revoked"
    if now >= row.expires:
        return "it has expired"
    why = _why_not_acting(person)
    return None if why is None else why[1]


def _token_named(session: Session, token: str) -> TokenRow:
    row = session.get(TokenRow, token)
    if row is None:
        raise NotFoundError("there is no such token")
    return row


def _in_force(session: Session, person: str, now: datetime) -> int:
    wanted = select(func.count()).where(
        TokenRow.person_id == person, TokenRow.revoked_at.is_(None), TokenRow.expires > now
    )
    return session.scalar(wanted) or 0

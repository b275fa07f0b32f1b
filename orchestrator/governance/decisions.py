"""Two people for one decision, passkeys, and decisions that are signatures."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session
from webauthn import generate_authentication_options, generate_registration_options, verify_registration_response
from webauthn.helpers import base64url_to_bytes, options_to_json_dict, parse_registration_credential_json
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.structs import (
    AuthenticatorSelectionCriteria,
    AuthenticatorTransport,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from orchestrator.config import Signatures
from orchestrator.errors import (
    ConflictError,
    InputError,
    NotFoundError,
    RefusedError,
    SecondPersonError,
    SettingsError,
    SignatureError,
)
from orchestrator.governance.calls import arguments_of, operation_named
from orchestrator.governance.cards import PasskeyCard, PreparedDecision
from orchestrator.governance.chain import appointed
from orchestrator.governance.desk import PARTS, Change, Desk, checked_text, person_named
from orchestrator.governance.identity import OPERATOR
from orchestrator.governance.presented import presented
from orchestrator.governance.rules import Action
from orchestrator.governance.signatures import (
    ALGORITHMS,
    Record,
    Signing,
    encoded,
    fingerprint,
    from_browser,
    read_record,
    subject_of,
    terms_digest,
    verify,
)
from orchestrator.governance.states import PlatformRole
from orchestrator.governance.store import DecisionRow, EndorsementRow, PasskeyRow, ProjectRow, RoleRow
from orchestrator.terms import Event, Grant, Outcome, SignedDecision

#: how long the first of two decisions waits for the second
ENDORSED_FOR = timedelta(days=30)
#: how long a challenge to sign or to register is good for
FRESH_FOR = timedelta(minutes=5)
#: passkeys that a person may have at a time
MOST_PASSKEYS = 10
#: decisions of a kind that a grant carries: two people may each have decided, and decided anew
_OF_A_KIND = 4
#: kind under which the first of two decisions is audited
ENDORSE = "decision.endorse"

#: the operations that come to a decision; nothing else is ever rehearsed
SIGNED = frozenset(
    {
        "application.approve",
        "member.approve",
        "member.consent",
        "passkey.vouch",
        "permit.approve",
        "project.activate",
        "project.export",
        "project.retain",
    }
)

_rehearsing: ContextVar[bool] = ContextVar("bulle_rehearsing", default=False)


class _Rehearsed(Exception):  # noqa: N818 - not an error: how far a rehearsal goes
    """A rehearsed change reached its decision. It is no BulleError, so it ends the transaction and nothing else."""

    def __init__(self, record: Record | None, keys: Sequence[PasskeyRow] = ()) -> None:
        super().__init__("rehearsed")
        self.record, self.keys = record, keys


@contextmanager
def _rehearsal() -> Iterator[None]:
    reset = _rehearsing.set(True)
    try:
        yield
    finally:
        _rehearsing.reset(reset)


@dataclass(frozen=True)
class _Signed:
    """A decision whose signature holds, and the passkey's sign count after it."""

    row: DecisionRow
    sign_count: int

    def keep(self, session: Session) -> None:
        passkey = session.get_one(PasskeyRow, self.row.passkey_id)
        passkey.sign_count = max(passkey.sign_count, self.sign_count)
        session.add(self.row)


@dataclass(frozen=True)
class _First:
    """What is kept of a decision that waits for a second person."""

    subject: str
    project_id: str | None
    signed: _Signed | None
    #: who had endorsed it before and does not count any more, and when
    replaces: tuple[str, datetime] | None


class Decisions(Desk):
    """Part of Governance: decisions by two people, passkeys, and signatures."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        # In memory: whoever registers does so within minutes, and a restart asks them to begin again.
        self._challenges: dict[str, tuple[bytes, datetime]] = {}
        self._guard = threading.Lock()

    # --- two people, and the signature

    def _decide(self, change: Change, project: ProjectRow | None = None, **content: Any) -> None:
        if change.by in PARTS:
            return  # the operator, who has no passkey: whoever is root is past both controls anyway
        if change.action is Action.MEMBER_APPROVE and change.person is not None:
            # Signed, so that the node agent knows without asking whether a custodian must have agreed too.
            content["external"] = person_named(change.session, change.person).external
        signed = self._signed(change, project, content)
        self._second(change, project, content, signed)
        if signed is not None:
            signed.keep(change.session)
            change.seals["signed"] = signed.row.id

    def _signed(self, change: Change, project: ProjectRow | None, content: dict[str, Any]) -> _Signed | None:
        mode = self._policy.signatures
        keys = [] if mode is Signatures.OFF else self._usable(change.session, change.by)
        wanted = mode is Signatures.REQUIRED or bool(keys)
        if wanted and not keys:
            raise SignatureError(
                "refused by rule signature/none: this decision is signed with a passkey, and you have none that counts",
                hint="add one in your account, and have it vouched for",
            )
        if not wanted:
            if _rehearsing.get():
                raise _Rehearsed(None)
            return None
        expected = Record(
            deployment=self._where().deployment,
            action=str(change.action),
            project_id=None if project is None else project.id,
            project=None if project is None else project.slug,
            person=change.person,
            content=content,
            by=change.by,
            at=change.now,
            nonce=secrets.token_hex(16),
        )
        if _rehearsing.get():
            raise _Rehearsed(expected, keys)
        given = presented().signature
        if given is None:
            # A browser asks so what it has to have signed, each time: that nobody tried anything is no news.
            change.unsigned = True
            raise SignatureError(
                "refused by rule signature/unsigned: this decision is signed with your passkey",
                hint="decide in the portal, in a browser that can reach your passkey",
            )
        return self._verified(change, from_browser(given), expected, keys)

    def _verified(self, change: Change, given: SignedDecision, expected: Record, keys: Sequence[PasskeyRow]) -> _Signed:
        """The signature, checked against what is decided right now, field by field."""
        record = read_record(given.record)
        told, derived = record.model_dump(mode="json"), read_record(expected.text()).model_dump(mode="json")
        # Stops: a signature under one decision that is used for another, of whatever project, person or content.
        # Each attack is made in tests/unit/governance/test_decisions.py.
        for name in ("v", "deployment", "action", "project_id", "project", "person", "content", "by"):
            if told[name] != derived[name]:
                raise SignatureError(
                    f"refused by rule signature/same: what was signed has another {name}",
                    hint="it changed since; look at it again and sign it anew",
                )
        if not timedelta(0) <= change.now - record.at <= FRESH_FOR:
            raise SignatureError("refused by rule signature/fresh: signed too long ago", hint="sign it anew")
        # Stops: a signature that is used twice; the store's primary key keeps it so for two calls at once.
        if change.session.get(DecisionRow, record.nonce) is not None:
            raise SignatureError("refused by rule signature/once: this signature was used before", hint="sign it anew")
        key = next((key for key in keys if key.id == given.passkey), None)
        if key is None:
            raise SignatureError("refused by rule signature/passkey: that is not a passkey of yours that counts")
        sign_count = verify(given, key.public_key, self._where(), key.sign_count)
        return _Signed(
            DecisionRow(
                id=record.nonce,
                project_id=record.project_id,
                person_id=record.person,
                action=record.action,
                record=given.record,
                by=change.by,
                passkey_id=key.id,
                assertion=given.model_dump(exclude={"record", "passkey"}),
                at=change.now,
            ),
            sign_count,
        )

    def _second(
        self, change: Change, project: ProjectRow | None, content: dict[str, Any], signed: _Signed | None
    ) -> None:
        if change.action not in self._two_person:
            return
        project_id = None if project is None else project.id
        subject = subject_of(str(change.action), project_id, change.person, content)
        first = change.session.get(EndorsementRow, subject)
        if first is not None and self._counts(change, project, first):
            if first.by != change.by:
                change.session.delete(first)
                change.seals["endorsed_by"] = first.by
                return
            raise SecondPersonError("you decided this already; it waits for a second person")
        change.first = _First(subject, project_id, signed, None if first is None else (first.by, first.at))
        raise SecondPersonError("noted; it takes effect when a second person decides the same")

    def _counts(self, change: Change, project: ProjectRow | None, first: EndorsementRow) -> bool:
        """Whether an endorsement is fresh, and its author may still decide this by all rules.

        Stops: somebody who lost their role, and whose word of former days would still be half a decision. Shown by
        test_decisions.py.
        """
        if not change.now - first.at < ENDORSED_FOR:
            return False
        return self._verdict_on(change.session, first.by, change.action, change.now, change.person, project).allowed

    def _endorse(self, change: Change) -> None:
        first = change.first
        if not isinstance(first, _First):
            return  # the same person once more: nothing new
        # In a transaction of its own, as what led here was undone: nothing of the change itself can stay.
        with self._store.write() as session:
            known = session.get(EndorsementRow, first.subject)
            # Two who are the first at the same time: one of them is told, and becomes the second.
            if (None if known is None else (known.by, known.at)) != first.replaces:
                raise ConflictError("somebody decided the same at the same time", hint="decide once more")
            detail = {"action": str(change.action), **change.detail}
            if first.signed is not None:
                first.signed.keep(session)
                detail["signed"] = first.signed.row.id
            session.merge(
                EndorsementRow(
                    subject=first.subject,
                    action=str(change.action),
                    project_id=first.project_id,
                    person_id=change.person,
                    by=change.by,
                    at=change.now,
                )
            )
            session.flush()
            self._record_endorsement(change, detail, Outcome.STARTED)
            session.commit()
        self._record_endorsement(change, detail, Outcome.DONE)

    def _record_endorsement(self, change: Change, detail: dict[str, Any], outcome: Outcome) -> None:
        event = Event(
            kind=ENDORSE,
            actor=change.by,
            outcome=outcome,
            person=change.person,
            project=change.project,
            detail=detail,
        )
        self._audit.record(event)

    # --- what is to be signed, before it is

    def _stop_a_rehearsal(self) -> None:
        if _rehearsing.get():
            raise InputError("this is not a decision that is signed")

    def prepare_decision(self, by: str, operation: str, arguments: dict[str, Any]) -> PreparedDecision:
        """What ``by`` would sign if they did this now, and what their browser asks the passkey with.

        The operation is rehearsed: it goes through all its checks up to the decision, in a transaction that is
        undone. ``record`` is None where this person decides without a signature.

        Raises:
            SignatureError: a passkey is needed, and there is none that counts.
            BulleError: whatever the operation itself raises.
        """
        named = operation_named(operation)
        if named.name not in SIGNED:
            raise InputError(f"'{operation}' is not a decision that is signed")
        given = arguments_of(named, arguments)
        who = self.acting(by)  # type: ignore[attr-defined]  # of Tokens, another part of Governance
        return self.rehearse(lambda: named.run(self, who, given))  # type: ignore[arg-type]

    def rehearse(self, call: Callable[[], Any]) -> PreparedDecision:
        """What would be signed if a method of Governance were called so; nothing that it does is kept."""
        try:
            with _rehearsal():
                call()
        except _Rehearsed as reached:
            if reached.record is None:
                return PreparedDecision(record=None, options=None)
            text = reached.record.text()
            options = generate_authentication_options(
                rp_id=self._where().rp_id,
                challenge=hashlib.sha256(text.encode()).digest(),
                timeout=int(FRESH_FOR.total_seconds() * 1000),
                allow_credentials=[_descriptor(key) for key in reached.keys],
                user_verification=UserVerificationRequirement.REQUIRED,
            )
            return PreparedDecision(record=text, options=options_to_json_dict(options))
        raise InputError("this is not a decision that is signed")

    # --- passkeys

    def passkeys(self, by: str, person: str | None = None) -> list[PasskeyCard]:
        """A person's passkeys, oldest first; one's own where no person is named."""
        person = person or by
        with self._store.read() as session:
            self._judge_read(session, by, Action.PERSON_READ, person=person)
            person_named(session, person)
            rows = session.scalars(
                select(PasskeyRow).where(PasskeyRow.person_id == person).order_by(PasskeyRow.created_at, PasskeyRow.id)
            ).all()
            usable = {row.id for row in self._usable(session, person)}
            return [_card(row, row.id in usable) for row in rows]

    def begin_passkey(self, by: str) -> dict[str, Any]:
        """What a browser asks a new passkey with (the argument of ``navigator.credentials.create()``, in JSON).

        Raises:
            SettingsError: browsers refuse passkeys at the deployment's address.
        """
        where = self._where()
        where.check()
        with self._store.read() as session:
            self._judge_read(session, by, Action.PASSKEY_ADD, person=by)
            person = person_named(session, by)
            known = self._kept_keys(session, by)
            if len(known) >= MOST_PASSKEYS:
                raise RefusedError(f"you have {len(known)} passkeys already", hint="remove one first")
            options = generate_registration_options(
                rp_id=where.rp_id,
                rp_name="Bulle",
                user_id=hashlib.sha256(f"{where.deployment}/{person.id}".encode()).digest(),
                user_name=person.display_name,
                user_display_name=person.display_name,
                challenge=secrets.token_bytes(32),
                timeout=int(FRESH_FOR.total_seconds() * 1000),
                authenticator_selection=AuthenticatorSelectionCriteria(
                    resident_key=ResidentKeyRequirement.DISCOURAGED,
                    user_verification=UserVerificationRequirement.REQUIRED,
                ),
                exclude_credentials=[_descriptor(key) for key in known],
                supported_pub_key_algs=list(ALGORITHMS),
            )
        with self._guard:
            # One a person: a second beginning replaces the first.
            self._challenges[by] = (options.challenge, self.now() + FRESH_FOR)
        return options_to_json_dict(options)

    def add_passkey(self, by: str, name: str, credential: str) -> PasskeyCard:
        """Keep a new passkey of ``by``. It signs nothing until somebody vouched for it.

        Raises:
            SignatureError: the registration does not hold, or was begun by somebody else, too long ago, or not at all.
            ConflictError: the passkey is known already.
        """
        name = checked_text("a passkey's name", name, 100)
        where = self._where()
        with self._change(by, Action.PASSKEY_ADD, person=by) as change:
            self._judge(change)
            with self._guard:
                # Single use: whatever comes of it, the challenge is gone.
                challenge, until = self._challenges.pop(by, (b"", change.now))
            if not challenge or change.now >= until:
                raise SignatureError("refused by rule passkey.add/fresh: begin the registration anew")
            if len(self._kept_keys(change.session, by)) >= MOST_PASSKEYS:
                raise RefusedError("you have too many passkeys already", hint="remove one first")
            try:
                parsed = parse_registration_credential_json(credential)
                made = verify_registration_response(
                    credential=parsed,
                    expected_challenge=challenge,
                    expected_rp_id=where.rp_id,
                    expected_origin=where.origin,
                    require_user_verification=True,
                    supported_pub_key_algs=list(ALGORITHMS),
                )
            except WebAuthnException as error:
                raise SignatureError(f"refused by rule passkey.add/verify: {error}"[:300]) from error
            except Exception as error:  # the library parses what an attacker may have made up
                raise SignatureError("refused by rule passkey.add/verify: malformed") from error
            passkey = encoded(made.credential_id)
            # WebAuthn allows 1023 bytes; no authenticator that makes keys of its own needs so many.
            if len(passkey) > 400:
                raise SignatureError("refused by rule passkey.add/verify: its id is too long")
            if change.session.get(PasskeyRow, passkey) is not None:
                raise ConflictError("this passkey is registered already")
            row = PasskeyRow(
                id=passkey,
                person_id=by,
                name=name,
                public_key=made.credential_public_key,
                sign_count=made.sign_count,
                transports=[str(one.value) for one in parsed.response.transports or ()],
                created_at=change.now,
            )
            change.session.add(row)
            change.detail = {"device": passkey[:32], "fingerprint": fingerprint(row.public_key)}
        return _card(row, usable=False)

    def remove_passkey(self, by: str, passkey: str) -> None:
        """Take a passkey away: it signs nothing any more. What it signed stays signed."""
        with self._change(by, Action.PASSKEY_REMOVE, device=passkey[:32]) as change:
            row = self._passkey(change.session, passkey)
            change.person = row.person_id
            self._judge(change)
            row.removed_at = change.now

    def vouch_passkey(self, by: str, person: str, passkey: str) -> PasskeyCard:
        """Say that a passkey is this person's: it signs decisions from now on.

        A custodian's passkey is vouched for by the operator, who writes it among the anchors of the chain; anybody
        else's by a custodian, whose signature under it is a link of that chain.
        """
        with self._change(by, Action.PASSKEY_VOUCH, person=person, device=passkey[:32]) as change:
            person_named(change.session, person)
            row = self._passkey(change.session, passkey)
            if row.person_id != person:
                raise NotFoundError(f"'{person}' has no such passkey")
            self._judge(change)
            # Stops: custodians who make each other more keys, and an operator who makes leads: either would shorten
            # the chain by a link. Shown by test_decisions.py.
            custodian = self._is_custodian(change.session, person)
            if custodian and by != OPERATOR:
                raise RefusedError(
                    "refused by rule passkey.vouch/anchor: a custodian's passkey is vouched for by the operator",
                    hint=f"as root: bulle passkey vouch {person} {passkey[:8]}",
                )
            if not custodian and by == OPERATOR:
                raise RefusedError(
                    "refused by rule passkey.vouch/custodian: this person is no custodian, so a custodian vouches"
                )
            self._decide(change, None, passkey=row.id, public_key=encoded(row.public_key), name=row.name)
            row.vouched_by, row.vouched_at = by, change.now
            change.detail = {"device": passkey[:32], "fingerprint": fingerprint(row.public_key)}
        return _card(row, usable=True)

    def public_key_of(self, person: str, passkey: str) -> tuple[str, bytes]:
        """Id and COSE key of the person's passkey whose id begins so. Raises NotFoundError, InputError."""
        with self._store.read() as session:
            rows = [row for row in self._kept_keys(session, person) if row.id.startswith(passkey)]
        if not rows:
            raise NotFoundError(f"'{person}' has no passkey '{passkey}'")
        if len(rows) > 1:
            raise InputError(f"'{person}' has several passkeys that begin with '{passkey}'")
        return rows[0].id, rows[0].public_key

    def _passkey(self, session: Session, passkey: str) -> PasskeyRow:
        row = session.get(PasskeyRow, passkey)
        if row is None or row.removed_at is not None:
            raise NotFoundError("there is no such passkey")
        return row

    def _kept_keys(self, session: Session, person: str) -> Sequence[PasskeyRow]:
        wanted = select(PasskeyRow).where(PasskeyRow.person_id == person, PasskeyRow.removed_at.is_(None))
        return session.scalars(wanted.order_by(PasskeyRow.created_at, PasskeyRow.id)).all()

    def _usable(self, session: Session, person: str) -> list[PasskeyRow]:
        """The passkeys that sign: vouched for, by the operator where they are a custodian's."""
        custodian = self._is_custodian(session, person)
        return [
            row
            for row in self._kept_keys(session, person)
            if row.vouched_by is not None and (row.vouched_by == OPERATOR or not custodian)
        ]

    def _is_custodian(self, session: Session, person: str) -> bool:
        return session.get(RoleRow, (person, PlatformRole.CUSTODIAN)) is not None

    def _where(self) -> Signing:
        if self._signing is None:
            raise SettingsError("where passkeys are used is not known here")
        return self._signing

    # --- the chain that a grant carries

    def _chain(self, session: Session, grant: Grant) -> tuple[SignedDecision, ...]:
        """The signed decisions that ``grant`` rests on; the node agent judges whether they suffice."""
        if self._policy.signatures is not Signatures.REQUIRED:
            return ()
        of_project = (
            select(DecisionRow)
            .where(DecisionRow.project_id == grant.project_id)
            .where(
                or_(
                    DecisionRow.action.in_(
                        (
                            Action.PERMIT_APPROVE,
                            Action.APPLICATION_APPROVE,
                            Action.PROJECT_ACTIVATE,
                            Action.LEAD_APPOINT,
                        )
                    ),
                    DecisionRow.action.in_((Action.MEMBER_APPROVE, Action.MEMBER_CONSENT))
                    & (DecisionRow.person_id == grant.person),
                )
            )
            .order_by(DecisionRow.at.desc())
        )
        rows = session.scalars(of_project).all()
        # The newest of each kind: what is in force was decided last, and a grant stays small.
        approvals = [row for row in rows if row.action == Action.MEMBER_APPROVE][:_OF_A_KIND]
        chosen = [*approvals, *[row for row in rows if row.action == Action.MEMBER_CONSENT][:_OF_A_KIND]]
        of_custodians = [
            (row, read_record(row.record))
            for row in rows
            if row.action not in (Action.MEMBER_APPROVE, Action.MEMBER_CONSENT)
        ]
        wanted = terms_digest(grant.permit)
        found = [[row for row, record in of_custodians if record.content.get("permit") == wanted]]
        found += [
            [row for row, record in of_custodians if appointed(record) == lead]
            for lead in sorted({grant.person, *(row.by for row in approvals)})
        ]
        vouches = select(DecisionRow).where(
            DecisionRow.action == Action.PASSKEY_VOUCH,
            DecisionRow.project_id.is_(None),
            DecisionRow.person_id.in_({row.by for row in approvals}),
        )
        of_keys = [
            (row, read_record(row.record).content.get("passkey"))
            for row in session.scalars(vouches.order_by(DecisionRow.at.desc()))
        ]
        found += [[row for row, key in of_keys if key == one] for one in sorted({row.passkey_id for row in approvals})]
        chosen += [row for rows in found for row in rows[:_OF_A_KIND]]
        return tuple(
            SignedDecision(record=row.record, passkey=row.passkey_id, **row.assertion) for row in dict.fromkeys(chosen)
        )


def _descriptor(row: PasskeyRow) -> PublicKeyCredentialDescriptor:
    known = {one.value: one for one in AuthenticatorTransport}
    return PublicKeyCredentialDescriptor(
        id=base64url_to_bytes(row.id), transports=[known[one] for one in row.transports if one in known] or None
    )


def _card(row: PasskeyRow, usable: bool) -> PasskeyCard:
    return PasskeyCard(
        id=row.id,
        name=row.name,
        created_at=row.created_at,
        vouched_by=row.vouched_by,
        vouched_at=row.vouched_at,
        removed_at=row.removed_at,
        usable=usable,
        fingerprint=fingerprint(row.public_key),
    )

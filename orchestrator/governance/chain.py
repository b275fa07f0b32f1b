"""The chain of signatures from the operator's anchors to one grant: pure, and checked by the node agent.

Nothing here believes the authority. What it shows is judged by the passkeys that root wrote into the anchors: a hub
in an attacker's hands, and even a stolen grant key, cannot make a link (docs/signatures.md).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from orchestrator.errors import GrantError, SettingsError, SignatureError
from orchestrator.governance.rules import Action
from orchestrator.governance.signatures import Record, Signing, decoded, encoded, read_record, terms_digest, verify
from orchestrator.terms import Grant, Value

ANCHORS = "anchors.json"
_LARGEST = 1024 * 1024


class Anchor(Value):
    """A custodian's passkey that the operator vouched for."""

    person: Annotated[str, Field(max_length=64)]
    passkey: Annotated[str, Field(max_length=400)]
    #: COSE key (RFC 9052), base64url
    public_key: Annotated[str, Field(max_length=4096)]


class Anchors(Value):
    """Where every chain begins: written by root alone."""

    v: Literal[1] = 1
    deployment: str
    passkeys: tuple[Anchor, ...] = ()

    def with_passkey(self, person: str, passkey: str, public_key: bytes) -> Anchors:
        """These and one more."""
        kept = self.without(passkey).passkeys
        added = Anchor(person=person, passkey=passkey, public_key=encoded(public_key))
        return self.model_copy(update={"passkeys": (*kept, added)})

    def without(self, passkey: str) -> Anchors:
        """These but one: whatever that passkey signed is void from now on."""
        return self.model_copy(update={"passkeys": tuple(one for one in self.passkeys if one.passkey != passkey)})


def read_anchors(path: Path, deployment: str) -> Anchors:
    """The anchors in a file; none where there is no file.

    Raises:
        SettingsError: it is malformed, another deployment's, or somebody besides its owner, who is root or this
            process's user, may write it.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return Anchors(deployment=deployment)
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from error
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        # Stops: an anchor that the authority or the hub put there. Shown by tests/unit/node/test_chain.py.
        if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o022 or found.st_uid not in (0, os.geteuid()):
            raise SettingsError(f"{path} is not a plain file that root alone writes", hint="find out who changed it")
        text = file.read(_LARGEST)
    try:
        anchors = Anchors.model_validate_json(text)
    except ValidationError as error:
        raise SettingsError(f"{path} does not hold the anchors of a deployment") from error
    if anchors.deployment != deployment:
        raise SettingsError(f"{path} holds the anchors of '{anchors.deployment}', not of '{deployment}'")
    return anchors


def write_anchors(path: Path, anchors: Anchors) -> None:
    """Replace the file; readable to all, writable to its owner. Raises SettingsError."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.unlink(missing_ok=True)
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            os.fchmod(handle, 0o644)
            file.write(anchors.model_dump_json(indent=2) + "\n")
            file.flush()
            os.fsync(handle)
        fresh.replace(path)
    except OSError as error:
        raise SettingsError(f"cannot write {path}: {error.strerror}", hint="as root") from error


@dataclass(frozen=True)
class _Key:
    """A passkey that may sign, and whose it is; an anchored one is a custodian's."""

    person: str
    public_key: bytes
    anchored: bool


@dataclass(frozen=True)
class _Decided:
    """A record whose signature holds."""

    record: Record
    anchored: bool


_APPOINTS = (Action.PROJECT_ACTIVATE, Action.LEAD_APPOINT, Action.APPLICATION_APPROVE)
_PERMITS = (Action.PERMIT_APPROVE, Action.APPLICATION_APPROVE)


def appointed(record: Record) -> str | None:
    """Whom a record makes the lead of its project."""
    if record.action not in _APPOINTS:
        return None
    lead = record.content.get("lead", record.person)
    return lead if isinstance(lead, str) else None


class Chain:
    """The decisions that a grant carries, with their signatures checked against the anchors.

    A decision whose signature does not hold is no link; why not is told where a link is missing.
    """

    def __init__(self, grant: Grant, signing: Signing, anchors: Anchors, two_person: frozenset[Action]) -> None:
        self._grant = grant
        self._signing = signing
        self._two_person = two_person
        self._faults: list[str] = []
        self._held: list[_Decided] = []
        keys = {
            one.passkey: _Key(one.person, decoded(one.public_key), anchored=True)
            for one in anchors.passkeys
            if anchors.deployment == signing.deployment
        }
        # Custodians first: who they vouch for signs what comes after.
        rest = self._take(keys, range(len(grant.decisions)))
        for number in self._take(self._vouched(keys), rest):
            self._faults.append(f"decision {number + 1}: nobody in the anchors vouched for its passkey")

    def check(self) -> None:
        """Raises GrantError naming the first link that is missing."""
        self._permit()
        self._membership()

    def _permit(self) -> None:
        grant = self._grant
        wanted = terms_digest(grant.permit)
        self._need(
            f"a custodian's signature under permit version {grant.permit.version}",
            self._of_project(
                _PERMITS,
                lambda one: one.anchored and one.record.content.get("permit") == wanted,
            ),
            not_by=grant.person,
        )

    def _membership(self) -> None:
        grant, person = self._grant, self._grant.person
        appointments = self._appointments(person)
        if any(self._ends_after(one.record) for one in appointments):
            self._need(
                f"a custodian's signature that makes '{person}' the lead",
                [one for one in appointments if self._ends_after(one.record)],
                not_by=person,
            )
            return
        approvals = self._of_project(
            (Action.MEMBER_APPROVE,), lambda one: one.record.person == person and self._ends_after(one.record)
        )
        approvals = [one for one in approvals if self._leads(one.record.by)]
        self._need(
            f"the signature of an appointed lead under the membership of '{person}' until {grant.ends_at.isoformat()}",
            approvals,
            not_by=person,
        )
        if any(one.record.content.get("external") is not False for one in approvals):
            self._need(
                f"a custodian's signature that agrees to the external partner '{person}'",
                self._of_project((Action.MEMBER_CONSENT,), lambda one: one.anchored and one.record.person == person),
                not_by=person,
            )

    def _leads(self, lead: str) -> bool:
        return self._enough(self._appointments(lead), lead)

    def _appointments(self, lead: str) -> list[_Decided]:
        return self._of_project(_APPOINTS, lambda one: one.anchored and appointed(one.record) == lead)

    def _ends_after(self, record: Record) -> bool:
        """Whether what was decided lasts as long as the session may."""
        try:
            return self._grant.ends_at <= datetime.fromisoformat(record.content["ends"])
        except (KeyError, TypeError, ValueError):
            return False

    def _of_project(self, actions: Sequence[Action], fits: Callable[[_Decided], bool]) -> list[_Decided]:
        return [
            one
            for one in self._held
            if one.record.action in actions and one.record.project_id == self._grant.project_id and fits(one)
        ]

    def _need(self, link: str, found: list[_Decided], *, not_by: str) -> None:
        if not self._enough(found, not_by):
            why = f" ({'; '.join(self._faults[:3])})" if self._faults else ""
            raise GrantError(f"refused by rule chain: missing: {link}{why}"[:900])

    def _enough(self, found: list[_Decided], not_by: str) -> bool:
        """Whether one person, or two where the deployment wants two, decided one of these; never whom it favours."""
        by: dict[str, set[str]] = {}
        for one in found:
            # Stops: somebody who signs for themselves. The authority refuses it too; here it needs no trust in it.
            if one.record.by != not_by:
                by.setdefault(one.record.same_decision(), set()).add(one.record.by)
                if len(by[one.record.same_decision()]) >= (2 if one.record.action in self._two_person else 1):
                    return True
        return False

    def _vouched(self, keys: dict[str, _Key]) -> dict[str, _Key]:
        """``keys``, and the passkeys for which anchored custodians vouched. An anchor is never replaced."""
        both = dict(keys)
        vouches = [one for one in self._held if one.record.action == Action.PASSKEY_VOUCH and one.anchored]
        for vouch in vouches:
            owner, content = vouch.record.person, vouch.record.content
            passkey, public_key = content.get("passkey"), content.get("public_key")
            if not isinstance(owner, str) or not isinstance(passkey, str) or not isinstance(public_key, str):
                continue
            same = [one for one in vouches if one.record.same_decision() == vouch.record.same_decision()]
            if passkey not in both and self._enough(same, owner):
                both[passkey] = _Key(owner, decoded(public_key), anchored=False)
        return both

    def _take(self, keys: dict[str, _Key], numbers: Iterable[int]) -> list[int]:
        """Keep the decisions that ``keys`` signed; returns the numbers of those whose key is not among them."""
        unknown = []
        for number in numbers:
            signed = self._grant.decisions[number]
            key = keys.get(signed.passkey)
            if key is None:
                unknown.append(number)
                continue
            try:
                record = read_record(signed.record)
                verify(signed, key.public_key, self._signing)
                if record.deployment != self._signing.deployment:
                    raise SignatureError(f"it names the deployment '{record.deployment}'")
                if record.by != key.person:
                    raise SignatureError(f"it names '{record.by}', and the passkey is that of '{key.person}'")
            except SignatureError as error:
                self._faults.append(f"decision {number + 1}: {error.message}")
                continue
            self._held.append(_Decided(record, key.anchored))
        return unknown


def check_chain(grant: Grant, signing: Signing, anchors: Anchors, two_person: frozenset[Action]) -> None:
    """Check everything that a grant rests on by the anchors alone.

    Stops: a grant for a person, project, permit or column that nobody in office decided on, whoever signed the grant.
    Shown by tests/unit/node/test_chain.py, each link taken away in turn.

    Raises:
        GrantError: names the missing link.
        SettingsError: an anchor is malformed.
    """
    try:
        Chain(grant, signing, anchors, two_person).check()
    except SignatureError as error:
        raise GrantError(f"refused by rule chain: {error.message}") from error

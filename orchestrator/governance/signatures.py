"""What is signed when a person decides, and how a signature is checked: pure, and the same at the authority and at
the node agent.

A decision's *record* is canonical JSON. Its SHA-256 is the challenge that the person's passkey signs (W3C Web
Authentication, level 2, section 7.2), so the signature covers every field of the record.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AwareDatetime, Field, ValidationError
from webauthn import verify_authentication_response
from webauthn.helpers import base64url_to_bytes, bytes_to_base64url, parse_client_data_json
from webauthn.helpers.cose import COSEAlgorithmIdentifier
from webauthn.helpers.exceptions import WebAuthnException

from orchestrator.config import Policy, Settings
from orchestrator.errors import InputError, SettingsError, SignatureError
from orchestrator.governance.rules import DECISIONS, Action
from orchestrator.terms import PermitTerms, SignedDecision, Value

#: ES256 and Ed25519 are what today's authenticators make; RS256 is what older machines' built-in ones do
ALGORITHMS = (
    COSEAlgorithmIdentifier.ECDSA_SHA_256,
    COSEAlgorithmIdentifier.EDDSA,
    COSEAlgorithmIdentifier.RSASSA_PKCS1_v1_5_SHA_256,
)

# Whoever may not approve a permit alone must not get round that by approving an application that makes one.
_ALSO = {
    Action.PERMIT_APPROVE: (Action.APPLICATION_APPROVE,),
    Action.LEAD_APPOINT: (Action.APPLICATION_APPROVE, Action.PROJECT_ACTIVATE),
}


def canonical(content: Any) -> str:
    """The one spelling of JSON that is digested: sorted keys, no space, no escape that is not needed.

    Moments and enums are spelt as text. Raises TypeError or ValueError where something is not JSON's.
    """
    return json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain
    )


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"{type(value).__name__} cannot be signed")


def digest(text: str) -> str:
    """SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def terms_digest(terms: PermitTerms) -> str:
    """What names a permit's terms exactly: whoever signs it signs every table, column, row condition and date."""
    utc = terms.model_copy(
        update={
            "valid_from": terms.valid_from.astimezone(UTC),
            "valid_until": terms.valid_until.astimezone(UTC),
        }
    )
    return digest(canonical(utc.model_dump(mode="json")))


class Record(Value):
    """A decision, as it is signed. ``project`` is the name people know, ``project_id`` what counts."""

    v: Literal[1] = 1
    deployment: Annotated[str, Field(max_length=40)]
    action: Annotated[str, Field(max_length=40)]
    project_id: Annotated[str, Field(max_length=32)] | None
    project: Annotated[str, Field(max_length=40)] | None
    person: Annotated[str, Field(max_length=64)] | None
    content: dict[str, Any]
    by: Annotated[str, Field(max_length=64)]
    at: AwareDatetime
    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]

    def text(self) -> str:
        """The exact text that is signed."""
        return canonical(self.model_dump(mode="json"))

    def same_decision(self) -> str:
        """What two records share when two people decided the same."""
        return subject_of(self.action, self.project_id, self.person, self.content)


def subject_of(action: str, project_id: str | None, person: str | None, content: dict[str, Any]) -> str:
    """The digest of exactly what is decided, whoever decides it and when."""
    return digest(canonical({"action": action, "project_id": project_id, "person": person, "content": content}))


def read_record(text: str) -> Record:
    """The record in ``text``.

    Raises:
        SignatureError: it is none, or not in its one spelling.
    """
    try:
        record = Record.model_validate_json(text)
        spelling = record.text()
    except (ValidationError, ValueError, TypeError, RecursionError) as error:
        raise SignatureError("refused by rule signature/record: what was signed is no record") from error
    # What is checked must be what was signed: a second field of the same name, say, would hide behind the first.
    if spelling != text:
        raise SignatureError("refused by rule signature/record: the record is not in its one spelling")
    return record


@dataclass(frozen=True)
class Signing:
    """Where passkeys are used: the deployment, and the address in people's browsers."""

    deployment: str
    #: scheme, host and port as browsers write them
    origin: str

    @property
    def rp_id(self) -> str:
        """The relying party: the host's name, to which a browser binds a passkey."""
        return urlsplit(self.origin).hostname or ""

    def check(self) -> None:
        """Raises SettingsError where browsers refuse passkeys."""
        try:
            ipaddress.ip_address(self.rp_id)
        except ValueError:
            return
        raise SettingsError(
            f"passkeys need a host name: public_url {self.origin} has the address {self.rp_id}",
            hint="give public_url a name; on one machine http://localhost:PORT",
        )


def signing_of(settings: Settings) -> Signing:
    """The deployment's."""
    parts = urlsplit(settings.public_url)
    host = parts.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    usual = {"https": 443, "http": 80}.get(parts.scheme)
    port = "" if parts.port in (None, usual) else f":{parts.port}"
    return Signing(settings.deployment, f"{parts.scheme}://{shown}{port}")


def two_people(policy: Policy) -> frozenset[Action]:
    """The actions that two people must take, with those that would get round them.

    Raises:
        SettingsError: one is no decision.
    """
    wanted: set[Action] = set()
    for name in policy.two_person:
        if name not in set(DECISIONS):
            possible = ", ".join(sorted(DECISIONS))
            raise SettingsError(f"governance.two_person: '{name}' is not a decision", hint=f"one of {possible}")
        action = Action(name)
        wanted |= {action, *_ALSO.get(action, ())}
    return frozenset(wanted)


def from_browser(signature: Any) -> SignedDecision:
    """What a browser sent: ``{"record": text, "credential": the response of navigator.credentials.get()}``.

    Raises:
        InputError: it is not that.
    """
    try:
        if set(signature) != {"record", "credential"}:
            raise ValueError("unknown fields")
        answer = signature["credential"]["response"]
        return SignedDecision(
            record=signature["record"],
            passkey=signature["credential"]["id"],
            authenticator_data=answer["authenticatorData"],
            client_data=answer["clientDataJSON"],
            signature=answer["signature"],
        )
    except (ValidationError, KeyError, TypeError, ValueError) as error:
        raise InputError("the signature is not what a passkey answers") from error


def verify(signed: SignedDecision, public_key: bytes, signing: Signing, sign_count: int = 0) -> int:
    """Check the assertion over ``signed.record`` with the passkey's COSE key; returns the new sign count.

    Stops: another record under the same signature, a signature made at another address (a page that looks like
    ours), one made without the person's finger, face or PIN. Shown by tests/unit/governance/test_decisions.py.

    Raises:
        SignatureError: says what did not hold.
    """
    credential = {
        "id": signed.passkey,
        "rawId": signed.passkey,
        "type": "public-key",
        "response": {
            "authenticatorData": signed.authenticator_data,
            "clientDataJSON": signed.client_data,
            "signature": signed.signature,
        },
    }
    try:
        found = verify_authentication_response(
            credential=credential,
            expected_challenge=hashlib.sha256(signed.record.encode()).digest(),
            expected_rp_id=signing.rp_id,
            expected_origin=signing.origin,
            credential_public_key=public_key,
            credential_current_sign_count=sign_count,
            require_user_verification=True,
        )
        framed = parse_client_data_json(base64url_to_bytes(signed.client_data)).cross_origin
    # The library parses CBOR and keys that an attacker may have made up: whatever it raises means no.
    except WebAuthnException as error:
        raise SignatureError(f"refused by rule signature/verify: {error}"[:300]) from error
    except Exception as error:
        raise SignatureError(f"refused by rule signature/verify: malformed ({type(error).__name__})") from error
    if framed:
        raise SignatureError("refused by rule signature/verify: signed inside another site's page")
    return found.new_sign_count


def fingerprint(public_key: bytes) -> str:
    """What two people compare to know that they mean the same passkey: 128 bits, in groups of four."""
    text = hashlib.sha256(public_key).hexdigest()[:32]
    return " ".join(text[at : at + 4] for at in range(0, 32, 4))


def encoded(data: bytes) -> str:
    """base64url, as WebAuthn writes bytes."""
    return bytes_to_base64url(data)


def decoded(text: str) -> bytes:
    """The bytes of base64url. Raises SignatureError where it is none."""
    try:
        return base64url_to_bytes(text)
    except ValueError as error:
        raise SignatureError("expected base64url") from error

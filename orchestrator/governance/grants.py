"""Grants on the wire: signed by the authority, checked by the node agent.

A grant is a JWS in compact form (RFC 7515, 7519) signed with Ed25519 (RFC 8037).
"""

from __future__ import annotations

import base64
import hashlib
import re
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import ValidationError

from orchestrator.errors import GrantError
from orchestrator.terms import Grant

ALGORITHM = "EdDSA"
TYPE = "bulle-grant+jwt"
AUDIENCE = "node-agent"
LIFETIME = timedelta(seconds=60)
#: longest lifetime that a verifier accepts
MAX_LIFETIME = timedelta(seconds=120)
#: longest token that a verifier looks at
MAX_TOKEN = 512 * 1024

_CLAIMS = frozenset({"iss", "aud", "iat", "nbf", "exp", "jti", "grant"})
_SEGMENT = re.compile(r"[A-Za-z0-9_-]+")
_JTI = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class VerifiedGrant:
    """A grant whose signature, audience and times were checked; ``jti`` must not have been used before."""

    grant: Grant
    jti: str
    expires: datetime


def issuer_of(deployment: str) -> str:
    """The ``iss`` claim of a deployment's grants."""
    return f"bulle/{deployment}"


def key_id(key: Ed25519PublicKey) -> str:
    """The ``kid`` of a key: the first 128 bits of its SHA-256, in hexadecimal."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:32]


def sign_grant(grant: Grant, key: Ed25519PrivateKey, now: datetime, issuer: str, lifetime: timedelta = LIFETIME) -> str:
    """The token that carries ``grant``, valid from ``now`` (whole seconds) for ``lifetime``.

    Raises:
        GrantError: ``lifetime`` is longer than any verifier accepts.
    """
    if not timedelta(0) < lifetime <= MAX_LIFETIME:
        raise GrantError(f"a grant's lifetime of {lifetime} is not within {MAX_LIFETIME}")
    begins = int(now.timestamp())
    claims = {
        "iss": issuer,
        "aud": AUDIENCE,
        "iat": begins,
        "nbf": begins,
        "exp": begins + int(lifetime.total_seconds()),
        "jti": uuid.uuid4().hex,
        "grant": grant.model_dump(mode="json"),
    }
    headers = {"kid": key_id(key.public_key()), "typ": TYPE}
    return jwt.encode(claims, key, algorithm=ALGORITHM, headers=headers)


def verify_grant(token: str, public_key: Ed25519PublicKey, issuer: str, now: datetime) -> VerifiedGrant:
    """The grant in ``token``, every statement about it checked.

    Stops: a grant that is forged, changed, stale, meant for another service or deployment, or outside its
    own permit. Shown by tests/unit/governance/test_grants.py. That a grant is used once is for the caller
    to keep, by ``jti``.

    Raises:
        GrantError: names what was expected and what was got.
    """
    _check_form(token)
    _check_header(token, public_key)
    try:
        # Times are compared below with the clock that was passed in.
        claims = jwt.decode(
            token,
            public_key,
            algorithms=[ALGORITHM],
            audience=AUDIENCE,
            issuer=issuer,
            options={
                "require": sorted(_CLAIMS),
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
            },
        )
    except jwt.PyJWTError as error:
        expected = f"a grant of {issuer} for {AUDIENCE}, signed with key {key_id(public_key)}"
        raise GrantError(f"expected {expected}; got: {error}") from error
    # Strings only: RFC 7519 lets `aud` be a list, and a grant for others besides is not for the node agent.
    for name, expected in (("aud", AUDIENCE), ("iss", issuer)):
        if claims[name] != expected:
            raise GrantError(f"expected {name} '{expected}'; got {claims[name]!r}")
    if set(claims) != _CLAIMS:
        raise GrantError(f"expected the claims {sorted(_CLAIMS)}; got {sorted(claims)}")
    if not isinstance(claims["jti"], str) or not _JTI.fullmatch(claims["jti"]):
        raise GrantError("expected a jti of 32 hexadecimal digits")
    expires = _check_times(claims, now)
    try:
        grant = Grant.model_validate(claims["grant"])
    except ValidationError as error:
        places = ", ".join(".".join(map(str, fault["loc"])) for fault in error.errors())
        raise GrantError(f"the grant itself is malformed: {places}") from error
    _check_bounds(grant, now)
    return VerifiedGrant(grant, claims["jti"], expires)


def _check_form(token: str) -> None:
    # One spelling of each token: base64url that decodes to the same bytes in another spelling is refused,
    # so that no changed token passes and none passes twice.
    if len(token) > MAX_TOKEN:
        raise GrantError(f"expected a grant of at most {MAX_TOKEN} characters; got {len(token)}")
    segments = token.split(".")
    if len(segments) != 3:
        raise GrantError(f"expected a grant of three parts; got {len(segments)}")
    for segment in segments:
        if not _SEGMENT.fullmatch(segment) or len(segment) % 4 == 1:
            raise GrantError("expected base64url without padding")
        decoded = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
        if base64.urlsafe_b64encode(decoded).rstrip(b"=").decode() != segment:
            raise GrantError("expected base64url in its one canonical spelling")


def _check_header(token: str, public_key: Ed25519PublicKey) -> None:
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError as error:
        raise GrantError(f"expected a signed grant; got: {error}") from error
    expected = {"alg": ALGORITHM, "typ": TYPE, "kid": key_id(public_key)}
    if header != expected:
        raise GrantError(f"expected the header {expected}; got {header}")


def _check_times(claims: dict[str, Any], now: datetime) -> datetime:
    issued, begins, ends = (claims[name] for name in ("iat", "nbf", "exp"))
    for name in ("iat", "nbf", "exp"):
        if type(claims[name]) is not int:
            raise GrantError(f"expected {name} in whole seconds; got {claims[name]!r}")
    lifetime = ends - issued
    if not 0 < lifetime <= MAX_LIFETIME.total_seconds():
        raise GrantError(f"expected a lifetime of at most {MAX_LIFETIME.total_seconds():.0f} s; got {lifetime} s")
    moment = now.timestamp()
    if moment < max(issued, begins):
        raise GrantError(f"the grant is not valid yet: from {max(issued, begins)}, now {moment:.0f}")
    if moment >= ends:
        raise GrantError(f"the grant expired at {ends}, now {moment:.0f}", hint="ask for a new one")
    return datetime.fromtimestamp(ends, UTC)


def _check_bounds(grant: Grant, now: datetime) -> None:
    permit = grant.permit
    for name, moment in (
        ("ends_at", grant.ends_at),
        ("permit.valid_from", permit.valid_from),
        ("permit.valid_until", permit.valid_until),
    ):
        if moment.tzinfo is None:
            raise GrantError(f"expected {name} with a time zone; got {moment.isoformat()}")
    if now >= grant.ends_at:
        raise GrantError(f"the session would have ended at {grant.ends_at.isoformat()}")
    if not permit.valid_from <= now < permit.valid_until:
        bounds = f"{permit.valid_from.isoformat()} to {permit.valid_until.isoformat()}"
        raise GrantError(f"permit version {permit.version} is valid from {bounds}, not now ({now.isoformat()})")
    if grant.ends_at > permit.valid_until:
        raise GrantError(
            f"expected a session that ends with its permit ({permit.valid_until.isoformat()}); "
            f"got {grant.ends_at.isoformat()}"
        )

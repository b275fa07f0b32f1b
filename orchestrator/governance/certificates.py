"""Certificates of deletion: proof, signed by the authority, that a project's keys were destroyed.

A JWS in compact form (RFC 7515) with Ed25519 (RFC 8037), which any library for it can check with the authority's
public key. Its type is not that of a grant, and it has no audience: neither passes for the other.
"""

from __future__ import annotations

from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from orchestrator.errors import InputError
from orchestrator.governance.grants import ALGORITHM, key_id

TYPE = "bulle-deletion+jwt"


def sign_certificate(claims: dict[str, Any], key: Ed25519PrivateKey, issuer: str) -> str:
    """The certificate that says ``claims`` (:meth:`orchestrator.governance.closing.Closing.deleted`)."""
    headers = {"kid": key_id(key.public_key()), "typ": TYPE}
    return jwt.encode({**claims, "iss": issuer}, key, algorithm=ALGORITHM, headers=headers)


def verify_certificate(certificate: str, public_key: Ed25519PublicKey, issuer: str) -> dict[str, Any]:
    """What a certificate says. It does not expire.

    Raises:
        InputError: it is not this deployment's certificate of deletion.
    """
    try:
        headers = jwt.get_unverified_header(certificate)
        claims = jwt.decode(
            certificate,
            public_key,
            algorithms=[ALGORITHM],
            issuer=issuer,
            options={"require": ["iss", "iat", "jti"], "verify_iat": False},
        )
    except jwt.PyJWTError as error:
        raise InputError(f"not a certificate of {issuer}: {error}") from error
    # Stops: a grant, which the same key signs, shown as a certificate. Shown by test_closing.py.
    if (headers.get("typ"), headers.get("kid")) != (TYPE, key_id(public_key)):
        raise InputError(f"not a certificate: expected type {TYPE} and key {key_id(public_key)}")
    return dict(claims)

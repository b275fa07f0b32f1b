"""ID tokens as a provider would make them, and as an attacker would."""

from __future__ import annotations

import base64
import hmac
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

ISSUER = "https://login.example.org"
CLIENT = "bulle"
NONCE = "n" * 32

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def public(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    """The JSON Web Key of a private key's public half."""
    algorithm = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid, "use": "sig", **more}


KEYS = {"keys": [public(RSA_KEY, "one"), public(EC_KEY, "two")]}


def claims(**change: Any) -> dict[str, Any]:
    """Claims that are right, with changes; None takes a claim away."""
    now = int(time.time())
    right = {"iss": ISSUER, "sub": "ada", "aud": CLIENT, "exp": now + 300, "iat": now, "nonce": NONCE, "amr": ["pwd"]}
    return {name: value for name, value in {**right, **change}.items() if value is not None}


def token(key: Any = RSA_KEY, algorithm: str = "RS256", kid: str | None = "one", **change: Any) -> str:
    """A signed token."""
    return jwt.encode(claims(**change), key, algorithm=algorithm, headers={"kid": kid} if kid else None)


def unsigned(**change: Any) -> str:
    """A token with the algorithm "none"."""

    return f"{_part({'alg': 'none', 'kid': 'one'})}.{_part(claims(**change))}."


def hmac_signed(secret: bytes, **change: Any) -> str:
    """A token signed with HMAC under ``secret``; made by hand, because the library refuses a public key there."""
    said = f"{_part({'alg': 'HS256', 'kid': 'one'})}.{_part(claims(**change))}"
    return f"{said}.{_text(hmac.digest(secret, said.encode(), 'sha256'))}"


def _part(value: dict[str, Any]) -> str:
    return _text(json.dumps(value).encode())


def _text(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")

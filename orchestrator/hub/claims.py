"""What an identity provider says about a login, checked. Pure: tokens and keys in, an identity out."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt

from orchestrator.config import Oidc
from orchestrator.errors import InputError, RefusedError
from orchestrator.governance.identity import person_id

#: Signatures that only the provider can make. "none" and the HMAC family are left out: with them, whoever
#: knows the public key or the client secret could sign (tests/unit/hub/test_claims.py).
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_KEY_TYPES = ("RSA", "EC", "OKP")
#: seconds by which two clocks may differ
_LEEWAY = 60


class LoginRefusedError(RefusedError):
    """The provider's answer does not prove who logs in."""

    code = "login-refused"


class SecondFactorError(LoginRefusedError):
    """The person is known, but did not prove a second factor although the deployment requires one."""

    code = "second-factor"


@dataclass(frozen=True)
class Identity:
    """Who logged in, and how."""

    person: str
    subject: str
    display_name: str
    email: str | None
    methods: tuple[str, ...]
    context: str | None
    #: the groups that the provider names, with ``oidc.groups_claim``
    groups: frozenset[str] = frozenset()


def signing_key(token: str, key_set: Mapping[str, Any]) -> jwt.PyJWK | None:
    """The key of a JSON Web Key Set that ``token`` names, or None if the set has none for it (it may be
    outdated).

    Raises:
        LoginRefusedError: the token cannot be read, or is signed in a way that is not accepted.
    """
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError as error:
        raise LoginRefusedError(f"the ID token cannot be read: {error}") from error
    if header.get("alg") not in ALGORITHMS:
        raise LoginRefusedError(f"the ID token is signed with {header.get('alg')!r}, which is not accepted")
    named = header.get("kid")
    fitting = [
        key
        for key in key_set.get("keys", ())
        if isinstance(key, dict)
        and key.get("kty") in _KEY_TYPES
        and key.get("use", "sig") == "sig"
        and (named is None or key.get("kid") == named)
    ]
    if not fitting or (named is None and len(fitting) > 1):
        return None
    try:
        return jwt.PyJWK(fitting[0], algorithm=header["alg"])
    except jwt.PyJWTError as error:
        raise LoginRefusedError(f"the provider's key {named!r} does not fit the ID token: {error}") from error


def verify_id_token(token: str, key: jwt.PyJWK, *, issuer: str, client_id: str, nonce: str | None) -> dict[str, Any]:
    """The claims of an ID token, after every check of OpenID Connect Core 1.0, section 3.1.3.7.

    Stops a login with a token that somebody else's provider made, that was made for another application, in
    another login (replay), earlier, or by an attacker. The library underneath would skip the signature; here
    the decision on the second factor rests on it. Fresh tokens of a login that is there have no ``nonce``: it is None.

    Raises:
        LoginRefusedError: a check failed; the message says which.
    """
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=list(ALGORITHMS),
            audience=client_id,
            issuer=issuer,
            leeway=_LEEWAY,
            options={"require": ["iss", "sub", "aud", "exp", "iat"]},
        )
    except jwt.PyJWTError as error:
        raise LoginRefusedError(f"the ID token is not valid: {error}") from error
    audiences = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
    if "azp" in claims or len(audiences) > 1:
        party = claims.get("azp")
        if party != client_id:
            raise LoginRefusedError(f"the ID token was made for {party!r}, not for this application")
    if nonce is None:
        return claims
    given = claims.get("nonce")
    if not isinstance(given, str) or not hmac.compare_digest(given.encode(), nonce.encode()):
        raise LoginRefusedError("the ID token belongs to another login (nonce)", hint="log in again")
    return claims


def identity(
    claims: Mapping[str, Any], userinfo: Mapping[str, Any] | None = None, groups_claim: str = "groups"
) -> Identity:
    """The person whom verified ``claims`` name; name and address may stand in ``userinfo`` instead.

    The person is the ``sub`` claim alone. An e-mail address can be given to somebody else, or claimed by
    whoever registers it at the provider (CVE-2026-33175), so it is shown and never looked up.

    Raises:
        LoginRefusedError: ``userinfo`` is about somebody else, or the subject is unusable.
    """
    subject = claims.get("sub")
    if userinfo is not None and userinfo.get("sub") != subject:
        raise LoginRefusedError("the provider's user information is about somebody else than its ID token")
    if not isinstance(subject, str):
        raise LoginRefusedError("the ID token names nobody")
    try:
        person = person_id(subject)
    except InputError as error:
        raise LoginRefusedError(f"the ID token names nobody: {error}") from error
    said = {**(userinfo or {}), **claims}

    def text(*names: str) -> str | None:
        for name in names:
            value = said.get(name)
            if isinstance(value, str) and value.strip():
                shown = "".join(sign if sign.isprintable() else " " for sign in value)
                return " ".join(shown.split())[:120] or None
        return None

    methods = claims.get("amr")
    context = claims.get("acr")
    # Of the signed token alone: roles follow from it, and nothing else is signed.
    groups = claims.get(groups_claim)
    return Identity(
        person=person,
        subject=subject,
        display_name=text("name", "preferred_username") or person,
        email=text("email"),
        methods=tuple(m for m in methods if isinstance(m, str)) if isinstance(methods, list) else (),
        context=context if isinstance(context, str) else None,
        groups=frozenset(g for g in groups if isinstance(g, str)) if isinstance(groups, list) else frozenset(),
    )


def has_second_factor(who: Identity, oidc: Oidc) -> bool:
    """Whether the provider vouches for a second factor: in ``amr`` (RFC 8176), or by the level in ``acr``."""
    return any(method in oidc.mfa_amr for method in who.methods) or who.context in oidc.mfa_acr


def require_second_factor(who: Identity, oidc: Oidc) -> None:
    """Refuse a login by password alone where the deployment requires more: a stolen password must not
    suffice.

    Raises:
        SecondFactorError: no second factor was proved.
    """
    if oidc.require_mfa and not has_second_factor(who, oidc):
        seen = ", ".join(who.methods) or "none"
        raise SecondFactorError(
            f"a second factor is required, and the login service reports only: {seen}",
            hint="set up a second factor with your organisation's login service, then log in again",
        )

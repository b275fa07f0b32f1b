"""Every grant that is not exactly what the authority signed, for this moment, is refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orchestrator.errors import GrantError
from orchestrator.governance import grants
from orchestrator.governance.grants import issuer_of, key_id, sign_grant, verify_grant
from orchestrator.terms import ColumnPermit, Grant, PermitTerms, TablePermit

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
PUBLIC = KEY.public_key()
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
ISSUER = issuer_of("trial")


def a_grant(**changes) -> Grant:
    values = {
        "person": "researcher",
        "display_name": "A Researcher",
        "project_id": "0" * 32,
        "project": "sleep",
        "project_title": "Sleep and age",
        "session": "1" * 32,
        "permit": PermitTerms(
            version=1,
            tables=(TablePermit(dataset="d", table="t", columns=(ColumnPermit(name="c"),)),),
            valid_from=NOW - timedelta(days=1),
            valid_until=NOW + timedelta(days=1),
        ),
        "ends_at": NOW + timedelta(hours=5),
    }
    return Grant(**{**values, **changes})


TOKEN = sign_grant(a_grant(), KEY, NOW, ISSUER)


def claims(**changes) -> dict:
    begins = int(NOW.timestamp())
    values = {
        "iss": ISSUER,
        "aud": "node-agent",
        "iat": begins,
        "nbf": begins,
        "exp": begins + 60,
        "jti": "a" * 32,
        "grant": a_grant().model_dump(mode="json"),
    }
    return {name: value for name, value in {**values, **changes}.items() if value is not None}


def signed(payload: dict | None = None, *, key=KEY, alg="EdDSA", **header) -> str:
    headers = {"kid": key_id(PUBLIC), "typ": "bulle-grant+jwt", **header}
    return jwt.encode(payload or claims(), key, algorithm=alg, headers=headers)


def segment(value) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def check(token: str, now: datetime = NOW):
    return verify_grant(token, PUBLIC, ISSUER, now)


def test_what_was_signed_comes_back():
    verified = check(TOKEN)
    assert verified.grant == a_grant()
    assert verified.expires == NOW + timedelta(seconds=60)
    assert check(signed()).jti == "a" * 32
    assert check(sign_grant(a_grant(), KEY, NOW, ISSUER)).jti != verified.jti


@given(position=st.integers(0, len(TOKEN) - 1), char=st.characters(max_codepoint=255))
@settings(max_examples=500, deadline=None)
def test_any_changed_character_is_refused(position, char):
    assume(TOKEN[position] != char)
    with pytest.raises(GrantError):
        check(TOKEN[:position] + char + TOKEN[position + 1 :])


@given(start=st.integers(0, len(TOKEN) - 1), length=st.integers(1, 50), insert=st.text(max_size=5))
@settings(max_examples=300, deadline=None)
def test_any_cut_or_insertion_is_refused(start, length, insert):
    changed = TOKEN[:start] + insert + TOKEN[start + length :]
    assume(changed != TOKEN)
    with pytest.raises(GrantError):
        check(changed)


@given(st.text(max_size=200) | st.binary(max_size=100).map(lambda data: data.decode("latin-1")))
def test_noise_is_refused(noise):
    with pytest.raises(GrantError):
        check(noise)


def test_another_spelling_of_the_same_signature_is_refused():
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(TOKEN[-1])
    twin = TOKEN[:-1] + alphabet[last ^ 1]
    with pytest.raises(GrantError, match="canonical"):
        check(twin)
    with pytest.raises(GrantError):
        check(TOKEN + "==")


def test_negative_control_without_the_form_check_a_padded_twin_passes(monkeypatch):
    monkeypatch.setattr(grants, "_check_form", lambda _: None)
    assert check(TOKEN + "==").grant == a_grant()


def unsigned() -> str:
    header = {"alg": "none", "typ": "bulle-grant+jwt", "kid": key_id(PUBLIC)}
    return f"{segment(header)}.{segment(claims())}."


def keyed_with_the_public_key(encoding: Encoding, form: PublicFormat) -> str:
    header = {"alg": "HS256", "typ": "bulle-grant+jwt", "kid": key_id(PUBLIC)}
    body = f"{segment(header)}.{segment(claims())}"
    mac = hmac.new(PUBLIC.public_bytes(encoding, form), body.encode(), hashlib.sha256).digest()
    return f"{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (unsigned(), "base64url"),
        (unsigned() + "AAAA", "header"),
        (keyed_with_the_public_key(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "header"),
        (keyed_with_the_public_key(Encoding.Raw, PublicFormat.Raw), "header"),
        (signed(key=OTHER_KEY), "Signature"),
        (signed(kid=key_id(OTHER_KEY.public_key())), "header"),
        (signed(kid=""), "header"),
        (signed(typ="JWT"), "header"),
        (signed(crit=["x"]), "header|crit"),
        (signed(jwk={"kty": "OKP"}), "header"),
        (signed(claims(aud="portal")), "Audience"),
        (signed(claims(aud=["node-agent", "portal"])), "aud"),
        (signed(claims(aud=None)), "aud"),
        (signed(claims(iss="bulle/other")), "issuer"),
        (signed(claims(iss=None)), "iss"),
        (signed(claims(jti=None)), "jti"),
        (signed(claims(jti="not hex")), "jti"),
        (signed(claims(exp=None)), "exp"),
        (signed(claims(exp=int(NOW.timestamp()) + 121)), "lifetime"),
        (signed(claims(iat=int(NOW.timestamp()) - 100, exp=int(NOW.timestamp()) + 100)), "lifetime"),
        (signed(claims(exp=int(NOW.timestamp()))), "lifetime"),
        (signed(claims(iat=int(NOW.timestamp()) - 30, exp=int(NOW.timestamp()))), "expired"),
        (signed(claims(nbf=int(NOW.timestamp()) + 5)), "not valid yet"),
        (signed(claims(iat=int(NOW.timestamp()) + 5)), "not valid yet"),
        (signed(claims(exp=NOW.timestamp() + 50.5)), "whole seconds"),
        (signed(claims(iat=True)), "whole seconds|iat"),
        (signed(claims(extra="x")), "claims"),
        (signed(claims(grant={})), "malformed"),
        (signed(claims(grant={**a_grant().model_dump(mode="json"), "admin": True})), "malformed: admin"),
        (signed(claims(grant=None)), "grant"),
        (signed(claims(grant="x")), "malformed"),
    ],
)
def test_refused_tokens_name_what_is_wrong(token, message):
    with pytest.raises(GrantError, match=message):
        check(token)


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (NOW - timedelta(seconds=1), "not valid yet"),
        (NOW + timedelta(seconds=60), "expired"),
        (NOW + timedelta(days=9), "expired"),
    ],
)
def test_times_are_compared_with_the_clock_passed_in(now, message):
    assert check(TOKEN, NOW + timedelta(seconds=59.9))
    with pytest.raises(GrantError, match=message):
        check(TOKEN, now)


def permit(**changes) -> PermitTerms:
    return a_grant().permit.model_copy(update=changes)


@pytest.mark.parametrize(
    ("grant", "message"),
    [
        (a_grant(ends_at=NOW), "would have ended"),
        (a_grant(ends_at=NOW - timedelta(days=2)), "would have ended"),
        (a_grant(ends_at=NOW + timedelta(days=2)), "ends with its permit"),
        (a_grant(ends_at=datetime(2026, 6, 1, 13)), "time zone"),
        (a_grant(permit=permit(valid_from=NOW + timedelta(seconds=1))), "valid from"),
        (a_grant(permit=permit(valid_until=NOW), ends_at=NOW + timedelta(1)), "valid from"),
    ],
)
def test_a_signed_grant_outside_its_own_bounds_is_refused(grant, message):
    with pytest.raises(GrantError, match=message):
        check(sign_grant(grant, KEY, NOW, ISSUER))


def test_negative_control_without_the_bounds_a_stale_permit_passes(monkeypatch):
    stale = sign_grant(a_grant(permit=permit(valid_until=NOW)), KEY, NOW, ISSUER)
    with pytest.raises(GrantError):
        check(stale)
    monkeypatch.setattr(grants, "_check_bounds", lambda *_: None)
    assert check(stale)


def test_negative_control_without_the_header_check_other_headers_pass(monkeypatch):
    token = signed(typ="JWT")
    with pytest.raises(GrantError):
        check(token)
    monkeypatch.setattr(grants, "_check_header", lambda *_: None)
    assert check(token)


def test_a_long_lifetime_is_not_signed():
    with pytest.raises(GrantError, match="lifetime"):
        sign_grant(a_grant(), KEY, NOW, ISSUER, timedelta(seconds=121))

"""What of a provider's word is believed, and what is not."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import Oidc
from orchestrator.hub.authenticator import challenge_of, nonce_for, person_id
from orchestrator.hub.claims import (
    LoginRefusedError,
    SecondFactorError,
    identity,
    require_second_factor,
    signing_key,
    verify_id_token,
)
from tests.unit.hub.tokens import (
    CLIENT,
    EC_KEY,
    ISSUER,
    KEYS,
    NONCE,
    OTHER_KEY,
    RSA_KEY,
    claims,
    hmac_signed,
    public,
    token,
    unsigned,
)


def verified(text: str, **change: Any) -> dict[str, Any]:
    key = signing_key(text, KEYS)
    assert key is not None
    return verify_id_token(text, key, **{"issuer": ISSUER, "client_id": CLIENT, "nonce": NONCE, **change})


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"), [(RSA_KEY, "RS256", "one"), (RSA_KEY, "PS256", "one"), (EC_KEY, "ES256", "two")]
)
def test_a_right_token_is_believed(key: Any, algorithm: str, kid: str) -> None:
    assert verified(token(key, algorithm, kid))["sub"] == "ada"


@pytest.mark.parametrize(
    "change",
    [
        {"iss": "https://evil.example.org"},
        {"iss": ISSUER + "/"},
        {"aud": "another"},
        {"aud": ["another"]},
        {"aud": [CLIENT, "another"]},
        {"aud": [CLIENT, "another"], "azp": "another"},
        {"azp": "another"},
        {"exp": int(time.time()) - 3600},
        {"iat": int(time.time()) + 3600},
        {"nonce": "another"},
        {"nonce": None},
        {"nonce": 7},
        {"exp": None},
        {"iat": None},
        {"sub": None},
        {"aud": None},
        {"iss": None},
    ],
)
def test_a_wrong_claim_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(LoginRefusedError):
        verified(token(**change))


def test_two_audiences_with_this_party_are_believed() -> None:
    assert verified(token(aud=[CLIENT, "another"], azp=CLIENT))["azp"] == CLIENT


def test_a_signature_by_somebody_else_is_refused() -> None:
    with pytest.raises(LoginRefusedError, match="not valid"):
        verified(token(OTHER_KEY))


def test_no_signature_is_refused() -> None:
    with pytest.raises(LoginRefusedError, match="none"):
        signing_key(unsigned(), KEYS)


PUBLIC_BYTES = RSA_KEY.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)


@pytest.mark.parametrize("secret", [b"the client secret, known to many", PUBLIC_BYTES], ids=["client", "public"])
def test_a_symmetric_signature_is_refused(secret: bytes) -> None:
    """Whoever knows the public key, or the client secret, must not be able to sign (algorithm confusion)."""
    with pytest.raises(LoginRefusedError, match="HS256"):
        signing_key(hmac_signed(secret), KEYS)


def test_a_symmetric_key_in_the_set_is_not_used() -> None:
    keys = {"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "one"}]}
    assert signing_key(token(), keys) is None


def test_negative_control_without_verification_the_forged_token_would_pass() -> None:
    """What the library underneath does: the claims of an unsigned token, believed. Ours refuses it above."""
    read = jwt.decode(
        unsigned(sub="somebody"), audience=CLIENT, options={"verify_signature": False, "verify_aud": True}
    )
    assert read["sub"] == "somebody"


def test_a_key_for_another_algorithm_is_refused() -> None:
    forged = jwt.encode(claims(), EC_KEY, algorithm="ES256", headers={"kid": "one"})
    with pytest.raises(LoginRefusedError):
        verified(forged)


def test_a_key_that_is_not_for_signing_is_not_used() -> None:
    assert signing_key(token(), {"keys": [public(RSA_KEY, "one", use="enc")]}) is None


def test_an_unknown_key_is_asked_for_again_not_refused() -> None:
    assert signing_key(token(kid="three"), KEYS) is None


def test_without_a_key_name_only_a_single_key_is_used() -> None:
    assert signing_key(token(kid=None), KEYS) is None
    assert signing_key(token(kid=None), {"keys": [public(RSA_KEY, "one")]}) is not None


@given(st.text(max_size=300))
def test_no_text_breaks_the_reader(text: str) -> None:
    with pytest.raises(LoginRefusedError):
        signing_key(text, KEYS)


# -- who it is -------------------------------------------------------------------------------------------
def test_names_come_from_either_place_and_the_subject_from_the_token() -> None:
    who = identity(claims(sub="x1"), {"sub": "x1", "name": "Ada L.", "email": "ada@example.org"})
    assert (who.person, who.display_name, who.email) == ("x1", "Ada L.", "ada@example.org")


def test_user_information_about_somebody_else_is_refused() -> None:
    with pytest.raises(LoginRefusedError, match="somebody else"):
        identity(claims(sub="x1"), {"sub": "x2", "name": "Ada"})


def test_the_same_address_makes_nobody_the_same_person() -> None:
    one = identity(claims(sub="x1", email="shared@example.org"))
    two = identity(claims(sub="x2", email="shared@example.org"))
    assert one.person != two.person


def test_case_makes_two_persons() -> None:
    assert identity(claims(sub="Ada")).person != identity(claims(sub="ada")).person


@pytest.mark.parametrize("name", ["\u202eada", "a\u0000da", "  \n "])
def test_names_show_no_control_characters(name: str) -> None:
    assert identity(claims(name=name)).display_name.isprintable()


@given(st.text(max_size=255), st.text(max_size=255))
def test_persons_are_as_many_as_subjects(one: str, two: str) -> None:
    def named(subject: str) -> str | None:
        try:
            return identity(claims(sub=subject)).person
        except LoginRefusedError:
            return None

    first, second = named(one), named(two)
    if first is not None and second is not None:
        assert (first == second) == (one == two)
        assert first == person_id(one)


@given(st.text(min_size=1, max_size=255))
def test_an_id_is_safe_in_a_path(subject: str) -> None:
    try:
        person = identity(claims(sub=subject)).person
    except LoginRefusedError:
        return
    assert person.isascii() and "/" not in person and person not in (".", "..") and len(person) <= 63


# -- the second factor -----------------------------------------------------------------------------------
def oidc(**change: Any) -> Oidc:
    return Oidc.model_validate(
        {"issuer": ISSUER, "client_id": CLIENT, "client_secret_file": "/nowhere", "require_mfa": True, **change}
    )


@pytest.mark.parametrize(
    ("said", "settings", "passes"),
    [
        ({"amr": ["pwd"]}, {}, False),
        ({"amr": ["pwd", "otp"]}, {}, True),
        ({"amr": ["hwk"]}, {}, True),
        ({"amr": ["mfa"]}, {}, True),
        ({"amr": None}, {}, False),
        ({"amr": []}, {}, False),
        ({"amr": "otp"}, {}, False),  # not a list, so not what RFC 8176 says
        ({"amr": [["otp"]]}, {}, False),
        ({"amr": ["OTP"]}, {}, False),
        ({"amr": ["pwd"], "acr": "gold"}, {"mfa_acr": ["gold"]}, True),
        ({"amr": ["pwd"], "acr": "gold"}, {}, False),
        ({"amr": ["pwd"], "acr": "silver"}, {"mfa_acr": ["gold"]}, False),
        ({"amr": ["pwd"], "acr": None}, {"mfa_acr": ["gold"]}, False),
        ({"amr": ["otp"]}, {"mfa_amr": ["hwk"]}, False),
        ({"amr": ["pwd"]}, {"require_mfa": False}, True),
    ],
    ids=str,
)
def test_second_factor(said: dict[str, Any], settings: dict[str, Any], passes: bool) -> None:
    who = identity(claims(**said))
    if passes:
        require_second_factor(who, oidc(**settings))
    else:
        with pytest.raises(SecondFactorError, match="second factor") as refused:
            require_second_factor(who, oidc(**settings))
        assert refused.value.hint


def test_the_nonce_is_of_this_login_and_does_not_show_the_verifier() -> None:
    one, two = challenge_of("a" * 43), challenge_of("b" * 43)
    assert nonce_for(one) != nonce_for(two)
    assert "a" * 8 not in nonce_for(one)
    # RFC 7636, appendix B
    assert challenge_of("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk") == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"

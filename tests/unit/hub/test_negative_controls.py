"""Negative controls of the hub: each takes one control away and sees the very test of that control fail."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from pydantic import field_validator, model_validator
from traitlets.config import Config

from orchestrator import config
from orchestrator.errors import UnavailableError
from orchestrator.governance.cards import Person, PersonCard
from orchestrator.governance.identity import HUB, person_id
from orchestrator.governance.people import People
from orchestrator.hub import authenticator, claims, provider, proxy, spawner
from orchestrator.hub.authenticator import BulleAuthenticator, BulleLoginHandler, LoginFault
from orchestrator.hub.claims import Identity
from orchestrator.hub.configuration import USER_SCOPES
from orchestrator.hub.spawner import BulleSpawner
from orchestrator.terms import Event, Outcome
from tests.unit import test_config
from tests.unit.governance import test_people
from tests.unit.governance.places import place
from tests.unit.hub import test_claims, test_configuration, test_provider, test_spawner
from tests.unit.hub.test_configuration import configured

NOT_REFUSED = pytest.raises(pytest.fail.Exception, match="DID NOT RAISE")


# -- the ID token ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("nonce", ["another", "", "0" * 64])
def test_without_the_nonce_a_token_of_another_login_passes(monkeypatch: pytest.MonkeyPatch, nonce: str) -> None:
    monkeypatch.setattr(claims, "hmac", SimpleNamespace(compare_digest=lambda one, two: True))
    with NOT_REFUSED:
        test_claims.test_a_wrong_claim_is_refused({"nonce": nonce})


@pytest.mark.parametrize(
    "nonce_of", [lambda challenge: "the same for all", lambda challenge: "a" * 43], ids=["constant", "the verifier"]
)
def test_a_nonce_that_is_not_of_its_login_is_seen(
    monkeypatch: pytest.MonkeyPatch, nonce_of: Callable[[str], str]
) -> None:
    monkeypatch.setattr(test_claims, "nonce_for", nonce_of)
    with pytest.raises(AssertionError):
        test_claims.test_the_nonce_is_of_this_login_and_does_not_show_the_verifier()


def test_without_pkce_no_login_begins(tmp_path: Path) -> None:
    """The nonce is made of the challenge: a hub that is set up without PKCE sends nobody to the provider."""
    assert configured(tmp_path).BulleAuthenticator.enable_pkce is True
    handler = object.__new__(BulleLoginHandler)
    with pytest.raises(KeyError, match="code_challenge"):
        handler.authorize_redirect(extra_params={"state": "x"})


@pytest.mark.parametrize(
    "change",
    [
        {"iss": "https://evil.example.org"},
        {"aud": "another"},
        {"exp": int(time.time()) - 3600},
        {"iat": int(time.time()) + 3600},
        {"exp": None},
    ],
    ids=("issuer", "audience", "over", "not-yet", "without-end"),
)
def test_without_its_check_a_wrong_claim_passes(monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]) -> None:
    """The signature is verified as ever, the claims are not."""

    def decode(token: str, key: Any, *, algorithms: list[str], **_: Any) -> Any:
        off = dict.fromkeys(("verify_exp", "verify_iat", "verify_nbf", "verify_aud", "verify_iss"), False)
        return jwt.decode(token, key, algorithms=algorithms, options=off)  # type: ignore[arg-type]

    monkeypatch.setattr(claims, "jwt", SimpleNamespace(decode=decode, PyJWTError=jwt.PyJWTError))
    with NOT_REFUSED:
        # signing_key is the control of another row, and keeps the library as it is
        monkeypatch.setattr(
            test_claims, "signing_key", lambda text, keys: jwt.PyJWK(keys["keys"][0], algorithm="RS256")
        )
        test_claims.test_a_wrong_claim_is_refused(change)


def test_without_the_authorised_party_a_token_for_another_application_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    verify = claims.verify_id_token

    class Anybody(str):
        """Equal to whatever it is compared with."""

        __slots__ = ()
        __hash__ = str.__hash__

        def __ne__(self, other: object) -> bool:
            return False

    def careless(token: str, key: jwt.PyJWK, **given: Any) -> dict[str, Any]:
        return verify(token, key, **{**given, "client_id": Anybody(given["client_id"])})

    monkeypatch.setattr(test_claims, "verify_id_token", careless)
    with NOT_REFUSED:
        test_claims.test_a_wrong_claim_is_refused({"azp": "another"})


# -- who it is -------------------------------------------------------------------------------------------
def test_a_person_by_address_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    by_subject = claims.identity

    def by_address(said: dict[str, Any], userinfo: Any = None) -> Identity:
        return by_subject({**said, "sub": said["email"]}, userinfo)

    monkeypatch.setattr(test_claims, "identity", by_address)
    with pytest.raises(AssertionError):
        test_claims.test_the_same_address_makes_nobody_the_same_person()


def test_ids_without_case_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "person_id", lambda subject: person_id(subject.lower()))
    with pytest.raises(AssertionError):
        test_claims.test_case_makes_two_persons()


@pytest.mark.parametrize("change", [{"token_endpoint": "http://login.example.org/token"}], ids=str)
def test_without_its_check_an_endpoint_in_clear_is_taken(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    monkeypatch.setattr(provider, "_is_safe", lambda url: True)
    with NOT_REFUSED:
        test_provider.test_a_wrong_document_is_refused(change)


def test_without_a_pause_between_fetches_every_forgery_asks_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider, "_KEYS_AGE", -1.0)
    with pytest.raises(AssertionError):
        test_provider.test_new_keys_are_fetched_when_a_token_names_one_but_not_for_every_forgery()


# -- the log before the session --------------------------------------------------------------------------
class SilentLog:
    """An authority that knows people and writes nothing."""

    def __init__(self, socket: Path) -> None:
        pass

    async def __aenter__(self) -> SilentLog:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def person_upsert(self, *_: str) -> None:
        pass

    async def record(self, event: Event) -> None:
        raise UnavailableError("the audit log cannot be written")


def a_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the hub makes a session of, when the login cannot be logged."""

    async def ada(self: BulleAuthenticator, handler: Any) -> tuple[Identity, dict[str, str]]:
        return Identity("ada", "ada", "Ada", None, ("otp",), None), {"id_token": "the ID token"}

    monkeypatch.setattr(authenticator, "AsyncAuthorityClient", SilentLog)
    monkeypatch.setattr(BulleAuthenticator, "_identify", ada)
    login = BulleAuthenticator(oidc=test_configuration.settings(tmp_path).oidc, authority_socket="/nowhere")
    return asyncio.run(login.authenticate(None))


def test_no_session_is_made_of_a_login_that_is_not_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoginFault) as refused:
        a_login(tmp_path, monkeypatch)
    assert refused.value.bulle_kind == "login-unavailable"


def test_without_the_log_before_it_a_session_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def later(self: BulleAuthenticator, kind: str, person: str, outcome: Outcome, *_: Any) -> None:
        pass

    monkeypatch.setattr(BulleAuthenticator, "audit", later)
    with NOT_REFUSED:
        test_no_session_is_made_of_a_login_that_is_not_logged(tmp_path, monkeypatch)


# -- the hub's configuration -----------------------------------------------------------------------------
def changed(change: Callable[[Config], object]) -> Callable[..., Config]:
    def configured_otherwise(folder: Path, **settings: Any) -> Config:
        c = configured(folder, **settings)
        change(c)
        return c

    return configured_otherwise


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.BulleAuthenticator.update(admin_users={"ada"}),
        lambda c: c.JupyterHub.update(admin_access=True),
        lambda c: c.JupyterHub.load_roles.append({"name": "admin", "users": ["ada"]}),
        lambda c: c.JupyterHub.services[0].update(admin=True),
        lambda c: c.JupyterHub.services[0].update(oauth_client_allowed_scopes=["inherit"]),
    ],
    ids=["administrator", "admin_access", "a role", "the portal", "its scopes"],
)
def test_a_hub_with_an_administrator_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Config], object]
) -> None:
    monkeypatch.setattr(test_configuration, "configured", changed(change))
    with pytest.raises(AssertionError):
        test_configuration.test_nobody_is_an_administrator_and_nothing_is_shared(tmp_path)


@pytest.mark.parametrize("scope", ["shares!user", "tokens!user", "list:users", "access:servers", "admin:servers!user"])
def test_a_wider_scope_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scope: str) -> None:
    monkeypatch.setattr(test_configuration, "USER_SCOPES", [*USER_SCOPES, scope])
    with pytest.raises(AssertionError):
        test_configuration.test_nobody_is_an_administrator_and_nothing_is_shared(tmp_path)


@pytest.mark.parametrize("flag", ["httponly", "samesite", "secure"])
def test_a_cookie_without_a_flag_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    without = changed(lambda c: c.JupyterHub.tornado_settings["cookie_options"].pop(flag))
    monkeypatch.setattr(test_configuration, "configured", without)
    with pytest.raises(AssertionError):
        test_configuration.test_cookies_are_for_this_site_and_for_tls_where_there_is(
            tmp_path, "https://bulle.example.org", True
        )


@pytest.mark.parametrize(
    "policy",
    [
        "script-src 'self'; frame-ancestors 'none'",
        "default-src 'none'",
        "default-src 'none'; frame-ancestors 'none'; script-src 'unsafe-inline'",
        "default-src 'none'; frame-ancestors 'none'; script-src https://cdn.example.org",
        "default-src 'none'; frame-ancestors 'none'; img-src *",
    ],
)
def test_a_weaker_policy_of_the_hub_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str) -> None:
    headers = {"headers": {"Content-Security-Policy": policy}}
    monkeypatch.setattr(
        test_configuration, "configured", changed(lambda c: c.JupyterHub.tornado_settings.update(headers))
    )
    with pytest.raises(AssertionError):
        test_configuration.test_pages_carry_a_strict_policy(tmp_path)


def test_a_hub_that_listens_everywhere_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everywhere = changed(lambda c: c.JupyterHub.update(hub_bind_url="http://0.0.0.0:8081"))
    monkeypatch.setattr(test_configuration, "configured", everywhere)
    with pytest.raises(AssertionError, match=r"0\.0\.0\.0"):
        test_configuration.test_the_hub_listens_to_the_bridges_network_and_people_come_through_the_proxy(tmp_path)


def test_a_secret_on_the_proxys_command_line_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = proxy.arguments
    token = test_configuration.SECRETS["hub/proxy-token"]
    monkeypatch.setattr(proxy, "arguments", lambda settings: [*usual(settings), f"--auth-token={token}"])
    with pytest.raises(AssertionError):
        test_configuration.test_the_proxys_command_line_holds_no_secret(tmp_path)


# -- the spawner -----------------------------------------------------------------------------------------
def keep(self: BulleSpawner) -> None:
    """Options stay as the caller gave them."""


def obey(self: BulleSpawner) -> None:
    """Options are dropped, but first their environment is taken."""
    self.environment = self.user_options.get("environment", {})
    self.user_options = {}


@pytest.mark.parametrize("instead", [keep, obey])
def test_options_that_are_not_dropped_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instead: Callable[[BulleSpawner], None]
) -> None:
    monkeypatch.setattr(BulleSpawner, "_forget_options", instead)
    with pytest.raises(AssertionError):
        test_spawner.test_options_change_nothing(test_spawner.World(tmp_path, [*test_spawner.RIGHT]))


def test_without_the_list_of_names_the_hubs_environment_reaches_the_bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_spawner, "bridge_environment", dict)
    with pytest.raises(AssertionError, match="LD_PRELOAD"):
        test_spawner.test_negative_control_an_environment_from_outside_would_be_filtered()
    assert "LD_PRELOAD" not in spawner.BRIDGE_ENVIRONMENT


# -- the authority, which does not take the hub's word ----------------------------------------------------
def test_without_its_check_a_subject_is_told_under_anothers_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def believing(self: People, person: str, told: Person) -> PersonCard:
        return self._put(HUB, told.subject, told.display_name, told.email, replace=True)

    here = place(tmp_path)
    try:
        test_people.test_the_id_must_be_that_of_the_subject(here)
        monkeypatch.setattr(People, "login", believing)
        with NOT_REFUSED:
            test_people.test_the_id_must_be_that_of_the_subject(here)
    finally:
        here.store.close()


# -- traffic in clear -------------------------------------------------------------------------------------
class ClearProvider(config.Oidc):
    """A provider at any address."""

    @field_validator("issuer")
    @classmethod
    def _https_or_loopback(cls, issuer: str) -> str:
        return issuer


class InClear(config.Settings):
    """Settings in which an address away from loopback needs no TLS, and a provider no https."""

    oidc: ClearProvider

    @model_validator(mode="after")
    def _tls_away_from_loopback(self) -> InClear:
        return self


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"listen": "0.0.0.0:443"}, "tls must be set"),
        ({"oidc": {**test_config.GOOD["oidc"], "issuer": "http://login.example.org"}}, "oidc.issuer"),  # type: ignore[dict-item]
    ],
    ids=["listen", "issuer"],
)
def test_without_its_rule_a_setting_in_clear_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], named: str
) -> None:
    monkeypatch.setattr(config, "Settings", InClear)
    with NOT_REFUSED:
        test_config.test_a_wrong_setting_is_refused_by_name(tmp_path, change, named)

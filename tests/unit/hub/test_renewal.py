"""Who was removed at the login provider is out within an interval; a provider that is silent removes nobody."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from orchestrator.config import Oidc
from orchestrator.errors import BulleError, UnavailableError
from orchestrator.hub import claims as claims_module
from orchestrator.hub.authenticator import BulleAuthenticator
from orchestrator.hub.claims import LoginRefusedError, verify_id_token
from orchestrator.hub.renewal import GoneError, Login, Renewals, read_answer
from tests.unit.hub.tokens import CLIENT, ISSUER, RSA_KEY, public, token

SECONDS = 300


class User:
    """A login of the hub's."""

    def __init__(self, name: str, state: dict[str, Any] | None) -> None:
        self.name = name
        self.state = state

    async def get_auth_state(self) -> dict[str, Any] | None:
        return self.state

    async def save_auth_state(self, state: dict[str, Any] | None) -> None:
        self.state = state


class Here:
    """A hub whose provider and authority answer as a test says."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.answer: dict[str, Any] | BulleError = {"refresh_token": "second"}
        self.authority: BulleError | None = None
        self.ended: list[str] = []
        self.gone: list[str] = []
        self.used: list[str] = []
        self.renewals = Renewals(
            SECONDS,
            renew=self._renew,
            follow=self._follow,
            gone=self._gone,
            end=self._end,
            say=lambda told: None,
            clock=lambda: self.now,
        )
        self.user = User("ada", self.renewals.kept({"id_token": "x", "refresh_token": "first"}))

    async def _renew(self, refresh_token: str) -> dict[str, Any]:
        self.used.append(refresh_token)
        await asyncio.sleep(0)
        if isinstance(self.answer, BulleError):
            raise self.answer
        return self.answer

    async def _follow(self, login: Login, answer: Mapping[str, Any]) -> None:
        pass

    async def _gone(self, person: str) -> None:
        if self.authority is not None:
            raise self.authority
        self.gone.append(person)

    async def _end(self, login: Login) -> None:
        self.ended.append(login.name)

    def look(self, after: float = SECONDS) -> bool:
        self.now += after
        return asyncio.run(self.renewals.still_known(self.user))


@pytest.fixture
def here() -> Here:
    return Here()


def test_whoever_is_known_stays_and_the_fresh_token_is_kept(here: Here) -> None:
    assert here.look() and here.look()
    assert here.used == ["first", "second"]
    assert (here.ended, here.gone) == ([], [])
    assert here.user.state == {"id_token": "x", "refresh_token": "second", "answered": here.now}


def test_whoever_was_removed_is_out_everywhere(here: Here) -> None:
    here.answer = GoneError("no longer known")
    assert not here.look()
    assert (here.ended, here.gone, here.user.state) == (["ada"], ["ada"], None)


def test_an_authority_that_was_not_told_is_told_at_the_next_look(here: Here) -> None:
    here.answer, here.authority = GoneError("no longer known"), UnavailableError("down")
    assert not here.look()
    assert here.ended == ["ada"] and here.gone == []
    here.authority = None
    assert not here.look()
    assert here.gone == ["ada"] and here.user.state is None


def test_a_silent_provider_removes_nobody_and_ends_logins_after_a_while(here: Here) -> None:
    here.answer = UnavailableError("down")
    assert here.look() and here.look() and here.look()
    assert (here.ended, here.gone) == ([], [])
    assert not here.look()
    assert (here.ended, here.gone, here.user.state) == (["ada"], [], None)


def test_a_provider_that_answers_again_in_time_ends_nothing(here: Here) -> None:
    here.answer = UnavailableError("down")
    assert here.look() and here.look()
    here.answer = {}
    assert here.look()
    here.answer = UnavailableError("down")
    assert here.look() and here.look() and here.look()
    assert here.ended == []


def test_a_login_without_a_refresh_token_cannot_be_confirmed(here: Here) -> None:
    here.user.state = here.renewals.kept({"id_token": "x"})
    assert here.look(3 * SECONDS) and not here.look()
    assert here.ended == ["ada"] and here.used == []


def test_a_login_without_a_refresh_token_is_in_the_hubs_log() -> None:
    def warned(answer: dict[str, Any], seconds: int = 300) -> str:
        oidc = Oidc(issuer=ISSUER, client_id=CLIENT, client_secret_file=Path("/x"), refresh_seconds=seconds)
        made = BulleAuthenticator(oidc=oidc)
        told: list[str] = []
        made.log.error = lambda text, *values: told.append(text % values)  # type: ignore[method-assign]
        made._warn_of_no_refresh_token(answer)
        return "".join(told)

    assert "logins end after 900 s" in warned({"id_token": "x"})
    assert warned({"refresh_token": "x"}) == "" and warned({}, 0) == ""


@pytest.mark.parametrize("confirmed_before", [0.0, 1.0, 4.9])
def test_nobody_is_asked_about_later_than_an_interval_after_their_last_answer(
    here: Here, monkeypatch: pytest.MonkeyPatch, confirmed_before: float
) -> None:
    """A login, or a start, just before a look is left out of it; the next look still comes in time."""
    asked: list[float] = []

    async def sleep(seconds: float) -> None:
        if here.used:
            raise asyncio.CancelledError
        here.now += seconds
        if not asked:
            assert here.user.state is not None
            here.user.state["answered"] = here.now - confirmed_before
        asked.append(here.now)

    real = asyncio.sleep
    monkeypatch.setattr("orchestrator.hub.renewal.asyncio.sleep", lambda s: sleep(s) if s else real(0))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(here.renewals.watch(lambda: [here.user]))
    assert len(asked) == 2 and asked[-1] - (asked[0] - confirmed_before) <= SECONDS


def test_two_questions_at_once_use_a_token_once(here: Here) -> None:
    """A provider takes a token that comes twice for a stolen one."""

    async def both() -> list[bool]:
        return await asyncio.gather(*(here.renewals.still_known(here.user) for _ in range(5)))

    here.now += SECONDS
    assert asyncio.run(both()) == [True] * 5
    assert here.used == ["first"]


def test_negative_control_without_one_at_a_time_a_token_is_used_again(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Open:
        async def __aenter__(self) -> None: ...
        async def __aexit__(self, *error: object) -> None: ...

    monkeypatch.setattr(here.renewals, "_one_at_a_time", {"ada": Open()})
    with pytest.raises(AssertionError):
        test_two_questions_at_once_use_a_token_once(here)


def test_one_persons_trouble_does_not_hide_the_others(here: Here) -> None:
    class Broken(User):
        async def get_auth_state(self) -> dict[str, Any] | None:
            raise RuntimeError("cannot be decrypted")

    here.answer = GoneError("no longer known")
    here.now += SECONDS
    asyncio.run(here.renewals.look([Broken("ben", {}), here.user]))
    assert here.gone == ["ada"]


# -- what an answer means ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("status", "body", "means"),
    [
        (400, {"error": "invalid_grant"}, GoneError),
        (401, {"error": "invalid_grant"}, GoneError),
        (401, {"error": "invalid_client"}, UnavailableError),
        (400, {"error": "invalid_request"}, UnavailableError),
        (500, {"error": "invalid_grant"}, UnavailableError),
        (599, None, UnavailableError),
        (502, "<html>", UnavailableError),
        (200, "<html>", UnavailableError),
        (200, [1], UnavailableError),
        (200, {"error": "slow_down"}, UnavailableError),
    ],
)
def test_only_one_word_means_that_a_person_is_gone(status: int, body: object, means: type[BulleError]) -> None:
    sent = body.encode() if isinstance(body, str) else b"" if body is None else json.dumps(body).encode()
    with pytest.raises(means):
        read_answer(status, sent)


# -- a provider that is really asked ----------------------------------------------------------------------------------
class Provider(BaseHTTPRequestHandler):
    """One with accounts: a refresh token is the name of one."""

    accounts: dict[str, list[str]]
    issuer: str
    asked: list[dict[str, list[str]]]

    def do_GET(self) -> None:
        issuer = self.issuer
        document = {name: f"{issuer}/{name}" for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")}
        self._send(200, {"issuer": issuer, **document} if "well-known" in self.path else {"keys": [KEY]})

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
        self.asked.append(form)
        name = form["refresh_token"][0]
        if name not in self.accounts:
            self._send(400, {"error": "invalid_grant"})
            return
        fresh = token(sub=name, iss=self.issuer, nonce=None, groups=self.accounts[name])
        self._send(200, {"id_token": fresh, "refresh_token": name, "access_token": "x"})

    def _send(self, status: int, value: object) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def log_message(self, *told: object) -> None: ...


KEY = public(RSA_KEY, "one")


@pytest.fixture
def provider() -> Iterator[type[Provider]]:
    made = type("Made", (Provider,), {"accounts": {"ada": ["it"]}, "asked": []})
    server = HTTPServer(("127.0.0.1", 0), made)
    made.issuer = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield made
    server.shutdown()
    server.server_close()


def test_a_provider_is_asked_and_believed_by_its_signature(
    provider: type[Provider], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, list[str]]] = []
    gone: list[str] = []
    ended: list[str] = []

    class Authority:
        def __init__(self, socket: Path) -> None: ...
        async def __aenter__(self) -> Authority:
            return self

        async def __aexit__(self, *error: object) -> None: ...
        async def person_follow(self, person: str, groups: list[str]) -> None:
            told.append((person, groups))

        async def person_gone(self, person: str) -> None:
            gone.append(person)

    async def end(user: Any) -> None:
        ended.append(user.name)

    monkeypatch.setattr("orchestrator.hub.authenticator.AsyncAuthorityClient", Authority)
    oidc = Oidc(
        issuer=provider.issuer, client_id=CLIENT, client_secret_file=Path("/x"), group_roles={"it": "administrator"}
    )
    login = {"id_token": "x", "refresh_token": "ada", "answered": 0}

    async def run() -> None:
        made = BulleAuthenticator(oidc=oidc, client_id=CLIENT, client_secret="s", authority_socket="/x")
        monkeypatch.setattr(made.renewals, "_end", end)
        user = User("ada", dict(login))
        assert await made.refresh_user(user)
        assert told == [("ada", ["it"])] and provider.asked[0]["grant_type"] == ["refresh_token"]
        # fresh tokens about somebody else are no answer about this person
        other = User("ben", dict(login))
        await made.refresh_user(other)
        assert told == [("ada", ["it"])] and gone == []
        ended.clear()
        # removed there
        provider.accounts = {}
        assert user.state is not None
        user.state["answered"] = 0
        assert not await made.refresh_user(user)
        assert (gone, ended, user.state) == (["ada"], ["ada"], None)

    asyncio.run(run())


def test_a_deployment_may_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    oidc = Oidc(issuer=ISSUER, client_id=CLIENT, client_secret_file=Path("/x"), refresh_seconds=0)
    assert asyncio.run(BulleAuthenticator(oidc=oidc).refresh_user(User("ada", None)))


def test_fresh_tokens_need_no_nonce_and_a_login_does() -> None:
    key = claims_module.jwt.PyJWK(KEY)
    fresh = token(nonce=None)
    assert verify_id_token(fresh, key, issuer=ISSUER, client_id=CLIENT, nonce=None)["sub"] == "ada"
    with pytest.raises(LoginRefusedError):
        verify_id_token(fresh, key, issuer=ISSUER, client_id=CLIENT, nonce="n" * 32)

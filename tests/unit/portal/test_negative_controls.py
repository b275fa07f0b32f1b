"""Negative controls of the portal: each takes one control away and sees the very test of that control fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from orchestrator.portal import application, look
from orchestrator.portal.application import SESSION_COOKIE, Page, Portal
from orchestrator.portal.hub import PREFIX
from orchestrator.portal.sessions import Login, Session, Sessions
from tests.unit.portal import test_application as portal
from tests.unit.portal.test_application import DANGEROUS, World, a_world


@pytest.fixture(name="world")
def made_world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path) as made:
        yield made


FORMS = ["open/doctor-visits", "stop/doctor-visits", "logout"]


# -- who gets in -----------------------------------------------------------------------------------------
def test_without_the_guard_a_stranger_gets_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unguarded(self: Portal, serve: Page, **_: Any) -> Any:
        async def served(request: Request) -> Response:
            return await serve(request, Session("", "ada", "token-of-ada", 0.0))

        return served

    monkeypatch.setattr(Portal, "own", unguarded)
    with a_world(tmp_path) as world:
        with pytest.raises(AssertionError):
            portal.test_every_route_that_is_not_open_sends_a_stranger_away(world)
        assert "Dr ada" in world.client.get(PREFIX).text, "a stranger reads somebody's page"


def test_one_route_without_the_guard_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that somebody forgot: all others are guarded as they are."""
    guard = Portal.own

    def forgetful(self: Portal, serve: Page, **options: Any) -> Any:
        async def served(request: Request) -> Response:
            return await serve(request, Session("", "ada", "token-of-ada", 0.0))

        return served if serve == self.about else guard(self, serve, **options)

    monkeypatch.setattr(Portal, "own", forgetful)
    with a_world(tmp_path) as world, pytest.raises(AssertionError, match="about"):
        portal.test_every_route_that_is_not_open_sends_a_stranger_away(world)


def test_without_the_cookie_of_a_login_another_browser_finishes_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = Sessions.finish_login

    def any_browser(self: Sessions, state: str, cookie: str | None) -> Login | None:
        return finish(self, state, state)

    monkeypatch.setattr(Sessions, "finish_login", any_browser)
    with pytest.raises(AssertionError, match=SESSION_COOKIE):
        portal.test_a_login_that_another_browser_began_is_not_finished(world)


def test_a_portal_that_remembers_the_hubs_answer_keeps_what_was_taken_back(world: World) -> None:
    asked, remembered = world.hub.person_of, {"token-of-ada": "ada"}

    async def person_of(token: str) -> str | None:
        return remembered.get(token) or await asked(token)

    world.hub.person_of = person_of  # type: ignore[method-assign]
    with pytest.raises(AssertionError):
        portal.test_a_token_that_the_hub_took_back_ends_the_session_at_once(world)
    world.client.cookies.clear()
    with pytest.raises(AssertionError):
        portal.test_a_token_of_somebody_else_under_a_session_is_not_accepted(world)


def test_a_portal_that_takes_any_id_lets_a_made_up_session_in(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def believing(self: Sessions, session_id: str | None) -> Session | None:
        return Session(session_id, "ada", "token-of-ada", 0.0) if session_id else None

    monkeypatch.setattr(Sessions, "find", believing)
    with pytest.raises(AssertionError):
        portal.test_a_made_up_session_is_a_stranger(world)


def test_a_portal_that_keeps_the_id_of_before_shares_a_login(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Sessions.open

    def keeping(self: Sessions, person: str, token: str) -> Session:
        session = Session("planted", person, token, begin(self, person, token).began)
        self._sessions[session.id] = session
        return session

    monkeypatch.setattr(Sessions, "open", keeping)
    with pytest.raises((AssertionError, KeyError)):  # whose page it is, or none to log in to
        portal.test_a_session_that_was_planted_before_the_login_is_not_the_one_after_it(world)


def test_cookies_without_their_flags_are_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def bare(self: Portal, answer: Response, name: str, value: str, seconds: int) -> None:
        answer.set_cookie(name, value, path=PREFIX, samesite=None)

    monkeypatch.setattr(Portal, "_set_cookie", bare)
    with pytest.raises(AssertionError, match="HttpOnly"):
        portal.test_a_login_leads_back_to_where_it_began(world)


def test_a_way_back_that_is_not_checked_leads_elsewhere(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "_back", lambda referer, public_url: referer or PREFIX)
    with pytest.raises(AssertionError, match=r"evil\.example\.org"):
        portal.test_a_language_is_kept_and_leads_back(world, "https://evil.example.org/services/portal/about", PREFIX)


# -- forms -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", FORMS)
def test_without_the_token_a_form_from_elsewhere_is_done(
    world: World, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(Sessions, "form_fits", staticmethod(lambda session, given: True))
    with pytest.raises(AssertionError, match="403"):
        portal.test_a_form_from_elsewhere_does_nothing(world, path)


def test_without_the_token_another_sessions_form_starts_a_workspace(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sessions, "form_fits", staticmethod(lambda session, given: True))
    with pytest.raises(AssertionError, match="403"):
        portal.test_the_token_of_another_session_does_not_fit(world)


@pytest.mark.parametrize("path", FORMS)
def test_without_the_origin_a_form_that_another_site_sends_with_the_token_is_done(
    world: World, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    check = Portal._form_is_own

    async def wherever(self: Portal, request: Request, session: Session, largest: int) -> bool:
        headers = [(name, value) for name, value in request.scope["headers"] if name != b"sec-fetch-site"]
        bare = Request({**request.scope, "headers": headers}, request.receive)
        return await check(self, bare, session, largest)

    monkeypatch.setattr(Portal, "_form_is_own", wherever)
    with pytest.raises(AssertionError, match="403"):
        portal.test_a_form_from_elsewhere_does_nothing(world, path)


# -- pages -----------------------------------------------------------------------------------------------
def test_without_escaping_a_purpose_is_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "select_autoescape", lambda **_: False)
    with a_world(tmp_path) as world:
        with pytest.raises(AssertionError):
            portal.test_texts_from_outside_stay_texts(world)
        assert DANGEROUS in world.client.get(PREFIX).text


@pytest.mark.parametrize(
    "policy", [b"script-src 'self'", look.HEADERS[b"content-security-policy"] + b"; style-src 'unsafe-inline'"]
)
def test_a_weaker_policy_is_seen(world: World, monkeypatch: pytest.MonkeyPatch, policy: bytes) -> None:
    monkeypatch.setitem(look.HEADERS, b"content-security-policy", policy)
    with pytest.raises(AssertionError, match=r"default-src|unsafe"):
        portal.test_every_answer_carries_the_policy(world)


def test_answers_without_the_policy_are_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(look.HEADERS, b"content-security-policy")
    with pytest.raises(KeyError, match="content-security-policy"):
        portal.test_every_answer_carries_the_policy(world)

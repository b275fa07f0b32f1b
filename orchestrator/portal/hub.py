"""The hub as the portal meets it: logging in through it, and a person's servers with their own token."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import httpx
from jupyterhub.services.auth import HubOAuth

from orchestrator.errors import BulleError, ConflictError, NotFoundError, RefusedError, UnavailableError, from_wire

PREFIX = "/services/portal/"
CLIENT_ID = "service-portal"
SCOPE = "access:services!service=portal"

_KINDS: dict[int, type[BulleError]] = {400: ConflictError, 404: NotFoundError, 401: RefusedError, 403: RefusedError}


@dataclass(frozen=True)
class Server:
    """One of a person's workspaces, as the hub sees it."""

    name: str
    ready: bool
    #: ``spawn``, ``stop`` or None
    pending: str | None


def server_url(person: str, slug: str) -> str:
    """Where the person's workspace in a project is shown."""
    return f"/user/{quote(person, safe='@~')}/{quote(slug, safe='')}/"


class Hub:
    """Calls on the hub's API at ``url``; ``api_token`` is the portal's own, good for logging people in."""

    def __init__(self, url: str, api_token: str) -> None:
        self._api = f"{url}/hub/api"
        self._http = httpx.AsyncClient(base_url=self._api, timeout=httpx.Timeout(30.0, connect=5.0), trust_env=False)
        self._oauth = HubOAuth(
            api_url=self._api,
            api_token=api_token,
            base_url=PREFIX,
            hub_prefix="/hub/",
            oauth_client_id=CLIENT_ID,
            oauth_redirect_uri=f"{PREFIX}oauth_callback",
            access_scopes={SCOPE},
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    # -- logging in --------------------------------------------------------------------------------
    def new_verifier(self) -> tuple[str, str]:
        """A PKCE verifier and its challenge."""
        verifier, challenge, _ = self._oauth.generate_pkce_code_challenge()
        return str(verifier), str(challenge)

    def login_url(self, state: str, challenge: str) -> str:
        """Where the browser goes to log in."""
        query = {"state": state, "code_challenge": challenge, "code_challenge_method": "S256"}
        return f"{self._oauth.login_url}&{urlencode(query)}"

    async def token_for(self, code: str, verifier: str) -> str:
        """The person's token for the code that the hub gave the browser.

        Raises:
            UnavailableError: the hub gives none.
        """
        try:
            return str(await self._oauth.token_for_code(code, code_verifier=verifier, sync=False))
        except Exception as error:
            raise UnavailableError(f"the hub does not accept the login: {type(error).__name__}") from error

    async def person_of(self, token: str) -> str | None:
        """Whose token this is now; None when it is nobody's any more, or not good for the portal.

        The hub is asked every time, so that logging out anywhere holds here at once.

        Raises:
            UnavailableError: the hub does not answer.
        """
        try:
            answer = await self._http.get("/user", headers=_bearer(token))
        except httpx.HTTPError as error:
            raise _silent(error) from error
        if answer.status_code in (401, 403):
            return None
        model = _model(answer)
        if model.get("kind") != "user" or not self._oauth.check_scopes({SCOPE}, model):
            return None
        return str(model["name"])

    # -- servers -----------------------------------------------------------------------------------
    async def servers(self, token: str, person: str) -> dict[str, Server]:
        """The person's servers that run, start or stop, by name.

        Raises:
            UnavailableError: the hub does not answer.
        """
        try:
            answer = await self._http.get(f"/users/{_word(person)}", headers=_bearer(token))
        except httpx.HTTPError as error:
            raise _silent(error) from error
        return {
            name: Server(name, bool(found.get("ready")), found.get("pending"))
            for name, found in (_model(answer).get("servers") or {}).items()
            if name
        }

    async def start(self, token: str, person: str, slug: str) -> None:
        """Ask for a start; it goes on while this returns. One that is under way already is left to go on.

        Raises:
            BulleError: the hub refuses, or does not answer.
        """
        await self._order("POST", token, person, slug)

    async def stop(self, token: str, person: str, slug: str) -> None:
        """Stop a server, or break off its start.

        Raises:
            BulleError: the hub refuses, or does not answer.
        """
        await self._order("DELETE", token, person, slug)

    async def _order(self, method: str, token: str, person: str, slug: str) -> None:
        path = f"/users/{_word(person)}/servers/{_word(slug)}"
        try:
            answer = await self._http.request(method, path, headers=_bearer(token), content=b"", timeout=60.0)
        except httpx.HTTPError as error:
            raise _silent(error) from error
        if answer.is_success:
            return
        message = str(_model(answer, any_status=True).get("message") or f"the hub answered {answer.status_code}")
        # A start that failed says why in the status line's words (orchestrator.hub.spawner.failure).
        told = from_wire(answer.reason_phrase, message)
        if type(told) is not BulleError:
            raise told
        raise _KINDS.get(answer.status_code, UnavailableError)(message)

    async def progress(self, token: str, person: str, slug: str) -> AsyncGenerator[dict[str, Any]]:
        """The events of a start as the hub tells them; ends when the start does.

        Raises:
            NotFoundError: nothing is starting.
            UnavailableError: the hub does not answer.
        """
        path = f"/users/{_word(person)}/servers/{_word(slug)}/progress"
        try:
            async with self._http.stream(
                "GET", path, headers=_bearer(token), timeout=httpx.Timeout(None, connect=5.0)
            ) as answer:
                if answer.status_code in (400, 404):
                    raise NotFoundError("nothing is starting")
                if answer.status_code != 200:
                    raise UnavailableError(f"the hub answered {answer.status_code}")
                async for line in answer.aiter_lines():
                    if line.startswith("data:"):
                        event = json.loads(line[5:])
                        if isinstance(event, dict):
                            yield event
        except httpx.HTTPError as error:
            raise _silent(error) from error


def _word(name: str) -> str:
    # Nothing in a name may become another path.
    if name in ("", ".", ".."):
        raise NotFoundError(f"'{name}' names nothing")
    return quote(name, safe="")


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"token {token}"}


def _silent(error: httpx.HTTPError) -> BulleError:
    return UnavailableError(f"the hub does not answer: {type(error).__name__}")


def _model(answer: httpx.Response, *, any_status: bool = False) -> dict[str, Any]:
    try:
        model = answer.json()
    except ValueError:
        model = None
    if not isinstance(model, dict) or not (any_status or answer.is_success):
        if any_status:
            return {}
        raise UnavailableError(f"the hub answered {answer.status_code}")
    return model

"""Whether the login provider still knows who is logged in: asked every so often, and again before each start.

The provider is asked for fresh tokens with the refresh token of the login. What it answers, and what follows:

* fresh tokens: the person is known, and their groups are followed;
* ``invalid_grant`` (RFC 6749, 5.2): the person was removed or disabled, or their login revoked. They are out: the
  authority is told, which ends their workspaces, and their logins end on the server's side;
* anything else is no answer. A provider that is down for a while must not end anybody's work, so workspaces run on; but
  after three times the interval logins end, as by a log-out: who cannot be confirmed sees nothing until they log in.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol

from orchestrator.errors import BulleError, UnavailableError

#: intervals without an answer after which a login ends
PATIENCE = 3
#: seconds within which an answer is not asked for again; half an interval where that is less
RECENT = 5.0
#: people asked about at once
_AT_ONCE = 8


class GoneError(BulleError):
    """The provider no longer knows the person, or not this login of theirs."""

    code = "gone"


class Login(Protocol):
    """A user of the hub, as far as it matters here."""

    name: str

    async def get_auth_state(self) -> dict[str, Any] | None:
        """What was kept, encrypted, of the login."""

    async def save_auth_state(self, state: dict[str, Any] | None) -> None:
        """Keep this instead."""


def read_answer(status: int, body: bytes) -> dict[str, Any]:
    """The fresh tokens in a provider's answer to a refresh token.

    Raises:
        GoneError: it says that the login is no longer good.
        UnavailableError: it says nothing that can be relied on.
    """
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise UnavailableError(f"the login service gives no usable answer (status {status})")
    # Only this word means that the person is out. A wrong client secret, or a page of a proxy, says nothing of them.
    if status in (400, 401) and said.get("error") == "invalid_grant":
        raise GoneError("the login service no longer knows this login")
    if status != 200 or "error" in said:
        raise UnavailableError(f"the login service gives no usable answer (status {status})")
    return said


class Renewals:
    """Asks again about people who are logged in."""

    def __init__(
        self,
        seconds: float,
        *,
        renew: Callable[[str], Awaitable[dict[str, Any]]],
        follow: Callable[[Login, Mapping[str, Any]], Awaitable[None]],
        gone: Callable[[str], Awaitable[None]],
        end: Callable[[Login], Awaitable[None]],
        say: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``renew`` asks the provider; ``follow`` checks and tells what it says of a person, ``gone`` that they are
        out; ``end`` ends the person's logins on the server's side.
        """
        self._seconds = seconds
        self._recent = min(RECENT, seconds / 2)
        self._renew, self._follow, self._gone, self._end, self._say = renew, follow, gone, end, say
        self._clock = clock
        # A refresh token works once where the provider rotates them: two questions at once would look like a theft.
        self._one_at_a_time: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def kept(self, answer: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What is kept of a login, encrypted: two tokens, and when the provider last answered."""
        old = before or {}
        return {
            "id_token": answer.get("id_token") or old.get("id_token", ""),
            "refresh_token": answer.get("refresh_token") or old.get("refresh_token", ""),
            "answered": self._clock(),
        }

    async def still_known(self, login: Login) -> bool:
        """Whether the login is still good; where it is not, it is ended when this returns."""
        async with self._one_at_a_time[login.name]:
            state = await login.get_auth_state()
            if not state:
                return False
            silent = self._clock() - float(state.get("answered", 0))
            if silent < self._recent:
                return True
            try:
                if not state.get("refresh_token"):
                    raise UnavailableError("the login service gave no refresh token", hint="see docs/login.md")
                answer = await self._renew(state["refresh_token"])
                # Kept before anything else can fail: the token that was used may be worth nothing from now on.
                await login.save_auth_state(self.kept(answer, state))
                await self._follow(login, answer)
            except GoneError:
                return await self._out(login)
            except BulleError as error:
                self._say(f"{login.name} could not be confirmed: {error}")
                if silent <= PATIENCE * self._seconds:
                    return True
                await self._end(login)
                await login.save_auth_state(None)
                return False
            return True

    async def _out(self, login: Login) -> bool:
        self._say(f"{login.name} is no longer known to the login service")
        await self._end(login)
        try:
            await self._gone(login.name)
        except BulleError as error:
            # What was kept stays, so that it is asked, and told, again: else their workspaces would run on.
            self._say(f"the authority was not told that {login.name} is gone: {error}")
            return False
        await login.save_auth_state(None)
        return False

    async def look(self, logins: Iterable[Login]) -> None:
        """Ask about each of them, once."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(login: Login) -> None:
            async with gate:
                try:
                    await self.still_known(login)
                except Exception as error:  # noqa: BLE001 - one person's trouble must not hide the others'
                    self._say(f"{login.name} was not looked at: {type(error).__name__}")

        await asyncio.gather(*(one(login) for login in logins))

    async def watch(self, logins: Callable[[], Iterable[Login]]) -> None:
        """Ask about everybody who is logged in, for ever."""
        while True:
            # Whoever was asked about just before a look is left out of it: even so the next one comes in time.
            await asyncio.sleep(self._seconds - self._recent)
            try:
                await self.look(list(logins()))
            except Exception as error:  # noqa: BLE001 - the watch goes on
                self._say(f"logins were not looked at: {type(error).__name__}")

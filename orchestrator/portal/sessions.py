"""Who is logged in to the portal: kept in memory, so that logging out and restarting leave nothing behind.

The browser holds a random id only. The hub's token stays here: a stolen cookie is worth nothing once the
person is logged out, and no page, script or browser extension ever sees a token.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

#: seconds after which a session ends, however busy it is (as the hub's own does)
SESSION_SECONDS = 12 * 3600.0
#: seconds in which a login must be finished
LOGIN_SECONDS = 600.0
#: logins under way, at most; the oldest is dropped, so that nobody fills the memory with them
LOGINS = 10_000
#: pages that a session keeps something to say for, at most; the oldest is dropped
TOLD = 8


def _token() -> str:
    return secrets.token_urlsafe(32)


@dataclass(frozen=True)
class Told:
    """What a page says once after a form: what came of it, or what is wrong with what was typed.

    ``form`` is the id of the form on the page; ``values`` are what was typed into it, ``faults`` what is wrong, by
    field. Kept here and never in an address: an address is in histories and logs, and could be made up by anybody.
    """

    tone: Literal["good", "calm", "warn", "bad"]
    message: str
    form: str = ""
    values: Mapping[str, list[str]] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Session:
    """One login of one person in one browser."""

    id: str
    person: str
    token: str
    began: float
    #: what every form must carry (see :meth:`Sessions.form_fits`)
    form_token: str = field(default_factory=_token)
    _told: OrderedDict[str, Told] = field(default_factory=OrderedDict, repr=False, compare=False)

    def tell(self, page: str, told: Told) -> None:
        """Have the page at this path say something, the next time it is shown."""
        self._told[page] = told
        self._told.move_to_end(page)
        while len(self._told) > TOLD:
            self._told.popitem(last=False)

    def told(self, page: str) -> Told | None:
        """What the page at this path has to say, once."""
        return self._told.pop(page, None)


@dataclass(frozen=True)
class Login:
    """A login under way: where it began, and the secret that proves to the hub that it is the same (PKCE)."""

    state: str
    next_path: str
    verifier: str
    began: float


class Sessions:
    """The sessions and logins of this process. For one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._logins: OrderedDict[str, Login] = OrderedDict()

    def begin_login(self, next_path: str, verifier: str) -> Login:
        """Remember a login that is about to be made."""
        login = Login(_token(), next_path, verifier, self._clock())
        self._logins[login.state] = login
        while len(self._logins) > LOGINS:
            self._logins.popitem(last=False)
        return login

    def finish_login(self, state: str, cookie: str | None) -> Login | None:
        """The login that ``state`` names, once, if the browser that comes back is the one that began it.

        Stops somebody from logging a victim's browser in as somebody else (RFC 6749, section 10.12).
        """
        login = self._logins.pop(state, None)
        if login is None or cookie is None or not hmac.compare_digest(cookie.encode(), state.encode()):
            return None
        return login if self._clock() - login.began <= LOGIN_SECONDS else None

    def open(self, person: str, token: str) -> Session:
        """Begin a session. Its id is always new, so that none can be planted before the login."""
        now = self._clock()
        for found in [s for s in self._sessions.values() if now - s.began > SESSION_SECONDS]:
            del self._sessions[found.id]
        session = Session(_token(), person, token, now)
        self._sessions[session.id] = session
        return session

    def find(self, session_id: str | None) -> Session | None:
        """The session of that id, if it is not over."""
        found = self._sessions.get(session_id or "")
        if found is not None and self._clock() - found.began > SESSION_SECONDS:
            self.close(found)
            return None
        return found

    def close(self, session: Session) -> None:
        """End a session."""
        self._sessions.pop(session.id, None)

    @staticmethod
    def form_fits(session: Session, given: str | None) -> bool:
        """Whether a form came from a page of this session.

        Stops another site from starting or stopping a workspace through the person's browser (CSRF);
        tests/unit/portal/test_application.py leaves the token out.
        """
        return given is not None and hmac.compare_digest(given.encode(), session.form_token.encode())

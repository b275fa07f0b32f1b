"""Who is there: JupyterHub's own OAuth client, made stricter.

Importing ``jupyterhub.services.auth`` drags in the hub's database layer (SQLAlchemy, Alembic), which a client of the
hub never uses: half a second and 30 MB in every workspace. :func:`_without_database` keeps it out; if a later
JupyterHub needs it after all, the import fails when the image is tested, not when somebody logs in.
"""

from __future__ import annotations

import sys
from enum import Enum
from types import ModuleType
from typing import Any


def _without_database() -> None:
    """Put empty modules where the hub's database layer would be, unless it is loaded already."""
    import jupyterhub  # noqa: PLC0415 (its submodules are to be imported after this)

    if "jupyterhub.orm" in sys.modules or "sqlalchemy" in sys.modules:
        return
    for name in ("sqlalchemy", "sqlalchemy.exc", "jupyterhub.orm", "jupyterhub.roles"):
        sys.modules[name] = ModuleType(name)
    sys.modules["sqlalchemy"].__path__ = []
    sys.modules["sqlalchemy.exc"].SQLAlchemyError = Exception  # type: ignore[attr-defined]
    # An optional resolver of names in C; the hub is reached by its address.
    sys.modules["aiodns"] = None  # type: ignore[assignment]
    jupyterhub.orm, jupyterhub.roles = sys.modules["jupyterhub.orm"], sys.modules["jupyterhub.roles"]


_without_database()

from jupyterhub._version import __version__ as HUB_VERSION  # noqa: E402, N812
from jupyterhub.httpclient import fetch  # noqa: E402
from jupyterhub.services.auth import HubOAuth, HubOAuthCallbackHandler, HubOAuthenticated  # noqa: E402
from jupyterhub.utils import get_browser_protocol  # noqa: E402

__all__ = [
    "HUB_VERSION",
    "HubOAuthCallbackHandler",
    "HubOAuthenticated",
    "HubUnavailableError",
    "Login",
    "Own",
    "Visitor",
    "fetch",
    "get_browser_protocol",
]


class HubUnavailableError(Exception):
    """The hub did not say whether a person may come in. They may not; they may ask again."""


class Login(HubOAuth):
    """HubOAuth with one way in, the browser's cookie, and one way on, the desktop page."""

    def get_token(self, handler: Any, in_cookie: bool = True) -> Any:
        """The token in the cookie, and no other.

        Attack: a token in an address (``?token=``), which ends in histories and logs, or another token of the same
        person, which outlives their logging out.
        """
        return self._get_token_cookie(handler) if in_cookie else ""

    def get_next_url(self, state_id: str = "", /) -> str:
        """After login, always the desktop page. Attack: a link that logs in and leads elsewhere (open redirect)."""
        return str(self.base_url)

    def set_cookie(self, handler: Any, access_token: str) -> None:
        """Keep the token in a cookie that no script reads and no other site sends.

        Attack: a script that steals the token (HttpOnly); another site's page that opens the websocket with it
        (SameSite; the origin check stands behind it).
        """
        handler.set_secure_cookie(
            self.cookie_name,
            access_token,
            path=self.cookie_path,
            httponly=True,
            samesite="Lax",
            secure=get_browser_protocol(handler.request) == "https",
        )


class Visitor(Enum):
    """Who a token says is there."""

    OWN = "the workspace's own person"
    OTHER = "somebody else, known to the hub"
    NOBODY = "nobody the hub knows"


class Own:
    """Decides whether a token is that of the workspace's own person."""

    def __init__(self, login: Login, user: str) -> None:
        self.login = login
        self.user = user

    async def who(self, token: str | None, session_id: str, *, fresh: bool = False) -> Visitor:
        """Whose ``token`` this is now. ``OWN`` needs the workspace's person and this server's scope.

        Attack: an administrator, or somebody a server was shared with, who looks at another person's desktop. The
        scope alone would let both in, so the name is compared too.

        Raises:
            HubUnavailableError: the hub gave no answer.
        """
        if not token:
            return Visitor.NOBODY
        try:
            model = await self.login.user_for_token(token, use_cache=not fresh, session_id=session_id, sync=False)
        except Exception as error:  # tornado's HTTPError, and whatever a network brings
            raise HubUnavailableError(type(error).__name__) from error
        if not model:
            return Visitor.NOBODY
        scopes = self.login.access_scopes
        # no scope configured would mean "everybody" to HubOAuth: here it means nobody
        in_scope = bool(scopes) and bool(self.login.check_scopes(scopes, model))
        own = model.get("kind") == "user" and model.get("name") == self.user
        return Visitor.OWN if own and in_scope else Visitor.OTHER

"""What the bridge serves besides the websocket: the desktop page, its files, and the end of a login.

``<prefix>`` is the desktop page, ``<prefix>oauth_callback`` the end of a login, ``<prefix>session`` what the page asks
before it reconnects; the page's files are below ``<prefix>files/<version>/``. Everything but the callback is for the
workspace's own person; a page sends others to log in, all else answers 403.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import secrets
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from tornado.web import Application, HTTPError, RequestHandler, StaticFileHandler

from orchestrator.workspaces.gateway import access
from orchestrator.workspaces.gateway.hub_login import (
    HUB_VERSION,
    HubOAuthCallbackHandler,
    HubOAuthenticated,
    HubUnavailableError,
    Visitor,
)
from orchestrator.workspaces.gateway.relay import MAX_MESSAGE, RelayHandler

if TYPE_CHECKING:
    from orchestrator.workspaces.gateway.bridge import Bridge

_PAGE = Path(__file__).parent / "page"
_BUILT = ("desktop.js", "style.css")

_REFUSALS = {
    "en": {
        403: ("This is not your workspace", "A workspace opens only for the person whose it is."),
        503: (
            "One moment, please",
            "The service that checks who you are does not answer. Try again shortly.",
        ),
        0: ("This page is not available", "Go back and try again."),
        "home": "Back to your projects",
    },
    "fr": {
        403: (
            "Cet espace de travail n’est pas le vôtre",
            "Il ne s’ouvre que pour la personne à qui il appartient.",
        ),
        503: (
            "Un instant, s’il vous plaît",
            "Le service qui vérifie votre identité ne répond pas. Réessayez bientôt.",
        ),
        0: ("Cette page n’est pas disponible", "Revenez en arrière et réessayez."),
        "home": "Retour à vos projets",
    },
}


class _Guarded(HubOAuthenticated, RequestHandler):
    """A handler that answers the workspace's own person alone."""

    bridge: Bridge

    def initialize(self, bridge: Bridge) -> None:
        self.bridge = bridge
        self.hub_auth = bridge.own.login

    def set_default_headers(self) -> None:
        for name, value in access.HEADERS.items():
            self.set_header(name, value)
        self.set_header("X-JupyterHub-Version", HUB_VERSION)
        self.clear_header("Server")

    def get_current_user(self) -> None:
        """Never asked: :meth:`prepare` decides, without blocking."""
        return

    async def visitor(self) -> Visitor:
        own = self.bridge.own
        try:
            return await own.who(own.login.get_token(self), own.login.get_session_id(self))
        except HubUnavailableError as error:
            raise HTTPError(503) from error

    async def prepare(self) -> None:
        if self.request.method not in ("GET", "HEAD") or not access.own_page_asks(self.request.headers):
            raise HTTPError(403)
        if await self.visitor() is not Visitor.OWN:
            raise HTTPError(403)

    def refusal(self, status: int) -> str:
        """A page that says why not, in the visitor's language."""
        language = access.language(self.request.headers.get("Accept-Language", ""))
        words = _REFUSALS[language]
        title, text = words.get(status, words[0])
        css = (_PAGE / "refusal.css").read_text(encoding="utf-8")
        # The one style in a page: nobody but the workspace's person may have the style sheet.
        digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
        policy = access.HEADERS["Content-Security-Policy"]
        self.set_header("Content-Security-Policy", policy.replace("style-src 'self'", f"style-src 'sha256-{digest}'"))
        return _file("refusal.html").substitute(
            language=language,
            title=title,
            text=text,
            home=html.escape(self.bridge.own.login.hub_prefix),
            home_words=words["home"],
            css=css,
        )

    def write_error(self, status_code: int, **_: Any) -> None:
        if self.request.headers.get("Sec-Fetch-Mode") == "navigate":
            self.finish(self.refusal(status_code))
        else:
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            self.finish(f"{status_code}\n")


class DesktopHandler(_Guarded):
    """The desktop page, in full or not at all; others are sent to log in."""

    async def prepare(self) -> None:  # noqa: D102
        if self.request.method not in ("GET", "HEAD"):
            raise HTTPError(403)
        visitor = await self.visitor()
        if visitor is Visitor.NOBODY:
            self.redirect(self.get_login_url())
        elif visitor is Visitor.OTHER:
            # Not to the login: the hub would send them straight back, for ever.
            self.hub_auth.clear_cookie(self)
            raise HTTPError(403)

    def get(self) -> None:  # noqa: D102
        session = self.bridge.session
        files: Files = self.settings["files"]
        told = {
            "person": session.display_name,
            "project": session.project_title,
            "pasteIn": session.paste_in,
            "endsAt": session.ends_at.isoformat(),
            "home": self.bridge.own.login.hub_prefix,
            "base": session.prefix,
        }
        self.finish(
            _file("desktop.html").substitute(
                language=access.language(self.request.headers.get("Accept-Language", "")),
                title=html.escape(session.project_title),
                session=html.escape(json.dumps(told)),
                files=html.escape(files.url),
            )
        )

    head = get


class SessionHandler(_Guarded):
    """Whether the session is there; asked before a reconnection."""

    def get(self) -> None:  # noqa: D102
        self.finish({"running": not self.bridge.over, "ends_at": self.bridge.session.ends_at.isoformat()})


class FileHandler(_Guarded, StaticFileHandler):
    """The page's script (with noVNC in it) and style sheet."""

    def initialize(self, bridge: Bridge, path: str) -> None:  # type: ignore[override]  # noqa: D102
        _Guarded.initialize(self, bridge)
        StaticFileHandler.initialize(self, path)

    def set_extra_headers(self, path: str) -> None:
        """Keep them for good: the address holds the version."""
        self.set_header("Cache-Control", "private, max-age=31536000, immutable")


class NothingHandler(_Guarded):
    """Every other address. The hub's start-up poll also ends here, and reads the version from the headers."""

    async def prepare(self) -> None:  # noqa: D102
        await super().prepare()
        raise HTTPError(404)


class CallbackHandler(_Guarded, HubOAuthCallbackHandler):
    """The end of a login: state and PKCE are checked by JupyterHub's own handler."""

    async def prepare(self) -> None:
        """The one address that is for people who are not logged in yet."""


class Files:
    """The page's script and style sheet, as the image's build made them, at an address that holds their version."""

    def __init__(self, prefix: str, built: Path) -> None:
        digest = hashlib.sha256(b"".join((built / name).read_bytes() for name in _BUILT)).hexdigest()[:16]
        self.built = built
        self.url = f"{prefix}files/{digest}/"


def _file(name: str) -> Template:
    return Template((_PAGE / name).read_text(encoding="utf-8"))


def application(bridge: Bridge, *, built: Path) -> Application:
    """The web application of one bridge; its cookie secret lives as long as it does."""
    prefix = re.escape(bridge.session.prefix)
    files = Files(bridge.session.prefix, built)
    own = {"bridge": bridge}
    names = "|".join(re.escape(name) for name in _BUILT)
    return Application(
        [
            (prefix, DesktopHandler, own),
            (f"{prefix}rfb", RelayHandler, own),
            (f"{prefix}session", SessionHandler, own),
            (f"{prefix}oauth_callback", CallbackHandler, own),
            (f"{re.escape(files.url)}({names})", FileHandler, {**own, "path": str(built)}),
        ],
        default_handler_class=NothingHandler,
        default_handler_args=own,
        files=files,
        cookie_secret=secrets.token_bytes(32),
        websocket_max_message_size=MAX_MESSAGE,
        websocket_ping_interval=20,
        websocket_ping_timeout=20,
    )

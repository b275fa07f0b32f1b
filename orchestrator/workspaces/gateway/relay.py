"""The websocket: one browser to the display, through the filter, for as long as the hub says that it may."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from tornado.log import app_log
from tornado.web import HTTPError
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from orchestrator.workspaces.gateway import access
from orchestrator.workspaces.gateway.hub_login import (
    HUB_VERSION,
    HubUnavailableError,
    Visitor,
    get_browser_protocol,
)
from orchestrator.workspaces.gateway.paste import MAX_PASTE
from orchestrator.workspaces.gateway.rfb import ProtocolError, RfbFilter

if TYPE_CHECKING:
    from orchestrator.workspaces.gateway.bridge import Bridge

#: close codes that the page understands (page/over.js)
SIGNED_OUT, REMOVED, REPLACED, ENDED, REFUSED = 4401, 4403, 4409, 4410, 4422
DISPLAY_GONE, UNCHECKED = 4502, 4503

#: seconds between two questions to the hub, and how long it may stay silent
RECHECK, HUB_SILENCE = 5.0, 30.0

MAX_MESSAGE = MAX_PASTE + 4096
_PIECE = 256 * 1024


class RelayHandler(WebSocketHandler):
    """``<prefix>rfb``: everything is decided in :meth:`prepare`, before the upgrade."""

    bridge: Bridge
    _writer: asyncio.StreamWriter | None = None
    _tasks: tuple[asyncio.Task[None], ...] = ()

    def initialize(self, bridge: Bridge) -> None:  # noqa: D102
        self.bridge = bridge

    def set_default_headers(self) -> None:  # noqa: D102
        for name, value in access.HEADERS.items():
            self.set_header(name, value)
        self.set_header("X-JupyterHub-Version", HUB_VERSION)
        self.clear_header("Server")

    async def prepare(self) -> None:
        """Refuse whoever is not the workspace's person, on its own page, before a byte of RFB is sent.

        Attack: a websocket without a cookie. Some proxies of desktops check pages only, and upgrade anybody.
        """
        request = self.request
        if not access.same_origin(
            request.headers.get("Origin"), request.headers.get("Host"), get_browser_protocol(request)
        ):
            raise HTTPError(403, reason="Wrong origin")
        own = self.bridge.own
        self._token = own.login.get_token(self)
        self._session_id = own.login.get_session_id(self)
        try:
            visitor = await own.who(self._token, self._session_id, fresh=True)
        except HubUnavailableError as error:
            raise HTTPError(503, reason="The hub does not answer") from error
        if visitor is not Visitor.OWN:
            raise HTTPError(403, reason="Not your workspace, or signed out")

    def check_origin(self, origin: str) -> bool:
        """Checked already, with the scheme, in :meth:`prepare`; tornado's own check stays on besides."""
        return super().check_origin(origin)

    def get_compression_options(self) -> None:
        """No compression: pictures are compressed, and it would cost memory for each connection."""
        return

    async def open(self, *_: str, **__: str) -> None:
        """Connect to the display and begin."""
        self.set_nodelay(True)
        self._filter = RfbFilter(paste_in=self.bridge.session.paste_in)
        try:
            reader, self._writer = await asyncio.open_unix_connection(str(self.bridge.rfb_socket), limit=_PIECE)
        except OSError as error:
            app_log.warning("the display does not answer: %s", error.strerror)
            self.close(DISPLAY_GONE, "display")
            return
        if self.ws_connection is None or self.bridge.over:
            self._writer.close()
            self.close(ENDED, "ended")
            return
        self.bridge.joined(self)
        self._tasks = (asyncio.create_task(self._pictures(reader)), asyncio.create_task(self._recheck()))

    async def on_message(self, message: str | bytes) -> None:
        """Keys, pointer and requests, from the browser to the display."""
        if self._writer is None or isinstance(message, str):
            self._refuse("a text message")
            return
        try:
            out = self._filter.from_client(message)
        except ProtocolError as error:
            self._refuse(error.message)
            return
        self.bridge.active()
        if out.to_server:
            self._writer.write(out.to_server)
            with contextlib.suppress(ConnectionError):
                await self._writer.drain()

    async def _pictures(self, reader: asyncio.StreamReader) -> None:
        """From the display to the browser, no faster than the browser takes it."""
        code, reason = DISPLAY_GONE, "display"
        try:
            while data := await reader.read(_PIECE):
                out = self._filter.from_server(data)
                if out.to_server and self._writer is not None:
                    self._writer.write(out.to_server)
                if out.to_client:
                    await self.write_message(out.to_client, binary=True)
        except ProtocolError as error:
            self._refuse(error.message)
            return
        except (ConnectionError, WebSocketClosedError):
            pass
        self.close(code, reason)

    async def _recheck(self) -> None:
        """Close once the hub no longer knows the token: logged out, revoked, removed.

        Attack: a browser left open after logging out, or a person removed while they look.
        """
        heard = time.monotonic()
        while True:
            await asyncio.sleep(self.bridge.recheck)
            try:
                visitor = await asyncio.wait_for(
                    self.bridge.own.who(self._token, self._session_id, fresh=True), self.bridge.recheck
                )
            except (HubUnavailableError, TimeoutError):
                if time.monotonic() - heard < HUB_SILENCE:
                    continue
                self.close(UNCHECKED, "the hub is silent")
                return
            if visitor is not Visitor.OWN:
                # Whom the hub knows and does not let in here any more is told that; of a token that it does not know
                # it cannot be told apart who logged out and who was shut out.
                removed = visitor is Visitor.OTHER
                self.close(REMOVED if removed else SIGNED_OUT, "no access" if removed else "signed out")
                return
            heard = time.monotonic()

    def _refuse(self, why: str) -> None:
        app_log.warning("connection ended by the filter: %s", why)
        self.close(REFUSED, "refused")

    def on_close(self) -> None:
        """Let go of the display; the session stays."""
        for task in self._tasks:
            task.cancel()
        if self._writer is not None:
            self._writer.close()
        self.bridge.left(self)

    def write_error(self, status_code: int, **_: Any) -> None:
        """Say no more than the status."""
        self.finish(f"{status_code}\n")

"""The bridge: the one process of a workspace with a network, and the one way to its desktop's picture.

It ends when the session does, or when nobody looked for long. Start it with :func:`main`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING

from tornado.httpserver import HTTPServer
from tornado.log import app_log
from tornado.netutil import bind_sockets

from orchestrator.errors import BulleError
from orchestrator.workspaces.gateway.settings import (
    BRIDGE_JSON,
    PORT,
    RFB_SOCKET,
    Session,
    enter_environment,
    read_session,
)

if TYPE_CHECKING:
    # At run time only after the environment was entered: the hub's library reads it when it is imported.
    from orchestrator.workspaces.gateway.hub_login import Own
    from orchestrator.workspaces.gateway.relay import RelayHandler

#: the page's script and style sheet, made when the image is built
BUILT = Path("/usr/share/bulle/page")
#: seconds for which the hub's answer about a token serves again (page files only; a websocket always asks)
_HUB_CACHE = 3
_ACTIVITY_SECONDS = 60.0
_GOODBYE_SECONDS = 0.5


@dataclass
class Bridge:
    """A running bridge: who is connected, since when nobody is, and whether it is over."""

    session: Session
    own: Own
    rfb_socket: Path = RFB_SOCKET
    #: seconds between two questions to the hub about a connected browser
    recheck: float = 5.0
    over: bool = False
    _connected: set[RelayHandler] = field(default_factory=set)
    _alone_since: float = field(default_factory=time.monotonic)
    _active_at: datetime | None = None
    _done: asyncio.Event = field(default_factory=asyncio.Event)

    def joined(self, handler: RelayHandler) -> None:
        """A browser connected; one that was connected before gives way, because two cannot both set the size."""
        from orchestrator.workspaces.gateway.relay import REPLACED  # noqa: PLC0415

        for other in list(self._connected):
            other.close(REPLACED, "opened elsewhere")
        self._connected.add(handler)
        self.active()

    def left(self, handler: RelayHandler) -> None:
        """A browser disconnected. The session stays."""
        self._connected.discard(handler)
        self._alone_since = time.monotonic()

    def active(self) -> None:
        """The person did something."""
        self._active_at = datetime.now(UTC)

    def end(self) -> None:
        """Tell the page that the session is over, and stop."""
        from orchestrator.workspaces.gateway.relay import ENDED  # noqa: PLC0415

        if self.over:
            return
        self.over = True
        for handler in list(self._connected):
            handler.close(ENDED, "ended")
        asyncio.get_running_loop().call_later(_GOODBYE_SECONDS if self._connected else 0, self._done.set)

    async def wait(self) -> None:
        """Return when the session is over."""
        await self._done.wait()

    def is_due(self, now: datetime, monotonic: float) -> bool:
        """Whether the session's time is up, or nobody was connected for its idle minutes."""
        idle = self.session.idle_minutes * 60
        alone = not self._connected and idle > 0 and monotonic - self._alone_since >= idle
        return alone or now >= self.session.ends_at

    async def watch(self) -> None:
        """End the session when it is due."""
        while not self.is_due(datetime.now(UTC), time.monotonic()):  # noqa: ASYNC110 (the clock gives no event)
            await asyncio.sleep(1)
        self.end()

    async def report_activity(self) -> None:
        """Tell the hub when the person was last active, as ``jupyterhub-singleuser`` does."""
        from orchestrator.workspaces.gateway.hub_login import fetch  # noqa: PLC0415

        environment = self.session.environment
        url = environment.get("JUPYTERHUB_ACTIVITY_URL")
        sent: datetime | None = None
        while url:
            await asyncio.sleep(_ACTIVITY_SECONDS)
            seen = self._active_at
            if seen is None or seen == sent:
                continue
            at = seen.isoformat().replace("+00:00", "Z")
            name = environment.get("JUPYTERHUB_SERVER_NAME", "")
            body = {"servers": {name: {"last_activity": at}}, "last_activity": at}
            headers = {"Authorization": f"token {environment['JUPYTERHUB_API_TOKEN']}"}
            try:
                reply = await fetch(url, method="POST", headers=headers, json=body)
                reply.close()
                sent = seen
            except Exception as error:  # noqa: BLE001 (a hub that restarts must not end the session)
                app_log.warning("the hub did not take the report of activity: %s", type(error).__name__)


async def serve(bridge: Bridge, sockets: Iterable[socket], *, built: Path) -> None:
    """Serve until the session is over."""
    from orchestrator.workspaces.gateway.pages import application  # noqa: PLC0415

    server = HTTPServer(
        application(bridge, built=built), max_body_size=0, max_header_size=32768, idle_connection_timeout=300
    )
    server.add_sockets(sockets)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError, RuntimeError):
            loop.add_signal_handler(number, bridge.end)
    tasks = [asyncio.create_task(bridge.watch()), asyncio.create_task(bridge.report_activity())]
    try:
        await bridge.wait()
    finally:
        server.stop()
        for task in tasks:
            task.cancel()
        await server.close_all_connections()


def make_bridge(session: Session, *, rfb_socket: Path = RFB_SOCKET, recheck: float = 5.0) -> Bridge:
    """A bridge for ``session``; enters its environment, so one process has one bridge."""
    enter_environment(session)
    from orchestrator.workspaces.gateway.hub_login import Login, Own  # noqa: PLC0415

    login = Login(cache_max_age=_HUB_CACHE, cookie_options={"samesite": "Lax"})
    return Bridge(session, Own(login, session.user), rfb_socket=rfb_socket, recheck=recheck)


def main() -> int:
    """Run the bridge of this container; the exit status."""
    logging.basicConfig(level=logging.WARNING, format="bridge: %(message)s")
    # Requests are not logged: their lines would hold one-time codes of logins.
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    try:
        session = read_session(BRIDGE_JSON)
    except BulleError as error:
        print(f"bridge: {error}", file=sys.stderr)
        return 78
    # Listening comes first: whoever connects while the rest is imported waits for an answer, and is not
    # turned away.
    sockets = bind_sockets(PORT, "0.0.0.0")  # noqa: S104 (its network has the hub's proxy and nobody else)

    async def run() -> None:
        await serve(make_bridge(session), sockets, built=BUILT)

    asyncio.run(run())
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Several HTTP applications, each on its own unix socket (and one perhaps on a port), in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Coroutine, Iterator, Mapping
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from orchestrator.errors import SettingsError
from orchestrator.governance.mutual_tls import Renewed
from orchestrator.governance.secured import Secured, accepting

#: owner and group may connect; the group is that of the set-gid folder: the socket's one client
SOCKET_MODE = 0o660
_BACKLOG = 128
_GRACE_SECONDS = 5
#: longer than a client's own, so that it is never the server that closes what is about to be used
_KEEP_SECONDS = 30


class _Server(uvicorn.Server):
    """One of several servers in a loop; signals are handled once, for all of them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


def listen(path: Path) -> socket.socket:
    """A listening unix socket at ``path``, replacing one that a former process left.

    It is bound under another name and moved into place, so its mode is right before anybody can find it.

    Raises:
        SettingsError: the folder is missing or not writable, or the path is too long for a socket.
    """
    fresh = path.with_name(f".{path.name}.new")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        fresh.unlink(missing_ok=True)
        before = os.umask(0o777 & ~SOCKET_MODE)
        try:
            listener.bind(str(fresh))
        finally:
            os.umask(before)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        fresh.rename(path)
    except OSError as error:
        listener.close()
        raise SettingsError(f"cannot listen on {path}: {error}") from error
    return listener


def serve_on_sockets(apps: Mapping[Path, ASGIApp], secured: Secured | None = None) -> None:
    """Serve until SIGTERM or SIGINT; what is being answered then is still answered.

    Raises:
        SettingsError: one of the sockets, or the port, cannot be had; none is served then.
    """
    listeners: list[socket.socket] = []
    port: tuple[socket.socket, Renewed] | None = None
    try:
        if secured is not None:
            port = secured.open()
        for path in apps:
            listeners.append(listen(path))
        asyncio.run(_serve(list(zip(apps.values(), listeners, strict=True)), secured, port))
    finally:
        for listener in listeners if port is None else (*listeners, port[0]):
            listener.close()
        for path, _ in zip(apps, listeners, strict=False):
            path.unlink(missing_ok=True)


def _server(app: ASGIApp, keep: int = 5) -> _Server:
    return _Server(
        uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=keep,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
    )


async def _serve(
    apps: list[tuple[ASGIApp, socket.socket]], secured: Secured | None, port: tuple[socket.socket, Renewed] | None
) -> None:
    servers = [_server(app) for app, _ in apps]
    if secured is not None:
        servers.append(_server(secured.app, _KEEP_SECONDS))

    def stop() -> None:
        for server in servers:
            server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)

    async def run(serving: Coroutine[None, None, None]) -> None:
        try:
            await serving
        finally:
            stop()  # one that fails takes the others down: half an authority is none

    parts = [server.serve(sockets=[listener]) for server, (_, listener) in zip(servers, apps, strict=False)]
    if port is not None:
        parts.append(accepting(servers[-1], port[1], port[0]))
    await asyncio.gather(*(run(part) for part in parts))

"""An HTTP application for node agents on a port of all addresses: everybody can connect, so each must prove first."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLContext

import uvicorn
from starlette.types import ASGIApp

from orchestrator.errors import SettingsError
from orchestrator.governance.mutual_tls import Renewed, server_context

#: of the authority's Service
PORT = 8443
#: seconds in which somebody must have proved who they are
HANDSHAKE_SECONDS = 5.0
#: ... and in which a connection that is closed is given up
GOODBYE_SECONDS = 1.0
#: how many may be about to, in all and from one address
MOST, MOST_EACH = 256, 16
#: seconds between two looks whether certificates are others, and after which everybody proves themselves anew
LOOK_SECONDS, LONGEST_SECONDS = 5.0, 600.0
_COMPLAIN_SECONDS = 10.0
_BACKLOG = 128

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Secured:
    """What to serve, with the certificates of which folder, on which port."""

    app: ASGIApp
    folder: Path
    port: int = PORT

    def open(self) -> tuple[socket.socket, Renewed]:
        """A listening socket on all addresses, and the certificates.

        Raises:
            SettingsError: the port is taken, or the folder holds no certificates.
        """
        certificates = Renewed(self.folder, server_context)
        try:
            if socket.has_dualstack_ipv6():
                listener = socket.create_server(
                    ("", self.port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG
                )
            else:
                listener = socket.create_server(("", self.port), backlog=_BACKLOG)
        except OSError as error:
            raise SettingsError(f"cannot listen on port {self.port}: {error.strerror or error}") from error
        listener.setblocking(False)
        return listener, certificates


class Acceptor:
    """Takes connections, lets each prove itself, and hands it to a server's application.

    Stops: a pod without a certificate that holds the authority up, or fills its memory, with connections that it
    leaves open. Shown by tests/unit/governance/test_mutual_tls.py.
    """

    def __init__(self, server: uvicorn.Server, certificates: Renewed) -> None:
        self._server = server
        self._certificates = certificates
        self._greeting: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._complained = -_COMPLAIN_SECONDS

    async def run(self, listener: socket.socket) -> None:
        """Accept until cancelled."""
        loop = asyncio.get_running_loop()
        watch = asyncio.create_task(self._watch())
        try:
            while True:
                try:
                    connection, address = await loop.sock_accept(listener)
                except OSError as error:  # too many open files, say
                    self._complain(f"cannot accept: {error}")
                    await asyncio.sleep(0.1)
                    continue
                host = str(address[0])
                if self._greeting.total() >= MOST or self._greeting[host] >= MOST_EACH:
                    connection.close()
                    self._complain(f"too many connections from {host} prove nothing")
                    continue
                self._greeting[host] += 1
                task = asyncio.create_task(self._greet(connection, host))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        finally:
            for each in (watch, *self._tasks):
                each.cancel()

    async def _greet(self, connection: socket.socket, host: str) -> None:
        server = self._server

        def protocol() -> asyncio.Protocol:
            made: asyncio.Protocol = server.config.http_protocol_class(  # type: ignore[call-arg]
                config=server.config, server_state=server.server_state, app_state=server.lifespan.state
            )
            return made

        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                protocol,
                connection,
                ssl=self._certificates.context(),
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=GOODBYE_SECONDS,
            )
        except (OSError, TimeoutError) as error:
            # Who went before a word was said is a probe of the cluster's, which looks whether anybody listens.
            if str(error):
                self._complain(f"refused {host}: {error}")
            connection.close()
        finally:
            self._greeting[host] -= 1
            if not self._greeting[host]:
                del self._greeting[host]

    async def _watch(self) -> None:
        # Stops: a key that was taken away with its authority, or ran out, and lives on in an open connection.
        known: SSLContext = self._certificates.context()
        since = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = self._certificates.context()
            if now is not known or time.monotonic() - since >= LONGEST_SECONDS:
                known, since = now, time.monotonic()
                for each in list(self._server.server_state.connections):
                    each.shutdown()

    def _complain(self, what: str) -> None:
        # Not at each: whoever knocks must not fill the log either.
        if time.monotonic() - self._complained >= _COMPLAIN_SECONDS:
            self._complained = time.monotonic()
            _log.warning("port for node agents: %s", what)


async def started(server: uvicorn.Server) -> None:
    """Return when ``server`` answers, or gave up."""
    while not server.started and not server.should_exit:  # noqa: ASYNC110 - the library gives no event
        await asyncio.sleep(0.01)


async def accepting(server: uvicorn.Server, certificates: Renewed, listener: socket.socket) -> None:
    """Serve ``server``'s application over ``listener`` until it ends."""
    task = asyncio.create_task(_after_start(server, certificates, listener))
    try:
        await server.serve(sockets=[])
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _after_start(server: uvicorn.Server, certificates: Renewed, listener: socket.socket) -> None:
    await started(server)
    await Acceptor(server, certificates).run(listener)

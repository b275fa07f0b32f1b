"""The metrics of a node agent on a cluster, on its pod's address: there is one agent a node, and each is asked.

To whoever has the token of ``metrics.token_file``, and nothing else is there.
"""

from __future__ import annotations

import hmac
import socket
import threading
from http.server import ThreadingHTTPServer

from orchestrator.config import Settings
from orchestrator.errors import SettingsError
from orchestrator.metrics.exposed import Exposed, Page, Quiet, expose
from orchestrator.secretfile import read_secret


class _Handler(Page):
    part = "node"
    expected: bytes

    def do_GET(self) -> None:  # noqa: N802 - the library calls it so
        """The page, for who has the token."""
        kind, _, given = self.headers.get("authorization", "").partition(" ")
        # Stops: another pod of the cluster that reads how much is worked, and when. Shown by
        # tests/unit/node/test_exposed.py.
        if not hmac.compare_digest(f"{kind.lower()} {given.strip()}".encode(), self.expected):
            self.send_error(401)
            return
        super().do_GET()


class _Server(Quiet, ThreadingHTTPServer):
    daemon_threads = True


class ExposedNode:
    """Serves from threads of its own: a scrape, or who only connects, slows nothing down."""

    def __init__(self, listen: str, token: str) -> None:
        host, _, port = listen.rpartition(":")
        host = host.strip("[]")
        handler = type("_NodeHandler", (_Handler,), {"expected": f"bearer {token}".encode()})
        server = type("_NodeServer", (_Server,), {"address_family": socket.AF_INET6 if ":" in host else socket.AF_INET})
        try:
            self._server = server((host, int(port)), handler)
        except OSError as error:
            raise SettingsError(f"metrics.listen: cannot listen on {listen}: {error.strerror or error}") from error
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()


def expose_node(settings: Settings) -> Exposed | ExposedNode | None:
    """Serve the agent's metrics where the settings want any: to the network of the cluster, or on loopback's socket.

    Raises:
        SettingsError: it cannot listen, or the token cannot be read.
    """
    if settings.metrics is None or settings.metrics.on_loopback:
        return expose("node", settings)
    return ExposedNode(settings.metrics.listen, read_secret(settings.metrics.token_file))

"""A part's own metrics on a unix socket that only the part which serves them all can open."""

from __future__ import annotations

import os
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from orchestrator.config import Settings
from orchestrator.errors import SettingsError
from orchestrator.metrics.measures import CONTENT_TYPE, Part, exposition

#: seconds that a client has to ask and to read
_PATIENCE = 5.0
#: owner and group may connect; the group is that of the set-gid folder: the socket's one client
_MODE = 0o660


class Page(BaseHTTPRequestHandler):
    """The one page of a part, ``/metrics``."""

    timeout = _PATIENCE
    part: Part

    def do_GET(self) -> None:
        """The one page there is."""
        if self.path != "/metrics":
            self.send_error(404)
            return
        body = exposition(self.part)
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        """Nothing of what serves."""
        return "bulle"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a scrape comes every few seconds."""


class Quiet(socketserver.BaseServer):
    """A server that says nothing of its clients."""

    request_queue_size = 8

    def handle_error(self, request: object, client_address: object) -> None:
        """Who leaves in the middle is no fault of ours."""


class _Handler(Page):
    def address_string(self) -> str:
        """A unix socket's client has none."""
        return "metrics"


class _Server(Quiet, socketserver.UnixStreamServer):
    pass


class Exposed:
    """Serves one part's metrics from a thread, one request after the other: a scrape must not slow the part down."""

    def __init__(self, part: Part, path: Path) -> None:
        self._path = path
        handler = type("_PartHandler", (_Handler,), {"part": part})
        before = os.umask(0o777 & ~_MODE)
        try:
            path.unlink(missing_ok=True)
            self._server = _Server(str(path), handler)
        except OSError as error:
            raise SettingsError(f"cannot listen on {path}: {error.strerror or error}") from error
        finally:
            os.umask(before)
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more; the socket is gone."""
        self._server.shutdown()
        self._server.server_close()
        self._path.unlink(missing_ok=True)


def expose(part: Part, settings: Settings) -> Exposed | None:
    """Serve a part's metrics where the settings want any; else None.

    Raises:
        SettingsError: the socket cannot be made.
    """
    if settings.metrics is None:
        return None
    exposed = Exposed(part, settings.layout.metrics_socket(part))
    exposed.start()
    return exposed

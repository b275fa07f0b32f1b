"""The hub's program: JupyterHub, which on a cluster answers the network of pods with what a bridge needs only."""

from __future__ import annotations

import re
from typing import Any

from jupyterhub.app import JupyterHub
from tornado.httputil import HTTPServerRequest
from tornado.web import Application, ErrorHandler, _HandlerDelegate
from traitlets import Bool

#: the proxy and the portal ask from the same pod
NEAR = frozenset({"127.0.0.1", "::1"})
#: all that a bridge asks for: whose token it was shown, a token for a code, that its workspace is in use, and the hub's
#: version; and kubelet: whether the hub is well
CALLS = re.compile(
    r"GET /hub/api/user|POST /hub/api/oauth2/token|POST /hub/api/users/[^/]+/activity|GET /hub/api/?|"
    r"(?:GET|HEAD) /hub/health"
)


class _Guarded(Application):
    """The hub's application for a port that others than the proxy can reach."""

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> _HandlerDelegate:
        """What answers: for those who do not come through the proxy, a bridge's calls only.

        Stops: a person's cookie or token of the API, used from any pod of a cluster where no NetworkPolicy is
        enforced, past the TLS and whatever else guards the public address; a broken bridge that tries the pages. The
        peer of the connection counts, and no header. Shown by tests/unit/hub/test_application.py.
        """
        address = getattr(getattr(request.connection, "context", None), "address", None)
        near = isinstance(address, tuple) and address[0] in NEAR
        if near or CALLS.fullmatch(f"{request.method} {request.path}"):
            return super().find_handler(request, **kwargs)
        return self.get_handler_delegate(request, ErrorHandler, {"status_code": 404})


class BulleHub(JupyterHub):
    """JupyterHub with one setting more."""

    others_are_bridges = Bool(
        False, config=True, help="Whether who does not ask from this very machine or pod gets a bridge's calls only."
    )

    def init_tornado_application(self) -> None:
        """Make the application that answers."""
        super().init_tornado_application()
        if self.others_are_bridges:
            self.tornado_application = _Guarded(self.handlers, **self.tornado_settings)

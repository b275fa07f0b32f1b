"""TLS in both directions between the authority and the node agents of a cluster, by an authority for certificates of
their own.

A folder holds ``ca.crt``, ``tls.crt`` and ``tls.key`` (PEM), as Kubernetes shows a Secret. They are read anew when they
change on disk, because a Secret is renewed while its pod runs.
"""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

from orchestrator.errors import SettingsError

#: the one name (subjectAltName, dNSName) in a node agent's certificate, and in nobody else's
NODE_AGENT = "node-agent.bulle"

_FILES = CA, CERTIFICATE, KEY = "ca.crt", "tls.crt", "tls.key"
_log = logging.getLogger(__name__)

Stamp = tuple[tuple[int, int, int], ...]


class _FromNodeAgent(ssl.SSLObject):
    """The server's end of a connection whose other end must prove that it is a node agent."""

    def do_handshake(self) -> None:
        """Shake hands, then look who it is: before a byte of what they ask is read.

        Stops: whoever holds another certificate of the same authority, the server's own key above all, and acts as a
        node agent with it. A certificate with further names is for something else too, and is refused. Shown by
        tests/unit/governance/test_mutual_tls.py.
        """
        super().do_handshake()
        told = self.getpeercert() or {}
        names = told.get("subjectAltName", ())
        if names != (("DNS", NODE_AGENT),):
            raise ssl.SSLCertVerificationError(f"the certificate is not {NODE_AGENT}'s")


def server_context(folder: Path) -> ssl.SSLContext:
    """How the authority listens: TLS 1.3, and to node agents only.

    Raises:
        SettingsError: a file is missing, wrong, or a key that everybody can read.
    """
    context = _context(folder, ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = _FromNodeAgent
    # Each connection proves itself: none is taken up with what was proved before a certificate ran out.
    context.num_tickets = 0
    return context


def client_context(folder: Path) -> ssl.SSLContext:
    """How a node agent asks: TLS 1.3, with the server's name checked. Raises SettingsError as above."""
    return _context(folder, ssl.PROTOCOL_TLS_CLIENT)


def _context(folder: Path, protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    key = folder / KEY
    try:
        if key.stat().st_mode & 0o007:
            raise SettingsError(f"{key} can be read by everybody", hint="mount the Secret with defaultMode 0440")
        # Nothing of the system's own authorities: one of those signs for anybody.
        context.load_verify_locations(cafile=folder / CA)
        context.load_cert_chain(folder / CERTIFICATE, key)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise SettingsError(
            f"{folder} does not hold {', '.join(_FILES)} that belong together: {error}", hint="renew the Secret"
        ) from error
    return context


class Renewed:
    """The context of a folder, made anew when its files are others.

    Files that do not belong together (read while they are exchanged) leave the former context in use.
    """

    def __init__(self, folder: Path, make: Callable[[Path], ssl.SSLContext]) -> None:
        self._folder = folder
        self._make = make
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._context = make(folder)

    def context(self) -> ssl.SSLContext:
        """The context to use now; the same object as long as nothing changed."""
        with self._lock:
            try:
                stamp = self._look()
                if stamp != self._stamp:
                    self._context = self._make(self._folder)
                    self._stamp = stamp
            except SettingsError as error:
                _log.warning("certificates are not renewed: %s", error)
            return self._context

    def _look(self) -> Stamp:
        try:
            found = [(self._folder / name).stat() for name in _FILES]
        except OSError as error:
            raise SettingsError(f"{error.filename}: {error.strerror}", hint="renew the Secret") from error
        return tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in found)

"""``helm test`` finds nothing wrong with a release that is as it must be, and everything that is not.

The program that runs in the pod, against servers of this test; in a pod it runs in tests/cluster/test_live.py.
"""

from __future__ import annotations

import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from orchestrator.governance.mutual_tls import server_context
from tests.unit.helm.chart import CHART, NAME, decoded, find, rendered

PROGRAM = CHART / "files" / "release_test.py"
#: what each part answers, where all is well
PROXY = {"/hub/health": 200, "/services/portal/health": 200, "/hub/api/users": 403}
HUB = {"/hub/login": 404, "/hub/api/users": 404}


@contextmanager
def serving(answers: dict[str, int], context: ssl.SSLContext | None = None) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answers.get(self.path, 404))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http{'s' if context else ''}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    for key, value in decoded(find(rendered("demo"), "Secret", f"{NAME}-authority-tls")).items():
        (folder / key).write_bytes(value)
        (folder / key).chmod(0o400)
    return folder


def strict(folder: Path) -> ssl.SSLContext:
    return server_context(folder)


def lax(folder: Path) -> ssl.SSLContext:
    """An authority that asks for no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    return context


def said(
    proxy: dict[str, int], hub: dict[str, int], authority: ssl.SSLContext, *, away: bool = False
) -> tuple[int, list[str]]:
    """How the program ends, and what it finds."""
    with serving(proxy) as one, serving(hub) as two, serving({}, authority) as three:
        line = [
            sys.executable,
            "-Ic",
            PROGRAM.read_text(encoding="utf-8"),
            one,
            two,
            "https://127.0.0.1:1" if away else three,
        ]
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, [line[5:] for line in done.stdout.splitlines() if line.startswith("FAIL")]


def test_a_release_that_is_well_passes(certificates: Path) -> None:
    assert said(PROXY, HUB, strict(certificates)) == (0, [])


@pytest.mark.parametrize(
    ("proxy", "hub", "finding"),
    [
        ({"/hub/health": 503}, {}, "the login page answers"),
        ({"/services/portal/health": 502}, {}, "the portal answers"),
        ({"/hub/api/users": 200}, {}, "nobody reads people's names without logging in"),
        ({}, {"/hub/login": 200}, "the hub answers no page to a pod"),
        ({}, {"/hub/api/users": 403}, "the hub answers no question about people to a pod"),
    ],
)
def test_negative_control_what_is_wrong_is_found(
    certificates: Path, proxy: dict[str, int], hub: dict[str, int], finding: str
) -> None:
    assert said(PROXY | proxy, HUB | hub, strict(certificates)) == (1, [finding])


def test_negative_control_an_authority_that_lets_anybody_in_is_found(certificates: Path) -> None:
    assert said(PROXY, HUB, lax(certificates)) == (1, ["the authority refuses who has no certificate"])


def test_negative_control_an_authority_that_is_away_refuses_nobody(certificates: Path) -> None:
    found = said(PROXY, HUB, strict(certificates), away=True)
    assert found == (1, ["the authority refuses who has no certificate"])

"""How long the portal takes to show a page in a large deployment, beside JupyterHub's own home page.

``python -m benchmarks.portal`` prints JSON: ``{name: {ours, peer, peer_name, unit, ratio}}``. Three processes as in a
deployment: the authority on its unix socket with 10,000 projects and 100,000 memberships in SQLite, the portal on a
port, and a real JupyterHub, through which people log in once by its own form and which the portal asks at each page.

* ``portal.page.p95``: the page of one's projects and the page of one project, in turn, each from the request to the
  last byte, 95th percentile of both together.
* ``portal.home.p95``, ``portal.project.p95``: the same, apart.
* Peer: the same JupyterHub's ``/hub/home``, for the same people, as many requests, by the same client, in turn with
  ours. It has no proxy in front, and neither has the portal.
"""

from __future__ import annotations

import html
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import uvicorn
import yaml

from benchmarks import crowd
from benchmarks.governance import MEMBERSHIPS, PEOPLE, PROJECTS
from orchestrator.audit import AuditLog
from orchestrator.config import load_settings
from orchestrator.governance.authority import authority_of, portal_app
from orchestrator.governance.client import AsyncAuthorityClient
from orchestrator.governance.service import Governance
from orchestrator.governance.store import Store
from orchestrator.portal.application import Portal
from orchestrator.portal.hub import CLIENT_ID, PREFIX, Hub
from tests.integration.conftest import free_ports
from tests.unit.governance.places import AUDIT_KEY, GRANT_KEY, Shelf

READERS, ROUNDS, WARM = 20, 12, 2
TOKEN = "0" * 64
SETTINGS, SOCKET, DATABASE = "bulle.yaml", "authority.sock", "governance.sqlite"

_HUB = """
from jupyterhub.auth import DummyAuthenticator
from jupyterhub.proxy import Proxy

class NoProxy(Proxy):
    should_start = False
    async def add_route(self, routespec, target, data): pass
    async def delete_route(self, routespec): pass
    async def get_all_routes(self): return {{}}

c.JupyterHub.authenticator_class = DummyAuthenticator
c.Authenticator.allow_all = True
c.JupyterHub.proxy_class = NoProxy
c.JupyterHub.bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.db_url = "sqlite:///{folder}/hub.sqlite"
c.JupyterHub.cookie_secret_file = "{folder}/cookie-secret"
c.JupyterHub.log_level = "WARN"
c.JupyterHub.allow_named_servers = True
c.JupyterHub.load_roles = [{{"name": "user", "scopes": ["self", "access:services!service=portal"]}}]
c.JupyterHub.services = [{{
    "name": "portal", "url": "http://127.0.0.1:{portal}", "api_token": "{token}", "oauth_client_id": "{client}",
    "oauth_redirect_uri": "{prefix}oauth_callback", "oauth_no_confirm": True,
    "oauth_client_allowed_scopes": ["read:servers!user"],
}}]
"""


def measure(say: Callable[[str], None] = lambda told: None) -> dict[str, dict[str, Any]]:
    """Bring all three up, log people in, and look at pages."""
    with ExitStack() as stack:
        ram = "/dev/shm" if Path("/dev/shm").is_dir() else None
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=ram)))
        say(f"portal: {MEMBERSHIPS} memberships in {PROJECTS} projects")
        store = Store(f"sqlite:///{folder / DATABASE}")
        store.prepare()
        members = crowd.fill(store, PROJECTS, PEOPLE, MEMBERSHIPS)
        store.close()
        hub_port = free_ports(2)
        hub, portal = f"http://127.0.0.1:{hub_port}", f"http://127.0.0.1:{hub_port + 1}"
        _write(folder, hub_port)
        here = (sys.executable, "-m", "benchmarks.portal")
        stack.enter_context(_running([*here, "authority", str(folder)], folder, None))
        stack.enter_context(_running([*here, "portal", str(folder), hub], folder, f"{portal}{PREFIX}health"))
        jupyterhub = (sys.executable, "-m", "jupyterhub", "--config", str(folder / "hub.py"))
        stack.enter_context(_running(jupyterhub, folder, f"{hub}/hub/health"))
        readers = [stack.enter_context(_reader(hub, portal, person)) for person, _, _ in members[:READERS]]
        took = _timed(readers, [slug for _, slug, _ in members[:READERS]])
    return _figures(took)


def _write(folder: Path, port: int) -> None:
    values = {"port": port, "portal": port + 1, "folder": folder, "token": TOKEN, "client": CLIENT_ID, "prefix": PREFIX}
    (folder / "hub.py").write_text(_HUB.format(**values), encoding="utf-8")
    settings = {
        "deployment": "bench",
        "state": str(folder),
        "public_url": f"http://127.0.0.1:{port + 1}",
        "listen": f"127.0.0.1:{port + 1}",
        "oidc": {"issuer": "https://login.example.org", "client_id": "b", "client_secret_file": "/x"},
    }
    (folder / SETTINGS).write_text(yaml.safe_dump(settings), encoding="utf-8")


@contextmanager
def _running(words: list[str] | tuple[str, ...], folder: Path, answers: str | None) -> Iterator[None]:
    """A process, once it answers, until the block ends."""
    with (folder / "processes.log").open("ab") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, env=_environment(folder))
    try:
        until = time.monotonic() + 60
        while not _answers(answers, folder):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{words[2:4]}: {(folder / 'processes.log').read_text()[-2000:]}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(20)


def _environment(folder: Path) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "HOME": str(folder), "LANG": "C.UTF-8"}


def _answers(url: str | None, folder: Path) -> bool:
    if url is None:
        return (folder / SOCKET).exists()
    try:
        return httpx.get(url, trust_env=False, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


class _Reader:
    """One person's browser, as far as pages go: it keeps cookies and goes where it is sent."""

    def __init__(self, http: httpx.Client, hub: str, portal: str) -> None:
        self._http, self._hub, self._portal = http, hub, portal

    def get(self, path: str) -> httpx.Response:
        """A page, wherever it leads to."""
        return self._follow(self._http.get(self._at(path)))

    def post(self, path: str, fields: dict[str, str]) -> httpx.Response:
        """A form, wherever it leads to."""
        return self._follow(self._http.post(self._at(path), data=fields))

    def _at(self, path: str) -> str:
        return f"{self._portal if path.startswith(PREFIX) else self._hub}{path}"

    def _follow(self, answer: httpx.Response) -> httpx.Response:
        for _ in range(10):
            if answer.next_request is None:
                return answer
            path = answer.next_request.url.raw_path.decode()
            answer = self._http.get(self._at(path))
        raise RuntimeError(f"led in a circle: {answer.url}")

    def seconds(self, path: str, wanted: str) -> float:
        """How long a page takes that holds ``wanted``."""
        began = time.perf_counter()
        answer = self._http.get(self._at(path))
        took = time.perf_counter() - began
        if answer.status_code != 200 or wanted not in answer.text:
            raise RuntimeError(f"{path}: {answer.status_code} {answer.text[:2000]}")
        return took


@contextmanager
def _reader(hub: str, portal: str, person: str) -> Iterator[_Reader]:
    with httpx.Client(trust_env=False, timeout=60) as http:
        reader = _Reader(http, hub, portal)
        form = reader.get("/hub/login").text
        found = re.search(r'name="_xsrf"\s+value="([^"]*)"', form)
        if found is None:
            raise RuntimeError(f"no form to log in by: {form[:1000]}")
        fields = {"username": person, "password": "x", "_xsrf": html.unescape(found[1])}
        reader.post("/hub/login?next=/hub/home", fields)
        reader.get(PREFIX)  # leads through the hub and back, once
        yield reader


def _timed(readers: list[_Reader], slugs: list[str]) -> dict[str, list[float]]:
    took: dict[str, list[float]] = {"home": [], "project": [], "peer": []}
    for number in range(ROUNDS + WARM):
        for reader, slug in zip(readers, slugs, strict=True):
            found = {
                "home": [reader.seconds(PREFIX, f"projects/{slug}")],
                "peer": [reader.seconds("/hub/home", "/hub/home")],
                "project": [reader.seconds(f"{PREFIX}projects/{slug}", slug)],
            }
            found["peer"].append(reader.seconds("/hub/home", "/hub/home"))
            for name, each in found.items() if number >= WARM else ():
                took[name] += [one * 1000 for one in each]
    return took


def _figures(took: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    ours = {"page": took["home"] + took["project"], "home": took["home"], "project": took["project"]}

    def figure(found: list[float], take: Callable[[list[float]], float]) -> dict[str, Any]:
        peer = take(took["peer"])
        return {
            "ours": round(take(found), 3),
            "peer": round(peer, 3),
            "peer_name": "JupyterHub's own home page",
            "unit": "ms",
            "ratio": round(take(found) / peer, 3),
        }

    return {f"portal.{name}.p95": figure(found, _p95) for name, found in ours.items()} | {
        "portal.page.median": figure(ours["page"], statistics.median)
    }


def _p95(found: list[float]) -> float:
    return sorted(found)[int(len(found) * 0.95)]


# -- what the processes run ----------------------------------------------------------------------------------
def _serve_authority(folder: Path) -> None:
    def clock() -> datetime:
        return datetime.now(UTC)

    settings = load_settings(folder / SETTINGS)
    audit = AuditLog(folder / "audit", AUDIT_KEY, clock=clock)
    audit.create()
    governance = Governance(Store(f"sqlite:///{folder / DATABASE}"), audit, clock, Shelf(), settings.governance)
    app = portal_app(authority_of(settings, governance, GRANT_KEY))
    uvicorn.run(app, uds=str(folder / SOCKET), log_level="warning", access_log=False, lifespan="off")


def _serve_portal(folder: Path, hub: str) -> None:
    settings = load_settings(folder / SETTINGS)
    portal = Portal(settings, Hub(hub, TOKEN), AsyncAuthorityClient(folder / SOCKET))
    host, port = settings.listen.rsplit(":", 1)
    uvicorn.run(portal.application(), host=host, port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["authority", place]:
            _serve_authority(Path(place))
        case ["portal", place, address]:
            _serve_portal(Path(place), address)
        case _:
            print(json.dumps(measure(lambda told: print(told, file=sys.stderr)), indent=2))

"""The control plane for the login tests as processes of this machine: authority, hub, proxy, portal and provider.

Only what lies behind the door is stood in for: a small server that tells the steps of a start and answers like a
bridge, so that logging in can be tested without starting containers (tests/integration/test_end_to_end.py starts them).
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar
from urllib.error import URLError

import yaml

from orchestrator.audit.log import AuditLog, Filters
from orchestrator.config import Settings, load_settings
from orchestrator.governance.keys import AUDIT_KEY, load_private_key
from orchestrator.governance.permits import PermitDraft
from orchestrator.governance.service import Governance
from orchestrator.governance.states import PlatformRole
from orchestrator.governance.store import Store
from orchestrator.machine.state import prepare_state
from orchestrator.terms import ColumnPermit, Event, Operator, RowCondition, TablePermit, Transform

ROOT = Path(__file__).parents[2]
PEOPLE = ("lead", "researcher", "researcher2", "custodian", "reviewer", "auditor", "admin", "outsider")
OTP = "researcher2"
TOTP_SECRET = "JBSWY3DPEHPK3PXP"
PASSWORD = "only for this test"


@dataclass(frozen=True)
class Column:
    """A column as the authority's catalogue tells of it."""

    name: str
    role: str
    type: str
    description: dict[str, str]


@dataclass(frozen=True)
class Table:
    """A table as the authority's catalogue tells of it."""

    title: dict[str, str]
    columns: tuple[Column, ...]


class Datasets:
    """Two tables without data: what a permit of these tests names."""

    tables: ClassVar = {
        "rwm5yr": Table(
            {"en": "Doctor visits, German health registry", "fr": "Consultations, registre de santé allemand"},
            (
                Column("id", "identifier", "integer", {"en": "Person", "fr": "Personne"}),
                Column("year", "date", "date", {"en": "Year of the survey", "fr": "Année de l’enquête"}),
                Column(
                    "docvis",
                    "measure",
                    "integer",
                    {"en": "Visits to a doctor in the year", "fr": "Consultations dans l’année"},
                ),
                Column("age", "quasi-identifier", "integer", {"en": "Age in years", "fr": "Âge en années"}),
                Column("hhninc", "measure", "number", {"en": "Household income", "fr": "Revenu du ménage"}),
            ),
        )
    }

    def check(self, tables: Any) -> None:
        """Every permit of these tests fits."""

    def table(self, dataset: str, table: str) -> Table:
        """One of them."""
        return self.tables[table]


def governance(settings: Settings) -> Governance:
    """The real governance on the deployment's store and log."""
    store = Store(settings.database_url)
    store.prepare()

    def clock() -> datetime:
        return datetime.now(UTC)

    log = AuditLog(settings.layout.audit, load_private_key(settings.layout.authority / AUDIT_KEY), clock=clock)
    return Governance(store, log, clock, Datasets())


def free_ports(count: int) -> int:
    """The first of ``count`` consecutive free loopback ports."""
    for first in range(30_000, 40_000, 20):
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise RuntimeError("no free ports")


@dataclass
class Stage:
    """A control plane under ``folder``; ``oidc`` adds to the settings of the login."""

    folder: Path
    oidc: dict[str, Any] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        first = free_ports(6)
        # The second address of a loopback subnet is always there: no network needs to be made for it.
        raw = {
            "deployment": "login-test",
            "state": str(self.folder / "state"),
            "public_url": f"http://localhost:{first}",
            "listen": f"127.0.0.1:{first}",
            "internal_port": first + 1,
            "bridge_subnet": f"127.{first % 200 + 20}.7.0/24",
            "oidc": {
                "issuer": f"http://127.0.0.1:{first + 4}",
                "client_id": "bulle",
                "client_secret_file": str(self.folder / "state/secrets/hub/client-secret"),
                **self.oidc,
            },
        }
        self.settings_file = self.folder / "bulle.yaml"
        self.settings_file.write_text(yaml.safe_dump(raw))
        self.settings = load_settings(self.settings_file)
        self.url = self.settings.public_url
        prepare_state(self.settings)
        self._secrets()
        self._content()

    def _secrets(self) -> None:
        layout = self.settings.layout
        value = secrets.token_hex(16)
        accounts = {name: {"password": PASSWORD, "name": name.capitalize()} for name in PEOPLE}
        accounts[OTP]["totp"] = TOTP_SECRET
        for path, text in (
            (layout.secrets / "hub/client-secret", value),
            (layout.secrets / "demo-idp/client-secret", value),
            (layout.secrets / "demo-idp/accounts.json", json.dumps(accounts)),
        ):
            path.write_text(text)
            path.chmod(0o600)

    def _content(self) -> None:
        rules = governance(self.settings)
        for name in PEOPLE:
            rules.add_person("operator", name, name.capitalize())
            rules.accept_terms(name, rules.terms_version)
            training = rules.declare_training(name, "Working with health data", rules.now().date())
            rules.confirm_training("operator", name, training.id)
        rules.add_role("operator", "custodian", PlatformRole.CUSTODIAN)
        rules.add_role("operator", "admin", PlatformRole.ADMINISTRATOR)
        now = datetime.now(UTC)
        until = now + timedelta(days=300)
        rules.create_project(
            "custodian",
            "doctor-visits",
            title="Doctor visits and working life",
            purpose="Whether people who lose their work see a doctor more often, from a registry of five years.",
            lead="lead",
            starts=now - timedelta(days=1),
            ends=until,
        )
        rules.activate_project("custodian", "doctor-visits")
        for name in ("researcher", "researcher2"):
            rules.request_membership("lead", "doctor-visits", name)
            rules.approve_membership("lead", "doctor-visits", name)
        rules.create_project(
            "custodian",
            "colon-survival",
            title="Survival after colon cancer",
            purpose="What adjuvant chemotherapy adds to survival, by stage.",
            lead="lead",
            starts=now - timedelta(days=1),
            ends=until,
        )
        rules.activate_project("custodian", "colon-survival")
        rules.request_membership("researcher", "colon-survival", "researcher")
        table = TablePermit(
            dataset="rwm5yr",
            table="rwm5yr",
            columns=(
                ColumnPermit(name="id"),
                ColumnPermit(name="year", transform=Transform.YEAR),
                ColumnPermit(name="docvis"),
                ColumnPermit(name="age", transform=Transform.BAND, parameter=5),
                ColumnPermit(name="hhninc", transform=Transform.TOP, parameter=100000),
            ),
            rows=(RowCondition(column="age", operator=Operator.GE, value=40),),
        )
        version = rules.draft_permit(
            "lead", "doctor-visits", PermitDraft(valid_from=now - timedelta(days=1), valid_until=until, tables=(table,))
        )
        rules.approve_permit("custodian", "doctor-visits", version)

    # -- processes ---------------------------------------------------------------------------------
    def up(self, packages: dict[str, Path]) -> None:
        """Start every part; ``packages`` names the folders in which npm installed those of the images."""
        idp = self.folder / "idp"
        shutil.copytree(ROOT / "images/demo-idp", idp, ignore=shutil.ignore_patterns("node_modules"))
        (idp / "node_modules").symlink_to(packages["demo-idp"])
        proxy = packages["controller"] / "configurable-http-proxy/bin/configurable-http-proxy"
        python = sys.executable
        self.start("authority", python, "-m", "tests.integration.login_stage", "authority")
        self.start("door", python, "-m", "tests.integration.login_stage", "door")
        self.start("idp", python, str(ROOT / "images/demo-idp/demo-idp"), BULLE_IDP_SERVER=str(idp / "server.mjs"))
        self.start("proxy", python, str(ROOT / "images/controller/proxy"), BULLE_PROXY_PROGRAM=str(proxy))
        self.wait_socket("hub")
        self.wait_socket("door")
        self.start("hub", python, str(ROOT / "images/controller/hub"))
        self.start("portal", python, str(ROOT / "images/controller/portal"))
        for path in ("/hub/health", "/services/portal/health"):
            self.wait(self.url + path)
        self.wait(f"{self.settings.oidc.issuer}/.well-known/openid-configuration")

    def start(self, name: str, *words: str, **environment: str) -> None:
        """Start a part as its image does."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                words,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": str(self.folder),
                    "PYTHONPATH": str(ROOT),
                    "BULLE_SETTINGS": str(self.settings_file),
                    **environment,
                },
            )

    def end(self, name: str) -> None:
        """Stop a part."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def down(self) -> None:
        """Stop every part."""
        for name in list(self.processes):
            self.end(name)

    def log(self, name: str) -> str:
        """What a part wrote."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def wait(self, url: str, seconds: float = 60) -> None:
        """Wait until ``url`` answers."""
        until = time.monotonic() + seconds
        while True:
            try:
                with urllib.request.urlopen(url, timeout=5):
                    return
            except (URLError, OSError):
                if time.monotonic() > until:
                    raise RuntimeError(f"{url} does not answer:\n" + "\n".join(self._tails())) from None
                time.sleep(0.1)

    def wait_socket(self, name: str, seconds: float = 30) -> None:
        """Wait until a part listens on its socket."""
        until = time.monotonic() + seconds
        while not self.settings.layout.socket(name).exists():  # type: ignore[arg-type]
            if time.monotonic() > until:
                raise RuntimeError(f"no {name} socket:\n" + "\n".join(self._tails()))
            time.sleep(0.05)

    def _tails(self) -> list[str]:
        return [f"== {path.stem}\n{path.read_text(errors='replace')[-1500:]}" for path in self.folder.glob("*.log")]

    def account(self, name: str, change: dict[str, Any] | None) -> None:
        """Change an account at the provider, which notices at the next question; None removes it."""
        path = self.settings.layout.secrets / "demo-idp/accounts.json"
        accounts = json.loads(path.read_text())
        if change is None:
            del accounts[name]
        else:
            accounts[name] = {"password": PASSWORD, "name": name.capitalize(), **change}
        path.write_text(json.dumps(accounts))

    # -- what happened -----------------------------------------------------------------------------
    def audit(self, kind: str) -> list[Event]:
        """The audit log's events of one kind."""
        log = governance(self.settings).audit
        assert isinstance(log, AuditLog)
        return [record.event for record in log.read(Filters(kind=kind))]

    def door(self, **change: Any) -> list[dict[str, Any]]:
        """What the stand-in for the node agent was asked; with ``change``, how it answers from now on."""
        if change:
            (self.folder / "door.json").write_text(json.dumps(change))
        asked = self.folder / "asked.jsonl"
        return [json.loads(line) for line in asked.read_text().splitlines()] if asked.exists() else []


# -- the parts that this module plays itself -----------------------------------------------------------
def serve_authority(settings: Settings) -> None:
    """The real authority, with the tests' datasets."""
    from orchestrator.governance.authority import serve

    serve(settings, governance(settings))


def serve_door(settings: Settings, folder: Path) -> None:
    """Stands in for the node agent: tells steps, records what it was asked, and answers like a bridge."""
    import asyncio

    import jwt
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    running: dict[str, dict[str, Any]] = {}
    bridge_port = settings.internal_port + 4

    async def start(request: Request) -> Response:
        asked = await request.json()
        with (folder / "asked.jsonl").open("a") as file:
            file.write(json.dumps(asked) + "\n")
        told = folder / "door.json"
        behaviour = json.loads(told.read_text()) if told.exists() else {}
        claims = jwt.decode(asked["grant"], options={"verify_signature": False}, algorithms=["EdDSA"])
        session = claims["grant"]["session"]
        pause = float(behaviour.get("pause", 0.05))

        async def lines() -> Any:
            for name in ("starting", "proving", "keys", "view", "folders", "desktop", "ready"):
                if behaviour.get("fail_at") == name:
                    yield json.dumps({"error": behaviour["error"]}) + "\n"
                    return
                for done in range(0, 12_001, 3000) if name == "view" else (0,):
                    yield json.dumps({"step": name, "done": done, "total": 12_000 if name == "view" else 0}) + "\n"
                    await asyncio.sleep(pause)
            whose = {name: claims["grant"][name] for name in ("person", "project")}
            running[session] = {"session": session, "state": "running", **whose}
            yield json.dumps({"started": {"session": session, "host": "127.0.0.1", "port": bridge_port}}) + "\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    async def every(request: Request) -> Response:
        return JSONResponse(list(running.values()))

    async def one(request: Request) -> Response:
        session = request.path_params["session"]
        if request.method == "DELETE":
            running.pop(session, None)
            return Response(status_code=204)
        return JSONResponse(running[session]) if session in running else JSONResponse({}, 404)

    async def desktop(request: Request) -> Response:
        return HTMLResponse("<!doctype html><title>Desktop</title><h1>Desktop</h1>")

    door = Starlette(
        routes=[
            Route("/v1/workspaces", every, methods=["GET"]),
            Route("/v1/workspaces", start, methods=["POST"]),
            Route("/v1/workspaces/{session}", one, methods=["GET", "DELETE"]),
        ]
    )
    bridge = Starlette(routes=[Route("/{path:path}", desktop)])

    async def both() -> None:
        servers = [
            uvicorn.Server(uvicorn.Config(door, uds=str(settings.layout.socket("door")), log_level="warning")),
            uvicorn.Server(uvicorn.Config(bridge, host="127.0.0.1", port=bridge_port, log_level="warning")),
        ]
        await asyncio.gather(*(server.serve() for server in servers))

    asyncio.run(both())


if __name__ == "__main__":
    given = Path(os.environ["BULLE_SETTINGS"])
    if sys.argv[1] == "authority":
        serve_authority(load_settings(given))
    else:
        serve_door(load_settings(given), given.parent)

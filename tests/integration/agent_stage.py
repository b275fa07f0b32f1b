"""A stage for the node agent: state folder, a real dataset, an authority that tests steer, and the agent
itself.

The agent runs from its own image as on any machine, or as a bare process where a test puts a hole into its
runtime. The authority is a stand-in on the real socket with the real protocol and the real signing key,
because tests must make it refuse, revoke and fall silent at chosen moments.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import docker
import httpx
import yaml

from orchestrator.config import Settings
from orchestrator.data.ingest import ingest
from orchestrator.data.schema import TableSchema
from orchestrator.governance.grants import issuer_of, sign_grant
from orchestrator.governance.keys import GRANT_KEY, load_private_key
from orchestrator.keys import KeyRing, open_custodian
from orchestrator.machine import mountpoint
from orchestrator.machine.state import prepare_state
from orchestrator.node.container import agent_container
from orchestrator.node.mounts import mounts_below
from orchestrator.terms import ColumnPermit, Grant, PermitTerms, TablePermit
from orchestrator.workspaces.spec import LABEL_DEPLOYMENT, LABEL_SESSION, bridge_network

ROOT = Path(__file__).parents[2]
#: an identifier and a value that occur in the dataset, to look for on disks
PLANTED_ID = "planted-person-000017"
PLANTED_VALUE = "planted-diagnosis-C18.7"


class StandIn:
    """The authority of a test: records events, answers checks; can refuse, deny and fall silent."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[dict[str, Any]] = []
        self.denied: set[str] = set()
        self.refuse_kinds: set[str] = set()
        self.reports: list[dict[str, Any]] = []
        self.due: list[dict[str, Any]] = []
        self.closed: list[dict[str, Any]] = []
        self.on_event: Callable[[dict[str, Any]], None] = lambda event: None
        self._server: socketserver.ThreadingUnixStreamServer | None = None

    def start(self) -> None:
        self.path.unlink(missing_ok=True)
        stage = self

        class Handler(BaseHTTPRequestHandler):
            def address_string(self) -> str:
                return "unix"

            def log_message(self, *_: object) -> None: ...

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if self.path == "/v1/events":
                    if body["kind"] in stage.refuse_kinds:
                        answer = {"code": "audit", "message": "not written", "hint": None}
                        return self.send(500, answer)
                    stage.events.append(body)
                    stage.on_event(body)
                    return self.send(201, {"seq": len(stage.events)})
                if self.path == "/v1/usage":
                    stage.reports.append(body)
                    return self.send(204, None)
                if self.path.startswith("/v1/closings/"):
                    project_id = self.path.rsplit("/", 1)[1]
                    stage.closed.append({"project_id": project_id, **body})
                    stage.due = [each for each in stage.due if each["project_id"] != project_id]
                    return self.send(200, {"certificate": None})
                verdicts = [
                    {
                        "session": claim["session"],
                        "allowed": claim["session"] not in stage.denied,
                        "reason": "revoked" if claim["session"] in stage.denied else "",
                    }
                    for claim in body
                ]
                return self.send(200, verdicts)

            def do_GET(self) -> None:
                return self.send(200, stage.due if self.path == "/v1/closings" else [])

            def send(self, status: int, answer: object) -> None:
                content = b"" if status == 204 else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True

        self._server = Server(str(self.path), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        self.path.unlink(missing_ok=True)

    def kinds(self, session: str | None = None) -> list[str]:
        return [
            f"{event['kind']} {event['outcome']}"
            for event in self.events
            if session is None or event.get("session") == session
        ]


class Stage:
    """One deployment with an agent, and nothing else of a control plane."""

    def __init__(self, folder: Path, images: dict[str, str], subnet: str) -> None:
        self.engine = docker.from_env(timeout=120)
        self.images = images
        secret = folder / "oidc-secret"
        secret.write_text("unused")
        limits = {"memory_mb": 1024, "tmp_mb": 64, "home_mb": 32, "project_mb": 32, "cpus": 1.0}
        raw = {
            "deployment": f"agent-{secrets.token_hex(3)}",
            "state": str(folder / "state"),
            "bridge_subnet": subnet,
            "reconcile_seconds": 0.5,
            "oidc": {"issuer": "https://idp.invalid", "client_id": "x", "client_secret_file": str(secret)},
            # In the test that puts a sandbox on a network, a name asked for would leave the machine.
            "probe": {"names": []},
            "workspace": {"limits": limits, "start_timeout": 30},
        }
        self.settings_file = folder / "bulle.yaml"
        self.settings_file.write_text(yaml.safe_dump(raw))
        self.settings = Settings.model_validate(raw)
        layout = self.settings.layout
        prepare_state(self.settings)
        layout.images.write_text(json.dumps({"gateway": images["gateway"], "sandbox": images["sandbox"]}))
        mountpoint.share(layout.mounts)
        self._ingest(folder)
        pool = docker.types.IPAMPool(subnet=subnet)
        self.network = self.engine.networks.create(
            bridge_network(self.settings.deployment),
            internal=True,
            ipam=docker.types.IPAMConfig(pool_configs=[pool]),
            labels={LABEL_DEPLOYMENT: self.settings.deployment},
        )
        self.authority = StandIn(layout.socket("node"))
        self.authority.start()
        self._key = load_private_key(layout.authority / GRANT_KEY)
        self._container: Any = None
        self._ending = threading.Lock()

    def _ingest(self, folder: Path) -> None:
        layout = self.settings.layout
        source = folder / "visits.csv"
        rows = [f"planted-person-{n:06d},{n % 90},planted-diagnosis-C{n % 30}.7" for n in range(3000)]
        source.write_text("\n".join(["id,age,diagnosis", *rows]) + "\n")
        schema = TableSchema.model_validate(
            {
                "title": "Visits",
                "columns": [
                    {"name": "id", "type": "string", "role": "identifier", "entity": "person"},
                    {"name": "age", "type": "integer", "role": "quasi-identifier"},
                    {"name": "diagnosis", "type": "string", "role": "measure"},
                ],
            }
        )
        ring = KeyRing(layout.keyring, open_custodian(self.settings, layout))
        ingest(source, schema, dataset="visits", folder=layout.datasets, ring=ring)
        source.unlink()

    # -- the agent ------------------------------------------------------------------------------------------
    def start_agent(self, hole: str = "") -> None:
        """The agent from its own image; with a hole, if one is named, from
        ``tests.integration.agent_holes``."""
        self.kill()
        arguments = agent_container(self.settings, self.settings_file, self.images["node"])
        arguments["restart_policy"] = {"Name": "no"}
        if hole:
            inside = "/opt/tests"
            arguments["volumes"].append(f"{ROOT / 'tests'}:{inside}/tests:ro")
            arguments["environment"]["PYTHONPATH"] = inside
            arguments["command"] = ["/usr/bin/python3", "-m", "tests.integration.agent_holes", hole]
        self._container = self.engine.containers.run(**arguments)
        self._wait()

    def _wait(self, seconds: float = 30) -> None:
        until = time.monotonic() + seconds
        while True:
            with suppress(httpx.HTTPError), self.door() as door:
                if door.get("/v1/workspaces").status_code == 200:
                    return
            if time.monotonic() > until:
                raise RuntimeError(f"the agent does not answer: {self.log()}")
            time.sleep(0.05)

    def log(self) -> str:
        return str(self._container.logs(tail=40).decode()) if self._container is not None else ""

    def kill(self) -> None:
        """End the agent as a crash would, with everything in its container."""
        with self._ending:
            if self._container is not None:
                with suppress(docker.errors.APIError):
                    self._container.kill()
                self._container.remove(force=True)
                self._container = None

    def stop(self) -> None:
        """End the agent politely."""
        if self._container is not None:
            self._container.stop(timeout=30)
            self._container.remove(force=True)
            self._container = None

    @contextmanager
    def door(self) -> Iterator[httpx.Client]:
        transport = httpx.HTTPTransport(uds=str(self.settings.layout.socket("door")))
        with httpx.Client(transport=transport, base_url="http://door", timeout=60) as client:
            yield client

    # -- grants and starts ----------------------------------------------------------------------------------
    def grant(self, **changes: Any) -> Grant:
        now = datetime.now(UTC)
        columns = (ColumnPermit(name="id"), ColumnPermit(name="age"))
        permit = PermitTerms(
            version=1,
            tables=(TablePermit(dataset="visits", table="visits", columns=columns),),
            valid_from=now - timedelta(days=1),
            valid_until=now + timedelta(days=1),
        )
        fields: dict[str, Any] = {
            "person": "researcher",
            "display_name": "A Researcher",
            "project_id": "1" * 32,
            "project": "heart",
            "project_title": "Hearts",
            "session": secrets.token_hex(16),
            "permit": permit,
            "ends_at": now + timedelta(hours=8),
        }
        return Grant(**{**fields, **changes})

    def token(self, grant: Grant, *, issued: datetime | None = None) -> str:
        return sign_grant(grant, self._key, issued or datetime.now(UTC), issuer_of(self.settings.deployment))

    def environment(self, grant: Grant) -> dict[str, str]:
        return {
            "JUPYTERHUB_API_TOKEN": "hub-token-of-a-session",
            "JUPYTERHUB_API_URL": "http://192.0.2.10:8081/hub/api",
            "JUPYTERHUB_CLIENT_ID": f"jupyterhub-user-{grant.person}-{grant.project}",
            "JUPYTERHUB_OAUTH_ACCESS_SCOPES": json.dumps([f"access:servers!server={grant.person}/{grant.project}"]),
            "JUPYTERHUB_SERVICE_PREFIX": f"/user/{grant.person}/{grant.project}/",
            "JUPYTERHUB_USER": grant.person,
            "JUPYTERHUB_SERVER_NAME": grant.project,
        }

    def start(self, grant: Grant, token: str | None = None) -> list[dict[str, Any]]:
        """All lines of a start."""
        body = {"grant": token or self.token(grant), "bridge_environment": self.environment(grant)}
        with self.door() as door, door.stream("POST", "/v1/workspaces", json=body) as answer:
            assert answer.status_code == 200, answer.read()
            return [json.loads(line) for line in answer.iter_lines() if line]

    # -- what is there --------------------------------------------------------------------------------------
    def containers(self, session: str | None = None) -> dict[str, Any]:
        wanted = [
            f"{LABEL_DEPLOYMENT}={self.settings.deployment}",
            LABEL_SESSION if session is None else f"{LABEL_SESSION}={session}",
        ]
        found = self.engine.containers.list(all=True, filters={"label": wanted}, ignore_removed=True)
        return {f"{each.labels['bulle.session']}/{each.labels['bulle.part']}": each for each in found}

    def in_sandbox(self, session: str, script: str) -> tuple[int, str]:
        sandbox = self.containers(session)[f"{session}/sandbox"]
        status, output = sandbox.exec_run(["/bin/sh", "-c", script], user="1000:1000")
        return status, output.decode()

    def mounted(self) -> list[str]:
        return [str(each.path) for each in mounts_below(self.settings.layout.mounts)]

    def nothing_left(self, seconds: float = 10) -> bool:
        until = time.monotonic() + seconds
        while self.containers() or self.mounted() or any((self.settings.layout.mounts / "ws").iterdir()):
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        return True

    def bytes_on_disk(self) -> Iterator[tuple[Path, bytes]]:
        """Every persistent byte of the deployment, by file; call it when nothing is mounted."""
        for folder, _, files in os.walk(self.settings.state):
            for name in files:
                path = Path(folder) / name
                if path.is_file():
                    yield path, path.read_bytes()

    def close(self) -> None:
        with suppress(Exception):
            self.stop()
        self.kill()
        self.authority.stop()
        for each in self.containers().values():
            each.remove(force=True)
        self.network.remove()
        mountpoint.unshare(self.settings.layout.mounts)
        shutil.rmtree(self.settings.state, ignore_errors=True)

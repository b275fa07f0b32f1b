"""A stage for the gateway's tests: a real hub and proxy, real bridge and display, and a client of the X
server.

The hub has a dummy authenticator and a spawner of its own, which starts the gateway's two containers as
the node agent does (users, mounts, networks); nothing of the bridge or the display is replaced.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from orchestrator.machine import image_parts, image_roots
from orchestrator.machine.image_steps import Steps
from orchestrator.machine.images import build_images

REPO = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("BULLE_CACHE") or REPO / "build" / "cache")
CLIENT_PACKAGES = ("python3-xlib", "tigervnc-common", "x11-utils", "x11-xserver-utils", "xclip", "xterm")
SUBNET = "172.31.247.0/24"
HUB_ADDRESS = "172.31.247.1"

PUBLIC_PORT, API_PORT, HUB_PORT = 18610, 18611, 18612
PUBLIC = f"http://127.0.0.1:{PUBLIC_PORT}"
PASSWORD = secrets.token_hex(8)
ADMIN_TOKEN = secrets.token_hex(16)

HUB_CONFIG = """
import json, os, sys
sys.path.insert(0, os.environ["STAGE_REPO"])
from tests.integration.gateway_stage import stage_spawner
c = get_config()
c.JupyterHub.bind_url = os.environ["STAGE_PUBLIC"]
c.JupyterHub.hub_ip = os.environ["STAGE_HUB_ADDRESS"]
c.JupyterHub.hub_port = int(os.environ["STAGE_HUB_PORT"])
c.ConfigurableHTTPProxy.command = json.loads(os.environ["STAGE_PROXY"])
c.ConfigurableHTTPProxy.api_url = os.environ["STAGE_API"]
c.ConfigurableHTTPProxy.pid_file = "proxy.pid"
c.JupyterHub.spawner_class = stage_spawner()
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = os.environ["STAGE_PASSWORD"]
c.Authenticator.allow_all = True
c.Authenticator.admin_users = {"admin"}
c.JupyterHub.allow_named_servers = True
c.JupyterHub.db_url = "sqlite:///hub.sqlite"
c.JupyterHub.services = [{"name": "test", "api_token": os.environ["STAGE_ADMIN_TOKEN"]}]
c.JupyterHub.load_roles = [
    {"name": "test", "services": ["test"], "scopes": ["admin:users", "admin:servers", "tokens",
    "access:servers"]}, {"name": "admins", "users": ["admin"], "scopes": ["access:servers"]},
]
c.JupyterHub.default_url = "/hub/home"
c.JupyterHub.log_level = "WARN"
"""


def docker(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"docker {' '.join(arguments)}: {done.stderr}")
    return done.stdout.strip()


def gateway_image() -> str:
    return build_images(["gateway"])["gateway"]


def client_image() -> str:
    """A Debian with a terminal and the tools with which an X client would attack; made once."""
    tag = f"bulle/test-xclient:{image_roots.SUITE}-1"
    if image_roots.image_id(tag) is None:
        steps = Steps(print, CACHE / "log" / "test-xclient.log")
        image_roots.debian_root(steps, "test-xclient", CLIENT_PACKAGES, tag, architecture="amd64", hook=None)
    return tag


def proxy_command() -> list[str]:
    """The hub's proxy, from the controller image's lock."""
    modules = CACHE / "test-proxy"
    program = modules / "node_modules" / "configurable-http-proxy" / "bin" / "configurable-http-proxy"
    if not program.exists():
        shutil.rmtree(modules, ignore_errors=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        steps = Steps(print, CACHE / "log" / "test-proxy.log")
        image_parts.fetch_npm(steps, "test-proxy", REPO / "images" / "controller", modules)
    return ["node", str(program)]


@dataclass
class Workspace:
    """The folders and containers of one session, laid out as docs/architecture.md says."""

    folder: Path
    paste_in: bool = True
    idle_minutes: int = 0
    containers: list[str] = field(default_factory=list)

    def prepare(self) -> None:
        from orchestrator.workspaces.gateway.display import write_xauthority

        # the socket takes the folder's group, so the two users need not share a primary one
        for name, uid, gid, mode in (
            ("x11", 0, 0, 0o1777),
            ("rfb", 1002, 1003, 0o2750),
            ("display", 0, 0, 0o755),
            ("bridge", 0, 0, 0o755),
            ("sandbox", 0, 0, 0o755),
        ):
            path = self.folder / name
            path.mkdir(parents=True)
            os.chown(path, uid, gid)
            path.chmod(mode)
        cookie = secrets.token_bytes(16)
        write_xauthority(self.folder / "display" / "Xauthority", cookie, uid=1002)
        write_xauthority(self.folder / "sandbox" / "Xauthority", cookie, uid=1000)

    def run(self, image: str, uid: int, *arguments: str) -> str:
        base = ["run", "-d", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        base += ["--user", f"{uid}:{uid}", "--log-driver", "json-file", "--label", "bulle.test=gateway"]
        identity = docker(*base, *arguments[:-2], image, *json.loads(arguments[-1]))
        self.containers.append(identity)
        return identity

    def display(self, image: str) -> str:
        f = self.folder
        command = ["/usr/lib/bulle/display", *(["--paste-in"] if self.paste_in else [])]
        identity = self.run(
            image, 1002, "--group-add", "1003", "--network", "none", "--memory", "512m",
            "-v", f"{f}/x11:/tmp/.X11-unix", "-v", f"{f}/rfb:/run/bulle/rfb",
            "-v", f"{f}/display:/run/bulle/display:ro", "--tmpfs", "/tmp:size=32m,mode=1777", "",
            json.dumps(command),
        )  # fmt: skip
        wait_for(lambda: _is_up(f) or not _runs(identity), "the display")
        return identity

    def bridge(self, image: str, network: str, environment: dict[str, str], **changes: object) -> str:
        f = self.folder
        told = {
            "environment": environment,
            "session": secrets.token_hex(16),
            "display_name": "A. Researcher",
            "project": "hip",
            "project_title": "Hip fractures <2020>",
            "paste_in": self.paste_in,
            "ends_at": "2099-01-01T00:00:00Z",
            "idle_minutes": self.idle_minutes,
            **changes,
        }
        file = f / "bridge" / "bridge.json"
        file.write_text(json.dumps(told))
        os.chown(file, 1001, 1001)
        file.chmod(0o400)
        return self.run(
            image, 1001, "--group-add", "1003", "--network", network, "--memory", "256m",
            "-v", f"{f}/rfb:/run/bulle/rfb:ro", "-v", f"{f}/bridge:/run/bulle/bridge:ro",
            "--tmpfs", "/tmp:size=32m,mode=1777", "", json.dumps(["/usr/lib/bulle/bridge"]),
        )  # fmt: skip

    def client(self, image: str, command: list[str], *, cookie: bool = True) -> str:
        """A container like a sandbox: no network, and the X socket read-only."""
        f = self.folder
        return self.run(
            image, 1000, "--network", "none", "-v", f"{f}/x11:/tmp/.X11-unix:ro",
            *(["-v", f"{f}/sandbox:/run/bulle:ro"] if cookie else []),
            "--tmpfs", "/tmp:size=64m,mode=1777", "-e", "DISPLAY=:1", "-e",
            "XAUTHORITY=/run/bulle/Xauthority", "-e", "LANG=C.UTF-8", "-e", "HOME=/tmp", "",
            json.dumps(command),
        )  # fmt: skip

    def stop(self) -> None:
        for identity in self.containers:
            docker("rm", "-f", identity, check=False)
        self.containers.clear()


def wait_for(condition, what: str, seconds: float = 20):
    """Wait until ``condition()`` is true, and say what was waited for if it never is."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come within {seconds} s")


def stage_spawner():
    """A hub spawner that starts bridge and display; imported by the hub's configuration only."""
    from jupyterhub.spawner import Spawner

    class StageSpawner(Spawner):
        workspace: Workspace | None = None

        async def start(self):
            folder = Path(os.environ["STAGE_FOLDER"]) / f"ws-{self.user.name}-{self.name}-{secrets.token_hex(3)}"
            self.workspace = Workspace(folder, paste_in=self.name != "nopaste")
            self.workspace.prepare()
            self.workspace.display(os.environ["STAGE_IMAGE"])
            environment = {k: v for k, v in self.get_env().items() if k.startswith("JUPYTERHUB_")}
            identity = self.workspace.bridge(os.environ["STAGE_IMAGE"], os.environ["STAGE_NETWORK"], environment)
            address = docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", identity)
            (folder / "containers.json").write_text(json.dumps(self.workspace.containers))
            return (address, 8888)

        async def stop(self, now: bool = False) -> None:
            if self.workspace:
                bridge = self.workspace.containers[-1]
                docker("stop", "-t", "5", bridge, check=False)
                self.workspace.stop()

        async def poll(self):
            if self.workspace is None or not self.workspace.containers:
                return 0
            return None if _runs(self.workspace.containers[-1]) else 0

    return StageSpawner


def _is_up(folder: Path) -> bool:
    return (folder / "rfb" / "rfb.sock").exists() and (folder / "x11" / "X1").exists()


def _runs(identity: str) -> bool:
    return docker("inspect", "-f", "{{.State.Running}}", identity, check=False) == "true"


@dataclass
class Stage:
    folder: Path
    image: str
    network: str
    hub: subprocess.Popen[bytes]

    def folders(self, user: str, server: str = "") -> Path:
        return max(self.folder.glob(f"ws-{user}-{server}-*"), key=lambda path: path.stat().st_mtime)

    def api(self, method: str, path: str, **more: object) -> httpx.Response:
        headers = {"Authorization": f"token {ADMIN_TOKEN}"}
        return httpx.request(
            method,
            f"{PUBLIC}/hub/api{path}",
            headers=headers,
            timeout=30,
            **more,  # type: ignore[arg-type]
        )

    def start(self, user: str, server: str = "") -> Path:
        """Start a server as the user's own; its folder."""
        assert self.api("POST", f"/users/{user}").status_code in (201, 409)
        place = f"/users/{user}/servers/{server}" if server else f"/users/{user}/server"
        answer = self.api("POST", place)
        assert answer.status_code in (201, 202), answer.text
        wait_for(
            lambda: self.api("GET", f"/users/{user}").json()["servers"].get(server, {}).get("ready"),
            "the server",
        )
        return self.folders(user, server)

    def containers(self, user: str, server: str = "") -> list[str]:
        found: list[str] = json.loads((self.folders(user, server) / "containers.json").read_text())
        return found


@contextlib.contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """Hub, proxy and network; everything is gone afterwards."""
    image = gateway_image()
    network = f"bulle-test-gateway-{secrets.token_hex(3)}"
    docker("network", "create", "--internal", "--subnet", SUBNET, network)
    config = folder / "hub.py"
    config.write_text(HUB_CONFIG)
    environment = {
        **os.environ,
        "STAGE_REPO": str(REPO),
        "STAGE_PUBLIC": PUBLIC,
        "STAGE_API": f"http://127.0.0.1:{API_PORT}",
        "STAGE_HUB_ADDRESS": HUB_ADDRESS,
        "STAGE_HUB_PORT": str(HUB_PORT),
        "STAGE_PROXY": json.dumps(proxy_command()),
        "STAGE_PASSWORD": PASSWORD,
        "STAGE_ADMIN_TOKEN": ADMIN_TOKEN,
        "STAGE_FOLDER": str(folder),
        "STAGE_IMAGE": image,
        "STAGE_NETWORK": network,
    }
    log = (folder / "hub.log").open("wb")
    hub = subprocess.Popen(
        [sys.executable, "-m", "jupyterhub", "-f", str(config)],
        cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    try:
        wait_for(lambda: _answers(f"{PUBLIC}/hub/api/") or hub.poll() is not None, "the hub", 60)
        assert hub.poll() is None, (folder / "hub.log").read_text()[-2000:]
        yield Stage(folder, image, network, hub)
    finally:
        with contextlib.suppress(ProcessLookupError):
            hub.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                hub.wait(15)
            os.killpg(hub.pid, signal.SIGKILL)
        for listed in folder.glob("ws-*/containers.json"):
            for identity in json.loads(listed.read_text()):
                docker("rm", "-f", identity, check=False)
        docker("network", "rm", network, check=False)


def _answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


class Wire:
    """A cable between browser and proxy that can be pulled: connections through it break, new ones can be
    made."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[socket.socket] = []
        self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def __enter__(self) -> Wire:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()
        self.cut()

    def cut(self) -> None:
        """Break every connection."""
        pairs, self._pairs = self._pairs, []
        for end in pairs:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                self._pairs += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    @staticmethod
    def _carry(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

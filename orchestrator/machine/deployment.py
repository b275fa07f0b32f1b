"""A deployment on one machine: brought up, looked at, taken down. Running it again changes nothing it need not."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import docker.errors
import docker.types
from docker.models.containers import Container

from orchestrator.config import Settings
from orchestrator.errors import BulleError, NodeError, SettingsError, UnavailableError
from orchestrator.machine import mountpoint
from orchestrator.machine.parts import container_name, control_plane
from orchestrator.machine.state import prepare_state
from orchestrator.node.container import agent_container
from orchestrator.workspaces.spec import LABEL_DEPLOYMENT, LABEL_PART, bridge_network

Say = Callable[[str], None]
NODE = "node"


def engine() -> docker.DockerClient:
    """The Docker engine of this machine.

    Raises:
        UnavailableError: none answers.
    """
    try:
        client = docker.from_env(timeout=120)
        client.ping()
    except docker.errors.DockerException as error:
        raise UnavailableError(
            "no Docker engine answers", hint="start it: systemctl start docker, or dockerd &"
        ) from error
    return client


@dataclass(frozen=True)
class PartStatus:
    """What runs of one part."""

    name: str
    state: str
    started: str


#: option of the bridge driver: whether containers on a network reach each other
ICC = "com.docker.network.bridge.enable_icc"


def _check_network(found: dict[str, Any], name: str, subnet: str) -> None:
    """A network that exists must be as closed as the one that would be made.

    Raises:
        NodeError: it is not; it may have been made by hand (attack: a way out prepared before the deployment).
    """
    subnets = [pool.get("Subnet") for pool in (found.get("IPAM") or {}).get("Config") or []]
    options = found.get("Options") or {}
    if not found.get("Internal") or options.get(ICC) != "false" or subnets != [subnet]:
        raise NodeError(
            f"the network {name} exists and is not as it must be (internal, {ICC}=false, {subnet})",
            hint=f"take the deployment down (bulle down), remove it (docker network rm {name}), and bring it up again",
        )


class Deployment:
    """The control plane of ``settings`` on this machine's engine.

    ``settings_file`` is shown to every part; ``images`` maps image names to the ids (digests) to run.
    """

    def __init__(
        self, settings: Settings, settings_file: Path, images: dict[str, str], *, demo_idp: bool = False
    ) -> None:
        self.settings = settings
        self.settings_file = settings_file.resolve()
        self.images = images
        self.demo_idp = demo_idp
        self._engine = engine()

    # -- up -----------------------------------------------------------------------------------------------------------
    def up(self, say: Say) -> None:
        """Bring every part up, in order, and wait until the login page answers."""
        prepare_state(self.settings)
        mountpoint.share(self.settings.layout.mounts)
        self._network()
        wanted = [
            (part.name, part.container(self.settings.deployment, self._image(part.image), ""))
            for part in control_plane(self.settings, self.settings_file, demo_idp=self.demo_idp)
        ]
        agent = agent_container(self.settings, self.settings_file, self._image(NODE))
        wanted.insert(1, (NODE, agent))
        for name, arguments in wanted:
            if self._ensure(name, arguments):
                say(f"started {name}")
            if name == "authority":
                for where in ("hub", "portal", "node"):
                    self._wait_socket(name, self.settings.layout.socket(where))
            elif name == NODE:
                self._wait_socket(name, self.settings.layout.socket("door"))
        self._wait_login()

    def _image(self, name: str) -> str:
        try:
            return self.images[name]
        except KeyError as error:
            raise SettingsError(
                f"no image '{name}' is recorded", hint="build the images: bulle images build"
            ) from error

    def _network(self) -> None:
        """The internal network of the bridges: no way out of the machine, and no bridge reaches another one."""
        name = bridge_network(self.settings.deployment)
        subnet = ipaddress.ip_network(self.settings.bridge_subnet)
        there = self._engine.networks.list(names=[f"^{name}$"])
        if there:
            _check_network(there[0].attrs, name, str(subnet))
            return
        pool = docker.types.IPAMPool(subnet=str(subnet), gateway=str(subnet[1]))
        try:
            self._engine.networks.create(
                name,
                driver="bridge",
                internal=True,
                ipam=docker.types.IPAMConfig(pool_configs=[pool]),
                # A stolen bridge must not attack its neighbours: containers on this network cannot reach each other,
                # only the machine (the proxy and the hub) and they.
                options={ICC: "false"},
                labels={LABEL_DEPLOYMENT: self.settings.deployment},
            )
        except docker.errors.APIError as error:
            raise NodeError(
                f"network {subnet} could not be made: {error.explanation}",
                hint="set bridge_subnet to a free one",
            ) from error

    def _ensure(self, name: str, arguments: dict[str, Any]) -> bool:
        """Run a part unless the same one runs already; whether it was (re)started."""
        secrets_digest = hashlib.sha256(self.settings_file.read_bytes()).hexdigest()
        mark = hashlib.sha256(
            (json.dumps(arguments, sort_keys=True, default=str) + secrets_digest).encode()
        ).hexdigest()
        arguments = {**arguments, "labels": {**arguments["labels"], "bulle.mark": mark}, "detach": True}
        found = self._container(name)
        if found is not None:
            if found.labels.get("bulle.mark") == mark and found.status == "running":
                return False
            found.remove(force=True)
        try:
            self._engine.containers.run(**arguments)
        except docker.errors.DockerException as error:
            raise NodeError(f"{name} could not be started: {error}") from error
        return True

    def _container(self, part: str) -> Container | None:
        try:
            return self._engine.containers.get(container_name(self.settings.deployment, part))
        except docker.errors.NotFound:
            return None

    def _failed(self, part: str, what: str) -> BulleError:
        found = self._container(part)
        log = found.logs(tail=12).decode(errors="replace").strip() if found is not None else "(it is not there)"
        return UnavailableError(f"{part}: {what}. Its last lines:\n{log}")

    def _wait_socket(self, part: str, path: Path, seconds: float = 60) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(str(path))
                return
            except OSError:
                time.sleep(0.1)
        raise self._failed(part, f"does not answer on {path}")

    def _wait_login(self, seconds: float = 90) -> None:
        """Wait until the hub and the portal both answer behind the proxy."""
        scheme = "https" if self.settings.tls else "http"
        until = time.monotonic() + seconds
        for part, path in (("hub", "/hub/health"), ("portal", "/services/portal/health")):
            while True:
                try:
                    url = f"{scheme}://{self.settings.listen}{path}"
                    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own loopback address
                        if answer.status == 200:
                            break
                except (urllib.error.URLError, OSError):
                    pass
                if time.monotonic() > until:
                    raise self._failed(part, "does not answer behind the proxy")
                time.sleep(0.2)

    # -- down ---------------------------------------------------------------------------------------------------------
    def down(self, say: Say) -> None:
        """Stop everything of this deployment; nothing is left running or mounted. What persists is kept."""
        # The hub goes first, so that nobody starts a workspace while the node agent takes them down.
        for part in ("hub", "portal", "proxy", "demo-idp", "metrics", NODE, "authority"):
            found = self._container(part)
            if found is not None:
                found.stop(timeout=30)
                found.remove(force=True)
                say(f"stopped {part}")
        label = f"{LABEL_DEPLOYMENT}={self.settings.deployment}"
        for left in self._engine.containers.list(all=True, filters={"label": label}):
            left.remove(force=True)
        for network in self._engine.networks.list(filters={"label": label}):
            network.remove()
        mountpoint.unshare(self.settings.layout.mounts)

    def status(self) -> list[PartStatus]:
        """What of this deployment the engine has, control plane and workspaces."""
        label = f"{LABEL_DEPLOYMENT}={self.settings.deployment}"
        return [
            PartStatus(
                found.labels.get(LABEL_PART, found.name or ""),
                found.status,
                found.attrs["State"]["StartedAt"],
            )
            for found in self._engine.containers.list(all=True, filters={"label": label})
        ]

"""Workspaces on a Docker engine: a pure translation of the specification, and a thin runtime over the unix
socket."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import docker
import docker.errors
import requests

from orchestrator.errors import NodeError
from orchestrator.workspaces.runtime import Executed, Found, Runtime, Used
from orchestrator.workspaces.spec import LABEL_DEPLOYMENT, LABEL_PART, LABEL_SESSION, ContainerSpec, Mount

_MB = 1 << 20


def _bind(mount: Mount) -> dict[str, Any]:
    return {
        "Type": "bind",
        "Source": str(mount.source),
        "Target": mount.target,
        "ReadOnly": mount.read_only,
        "BindOptions": {"Propagation": mount.propagation, "NonRecursive": False},
    }


def create_arguments(spec: ContainerSpec) -> dict[str, Any]:
    """The body of the engine's ``POST /containers/create`` for ``spec``.

    The attacks that the lines stop are named beside them; ``tests/unit/workspaces/test_spec.py`` holds
    every line, and the isolation probe looks at the outcome in each sandbox.
    """
    memory = spec.memory_mb * _MB
    security = ["no-new-privileges"]  # setuid programs gain nothing
    if spec.seccomp is not None:
        security.append(f"seccomp={spec.seccomp}")
    host: dict[str, Any] = {
        "NetworkMode": spec.network or "none",
        "Mounts": [_bind(mount) for mount in spec.mounts],
        "Tmpfs": {each.target: each.options() for each in spec.tmpfs},
        "ReadonlyRootfs": True,  # nothing planted in the image's programs
        "CapDrop": ["ALL"],
        "CapAdd": [],
        "Privileged": False,
        "SecurityOpt": security,
        "GroupAdd": [str(group) for group in spec.groups],
        "IpcMode": "private",  # no shared memory with another part
        "PidMode": "",
        "UTSMode": "",
        "CgroupnsMode": "private",
        "Devices": [],
        "DeviceCgroupRules": [],
        "PublishAllPorts": False,
        "PortBindings": {},
        "Memory": memory,
        "MemorySwap": memory,  # equal: no swap, so plaintext never reaches a disk
        "MemorySwappiness": 0,
        "NanoCpus": int(spec.cpus * 1e9),
        "PidsLimit": spec.processes,
        "ShmSize": spec.shm_mb * _MB,
        "Ulimits": [
            {"Name": "core", "Soft": 0, "Hard": 0},  # a core dump is plaintext on a disk
            {"Name": "nofile", "Soft": spec.open_files, "Hard": spec.open_files},
        ],
        # No ping either, should a network ever appear (the engine lets every group ping by default).
        "Sysctls": {"net.ipv4.ping_group_range": "1 0"},
        "LogConfig": {"Type": "none", "Config": {}},  # what a researcher prints is data: never on a disk
        "RestartPolicy": {"Name": "no"},
        "AutoRemove": False,
        # The machine's resolver and search domain are nobody's business in there.
        # Nobody needs a name: parts are told addresses. An engine that hands queries on to the machine's resolver
        # (CVE-2024-29018) would be a way out of a stolen bridge.
        "Dns": ["127.0.0.1"],
        "DnsSearch": ["."],
    }
    body: dict[str, Any] = {
        "Image": spec.image,
        "Entrypoint": [spec.command[0]],
        "Cmd": list(spec.command[1:]),
        "User": f"{spec.uid}:{spec.uid}",
        "Env": [f"{name}={value}" for name, value in spec.environment],
        "Labels": dict(spec.labels),
        "Hostname": spec.part.value if spec.network else "workspace",
        "WorkingDir": "/",
        "Tty": False,
        "OpenStdin": False,
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "Healthcheck": {"Test": ["NONE"]},
        "StopSignal": "SIGTERM",
        "HostConfig": host,
    }
    if spec.network:
        body["NetworkingConfig"] = {"EndpointsConfig": {spec.network: {}}}
    return body


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn the engine's refusals into errors that say what was tried."""
    try:
        yield
    except docker.errors.APIError as error:
        raise NodeError(f"the engine did not {what}: {error.explanation or error}") from error
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
        raise NodeError(f"the engine did not {what}: {error}", hint="does the Docker engine run?") from error


class DockerRuntime(Runtime):
    """The workspaces of one deployment on the engine behind ``base_url``; one client, kept alive, for all
    threads."""

    def __init__(self, deployment: str, base_url: str = "unix:///var/run/docker.sock") -> None:
        self._deployment = deployment
        with _told("answer"):
            self._api = docker.APIClient(base_url=base_url, version="auto", timeout=60, num_pools=32)

    def create(self, spec: ContainerSpec) -> str:
        """See :meth:`Runtime.create`."""
        labels = dict(spec.labels)
        name = f"bulle-{self._deployment}-{labels[LABEL_SESSION][:12]}-{labels[LABEL_PART]}"
        with _told(f"create the {spec.part}"):
            made = self._api.create_container_from_config(create_arguments(spec), name)  # type: ignore[no-untyped-call]
        return str(made["Id"])

    def start(self, container: str) -> None:
        """See :meth:`Runtime.start`."""
        with _told(f"start container {container[:12]}"):
            self._api.start(container)

    def execute(
        self, container: str, command: tuple[str, ...], uid: int, stdin: bytes, *, timeout: float, most: int
    ) -> Executed:
        """See :meth:`Runtime.execute`."""
        with _told(f"run {command[0]} in container {container[:12]}"):
            made = self._api.exec_create(container, list(command), stdin=True, user=f"{uid}:{uid}")
            stream: Any = self._api.exec_start(made["Id"], socket=True)
            connection: socket.socket = getattr(stream, "_sock", stream)
            try:
                connection.settimeout(timeout)
                connection.sendall(stdin)
                connection.shutdown(socket.SHUT_WR)
                output, errors = _frames(connection, most)
            finally:
                stream.close()
                connection.close()
            status = self._api.exec_inspect(made["Id"])["ExitCode"]
        return Executed(-1 if status is None else int(status), output, errors)

    def list(self, session: str | None = None) -> list[Found]:
        """See :meth:`Runtime.list`."""
        wanted = [
            f"{LABEL_DEPLOYMENT}={self._deployment}",
            LABEL_SESSION if session is None else f"{LABEL_SESSION}={session}",
        ]
        with _told("list its containers"):
            rows = self._api.containers(all=True, filters={"label": wanted})
        return [
            Found(row["Id"], row["Labels"][LABEL_SESSION], row["Labels"].get(LABEL_PART, ""), row["State"] == "running")
            for row in rows
        ]

    def address(self, container: str, network: str) -> str:
        """See :meth:`Runtime.address`."""
        with _told(f"look at container {container[:12]}"):
            networks = self._api.inspect_container(container)["NetworkSettings"]["Networks"]
        found = networks.get(network, {}).get("IPAddress", "")
        if not found:
            raise NodeError(f"container {container[:12]} has no address on {network}: it ended, or was never there")
        return str(found)

    def used(self, container: str) -> Used:
        """See :meth:`Runtime.used`."""
        with _told(f"measure container {container[:12]}"):
            # One look at the control groups, version 1 or 2, by the engine: the agent needs no view of the machine's.
            return used_of(self._api.stats(container, stream=False, one_shot=True))

    def remove(self, container: str, *, grace: int = 0) -> None:
        """See :meth:`Runtime.remove`."""
        with _told(f"remove container {container[:12]}"):
            try:
                if grace:
                    self._api.stop(container, timeout=grace)
                self._api.remove_container(container, force=True, v=True)
            except docker.errors.NotFound:
                return
            except docker.errors.APIError as error:
                # Two callers may remove the same container: the engine answers 409 to the second.
                if error.status_code != 409:
                    raise


def used_of(stats: Mapping[str, Any]) -> Used:
    """What the engine's statistics say (Engine API, "Get container stats").

    Memory is counted as ``docker stats`` does: without the part of the page cache that the kernel may take back at
    once, which is called differently in control groups of version 1 and 2.

    Raises:
        NodeError: it says nothing, as of a container that does not run.
    """
    try:
        processor = float(stats["cpu_stats"]["cpu_usage"]["total_usage"]) / 1e9
        memory = stats["memory_stats"]
        usage, parts = float(memory["usage"]), memory.get("stats", {})
        cache = float(parts.get("total_inactive_file", parts.get("inactive_file", 0)))
    except (KeyError, TypeError, ValueError) as error:
        raise NodeError("the engine does not say what a container used") from error
    return Used(processor, usage - cache if cache < usage else usage)


def _frames(connection: socket.socket, most: int) -> tuple[bytes, bytes]:
    """Standard output and errors out of the engine's multiplexed stream (Engine API, "Stream format").

    Raises:
        OSError: the stream was cut within a frame, or holds more than ``most`` bytes.
    """
    parts: dict[int, bytearray] = {1: bytearray(), 2: bytearray()}
    while header := _exactly(connection, 8, or_end=True):
        kind, length = struct.unpack(">BxxxL", header)
        if sum(map(len, parts.values())) + length > most:
            raise OSError(f"answer longer than {most} bytes")
        parts.setdefault(kind, bytearray()).extend(_exactly(connection, length))
    return bytes(parts[1]), bytes(parts[2])


def _exactly(connection: socket.socket, count: int, *, or_end: bool = False) -> bytes:
    got = bytearray()
    while len(got) < count:
        piece = connection.recv(count - len(got))
        if not piece:
            if or_end and not got:
                return b""
            raise OSError("answer cut short")
        got.extend(piece)
    return bytes(got)

"""The isolation probe in the real sandbox image: blocked where a workspace is as specified, open where it is not.

The open sandbox is the negative control of every attempt. What it can reach is of this test's own: a neighbour on an
internal network, so that no packet leaves the machine.
"""

from __future__ import annotations

import dataclasses
import io
import json
import secrets
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from orchestrator.config import Settings
from orchestrator.machine import images as machine_images
from orchestrator.workspaces import isolation, seccomp
from orchestrator.workspaces.docker import DockerRuntime, create_arguments
from orchestrator.workspaces.spec import PROBE_COMMAND, ContainerSpec, Images, WorkspacePaths, workspace_specs
from tests.unit.workspaces.test_spec import a_grant

SUBNET, SUBNET6 = "172.31.212.0/24", "fd5b:7e5d:212::/64"

#: attempts that no configuration of a container opens here, and why
WITHOUT_CONTROL = {
    ("bluetooth", "adapter"): "the kernel may have no Bluetooth",
    ("kernel-crypto-socket", "AF_ALG"): "the kernel may have no AF_ALG",
    ("vsock", "hypervisor"): "the kernel may have no AF_VSOCK",
    ("open-by-handle", "/"): "the handle is made up",
    ("shared-memory", "others"): "needs a program that makes some",
    ("write", "/sys"): "engines mount it read-only for all but privileged containers",
    ("write", "/proc"): "no file can be made there by anybody",
    ("write", "/proc/sys/kernel"): "no file can be made there by anybody",
    ("open-for-writing", "/proc/sysrq-trigger"): "the kernel may have none",
    ("open-for-writing", "/sys/kernel/uevent_helper"): "the kernel may have none",
    ("open-for-writing", "/sys/power/state"): "engines mount it read-only for all but privileged containers",
    ("open-for-reading", "/proc/kcore"): "the kernel may have none",
    ("system-call", "init_module"): "the kernel may have no modules",
    ("status", "CapInh"): "engines give no inheritable capabilities",
    ("status", "CapAmb"): "engines give no ambient capabilities",
}


class Trial:
    def __init__(self, folder: Path) -> None:
        self.engine = docker.from_env(timeout=60)
        built = machine_images.build_images(["gateway", "sandbox", "node"], progress=print)
        self.deployment = f"probe-{secrets.token_hex(3)}"
        self.settings = Settings.model_validate(
            {
                "deployment": self.deployment,
                "state": str(folder),
                "bridge_subnet": SUBNET,
                "oidc": {"issuer": "https://idp.invalid", "client_id": "c", "client_secret_file": "/s"},
            }
        )
        self.runtime = DockerRuntime(self.deployment)
        grant = a_grant(secrets.token_hex(16))
        paths = WorkspacePaths.of(folder / "mounts", grant.session)
        for name in ("data", "home", "project", "run/x11", "run/sandbox"):
            (paths.root / name).mkdir(parents=True)
        self.paths = paths
        spec = workspace_specs(
            grant, self.settings, Images(built["gateway"], built["sandbox"]), paths, self._filter(built["node"])
        )[2]
        # These folders are on no shared mount here, and nothing is mounted on them.
        plain = tuple(dataclasses.replace(mount, propagation="rprivate") for mount in spec.mounts)
        self.spec: ContainerSpec = dataclasses.replace(spec, mounts=plain)

    def _filter(self, node_image: str) -> str:
        """The profile of the package in the agent's image, tightened."""
        holder = self.engine.containers.create(node_image, ["true"])
        try:
            stream, _ = holder.get_archive(str(seccomp.PROFILE))
            with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
                content = archive.extractfile(archive.getmembers()[0])
                assert content is not None
                return json.dumps(seccomp.tightened(json.loads(content.read())))
        finally:
            holder.remove()

    def report(self, body: dict[str, Any], targets: isolation.Targets, user: int) -> dict[tuple[str, str], str]:
        made = self.engine.api.create_container_from_config(body)
        try:
            self.runtime.start(made["Id"])
            answer = self.runtime.execute(
                made["Id"], PROBE_COMMAND, user, json.dumps(targets).encode(), timeout=15, most=isolation.MOST
            )
            rows = isolation.parse_report(answer.status, answer.output)
            self.findings = isolation.evaluate(rows, targets)
            return {(row["attempt"], row["target"]): f"{row['result']} {row['detail']}" for row in rows}
        finally:
            self.runtime.remove(made["Id"])


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    return Trial(tmp_path_factory.mktemp("probe"))


def test_a_sandbox_as_specified_is_isolated(trial: Trial) -> None:
    targets = isolation.targets_of(trial.settings, "")
    report = trial.report(create_arguments(trial.spec), targets, 1000)
    assert trial.findings == []
    assert len(report) > 100
    # Nothing was sent, and it was the kernel that said so.
    assert "unreachable" in report["tcp", "192.0.2.1:443"]


@pytest.fixture
def neighbour(trial: Trial) -> Iterator[tuple[str, str, str]]:
    """A container on an internal network of IPv4 and IPv6: its name and addresses."""
    pools = [docker.types.IPAMPool(subnet=SUBNET), docker.types.IPAMPool(subnet=SUBNET6)]
    network = trial.engine.networks.create(
        f"bulle-{trial.deployment}-bridges",
        internal=True,
        enable_ipv6=True,
        ipam=docker.types.IPAMConfig(pool_configs=pools),
    )
    name = f"{trial.deployment}-neighbour"
    there = trial.engine.containers.run(
        trial.spec.image, name=name, entrypoint=["sleep", "600"], network=network.name, detach=True, user="1000"
    )
    try:
        there.reload()
        address = there.attrs["NetworkSettings"]["Networks"][network.name]
        yield name, address["IPAddress"], address["GlobalIPv6Address"]
    finally:
        there.remove(force=True)
        network.remove()


def test_in_a_sandbox_with_every_hole_every_attempt_succeeds(trial: Trial, neighbour: tuple[str, str, str]) -> None:
    name, four, six = neighbour
    targets = {
        "tcp": [f"{four}:9", f"[{six}]:9"],
        "udp": [f"{four}:9", f"[{six}]:9"],
        "ping": [four, six],
        "resolvers": [f"{four}:53", f"[{six}]:53"],
        "names": [name],
        "devices": [],
    }
    body = create_arguments(dataclasses.replace(trial.spec, network=f"bulle-{trial.deployment}-bridges"))
    for place in (trial.paths.data, trial.paths.home, trial.paths.project):
        (place / "something").write_text("x")
    (trial.paths.root / "engine").mkdir()
    host = body["HostConfig"]
    # An abstract socket, a socket in a folder, and places that must not be there.
    plant = (
        "import socket, time, os\n"
        "kept = [socket.socket(socket.AF_UNIX) for _ in range(3)]\n"
        "kept[0].bind('\\0somebody'); kept[0].listen()\n"
        "os.makedirs('/run/containerd', exist_ok=True); os.makedirs('/var/run/secrets/kubernetes.io', exist_ok=True)\n"
        "kept[1].bind('/run/docker.sock'); kept[2].bind('/run/containerd/containerd.sock')\n"
        "[os.makedirs(f'/run/bulle/{n}', exist_ok=True) for n in ('bridge', 'rfb', 'display')]\n"
        "open('/.dockerinit', 'w')\n"
        "[os.mknod(f'/dev/{n}', 0o020666, os.makedev(1, 3)) for n in ('fuse', 'kvm', 'vsock', 'port')]\n"
        "[os.mknod(f'/dev/{n}', 0o020666, os.makedev(1, 5)) for n in ('mem', 'kmsg')]\n"
        "if os.fork() == 0: os.setuid(4242)\n"
        "time.sleep(600)\n"
    )
    body.update(User="0:0", Entrypoint=["/usr/bin/python3", "-c", plant], Cmd=[])
    body["Env"] += ["JUPYTERHUB_API_TOKEN=planted"]
    host.update(
        CapDrop=[],
        CapAdd=["ALL"],
        ReadonlyRootfs=False,
        SecurityOpt=["seccomp=unconfined", "apparmor=unconfined"],
        Ulimits=[],
        GroupAdd=["4"],
        MaskedPaths=[],
        ReadonlyPaths=[],
        Sysctls={"net.ipv4.ping_group_range": "0 2147483647", "net.ipv6.conf.all.disable_ipv6": "0"},
        Tmpfs={"/tmp": "exec,suid,dev"},
        Mounts=[{**mount, "ReadOnly": False} for mount in host["Mounts"]],
    )
    # CAP_SYS_RESOURCE is not everywhere to be had.
    host["CapAdd"] = ["SYS_ADMIN", "NET_ADMIN", "NET_RAW", "DAC_READ_SEARCH", "SYS_CHROOT", "MKNOD", "SYS_MODULE"]
    host["CapAdd"] += ["SYS_TIME", "SYSLOG", "SYS_PTRACE", "SYS_RAWIO"]
    report = trial.report(body, targets, 0)
    blocked = {pair: said for pair, said in report.items() if said.startswith("blocked")}
    missed = {pair: said for pair, said in blocked.items() if pair not in WITHOUT_CONTROL}
    assert not missed, "\n".join(f"{pair}: {said}" for pair, said in missed.items())


def test_the_engine_s_own_filter_is_not_enough(trial: Trial) -> None:
    """Without our filter at least io_uring is there; on many virtual machines the hypervisor's sockets too."""
    targets = isolation.targets_of(trial.settings, "")
    for place in (trial.paths.data, trial.paths.home, trial.paths.project):
        (place / "something").unlink(missing_ok=True)
    trial.report(create_arguments(dataclasses.replace(trial.spec, seccomp=None)), targets, 1000)
    assert {(each.attempt, each.target) for each in trial.findings} & {
        ("system-call", "io_uring_setup"),
        ("vsock", "hypervisor"),
        ("kernel-crypto-socket", "AF_ALG"),
    }

"""A workspace's pod on a real cluster that enforces no NetworkPolicy, attacked from the inside and from beside.

Each attack is also made on a pod without the lock, where it succeeds.
"""

from __future__ import annotations

import json
import re
import secrets
import shlex
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from orchestrator.cluster import pods
from orchestrator.config import Settings
from orchestrator.workspaces import isolation
from orchestrator.workspaces.pod import UNREACHABLE
from orchestrator.workspaces.pod_differences import differences
from orchestrator.workspaces.spec import PROBE_COMMAND
from tests.cluster.stage import (
    API_SERVER,
    API_SERVICE,
    GATEWAY,
    KUBELET,
    Cluster,
    Manifest,
    Session,
    is_ready,
    neighbour,
)
from tests.unit.workspaces.test_spec import a_grant

#: sends a datagram to each argument, and one that everybody on the wire gets
SEND = """
import errno, json, socket, sys
def one(target, device=b""):
    host, _, port = target.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        try:
            if device: sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
            sock.sendto(b"x", (host, int(port)))
        except OSError as error:
            return errno.errorcode[error.errno]
    return "OPEN"
found = {target: one(target) for target in sys.argv[1:]}
found["multicast"], found["broadcast"] = one("224.0.0.1:9", b"eth0"), one("255.255.255.255:9", b"eth0")
try:
    socket.getaddrinfo("kubernetes.default.svc.cluster.local", 443); found["name"] = "OPEN"
except socket.gaierror as error:
    found["name"] = "EAI"
print(json.dumps(found))
"""

#: tries to take away the lock: the packet filter, then the rules of routing
UNLOCK = """
import os, errno, json, socket, struct
def answer(protocol, data):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as sock:
        sock.settimeout(2); sock.bind((0, 0)); sock.send(data)
        code = -struct.unpack("i", sock.recv(4096)[16:20])[0]
        return errno.errorcode[code] if code else "OPEN"
def part(number, kind, flags, family, resource, body=b""):
    return struct.pack("IHHIIBBH", 20 + len(body), kind, flags, number, 0, family, 0, socket.htons(resource)) + body
table = struct.pack("HH8s", 10, 1, b"bulle\\0")
flush = part(1, 0x10, 1, 0, 10) + part(2, 0x0A02, 5, 1, 0, table) + part(3, 0x11, 1, 0, 10)
rule = struct.pack("BBBBBBBBI", 2, 0, 0, 0, 0, 0, 0, 0, 0) + struct.pack("HHI", 8, 6, 30)
delete = struct.pack("IHHII", 16 + len(rule), 33, 5, 1, 0) + rule
print(json.dumps({"filter": answer(12, flush), "rules": answer(0, delete), "uid": os.getuid()}))
"""


@pytest.fixture(scope="module")
def beside(cluster: Cluster) -> Iterator[str]:
    """Address of another pod, with two open ports; the first is the hub's to a workspace."""
    cluster.kubectl("create", "-f", "-", given=neighbour("beside", cluster.images["gateway"]))
    found = cluster.until("default", "beside", is_ready)
    yield found["status"]["podIP"]
    cluster.kubectl("delete", "pod", "beside", "--grace-period=0", "--force", "--wait=false")


@pytest.fixture(scope="module")
def settings(beside: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    state: Path = tmp_path_factory.mktemp("cluster")
    (state / "mounts" / "ws").mkdir(parents=True)
    return Settings.model_validate(
        {
            "deployment": "cluster",
            "state": str(state),
            "oidc": {"issuer": "https://idp.invalid", "client_id": "c", "client_secret_file": "/s"},
            "workspace": {"limits": {"cpus": 1, "memory_mb": 1024, "tmp_mb": 64}},
            "kubernetes": {"hub": [f"{beside}:8081"]},
        }
    )


def a_session(cluster: Cluster, settings: Settings) -> Session:
    changes = {"project_id": secrets.token_hex(16), "ends_at": datetime.now(UTC) + timedelta(hours=1)}
    grant = a_grant(secrets.token_hex(16)).model_copy(update=changes)
    return Session(cluster, grant, settings)


@pytest.fixture(scope="module")
def workspace(cluster: Cluster, settings: Settings) -> Iterator[Session]:
    """A workspace as specified, up."""
    session = a_session(cluster, settings)
    try:
        session.made = session.start()  # type: ignore[attr-defined]
        session.ready()
        yield session
    finally:
        session.stop()


@pytest.fixture(scope="module")
def unlocked(cluster: Cluster, settings: Settings) -> Iterator[Session]:
    """The negative control: the same without lock and probe."""

    def neither(manifest: Manifest) -> None:
        del manifest["spec"]["initContainers"]
        without_the_probe(manifest)

    session = a_session(cluster, settings)
    try:
        session.start(neither)
        session.ready()
        yield session
    finally:
        session.stop()


def without_the_probe(manifest: Manifest) -> None:
    """Take the probe from before the sandbox's program."""
    command = manifest["spec"]["containers"][0]["command"]
    before, _, rest = command[2].partition(shlex.join(PROBE_COMMAND))
    assert rest
    command[2] = f"{before}/usr/lib/bulle/session </dev/null >/dev/null 2>&1"


def everywhere(session: Session, beside: str) -> list[str]:
    """What a sandbox must not reach: cluster, node, others, the bridge of its own pod."""
    own = session.address
    return [
        API_SERVER,
        API_SERVICE,
        KUBELET,
        GATEWAY,
        f"{beside}:8081",
        f"{beside}:8082",
        f"{own}:8888",
        "127.0.0.1:8888",
    ]


def test_lock_and_probe_pass_and_the_pod_is_the_one_that_was_wanted(workspace: Session, cluster: Cluster) -> None:
    found = cluster.pod(workspace.namespace, workspace.name)
    ended = {each["name"]: each["state"]["terminated"] for each in found["status"]["initContainerStatuses"]}
    assert {name: state["exitCode"] for name, state in ended.items()} == {"network-lock": 0}
    assert is_ready(found), found["status"]
    report = workspace.report()
    assert len(report) > 110
    targets = isolation.targets_of(workspace.settings, workspace.grant.project)
    assert isolation.evaluate(report, targets, locked=True) == []
    made: Manifest = workspace.made  # type: ignore[attr-defined]
    assert differences(made, found) == []
    # Negative control: these volumes are folders of the machine, which no workspace may have.
    assert differences(workspace.wanted, found)


def test_from_inside_the_sandbox_the_kernel_refuses_every_way(workspace: Session, beside: str) -> None:
    assert set(workspace.connect("sandbox", *everywhere(workspace, beside), "192.0.2.1:443").values()) == {"EACCES"}
    sent = json.loads(workspace.python("sandbox", SEND, f"{beside}:8082", "10.245.0.1:53", "192.0.2.53:53"))
    assert sent.pop("name") == "EAI"
    assert set(sent.values()) <= {"EACCES", "EPERM"}, sent


def test_the_sandbox_cannot_take_the_lock_away(workspace: Session) -> None:
    assert json.loads(workspace.python("sandbox", UNLOCK)) == {"filter": "EPERM", "rules": "EPERM", "uid": 1000}


def test_the_display_reaches_nobody_either(workspace: Session, beside: str) -> None:
    """Any X client can order an X server to connect out."""
    assert set(workspace.connect("display", *everywhere(workspace, beside)).values()) == {"EACCES"}
    ear = workspace.cluster.listening(workspace.namespace, workspace.name, "sandbox", 5999, 8)
    assert workspace.connect("display", "127.0.0.1:5999") == {"127.0.0.1:5999": "SILENCE"}
    assert "nobody came" in ear.communicate(timeout=30)[0]


def test_the_sandbox_s_own_programs_reach_each_other(workspace: Session) -> None:
    workspace.cluster.listening(workspace.namespace, workspace.name, "sandbox", 8890, 10)
    assert workspace.connect("sandbox", "127.0.0.1:8890") == {"127.0.0.1:8890": "OPEN"}


def test_the_bridge_reaches_the_hub_and_nothing_else(workspace: Session, beside: str) -> None:
    assert workspace.connect("bridge", f"{beside}:8081") == {f"{beside}:8081": "OPEN"}
    others = [each for each in everywhere(workspace, beside) if each != f"{beside}:8081"]
    assert set(workspace.connect("bridge", *others).values()) <= {"SILENCE", "EACCES"}
    sent = json.loads(workspace.python("bridge", SEND, f"{beside}:8081", "10.245.0.1:53"))
    assert sent.pop("name") == "EAI" and set(sent.values()) <= {"EACCES", "EPERM"}, sent


def test_another_pod_reaches_the_bridge_s_port_and_nothing_else(workspace: Session, cluster: Cluster) -> None:
    ear = cluster.listening(workspace.namespace, workspace.name, "sandbox", 9999, 6)
    own = workspace.address
    assert cluster.connect("default", "beside", "one", f"{own}:8888", f"{own}:9999", f"{own}:22") == {
        f"{own}:8888": "OPEN",
        f"{own}:9999": "SILENCE",
        f"{own}:22": "SILENCE",
    }
    assert "nobody came" in ear.communicate(timeout=30)[0]


def test_what_is_mounted_later_shows_in_the_running_sandbox(workspace: Session) -> None:
    look = "import os; print(os.path.ismount('/home/researcher'), os.access('/home/researcher', os.W_OK))"
    assert workspace.python("sandbox", look).split() == ["True", "False"], "root's empty folder, before"
    workspace.open_desktop()
    assert workspace.python("sandbox", look).split() == ["True", "True"]


def test_nothing_that_is_printed_or_told_leaves_the_sandbox(workspace: Session, cluster: Cluster) -> None:
    """Kubelet writes what containers print to a disk, and copies their last words into the cluster's API."""
    write = "import os\nfor path in ('/proc/1/fd/1', '/proc/1/fd/2'):\n"
    write += "    handle = os.open(path, os.O_WRONLY); print(os.write(handle, b'somebody'), os.readlink(path))"
    assert workspace.python("sandbox", write).split() == ["8", "/dev/null", "8", "/dev/null"]
    logs = cluster.kubectl("logs", "-n", workspace.namespace, workspace.name, "-c", "sandbox")
    assert re.fullmatch(r"isolation-probe: 0 of \d+ attempts are open\n", logs), "the probe's, before there was data"
    told = f"import os\ntry:\n    open('{UNREACHABLE}', 'w')\nexcept OSError as error:\n    print(error.errno)\n"
    told += "print(os.path.exists('/dev/termination-log'))"
    assert workspace.python("sandbox", told).split() == ["13", "False"]


def test_no_token_and_no_address_of_the_cluster_is_in_the_sandbox(workspace: Session) -> None:
    look = "import os; print(os.path.exists('/var/run/secrets'), b'KUBERNETES' in open('/proc/1/environ', 'rb').read())"
    assert workspace.python("sandbox", look).split() == ["False", "False"]


def test_a_sandbox_that_takes_the_port_of_a_dead_bridge_is_not_heard(workspace: Session, cluster: Cluster) -> None:
    """Else the hub's proxy would send a person's cookies there, and take what the sandbox answers to a browser."""
    cluster.kubectl(
        "exec", "-n", workspace.namespace, workspace.name, "-c", "bridge", "--", "/bin/sh", "-c", "kill 1", check=False
    )
    cluster.until(
        workspace.namespace,
        workspace.name,
        lambda pod: any(
            each["name"] == "bridge" and "terminated" in each["state"] for each in pod["status"]["containerStatuses"]
        ),
    )
    ear = cluster.listening(workspace.namespace, workspace.name, "sandbox", 8888, 6)
    target = f"{workspace.address}:8888"
    assert cluster.connect("default", "beside", "one", target) == {target: "SILENCE"}
    assert "nobody came" in ear.communicate(timeout=30)[0]


# -- negative controls --------------------------------------------------------------------------------------
def refused(session: Session) -> Manifest:
    """How a sandbox ended of which the probe found something: with 1, and the node agent would find the same."""
    found = session.cluster.until(session.namespace, session.name, lambda pod: sandbox_ended(pod) is not None)
    ended = sandbox_ended(found)
    assert ended is not None and ended["exitCode"] == 1
    assert (failed := pods.failure(found)) is not None and failed.code == "isolation"
    targets = isolation.targets_of(session.settings, session.grant.project)
    assert isolation.evaluate(session.report(), targets, locked=True)
    return ended


def sandbox_ended(pod: Manifest) -> Manifest | None:
    states = {each["name"]: each["state"] for each in pod["status"].get("containerStatuses", ())}
    ended: Manifest | None = states.get("sandbox", {}).get("terminated")
    return ended


def test_without_the_lock_the_probe_refuses_the_start_and_says_what_is_open(
    cluster: Cluster, settings: Settings
) -> None:
    session = a_session(cluster, settings)
    try:
        session.start(lambda manifest: manifest["spec"].pop("initContainers"))
        ended = refused(session)
        for attempt in ("tcp 192.0.2.1:443", "locked-interfaces each", "locked-routes each", "locked-port bridge"):
            assert attempt in ended["message"], ended["message"]
        assert "attempts are open" in ended["message"]
    finally:
        session.stop()


def test_without_the_filter_the_probe_refuses_the_start(cluster: Cluster, settings: Settings) -> None:
    def looser(manifest: Manifest) -> None:
        manifest["spec"]["securityContext"]["seccompProfile"] = {"type": "Unconfined"}

    session = a_session(cluster, settings)
    try:
        session.start(looser)
        message = refused(session)["message"]
        assert "status Seccomp" in message and "locked" not in message, message
    finally:
        session.stop()


def test_without_the_lock_every_attack_succeeds(unlocked: Session, cluster: Cluster, beside: str) -> None:
    found = unlocked.connect("sandbox", *everywhere(unlocked, beside))
    # The kubelet of this cluster does not listen there; that the node says so means that it was reached.
    assert found.pop(GATEWAY) == "ECONNREFUSED"
    assert set(found.values()) == {"OPEN"}, found
    assert unlocked.connect("display", KUBELET) == {KUBELET: "OPEN"}
    sent = json.loads(unlocked.python("sandbox", SEND, f"{beside}:8082", "10.245.0.1:53"))
    assert set(sent.values()) - {"EAI"} == {"OPEN"}, sent
    ear: subprocess.Popen[str] = cluster.listening(unlocked.namespace, unlocked.name, "sandbox", 9999, 10)
    target = f"{unlocked.address}:9999"
    assert cluster.connect("default", "beside", "one", target) == {target: "OPEN"}
    assert "somebody came" in ear.communicate(timeout=30)[0]

"""The network lock on a real network of IPv4 and IPv6, without a cluster: containers that share one, as a pod's do.

The same attacks on the same network before it is locked are the negative control.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import docker
import pytest

from orchestrator.machine import images as machine_images
from orchestrator.workspaces.pod import LOCK_COMMAND

SUBNET, SUBNET6 = "172.31.214.0/24", "fd5b:7e5d:214::/64"
LARGE = 6_000_000

#: connects, sends and listens as somebody; prints how each ended
TRY = """
import errno, json, socket, sys
def ended(action):
    try:
        action()
    except TimeoutError:
        return "SILENCE"
    except OSError as error:
        return errno.errorcode[error.errno]
    return "OPEN"
def tcp(host, port):
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET); sock.settimeout(1)
    sock.connect((host, int(port)))
def udp(host, port):
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.sendto(b"x", (host, int(port)))
for host in ("127.0.0.1", "::1"):  # the bridge's port answers, if it can be come to
    six = ":" in host
    ear = socket.socket(socket.AF_INET6 if six else socket.AF_INET)
    if six: ear.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    ear.bind(("::" if six else "0.0.0.0", 8888)); ear.listen()
    globals()["ear6" if six else "ear4"] = ear
found = {}
for word in sys.argv[1:]:
    kind, host, port = word.split(",")
    found[word] = ended(lambda: {"tcp": tcp, "udp": udp}[kind](host, port))
print(json.dumps(found))
"""

#: answers with more than fits anywhere, and closes at once: what is left to send has no owner
SERVE = f"""
import socket
ear = socket.socket(); ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
ear.bind(("0.0.0.0", 8888)); ear.listen(); ear.settimeout(30); print("listening", flush=True)
sock, _ = ear.accept()
sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, {LARGE})
sock.sendall(bytes({LARGE})); sock.close()
"""
FETCH = """
import socket, sys, time
for _ in range(5):
    sock = socket.socket(); sock.settimeout(3)
    try: sock.connect((sys.argv[1], 8888)); break
    except OSError: time.sleep(0.2)
time.sleep(1); total = 0
while more := sock.recv(1 << 20): total += len(more)
print(total)
"""


@dataclass
class Pod:
    """Containers on one network: the first keeps it, the others join."""

    engine: docker.DockerClient
    image: str
    holder: Any
    address: str
    address6: str

    def run(self, user: int, *words: str, detach: bool = False, **options: Any) -> Any:
        return self.engine.containers.run(
            self.image,
            entrypoint=list(words),
            network_mode=f"container:{self.holder.id}",
            user=f"{user}:{user}",
            cap_drop=["ALL"],
            read_only=True,
            remove=not detach,
            detach=detach,
            **options,
        )

    def tried(self, user: int, *words: str) -> dict[str, str]:
        found: dict[str, str] = json.loads(self.run(user, "/usr/bin/python3", "-I", "-c", TRY, *words))
        return found

    def lock(self, *hubs: str) -> None:
        self.run(0, *LOCK_COMMAND, *hubs, cap_add=["NET_ADMIN"])


@pytest.fixture
def network() -> Iterator[tuple[docker.DockerClient, Any, str]]:
    engine = docker.from_env(timeout=60)
    image = machine_images.build_images(["gateway"], progress=print)["gateway"]
    pools = [docker.types.IPAMPool(subnet=SUBNET), docker.types.IPAMPool(subnet=SUBNET6)]
    made = engine.networks.create(
        f"lock-{secrets.token_hex(3)}",
        internal=True,
        enable_ipv6=True,
        ipam=docker.types.IPAMConfig(pool_configs=pools),
    )
    try:
        yield engine, made, image
    finally:
        made.remove()


@pytest.fixture
def pods(network: tuple[docker.DockerClient, Any, str]) -> Iterator[tuple[Pod, Pod]]:
    """A pod that is not locked yet, and another beside it."""
    engine, joined, image = network
    made = []
    try:
        for _ in range(2):
            holder = engine.containers.run(
                image,
                entrypoint=["/usr/bin/sleep", "600"],
                network=joined.name,
                user="65534",
                detach=True,
                sysctls={"net.ipv6.conf.all.disable_ipv6": "0"},
            )
            made.append(holder)
        found = []
        for holder in made:
            holder.reload()
            at = holder.attrs["NetworkSettings"]["Networks"][joined.name]
            found.append(Pod(engine, image, holder, at["IPAddress"], at["GlobalIPv6Address"]))
        yield found[0], found[1]
    finally:
        for holder in made:
            holder.remove(force=True)


def attacks(pod: Pod, beside: Pod) -> list[str]:
    ways = [f"{kind},{host},9" for kind in ("tcp", "udp") for host in (beside.address, beside.address6)]
    return [*ways, *(f"tcp,{host},8888" for host in ("127.0.0.1", "::1", pod.address, pod.address6))]


def test_only_the_bridge_speaks_and_only_to_the_hub(pods: tuple[Pod, Pod]) -> None:
    pod, beside = pods
    before = pod.tried(1000, *attacks(pod, beside))
    assert set(before.values()) == {"OPEN", "ECONNREFUSED"}, "not locked: all of it is sent"

    pod.lock(f"{beside.address}:8081", f"[{beside.address6}]:8081")
    for user in (1000, 1002):
        assert set(pod.tried(user, *attacks(pod, beside)).values()) == {"EACCES"}, user
    hub = [f"tcp,{beside.address},8081", f"tcp,{beside.address6},8081"]
    assert set(pod.tried(1001, *hub).values()) == {"ECONNREFUSED"}, "the hub's machine answers that nobody is there"
    assert set(pod.tried(1001, *attacks(pod, beside)).values()) == {"SILENCE", "EPERM"}
    # Locking again changes nothing, and ends well.
    pod.lock(f"{beside.address}:8081", f"[{beside.address6}]:8081")
    assert set(pod.tried(1000, *attacks(pod, beside)).values()) == {"EACCES"}


def test_an_answer_arrives_whole_though_the_bridge_closed_its_socket(pods: tuple[Pod, Pod]) -> None:
    pod, beside = pods
    pod.lock()
    server = pod.run(1001, "/usr/bin/python3", "-I", "-c", SERVE, detach=True)
    try:
        assert int(beside.run(4000, "/usr/bin/python3", "-I", "-c", FETCH, pod.address)) == LARGE
    finally:
        server.remove(force=True)


def test_without_the_capability_the_lock_ends_with_a_fault(pods: tuple[Pod, Pod]) -> None:
    pod, _ = pods
    with pytest.raises(docker.errors.ContainerError) as caught:
        pod.run(0, *LOCK_COMMAND)
    assert caught.value.exit_status == 1 and b"network-lock: nft refused" in caught.value.stderr

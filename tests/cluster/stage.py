"""Pods on the real cluster of ``tests/cluster/kube``, for the tests."""

from __future__ import annotations

import copy
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.config import Settings
from orchestrator.machine import images as machine_images
from orchestrator.node import mounts, session_files
from orchestrator.node.proof import left_report
from orchestrator.terms import Grant
from orchestrator.workspaces import seccomp
from orchestrator.workspaces.pod import (
    ACCOUNT,
    REPORT_FOLDER,
    REPORT_NAME,
    SECCOMP,
    folders_in_ram,
    workspace_pod,
)
from orchestrator.workspaces.spec import Images, WorkspacePaths, workspace_specs

HERE = Path(__file__).parent
HOME = Path(os.environ.get("BULLE_CLUSTER", "/var/lib/bulle/cluster"))
NODE = "10.245.0.1"
#: addresses that the node must show, besides documentation addresses at which nobody is
API_SERVER, API_SERVICE, KUBELET, GATEWAY = f"{NODE}:6443", "10.96.0.1:443", f"{NODE}:10250", "10.244.0.1:10250"
Manifest = dict[str, Any]

#: connects to each argument, and says how that ended
CONNECT = """
import errno, json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def one(target):
    host, _, port = target.rpartition(":")
    with socket.socket() as sock:
        sock.settimeout(1.5)
        try:
            sock.connect((host, int(port)))
        except TimeoutError:
            return "SILENCE"
        except OSError as error:
            return errno.errorcode[error.errno]
    return "OPEN"
with ThreadPoolExecutor(32) as pool:
    print(json.dumps(dict(zip(sys.argv[1:], pool.map(one, sys.argv[1:])))))
"""

#: listens on a port, and says for how many seconds it did so whether anybody came
LISTEN = """
import socket, sys
sock = socket.socket()
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
sock.bind(("0.0.0.0", int(sys.argv[1]))); sock.listen(); sock.settimeout(float(sys.argv[2]))
print("listening", flush=True)
try:
    sock.accept(); print("somebody came")
except TimeoutError:
    print("nobody came")
"""


def kube(*words: str) -> str:
    """Run the harness."""
    done = subprocess.run([str(HERE / "kube"), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


class Cluster:
    """The cluster, and the pods that a test made on it."""

    def __init__(self, images: dict[str, str]) -> None:
        self.images = images

    def command(self, *words: str) -> list[str]:
        """A command line of kubectl."""
        return [str(HOME / "bin" / "kubectl"), "--kubeconfig", str(HOME / "run" / "kubeconfig"), *words]

    def kubectl(self, *words: str, given: Any = None, check: bool = True) -> str:
        """What kubectl answers."""
        text = None if given is None else json.dumps(given)
        done = subprocess.run(
            self.command(*words), input=text, capture_output=True, text=True, check=False, timeout=120
        )
        assert not check or done.returncode == 0, f"kubectl {' '.join(words[:6])}: {done.stderr}"
        return done.stdout

    def namespace(self, name: str) -> None:
        """Make a namespace with the account of workspaces."""
        self.kubectl("create", "namespace", name)
        self.kubectl("create", "serviceaccount", ACCOUNT, "-n", name)

    def pod(self, namespace: str, name: str) -> Manifest:
        """A pod as the cluster has it."""
        found: Manifest = json.loads(self.kubectl("get", "pod", name, "-n", namespace, "-o", "json"))
        return found

    def pods(self, namespace: str, selector: str) -> list[Manifest]:
        """The pods with these labels."""
        found = self.kubectl("get", "pods", "-n", namespace, "-l", selector, "-o", "json")
        items: list[Manifest] = json.loads(found)["items"]
        return items

    def until(self, namespace: str, name: str, reached: Callable[[Manifest], bool], seconds: int = 90) -> Manifest:
        """Wait for a pod to become what is asked."""
        deadline = time.monotonic() + seconds
        while not reached(found := self.pod(namespace, name)):
            assert time.monotonic() < deadline, json.dumps(found["status"], indent=1) + self.kubectl(
                "get", "events", "-n", namespace
            )
            time.sleep(0.2)
        return found

    def python(self, namespace: str, name: str, container: str, program: str, *words: str) -> str:
        """Run Python in a container of a pod."""
        line = ("exec", "-n", namespace, name, "-c", container, "--", "/usr/bin/python3", "-I", "-c", program, *words)
        return self.kubectl(*line)

    def connect(self, namespace: str, name: str, container: str, *targets: str) -> dict[str, str]:
        """How it ends to connect from a container."""
        found: dict[str, str] = json.loads(self.python(namespace, name, container, CONNECT, *targets))
        return found

    def listening(self, namespace: str, name: str, container: str, port: int, seconds: int) -> subprocess.Popen[str]:
        """Somebody in a container who listens on a port; returns when they do."""
        words = ("exec", "-n", namespace, name, "-c", container, "--", "/usr/bin/python3", "-I", "-c", LISTEN)
        process = subprocess.Popen(
            self.command(*words, str(port), str(seconds)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == "listening\n", process.communicate()
        return process


@contextmanager
def running_cluster(say: Callable[[str], None]) -> Iterator[Cluster]:
    """A real Kubernetes with the product's images, loaded by content id; stopped afterwards, unless
    ``BULLE_CLUSTER_KEEP`` is set."""
    images = machine_images.build_images(machine_images.CLUSTER_IMAGES, progress=say)
    kube("build")
    try:
        kube("up")
        kube("load", *images.values())
        write_filter(images["node"])
        yield Cluster(images)
    finally:
        if not os.environ.get("BULLE_CLUSTER_KEEP"):
            kube("down")


def is_ready(pod: Manifest) -> bool:
    """Whether every container of a pod is up."""
    conditions = pod["status"].get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def has_ended(pod: Manifest) -> bool:
    """Whether a pod will not run any more."""
    return pod["status"]["phase"] in ("Failed", "Succeeded")


def neighbour(name: str, image: str) -> Manifest:
    """A pod of somebody else, in which two ports are open."""
    serve = (
        "import http.server, threading; s = http.server.ThreadingHTTPServer; h = http.server.SimpleHTTPRequestHandler\n"
    )
    serve += "threading.Thread(target=s(('', 8082), h).serve_forever).start(); s(('', 8081), h).serve_forever()"
    container = {
        "name": "one",
        "image": image,
        "imagePullPolicy": "Never",
        "command": ["/usr/bin/python3", "-c", serve],
        "workingDir": "/usr/share",
        "securityContext": {"runAsUser": 4000},
        "readinessProbe": {"tcpSocket": {"port": 8081}, "periodSeconds": 1},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": False},
    }


class Session:
    """A workspace's pod, with folders of this machine in the place of the node agent's volumes.

    They are what the agent makes on a single machine: the session's files by the agent's own function, and folders in
    RAM with the same options.
    """

    def __init__(self, cluster: Cluster, grant: Grant, settings: Settings) -> None:
        self.cluster, self.grant, self.settings = cluster, grant, settings
        self.paths = WorkspacePaths.of(settings.layout.mounts, grant.session)
        images = Images(cluster.images["gateway"], cluster.images["sandbox"])
        self.wanted = workspace_pod(grant, settings, images, images.gateway)
        self.namespace, self.name = self.wanted["metadata"]["namespace"], self.wanted["metadata"]["name"]
        self.ram = self.paths.root.parent / f"{grant.session}-ram"
        self._specs = workspace_specs(grant, settings, images, self.paths)

    def prepare(self) -> Manifest:
        """Make the folders; returns the pod that uses them."""
        environment = {
            "JUPYTERHUB_API_TOKEN": "token-of-a-test",
            "JUPYTERHUB_API_URL": f"http://{self.settings.kubernetes.hub[0]}/hub/api",  # type: ignore[union-attr]
            "JUPYTERHUB_CLIENT_ID": "jupyterhub-user-test",
            "JUPYTERHUB_OAUTH_ACCESS_SCOPES": json.dumps(["access:servers!server=ann/heart"]),
            "JUPYTERHUB_SERVICE_PREFIX": "/user/ann/heart/",
            "JUPYTERHUB_USER": self.grant.person,
            "JUPYTERHUB_SERVER_NAME": self.grant.project,
        }
        session_files.prepare(self.paths, self.grant, self.settings, environment)
        self.ram.mkdir()
        places: dict[str, Path] = {"view": self.paths.data, "home": self.paths.home, "project": self.paths.project}
        places |= {name: self.paths.run / name for name in ("x11", "rfb", "display", "sandbox", "bridge")}
        for spec in self._specs:
            for folder in folders_in_ram(spec):
                name = f"{spec.part}{folder.target.replace('/', '-')}"
                places[name] = self.ram / name
                places[name].mkdir()
                options = ["mount", "-t", "tmpfs", "-o", folder.options(), "tmpfs", str(places[name])]
                subprocess.run(options, check=True)
        made = copy.deepcopy(self.wanted)
        made["spec"]["volumes"] = [
            {"name": each["name"], "hostPath": {"path": str(places[each["name"]]), "type": "Directory"}}
            for each in made["spec"]["volumes"]
        ]
        return made

    def start(self, change: Callable[[Manifest], None] = lambda manifest: None) -> Manifest:
        """Create the pod, changed as told; returns what was created."""
        made = self.prepare()
        change(made)
        self.cluster.namespace(self.namespace)
        self.cluster.kubectl("create", "-f", "-", given=made)
        return made

    def report(self) -> list[dict[str, str]]:
        """What the isolation probe left for the node agent."""
        place = self.ram / f"sandbox{REPORT_FOLDER.replace('/', '-')}" / REPORT_NAME
        deadline = time.monotonic() + 30
        while (found := left_report(place)) is None:
            assert time.monotonic() < deadline, "no report"
            time.sleep(0.1)
        return found

    def open_desktop(self) -> None:
        """Mount a home, as the agent does when the probe has passed; the desktop waits for that."""
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "nosuid,nodev,uid=1000,mode=700", "tmpfs", str(self.paths.home)], check=True
        )

    def stop(self) -> None:
        """Take everything away."""
        self.cluster.kubectl(
            "delete", "pod", self.name, "-n", self.namespace, "--grace-period=0", "--force", check=False
        )
        deadline = time.monotonic() + 30
        while True:
            try:
                mounts.unmount_below(self.ram)
                mounts.unmount_below(self.paths.root)
                break
            except Exception:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
        self.cluster.kubectl("delete", "namespace", self.namespace, "--wait=false", check=False)

    def ready(self) -> Manifest:
        """Wait for the pod to be up."""
        return self.cluster.until(self.namespace, self.name, lambda pod: is_ready(pod) or has_ended(pod))

    def connect(self, container: str, *targets: str) -> dict[str, str]:
        """How it ends to connect from a part."""
        return self.cluster.connect(self.namespace, self.name, container, *targets)

    def python(self, container: str, program: str, *words: str) -> str:
        """Run Python in a part."""
        return self.cluster.python(self.namespace, self.name, container, program, *words)

    @property
    def address(self) -> str:
        """The pod's address."""
        found: str = self.cluster.pod(self.namespace, self.name)["status"]["podIP"]
        return found


def write_filter(node_image: str) -> None:
    """Put the system-call filter where kubelet finds it, as the node agent does."""
    shown = subprocess.run(
        ["docker", "run", "--rm", "--network=none", "--entrypoint=cat", node_image, str(seccomp.PROFILE)],
        capture_output=True,
        text=True,
        check=True,
    )
    profile = seccomp.for_cluster(seccomp.tightened(json.loads(shown.stdout)), platform.machine())
    place = HOME / "run" / "kubelet" / "seccomp" / SECCOMP
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(profile), encoding="utf-8")

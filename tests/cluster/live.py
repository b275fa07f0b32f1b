"""Bulle on a real cluster, installed by its chart as an administrator does it, and filled with the demo's content."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml
from playwright.sync_api import Page

from orchestrator.cli.demo.content import CACHE
from orchestrator.cli.demo.sources import MEMBERS, source_file
from orchestrator.workspaces.spec import LABEL_PART, LABEL_SESSION
from tests.cluster.stage import HOME, Cluster, Manifest, is_ready
from tests.helm_binary import helm
from tests.integration.people import type_in_terminal

ROOT = Path(__file__).parents[2]
RELEASE = NAMESPACE = "bulle"
PROJECT = "doctor-visits"
#: the folder of the settings' ``state``, on the node too
STATE = HOME / "run" / "state"
KUBELET = HOME / "run" / "kubelet"
#: ports of this machine's loopback: the portal's, and that of the demo's provider, whose address is the same inside
PORTAL, PROVIDER = 8000, 8084
URL = f"http://localhost:{PORTAL}"


def until(reached: Callable[[], Any], seconds: float, what: str) -> Any:
    """Wait for something to be true, and give it back."""
    end = time.monotonic() + seconds
    while True:
        try:
            if found := reached():
                return found
        except (httpx.HTTPError, AssertionError, OSError, KeyError, IndexError):
            pass
        assert time.monotonic() < end, f"still not: {what}"
        time.sleep(0.1)


class Live:
    """A release that is installed."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.url = URL
        self._ways: list[subprocess.Popen[bytes]] = []

    # -- the administrator --------------------------------------------------------------------------------------
    def volumes(self) -> None:
        """Two volumes on this machine's disk, as a cluster's storage would give them."""
        for name, mode in (("control", "ReadWriteOnce"), ("data", "ReadWriteMany")):
            place = HOME / "run" / "volumes" / name
            place.mkdir(parents=True)
            self.cluster.kubectl("create", "-f", "-", given=_volume(name, mode, place))

    def values(self) -> dict[str, Any]:
        """What this cluster wants to be told."""
        ids = self.cluster.images
        names = {"controller": "controller", "node": "node", "gateway": "gateway", "sandbox": "sandbox"}
        return {
            "images": {
                **{key: ids[name] for key, name in names.items()},
                "demoIdp": ids["demo-idp"],
                "database": ids["database"],
            },
            "demo": {"enabled": True},
            "database": {"internal": True},
            "tools": {"enabled": True},
            "state": str(STATE),
            "kubelet": {"folder": str(KUBELET)},
            "persistence": {
                "control": {"storageClass": "local", "size": "2Gi"},
                "data": {"storageClass": "local", "size": "8Gi", "accessMode": "ReadWriteMany"},
            },
        }

    def helm(self, *words: str) -> str:
        """What helm says."""
        done = _helm(*words)
        assert done.returncode == 0, f"helm {' '.join(words[:3])}: {done.stderr[-3000:]}\n{self.state()}"
        return done.stdout

    def apply(self, words: tuple[str, ...] = (), **changes: Any) -> str:
        """``helm upgrade --install`` with these values on top."""
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump({**self.values(), **changes}, file)
            file.flush()
            line = (
                "upgrade",
                "--install",
                RELEASE,
                str(ROOT / "helm" / "bulle"),
                "--create-namespace",
                "-f",
                file.name,
            )
            return self.helm(*line, "--wait", "--timeout", "3m", *words)

    def fill(self) -> None:
        """The demo's people, data and projects, by the command line in the pod for it."""
        self.cluster.kubectl("rollout", "status", "-n", NAMESPACE, f"deployment/{RELEASE}-tools", "--timeout=120s")
        for name in MEMBERS:
            with source_file(name, CACHE) as path, path.open("rb") as file:
                line = self.cluster.command("exec", "-i", "-n", NAMESPACE, f"deployment/{RELEASE}-tools", "--")
                write = ["/bin/sh", "-c", f"mkdir -p /tmp/sources && cat >/tmp/sources/{name}.csv"]
                subprocess.run([*line, *write], stdin=file, check=True, timeout=60)
        self.bulle("demo", "content", "--sources", "/tmp/sources")

    def bulle(self, *words: str, check: bool = True) -> str:
        """The command line, in the pod for it."""
        line = ("exec", "-n", NAMESPACE, f"deployment/{RELEASE}-tools", "--", "bulle", *words)
        return self.cluster.kubectl(*line, check=check)

    def password(self, name: str) -> str:
        """A demo account's password, as the chart's notes say how to read it."""
        found = json.loads(self.cluster.kubectl("get", "secret", "-n", NAMESPACE, f"{RELEASE}-secrets", "-o", "json"))
        accounts: dict[str, dict[str, str]] = json.loads(base64.b64decode(found["data"]["accounts.json"]))
        return accounts[name]["password"]

    @staticmethod
    def sources() -> dict[str, bytes]:
        """Rows of the demo's data sets, as somebody would find them who reads a disk."""
        found = {}
        for name in MEMBERS:
            with source_file(name, CACHE) as path:
                found[name] = b"".join(path.read_bytes().splitlines(keepends=True)[1:4])
        return found

    def forward(self) -> None:
        """The two ports on this machine's loopback, and wait until people can log in.

        The portal's as an ingress would have it, not by ``kubectl port-forward``, which takes 40 ms for each word of a
        desktop's protocol; the demo's provider listens on the pod's own loopback.
        """
        self.unforward()
        until(self.answers, 90, "hub, portal and provider answer")

    def _begin_ways(self) -> None:
        self.unforward()
        pod = f"{RELEASE}-control-0"
        address = self.cluster.pod(NAMESPACE, pod)["status"]["podIP"]
        portal = f"TCP-LISTEN:{PORTAL},bind=127.0.0.1,reuseaddr,fork,nodelay", f"TCP:{address}:8000,nodelay"
        provider = self.cluster.command("port-forward", "-n", NAMESPACE, f"pod/{pod}", f"{PROVIDER}:{PROVIDER}")
        for line in (["socat", *portal], provider):
            self._ways.append(subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    def unforward(self) -> None:
        """End that."""
        for each in self._ways:
            each.kill()
            each.wait()
        self._ways.clear()

    def answers(self) -> bool:
        """Whether people can log in; a way to a pod that was begun anew is begun anew too."""
        if not self._ways or any(each.poll() is not None for each in self._ways):
            self._begin_ways()
        paths = (f"{URL}/hub/health", f"{URL}/services/portal/health")
        provider = f"http://127.0.0.1:{PROVIDER}/.well-known/openid-configuration"
        return all(httpx.get(path, timeout=3).status_code == 200 for path in (*paths, provider))

    def state(self) -> str:
        """What there is, for a person who looks why it does not work."""
        shown = self.cluster.kubectl("get", "pods", "-A", "-o", "wide", check=False)
        for pod in json.loads(self.cluster.kubectl("get", "pods", "-n", NAMESPACE, "-o", "json"))["items"]:
            if not is_ready(pod):
                name = pod["metadata"]["name"]
                words = ("logs", "-n", NAMESPACE, name, "--all-containers", "--tail=15", "--prefix")
                shown += self.cluster.kubectl(*words, check=False)
        return shown + self.cluster.kubectl("get", "events", "-A", "--field-selector=type=Warning", check=False)[-4000:]

    def remove(self) -> None:
        """Take away the release and all that it keeps for the next one."""
        kubectl = self.cluster.kubectl
        # The agent last: it is it that takes the volumes of workspaces away.
        for pod in self.workspaces():
            where = ("-n", pod["metadata"]["namespace"])
            kubectl("delete", "pod", pod["metadata"]["name"], *where, "--grace-period=0", "--force", check=False)
        until(lambda: self.mounts() == [], 60, "nothing is mounted")
        _helm("uninstall", RELEASE)
        projects = kubectl("get", "namespaces", "-l", "bulle.deployment", "-o", "name", check=False).split()
        kubectl("delete", f"namespace/{NAMESPACE}", *projects, "--timeout=60s", check=False)
        kubectl("delete", "pv", "bulle-control", "bulle-data", "--timeout=30s", check=False)
        for place in (HOME / "run" / "volumes", STATE):
            shutil.rmtree(place, ignore_errors=True)

    # -- what runs ----------------------------------------------------------------------------------------------
    def workspaces(self) -> list[Manifest]:
        """Every pod of a workspace."""
        found = self.cluster.kubectl("get", "pods", "-A", "-l", f"{LABEL_SESSION},{LABEL_PART}=workspace", "-o", "json")
        items: list[Manifest] = json.loads(found)["items"]
        return items

    def mounts(self) -> list[str]:
        """Everything that the node agent has mounted on this machine."""
        text = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
        places = [line.split()[4] for line in text.splitlines()]
        ours = [f"{STATE}/mounts/{name}/" for name in ("ws", "views", "plain", "cipher")]
        volumes = [each for each in places if each.startswith(f"{KUBELET}/pods/") and "kubernetes.io~csi" in each]
        return [*volumes, *(each for each in places if each.startswith(tuple(ours)))]

    def control(self, container: str) -> Any:
        """What the cluster says of a container of the control plane."""
        pod = self.cluster.pod(NAMESPACE, f"{RELEASE}-control-0")
        return next(each for each in pod["status"]["containerStatuses"] if each["name"] == container)


class Desktop:
    """A researcher's open desktop, and its pod."""

    def __init__(self, live: Live, page: Page) -> None:
        self.live, self.page = live, page
        (self.pod,) = live.workspaces()
        self.namespace, self.name = self.pod["metadata"]["namespace"], self.pod["metadata"]["name"]

    def python(self, program: str, *words: str, container: str = "sandbox") -> str:
        """Run Python in its pod."""
        return self.live.cluster.python(self.namespace, self.name, container, program, *words)

    def read(self, path: str) -> str:
        """A file of the sandbox; "" where there is none."""
        look = f"import os; print(open({path!r}).read() if os.path.exists({path!r}) else '', end='')"
        return self.python(look)

    def works(self, mark: str) -> bool:
        """Whether what is typed in the browser arrives in the desktop's home."""
        type_in_terminal(self.page, f"echo {mark} >~/works.txt; exit")
        end = time.monotonic() + 8
        while time.monotonic() < end:
            if mark in self.read("/home/researcher/works.txt"):
                return True
            time.sleep(0.3)
        return False


def stop_all(live: Live, page: Page) -> None:
    """The person ends what runs, in the portal."""
    button = page.locator(f"form[action$='/stop/{PROJECT}'] button[type=submit]")
    if button.count():
        button.first.click()
    until(lambda: live.workspaces() == [], 30, "no pod of a workspace is left")
    until(lambda: live.mounts() == [], 30, "nothing is mounted")


def _helm(*words: str) -> subprocess.CompletedProcess[str]:
    line = [str(helm()), "--kubeconfig", str(HOME / "run" / "kubeconfig"), "-n", NAMESPACE, *words]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=600)


def _volume(name: str, mode: str, place: Path) -> Manifest:
    """A volume of this node's disk. ``local``, because to that kind a cluster gives the pod's group."""
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": ["node1"]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"bulle-{name}"},
        "spec": {
            "capacity": {"storage": "8Gi"},
            "accessModes": [mode],
            "storageClassName": "local",
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": NAMESPACE, "name": f"{RELEASE}-{name}"},
            "local": {"path": str(place)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        },
    }


@contextmanager
def installed(cluster: Cluster) -> Iterator[Live]:
    """The chart installed, filled and reachable; afterwards nothing of it is left."""
    live = Live(cluster)
    try:
        live.volumes()
        live.apply()
        live.fill()
        live.forward()
        yield live
    finally:
        live.unforward()
        live.remove()

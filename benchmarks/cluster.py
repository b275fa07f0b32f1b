"""How long from the click to the desktop on a cluster, beside a bare pod of the same images.

``cluster.start``: a real headless Chromium clicks "Open workspace" in a release that the chart installed on a real
Kubernetes, and the canvas is looked at. Peer: ``kubectl create`` of one pod with the same display and sandbox, without
lock, probe, bridge, keys and data, and a plain RFB client that asks for the picture until the same is so. In
alternation, in the same run, on the same node, with the images there.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.workspace import Result, bare_folders, open_workspace, p95, pair, wait_drawn
from tests.cluster.live import Live, installed, until
from tests.cluster.stage import Cluster, running_cluster
from tests.integration.people import chromium, log_in, person

STARTS = 20
PROJECT, MEMBER = "doctor-visits", "researcher"
PEER = "bare pod of the same display and sandbox by kubectl create, until first pixels"
_SCRATCH = Path("/dev/shm/bulle-bench-cluster")


def bare_pod(images: dict[str, str], folder: Path) -> dict[str, Any]:
    """Display and sandbox in one pod, on folders of the node."""

    def container(name: str, image: str, command: list[str], uid: int, group: int, mounts: dict[str, str]) -> Any:
        places = [
            {"name": part, "mountPath": target, "readOnly": target == "/tmp/.X11-unix" and name == "sandbox"}
            for part, target in mounts.items()
        ]
        return {
            "name": name,
            "image": image,
            "imagePullPolicy": "Never",
            "command": command,
            "securityContext": {
                "runAsUser": uid,
                "runAsGroup": group,
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [*places, {"name": f"tmp-{name}", "mountPath": "/tmp"}],
        }

    shared = {"x11": "/tmp/.X11-unix", "rfb": "/run/bulle/rfb"}
    display = {**shared, "display": "/run/bulle/display"}
    sandbox = {"x11": "/tmp/.X11-unix", "sandbox": "/run/bulle", "home": "/home/researcher", "user": "/run/user/1000"}
    volumes: list[dict[str, Any]] = [
        {"name": name, "hostPath": {"path": str(folder / name), "type": "Directory"}}
        for name in ("x11", "rfb", "display", "sandbox", "home", "user")
    ]
    volumes += [{"name": f"tmp-{name}", "emptyDir": {"medium": "Memory"}} for name in ("display", "sandbox")]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "bare", "namespace": "default"},
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 0,
            "restartPolicy": "Never",
            "containers": [
                container("display", images["gateway"], ["/usr/lib/bulle/display"], 1002, 1003, display),
                container("sandbox", images["sandbox"], ["/usr/lib/bulle/session"], 1000, 1000, sandbox),
            ],
            "volumes": volumes,
        },
    }


def _bare_start(cluster: Cluster) -> float:
    shutil.rmtree(_SCRATCH, ignore_errors=True)
    bare_folders(_SCRATCH)
    user = _SCRATCH / "user"
    user.mkdir(mode=0o700)
    shutil.chown(user, 1000, 1000)
    manifest = bare_pod(cluster.images, _SCRATCH)
    began = time.monotonic()
    try:
        cluster.kubectl("create", "-f", "-", given=manifest)
        return wait_drawn(_SCRATCH / "rfb" / "rfb.sock", began)
    finally:
        cluster.kubectl("delete", "pod", "bare", "--grace-period=0", "--force", check=False)
        until(lambda: not cluster.kubectl("get", "pod", "bare", "--ignore-not-found"), 30, "the bare pod is gone")


def _stop(live: Live, page: Any) -> None:
    page.goto(f"{live.url}/services/portal/")
    page.locator(f"form[action$='/stop/{PROJECT}'] button[type=submit]").first.click()
    until(lambda: not live.workspaces() and not live.mounts(), 30, "nothing of the workspace is left")


def measure(say: Callable[[str], None], starts: int = STARTS) -> dict[str, Result]:
    """Start a workspace ``starts`` times each way."""
    ours: list[float] = []
    bare: list[float] = []
    try:
        with (
            running_cluster(say) as cluster,
            installed(cluster) as live,
            chromium() as browser,
            person(browser, width=1600, height=900) as profile,
        ):
            page = profile.new_page()
            log_in(page, live.url, MEMBER, live.password(MEMBER))
            for turn in range(starts + 1):  # the first of each warms up and does not count
                took = open_workspace(page, PROJECT, live.url)
                time.sleep(2)
                _stop(live, page)
                took_bare = _bare_start(cluster)
                say(f"start {turn}: {took:.2f} s, bare pod {took_bare:.2f} s")
                time.sleep(1)
                if turn:
                    ours.append(took)
                    bare.append(took_bare)
    finally:
        subprocess.run(["rm", "-rf", str(_SCRATCH)], check=True)
    return {
        "cluster.start.median": pair(statistics.median(ours), statistics.median(bare), PEER, "s"),
        "cluster.start.p95": pair(p95(ours), p95(bare), PEER, "s"),
    }

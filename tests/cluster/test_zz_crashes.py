"""One part after the other is killed while a desktop runs: what stops, for how long, what is left behind.

A part is killed as a crash kills it, with SIGKILL, and comes back by itself: a container by its kubelet, kubelet and
the container runtime by whoever keeps the node's services (here the harness). What is promised stands in
``docs/kubernetes.md``, "What a crash stops"; this test holds each row of that table, and prints the seconds it saw.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.live import KUBELET, NAMESPACE, RELEASE, STATE, Desktop, Live, until
from tests.cluster.stage import HOME, kube
from tests.integration.rest import same_device_files

DOCS = Path(__file__).parents[2] / "docs" / "kubernetes.md"
#: containers of the control plane, and what keeps the node
CONTROL = ("hub", "proxy", "portal", "authority", "database", "door")
NODE = ("kubelet", "containerd")
AGAIN, BY_ITSELF = "goes on when the page is loaded again", "goes on by itself"
#: how long a part may be away before somebody must look
PATIENCE = 90


def promised() -> dict[str, str]:
    """What the documentation says of the running desktop, by what is killed."""
    section = DOCS.read_text(encoding="utf-8").partition("## What a crash stops")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([a-z` ]+) \| ([^|]+) \|", section, flags=re.MULTILINE)
    return {name.strip("` "): what.strip() for name, what in rows if name != "killed"}


def task(container_id: str) -> int:
    """The process of a container, by the container runtime."""
    words = ["ctr", "-a", str(HOME / "run" / "containerd.sock"), "-n", "k8s.io", "tasks", "ls"]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    name = container_id.removeprefix("containerd://")
    return next(int(line.split()[1]) for line in said.splitlines() if line.startswith(name))


def crash(live: Live, part: str) -> None:
    """Kill it, and have what is no container started again."""
    if part in NODE:
        pid = int((HOME / "run" / f"{part}.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)
        time.sleep(1)
        kube("again", part)
    else:
        os.kill(task(container(live, part)["containerID"]), signal.SIGKILL)


def container(live: Live, part: str) -> dict[str, Any]:
    """What the cluster says of a container of ours."""
    if part != "node":
        return dict(live.control(part))
    (pod,) = live.cluster.pods(NAMESPACE, f"app.kubernetes.io/component=node,app.kubernetes.io/instance={RELEASE}")
    return dict(pod["status"]["containerStatuses"][0])


def back(live: Live, part: str, restarts: int) -> bool:
    """Whether it was started again. Whether it works is asked of it: an old kubelet is a minute late to say so."""
    found = container(live, part)
    return "running" in found["state"] and int(found["restartCount"]) > restarts


def plain_files() -> list[Path]:
    """Files that lie on the disk itself below the folders of mounts: there must never be one."""
    volumes = (path for path in same_device_files(KUBELET / "pods") if "kubernetes.io~csi" in path.parts)
    return [path for path in (*same_device_files(STATE / "mounts"), *volumes) if path.name != "vol_data.json"]


def test_the_table_names_what_is_killed_here() -> None:
    assert set(promised()) == {*CONTROL, "node", *NODE}


@pytest.mark.timeout(420)
@pytest.mark.parametrize("part", [*CONTROL, "node", *NODE])
def test_a_part_is_killed_with_a_desktop_running(part: str, desktop: Desktop, live: Live) -> None:
    assert desktop.works("before")
    restarts = 0 if part in NODE else int(container(live, part)["restartCount"])
    pod = desktop.pod["metadata"]["uid"]
    began = time.monotonic()
    crash(live, part)
    if part not in NODE:
        until(lambda: back(live, part, restarts), PATIENCE, f"{part} is back")
    until(live.answers, PATIENCE, "people can log in")
    away = time.monotonic() - began
    # The very same pod: nobody's desktop was begun anew behind their back.
    assert [each["metadata"]["uid"] for each in live.workspaces()] == [pod]
    if promised()[part] == AGAIN:
        desktop.page.reload()
        desktop.page.wait_for_selector("html[data-bulle=pixels]", state="attached", timeout=60_000)
    else:
        assert promised()[part] == BY_ITSELF
    until(lambda: desktop.works("after"), 60, "what is typed arrives in the home")
    assert plain_files() == []
    print(f"{part}: people can log in and start again {away:.1f} s after the kill")


@pytest.mark.timeout(300)
def test_after_all_that_the_audit_log_is_whole(live: Live) -> None:
    assert live.bulle("audit", "verify")

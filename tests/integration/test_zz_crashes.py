"""A part is killed at a bad moment. Afterwards nothing is half there, nothing is in clear, and people can go on.

A part is killed as a crash kills it: its process gets SIGKILL, and the engine's restart policy brings it back. The last
test kills the engine itself, which is why this file's name sorts after those that only use it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import docker
import httpx
import pytest
from playwright.sync_api import Browser, Page

from orchestrator.cli import demo
from orchestrator.machine.parts import container_name
from tests.integration.people import log_in, open_workspace, person
from tests.integration.rest import same_device_files
from tests.integration.test_end_to_end import mounts_of, password, sessions

PROJECT = "doctor-visits"


def until(true: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"still not: {what}"
        time.sleep(0.25)


def quietly(true: Callable[[], bool]) -> Callable[[], bool]:
    """A question to a part that may be away just now."""

    def ask() -> bool:
        try:
            return true()
        except (AssertionError, OSError, httpx.HTTPError, docker.errors.DockerException):
            return False

    return ask


def crash(engine: docker.DockerClient, place: demo.Place, part: str) -> None:
    found = engine.containers.get(container_name(place.deployment, part))
    os.kill(found.attrs["State"]["Pid"], signal.SIGKILL)


def workspace_containers(engine: docker.DockerClient, place: demo.Place) -> list[str]:
    found = engine.containers.list(all=True, filters={"label": f"bulle.deployment={place.deployment}"})
    return [str(each.name) for each in found if each.labels.get("bulle.session")]


def plain_files(place: demo.Place) -> list[Path]:
    """Files that lie on the disk itself below the folder of mounts: there must never be one."""
    return list(same_device_files(place.state / "mounts"))


def wait_openable(page: Page) -> None:
    """The hub looks at its sessions every few seconds; until then it shows one that was stopped elsewhere."""

    def openable() -> bool:
        page.reload()
        return page.locator(f"form[action$='/open/{PROJECT}'] button[type=submit]").count() == 1

    until(openable, 30, "the workspace can be opened")


def click_open(page: Page) -> None:
    page.click(f"form[action$='/open/{PROJECT}'] button[type=submit]", no_wait_after=True)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("after", [0.2, 0.6, 1.2])
@pytest.mark.parametrize("part", ["hub", "node", "authority"])
def test_a_part_killed_during_a_start(
    part: str,
    after: float,
    deployment: demo.Running,
    place: demo.Place,
    browser: Browser,
    engine: docker.DockerClient,
    bulle,
) -> None:
    with person(browser) as profile:
        page = profile.new_page()
        log_in(page, deployment.url, "researcher", password(deployment, "researcher"))
        wait_openable(page)
        killer = threading.Timer(after, crash, (engine, place, part))
        killer.start()
        click_open(page)
        killer.join()
        # The part is back by itself, and the start has come to an end, one way or the other.
        until(quietly(lambda: all(each["state"] == "running" for each in sessions(bulle))), 60, f"{part} is back")
        whole = len(sessions(bulle))
        assert whole in (0, 1)
        until(lambda: len(workspace_containers(engine, place)) == 3 * whole, 30, "no container of half a workspace")
        if not whole:
            until(lambda: mounts_of(place) == [], 30, "nothing is mounted")
        assert plain_files(place) == []
    # The person opens it again and works.
    with person(browser) as profile:
        page = profile.new_page()
        until(quietly(lambda: answers(deployment)), 60, "the portal answers")
        log_in(page, deployment.url, "researcher", password(deployment, "researcher"))
        if page.locator(f"form[action$='/open/{PROJECT}'] button[type=submit]").count():
            open_workspace(page, PROJECT)
    for each in sessions(bulle):
        bulle("workspace", "stop", each["session"])
    assert mounts_of(place) == [] and workspace_containers(engine, place) == []
    assert bulle("audit", "verify").returncode == 0


def answers(deployment: demo.Running) -> bool:
    """Whether hub and portal answer behind the proxy."""
    paths = ("/hub/health", "/services/portal/health")
    return all(httpx.get(deployment.url + path, timeout=3).status_code == 200 for path in paths)


def start_engine_again(engine: docker.DockerClient) -> None:
    """As a machine's service manager does: start it, and start it again if that did not work."""
    if Path("/run/systemd/system").is_dir():
        subprocess.run(["systemctl", "start", "docker"], check=True)
        until(quietly(lambda: bool(engine.ping())), 90, "the engine is back")
        return
    for _ in range(3):
        Path("/var/run/docker.pid").unlink(missing_ok=True)
        with Path("/var/log/dockerd.log").open("ab") as log:
            started = subprocess.Popen(
                ["dockerd"], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        while started.poll() is None:
            if quietly(lambda: bool(engine.ping()))():
                return
            time.sleep(0.5)
    raise AssertionError("the engine does not come back")


@pytest.mark.timeout(300)
def test_the_engine_killed_during_a_start(
    deployment: demo.Running, place: demo.Place, browser: Browser, engine: docker.DockerClient, bulle
) -> None:
    with person(browser) as profile:
        page = profile.new_page()
        log_in(page, deployment.url, "researcher", password(deployment, "researcher"))
        wait_openable(page)
        click_open(page)
        time.sleep(0.8)
        os.kill(int(Path("/var/run/docker.pid").read_text()), signal.SIGKILL)
        time.sleep(1)
        start_engine_again(engine)
    demo.up(print, place, images=json.loads((place.state / "public" / "images.json").read_text()))
    until(quietly(lambda: sessions(bulle) == []), 60, "no session is left")
    until(lambda: mounts_of(place) == [], 30, "nothing is mounted")
    assert workspace_containers(engine, place) == []
    assert plain_files(place) == []
    with person(browser) as profile:
        page = profile.new_page()
        log_in(page, deployment.url, "researcher", password(deployment, "researcher"))
        wait_openable(page)
        open_workspace(page, PROJECT)
    for each in sessions(bulle):
        bulle("workspace", "stop", each["session"])

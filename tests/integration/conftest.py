"""One whole deployment for the tests, from the real images: made once, taken away with all it made.

Skipping is loud and never happens in CI: without an engine or root the integration tests fail.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from playwright.sync_api import Browser

from orchestrator.cli import demo
from orchestrator.machine import images as machine_images
from tests.integration.people import chromium

ROOT = Path(__file__).parents[2]


def free_ports(count: int) -> int:
    """The first of ``count`` consecutive free loopback ports."""
    for first in range(18_000, 30_000, 10):
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise RuntimeError("no free ports")


@pytest.fixture(scope="session")
def engine() -> docker.DockerClient:
    """The real Docker engine; its absence is a failure, not a skip."""
    if os.geteuid() != 0:
        pytest.fail("the integration tests need root")
    client = docker.from_env(timeout=180)
    client.ping()
    return client


@pytest.fixture(scope="session")
def images(engine: docker.DockerClient) -> dict[str, str]:
    """The product's own images, built if they are not."""
    return machine_images.build_images(None, progress=print)


def new_place() -> demo.Place:
    """Where a deployment of the tests lives: its own name, state, ports and network."""
    mark = uuid.uuid4().hex[:8]
    first = free_ports(6)
    return demo.Place(
        deployment=f"test-{mark}",
        state=Path(f"/var/lib/bulle/test-{mark}"),
        port=first,
        internal_port=first + 1,
        bridge_subnet=f"172.31.{int(mark[:2], 16) % 200}.0/24",
    )


@pytest.fixture(scope="session")
def place() -> demo.Place:
    """Where the tests' deployment lives."""
    return new_place()


@pytest.fixture(scope="session")
def deployment(place: demo.Place, images: dict[str, str]) -> Iterator[demo.Running]:
    """The demo, up, under the tests' own name. Afterwards nothing of it is left."""
    try:
        yield demo.up(print, place, images=images)
    finally:
        demo.down(print, place)
        shutil.rmtree(place.state, ignore_errors=True)


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What npm installs for the images, from their lock files."""
    found = {}
    for name in ("controller", "demo-idp"):
        folder = tmp_path_factory.mktemp(f"npm-{name}")
        for file in ("package.json", "package-lock.json"):
            shutil.copy(ROOT / "images" / name / file, folder / file)
        words = ["npm", "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(words, cwd=folder, check=True, capture_output=True)
        found[name] = folder / "node_modules"
    return found


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="session")
def bulle(place: demo.Place, deployment: demo.Running):  # type: ignore[no-untyped-def]
    """The command line, for the tests' deployment."""

    def run(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(ROOT / ".venv/bin/bulle"), "--settings", str(place.settings_file), *words],
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr + done.stdout
        return done

    return run

"""The small PostgreSQL for clusters: no network, and the kernel says who may enter."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from orchestrator.config import Uid
from orchestrator.machine import images as machine_images

#: enters as argv's role into argv's database, and says as whom, or why not
ENTER = """
import sys, psycopg
try:
    with psycopg.connect(host=sys.argv[1], user=sys.argv[2], dbname=sys.argv[3]) as there:
        there.execute("CREATE TABLE IF NOT EXISTS kept (id int)")
        print(there.execute("SELECT current_user").fetchone()[0])
except psycopg.OperationalError as error:
    print(str(error).split("FATAL:")[-1].strip())
"""


@pytest.fixture(scope="module")
def folder(engine: docker.DockerClient) -> Iterator[Path]:
    """A running server's folder, of the pod's group as on a cluster."""
    place = Path(tempfile.mkdtemp(prefix="bulle-database-"))
    os.chown(place, 0, Uid.AUTHORITY)
    place.chmod(0o2770)
    built = machine_images.build_images(["database"], progress=print)
    container = engine.containers.run(
        built["database"],
        ["/usr/lib/bulle/database", str(place)],
        detach=True,
        user="1018:1018",
        group_add=[Uid.AUTHORITY],
        network_mode="none",
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        tmpfs={"/tmp": ""},
        volumes=[f"{place}:{place}"],
    )
    try:
        yield place
    finally:
        container.remove(force=True)
        shutil.rmtree(place)


def enter(folder: Path, uid: int, role: str, database: str) -> str:
    """How it ends when user ``uid`` of this machine asks to enter."""
    words = ["setpriv", f"--reuid={uid}", f"--regid={uid}", f"--groups={Uid.AUTHORITY}", sys.executable, "-c", ENTER]
    done = subprocess.run(
        [*words, str(folder / "socket"), role, database], capture_output=True, text=True, check=False, cwd="/"
    )
    return (done.stdout or done.stderr).strip()


def until_up(folder: Path) -> None:
    end = time.monotonic() + 60
    while enter(folder, Uid.AUTHORITY, "bulle", "bulle") != "bulle":
        assert time.monotonic() < end, enter(folder, Uid.AUTHORITY, "bulle", "bulle")
        time.sleep(0.2)


def test_the_authority_enters_and_nobody_else(folder: Path) -> None:
    until_up(folder)
    # The folder's group is every part's: it is the kernel's word on the user that counts.
    for uid in (Uid.HUB, Uid.PORTAL, 0):
        assert "Peer authentication failed" in enter(folder, uid, "bulle", "bulle")
    assert "Peer authentication failed" in enter(folder, Uid.AUTHORITY, "postgres", "postgres")
    assert "no pg_hba.conf entry" in enter(folder, Uid.AUTHORITY, "bulle", "postgres")


def test_what_was_written_is_there_after_a_crash(folder: Path, engine: docker.DockerClient) -> None:
    until_up(folder)
    (server,) = [each for each in engine.containers.list() if str(folder) in str(each.attrs["HostConfig"]["Binds"])]
    server.kill(signal.SIGKILL)
    server.start()
    until_up(folder)


def test_one_that_was_killed_while_it_was_made_is_made_anew(engine: docker.DockerClient, folder: Path) -> None:
    until_up(folder)
    (server,) = [each for each in engine.containers.list() if str(folder) in str(each.attrs["HostConfig"]["Binds"])]
    server.stop(timeout=20)
    (folder / "main").rename(folder / "main.new")
    (folder / "main.new" / "PG_VERSION").unlink()
    server.start()
    until_up(folder)
    assert not (folder / "main.new").exists()

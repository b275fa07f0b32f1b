"""How long a removed member's desktop stays, in a deployment that runs: from the click to nothing left.

``revoke.seconds``: a lead clicks "Remove" on the portal's page of a project's people, in a real browser, while the
member's desktop runs; until no container of a workspace and no mount of the deployment is left. The node agent asks
every ``reconcile_seconds`` (2) what is still allowed, so that half of them, in the middle, is waiting.

Peer: three such containers started bare, with three mounts of the same kind; ``docker rm -f`` of all three, then the
three unmounted. It is the least that can be done, by somebody who already knows that it must be.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import docker
from playwright.sync_api import Page

from orchestrator.cli import demo
from tests.integration.test_end_to_end import mounts_of

MEMBER, LEAD = "researcher", "lead"
_PATIENCE = 60.0
_STILL = "import time; time.sleep(3600)"


def by_the_portal(page: Page, url: str, project: str, place: demo.Place, engine: docker.DockerClient) -> float:
    """Seconds from the lead's click (on ``page``, where the lead is logged in) to nothing left."""
    page.goto(f"{url}/services/portal/projects/{project}/people")
    form = f"form#end-{MEMBER}"
    page.locator("details.sure", has=page.locator(form)).locator("summary").click()
    button = page.locator(f"{form} button[type=submit]")
    button.wait_for()
    if not _left(place, engine):
        raise RuntimeError("nothing runs that could be removed")
    began = time.monotonic()
    button.click(no_wait_after=True)
    while _left(place, engine):
        if time.monotonic() - began > _PATIENCE:
            raise TimeoutError("a removed member's workspace stays")
        time.sleep(0.01)
    took = time.monotonic() - began
    return took


def _left(place: demo.Place, engine: docker.DockerClient) -> bool:
    if mounts_of(place):
        return True
    wanted = [f"bulle.deployment={place.deployment}", "bulle.session"]
    return bool(engine.api.containers(all=True, quiet=True, filters={"label": wanted}))


def admit_again(project: str, place: demo.Place) -> None:
    """The member asks anew, and the lead approves: what follows may remove them again."""
    for words in (("request", project, MEMBER, "--as", MEMBER), ("approve", project, MEMBER, "--as", LEAD)):
        bulle = [".venv/bin/bulle", "--settings", str(place.settings_file), "member", *words]
        done = subprocess.run(bulle, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stdout}{done.stderr}")


def by_hand(images: dict[str, str], running: list[str], folder: Path) -> float:
    """The same by bare commands: ``running`` are two containers, to which a third and the mounts are added."""
    # As the bridge: it ends by itself when it is asked to, within the second that it is given.
    words = ["docker", "run", "-d", "--init", "--network", "none", "--log-driver", "none", images["gateway"]]
    words += ["/usr/bin/python3", "-c", _STILL]
    third = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    targets = [folder / name for name in ("bare-data", "bare-home", "bare-project")]
    for target in targets:
        target.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "bulle-bench", str(target)], check=True)
        (target / "file").write_bytes(os.urandom(1 << 20))
    began = time.monotonic()
    subprocess.run(["docker", "rm", "-f", *running, third], capture_output=True, check=True)
    for target in targets:
        subprocess.run(["umount", str(target)], check=True)
    return time.monotonic() - began

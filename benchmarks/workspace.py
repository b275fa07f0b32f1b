"""How long from the click to the desktop, and how much memory; beside the same containers run bare.

*First desktop pixels* means the same for both: at least one in fifty of the picture's sampled pixels differs from the
background that the display shows before anything is drawn (the panel and icons are there, not just a blank screen).
Ours: a real headless Chromium clicks "Open workspace" and the canvas is looked at. Peer: ``docker run`` of the same
display and sandbox with the same options, and a plain RFB client that asks for the picture until the same is so.

In the same deployment, how long a removed member's desktop stays (:mod:`benchmarks.revoke`).
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
from playwright.sync_api import Browser, Page

from benchmarks import revoke
from orchestrator.cli import demo
from orchestrator.workspaces.gateway.display import write_xauthority
from tests.integration.conftest import free_ports
from tests.integration.people import chromium, log_in, person

Result = dict[str, Any]
STARTS = 10
REMOVALS = 5
PROJECT = "doctor-visits"
DRAWN_SHARE = 0.02
PIXELS_IN_PAGE = """
() => {
  const canvas = document.querySelector('#screen canvas');
  if (!canvas || document.documentElement.dataset.bulle !== 'pixels' || canvas.width < 64) return false;
  const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  const counts = new Map();
  let total = 0;
  for (let i = 0; i < data.length; i += 4 * 97) {
    const key = (data[i] << 16) | (data[i + 1] << 8) | data[i + 2];
    counts.set(key, (counts.get(key) || 0) + 1);
    total += 1;
  }
  return total - Math.max(...counts.values()) > total * DRAWN_SHARE;
}
""".replace("DRAWN_SHARE", str(DRAWN_SHARE))


def open_workspace(page: Page, project: str, url: str) -> float:
    page.goto(url + "/services/portal/")
    button = page.locator(f"form[action$='/open/{project}'] button[type=submit]")
    button.wait_for()
    began = time.monotonic()
    button.click()
    page.wait_for_url(f"**/user/*/{project}/**", timeout=120_000)
    while not page.evaluate(PIXELS_IN_PAGE):
        if time.monotonic() - began > 60:
            raise TimeoutError("no pixels in the browser")
        time.sleep(0.02)
    return time.monotonic() - began


class RfbClient:
    """Asks an RFB server on a unix socket for raw pixels; just enough of RFC 6143 to look at a picture."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._read(12)
        self._socket.sendall(b"RFB 003.008\n")
        self._read(self._read(1)[0])
        self._socket.sendall(b"\x01")
        self._read(4)
        self._socket.sendall(b"\x01")
        self.width, self.height = struct.unpack(">HH", self._read(4))
        self._read(16)
        self._read(struct.unpack(">I", self._read(4))[0])
        self._socket.sendall(struct.pack(">BxHi", 2, 1, 0))  # raw only

    def _read(self, size: int) -> bytes:
        got = bytearray()
        while len(got) < size:
            part = self._socket.recv(size - len(got))
            if not part:
                raise ConnectionError("the display closed")
            got += part
        return bytes(got)

    def drawn(self) -> bool:
        """Whether the picture has more than background."""
        self._socket.sendall(struct.pack(">BBHHHH", 3, 0, 0, 0, self.width, self.height))
        while (kind := self._read(1)[0]) != 0:
            if kind == 3:
                self._read(3)
                self._read(struct.unpack(">I", self._read(4))[0])
        (count,) = struct.unpack(">xH", self._read(3))
        pixels = bytearray()
        for _ in range(count):
            _x, _y, width, height, _encoding = struct.unpack(">HHHHi", self._read(12))
            pixels += self._read(width * height * 4)
        sample = [bytes(pixels[at : at + 3]) for at in range(0, len(pixels), 4 * 97)]
        common = Counter(sample).most_common(1)[0][1]
        return len(sample) - common > len(sample) * DRAWN_SHARE


def bare_folders(folder: Path) -> None:
    """What display and sandbox share, and their files, below ``folder``."""
    for name, uid, gid, mode in (
        ("x11", 1002, 1002, 0o755),
        ("rfb", 1002, 1003, 0o2750),
        ("auth", 1002, 1002, 0o755),
    ):
        (folder / name).mkdir(parents=True)
        os.chown(folder / name, uid, gid)
        (folder / name).chmod(mode)
    cookie = os.urandom(16)
    for name, uid in (("display", 1002), ("sandbox", 1000)):
        (folder / name).mkdir()
        write_xauthority(folder / name / "Xauthority", cookie, 1)
        os.chown(folder / name / "Xauthority", uid, uid)
        (folder / name).chmod(0o755)
    (folder / "sandbox" / "session.json").write_text("{}")
    home = folder / "home"
    home.mkdir()
    os.chown(home, 1000, 1000)


def wait_drawn(socket_path: Path, began: float) -> float:
    """Seconds from ``began`` (monotonic) until the display behind the socket shows a desktop."""
    client: RfbClient | None = None
    while time.monotonic() - began < 60:
        try:
            client = client or RfbClient(socket_path)
            if client.drawn():
                return time.monotonic() - began
        except OSError:
            client = None
        time.sleep(0.02)
    raise TimeoutError("no pixels from the bare containers")


def _bare_start(images: dict[str, str], folder: Path) -> tuple[float, list[str]]:
    """Display and sandbox by bare ``docker run``; seconds to first pixels, and their ids."""
    bare_folders(folder)
    home = folder / "home"
    common = [
        "docker", "run", "-d", "--network", "none", "--read-only", "--cap-drop", "ALL",
        "--security-opt", "no-new-privileges", "--log-driver", "none",
    ]  # fmt: skip
    display = [
        *common, "--user", "1002:1002", "--group-add", "1003", "--tmpfs", "/tmp",
        "-v", f"{folder}/x11:/tmp/.X11-unix", "-v", f"{folder}/rfb:/run/bulle/rfb",
        "-v", f"{folder}/display:/run/bulle/display:ro", images["gateway"], "/usr/lib/bulle/display",
    ]  # fmt: skip
    sandbox = [
        *common, "--user", "1000:1000", "--tmpfs", "/tmp", "--tmpfs", "/run/user/1000:uid=1000,mode=0700",
        "-v", f"{home}:/home/researcher", "-v", f"{folder}/x11:/tmp/.X11-unix:ro",
        "-v", f"{folder}/sandbox:/run/bulle:ro", images["sandbox"],
    ]  # fmt: skip
    began = time.monotonic()
    running = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for words in (display, sandbox)
    ]
    done = [process.communicate() for process in running]
    ids = [out.strip() for out, _ in done]
    if not all(ids):
        raise RuntimeError("; ".join(error.strip() for _, error in done))
    return wait_drawn(folder / "rfb" / "rfb.sock", began), ids


def _remove(engine: docker.DockerClient, ids: list[str]) -> None:
    for each in ids:
        engine.containers.get(each).remove(force=True)


def _memory_mb(engine: docker.DockerClient, id_: str) -> float:
    usage = engine.containers.get(id_).stats(stream=False)["memory_stats"]
    inactive = usage["stats"].get("total_inactive_file", usage["stats"].get("inactive_file", 0))
    return float(usage["usage"] - inactive) / 2**20


def p95(values: list[float]) -> float:
    return sorted(values)[max(0, round(0.95 * len(values)) - 1)]


def pair(ours: float, peer: float, peer_name: str, unit: str) -> Result:
    return {
        "ours": round(ours, 3),
        "peer": round(peer, 3),
        "peer_name": peer_name,
        "unit": unit,
        "ratio": round(ours / peer, 3),
    }


def measure(
    images: dict[str, str], say: Callable[[str], None], starts: int = STARTS, removals: int = REMOVALS
) -> dict[str, Result]:
    """Start a workspace ``starts`` times each way, in alternation, and weigh both; then remove its member
    ``removals`` times.
    """
    engine = docker.from_env(timeout=180)
    first = free_ports(6)
    place = demo.Place("bench", Path("/var/lib/bulle/bench"), first, first + 1, "172.31.201.0/24")
    running = demo.up(say, place, images=images)
    ours: list[float] = []
    bare: list[float] = []
    weights: dict[str, list[float]] = {
        "bridge": [],
        "display": [],
        "sandbox": [],
        "bare-display": [],
        "bare-sandbox": [],
    }
    scratch = Path("/dev/shm/bulle-bench")
    try:
        with chromium() as browser, person(browser, width=1600, height=900) as profile:
            page = profile.new_page()
            log_in(page, running.url, revoke.MEMBER, _secret(running, revoke.MEMBER))
            for turn in range(starts + 1) if starts else ():  # the first of each warms up and does not count
                took = open_workspace(page, PROJECT, running.url)
                time.sleep(5)
                for each in engine.containers.list(filters={"label": f"bulle.deployment={place.deployment}"}):
                    part = each.labels.get("bulle.part")
                    if part in weights and each.labels.get("bulle.session"):
                        weights[part].append(_memory_mb(engine, each.id))
                page.goto(running.url + "/services/portal/")
                _stop_all(place)
                shutil.rmtree(scratch, ignore_errors=True)
                took_bare, ids = _bare_start(images, scratch)
                time.sleep(5)
                weights["bare-display"].append(_memory_mb(engine, ids[0]))
                weights["bare-sandbox"].append(_memory_mb(engine, ids[1]))
                _remove(engine, ids)
                say(f"start {turn}: {took:.2f} s, bare {took_bare:.2f} s")
                if turn:
                    ours.append(took)
                    bare.append(took_bare)
            removed = _removals(browser, page, running, place, engine, images, removals, say)
    finally:
        demo.down(say, place)
        shutil.rmtree(place.state, ignore_errors=True)
        shutil.rmtree(scratch, ignore_errors=True)
    middle = {name: statistics.median(values) for name, values in weights.items() if values}
    peer = "same containers by bare docker run, until first pixels"
    weighed = (
        {}
        if not starts
        else {
            "workspace.start.median": pair(statistics.median(ours), statistics.median(bare), peer, "s"),
            "workspace.start.p95": pair(p95(ours), p95(bare), peer, "s"),
            "gateway.memory": pair(
                middle["bridge"] + middle["display"],
                middle["bare-display"],
                "bare display container (no bridge)",
                "MB",
            ),
            "sandbox.memory": pair(middle["sandbox"], middle["bare-sandbox"], "bare sandbox container", "MB"),
        }
    )
    gone = [statistics.median(found) for found in zip(*removed, strict=True)]
    return {**weighed, "revoke.seconds": pair(*gone, "docker rm -f of three such containers, three unmounted", "s")}


def _removals(
    browser: Browser,
    page: Page,
    running: demo.Running,
    place: demo.Place,
    engine: docker.DockerClient,
    images: dict[str, str],
    times: int,
    say: Callable[[str], None],
) -> list[tuple[float, float]]:
    """Remove the member whose desktop runs, and the same by hand, in alternation; the first of each does not count."""
    found: list[tuple[float, float]] = []
    scratch = Path("/dev/shm/bulle-bench")
    with person(browser) as profile:
        lead = profile.new_page()
        log_in(lead, running.url, revoke.LEAD, _secret(running, revoke.LEAD))
        for turn in range(times + 1):
            open_workspace(page, PROJECT, running.url)
            time.sleep(3)
            took = revoke.by_the_portal(lead, running.url, PROJECT, place, engine)
            revoke.admit_again(PROJECT, place)
            shutil.rmtree(scratch, ignore_errors=True)
            _, ids = _bare_start(images, scratch)
            time.sleep(3)
            by_hand = revoke.by_hand(images, ids, scratch)
            say(f"removal {turn}: {took:.2f} s, by hand {by_hand:.2f} s")
            if turn:
                found.append((took, by_hand))
    return found


def _secret(running: demo.Running, name: str) -> str:
    return next(each.password for each in running.people if each.name == name)


def _stop_all(place: demo.Place) -> None:
    bulle = [".venv/bin/bulle", "--settings", str(place.settings_file), "workspace"]
    for each in json.loads(subprocess.run([*bulle, "list", "--json"], capture_output=True, check=True).stdout):
        subprocess.run([*bulle, "stop", each["session"]], check=True)

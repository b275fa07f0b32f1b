"""The researcher's desktop, in the real container under the real restrictions: the image, the start, the readers."""

from __future__ import annotations

import datetime
import os
import secrets
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.config import FileCustodian, Gid, Oidc, Settings, Uid
from orchestrator.machine import images as machine_images
from orchestrator.terms import Grant, PermitTerms
from orchestrator.workspaces import seccomp
from orchestrator.workspaces.docker import DockerRuntime
from orchestrator.workspaces.gateway.display import write_xauthority
from orchestrator.workspaces.runtime import Executed
from orchestrator.workspaces.spec import Images, WorkspacePaths, workspace_specs

LIBRARIES = ("pandas", "polars", "pyarrow", "duckdb", "sklearn", "statsmodels.api", "lifelines", "matplotlib.pyplot")
R_PACKAGES = ("survival", "survminer", "tidyverse", "data.table", "lme4", "IRkernel", "bulle")


def until(condition: Callable[[], object], what: str, seconds: float = 90) -> None:
    """Return once ``condition`` gives something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError(f"{what} did not happen in {seconds} s")


class Picture:
    """What the display shows, over its RFB socket (RFC 6143), in raw encoding."""

    def __init__(self, path: Path) -> None:
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(str(path))
        self._connection.settimeout(20)
        self._get(12)
        self._connection.sendall(b"RFB 003.008\n")
        self._get(self._get(1)[0])
        self._connection.sendall(b"\x01")
        self._get(4)
        self._connection.sendall(b"\x01")
        self.width, self.height = struct.unpack(">HH", self._get(4))
        self._get(16)
        self._get(struct.unpack(">I", self._get(4))[0])
        pixel = struct.pack(">BxxxBBBBHHHBBBxxx", 0, 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
        self._connection.sendall(pixel + struct.pack(">BxHi", 2, 1, 0))

    def _get(self, count: int) -> bytes:
        parts = b""
        while len(parts) < count:
            part = self._connection.recv(count - len(parts))
            if not part:
                raise EOFError("the display closed the connection")
            parts += part
        return parts

    def colours(self) -> dict[tuple[int, int, int], int]:
        """How many pixels of each colour the whole picture has now."""
        self._connection.sendall(struct.pack(">BBHHHH", 3, 0, 0, 0, self.width, self.height))
        counted: dict[tuple[int, int, int], int] = {}
        kind = self._get(1)[0]
        while kind != 0:
            assert kind == 2, f"message {kind}"
            kind = self._get(1)[0]
        for _ in range(struct.unpack(">xH", self._get(3))[0]):
            _, _, width, height, _ = struct.unpack(">HHHHi", self._get(12))
            for blue, green, red, _ in struct.iter_unpack("4B", self._get(width * height * 4)):
                colour = (red, green, blue)
                counted[colour] = counted.get(colour, 0) + 1
        return counted

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


class Desk:
    """A display and a sandbox as the node agent starts them, with a data folder, and a home that comes later."""

    def __init__(self, folder: Path, built: dict[str, str]) -> None:
        self.mounts = folder
        session = secrets.token_hex(16)
        now = datetime.datetime.now(datetime.UTC)
        settings = Settings(
            deployment=f"desk-{session[:8]}",
            state=folder,
            oidc=Oidc(issuer="http://127.0.0.1:1", client_id="x", client_secret_file=Path("/nonexistent")),
            custodian=FileCustodian(),
        )
        terms = PermitTerms(version=1, tables=(), valid_from=now, valid_until=now + datetime.timedelta(hours=1))
        grant = Grant(
            person="researcher",
            display_name="Researcher",
            project_id=secrets.token_hex(16),
            project="demo",
            project_title="Demo",
            session=session,
            permit=terms,
            ends_at=now + datetime.timedelta(hours=1),
        )
        self.paths = WorkspacePaths.of(folder, session)
        run = self.paths.run
        for place in (self.paths.data, self.paths.home, self.paths.project, run / "sandbox", run / "display"):
            place.mkdir(parents=True, mode=0o755)
        for place, uid, gid, mode in (("x11", Uid.DISPLAY, Uid.DISPLAY, 0o755), ("rfb", Uid.DISPLAY, Gid.RFB, 0o770)):
            (run / place).mkdir()
            os.chown(run / place, uid, gid)
            (run / place).chmod(mode)
        cookie = secrets.token_bytes(16)
        write_xauthority(run / "display" / "Xauthority", cookie, uid=Uid.DISPLAY)
        write_xauthority(run / "sandbox" / "Xauthority", cookie, uid=Uid.SANDBOX)
        (run / "sandbox" / "session.json").write_text('{"project": "demo", "language": "en"}')
        self.runtime = DockerRuntime(settings.deployment)
        images = Images(gateway=built["gateway"], sandbox=built["sandbox"])
        # The profile that the node agent uses is in its image.
        profile = folder / "seccomp.json"
        argv = ["docker", "run", "--rm", "--network=none", "--entrypoint=cat", built["node"], str(seccomp.PROFILE)]
        profile.write_bytes(subprocess.run(argv, capture_output=True, check=True).stdout)
        display, _, sandbox = workspace_specs(grant, settings, images, self.paths, seccomp.load(profile))
        self.display = self.runtime.create(display)
        self.sandbox = ""
        try:
            self.runtime.start(self.display)
            self.sandbox = self.runtime.create(sandbox)
            self.runtime.start(self.sandbox)
        except BaseException:
            self.close()
            raise

    def run(self, *command: str, uid: int = Uid.SANDBOX, timeout: float = 180) -> Executed:
        """Run a command in the sandbox as the researcher."""
        return self.runtime.execute(self.sandbox, command, uid, b"", timeout=timeout, most=1_000_000)

    def says(self, *command: str) -> str:
        """What a command that must succeed printed."""
        done = self.run(*command)
        assert done.status == 0, done.errors.decode()[-3000:]
        return done.output.decode()

    def programs(self) -> set[str]:
        """Names of the processes in the sandbox."""
        return set(self.says("/bin/ps", "-eo", "comm=").split())

    def mount(self, place: Path, uid: int) -> None:
        """Mount an empty folder of ``uid`` on a place of the session, as the node agent does."""
        options = f"uid={uid},gid={uid},mode=0700,size=64m"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)

    def close(self) -> None:
        """Remove the containers."""
        for container in (self.sandbox, self.display):
            if container:
                self.runtime.remove(container)


def view(folder: Path) -> None:
    """A view with every type that a view may have."""
    folder.mkdir()
    days = [datetime.date(1984, 1, 1), datetime.date(2024, 2, 29), None]
    at = datetime.datetime(2024, 2, 29, 23, 30, tzinfo=datetime.UTC)
    table = pa.table(
        {
            "id": ["00ff" * 8, "a" * 32, "b" * 32],
            "raw": pa.array([b"\x00\xff" * 8, None, b"\x01" * 16], pa.binary(16)),
            "year": pa.array([1984, None, 1988], pa.int32()),
            "visits": [1.5, None, 3.0],
            "big": pa.array([2**40, 1, None], pa.int64()),
            "sex": pa.array(["female", "male", "female"]).dictionary_encode(),
            "seen": pa.array(days, pa.date32()),
            "at": pa.array([at, None, at], pa.timestamp("us", "UTC")),
            "note": ["œdème, fièvre 39°", "", None],
            "works": [True, False, None],
        }
    )
    pq.write_table(table, folder / "visits.parquet", row_group_size=2)


@pytest.fixture(scope="module")
def built(engine: docker.DockerClient) -> dict[str, str]:
    return machine_images.build_images(["gateway", "node", "sandbox"], progress=print)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, built: dict[str, str]) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", str(folder)], check=True)
    made = None
    try:
        subprocess.run(["mount", "--make-rshared", str(folder)], check=True)
        made = Desk(folder, built)
        yield made
    finally:
        if made is not None:
            made.close()
        subprocess.run(["umount", "--recursive", str(folder)], check=True)


@pytest.fixture(scope="module")
def open_desk(desk: Desk) -> Desk:
    """The same with its home and data, and the desktop on the picture."""
    view(desk.paths.data / "health")
    if "xfce4-panel" not in desk.programs():
        desk.mount(desk.paths.home, Uid.SANDBOX)
    until(lambda: {"xfce4-panel", "xfdesktop", "xfwm4"} <= desk.programs(), "the desktop")
    return desk


def test_nothing_of_the_desktop_starts_before_the_home_is_mounted(desk: Desk) -> None:
    until(lambda: "session" in desk.programs(), "the main process")
    time.sleep(1)
    assert desk.programs() <= {"session", "ps"}
    # The empty folder that is there before is root's: a program started now could write nothing into it.
    assert desk.run("/usr/bin/touch", "/home/researcher/x").status != 0


def test_the_desktop_is_drawn_when_the_home_comes(open_desk: Desk) -> None:
    picture = Picture(open_desk.paths.run / "rfb" / "rfb.sock")
    blue = (0x10, 0x23, 0x3D)
    until(lambda: picture.colours().get(blue, 0) > 100_000 and len(picture.colours()) > 500, "the wallpaper and icons")
    picture.close()
    home = open_desk.says("/bin/ls", "-A", "/home/researcher", "/home/researcher/Desktop")
    for name in ("bulle-readme.desktop", "bulle-data.desktop", "bulle-project.desktop", "bulle-jupyterlab.desktop"):
        assert name in home
    assert open_desk.says("/bin/readlink", "/home/researcher/data") == "/data\n"


def test_jupyterlab_answers_on_loopback_with_this_sessions_token_alone(open_desk: Desk) -> None:
    program = (
        "import sys, urllib.request, urllib.error\n"
        "token = open('/run/user/1000/bulle/jupyter-token').read()\n"
        "for given in ('', 'wrong', token):\n"
        "    try: print(urllib.request.urlopen('http://127.0.0.1:8888/api/kernelspecs?token=' + given).status)\n"
        "    except urllib.error.HTTPError as error: print(error.code)\n"
    )
    until(lambda: open_desk.run("/usr/bin/python3", "-c", program).status == 0, "JupyterLab")
    assert open_desk.says("/usr/bin/python3", "-c", program).split() == ["403", "403", "200"]
    assert open_desk.says("/usr/bin/stat", "-c", "%a %u", "/run/user/1000/bulle/jupyter-token") == "600 1000\n"
    names = open_desk.says("/usr/bin/python3", "-m", "jupyter", "kernelspec", "list")
    assert "python3" in names
    assert "/usr/local/share/jupyter/kernels/ir" in names


def test_both_kernels_run_a_cell(open_desk: Desk) -> None:
    program = (
        "from jupyter_client.manager import run_kernel\n"
        "for name, code in (('python3', 'import bulle; print(len(bulle.read_view(\"health\")))'),\n"
        "                   ('ir', 'cat(nrow(read_view(\"health\")))')):\n"
        "    with run_kernel(kernel_name=name, startup_timeout=90) as client:\n"
        "        client.execute_interactive(code, timeout=120)\n"
    )
    assert open_desk.says("/usr/bin/python3", "-c", program).split() == ["3", "3"]


@pytest.mark.parametrize("name", LIBRARIES)
def test_python_has_the_library(open_desk: Desk, name: str) -> None:
    open_desk.says("/usr/bin/python3", "-c", f"import {name}")


def test_r_has_the_packages(open_desk: Desk) -> None:
    calls = "; ".join(f"library({name}, character.only = FALSE)" for name in R_PACKAGES)
    open_desk.says("/usr/bin/Rscript", "-e", calls)


def test_one_call_reads_a_view_in_r_with_its_types(open_desk: Desk) -> None:
    program = """
      df <- read_view("health")
      stopifnot(identical(views(), "health"), is.data.frame(df), nrow(df) == 3L, ncol(df) == 10L)
      stopifnot(identical(df$id[1], strrep("00ff", 8)), identical(df$raw, c(strrep("00ff", 8), NA, strrep("01", 16))))
      stopifnot(identical(df$year, c(1984L, NA, 1988L)), identical(df$visits, c(1.5, NA, 3)))
      stopifnot(identical(as.numeric(df$big), c(2^40, 1, NA)))
      stopifnot(is.factor(df$sex), identical(levels(df$sex), c("female", "male")))
      stopifnot(identical(as.integer(df$sex), c(1L, 2L, 1L)))
      stopifnot(inherits(df$seen, "Date"), identical(format(df$seen), c("1984-01-01", "2024-02-29", NA)))
      stopifnot(inherits(df$at, "POSIXct"), identical(format(df$at[1], tz = "UTC"), "2024-02-29 23:30:00"))
      stopifnot(identical(df$note[1], "\\u0153d\\u00e8me, fi\\u00e8vre 39\\u00b0"))
      stopifnot(identical(df$note[2], ""), is.na(df$note[3]))
      stopifnot(identical(df$works, c(TRUE, FALSE, NA)))
      some <- read_view("/data/health/visits.parquet", columns = c("year", "sex"))
      stopifnot(identical(names(some), c("year", "sex")))
      says <- function(call) conditionMessage(tryCatch(call, error = identity))
      stopifnot(grepl("no view 'absent'. Views are: health", says(read_view("absent")), fixed = TRUE))
      stopifnot(grepl("no column nothing; columns are: id, raw", says(read_view("health", "nothing")), fixed = TRUE))
      cat("read")
    """
    assert open_desk.says("/usr/bin/Rscript", "-e", program) == "read"


def test_one_call_reads_a_view_in_python(open_desk: Desk) -> None:
    program = (
        "import bulle\n"
        "df = bulle.read_view('health')\n"
        "assert bulle.views() == ['health'] and df.shape == (3, 10), df.shape\n"
        "assert str(df.seen.dtype).startswith('datetime64') and df.seen[1].day == 29\n"
        "assert list(df.sex) == ['female', 'male', 'female'] and str(df.sex.dtype) == 'category'\n"
        "assert bulle.read_view('health', ['year'], frame='polars').columns == ['year']\n"
        "try: bulle.read_view('absent')\n"
        "except FileNotFoundError as error: print(error)\n"
    )
    assert open_desk.says("/usr/bin/python3", "-c", program) == "There is no view 'absent'. Views are: health\n"


def test_no_program_in_the_image_can_change_who_runs_it(open_desk: Desk, built: dict[str, str]) -> None:
    find = ["find", "/", "-xdev", "-type", "f", "-perm", "/6000"]
    assert open_desk.run("/usr/bin/find", *find[1:]).output == b""
    # The negative control: a file system in which the bit was not removed is found.
    bare = ["docker", "run", "--rm", "--network=none", "--user=0", built["sandbox"], "sh", "-c"]
    planted = "cp /usr/bin/true /usr/bin/planted && chmod u+s /usr/bin/planted && " + " ".join(find)
    assert subprocess.run([*bare, planted], capture_output=True, text=True, check=False).stdout == "/usr/bin/planted\n"


def test_there_is_no_network_but_loopback(open_desk: Desk) -> None:
    assert open_desk.says("/bin/ls", "/sys/class/net").split() == ["lo"]
    assert len(open_desk.says("/bin/cat", "/proc/net/route").splitlines()) == 1


@pytest.mark.parametrize("place", ["/x", "/usr/x", "/etc/x", "/data/x", "/run/bulle/x", "/tmp/.X11-unix/x", "/opt/x"])
def test_the_system_the_data_and_the_sockets_are_read_only(open_desk: Desk, place: str) -> None:
    assert open_desk.run("/usr/bin/touch", place).status != 0
    # and what is the researcher's own is not
    for mine in ("/home/researcher/x", "/tmp/x"):
        open_desk.says("/usr/bin/touch", mine)


def test_no_process_has_a_capability_or_a_way_to_gain_one(open_desk: Desk) -> None:
    status = open_desk.says("/bin/cat", "/proc/1/status", "/proc/self/status")
    lines = [line.split() for line in status.splitlines() if line.startswith(("CapEff", "CapPrm", "CapBnd", "CapInh"))]
    assert len(lines) == 8
    assert {value for _, value in lines} == {"0" * 16}
    assert [line for line in status.splitlines() if line.startswith("NoNewPrivs")] == ["NoNewPrivs:\t1"] * 2


def test_orphans_are_collected(open_desk: Desk) -> None:
    open_desk.says("/bin/sh", "-c", "(sleep 0.3 & ) ; (sleep 0.4 & )")
    until(lambda: "Z" not in open_desk.says("/bin/ps", "-eo", "stat=").replace("\n", ""), "the end of the zombies", 10)


def test_a_program_of_the_desktop_that_dies_comes_back(open_desk: Desk) -> None:
    before = open_desk.says("/bin/sh", "-c", "pgrep -x xfce4-panel")
    open_desk.says("/bin/sh", "-c", "pkill -9 -x xfce4-panel")

    def replaced() -> bool:
        found = open_desk.run("/bin/sh", "-c", "pgrep -x xfce4-panel").output.decode()
        return bool(found) and found != before

    until(replaced, "a new panel")


def test_the_session_ends_with_its_display(open_desk: Desk) -> None:
    open_desk.runtime.remove(open_desk.display)
    open_desk.display = ""
    argv = ["docker", "inspect", "--format", "{{.State.Running}} {{.State.ExitCode}}", open_desk.sandbox]
    until(
        lambda: subprocess.run(argv, capture_output=True, text=True, check=False).stdout == "false 0\n",
        "the session's end",
        20,
    )

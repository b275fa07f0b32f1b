"""The agent's own process: its memory is closed, and it does not serve while anything of an earlier one stays."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import Settings
from orchestrator.errors import AuditError, BulleError, NodeError
from orchestrator.node import agent, mounts
from orchestrator.node.agent import Parts, clean, serve
from orchestrator.terms import Event, SessionClaim, SessionVerdict
from orchestrator.workspaces.runtime import Found
from tests.unit.node.apart import apart, forked
from tests.unit.node.test_mounts import changed
from tests.unit.workspaces.test_spec import SETTINGS

SECRET = b"a key that is in the agent's memory"
SOMEBODY = 4242
_PR_SET_DUMPABLE = 4


# -- M7 -----------------------------------------------------------------------------------------------------
def hold_a_key(ready: int) -> None:
    """The agent at the moment at which it opens its keys; killed there."""
    held = ctypes.create_string_buffer(SECRET)

    def parts(settings: Settings) -> Parts:
        os.write(ready, b"%d\n" % ctypes.addressof(held))
        signal.pause()
        raise NotImplementedError

    serve(SETTINGS, parts)


def nobody_reads_the_agents_memory() -> None:
    """Another process of the same user, which is what tells dumpable from not; root may always."""
    os.setgroups([])
    os.setresgid(SOMEBODY, SOMEBODY, SOMEBODY)
    os.setresuid(SOMEBODY, SOMEBODY, SOMEBODY)
    # As a process is that was started by its user, not one that changed its user.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))
    reading, ready = os.pipe()
    victim = os.fork()
    if victim == 0:
        hold_a_key(ready)
        os._exit(0)
    os.close(ready)
    try:
        address = int(os.read(reading, 100))
        limits = Path(f"/proc/{victim}/limits").read_text()
        (core,) = [line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core file size")]
        read = b""
        try:
            with Path(f"/proc/{victim}/mem").open("rb") as memory:
                memory.seek(address)
                read = memory.read(len(SECRET))
        except PermissionError:
            pass
        assert read != SECRET, "the key was read"
        assert read == b"", "something was read"
        assert core == ["0", "0"], "it would leave a core dump"
    finally:
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)


def test_the_agents_memory_is_closed_before_it_opens_its_keys() -> None:
    forked(nobody_reads_the_agents_memory)


def only_no_core() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def only_not_dumpable() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("instead", "said"),
    [(lambda: None, "the key was read"), (only_no_core, "the key was read"), (only_not_dumpable, "core dump")],
)
def test_negative_control_without_hardening_the_key_is_read_or_dumped(instead: Callable[[], None], said: str) -> None:
    with changed(agent, "harden", instead), pytest.raises(AssertionError, match=said):
        forked(nobody_reads_the_agents_memory)


# -- M8 -----------------------------------------------------------------------------------------------------
class Engine:
    """Containers of an earlier agent; one that does not go if ``stuck``."""

    def __init__(self, *, stuck: bool = False) -> None:
        self.left = [Found("one", "a" * 32, "sandbox", True), Found("two", "a" * 32, "bridge", False)]
        self.stuck = stuck

    def list(self, session: str | None = None) -> list[Found]:
        return list(self.left)

    def remove(self, container: str, *, grace: int = 0) -> None:
        if self.stuck:
            raise NodeError(f"the engine did not remove container {container}")
        self.left = [each for each in self.left if each.id != container]


def settings_in(root: Path) -> Settings:
    return Settings.model_validate({**SETTINGS.model_dump(mode="json"), "state": str(root / "state")})


def leave_something(settings: Settings) -> None:
    """A view, a home on its bind, and an unfinished disk, as a killed agent leaves them."""
    layout = settings.layout
    view, target = layout.mounts / "views" / "v", layout.mounts / "ws" / ("a" * 32) / "data"
    for folder in (view, target, layout.folders / "f"):
        folder.mkdir(parents=True)
    mounts.tmpfs(view, "1m")
    (view / "people.parquet").write_text("plaintext")
    mounts.bind(view, target)
    (layout.folders / "f" / "disk.new").touch()


def nothing_of_an_earlier_agent_stays(root: Path) -> None:
    settings = settings_in(root)
    leave_something(settings)
    engine = Engine()
    try:
        clean(settings.layout, engine)  # type: ignore[arg-type]
    except BulleError as error:
        raise AssertionError(f"it was not cleaned: {error}") from error
    assert engine.left == []
    assert mounts.mounts_below(settings.layout.mounts) == []
    assert [path for path in settings.layout.mounts.rglob("*") if path.is_file()] == []
    assert list(settings.layout.folders.glob("*/*")) == []


def test_nothing_of_an_agent_that_was_killed_stays(tmp_path: Path) -> None:
    apart(lambda: nothing_of_an_earlier_agent_stays(tmp_path))


def test_negative_control_without_unmounting_plaintext_stays_and_is_said(tmp_path: Path) -> None:
    with (
        changed(mounts, "unmount_below", lambda folder: 0),
        pytest.raises(AssertionError, match=r"people\.parquet"),
    ):
        apart(lambda: nothing_of_an_earlier_agent_stays(tmp_path))


class Silent:
    """An authority at which the agent's first event arrives, or not."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def record(self, event: Event) -> int:
        self.heard.append(event.kind)
        raise AuditError("this far and no further")

    def check_sessions(self, claims: Iterable[SessionClaim]) -> list[SessionVerdict]:
        raise NotImplementedError


def container_stays(settings: Settings) -> Engine:
    return Engine(stuck=True)


def file_stays(settings: Settings) -> Engine:
    folder = settings.layout.mounts / "ws" / "s"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("plaintext that no mount explains")
    return Engine()


def link_stays(settings: Settings) -> Engine:
    folder = settings.layout.mounts / "ws"
    folder.mkdir(parents=True)
    (folder / "s").symlink_to("/etc")
    return Engine()


LEFT: list[Callable[[Settings], Engine]] = [container_stays, file_stays, link_stays]


def it_does_not_serve(root: Path, leave: Callable[[Settings], Engine]) -> None:
    settings = settings_in(root)
    authority, engine = Silent(), leave(settings)
    said: BulleError | None = None

    def parts(_: Settings) -> Parts:
        unused: Any = None
        return Parts(runtime=engine, authority=authority, keys=unused, builder=unused, seccomp="")  # type: ignore[arg-type]

    try:
        serve(settings, parts)
    except BulleError as error:
        said = error
    assert authority.heard == [], "it says that it starts only when all is clean"
    assert isinstance(said, NodeError)
    assert not settings.layout.socket("door").exists()


@pytest.mark.parametrize("leave", LEFT)
def test_the_agent_does_not_serve_while_something_stays(tmp_path: Path, leave: Callable[[Settings], Engine]) -> None:
    apart(lambda: it_does_not_serve(tmp_path, leave))


@pytest.mark.parametrize("leave", LEFT)
def test_negative_control_without_cleaning_it_would_start_over_what_stays(
    tmp_path: Path, leave: Callable[[Settings], Engine]
) -> None:
    with (
        changed(agent, "clean", lambda layout, runtime: (0, 0)),
        pytest.raises(AssertionError, match="only when all is clean"),
    ):
        apart(lambda: it_does_not_serve(tmp_path, leave))

"""One writer of a folder: two nodes at once, nodes that die, clocks that differ, files that the storage's host made."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.config import Layout
from orchestrator.errors import BulleError, NodeError, UnavailableError
from orchestrator.keys import FileCustodian, KeyRing
from orchestrator.node import asking, lease, mounts
from orchestrator.node.folders import Folders, folder_name, home_key
from orchestrator.node.lease import BREAK, HOLD, RENEW, WATCHED, HeldError, Leases, WaitError
from tests.unit.node.apart import apart
from tests.unit.node.test_mounts import changed

KEY = home_key("1" * 32, "ann")


class Clock:
    """Of both nodes, and with ``storage`` more that of the storage; it goes when it is told to."""

    def __init__(self) -> None:
        self.now, self.storage = 1000.0, 5000.0
        lease._touch = self.touch

    def __call__(self) -> float:
        return self.now

    def touch(self, path: Path) -> None:
        os.utime(path, (0, self.now + self.storage))


@pytest.fixture(autouse=True)
def _a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_touch", lease._touch)


class Pair:
    """Two nodes and a folder that both see."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "folder"
        self.folder.mkdir()
        self.ticks = Clock()
        self.a = Leases("node-a", "boot-1", ticks=self.ticks)
        self.b = Leases("node-b", "boot-2", ticks=self.ticks)

    def left(self) -> list[str]:
        return sorted(each.name for each in self.folder.iterdir())


def never_mounted() -> bool:
    return True


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def test_the_seconds_leave_time_to_let_go() -> None:
    # Silence ends every session after PATIENCE; asked at most 5 s apart, with 3 s for an answer, and looked at at once.
    assert asking.PATIENCE + 5 + 3 < HOLD < BREAK - 30
    assert RENEW * 3 <= WATCHED < HOLD


def test_who_has_it_has_it_alone_and_gives_it_back(pair: Pair) -> None:
    held = pair.a.take(pair.folder, never_mounted)
    assert not pair.a.lost(held)
    with pytest.raises(WaitError, match="node node-a"):
        pair.b.take(pair.folder, never_mounted)
    assert pair.left() == [held.path.name], "who is put off leaves nothing"
    pair.a.give_back(held)
    pair.ticks.now += 2
    pair.b.give_back(pair.b.take(pair.folder, never_mounted))
    assert pair.left() == []


def never_both(root: Path, rounds: int = 60) -> None:
    both, taken, folder = 0, 0, root / "folder"
    folder.mkdir()
    for _ in range(rounds):
        start, had = threading.Barrier(2), []

        def go(node: str, start: threading.Barrier = start, had: list[str] = had) -> None:
            leases = Leases(node, node)
            start.wait()
            try:
                leases.take(folder, never_mounted)
            except BulleError:
                return
            had.append(node)

        threads = [threading.Thread(target=go, args=(node,)) for node in ("node-a", "node-b")]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        both += len(had) == 2
        taken += len(had)
        for each in folder.iterdir():
            each.unlink()
    assert both == 0
    assert taken, "and they do not put each other off always"


def test_of_two_at_once_never_both_have_it(tmp_path: Path) -> None:
    never_both(tmp_path)


def test_negative_control_without_a_second_look_both_have_it(tmp_path: Path) -> None:
    with changed(Leases, "_judge", lambda *_: None), pytest.raises(AssertionError):
        never_both(tmp_path)


def test_a_folder_in_use_elsewhere_is_refused_with_the_node_s_name(pair: Pair) -> None:
    pair.a.take(pair.folder, never_mounted)
    with pytest.raises(WaitError):
        pair.b.take(pair.folder, never_mounted)
    pair.ticks.now += RENEW
    pair.a.touch()
    with pytest.raises(HeldError, match="open on node node-a"):
        pair.b.take(pair.folder, never_mounted)


def a_dead_node_s_is_taken(pair: Pair) -> None:
    held = pair.a.take(pair.folder, never_mounted)
    waited = 0.0
    while True:
        try:
            pair.b.take(pair.folder, never_mounted)
            break
        except WaitError:
            pair.ticks.now += 2
            waited += 2
    assert BREAK < waited < BREAK + 5
    assert pair.a.lost(held), "it had let go long before"
    again = Leases("node-a", "boot-1", ticks=pair.ticks)
    assert not again.alone(pair.folder), "when it is back, it writes nothing"


def test_a_node_that_died_keeps_nobody_out_for_ever(pair: Pair) -> None:
    a_dead_node_s_is_taken(pair)


def test_a_lease_is_old_for_some_time_before_it_is_broken(pair: Pair) -> None:
    pair.a.take(pair.folder, never_mounted)
    pair.ticks.storage += BREAK * 10  # as after a weekend, or when the storage's clock was set
    with pytest.raises(WaitError):
        pair.b.take(pair.folder, never_mounted)
    pair.ticks.now += WATCHED - 1
    with pytest.raises(WaitError):
        pair.b.take(pair.folder, never_mounted)
    pair.ticks.now += 2
    pair.b.take(pair.folder, never_mounted)


def a_set_clock_breaks_nothing(pair: Pair) -> None:
    held = pair.a.take(pair.folder, never_mounted)
    for second in range(100):
        pair.ticks.now += 1
        if second % RENEW == 0:
            pair.ticks.storage -= 600  # whatever the holder writes looks ten minutes old to the others
            pair.a.touch()
            pair.ticks.storage += 600
        with pytest.raises((WaitError, HeldError)):
            pair.b.take(pair.folder, never_mounted)
    assert held.path.exists()


def test_a_clock_that_is_set_breaks_no_lease_that_is_touched(pair: Pair) -> None:
    a_set_clock_breaks_nothing(pair)


def test_negative_control_without_being_watched_it_would_be_broken(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "WATCHED", 0)
    with pytest.raises((pytest.fail.Exception, FileNotFoundError)):
        a_set_clock_breaks_nothing(pair)


def test_where_each_client_writes_its_own_time_a_lease_stands_still_for_all_that_long(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "kind_at", lambda path: "ceph")
    pair.a.take(pair.folder, never_mounted)
    pair.ticks.storage += BREAK * 2
    until = pair.ticks.now + BREAK
    while pair.ticks.now < until:
        with pytest.raises(WaitError):
            pair.b.take(pair.folder, never_mounted)
        pair.ticks.now += 2
    pair.b.take(pair.folder, never_mounted)


def test_a_crash_of_the_machine_makes_nobody_wait(pair: Pair) -> None:
    before = pair.a.take(pair.folder, never_mounted)
    pair.a = Leases("node-a", "boot-9", ticks=pair.ticks)
    pair.a.take(pair.folder, lambda: False)
    assert not before.path.exists()


def test_a_crash_of_the_agent_makes_nobody_wait_where_nothing_is_mounted(pair: Pair) -> None:
    pair.a.take(pair.folder, never_mounted)
    pair.a = Leases("node-a", "boot-1", ticks=pair.ticks)
    with pytest.raises(HeldError, match="still open on this node"):
        pair.a.take(pair.folder, lambda: False)
    pair.a.take(pair.folder, never_mounted)
    assert len(pair.left()) == 1


def test_what_an_earlier_agent_left_is_swept_and_nobody_else_s(pair: Pair) -> None:
    pair.b.give_back(pair.b.take(pair.folder, never_mounted))
    first = pair.a.take(pair.folder, never_mounted)
    pair.a.forget(pair.folder)
    assert pair.left() == [first.path.name], "its own is in use"
    Leases("node-b", "boot-2").forget(pair.folder)
    assert pair.left() == [first.path.name]
    Leases("node-a", "boot-1").forget(pair.folder)
    assert pair.left() == []


def test_a_storage_that_does_not_answer_is_let_go(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    held = pair.a.take(pair.folder, never_mounted)

    def gone(path: Path) -> None:
        raise OSError(5, "Input/output error")

    works = pair.ticks.touch
    monkeypatch.setattr(lease, "_touch", gone)
    pair.ticks.now += HOLD - 1
    pair.a.touch()
    assert not pair.a.lost(held)
    pair.ticks.now += 2
    assert pair.a.lost(held)
    monkeypatch.setattr(lease, "_touch", works)
    pair.a.touch()
    assert pair.a.lost(held), "and stays so: the folder may be another's by now"
    with pytest.raises(UnavailableError):
        pair.a.take(pair.folder / "nowhere", never_mounted)


def test_a_machine_of_its_own_waits_for_its_disk(pair: Pair) -> None:
    machine = Leases("machine", "boot", hold=float("inf"), ticks=pair.ticks)
    held = machine.take(pair.folder, never_mounted)
    pair.ticks.now += 10 * HOLD
    assert not machine.lost(held)


def test_a_lease_that_the_host_of_the_disks_takes_away_is_lost(pair: Pair) -> None:
    held = pair.a.take(pair.folder, never_mounted)
    held.path.unlink()
    pair.a.touch()
    assert pair.a.lost(held)


NAME = "lease-" + "f" * 32


def _link(path: Path) -> None:
    path.symlink_to("/proc/self/environ")


def _huge(path: Path) -> None:
    path.write_bytes(b"[" * 100_000)


def _content(text: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(text) and None


@pytest.mark.parametrize(
    "make",
    [
        _link,
        os.mkfifo,
        Path.mkdir,
        _huge,
        _content(""),
        _content("[]"),
        _content('{"node": 1, "boot": 2}'),
        _content('{"node": "\\u001b[31mnode-a", "boot": "x"}'),
        _content('{"node": "../../etc", "boot": "x"}'),
    ],
    ids=["link", "pipe", "folder", "huge", "empty", "list", "numbers", "escape", "path"],
)
def test_what_the_host_of_the_disks_forges_puts_off_and_does_nothing_else(
    pair: Pair, make: Callable[[Path], None]
) -> None:
    make(pair.folder / NAME)
    with pytest.raises(WaitError, match="open on another node") as raised:
        pair.a.take(pair.folder, never_mounted)
    assert re.fullmatch(r"[ -~]*", raised.value.message)
    assert pair.left() == [NAME]


def test_another_file_is_no_lease(pair: Pair) -> None:
    for name in ("lease", "lease-1", "disk.img", NAME + ".new", "x" + NAME):
        (pair.folder / name).write_text("")
    pair.a.take(pair.folder, never_mounted)


# -- with real folders: two agents over the same disks ----------------------------------------------------------
class Agents:
    """Two nodes whose mounts are apart, on one storage."""

    def __init__(self, root: Path) -> None:
        FileCustodian.create(root / "kek")
        self.ticks, self.disks, self.root = Clock(), root / "disks", root
        self.ring = KeyRing(root / "ring", FileCustodian(root / "kek"))
        self.disks.mkdir()
        self.a, self.b = self.agent("a"), self.agent("b")
        self.image = self.disks / folder_name(KEY) / "disk.img"

    def agent(self, name: str) -> Folders:
        layout = Layout(self.root / name)
        layout.folders = self.disks
        for each in ("cipher", "plain"):
            (layout.mounts / each).mkdir(parents=True, exist_ok=True)
        return Folders(layout, self.ring, Leases(f"node-{name}", f"boot-{name}", ticks=self.ticks))

    def digest(self) -> str:
        os.sync()
        return hashlib.sha256(self.image.read_bytes()).hexdigest()

    def power_off_a(self) -> None:
        """The kernel of node a is no more: nothing of it is mounted, nothing is touched any more."""
        opened = self.a._open._entries[KEY].thing
        assert opened is not None
        opened.mount._process.kill()
        opened.mount._process.wait()
        mounts.unmount(opened.plain)
        mounts.unmount(opened.cipher)


def moves_to_the_next_node(root: Path) -> None:
    both = Agents(root)
    (both.a.open(KEY, 16) / "note").write_text("mine")
    try:
        both.b.open(KEY, 16)
    except WaitError as error:
        assert "node-a" in error.message
    else:
        raise AssertionError("two nodes have it open")
    both.power_off_a()
    both.ticks.now += BREAK - 10
    try:
        both.b.open(KEY, 16)
    except WaitError:
        both.ticks.now += WATCHED
    assert (both.b.open(KEY, 16) / "note").read_text() == "mine"
    assert both.a.lost(KEY) and not both.b.lost(KEY)
    (root / "b/mounts/plain" / folder_name(KEY) / "note").write_text("ours")
    both.b.close(KEY)
    assert not list(both.image.parent.glob("lease-*")), "the next one need not wait"
    assert (both.agent("c").open(KEY, 16) / "note").read_text() == "ours"


def test_when_a_node_dies_the_next_one_opens_the_folder(tmp_path: Path) -> None:
    apart(lambda: moves_to_the_next_node(tmp_path))


def only_one_mount(root: Path) -> None:
    both = Agents(root)
    both.a.open(KEY, 16)
    for each in both.image.parent.glob("lease-*"):
        each.unlink()  # the host of the disks, or a storage that forgets names
    try:
        with changed(mounts, "_LOCK_SECONDS", 0.1):
            both.b.open(KEY, 16)
    except NodeError as error:
        assert "was not mounted" in error.message
    else:
        raise AssertionError("one image is mounted twice")
    assert not mounts.is_free(both.image)
    both.a.close(KEY)
    assert mounts.is_free(both.image)


def test_where_leases_are_taken_away_the_kernel_still_mounts_no_image_twice(tmp_path: Path) -> None:
    apart(lambda: only_one_mount(tmp_path))


def test_negative_control_without_the_lock_one_image_is_mounted_twice(tmp_path: Path) -> None:
    with changed(mounts, "_lock", lambda file: None), pytest.raises(AssertionError, match="mounted twice"):
        apart(lambda: only_one_mount(tmp_path))


def writes_nothing_late(root: Path, back: Callable[[Agents], None]) -> None:
    both = Agents(root)
    plain = both.a.open(KEY, 16)
    (plain / "note").write_text("mine")
    for each in both.image.parent.glob("lease-*"):
        each.unlink()
    both.a.leases.touch()
    assert both.a.lost(KEY)
    (plain / "late").write_bytes(os.urandom(300_000))
    os.sync()
    before = both.digest()
    (plain / "later").write_bytes(os.urandom(300_000))
    back(both)
    assert not mounts.mounts_below(both.root)
    assert both.digest() == before, "what is another's by now was written to"


def it_lets_go(both: Agents) -> None:
    both.a.close(KEY)


def it_begins_anew(both: Agents) -> None:
    opened = both.a._open._entries[KEY].thing
    assert opened is not None
    opened.mount._process.kill()
    opened.mount._process.wait()
    mounts.unmount(opened.plain)
    both.agent("a").tidy()


@pytest.mark.parametrize("back", [it_lets_go, it_begins_anew])
def test_a_node_that_was_counted_as_gone_writes_nothing_when_it_is_back(
    tmp_path: Path, back: Callable[[Agents], None]
) -> None:
    apart(lambda: writes_nothing_late(tmp_path, back))


@pytest.mark.parametrize("back", [it_lets_go, it_begins_anew])
def test_negative_control_unmounted_in_order_it_writes(tmp_path: Path, back: Callable[[Agents], None]) -> None:
    with changed(mounts, "cut", lambda target: None), pytest.raises(AssertionError, match="was written to"):
        apart(lambda: writes_nothing_late(tmp_path, back))


def an_agent_after_a_crash(root: Path) -> None:
    both = Agents(root)
    (both.a.open(KEY, 16) / "note").write_text("mine")
    opened = both.a._open._entries[KEY].thing
    assert opened is not None
    opened.mount._process.kill()  # with the agent's container
    opened.mount._process.wait()
    mounts.unmount(opened.plain)
    again = both.agent("a")
    again.leases = Leases("node-a", "boot-a")
    again.tidy()
    assert (again.open(KEY, 16) / "note").read_text() == "mine", "at once, and whole"


def test_after_a_crash_of_the_agent_nobody_waits_and_nothing_is_lost(tmp_path: Path) -> None:
    apart(lambda: an_agent_after_a_crash(tmp_path))

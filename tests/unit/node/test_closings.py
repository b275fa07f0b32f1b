"""What is left of a closed project: put away read-only, then destroyed for good, and nothing else is touched."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator.config import Layout
from orchestrator.errors import AuditError, BulleError, CustodyError, NodeError, NotFoundError, RefusedError
from orchestrator.governance.cards import ClosingDone, ClosingDue, ClosingReceipt
from orchestrator.keys import FileCustodian, KeyRing
from orchestrator.machine.doctor import Level, check_destroyed
from orchestrator.node import closings as room
from orchestrator.node.closings import Closer, key_ids, returned
from orchestrator.node.folders import Folders, archive_of, folder_name, home_key, project_key
from orchestrator.node.journal import Journal
from orchestrator.node.lease import Leases
from orchestrator.node.volumes import Kind
from orchestrator.terms import Event, Grant
from tests.unit.node.apart import apart
from tests.unit.node.test_mounts import a_place, changed, shown
from tests.unit.workspaces.test_spec import SETTINGS, a_grant

MINE, OTHER = "1" * 32, "2" * 32
PERSONS = ("ann", "bob", "cleo")
DUE = ClosingDue(project_id=MINE, project="heart", action="destroy", persons=PERSONS)
ARCHIVE = DUE.model_copy(update={"action": "archive"})


class Killed(BaseException):
    """The agent dies here."""


class Desk:
    """An authority with closings due; ``closed`` takes the project from the list."""

    def __init__(self, *due: ClosingDue) -> None:
        self.due = list(due)
        self.told: list[ClosingDone] = []
        self.events: list[tuple[str, str]] = []
        self.details: list[dict[str, Any]] = []
        self.refuses = ""

    def record(self, event: Event) -> int:
        if event.kind == self.refuses:
            raise AuditError("the log is full")
        self.events.append((event.kind, event.outcome.value))
        self.details.append({"project": event.project, **event.detail})
        return len(self.events)

    def closings(self) -> list[ClosingDue]:
        return list(self.due)

    def closed(self, project_id: str, done: ClosingDone) -> ClosingReceipt:
        self.told.append(done)
        self.due = [each for each in self.due if each.project_id != project_id]
        return ClosingReceipt(certificate="signed" if done.done == "destroyed" else None)


class Bench:
    """Two projects on a disk: a project folder and the homes of ann and bob each; cleo never opened a workspace."""

    def __init__(self, root: Path, *due: ClosingDue) -> None:
        self.layout = Layout(root)
        self.layout.folders.mkdir(parents=True)
        if not (root / "kek").exists():
            FileCustodian.create(root / "kek")
        self.ring = KeyRing(self.layout.keyring, FileCustodian(root / "kek"))
        self.desk = Desk(*due)
        self.running: list[Grant] = []
        self.shown: set[str] = set()
        self.emptied: list[tuple[str, list[str]]] = []
        for project in (MINE, OTHER):
            self.ring.create(f"project/{project}/pseudonyms")
            for key_id in (project_key(project), home_key(project, "ann"), home_key(project, "bob")):
                self.ring.create(key_id)
                image = self.layout.folders / folder_name(key_id) / "disk.img"
                image.parent.mkdir()
                image.write_bytes(key_id.encode() * 100)

    def closer(self, node: str = "node-a") -> Closer:
        """As after a start of the agent of a node."""
        self.folders = Folders(self.layout, self.ring, Leases(node, f"boot-{node}"))
        return Closer(
            desk=self.desk,
            journal=Journal(self.desk),  # type: ignore[arg-type]
            keys=self.ring,
            folders=self.folders,
            place=self.layout.folders,
            sessions=SimpleNamespace(grants=lambda *_: self.running),  # type: ignore[arg-type]
            volumes=SimpleNamespace(projects=lambda: self.shown),  # type: ignore[arg-type]
            emptied=lambda project, persons: self.emptied.append((project, persons)),
        )

    def keys(self, project: str) -> list[str]:
        due = DUE.model_copy(update={"project_id": project})
        return [key_id for key_id in key_ids(due) if self.ring.exists(key_id)]

    def images(self, project: str) -> list[Path]:
        """Of a project's folders, wherever they lie."""
        due = DUE.model_copy(update={"project_id": project})
        names = [folder_name(key_id) for key_id in key_ids(due)]
        places = (self.layout.folders, archive_of(self.layout.folders, project))
        return [place / name / "disk.img" for place in places for name in names if (place / name).exists()]

    def untouched(self) -> None:
        assert len(self.keys(OTHER)) == 4 and len(self.images(OTHER)) == 3, "another project was touched"
        assert all(self.layout.folders == image.parents[1] for image in self.images(OTHER))
        assert all(image.read_bytes().startswith((b"home/2", b"project/2")) for image in self.images(OTHER))


@pytest.fixture
def benches(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(*due: ClosingDue) -> Bench:
        made.append(Bench(tmp_path / f"state{len(made)}", *due))
        return made[-1]

    yield make
    for bench in made:
        for image in bench.layout.folders.rglob("disk.img"):
            room._immutable(image, wanted=False)


# -- several agents -------------------------------------------------------------------------------------------
def one_acts(bench: Bench) -> None:
    """Two agents at the same time, of which the first is held up in the middle."""
    other, acted = bench.closer("node-b"), []

    def meanwhile(kind: str) -> None:
        if kind == "folder.archive" and not acted:
            acted.append(kind)
            other.round()

    record = bench.desk.record

    def record_and_look(event: Event) -> int:
        meanwhile(event.kind)
        return record(event)

    bench.desk.record = record_and_look  # type: ignore[method-assign]
    bench.closer("node-a").round()
    assert acted and bench.desk.told == [ClosingDone(done="archived")]
    assert [event for event in bench.desk.events if event[1] == "started"] == [("folder.archive", "started")]


def test_of_several_agents_exactly_one_puts_a_project_away(benches: Callable[..., Bench]) -> None:
    bench = benches(ARCHIVE)
    one_acts(bench)
    assert not list(bench.layout.folders.rglob("lease-*"))


def test_negative_control_without_a_lease_both_do(benches: Callable[..., Bench]) -> None:
    with changed(Leases, "_judge", lambda *_: None), pytest.raises(AssertionError):
        one_acts(benches(ARCHIVE))


def waits_for_the_other_node(bench: Bench) -> None:
    disk = bench.layout.folders / folder_name(home_key(MINE, "bob"))
    elsewhere = Leases("node-b", "boot-b")
    held = elsewhere.take(disk, lambda: True)
    closer = bench.closer("node-a")
    closer.round()
    assert bench.desk.told == [] and disk.is_dir() and len(bench.keys(MINE)) == 4
    # Nobody else opens any: what is in use now is the last of it.
    with pytest.raises(RefusedError):
        bench.folders.refuse_closed(MINE)
    elsewhere.give_back(held)
    bench.folders.leases._waiting.clear()
    closer.round()
    assert len(bench.desk.told) == 1


@pytest.mark.parametrize("due", [ARCHIVE, DUE], ids=["archive", "destroy"])
def test_a_folder_that_is_open_on_another_node_is_waited_for(benches: Callable[..., Bench], due: ClosingDue) -> None:
    waits_for_the_other_node(benches(due))


def test_negative_control_without_looking_it_is_destroyed_under_the_other_node_s_hands(
    benches: Callable[..., Bench],
) -> None:
    with changed(Folders, "refuse_open_elsewhere", lambda self, ids: None), pytest.raises(AssertionError):
        waits_for_the_other_node(benches(DUE))


def test_a_folder_opened_at_the_moment_of_the_closing_is_given_back(benches: Callable[..., Bench]) -> None:
    bench = benches(ARCHIVE)
    bench.closer("node-a")
    take = Leases.take

    def closed_meanwhile(leases: Leases, folder: Path, ours: Callable[[], bool]) -> Any:
        taken = take(leases, folder, ours)
        archive_of(bench.layout.folders, MINE).mkdir(parents=True)
        return taken

    with changed(Leases, "take", closed_meanwhile), pytest.raises(RefusedError, match="project-closed"):
        bench.folders.open(home_key(MINE, "ann"), 16)
    assert not list(bench.layout.folders.rglob("lease-*")) and bench.folders.in_use() == []


# -- archive --------------------------------------------------------------------------------------------------
def put_away(bench: Bench) -> None:
    bench.closer().round()
    images = bench.images(MINE)
    assert len(images) == 3 and all(archive_of(bench.layout.folders, MINE) in image.parents for image in images)
    assert all(stat.S_IMODE(image.stat().st_mode) == 0o400 for image in images)
    assert all(image.read_bytes().startswith((b"home/1", b"project/1")) for image in images)
    assert len(bench.keys(MINE)) == 4, "archived, not destroyed"
    assert bench.desk.told == [ClosingDone(done="archived")]
    assert [kind for kind, _ in bench.desk.events] == ["folder.archive"] * 2
    bench.untouched()


def test_a_closed_projects_folders_are_put_away_read_only(benches: Callable[..., Bench]) -> None:
    put_away(benches(ARCHIVE))


def test_not_even_root_writes_an_archived_folder_where_the_file_system_can_say_so(
    benches: Callable[..., Bench],
) -> None:
    bench = benches(ARCHIVE)
    put_away(bench)
    image = bench.images(MINE)[0]
    immutable = False
    try:
        image.write_bytes(b"planted")
    except PermissionError:
        immutable = True
    if not immutable:
        pytest.skip("the file system of the tests has no immutable files")
    room._immutable(image, wanted=False)
    image.write_bytes(b"planted")  # negative control: it was the flag


def test_a_project_without_any_folder_is_archived_as_well(benches: Callable[..., Bench]) -> None:
    bench = benches(ARCHIVE.model_copy(update={"project_id": "3" * 32}))
    bench.closer().round()
    assert bench.desk.told == [ClosingDone(done="archived")]


def test_nothing_is_done_for_what_is_not_due(benches: Callable[..., Bench]) -> None:
    bench = benches()
    bench.closer().round()
    assert bench.desk.events == [] and not (bench.layout.folders / "archive").exists()
    assert len(bench.keys(MINE)) == 4


# -- destroy --------------------------------------------------------------------------------------------------
def destroyed(bench: Bench) -> None:
    assert bench.keys(MINE) == [] and bench.images(MINE) == []
    (told,) = bench.desk.told
    assert told.done == "destroyed"
    held = [project_key(MINE), f"project/{MINE}/pseudonyms", home_key(MINE, "ann"), home_key(MINE, "bob")]
    assert told.keys == tuple(sorted(held)), "what there was, and no home that never was"
    assert told.folders == tuple(sorted(folder_name(key_id) for key_id in held if "pseudonyms" not in key_id))
    assert bench.emptied[-1] == (MINE, list(PERSONS))
    bench.untouched()


def test_keys_and_ciphertext_are_destroyed_and_audited_before(benches: Callable[..., Bench]) -> None:
    bench = benches(DUE)
    bench.closer().round()
    destroyed(bench)
    kinds = [("key.destroy", "started"), ("key.destroy", "done"), ("folder.destroy", "started")]
    assert bench.desk.events == [*kinds, ("folder.destroy", "done")]
    assert {detail["project"] for detail in bench.desk.details} == {"heart"}
    assert home_key(MINE, "ann") in bench.desk.details[0]["keys"]


def test_what_was_archived_is_destroyed_when_its_day_comes(benches: Callable[..., Bench]) -> None:
    bench = benches(ARCHIVE)
    put_away(bench)
    bench.desk.due, bench.desk.told = [DUE], []
    bench.closer().round()
    destroyed(bench)


@pytest.mark.parametrize("kind", ["key.destroy", "folder.destroy", "folder.archive"])
def test_what_cannot_be_audited_is_not_done(benches: Callable[..., Bench], kind: str) -> None:
    bench = benches(ARCHIVE if kind == "folder.archive" else DUE)
    bench.desk.refuses = kind
    bench.closer().round()
    assert bench.desk.told == []
    assert len(bench.images(MINE)) == 3 and all(image.parents[1].name != MINE for image in bench.images(MINE))
    if kind != "folder.destroy":
        assert len(bench.keys(MINE)) == 4
    bench.desk.refuses = ""
    bench.closer().round()
    assert len(bench.desk.told) == 1


STEPS: list[tuple[Any, str]] = [
    (Desk, "record"),
    (Desk, "closed"),
    (KeyRing, "destroy"),
    (room.Archive, "begin"),
    (room.Archive, "keep"),
    (room.Archive, "put_away"),
    (room.Archive, "remove"),
    (room, "sync_folder"),
    (room, "_seal"),
    (room, "_immutable"),
    (Path, "rename"),
    (Path, "unlink"),
    (Path, "rmdir"),
]


@contextmanager
def killed_at(moment: int) -> Iterator[list[int]]:
    """The agent dies before the ``moment``-th of all its steps."""
    count = [0]

    def counted(step: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            count[0] += 1
            if count[0] == moment:
                raise Killed
            return step(*arguments, **named)

        return call

    before = [(where, name, getattr(where, name)) for where, name in STEPS]
    for where, name, step in before:
        setattr(where, name, counted(step))
    try:
        yield count
    finally:
        for where, name, step in before:
            setattr(where, name, step)


@pytest.mark.parametrize("due", [ARCHIVE, DUE], ids=["archive", "destroy"])
def test_an_agent_killed_at_any_moment_goes_on_where_it_was(benches: Callable[..., Bench], due: ClosingDue) -> None:
    whole = benches(due)
    with killed_at(0) as count:
        whole.closer().round()
    assert count[0] > 10
    for moment in range(1, count[0] + 1):
        bench = benches(due)
        with killed_at(moment), suppress(Killed):
            bench.closer().round()
        bench.closer().round()
        if due is DUE:
            destroyed(bench)
        else:
            assert bench.desk.told == [ClosingDone(done="archived")]
            assert all(stat.S_IMODE(image.stat().st_mode) == 0o400 for image in bench.images(MINE))
            assert len(bench.images(MINE)) == 3 and len(bench.keys(MINE)) == 4


def test_negative_control_without_a_plan_the_certificate_forgets_what_went_before_a_crash(
    benches: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room.Archive, "keep", lambda *_: None)
    with pytest.raises(AssertionError, match="what there was"):
        test_an_agent_killed_at_any_moment_goes_on_where_it_was(benches, DUE)


# -- in use ---------------------------------------------------------------------------------------------------
def in_a_session(bench: Bench) -> None:
    bench.running = [a_grant()]


def in_a_volume(bench: Bench) -> None:
    bench.shown = {MINE}


def waits_while_in_use(bench: Bench, use: Callable[[Bench], None]) -> None:
    use(bench)
    bench.closer().round()
    assert len(bench.keys(MINE)) == 4 and len(bench.images(MINE)) == 3, "destroyed under somebody's hands"
    assert bench.desk.told == []
    bench.running, bench.shown = [], set()
    bench.closer().round()
    destroyed(bench)


@pytest.mark.parametrize("use", [in_a_session, in_a_volume])
def test_nothing_is_destroyed_while_a_workspace_is_up(
    benches: Callable[..., Bench], use: Callable[[Bench], None]
) -> None:
    waits_while_in_use(benches(DUE), use)


@pytest.mark.parametrize("use", [in_a_session, in_a_volume])
def test_negative_control_without_looking_it_is_destroyed_under_somebodys_hands(
    benches: Callable[..., Bench], use: Callable[[Bench], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Closer, "_in_use", lambda *_: False)
    with pytest.raises(AssertionError, match="somebody's hands"):
        waits_while_in_use(benches(DUE), use)


def a_late_grant_opens_nothing(bench: Bench) -> None:
    bench.closer().round()
    for key_id in (project_key(MINE), home_key(MINE, "ann")):
        with suppress(RefusedError):
            bench.folders.open(key_id, 4)
    assert bench.keys(MINE) == [], "a new key over what was destroyed"


def test_a_grant_from_just_before_the_closing_makes_no_new_key(benches: Callable[..., Bench]) -> None:
    a_late_grant_opens_nothing(benches(DUE))


class ReachedError(Exception):
    """The key was made."""


def test_negative_control_without_the_refusal_a_late_grant_makes_a_new_key(
    benches: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Folders, "refuse_closed", lambda *_: None)
    monkeypatch.setattr(Folders, "_create", lambda *_: (_ for _ in ()).throw(RefusedError("made")))
    monkeypatch.setattr(Folders, "_clear", lambda *_: None)
    with pytest.raises(AssertionError, match="a new key"):
        a_late_grant_opens_nothing(benches(DUE))


def test_no_volume_of_a_closed_project_is_published(tmp_path: Path) -> None:
    def body() -> None:
        place = a_place(tmp_path)
        grant = a_grant()
        archive_of(tmp_path / "plain", grant.project_id).mkdir(parents=True)
        for kind in Kind:
            with pytest.raises(RefusedError, match="project-closed"):
                shown(place, tmp_path, kind, grant)
        assert place.published() == [] and place.projects() == set()

    apart(body)


# -- paths ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("project_id", ["..", "../" + "1" * 29, "", "1" * 31, "1" * 32 + "\n", "A" * 32])
def test_a_project_that_is_a_path_is_refused(benches: Callable[..., Bench], project_id: str) -> None:
    with pytest.raises(ValidationError):
        ClosingDue(project_id=project_id, project="heart", action="destroy")
    bench = benches(ClosingDue.model_construct(project_id=project_id, project="heart", action="destroy", persons=()))
    bench.closer().round()  # the same where the model would let it through
    assert len(bench.keys(MINE)) == 4 and bench.desk.told == []
    bench.untouched()


@pytest.mark.parametrize("person", ["../../etc", "a/b", "\0", "x" * 500])
def test_a_person_is_never_part_of_a_path(benches: Callable[..., Bench], person: str) -> None:
    bench = benches(DUE.model_copy(update={"persons": (*PERSONS, person)}))
    bench.closer().round()
    destroyed_names = bench.desk.told[0].folders
    assert all(len(name) == 64 for name in destroyed_names)
    bench.untouched()


def linked(path: Path, elsewhere: Path) -> None:
    elsewhere.mkdir()
    (elsewhere / "disk.img").write_text("something else of root's")
    if path.exists():
        shutil.rmtree(path)
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(elsewhere)


@pytest.mark.parametrize("where", ["archive", f"archive/{MINE}", folder_name(project_key(MINE))])
def test_a_link_that_the_host_of_the_disks_put_there_is_not_followed(
    benches: Callable[..., Bench], tmp_path: Path, where: str
) -> None:
    bench = benches(DUE)
    linked(bench.layout.folders / where, tmp_path / "elsewhere")
    bench.closer().round()
    assert (tmp_path / "elsewhere" / "disk.img").exists() and bench.desk.told == []
    bench.untouched()


def test_a_folder_in_the_archive_that_is_nobodys_is_not_certified_away(benches: Callable[..., Bench]) -> None:
    bench = benches(ARCHIVE)
    put_away(bench)
    bench.desk.due, bench.desk.told = [DUE.model_copy(update={"persons": ("ann",)})], []
    bench.closer().round()
    assert bench.desk.told == [] and len(bench.keys(MINE)) == 4, "bob's home has a key that nobody named"


def test_one_project_that_cannot_be_closed_does_not_hold_up_the_next(benches: Callable[..., Bench]) -> None:
    bench = benches(DUE, DUE.model_copy(update={"project_id": OTHER, "project": "lung"}))
    bench.running = [a_grant()]
    bench.closer().round()
    assert len(bench.keys(MINE)) == 4 and bench.keys(OTHER) == []


# -- the proof ------------------------------------------------------------------------------------------------
SECRET = b"what a researcher wrote about a patient"


def opened(root: Path, ring: KeyRing, key_id: str, ciphertext: Path) -> bytes:
    """What somebody reads who has the ciphertext and the whole key ring, and the custodian's key."""
    layout = Layout(root)
    shutil.copytree(ciphertext, layout.folders / folder_name(key_id))
    folders = Folders(layout, ring)
    plain = folders.open(key_id, 16)
    try:
        return (plain / "notes.txt").read_bytes()
    finally:
        folders.close(key_id)


def after_destruction_nobody_opens_it(root: Path) -> None:
    layout = Layout(root / "state")
    layout.folders.mkdir(parents=True)
    FileCustodian.create(root / "kek")
    ring = KeyRing(layout.keyring, FileCustodian(root / "kek"))
    key_id = home_key(MINE, "ann")
    folders = Folders(layout, ring)
    (folders.open(key_id, 16) / "notes.txt").write_bytes(SECRET)
    folders.close(key_id)
    ciphertext = root / "kept-aside"
    shutil.copytree(layout.folders / folder_name(key_id), ciphertext)
    assert SECRET not in (ciphertext / "disk.img").read_bytes()
    # Negative control: while the key is there, what was kept aside opens.
    assert opened(root / "before", ring, key_id, ciphertext) == SECRET
    wrapped = root / "the-wrapped-key"
    os.link(next(layout.keyring.glob("*.key")), wrapped)
    held = wrapped.read_bytes()
    desk = Desk(DUE)
    Closer(
        desk=desk,
        journal=Journal(desk),  # type: ignore[arg-type]
        keys=ring,
        folders=folders,
        place=layout.folders,
        sessions=SimpleNamespace(grants=lambda *_: []),  # type: ignore[arg-type]
        volumes=SimpleNamespace(projects=set),  # type: ignore[arg-type]
    ).round()
    assert [done.keys for done in desk.told] == [(key_id,)]
    try:
        opened(root / "after", ring, key_id, ciphertext)
    except CustodyError as error:
        assert "is missing" in error.message
    else:
        raise AssertionError("what was kept aside was opened")
    # The bytes of the wrapped key are gone from the disk, not its name alone.
    assert wrapped.read_bytes() != held and len(wrapped.read_bytes()) == len(held)
    try:
        FileCustodian(root / "kek").unwrap(wrapped.read_bytes(), key_id)
    except CustodyError:
        return
    raise AssertionError("the wrapped key was opened")


def test_what_was_kept_aside_cannot_be_opened_after_the_keys_are_destroyed(tmp_path: Path) -> None:
    apart(lambda: after_destruction_nobody_opens_it(tmp_path))


@pytest.mark.parametrize(
    ("instead", "said"),
    [(lambda self, key_id: None, "."), (lambda self, key_id: self._path(key_id).unlink(missing_ok=True), ".")],
    ids=["nothing", "the name alone"],
)
def test_negative_control_a_key_that_is_not_destroyed_is_seen(tmp_path: Path, instead: Any, said: str) -> None:
    with changed(KeyRing, "destroy", instead), pytest.raises(AssertionError, match=said):
        apart(lambda: after_destruction_nobody_opens_it(tmp_path))


def test_a_backup_of_the_key_ring_still_opens_it_which_the_documentation_says(tmp_path: Path) -> None:
    FileCustodian.create(tmp_path / "kek")
    ring = KeyRing(tmp_path / "ring", FileCustodian(tmp_path / "kek"))
    key = ring.create("home/x/ann")
    shutil.copytree(tmp_path / "ring", tmp_path / "backup")
    ring.destroy("home/x/ann")
    with pytest.raises(NotFoundError):
        ring.get("home/x/ann")
    assert KeyRing(tmp_path / "backup", FileCustodian(tmp_path / "kek")).get("home/x/ann") == key


def test_the_doctor_finds_a_destroyed_key_that_a_restore_brought_back(benches: Callable[..., Bench]) -> None:
    bench = benches(DUE)
    settings = SETTINGS.model_copy(update={"state": bench.layout.state})
    assert check_destroyed(settings).level is Level.FINE
    shutil.copytree(bench.layout.keyring, bench.layout.state / "backup")
    bench.closer().round()
    assert check_destroyed(settings).level is Level.FINE
    shutil.copytree(bench.layout.state / "backup", bench.layout.keyring, dirs_exist_ok=True)
    found = check_destroyed(settings)
    assert found.level is Level.FAULT and found.message.startswith("4 keys"), "and none of the other project"
    assert returned(bench.layout.folders, bench.layout.keyring)[0].name in found.message


def test_errors_of_the_disk_are_errors_of_the_node(benches: Callable[..., Bench]) -> None:
    bench = benches(DUE)
    with changed(room, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))):
        bench.closer().round()
    assert len(bench.keys(MINE)) == 4 and bench.desk.told == []
    with pytest.raises(BulleError, match="not a project's id"):
        archive_of(bench.layout.folders, "..")
    assert issubclass(NodeError, BulleError)

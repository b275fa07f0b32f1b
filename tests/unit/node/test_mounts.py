"""What shows in a workspace, with real mounts in a mount namespace of the test's own; root, like the agent."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import Limits, Settings
from orchestrator.errors import BulleError, CustodyError, NodeError
from orchestrator.keys import FileCustodian, KeyRing
from orchestrator.machine import mountpoint
from orchestrator.node import folders as folders_room
from orchestrator.node import mounts, session_files, views, volumes
from orchestrator.node.folders import Folders, home_key
from orchestrator.node.journal import Journal
from orchestrator.node.ports import Progress
from orchestrator.node.views import Views
from orchestrator.node.volumes import Kind, Volumes
from orchestrator.terms import ColumnPermit, Event, Grant, RowCondition, SessionClaim, SessionVerdict, TablePermit
from orchestrator.workspaces.spec import WorkspacePaths
from tests.unit.node.apart import apart
from tests.unit.node.test_border import environment
from tests.unit.workspaces.test_spec import SETTINGS, a_grant


@contextmanager
def changed(where: Any, name: str, value: Any) -> Iterator[None]:
    """Put ``value`` in a place. Also for bodies that run in a process of their own, where nothing is put back."""
    before = getattr(where, name)
    setattr(where, name, value)
    try:
        yield
    finally:
        setattr(where, name, before)


class Told:
    """An authority that writes down kinds, and calls ``at`` for each."""

    def __init__(self, at: Callable[[str], None] = lambda kind: None) -> None:
        self.kinds: list[str] = []
        self.at = at

    def record(self, event: Event) -> int:
        self.at(event.kind)
        self.kinds.append(event.kind)
        return len(self.kinds)

    def check_sessions(self, claims: Iterable[SessionClaim]) -> list[SessionVerdict]:
        raise NotImplementedError


class Builder:
    """Writes one small file, which says whose view it is."""

    def required_keys(self, grant: Grant) -> list[str]:
        return ["k"]

    def build(self, grant: Grant, released: Collection[str], target: Path, progress: Progress) -> None:
        (target / "people.parquet").write_text(grant.project_id + grant.permit.model_dump_json())


class Plain(Folders):
    """Folders without encryption: which folder somebody gets is asked here, not what lies on the disk."""

    def __init__(self, place: Path) -> None:
        self.place = self._disks = place
        self._held = {}

    def open(self, key_id: str, limit_mb: int) -> Path:
        folder = self.place / key_id
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def close(self, key_id: str) -> None: ...


def a_place(root: Path, authority: Told | None = None) -> Volumes:
    (root / "ws").mkdir(parents=True)
    builder = Builder()
    return Volumes(
        allowed=root / "ws",
        limits=Limits(),
        views=Views(root, builder, size="1m"),
        folders=Plain(root / "plain"),
        builder=builder,
        journal=Journal(authority or Told()),
    )


def shown(place: Volumes, root: Path, kind: Kind, grant: Grant) -> Path:
    target = root / "ws" / grant.session / kind.value
    target.parent.mkdir(exist_ok=True)
    place.publish(kind, grant, str(target))
    return target


def refused_to_write(folder: Path) -> bool:
    try:
        (folder / "planted").write_text("x")
    except OSError as error:
        assert error.errno == errno.EROFS, error
        return True
    return False


# -- M1: a view is read-only, wherever it shows -------------------------------------------------------------
def nobody_writes_into_a_view(root: Path, look_before: bool = True) -> None:
    def see(kind: str) -> None:
        if kind == "volume.mount":  # it is finished, and shows nowhere yet
            (view,) = (root / "views").iterdir()
            assert refused_to_write(view)

    place = a_place(root, Told(see if look_before else lambda kind: None))
    # As the engine shows it to a container: bound read-only before anything was mounted, mounts come in later.
    sandbox = root / "sandbox"
    sandbox.mkdir()
    (root / "ws" / ("a" * 32)).mkdir()
    subprocess.run(["mount", "--bind", str(root / "ws"), str(root / "ws")], check=True)
    subprocess.run(["mount", "--make-shared", str(root / "ws")], check=True)
    subprocess.run(["mount", "--bind", str(root / "ws"), str(sandbox)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(sandbox)], check=True)
    subprocess.run(["mount", "--make-slave", str(sandbox)], check=True)
    target = shown(place, root, Kind.VIEW, a_grant("a" * 32))
    inside = sandbox / ("a" * 32) / "view"
    assert (inside / "people.parquet").exists(), "it came in"
    for each in (inside, target, *(root / "views").iterdir()):
        assert refused_to_write(each), each


def test_nobody_writes_into_a_view_wherever_it_shows(tmp_path: Path) -> None:
    apart(lambda: nobody_writes_into_a_view(tmp_path))


@pytest.mark.parametrize("look_before", [True, False])
def test_negative_control_without_its_own_read_only_a_view_is_written_to(tmp_path: Path, look_before: bool) -> None:
    """Also from inside, through a mount that is read-only itself: what propagates into it is not."""
    where = "refused_to_write\\(view\\)" if look_before else r"AssertionError: .*/sandbox/"
    with changed(mounts, "make_read_only", lambda target: None), pytest.raises(AssertionError, match=where):
        apart(lambda: nobody_writes_into_a_view(tmp_path, look_before))


# -- M2: not in swap ----------------------------------------------------------------------------------------
def nothing_can_be_swapped(root: Path) -> None:
    place = a_place(root)
    shown(place, root, Kind.VIEW, a_grant("a" * 32))
    paths = WorkspacePaths.of(root, "b" * 32)
    session_files.prepare(paths, a_grant("b" * 32), SETTINGS, environment())
    found = mounts.mounts_below(root)
    in_memory = [each for each in found if each.kind in ("tmpfs", "ramfs")]
    assert {each.path for each in in_memory} >= {paths.run, *(root / "views").iterdir()}
    for each in found:
        assert each.kind == "ramfs" or (each.kind == "tmpfs" and "noswap" in each.options), each


def test_views_and_session_files_are_never_swapped(tmp_path: Path) -> None:
    apart(lambda: nothing_can_be_swapped(tmp_path))


real_mount = mounts._mount


def swapping_mount(source: str, target: Path, kind: str, flags: int, data: str = "") -> None:
    real_mount(source, target, kind, flags, ",".join(word for word in data.split(",") if word != "noswap"))


def test_negative_control_without_noswap_they_could_be(tmp_path: Path) -> None:
    with changed(mounts, "_mount", swapping_mount), pytest.raises(AssertionError, match="tmpfs"):
        apart(lambda: nothing_can_be_swapped(tmp_path))


def test_a_kernel_without_noswap_gives_ramfs(tmp_path: Path) -> None:
    def older(source: str, target: Path, kind: str, flags: int, data: str = "") -> None:
        if "noswap" in data:
            raise OSError(errno.EINVAL, "unknown option")
        real_mount(source, target, kind, flags, data)

    def body() -> None:
        nothing_can_be_swapped(tmp_path)
        assert {each.kind for each in mounts.mounts_below(tmp_path)} == {"ramfs"}

    with changed(mounts, "_mount", older):
        apart(body)


# -- M4: whose folder ---------------------------------------------------------------------------------------
def everybody_has_their_own(root: Path) -> None:
    place = a_place(root)
    heart, lung = "1" * 32, "2" * 32
    who = [("ann", heart), ("bob", heart), ("ann", lung)]
    homes, projects = {}, {}
    for n, (person, project) in enumerate(who):
        grant = a_grant(f"{n}" * 32).model_copy(update={"person": person, "project_id": project})
        homes[person, project] = shown(place, root, Kind.HOME, grant)
        projects[person, project] = shown(place, root, Kind.PROJECT, grant)
    (homes["ann", heart] / "mine").touch()
    (projects["ann", heart] / "ours").touch()
    assert [[path.name for path in homes[each].iterdir()] for each in who] == [["mine"], [], []]
    assert [[path.name for path in projects[each].iterdir()] for each in who] == [["ours"], ["ours"], []]


def test_a_home_is_one_persons_in_one_project_and_a_project_folder_one_projects(tmp_path: Path) -> None:
    apart(lambda: everybody_has_their_own(tmp_path))


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("home_key", lambda project, person: f"home/{project}"),
        ("home_key", lambda project, person: f"home/{person}"),
        ("project_key", lambda project: "project"),
        ("project_key", lambda project: f"home/{project}/ann"),
    ],
    ids=["person left out", "project left out", "one folder for all projects", "a home as the project's folder"],
)
def test_negative_control_with_another_key_id_one_sees_what_is_not_theirs(
    tmp_path: Path, name: str, key: Callable[..., str]
) -> None:
    with changed(volumes, name, key), pytest.raises(AssertionError, match="iterdir"):
        apart(lambda: everybody_has_their_own(tmp_path))


# -- M5: the key goes through a pipe ------------------------------------------------------------------------
RECORDER = """#!/bin/sh
tr '\\0' ' ' < /proc/$$/cmdline > "$(dirname "$0")/arguments"
tr '\\0' ' ' < /proc/$$/environ > "$(dirname "$0")/environment"
head -n 1 > "$(dirname "$0")/standard-input"
exit 1
"""
KEY = bytes(range(32))


def the_key_is_in_the_pipe_alone(root: Path) -> None:
    recorder = root / "bin" / "gocryptfs"
    recorder.parent.mkdir()
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)
    os.environ["PATH"] = f"{recorder.parent}:{os.environ['PATH']}"
    target = root / "plain"
    target.mkdir()
    for use in (lambda: mounts.cipher_init(root, KEY), lambda: mounts.CipherMount(root, target, KEY)):
        with suppress(NodeError):  # it only looks
            use()  # type: ignore[no-untyped-call]
        seen = {name: (recorder.parent / name).read_text() for name in ("arguments", "environment", "standard-input")}
        assert "gocryptfs" in seen["arguments"] and "PATH" in seen["environment"]
        assert seen["standard-input"].strip() == KEY.hex(), "this is how it gets the key"
        assert KEY.hex() not in seen["arguments"] + seen["environment"]
        for name in seen:
            (recorder.parent / name).unlink()


def test_a_key_goes_to_gocryptfs_through_a_pipe_and_shows_nowhere(tmp_path: Path) -> None:
    apart(lambda: the_key_is_in_the_pipe_alone(tmp_path))


def in_an_argument(command: list[str], **options: Any) -> Any:
    return real_run([*command, "-extpass", KEY.hex()], **options)


def in_the_environment(command: list[str], **options: Any) -> Any:
    return real_popen(command, env={**os.environ, "KEY": KEY.hex()}, **options)


real_run, real_popen = subprocess.run, subprocess.Popen


@pytest.mark.parametrize(("call", "instead"), [("run", in_an_argument), ("Popen", in_the_environment)])
def test_negative_control_a_key_in_an_argument_or_an_environment_is_seen(
    tmp_path: Path, call: str, instead: Callable[..., Any]
) -> None:
    def body() -> None:
        class Calls:
            def __getattr__(self, name: str) -> Any:
                return instead if name == call else getattr(subprocess, name)

        mounts.subprocess = Calls()  # type: ignore[assignment]
        the_key_is_in_the_pipe_alone(tmp_path)

    with pytest.raises(AssertionError, match="not in"):
        apart(body)


# -- M6: a missing key --------------------------------------------------------------------------------------
class ReachedError(Exception):
    """The step after the check."""


def a_missing_key_is_an_error(root: Path) -> None:
    settings = Settings.model_validate({**SETTINGS.model_dump(mode="json"), "state": str(root / "state")})
    FileCustodian.create(root / "kek")
    ring = KeyRing(root / "ring", FileCustodian(root / "kek"))
    key_id = home_key("1" * 32, "ann")
    name = folders_room.hashlib.sha256(key_id.encode()).hexdigest()
    disk = settings.layout.folders / name / "disk.img"
    disk.parent.mkdir(parents=True)
    disk.write_bytes(b"ciphertext that nobody can read again without its key")
    said: BaseException | None = None
    try:
        Folders(settings.layout, ring).open(key_id, 1)
    except (BulleError, ReachedError) as error:
        said = error
    assert isinstance(said, CustodyError) and "is missing" in said.message
    assert list((root / "ring").iterdir()) == [], "and no new key is made over the old folder"
    assert disk.read_bytes().startswith(b"ciphertext")


def reached(*arguments: Any) -> None:
    raise ReachedError


def test_a_folder_whose_key_is_missing_is_an_error_and_gets_no_new_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "image_mount", reached)
    a_missing_key_is_an_error(tmp_path)


def test_negative_control_without_looking_a_new_key_is_made_over_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "image_mount", reached)
    monkeypatch.setattr(KeyRing, "exists", lambda self, key_id: True)
    monkeypatch.setattr(folders_room, "_grow", reached)
    with pytest.raises(AssertionError, match="ReachedError"):
        a_missing_key_is_an_error(tmp_path)
    assert len(list((tmp_path / "ring").iterdir())) == 1, "the new key"


# -- M9: one shared mount -----------------------------------------------------------------------------------
def peers(text: str) -> dict[Path, str]:
    """The peer group of each shared mount."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        for word in words[6 : words.index("-")]:
            if word.startswith("shared:"):
                found[Path(words[4])] = word
    return found


def only_one_folder_is_shared(root: Path, around: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "bulle", str(root)], check=True)
    subprocess.run(["mount", f"--make-{around}", str(root)], check=True)
    before = peers(Path("/proc/self/mountinfo").read_text())
    folder = root / "mounts"
    folder.mkdir()
    mountpoint.share(folder)
    mountpoint.share(folder)  # once more changes nothing
    after = peers(Path("/proc/self/mountinfo").read_text())
    assert after.keys() - before.keys() == {folder}, "nothing else became shared"
    assert [mount for mount, group in after.items() if group == after[folder]] == [folder], "and with nothing else"


@pytest.mark.parametrize("around", ["private", "shared"])
def test_only_the_one_folder_is_shared(tmp_path: Path, around: str) -> None:
    apart(lambda: only_one_folder_is_shared(tmp_path, around))


real_words = mountpoint._mount


def share_all(*words: str) -> None:
    real_words(words[0], "/") if words[0] == "--make-shared" else None
    real_words(*words)


def join_what_is_around(*words: str) -> None:
    if words[0] != "--make-private":
        real_words(*words)


@pytest.mark.parametrize(("around", "instead"), [("private", share_all), ("shared", join_what_is_around)])
def test_negative_control_sharing_more_is_seen(tmp_path: Path, around: str, instead: Callable[..., None]) -> None:
    with (
        changed(mountpoint, "_mount", instead),
        pytest.raises(AssertionError, match="nothing else"),
    ):
        apart(lambda: only_one_folder_is_shared(tmp_path, around))


# -- M10: who shares a view ---------------------------------------------------------------------------------
def views_differ_with_their_terms(root: Path) -> None:
    place = a_place(root)
    plain = TablePermit(dataset="people", table="people", columns=(ColumnPermit(name="sex"),))
    tables = [
        plain,
        plain.model_copy(update={"columns": (ColumnPermit(name="sex"), ColumnPermit(name="town"))}),
        plain.model_copy(update={"columns": (ColumnPermit(name="town"),)}),
        plain.model_copy(update={"rows": (RowCondition(column="sex", operator="=", value=1),)}),
        plain.model_copy(update={"table": "visits"}),
    ]
    grants = []
    for n, table in enumerate(tables):
        grant = a_grant(f"{n}" * 32)
        grants.append(grant.model_copy(update={"permit": grant.permit.model_copy(update={"tables": (table,)})}))
    grants.append(grants[0].model_copy(update={"session": "a" * 32, "project_id": "2" * 32}))
    newer = grants[0].permit.model_copy(update={"version": 2})
    grants.append(grants[0].model_copy(update={"session": "b" * 32, "permit": newer}))
    for grant in grants:
        seen = shown(place, root, Kind.VIEW, grant) / "people.parquet"
        assert seen.read_text() == grant.project_id + grant.permit.model_dump_json()
    assert len(list((root / "views").iterdir())) == len(grants)


def test_a_view_is_shared_under_the_very_same_terms_only(tmp_path: Path) -> None:
    apart(lambda: views_differ_with_their_terms(tmp_path))


@pytest.mark.parametrize(
    "key",
    [
        lambda grant: f"{grant.project_id}-{grant.permit.version}",
        lambda grant: f"{grant.permit.version}-{hash(grant.permit.tables)}",
        lambda grant: f"{grant.project_id}-{hash(grant.permit.tables)}",
    ],
    ids=["terms left out", "project left out", "version left out"],
)
def test_negative_control_with_a_coarser_key_one_permits_view_shows_under_another(
    tmp_path: Path, key: Callable[[Grant], str]
) -> None:
    with changed(views, "view_key", key), pytest.raises(AssertionError, match="read_text"):
        apart(lambda: views_differ_with_their_terms(tmp_path))


# -- X2: a hard limit ---------------------------------------------------------------------------------------
class Bound:
    """In the place of gocryptfs: the limit is that of the disk image beneath it."""

    def __init__(self, folder: Path, target: Path, key: bytes) -> None:
        self.target = target
        mounts.bind(folder, target)

    def close(self) -> None:
        mounts.unmount(self.target)


def four_megabytes_are_the_most(root: Path) -> None:
    mounts.CipherMount, mounts.cipher_init = Bound, lambda folder, key: None  # type: ignore[assignment,misc]
    settings = Settings.model_validate({**SETTINGS.model_dump(mode="json"), "state": str(root / "state")})
    FileCustodian.create(root / "kek")
    opened = Folders(settings.layout, KeyRing(root / "ring", FileCustodian(root / "kek")))
    plain = opened.open(home_key("1" * 32, "ann"), 4)
    full = False
    try:
        try:
            (plain / "big").write_bytes(bytes(5 << 20))
        except OSError as error:
            full = error.errno == errno.ENOSPC
        (image,) = settings.layout.folders.glob("*/disk.img")
        assert full and image.stat().st_size == 4 << 20
    finally:
        opened.close(home_key("1" * 32, "ann"))


def test_a_folder_takes_no_more_than_its_limit(tmp_path: Path) -> None:
    apart(lambda: four_megabytes_are_the_most(tmp_path))


def test_negative_control_with_a_larger_disk_the_same_file_fits(tmp_path: Path) -> None:
    with changed(folders_room, "_MB", 8 << 20), pytest.raises(AssertionError, match="full and"):
        apart(lambda: four_megabytes_are_the_most(tmp_path))

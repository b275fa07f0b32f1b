"""What follows when a project is closed: its folders are put away read-only, later its keys are destroyed.

The authority says what is due; nothing else is touched. Each step can be done again: an agent that is killed anywhere
goes on at its next round. What is done is audited before (docs/governance.md, Closing).
"""

from __future__ import annotations

import array
import fcntl
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from orchestrator.errors import BulleError, ConflictError, NodeError
from orchestrator.governance.cards import ClosingDone, ClosingDue
from orchestrator.keys.durable import let_group_read, replace, sync_folder
from orchestrator.keys.ring import KEY_SUFFIX
from orchestrator.node.folders import Folders, archive_of, folder_name, home_key, project_key
from orchestrator.node.journal import Journal
from orchestrator.node.ports import ClosingDesk, Keys
from orchestrator.node.session_table import State
from orchestrator.node.usage import Running
from orchestrator.terms import Outcome, Value

_log = logging.getLogger(__name__)

#: seconds between two questions what is due
CLOSING_SECONDS = 20.0
_NAME = re.compile(r"[0-9a-f]{64}")
_DISK, _UNFINISHED, _PLAN = "disk.img", "disk.new", "destroyed.json"
_GET_FLAGS, _SET_FLAGS, _IMMUTABLE = 0x80086601, 0x40086602, 0x10  # ioctl_iflags(2)


class Plan(Value):
    """What of a project is destroyed, by names that say nothing to the host of the disks.

    Written before the first key goes, so that after a crash the certificate still names every one of them.
    """

    keys: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


class Archive:
    """The folders of closed projects, on the disk: ``folders/archive/<project id>/<hash>/disk.img``."""

    def __init__(self, folders: Path) -> None:
        self._folders = folders

    def begin(self, project_id: str) -> None:
        """From now on no volume of this project is mounted."""
        place = archive_of(self._folders, project_id)
        with _told(f"the archive of project {project_id}"):
            place.parent.mkdir(mode=0o700, exist_ok=True)
            place.mkdir(mode=0o700, exist_ok=True)
            # Stops: the host of the disks, who has root's moves and removals happen elsewhere.
            for each in (place.parent, place):
                if each.is_symlink() or not each.is_dir():
                    raise NodeError(f"{each} is not a folder", hint="find out who put it there")
                let_group_read(each, self._folders)
            sync_folder(place.parent)
            sync_folder(self._folders)

    def place(self, project_id: str) -> Path:
        """Where it lies."""
        return archive_of(self._folders, project_id)

    def put_away(self, project_id: str, name: str) -> bool:
        """Move a folder into the archive, read-only; whether there is one."""
        source, target = self._folders / name, archive_of(self._folders, project_id) / name
        with _told(f"folder {name} could not be put away"):
            if _is_folder(source):
                if _is_folder(target):
                    raise NodeError(f"folder {name} is in the archive and outside it", hint="see which one is right")
                (source / _UNFINISHED).unlink(missing_ok=True)
                with suppress(FileNotFoundError):
                    _seal(source / _DISK)
                    let_group_read(source / _DISK, self._folders)
                source.rename(target)
                sync_folder(target.parent)
                sync_folder(self._folders)
            if not _is_folder(target):
                return False
            with suppress(FileNotFoundError):
                _immutable(target / _DISK, wanted=True)
            return True

    def remove(self, project_id: str, name: str) -> None:
        """Remove the ciphertext of a folder, wherever it lies; one that is not there is no error."""
        for place in (archive_of(self._folders, project_id), self._folders):
            folder = place / name
            with _told(f"folder {name} could not be removed"):
                if not _is_folder(folder):
                    continue
                with suppress(FileNotFoundError):
                    _immutable(folder / _DISK, wanted=False)
                for each in (folder / _DISK, folder / _UNFINISHED, *folder.glob("lease-*")):
                    each.unlink(missing_ok=True)
                sync_folder(folder)
                folder.rmdir()
                sync_folder(place)

    def there(self, project_id: str, names: Iterable[str]) -> list[str]:
        """Of these folders of a project those that are there; and all that are in its archive."""
        place = archive_of(self._folders, project_id)
        archived = [each.name for each in place.iterdir() if _NAME.fullmatch(each.name)]
        return sorted({*archived, *(name for name in names if _is_folder(self._folders / name))})

    def plan(self, project_id: str) -> Plan:
        """What was to be destroyed at an earlier round."""
        path = archive_of(self._folders, project_id) / _PLAN
        try:
            return Plan.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return Plan()
        except (OSError, ValidationError) as error:
            raise NodeError(f"{path} cannot be read", hint="find out who changed it") from error

    def keep(self, project_id: str, plan: Plan) -> None:
        """Write down what is going to be destroyed."""
        with _told("the plan could not be written"):
            path = archive_of(self._folders, project_id) / _PLAN
            replace(path, plan.model_dump_json().encode())
            let_group_read(path, self._folders)


def returned(folders: Path, keyring: Path) -> list[Path]:
    """Wrapped keys that were destroyed and are there again, as when an older backup of the key ring was put back.

    Raises:
        NodeError: what was destroyed cannot be read.
    """
    archive = Archive(folders)
    plans = [archive.plan(path.parent.name) for path in (folders / "archive").glob(f"*/{_PLAN}")]
    files = {keyring / f"{name}{KEY_SUFFIX}" for plan in plans for name in plan.keys}
    return sorted(path for path in files if path.exists())


@contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NodeError(f"{what}: {error.strerror or error}") from error


def _is_folder(path: Path) -> bool:
    """Whether there is one. Raises NodeError where something else is in its place."""
    if path.is_symlink():
        raise NodeError(f"{path} is a symbolic link, which this agent never makes")
    return path.is_dir()


def _seal(image: Path) -> None:
    handle = os.open(image, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(handle)
        os.fchmod(handle, 0o400)
    finally:
        os.close(handle)


def _immutable(image: Path, *, wanted: bool) -> None:
    """Set or clear the flag that keeps root too from writing a file, where the file system has it."""
    handle = os.open(image, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    flags = array.array("l", [0])
    try:
        # Not on every file system, and not without CAP_LINUX_IMMUTABLE: mode and place do without it.
        with suppress(OSError):
            fcntl.ioctl(handle, _GET_FLAGS, flags)
            changed = flags[0] | _IMMUTABLE if wanted else flags[0] & ~_IMMUTABLE
            if changed != flags[0]:
                fcntl.ioctl(handle, _SET_FLAGS, array.array("l", [changed]))
    finally:
        os.close(handle)


def key_ids(due: ClosingDue) -> list[str]:
    """Every key that a project may have."""
    project_id = due.project_id
    homes = [home_key(project_id, person) for person in due.persons]
    return [project_key(project_id), f"project/{project_id}/pseudonyms", *homes]


class Showing(Protocol):
    """What shows on this machine or node."""

    def projects(self) -> set[str]:
        """Ids of the projects of which something shows, or is on its way."""


class Closer:
    """Does what is due; one thread calls it. Of several agents exactly one does it for a project at a time."""

    def __init__(
        self,
        *,
        desk: ClosingDesk,
        journal: Journal,
        keys: Keys,
        folders: Folders,
        place: Path,
        sessions: Running,
        volumes: Showing,
        emptied: Callable[[str, list[str]], None] = lambda project_id, persons: None,
    ) -> None:
        self._desk = desk
        self._journal = journal
        self._keys = keys
        self._folders = folders
        self._archive = Archive(place)
        self._sessions = sessions
        self._volumes = volumes
        self._emptied = emptied

    def round(self) -> None:
        """Ask what is due and do it. What cannot be done now is logged, and due again at the next round.

        Raises:
            BulleError: the authority does not say what is due.
        """
        for due in self._desk.closings():
            try:
                self._do(due)
            except BulleError as error:
                _log.warning("project %s: %s is not done: %s", due.project, due.action, error)

    def _do(self, due: ClosingDue) -> None:
        self._archive.begin(due.project_id)
        # After the line above, nothing of this project comes up any more: so what is not in use now will not be.
        if self._in_use(due.project_id):
            raise ConflictError("a workspace of it is still up")
        # Stops: two nodes that put away or destroy at once, of which one certifies what the other is still at. Shown by
        # tests/unit/node/test_closings.py.
        leases = self._folders.leases
        mine = leases.take(self._archive.place(due.project_id), lambda: True)
        try:
            # Also after the first line: whoever opens one looks again when the lease is theirs.
            self._folders.refuse_open_elsewhere(key_ids(due))
            self._act(due)
        finally:
            leases.give_back(mine)

    def _act(self, due: ClosingDue) -> None:
        if due.action == "archive":
            self._put_away(due)
        else:
            self._destroy(due)

    def _in_use(self, project_id: str) -> bool:
        # Stops: a key that goes, or a disk that moves, under a mounted folder. Shown by test_closings.py.
        return (
            any(grant.project_id == project_id for grant in self._sessions.grants(*State))
            or project_id in self._volumes.projects()
            or any(key_id.split("/")[1] == project_id for key_id in self._folders.in_use())
        )

    def _put_away(self, due: ClosingDue) -> None:
        names = [folder_name(key_id) for key_id in key_ids(due)]
        there = self._archive.there(due.project_id, names)
        with self._audited("folder.archive", due, folders=there):
            for name in there:
                self._archive.put_away(due.project_id, name)
        self._desk.closed(due.project_id, ClosingDone(done="archived"))

    def _destroy(self, due: ClosingDue) -> None:
        ids = {folder_name(key_id): key_id for key_id in key_ids(due)}
        before = self._archive.plan(due.project_id)
        folders = self._archive.there(due.project_id, ids)
        strange = sorted({*before.keys, *before.folders, *folders} - ids.keys())
        if strange:
            raise NodeError(
                f"{len(strange)} of its folders or keys belong to nobody who was in it, such as {strange[0]}"
            )
        left = [key_id for key_id in ids.values() if self._keys.exists(key_id)]
        plan = Plan(
            keys=tuple(sorted({*before.keys, *map(folder_name, left)})),
            folders=tuple(sorted({*before.folders, *folders})),
        )
        self._archive.keep(due.project_id, plan)
        if left:
            with self._audited("key.destroy", due, keys=left):
                for key_id in left:
                    self._keys.destroy(key_id)
        if folders:
            with self._audited("folder.destroy", due, folders=folders):
                for name in folders:
                    self._archive.remove(due.project_id, name)
        # Nothing is certified that is not so.
        remain = [key_id for key_id in ids.values() if self._keys.exists(key_id)]
        if remain or self._archive.there(due.project_id, ids):
            raise NodeError("a key or a folder is still there")
        self._emptied(due.project_id, list(due.persons))
        destroyed = tuple(sorted(ids[name] for name in plan.keys))
        self._desk.closed(due.project_id, ClosingDone(done="destroyed", keys=destroyed, folders=plan.folders))

    @contextmanager
    def _audited(self, kind: str, due: ClosingDue, **detail: Any) -> Iterator[None]:
        """Before, in the log; if that fails, nothing is done."""
        self._journal.before(kind, project=due.project, **detail)
        try:
            yield
        except BulleError as error:
            self._journal.after(kind, Outcome.FAILED, project=due.project, message=error.message[:1000])
            raise
        self._journal.after(kind, Outcome.DONE, project=due.project, **detail)

"""Homes and project folders: encrypted on the disk, with a hard limit of size, plaintext only behind a mount.

A folder is one sparse file, ``folders/<hash of its key id>/disk.img``: an ext4 file system as large as the
limit, in it a gocryptfs folder. So a researcher who fills it fills nothing else, and the host sees neither
names nor sizes of files.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config import Layout, Uid
from orchestrator.errors import CustodyError, NodeError, RefusedError
from orchestrator.keys.durable import let_group_read
from orchestrator.node import mounts
from orchestrator.node.lease import Lease, Leases
from orchestrator.node.ports import Keys
from orchestrator.node.shared import Shared

_log = logging.getLogger(__name__)

_MB = 1 << 20
_NAME = re.compile(r"[0-9a-f]{64}")
_PROJECT_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class OpenFolder:
    """A folder whose plaintext shows at ``plain``."""

    key_id: str
    plain: Path
    cipher: Path
    mount: mounts.CipherMount
    lease: Lease


def home_key(project_id: str, person: str) -> str:
    """Key id of a person's home in a project."""
    return f"home/{project_id}/{person}"


def project_key(project_id: str) -> str:
    """Key id of a project's folder."""
    return f"project/{project_id}/folder"


def folder_name(key_id: str) -> str:
    """Name of the folder whose key this is: it says nothing to the host of the disks."""
    return hashlib.sha256(key_id.encode()).hexdigest()


def archive_of(folders: Path, project_id: str) -> Path:
    """Where the folders of a closed project lie. While this is there, none of its volumes is ever mounted again."""
    if not _PROJECT_ID.fullmatch(project_id):
        raise NodeError(f"{project_id!r} is not a project's id")
    return folders / "archive" / project_id


class Folders:
    """The encrypted folders of a deployment."""

    def __init__(self, layout: Layout, keys: Keys, leases: Leases | None = None) -> None:
        self._disks = layout.folders
        self._mounts = layout.mounts
        self._keys = keys
        self._open: Shared[OpenFolder] = Shared()
        self.leases = leases or Leases()
        self._held: dict[str, Lease] = {}

    def open(self, key_id: str, limit_mb: int) -> Path:
        """The plaintext of a folder, made on first use; mounted once, however many sessions use it.

        Raises:
            CustodyError: its key is missing though the folder is there, or is not released.
            NodeError: it cannot be made or mounted; nothing stays mounted.
            HeldError: another node has it open.
            WaitError: another node had it open, and may have it still.
        """
        return self._open.acquire(key_id, lambda: self._mount(key_id, limit_mb)).plain

    def refuse_closed(self, project_id: str) -> None:
        """Raises RefusedError where the project was closed and its folders put away, or its keys destroyed."""
        # Stops: a grant from just before the closing that makes a new key and a new home over what was destroyed, or
        # writes into what was archived. Shown by tests/unit/node/test_closings.py.
        if archive_of(self._disks, project_id).exists():
            raise RefusedError("refused by rule project-closed: the project's folders are put away")

    def in_use(self) -> list[str]:
        """Key ids of the folders that are mounted, or being mounted."""
        return self._open.keys()

    def lost(self, key_id: str) -> bool:
        """Whether a folder that is open here may be open elsewhere too, so that nothing more may be written to it."""
        lease = self._held.get(key_id)
        return lease is not None and self.leases.lost(lease)

    def refuse_open_elsewhere(self, key_ids: Iterable[str]) -> None:
        """Look whether another node may have one of these folders open; to be asked when nobody opens them any more.

        Raises:
            HeldError: one is open.
            WaitError: one was, and may be still.
        """
        for key_id in key_ids:
            name = folder_name(key_id)
            place = self._disks / name
            if key_id not in self._held and place.is_dir() and not place.is_symlink():
                self.leases.give_back(self._take(name))

    def _take(self, name: str) -> Lease:
        cipher = self._mounts / "cipher" / name
        return self.leases.take(self._disks / name, lambda: not mounts.is_mounted(cipher))

    def tidy(self) -> None:
        """At the start of an agent: take away what an earlier one of this node left mounted.

        Raises:
            NodeError: something stays mounted.
        """
        for each in mounts.mounts_below(self._mounts / "cipher"):
            # Stops: an agent that comes back late, and by unmounting in order writes over what is another node's by
            # now. Shown by tests/unit/node/test_lease.py.
            if not self.leases.alone(self._disks / each.path.name):
                self._cut(each.path)
            mounts.unmount(each.path)

    def sweep(self) -> None:
        """Remove leases that earlier agents of this node left at folders that are not open."""
        for folder in self._disks.iterdir() if self._disks.is_dir() else ():
            cipher = self._mounts / "cipher" / folder.name
            if _NAME.fullmatch(folder.name) and not mounts.is_mounted(cipher):
                self.leases.forget(folder)

    @staticmethod
    def _cut(cipher: Path) -> None:
        try:
            mounts.cut(cipher)
        except NodeError as error:
            # Goes on: it is unmounted all the same.
            _log.error("%s", error)

    def size(self, key_id: str) -> int | None:
        """Bytes that a folder takes on the disk, which is less than its limit: the file is sparse. None: not there."""
        name = folder_name(key_id)
        for place in (self._disks, archive_of(self._disks, key_id.split("/")[1])):
            try:
                return (place / name / "disk.img").stat().st_blocks * 512
            except FileNotFoundError:
                continue
        return None

    def close(self, key_id: str) -> None:
        """Give a folder back; the last user's call unmounts it."""
        self._open.release(key_id, self._unmount)

    def _mount(self, key_id: str, limit_mb: int) -> OpenFolder:
        # Here, when it counts as in use already: who puts it away looks at both in the other order.
        self.refuse_closed(key_id.split("/")[1])
        name = folder_name(key_id)
        disk, cipher, plain = (
            self._disks / name,
            self._mounts / "cipher" / name,
            self._mounts / "plain" / name,
        )
        disk.mkdir(mode=0o700, parents=True, exist_ok=True)
        let_group_read(disk, self._disks)
        lease = self._take(name)
        try:
            # Again: whoever puts it away looks for leases after it has said that it is closed.
            self.refuse_closed(key_id.split("/")[1])
            mount = self._show(key_id, limit_mb, disk / "disk.img", cipher, plain)
        except BaseException:
            self._give_back(lease, name)
            with suppress(OSError):
                disk.rmdir()
            raise
        self._held[key_id] = lease
        return OpenFolder(key_id, plain, cipher, mount, lease)

    def _show(self, key_id: str, limit_mb: int, image: Path, cipher: Path, plain: Path) -> mounts.CipherMount:
        if image.exists() and not self._keys.exists(key_id):
            # A new key would make a folder that looks empty, over one that nobody can read again.
            raise CustodyError(f"the key '{key_id}' is missing, and its folder is there", hint="restore the key ring")
        key = self._keys.get_or_create(key_id)
        for folder in (cipher, plain):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            if not image.exists():
                self._create(image, cipher, limit_mb, key)
            elif image.stat().st_size < limit_mb * _MB:
                _grow(image, limit_mb)
            mounts.image_mount(image, cipher)
            plain.chmod(0o755)
            mount = mounts.CipherMount(cipher / "files", plain, key)
            top = plain.stat()
            if (top.st_uid, top.st_mode & 0o7777) != (Uid.SANDBOX, 0o700):
                os.chown(plain, Uid.SANDBOX, Uid.SANDBOX)
                plain.chmod(0o700)
        except BaseException:
            self._clear(plain, cipher)
            raise
        return mount

    @staticmethod
    def _create(image: Path, cipher: Path, limit_mb: int, key: bytes) -> None:
        """Make the disk of a folder; its final name appears when it is whole."""
        fresh = image.with_name("disk.new")
        fresh.unlink(missing_ok=True)
        try:
            with fresh.open("xb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.truncate(limit_mb * _MB)
            _tool(
                "mkfs.ext4",
                "-q",
                "-F",
                "-m",
                "0",
                "-O",
                "^resize_inode",
                "-E",
                "lazy_itable_init=1,nodiscard",
                str(fresh),
            )
            mounts.image_mount(fresh, cipher)
            shutil.rmtree(cipher / "lost+found")
            (cipher / "files").mkdir(mode=0o700)
            mounts.cipher_init(cipher / "files", key)
            mounts.unmount(cipher)
            let_group_read(fresh, image.parent.parent)
            fresh.rename(image)
        except OSError as error:
            raise NodeError(f"a folder's disk could not be made: {error.strerror}") from error
        finally:
            mounts.unmount(cipher)
            fresh.unlink(missing_ok=True)

    @staticmethod
    def _clear(plain: Path, cipher: Path) -> None:
        for folder in (plain, cipher):
            mounts.unmount(folder)
            folder.rmdir()

    def _unmount(self, opened: OpenFolder) -> None:
        if self.leases.lost(opened.lease):
            self._cut(opened.cipher)
        opened.mount.close()
        self._clear(opened.plain, opened.cipher)
        self._held.pop(opened.key_id, None)
        self._give_back(opened.lease, opened.cipher.name)

    def _give_back(self, lease: Lease, name: str) -> None:
        # What is still in use was detached only: as long as the kernel has the image, nobody else may.
        image, cipher = self._disks / name / "disk.img", self._mounts / "cipher" / name
        self.leases.give_back(lease, lambda: not mounts.is_mounted(cipher) and mounts.is_free(image))


def _grow(image: Path, limit_mb: int) -> None:
    """Enlarge the disk of a folder after its limit was raised. Lowering a limit does not shrink what is
    there."""
    # Growing wants a checked file system; status 1 is "errors corrected".
    _tool("e2fsck", "-f", "-p", str(image), good=(0, 1))
    os.truncate(image, limit_mb * _MB)
    _tool("resize2fs", str(image))


def _tool(*command: str, good: tuple[int, ...] = (0,)) -> None:
    done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode not in good:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()[-300:]
        raise NodeError(f"{command[0]}: {said}")

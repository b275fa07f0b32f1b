"""Images of homes and project folders, read while people may be working in them.

An image that is not mounted is copied as it lies there. One that is mounted is frozen first (FIFREEZE): its file system
writes everything out and holds writers up. Where the disk can make a second reference to the same blocks (XFS, Btrfs)
that takes a moment; elsewhere it lasts as long as the copy does, and no longer than :data:`PATIENCE`. What is restored
is then as after a power cut at that moment, which ext4's journal is made for.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import UnavailableError
from orchestrator.moving.archive import Copied
from orchestrator.node.lease import held_by

#: seconds for which people wait at most when they save while their home is copied
PATIENCE = 60
_FICLONE = 0x40049409

# The child thaws, whatever becomes of its parent: when that is killed, its pipe closes and the wait is over.
# Stops: a home that stays frozen because a backup died. Shown by tests/unit/moving/test_images.py.
_FREEZE = 'fsfreeze --freeze "$0" && echo frozen && { read -r -t "$1" _; fsfreeze --unfreeze "$0"; }'


@dataclass
class Image:
    """An image open for reading."""

    descriptor: int
    _path: Path
    _mount: Path
    _before: os.stat_result
    _frozen: subprocess.Popen[bytes] | None = None
    _cloned: bool = False
    _elsewhere: bool = False

    def copied(self) -> Copied:
        """How it was copied; to be asked when it was read and before the block is left."""
        if self._cloned:
            return "crash-consistent"
        if self._frozen is not None:
            return "crash-consistent" if self._frozen.poll() is None else "changed"
        now = os.fstat(self.descriptor)
        same = (now.st_mtime_ns, now.st_size) == (self._before.st_mtime_ns, self._before.st_size)
        # Open on another node of a cluster: nobody here can hold its writers up.
        alone = not self._elsewhere and held_by(self._path.parent) is None
        return "whole" if same and alone and not os.path.ismount(self._mount) else "changed"


@contextmanager
def still(path: Path, mount: Path, patience: int = PATIENCE) -> Iterator[Image]:
    """An image to copy, of which the file system is mounted at ``mount`` or not at all.

    Raises:
        UnavailableError: it cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise UnavailableError(f"{path}: {error.strerror}") from error
    frozen: subprocess.Popen[bytes] | None = None
    try:
        image = Image(descriptor, path, mount, os.fstat(descriptor))
        image._elsewhere = held_by(path.parent) is not None
        if os.path.ismount(mount):
            frozen = _freeze(mount, patience)
            copy = None if frozen is None else _clone(path, descriptor)
            if copy is not None:
                os.close(descriptor)
                image.descriptor = descriptor = copy
                image._cloned = frozen is not None and frozen.poll() is None
                _thaw(frozen)
                frozen = None
            image._frozen = frozen
        yield image
    finally:
        _thaw(frozen)
        os.close(descriptor)


def _freeze(mount: Path, patience: int) -> subprocess.Popen[bytes] | None:
    """The process that keeps a file system frozen until its input closes; None where it cannot be frozen."""
    child = subprocess.Popen(
        ["bash", "-c", _FREEZE, str(mount), str(patience)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdout is not None  # noqa: S101 - asked for above
    if child.stdout.readline() == b"frozen\n":
        return child
    _thaw(child)
    return None


def _thaw(child: subprocess.Popen[bytes] | None) -> None:
    if child is None:
        return
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()
    child.wait()


def _clone(path: Path, descriptor: int) -> int | None:
    """A nameless file that shares the image's blocks; None where the disk cannot do that."""
    try:
        copy = os.open(path.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        fcntl.ioctl(copy, _FICLONE, descriptor)
    except OSError:
        os.close(copy)
        return None
    return copy

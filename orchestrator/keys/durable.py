"""Files that are there whole or not at all, also after a power cut, and never overwrite one another."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

UNFINISHED = ".new-"
"""Prefix of a file that was not published; left behind only by a kill."""


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def mode_in(folder: Path, mode: int) -> int:
    """``mode``, and the same for the group where a folder is set up to be shared with it.

    On a cluster the node agents (root) and the administrator's tools (the authority's user) keep one key ring: its
    folder is set-gid and its group may write. On one machine the folder is root's alone.
    """
    return mode | (mode & 0o700) >> 3 if _is_shared(folder) else mode


def _is_shared(folder: Path) -> bool:
    found = folder.stat().st_mode
    return bool(found & stat.S_ISGID and found & stat.S_IWGRP)


def let_group_read(path: Path, shared: Path) -> None:
    """Let the group read what lies at ``path``, if the folder ``shared``, below which it is, is shared with it.

    So the tools of a cluster carry into a backup what only node agents write.

    Raises:
        OSError: it is not there, or a link.
    """
    if not _is_shared(shared):
        return
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        os.fchmod(handle, mode | (mode & 0o500) >> 3)
    finally:
        os.close(handle)


def _write_unfinished(path: Path, content: bytes, mode: int) -> Path:
    mode = mode_in(path.parent, mode)
    unfinished = path.with_name(f"{UNFINISHED}{secrets.token_hex(8)}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    return unfinished


def erase(path: Path) -> None:
    """Overwrite a file's bytes in their place and then remove it, both durable; one that is not there is no error.

    What a killed writer left under another name of the same file (:data:`UNFINISHED`) is overwritten with it. On a
    file system that writes elsewhere (copy on write, flash) the old bytes may stay on the medium until it reuses them.

    Raises:
        OSError: it could not be overwritten or removed.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        pass
    else:
        with os.fdopen(descriptor, "r+b", buffering=0) as stream:
            left = os.fstat(descriptor).st_size
            while left > 0:
                left -= stream.write(os.urandom(left))
            os.fsync(descriptor)
    path.unlink(missing_ok=True)
    sync_folder(path.parent)


def publish_new(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write a file that must not exist yet. Of two processes that race, one wins; nobody sees half a file.

    Raises:
        FileExistsError: it exists.
        OSError: it cannot be written; nothing was left.
    """
    unfinished = _write_unfinished(path, content, mode)
    try:
        os.link(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    sync_folder(path.parent)


def replace(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write a file in the place of an older one in one step.

    Raises:
        OSError: it cannot be written; the older one is untouched.
    """
    unfinished = _write_unfinished(path, content, mode)
    try:
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)

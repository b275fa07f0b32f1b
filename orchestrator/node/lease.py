"""One writer of a folder, also where several nodes reach the same disks.

Two kernels that have one ``disk.img`` mounted destroy it. So whoever opens a folder first puts a file beside it,
``lease-<32 hex digits>``, and then looks whether there is another: of two who come at once, at least one sees the
other, and whoever sees one takes its own away again. The name is of one taking only, so whoever removes a stale lease
cannot hit a fresh one. The holder touches it every few seconds; how old one is, the clock of the storage says (the time
of a file that was just touched), and it must also have stood still while somebody watched: a clock that is set breaks
no lease. Where each client of the storage writes its own time, it must have stood still for all that long.

What the storage's host can do with these files, and what lies behind them: docs/csi.md, One writer.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import socket
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.errors import ConflictError, NodeError, UnavailableError
from orchestrator.node import mounts
from orchestrator.node.asking import PATIENCE

_log = logging.getLogger(__name__)

#: seconds between two touches
RENEW = 5.0
#: seconds without a touch that came about after which the holder lets go by itself
HOLD = PATIENCE + 15
#: age from which a lease may be broken: its holder has let go, for two reasons, and had time to unmount
BREAK = 3 * PATIENCE
#: seconds for which it must also have stood still before the eyes of who breaks it, where there is one clock
WATCHED = 3 * RENEW
#: file systems whose times are one clock's: of this machine, or of the one server
ONE_CLOCK = frozenset({"ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "nfs", "nfs4"})
#: seconds between two looks of somebody who waits
LOOK = 1.0

_NAME = re.compile(r"lease-[0-9a-f]{32}")
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_LARGEST = 1024


class HeldError(ConflictError):
    """Another node has the folder open."""

    code = "folder-held"


class WaitError(UnavailableError):
    """Whether somebody has the folder open is not known yet: ask again."""

    code = "folder-waits"


def node_name() -> str:
    """The name of this node in the cluster: ``BULLE_NODE``, from the pod's ``spec.nodeName``; else the machine's."""
    return os.environ.get("BULLE_NODE") or socket.gethostname()


def boot_id() -> str:
    """Which run of the kernel this is."""
    return _BOOT.read_text(encoding="ascii").strip()


@dataclass(frozen=True)
class Holder:
    """Whoever put a lease there, as the file says; empty where it says nothing that can be read."""

    node: str = ""
    boot: str = ""

    @property
    def called(self) -> str:
        """For people."""
        return f"node {self.node}" if self.node else "another node"


@dataclass(frozen=True)
class Found:
    """A lease as it lies there."""

    path: Path
    holder: Holder
    #: by the clock of the storage, in seconds
    touched: float


@dataclass
class Lease:
    """A folder that is this agent's alone, until :meth:`Leases.give_back`."""

    path: Path
    #: by this machine's clock, which nobody sets
    touched: float
    broken: bool = False
    #: when this is so it is given back
    leaving: Callable[[], bool] | None = field(default=None, repr=False)


class Leases:
    """The leases of one agent. Safe between threads; one thread touches them all."""

    def __init__(
        self,
        node: str | None = None,
        boot: str | None = None,
        *,
        hold: float = HOLD,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._holder = Holder(node or node_name(), boot or boot_id())
        self._hold = hold
        self._ticks = ticks
        #: of this agent, those that are only just being put there included
        self._own: set[Path] = set()
        self._guard = threading.Lock()
        self._held: list[Lease] = []
        #: of others: when they were last seen to be touched, and since when they stand still
        self._seen: dict[Path, tuple[float, float]] = {}
        self._waiting: dict[Path, tuple[float, WaitError]] = {}
        self._thread: threading.Thread | None = None

    def take(self, folder: Path, ours: Callable[[], bool]) -> Lease:
        """Make ``folder`` this agent's alone. ``ours``: whether what an earlier agent of this very node held is free.

        Raises:
            HeldError: another node has it.
            WaitError: another node had it, and may have it still; ask again.
            UnavailableError: the storage does not answer as it must.
        """
        with self._guard:
            until, before = self._waiting.get(folder, (0.0, None))
        if before is not None and self._ticks() < until:
            raise before
        path = folder / f"lease-{secrets.token_hex(16)}"
        self._own.add(path)
        try:
            _write(path, self._holder)
            try:
                now = _touched(path)
                for other in _leases_in(folder):
                    if other.path != path:
                        self._judge(folder, other, now, ours)
            except BaseException:
                self._remove(path)
                raise
        except OSError as error:
            self._own.discard(path)
            raise UnavailableError(f"{folder} cannot be used: {error.strerror or error}") from error
        lease = Lease(path, self._ticks())
        with self._guard:
            self._waiting.pop(folder, None)
            self._seen = {each: seen for each, seen in self._seen.items() if each.parent != folder}
            self._held.append(lease)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
                self._thread.start()
        return lease

    def lost(self, lease: Lease) -> bool:
        """Whether somebody else may have the folder: the lease was taken away, or could not be touched for long."""
        if not lease.broken and self._ticks() - lease.touched > self._hold:
            _log.error("%s was not touched for %.0f s: the storage does not answer", lease.path, self._hold)
            lease.broken = True
        return lease.broken

    def give_back(self, lease: Lease, when: Callable[[], bool] = lambda: True) -> None:
        """The folder is nobody's; not before ``when`` says so, by which nobody waits here."""
        lease.leaving = when
        self._leave(lease)

    def alone(self, folder: Path) -> bool:
        """Whether no other node has, or had until it was cut off, ``folder``, and this node's own lease is there."""
        found = [each.holder.node for each in _leases_in(folder)]
        return bool(found) and set(found) == {self._holder.node}

    def forget(self, folder: Path) -> None:
        """Remove the leases of earlier agents of this node, of which nothing is mounted any more."""
        try:
            for each in _leases_in(folder):
                if each.holder.node == self._holder.node and each.path not in self._own:
                    each.path.unlink(missing_ok=True)
        except OSError as error:
            # Whoever opens the folder looks again.
            _log.warning("leases in %s were not removed: %s", folder, error.strerror)

    def touch(self) -> None:
        """Say of every folder that it is still open."""
        with self._guard:
            held = list(self._held)
        for lease in held:
            if lease.leaving is not None and self._leave(lease):
                continue
            began = self._ticks()
            try:
                _touch(lease.path)
            except (FileNotFoundError, NotADirectoryError):
                # Stops: a holder that was cut off, was counted as gone, and writes on when it is back.
                if lease.path in self._own and not lease.broken:
                    _log.error("%s was taken away: another node counted this one as gone", lease.path)
                    lease.broken = True
            except OSError as error:
                _log.warning("%s was not touched: %s", lease.path, error.strerror)
            else:
                lease.touched = began

    def _leave(self, lease: Lease) -> bool:
        assert lease.leaving is not None  # noqa: S101 - both callers saw to it
        if not lease.leaving():
            return False
        with self._guard:
            self._held = [each for each in self._held if each is not lease]
        self._remove(lease.path)
        return True

    def _leaving(self, path: Path) -> bool:
        with self._guard:
            return any(each.path == path and each.leaving is not None for each in self._held)

    def _remove(self, path: Path) -> None:
        self._own.discard(path)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            # It will be stale, and then broken.
            _log.warning("%s was not removed: %s", path, error.strerror)

    def _run(self) -> None:
        while True:
            time.sleep(RENEW)
            try:
                self.touch()
            except Exception:  # noqa: BLE001 - the next touch must come: a folder is let go without it
                _log.exception("leases were not touched")

    def _judge(self, folder: Path, other: Found, now: float, ours: Callable[[], bool]) -> None:
        """Remove a lease that is stale, or this node's own of before; raises where it may be in use."""
        tick = self._ticks()
        if other.holder.node == self._holder.node:
            # A crash must not make people wait: what this machine had open before it began anew is open no more; nor
            # is what an earlier agent had, and nothing of this machine has now.
            if other.path in self._own and not self._leaving(other.path):
                raise WaitError("the folder is being opened by this agent already")
            if other.holder.boot != self._holder.boot or ours():
                self._remove(other.path)
                return
            raise HeldError("the folder is still open on this node", hint="it closes in a moment, or see the mounts")
        with self._guard:
            touched, since = self._seen.get(other.path, (other.touched, tick))
            still = touched == other.touched
            self._seen[other.path] = (other.touched, since if still else tick)
        if not still:
            raise HeldError(f"the folder is open on {other.holder.called}", hint="close the workspaces there first")
        age = now - other.touched
        # Stops: clocks of two nodes that differ, by which a lease that was touched just now looks old.
        watched = WATCHED if mounts.kind_at(folder) in ONE_CLOCK else BREAK
        if age > BREAK and tick - since >= watched:
            _log.warning("%s of %s is %.0f s old and is broken", other.path, other.holder.called, age)
            other.path.unlink(missing_ok=True)
            return
        error = WaitError(
            f"the folder was open on {other.holder.called}, of which nothing is heard for {max(age, 0):.0f} s",
            hint=f"it is free {BREAK:.0f} s after the last word",
        )
        with self._guard:
            # Not all at the same moment: two who come at once would put each other off for ever.
            self._waiting[folder] = (tick + LOOK * (0.5 + secrets.randbelow(100) / 100), error)
        raise error


def held_by(folder: Path) -> Holder | None:
    """Who has, or had until they were cut off, a folder open; None: nobody.

    Raises:
        NodeError: the folder cannot be read.
    """
    try:
        return next((each.holder for each in _leases_in(folder)), None)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NodeError(f"{folder} cannot be read: {error.strerror}") from error


def _write(path: Path, holder: Holder) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(handle, json.dumps({"node": holder.node, "boot": holder.boot}).encode())
        os.fsync(handle)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
    _touch(path)


def _touch(path: Path) -> None:
    # Without a time of ours the storage takes its own.
    os.utime(path)


def _touched(path: Path) -> float:
    # Opened and not only asked for: a network file system asks its server at each opening.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return os.fstat(handle).st_mtime
    finally:
        os.close(handle)


def _leases_in(folder: Path) -> list[Found]:
    found = []
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if _NAME.fullmatch(entry.name))
    for name in names:
        try:
            found.append(_read(folder / name))
        except FileNotFoundError:
            continue
    return found


def _read(path: Path) -> Found:
    """A lease. Whatever the storage's host made of it: no link is followed, no pipe waited for, no name believed."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError:
        return Found(path, Holder(), path.lstat().st_mtime)
    try:
        about = os.fstat(handle)
        content = os.read(handle, _LARGEST) if stat.S_ISREG(about.st_mode) else b""
    finally:
        os.close(handle)
    try:
        told = json.loads(content)
        node, boot = told["node"], told["boot"]
        holder = Holder(node, boot) if _NODE.fullmatch(node) and isinstance(boot, str) else Holder()
    except (ValueError, KeyError, TypeError, RecursionError):
        holder = Holder()
    return Found(path, holder, about.st_mtime)

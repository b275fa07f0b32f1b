"""The kernel's mounts, thin: tmpfs that never swaps, binds, ext4 in a file, gocryptfs; all idempotent.

The truth about what is mounted is ``/proc/self/mountinfo``, read anew each time; nothing is remembered here.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import NodeError

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_NOATIME = 1, 2, 4, 8, 32, 4096, 1024
MNT_FORCE, MNT_DETACH = 1, 2
#: what the agent's file systems are called in the mount table, by which it knows its own
SOURCE = "bulle"
_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_LO_FLAGS_AUTOCLEAR = 4
_LOOP_MAJOR = 7
_LOOP_CONTROL, _FUSE = (10, 237), (10, 229)
_LOCK_SECONDS = 3.0
#: what a file system without locks answers
_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})
_SHUTDOWN, _NO_FLUSH = 0x8004587D, 2  # EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class MountPoint:
    """One line of mountinfo."""

    path: Path
    kind: str
    source: str
    options: tuple[str, ...]


def parse_mountinfo(text: str) -> list[MountPoint]:
    """The mounts in ``text`` (proc(5), ``/proc/pid/mountinfo``), in the order in which they lie over one
    another."""
    found = []
    for line in text.splitlines():
        words = line.split(" ")
        rest = words.index("-", 6)
        options = (*words[5].split(","), *words[rest + 3].split(","))
        found.append(MountPoint(Path(_plain(words[4])), words[rest + 1], _plain(words[rest + 2]), options))
    return found


def _plain(word: str) -> str:
    """Undo the kernel's escapes (space, tab, newline and backslash as three octal digits)."""
    parts = word.split("\\")
    return parts[0] + "".join(chr(int(part[:3], 8)) + part[3:] for part in parts[1:])


def mounts_below(folder: Path) -> list[MountPoint]:
    """The mounts strictly below ``folder``, the one to unmount first in front."""
    text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    return [each for each in parse_mountinfo(text) if folder in each.path.parents][::-1]


def is_mounted(path: Path) -> bool:
    """Whether ``path`` itself is a mount point."""
    return any(each.path == path for each in mounts_below(path.parent))


def is_shared(path: Path) -> bool:
    """Whether what is mounted below ``path`` shows in other mount namespaces too."""
    text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    found = False
    deepest = -1
    for line in text.splitlines():
        words = line.split(" ")
        place = Path(_plain(words[4]))
        if (place == path or place in path.parents) and len(place.parts) >= deepest:
            deepest = len(place.parts)
            found = any(word.startswith("shared:") for word in words[6 : words.index("-", 6)])
    return found


def kind_at(path: Path) -> str:
    """The kind of file system on which ``path`` lies."""
    text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    around = [each for each in parse_mountinfo(text) if each.path == path or each.path in path.parents]
    # The last of the deepest: what lies over the others.
    return max(enumerate(around), key=lambda each: (len(each[1].path.parts), each[0]))[1].kind


def _mount(source: str, target: Path, kind: str, flags: int, data: str = "") -> None:
    done = _libc.mount(
        source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), data.encode() or None
    )
    if done < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(target))


def _told(what: str, error: OSError) -> NodeError:
    return NodeError(f"{what}: {error.strerror or error}")


def tmpfs(target: Path, size: str, *, mode: int = 0o755, executable: bool = False) -> None:
    """A file system in RAM at ``target`` that is never swapped to a disk. ``size`` as tmpfs takes it:
    ``64m``, ``50%``.

    Kernels before 6.4 have no ``noswap``: there ramfs takes its place, which never swaps either and has no
    limit of its own. Plaintext in swap would be plaintext on the host's disk.
    """
    flags = MS_NOSUID | MS_NODEV | (0 if executable else MS_NOEXEC)
    try:
        try:
            _mount(SOURCE, target, "tmpfs", flags, f"noswap,size={size},mode={mode:o}")
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            _mount(SOURCE, target, "ramfs", flags, f"mode={mode:o}")
    except OSError as error:
        raise _told(f"no file system in RAM at {target}", error) from error


def make_read_only(target: Path) -> None:
    """Make the file system at ``target`` read-only, for every mount of it, the agent's own included.

    A read-only *bind* would not do: a mount that later propagates into it stays writable.
    """
    flags = MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
    try:
        kinds = [each.kind for each in mounts_below(target.parent) if each.path == target]
        if not kinds:
            raise OSError(errno.EINVAL, "not a mount point")
        # tmpfs refuses a remount that seems to allow swap again.
        _mount(SOURCE, target, kinds[0], flags, "noswap" if kinds[0] == "tmpfs" else "")
    except OSError as error:
        raise _told(f"{target} was not made read-only", error) from error


def bind(source: Path, target: Path) -> None:
    """Show ``source`` at ``target`` too; nothing happens where something is mounted there already."""
    if is_mounted(target):
        return
    try:
        _mount(str(source), target, "", MS_BIND)
    except OSError as error:
        raise _told(f"{source} was not bound to {target}", error) from error


def bind_over(source: Path, target: Path) -> None:
    """Show ``source`` at ``target``, over what is mounted there, and in whatever has ``target`` mounted as a slave."""
    try:
        _mount(str(source), target, "", MS_BIND)
    except OSError as error:
        raise _told(f"{source} was not bound to {target}", error) from error


def freeze(path: Path) -> None:
    """Mount ``path`` on itself, read-only: what is bound from there afterwards is read-only wherever it propagates.

    To make the bind itself read-only would be too late: its copies in other mount namespaces stay writable.
    """
    if is_mounted(path):
        return
    bind(path, path)
    try:
        _mount("", path, "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
    except OSError as error:
        unmount(path)
        raise _told(f"{path} was not made read-only", error) from error


def unmount_top(target: Path) -> None:
    """Take away the last mount at ``target``, and nothing below it; in use or not."""
    if _libc.umount2(os.fsencode(target), MNT_DETACH) < 0 and ctypes.get_errno() != errno.EINVAL:
        code = ctypes.get_errno()
        raise _told(f"{target} was not unmounted", OSError(code, os.strerror(code)))


def unmount(target: Path) -> None:
    """Take away whatever is mounted at ``target``, also what lies below another mount. Always succeeds or
    raises.

    What is still in use is detached at once from the tree and goes with its last user; by then its containers
    are dead.
    """
    while is_mounted(target):
        if _libc.umount2(os.fsencode(target), 0) < 0:
            code = ctypes.get_errno()
            if code == errno.EINVAL:
                return  # gone meanwhile
            # For FUSE this ends what waits for an answer of a process that is dead or does not answer.
            _libc.umount2(os.fsencode(target), MNT_FORCE)
            if is_mounted(target) and _libc.umount2(os.fsencode(target), MNT_DETACH) < 0:
                raise _told(
                    f"{target} was not unmounted",
                    OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno())),
                )


def unmount_below(folder: Path) -> int:
    """Take away every mount strictly below ``folder``; how many there were."""
    found = mounts_below(folder)
    for each in found:
        unmount(each.path)
    return len(found)


# -- ext4 in a file -----------------------------------------------------------------------------------------
def image_mount(image: Path, target: Path) -> None:
    """Mount the ext4 file system in the file ``image``; its loop device goes with the last mount of it.

    Raises:
        NodeError: it cannot be mounted, or something else has it open to write: this machine or, where the disks'
            file system knows locks, another one.
    """
    try:
        device = _attach(image)
        try:
            _mount(device[1], target, "ext4", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME, "discard")
        finally:
            os.close(device[0])
    except OSError as error:
        raise _told(f"{image} was not mounted", error) from error


def _attach(image: Path) -> tuple[int, str]:
    """A loop device over ``image``, open: it clears itself once neither open nor mounted (loop(4))."""
    control = _device("/dev/loop-control", _LOOP_CONTROL)
    file = -1
    try:
        file = os.open(image, os.O_RDWR | os.O_CLOEXEC)
        _lock(file)
        for _ in range(64):
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
            path = f"/dev/loop{number}"
            if not Path(path).exists():
                # A container's /dev does not grow with the machine's.
                os.mknod(path, 0o600 | 0o060000, os.makedev(_LOOP_MAJOR, number))
            loop = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                # struct loop_config: fd, block size, loop_info64 (flags at byte 52 of its 232), 8 reserved
                # words
                info = bytearray(232)
                struct.pack_into("I", info, 52, _LO_FLAGS_AUTOCLEAR)
                fcntl.ioctl(loop, _LOOP_CONFIGURE, struct.pack("II", file, 0) + bytes(info) + bytes(64))
            except OSError as error:
                os.close(loop)
                if error.errno != errno.EBUSY:  # somebody else took it first
                    raise
                continue
            return loop, path
    finally:
        if file >= 0:
            os.close(file)
        os.close(control)
    raise OSError(errno.EBUSY, "no free loop device")


def _device(path: str, number: tuple[int, int]) -> int:
    """A device of the kernel's, open; where it has no file yet (its module is loaded when it is opened) one is made."""
    if not Path(path).exists():
        with suppress(FileExistsError):
            os.mknod(path, 0o600 | 0o020000, os.makedev(*number))
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def _lock(file: int) -> None:
    """Lock an image for as long as a loop device has it: the lock is the open file's, and the kernel's to give back.

    Stops: a second mount of the same image, which destroys it. On a network file system with locks its server knows of
    it, and gives it to another machine only when this one may not write any more.
    """
    until = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return
            # A loop device of before clears itself a moment after its mount has gone.
            if error.errno != errno.EWOULDBLOCK or time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return


def is_free(image: Path) -> bool:
    """Whether no loop device has ``image``, as far as its file system knows locks."""
    try:
        file = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _NO_LOCKS
    finally:
        os.close(file)
    return True


def cut(target: Path) -> None:
    """Have the ext4 file system at ``target`` write nothing more, its journal included (ext4's shutdown).

    For a disk that is another's by now: to unmount it in order would write over what is theirs.
    """
    try:
        folder = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(folder, _SHUTDOWN, struct.pack("I", _NO_FLUSH))
        finally:
            os.close(folder)
    except OSError as error:
        raise _told(f"{target} was not cut off", error) from error


# -- gocryptfs ----------------------------------------------------------------------------------------------
def _passphrase(key: bytes) -> bytes:
    return key.hex().encode() + b"\n"


def cipher_init(folder: Path, key: bytes) -> None:
    """Make ``folder`` (empty) an encrypted one under ``key``, which is 256 random bits: so the cheapest
    scrypt will do."""
    # The key goes through a pipe: arguments and environments can be read by others (CVE-2020-26261).
    done = subprocess.run(
        ["gocryptfs", "-init", "-q", "-nosyslog", "-scryptn", "10", "--", str(folder)],
        input=_passphrase(key),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise NodeError(f"gocryptfs -init: {done.stderr.decode(errors='replace').strip()[-300:]}")


class CipherMount:
    """A running gocryptfs: plaintext of ``folder`` at ``target``, from memory only.

    The agent mounts, and gives gocryptfs the open end (``/dev/fd/N``): no set-uid helper, no second process. And
    gocryptfs does not open a file of its own mount then, as it does otherwise: killed at that moment, it would wait
    for its own answer for ever, and with it the end of the agent's container.
    """

    def __init__(self, folder: Path, target: Path, key: bytes, *, seconds: float = 10) -> None:
        self.target = target
        with tempfile.TemporaryFile() as errors:
            try:
                device = _device("/dev/fuse", _FUSE)
            except OSError as error:
                raise _told("/dev/fuse cannot be opened", error) from error
            try:
                options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
                _mount(SOURCE, target, "fuse.gocryptfs", MS_NOSUID | MS_NODEV, f"{options},max_read=1048576")
                self._process = subprocess.Popen(
                    [
                        *("gocryptfs", "-q", "-fg", "-nosyslog", "-allow_other", "-nosuid", "-nodev", "--"),
                        *(str(folder), f"/dev/fd/{device}"),
                    ],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    pass_fds=(device,),
                    start_new_session=True,
                )
            except OSError as error:
                unmount(target)
                raise _told(f"gocryptfs was not started for {target}", error) from error
            finally:
                # gocryptfs alone holds it: when it ends, for whatever reason, every access fails and none waits.
                os.close(device)
            try:
                assert self._process.stdin is not None  # noqa: S101 - for the type checker: asked for above
                self._process.stdin.write(_passphrase(key))
                self._process.stdin.close()
                self._wait(target, seconds)
            except (OSError, NodeError) as error:
                self.close()
                errors.seek(0)
                said = errors.read()[-300:].decode(errors="replace").strip()
                raise NodeError(f"gocryptfs did not mount {target}: {said or error}") from error

    def _wait(self, target: Path, seconds: float) -> None:
        """Ask for the root folder until gocryptfs answers; the question waits in the kernel, its end ends it."""
        watchdog = threading.Timer(seconds, self._process.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            next(target.iterdir(), None)
        finally:
            watchdog.cancel()

    @property
    def alive(self) -> bool:
        """Whether it still serves."""
        return self._process.poll() is None

    def close(self) -> None:
        """Unmount and end it: what was written is on its way to the disk, encrypted, before this returns."""
        unmount(self.target)
        try:
            self._process.wait(timeout=3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

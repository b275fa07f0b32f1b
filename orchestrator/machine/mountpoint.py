"""The one folder through which the node agent hands mounts to workspaces, made a shared mount of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

from orchestrator.errors import NodeError


def _mount(*words: str) -> None:
    done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NodeError(f"mount {' '.join(words)}: {done.stderr.strip()}", hint="run as root on the machine itself")


def mounts_below(folder: Path) -> list[Path]:
    """Every mount point at or below ``folder``, the deepest and latest first (from ``/proc/self/mountinfo``)."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        where = Path(line.split()[4].encode().decode("unicode_escape"))
        if where == folder or folder in where.parents:
            found.append(where)
    return found[::-1]


def is_shared(folder: Path) -> bool:
    """Whether ``folder`` is a mount point that propagates to its peers."""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        words = line.split()
        if words[4] == str(folder):
            return any(word.startswith("shared:") for word in words[6 : words.index("-")])
    return False


def share(folder: Path) -> None:
    """Make ``folder`` a mount point with shared propagation, so that mounts cross into running containers.

    Only this folder is shared, never ``/``: no other mount of the machine becomes visible to a container.
    """
    if is_shared(folder):
        return
    if not folder.is_mount():
        _mount("--bind", str(folder), str(folder))
    _mount("--make-private", str(folder))
    _mount("--make-shared", str(folder))


def unshare(folder: Path) -> None:
    """Unmount all at and below ``folder``; what is still in use is detached and goes with its last user."""
    for where in mounts_below(folder):
        done = subprocess.run(["umount", str(where)], capture_output=True, text=True, check=False)
        if done.returncode:
            subprocess.run(["umount", "--lazy", str(where)], capture_output=True, check=False)

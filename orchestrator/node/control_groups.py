"""What a pod uses, as the kernel counts it: the control group that its kubelet made for it, of either version.

Below ``/sys/fs/cgroup`` of the node, which the agent's container has read-only. The engine need not be asked, nor
kubelet, whose summary costs a walk over every folder of the node.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from orchestrator.errors import NodeError
from orchestrator.workspaces.runtime import Found, Used

ROOT = Path("/sys/fs/cgroup")
#: kubelet's groups lie no deeper, whatever runs kubelet
_DEEPEST = 7
#: groups of containers and services: no pod's lies in one
_LEAF = re.compile(r".*\.(?:service|scope|mount|swap|socket)|.*pod[0-9a-f]{8}[-_][0-9a-f]{4}[-_].*")


class ControlGroups:
    """Looks up and reads the groups of pods; ``pod_of`` gives the uid of the pod of a session, None: there is none."""

    def __init__(self, pod_of: Callable[[str], str | None], root: Path = ROOT) -> None:
        self._pod_of = pod_of
        self._root = root
        self._found: dict[str, dict[str, Path]] = {}

    def list(self, session: str) -> list[Found]:
        """The pod of a session, as one."""
        uid = self._pod_of(session)
        return [] if uid is None else [Found(uid, session, "", True)]

    def used(self, container: str) -> Used:
        """What the pod with this uid used.

        Raises:
            NodeError: its group is not there, or says nothing that can be understood.
        """
        try:
            groups = self._found.get(container) or self._look_up(container)
            if "unified" in groups:
                return _unified(groups["unified"])
            return Used(
                cpu_seconds=int((groups["cpuacct"] / "cpuacct.usage").read_text()) / 1e9,
                memory_bytes=_without_cache(groups["memory"], "memory.usage_in_bytes", "total_inactive_file"),
            )
        except (OSError, ValueError, KeyError, IndexError, StopIteration) as error:
            self._found.pop(container, None)
            raise NodeError(f"the kernel's count for pod {container} cannot be read: {error!r}") from error

    def _look_up(self, uid: str) -> dict[str, Path]:
        places = {"unified": self._root} if (self._root / "cgroup.controllers").exists() else self._first_version()
        groups = {kind: found for kind, place in places.items() if (found := _group(place, uid)) is not None}
        if groups.keys() != places.keys():
            raise NodeError(f"pod {uid} has no control group below {self._root}")
        if len(self._found) > 1000:
            self._found.clear()
        self._found[uid] = groups
        return groups

    def _first_version(self) -> dict[str, Path]:
        accounts = next(
            (self._root / each for each in ("cpuacct", "cpu,cpuacct") if (self._root / each).is_dir()), None
        )
        if accounts is None:
            raise NodeError(f"{self._root} holds no control groups", hint="mount the node's, read-only")
        return {"cpuacct": accounts, "memory": self._root / "memory"}


def _group(root: Path, uid: str) -> Path | None:
    """The group of a pod: ``…/pod<uid>`` or, where systemd keeps them, ``…-pod<uid, with _>.slice``."""
    wanted = (f"pod{uid}", f"pod{uid.replace('-', '_')}.slice")
    level = [str(root)]
    for _ in range(_DEEPEST):
        below: list[str] = []
        for each in level:
            try:
                with os.scandir(each) as entries:
                    folders = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
            except FileNotFoundError:
                continue
            for entry in folders:
                if entry.name.endswith(wanted):
                    return Path(entry.path)
                if not _LEAF.fullmatch(entry.name):
                    below.append(entry.path)
        level = below
    return None


def _unified(group: Path) -> Used:
    seconds = _line(group / "cpu.stat", "usage_usec") / 1e6
    return Used(seconds, _without_cache(group, "memory.current", "inactive_file"))


def _without_cache(group: Path, now: str, cache: str) -> float:
    return max(0.0, float(int((group / now).read_text()) - _line(group / "memory.stat", cache)))


def _line(file: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in file.read_text().splitlines() if line.split()[:1] == [name])

"""Measures what sessions use, how large folders are and how the machine does, and tells the authority.

Totals are kept since a session began, one for each calendar month in UTC, and told again and again until the
authority has taken the last: a report that is lost or comes twice changes nothing.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from orchestrator.errors import BulleError
from orchestrator.governance.cards import FolderSize, Machine, NodeReport, SessionUsage
from orchestrator.node.folders import Folders, home_key, project_key
from orchestrator.node.grants import Clock
from orchestrator.node.ports import UsageDesk
from orchestrator.node.session_table import State
from orchestrator.terms import Grant
from orchestrator.workspaces.runtime import Found, Used

_log = logging.getLogger(__name__)

#: seconds between two looks at a session's containers
SAMPLE_SECONDS = 5.0
#: seconds between two reports
REPORT_SECONDS = 30.0
#: seconds between two measurements of the folders that were in use
SIZES_SECONDS = 3600.0
#: lines in one report
MOST = 500
_GB = 1e9


def shares(since: datetime, until: datetime) -> list[tuple[str, float]]:
    """The calendar months in UTC between two moments, and the share of the time that lies in each; they add up to 1.

    Where a clock was set back, all of it is in the month of ``until``.
    """
    since, until = since.astimezone(UTC), until.astimezone(UTC)
    if until <= since:
        return [(until.strftime("%Y-%m"), 1.0)]
    whole, found = (until - since).total_seconds(), []
    while since < until:
        first = since.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        end = min(until, (first + timedelta(days=32)).replace(day=1))
        found.append((since.strftime("%Y-%m"), (end - since).total_seconds() / whole))
        since = end
    return found


@dataclass
class _Totals:
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    memory_gb_seconds: float = 0.0


@dataclass
class _Count:
    """What is counted of one session."""

    grant: Grant
    began: datetime
    at: datetime
    tick: float
    #: processor seconds of each container at the last sample
    cpu: dict[str, float] = field(default_factory=dict)
    memory: float = 0.0
    months: dict[str, _Totals] = field(default_factory=dict)
    ended: datetime | None = None

    def record(self) -> dict[str, Any]:
        """As it is kept for the next agent."""
        return {
            "grant": self.grant.model_dump(mode="json"),
            "began": self.began.isoformat(),
            "at": self.at.isoformat(),
            "ended": self.ended and self.ended.isoformat(),
            "cpu": self.cpu,
            "memory": self.memory,
            "months": {month: list(vars(totals).values()) for month, totals in self.months.items()},
        }

    @classmethod
    def of(cls, record: Mapping[str, Any], now: datetime, tick: float) -> _Count:
        """What :meth:`record` wrote; the time since then is counted at the next look."""
        at = datetime.fromisoformat(record["at"])
        return cls(
            grant=Grant.model_validate(record["grant"]),
            began=datetime.fromisoformat(record["began"]),
            at=at,
            tick=tick - max(0.0, (now - at).total_seconds()),
            cpu={str(name): float(seconds) for name, seconds in record["cpu"].items()},
            memory=float(record["memory"]),
            months={month: _Totals(*map(float, totals)) for month, totals in record["months"].items()},
            ended=datetime.fromisoformat(record["ended"]) if record["ended"] else None,
        )

    def go_on(self, now: datetime, tick: float) -> None:
        """Count the time until now, and the memory of the last sample over it."""
        seconds = max(0.0, tick - self.tick)
        for month, share in shares(self.at, now):
            totals = self.months.setdefault(month, _Totals())
            totals.seconds += seconds * share
            totals.memory_gb_seconds += self.memory / _GB * seconds * share
        self.at, self.tick = now, tick

    def processor(self, since: datetime, seconds: float) -> None:
        """Count processor time that was used since the sample before."""
        for month, share in shares(since, self.at):
            self.months.setdefault(month, _Totals()).cpu_seconds += seconds * share

    def lines(self) -> list[SessionUsage]:
        return [
            SessionUsage(
                session=self.grant.session,
                month=month,
                project_id=self.grant.project_id,
                person=self.grant.person,
                began=self.began,
                seen=self.at,
                ended=self.ended,
                seconds=totals.seconds,
                cpu_seconds=totals.cpu_seconds,
                memory_gb_seconds=totals.memory_gb_seconds,
            )
            for month, totals in sorted(self.months.items())
        ]


class Running(Protocol):
    """What runs on this machine or node."""

    def grants(self, *states: State) -> list[Grant]:
        """Of the sessions in these states."""


class Engine(Protocol):
    """Whoever runs the containers, or the kernel that counts what they use."""

    def list(self, session: str) -> list[Found]:
        """The containers of a session."""

    def used(self, container: str) -> Used:
        """What one used; raises NodeError where that cannot be said."""


class Meter:
    """Counts; one thread calls it. With ``kept`` the counts outlive the agent, for sessions that do too."""

    def __init__(
        self,
        *,
        sessions: Running,
        runtime: Engine,
        folders: Folders,
        state: Path,
        desk: UsageDesk,
        clock: Clock,
        ticks: Callable[[], float],
        kept: Path | None = None,
        node: str = "",
    ) -> None:
        self._sessions = sessions
        self._runtime = runtime
        self._folders = folders
        self._state = state
        self._desk = desk
        self._clock = clock
        self._ticks = ticks
        self._counts: dict[str, _Count] = {}
        self._sampled: dict[str, datetime] = {}
        #: folders that were in use since the agent began
        self._used: dict[tuple[str, str], str] = {}
        self._sizes: dict[tuple[str, str], float] = {}
        self._kept = kept
        self._node = node
        if kept is not None:
            self._take_up(kept)

    def look(self) -> None:
        """Count the time of what runs, begin to count what is new, close what is gone."""
        now, tick = self._clock(), self._ticks()
        running = {grant.session: grant for grant in self._sessions.grants(State.RUNNING)}
        for name, grant in running.items():
            if name not in self._counts:
                self._begin(_Count(grant, now, now, tick))
                # At once: a session that is over before the next sample has used something too.
                self._sample(name, self._counts[name])
        for name, count in self._counts.items():
            if count.ended is None:
                count.go_on(now, tick)
                if name not in running:
                    count.ended = now
                    self._measure((count.grant.project_id, count.grant.person))
                    self._measure((count.grant.project_id, ""))

    def sample(self) -> None:
        """Look at the containers of each running session. One that does not answer is looked at the next time."""
        self.look()
        for name, count in self._counts.items():
            if count.ended is None:
                self._sample(name, count)
        self._keep()

    def _keep(self) -> None:
        if self._kept is None:
            return
        fresh = self._kept.with_name(f"{self._kept.name}.new")
        try:
            fresh.write_text(json.dumps([each.record() for each in self._counts.values()]), encoding="utf-8")
            fresh.replace(self._kept)
        except OSError as error:
            _log.warning("what was counted was not written down: %s", error.strerror)

    def _take_up(self, kept: Path) -> None:
        try:
            found = [_Count.of(each, self._clock(), self._ticks()) for each in json.loads(kept.read_bytes())]
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("what an earlier agent counted cannot be read: %s", error)
            return
        for each in found:
            self._begin(each)

    def _begin(self, count: _Count) -> None:
        grant = count.grant
        self._counts[grant.session] = count
        self._used[grant.project_id, grant.person] = home_key(grant.project_id, grant.person)
        self._used[grant.project_id, ""] = project_key(grant.project_id)

    def _sample(self, name: str, count: _Count) -> None:
        memory, used = 0.0, 0.0
        try:
            for found in self._runtime.list(name):
                if not found.running:
                    continue
                now = self._runtime.used(found.id)
                memory += now.memory_bytes
                used += max(0.0, now.cpu_seconds - count.cpu.get(found.id, 0.0))
                count.cpu[found.id] = now.cpu_seconds
        except BulleError as error:
            _log.info("session %s was not measured: %s", name, error)
        else:
            count.memory = memory
        # What was read of the processor is counted even where a later container did not answer.
        count.processor(self._sampled.get(name, count.began), used)
        self._sampled[name] = count.at

    def measure(self) -> None:
        """Look how large the folders are that were in use."""
        for folder in list(self._used):
            self._measure(folder)

    def emptied(self, project_id: str, persons: list[str]) -> None:
        """The folders of a project are destroyed: they take nothing any more."""
        for person in ("", *persons):
            self._used.pop((project_id, person), None)
            self._sizes[project_id, person] = 0.0

    def _measure(self, folder: tuple[str, str]) -> None:
        if folder in self._used:
            size = self._folders.size(self._used[folder])
            if size is not None:
                self._sizes[folder] = float(size)

    def report(self) -> None:
        """Tell all that is counted. What has ended, and sizes, are told until the authority took them once.

        Raises:
            BulleError: it did not take them; they are told again.
        """
        self.look()
        machine = machine_of(self._state)
        lines = [line for count in self._counts.values() for line in count.lines()]
        ended = [name for name, count in self._counts.items() if count.ended is not None]
        sizes = dict(self._sizes)
        folders = [FolderSize(project_id=key[0], person=key[1], bytes_used=size) for key, size in sizes.items()]
        for at in range(0, max(len(lines), len(folders), 1), MOST):
            self._desk.report_usage(
                NodeReport(
                    machine=machine,
                    node=self._node,
                    sessions=tuple(lines[at : at + MOST]),
                    folders=tuple(folders[at : at + MOST]),
                )
            )
        for name in ended:
            del self._counts[name]
            self._sampled.pop(name, None)
        self._keep()
        for folder, size in sizes.items():
            if self._sizes.get(folder) == size:
                del self._sizes[folder]


def machine_of(state: Path) -> Machine:
    """What the machine has and has left; storage is that below ``state``."""
    memory = {}
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        name, _, amount = line.partition(":")
        memory[name] = float(amount.split()[0]) * 1024 / _GB
    disk = os.statvfs(state)
    return Machine(
        cpus=os.cpu_count() or 0,
        load=os.getloadavg()[0],
        memory_total_gb=memory["MemTotal"],
        memory_free_gb=memory["MemAvailable"],
        storage_total_gb=disk.f_blocks * disk.f_frsize / _GB,
        storage_free_gb=disk.f_bavail * disk.f_frsize / _GB,
    )

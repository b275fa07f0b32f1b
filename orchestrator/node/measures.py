"""What the node agent measures."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.errors import BulleError, IsolationError, RefusedError
from orchestrator.governance.cards import Machine
from orchestrator.metrics.measures import STARTS, Count, Level, Timing

STATES = ("starting", "proving", "mounting", "running", "stopping")
KINDS = ("view", "home", "project")
#: steps of a start as they are measured. Keys, view and folders come at the same time: together they are ``mounting``
STEPS = ("starting", "proving", "mounting", "desktop")
_MEASURED_AS = {"keys": "mounting", "view": "mounting", "folders": "mounting"}

WORKSPACES = Level("node", "workspaces", "Workspaces on this machine.", state=STATES)
WORKSPACE_STARTS = Count(
    "node",
    "workspace_starts_total",
    "Starts of workspaces. Isolation: the probe found a way out, and nothing was mounted.",
    outcome=("done", "refused", "isolation", "aborted", "failed"),
)
START_SECONDS = Timing("node", "workspace_start_seconds", "Time of a start that came about.", STARTS)
STEP_SECONDS = Timing("node", "workspace_start_step_seconds", "Time of each step of a start.", STARTS, step=STEPS)
STOP_SECONDS = Timing(
    "node",
    "workspace_stop_seconds",
    "Time from the order to nothing left; failed: something stayed, and is tried again.",
    STARTS,
    outcome=("done", "failed"),
)
PROBES = Count("node", "probe_runs_total", "Runs of the isolation probe.", outcome=("passed", "refused"))
PROBE_FINDINGS = Count("node", "probe_findings_total", "Ways out that the isolation probe found.")
VIEW_SECONDS = Timing("node", "view_build_seconds", "Time to build a view.", STARTS, outcome=("done", "failed"))
MOUNTS = Level("node", "mounts", "Volumes that show in workspaces.", kind=KINDS)
RECONCILE_AGE = Level("node", "reconcile_age_seconds", "Time since what runs was last compared with what is allowed.")
AUTHORITY_SILENCE = Level(
    "node", "authority_silence_seconds", "Time since the authority last answered; after 30 s everything stops."
)
EVENTS_WAITING = Level("node", "events_waiting", "Events that the audit log has not taken yet.")
CPUS = Level("node", "machine_cpus", "Processors of the machine.")
LOAD = Level("node", "machine_load", "Load of the machine, average of a minute.")
MEMORY = Level("node", "machine_memory_bytes", "Memory of the machine.", what=("total", "free"))
STORAGE = Level("node", "machine_storage_bytes", "Storage below the state folder.", what=("total", "free"))

_GB = 1e9


def start_outcome(error: BaseException | None) -> str:
    """How a start ended, in a word."""
    if error is None:
        return "done"
    if isinstance(error, IsolationError):
        return "isolation"
    if isinstance(error, RefusedError):
        return "refused"
    return "aborted" if isinstance(error, BulleError) and error.code == "aborted" else "failed"


class Steps:
    """Measures the steps of one start as they are told."""

    def __init__(self) -> None:
        self._began = self._since = time.monotonic()
        self._step: str | None = None

    def enter(self, step: str) -> None:
        """A step is told; the one before it is over. What is told again changes nothing."""
        step = _MEASURED_AS.get(step, step)
        if step == self._step:
            return
        now = time.monotonic()
        if self._step is not None:
            STEP_SECONDS.took(now - self._since, step=self._step)
        self._step, self._since = step, now

    def over(self, error: BaseException | None) -> None:
        """The start is over."""
        WORKSPACE_STARTS.add(outcome=start_outcome(error))
        if error is None:
            START_SECONDS.took(time.monotonic() - self._began)


def follow_machine(look: Callable[[Path], Machine], state: Path) -> None:
    """Tell how the machine does from now on; ``look`` reads it."""
    CPUS.follow(lambda: look(state).cpus)
    LOAD.follow(lambda: look(state).load)
    MEMORY.follow(lambda: look(state).memory_total_gb * _GB, what="total")
    MEMORY.follow(lambda: look(state).memory_free_gb * _GB, what="free")
    STORAGE.follow(lambda: look(state).storage_total_gb * _GB, what="total")
    STORAGE.follow(lambda: look(state).storage_free_gb * _GB, what="free")

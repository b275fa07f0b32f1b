"""What every node agent does from time to time, on a machine and on a node of a cluster: measures, reports, closes."""

from __future__ import annotations

import time
from pathlib import Path

from orchestrator.config import Layout
from orchestrator.node import measures
from orchestrator.node.asking import Asking
from orchestrator.node.closings import CLOSING_SECONDS, Closer, Showing
from orchestrator.node.folders import Folders
from orchestrator.node.journal import Journal
from orchestrator.node.parts import CommonParts
from orchestrator.node.rounds import Rounds
from orchestrator.node.usage import REPORT_SECONDS, SAMPLE_SECONDS, SIZES_SECONDS, Engine, Meter, Running, machine_of
from orchestrator.process import now


def chores(
    parts: CommonParts,
    *,
    journal: Journal,
    folders: Folders,
    volumes: Showing,
    sessions: Running,
    runtime: Engine,
    layout: Layout,
    kept: Path | None = None,
    node: str = "",
) -> tuple[Meter, Rounds]:
    """The meter, and the rounds in which it counts and closings are done; not begun.

    Apart from the watch: whatever these wait for, a session that must end ends. ``kept``, ``node``: see
    :class:`Meter`.
    """
    meter = Meter(
        sessions=sessions,
        runtime=runtime,
        folders=folders,
        state=layout.folders,
        desk=parts.authority,
        clock=now,
        ticks=time.monotonic,
        kept=kept,
        node=node,
    )
    closer = Closer(
        desk=parts.authority,
        journal=journal,
        keys=parts.keys,
        folders=folders,
        place=layout.folders,
        sessions=sessions,
        volumes=volumes,
        emptied=meter.emptied,
    )
    return meter, Rounds(
        [
            (1.0, meter.look),
            (SAMPLE_SECONDS, meter.sample),
            (SIZES_SECONDS, meter.measure),
            (REPORT_SECONDS, meter.report),
            (CLOSING_SECONDS, closer.round),
            (SIZES_SECONDS, folders.sweep),
        ]
    )


def follow(asking: Asking, journal: Journal, disks: Path) -> None:
    """Tell from now on how the agent itself does, and its machine."""
    measures.RECONCILE_AGE.follow(lambda: asking.age)
    measures.AUTHORITY_SILENCE.follow(lambda: asking.silence)
    measures.EVENTS_WAITING.follow(lambda: journal.waiting)
    measures.follow_machine(machine_of, disks)

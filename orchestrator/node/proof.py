"""Whether the isolation probe found a way out: one judgement of its report, for one machine and for a cluster.

Nothing is mounted and no key is released before :func:`judge` has returned.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.config import Uid
from orchestrator.errors import IsolationError, NodeError
from orchestrator.node import measures
from orchestrator.node.journal import Journal
from orchestrator.node.session_table import why
from orchestrator.terms import Grant, Outcome
from orchestrator.workspaces import isolation


def judge(
    report: list[dict[str, str]], targets: isolation.Targets, grant: Grant, journal: Journal, *, locked: bool
) -> None:
    """Judge what the probe of a session's sandbox found at ``targets``; audited either way. ``locked``: in a pod.

    Raises:
        IsolationError: something is open.
        BulleError: that it passed could not be audited.
    """
    if findings := isolation.evaluate(report, targets, locked=locked):
        measures.PROBE_FINDINGS.add(len(findings))
        named = [str(finding)[:300] for finding in findings[:50]]
        _refused(grant, journal, code="isolation", findings=named)
        raise isolation.refusal(findings)
    measures.PROBES.add(outcome="passed")
    journal.done("probe.passed", grant, attempts=len(report))


@contextmanager
def reported(grant: Grant, journal: Journal) -> Iterator[None]:
    """Within it a report is asked for: that there is none, which proves nothing, is audited."""
    try:
        yield
    except (IsolationError, NodeError) as error:
        _refused(grant, journal, **why(error))
        raise


def _refused(grant: Grant, journal: Journal, **detail: Any) -> None:
    measures.PROBES.add(outcome="refused")
    journal.after("probe.refused", Outcome.REFUSED, grant, **detail)


def left_report(place: Path) -> list[dict[str, str]] | None:
    """The report that a probe left in a folder of its sandbox; None: not yet.

    Raises:
        IsolationError: what lies there is no whole report of the sandbox's user.
    """
    try:
        # Neither followed nor waited for: the folder is the sandbox's.
        handle = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise IsolationError(f"the isolation probe's report cannot be read: {error.strerror}") from error
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != Uid.SANDBOX:
            raise IsolationError("the isolation probe's report is not a file of the sandbox's user")
        content = file.read(isolation.MOST + 1)
    if len(content) > isolation.MOST:
        raise IsolationError(f"the isolation probe's report is longer than {isolation.MOST} bytes")
    return isolation.parse_report(0, content)

"""What the authority measures."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from orchestrator.audit import AuditLog
from orchestrator.errors import BulleError, RefusedError, SecondPersonError
from orchestrator.governance.access import ACCESS_RULES, PERMIT_REPLACED
from orchestrator.governance.operations import OPERATIONS
from orchestrator.governance.rules import Action
from orchestrator.governance.service import Governance
from orchestrator.governance.usage import QUOTA_USED
from orchestrator.metrics.measures import Count, Level, Timing

#: rules that stand in no table: each is named where it is kept
SINGLE_RULES = (
    "a-person",
    "chain",
    "lapse",
    "own-events",
    "passkey",
    "project-closed",
    "retention",
    "separate-roles",
    "signature",
    "token-scope",
)
RULES = frozenset({rule.code for rule in ACCESS_RULES} | {PERMIT_REPLACED.code, QUOTA_USED, *Action, *SINGLE_RULES})

DECISIONS = Timing(
    "authority",
    "decision_seconds",
    "Time to decide whether a workspace may open, or may go on.",
    question=("open", "check"),
)
OPERATION_SECONDS = Timing(
    "authority",
    "operation_seconds",
    "Time of an operation that the portal, the API or a token asked for.",
    operation=OPERATIONS,
    outcome=("done", "waits", "refused", "failed"),
)
REFUSALS = Count(
    "authority", "refusals_total", "Refusals by the rule that refused, to people and of sessions.", rule=RULES
)
GRANTS = Count("authority", "grants_total", "Grants asked for.", outcome=("done", "refused"))
NOTICES_UNSENT = Level("authority", "notices_unsent", "Notices that wait to be sent, those given up included.")
NODE_SILENCE = Level(
    "authority", "node_silence_seconds", "Time since the node agent last asked about what runs; NaN before it did."
)
AUDIT_RECORDS = Level("authority", "audit_records", "Records of the audit log.")

_NAMED = re.compile(r"refused by rule ([a-z.-]+)")


def refused(told: str) -> None:
    """Count a refusal by the rule that its words name (``refused by rule permit.approve/not-drafter: …``)."""
    found = _NAMED.match(told)
    REFUSALS.add(rule=found[1] if found else "")


def outcome_of(error: BulleError | None) -> str:
    """How a call ended, in a word."""
    if error is None:
        return "done"
    if isinstance(error, SecondPersonError):
        return "waits"
    return "refused" if isinstance(error, RefusedError) else "failed"


@contextmanager
def operation(name: str) -> Iterator[None]:
    """Measure an operation, whatever comes of it."""
    began, outcome = time.perf_counter(), "failed"
    try:
        yield
        outcome = "done"
    except BulleError as error:
        outcome = outcome_of(error)
        raise
    finally:
        OPERATION_SECONDS.took(time.perf_counter() - began, operation=name, outcome=outcome)


def follow(governance: Governance) -> None:
    """Tell the levels of this governance from now on."""

    def silence() -> float | None:
        heard: datetime | None = governance.node_heard_at
        return None if heard is None else (governance.now() - heard).total_seconds()

    def records() -> float | None:
        return governance.audit.head().seq if isinstance(governance.audit, AuditLog) else None

    NOTICES_UNSENT.follow(governance.unsent_count)
    NODE_SILENCE.follow(silence)
    AUDIT_RECORDS.follow(records)

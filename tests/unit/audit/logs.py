"""Logs to break."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from orchestrator.audit import AuditLog
from orchestrator.audit.chain import Head
from orchestrator.terms import Event, Outcome

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
START = datetime(2026, 1, 1, tzinfo=UTC)


def ticking():
    ticks = itertools.count()
    return lambda: START + timedelta(seconds=next(ticks))


def event(number: int = 0, **fields) -> Event:
    values = {
        "kind": "workspace.start",
        "actor": "node-agent",
        "outcome": Outcome.STARTED,
        "person": f"person-{number}",
        "project": "sleep",
        "detail": {"number": number},
    }
    return Event(**{**values, **fields})


def opened(folder: Path, records: int = 0) -> AuditLog:
    """A log of ``records`` records after its opening one."""
    log = AuditLog(folder, KEY, clock=ticking())
    log.create()
    for number in range(records):
        log.record(event(number))
    return log


def reader(folder: Path) -> AuditLog:
    return AuditLog(folder, public_key=KEY.public_key(), clock=ticking())


def parsed_head(folder: Path) -> Head:
    return Head.parse((folder / "head.json").read_bytes(), KEY.public_key())

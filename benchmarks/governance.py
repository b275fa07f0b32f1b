"""How long a decision about access takes in a large deployment, on both databases, beside the bare question.

``python -m benchmarks.governance`` prints JSON: ``{name: {ours, peer, peer_name, unit, ratio}}``. The store holds
10,000 projects, 20,000 people and 100,000 memberships. Ours and the peer's are asked in turn, for the same people.

* ``governance.decide.p99.sqlite``, ``….postgresql``: a start and a check of a running session, each from the call to
  the answer, 99th percentile of both together.
* ``governance.open.p99.…``, ``governance.check.p99.…``: the same, apart.
* Peer: the database's own driver is asked one statement for the same six facts, and nothing is done with the answer.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from benchmarks import crowd
from orchestrator.governance.service import Governance
from orchestrator.governance.store import Store
from orchestrator.terms import SessionClaim
from tests.postgres import OWNER, Server, server
from tests.unit.governance.places import Kept, Shelf

PROJECTS, PEOPLE, MEMBERSHIPS = 10_000, 20_000, 100_000
ASKED, WARM = 4000, 400

_BARE = """SELECT person.disabled, person.gone_at, project.state, project.ends, membership.state, membership.ends,
  permit.terms, acceptance.accepted_at,
  (SELECT max(expires) FROM training WHERE training.person_id = person.id AND confirmed_by IS NOT NULL)
FROM person JOIN membership ON membership.person_id = person.id
JOIN project ON project.id = membership.project_id
JOIN permit ON permit.project_id = project.id AND permit.state = 'approved'
LEFT JOIN acceptance ON acceptance.person_id = person.id AND acceptance.version = '1'
WHERE person.id = {0} AND project.id = {0}"""

Ask = Callable[[str, str, str], object]


def measure(say: Callable[[str], None] = lambda told: None) -> dict[str, dict[str, Any]]:
    """Both databases, one after the other."""
    results: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        ram = "/dev/shm" if Path("/dev/shm").is_dir() else None
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=ram)))
        running = stack.enter_context(server())
        for kind, url, bare in (
            ("sqlite", f"sqlite:///{folder / 'governance.sqlite'}", _bare_sqlite(folder / "governance.sqlite")),
            ("postgresql", running.url("governance"), _bare_postgresql(running, "governance")),
        ):
            if kind == "postgresql":
                running.create("governance")
            say(f"governance on {kind}: {MEMBERSHIPS} memberships in {PROJECTS} projects")
            store = Store(url)
            store.prepare()
            members = crowd.fill(store, PROJECTS, PEOPLE, MEMBERSHIPS)[: ASKED + WARM]
            governance = Governance(store, Kept(), lambda: datetime.now(UTC), Shelf())
            with bare as peer:
                results |= _figures(kind, _timed(governance, peer, members))
            store.close()
    return results


def _timed(governance: Governance, peer: Ask, members: list[tuple[str, str, str]]) -> dict[str, list[float]]:
    def start(person: str, slug: str, project_id: str) -> object:
        return governance.may_open(person, slug)

    def check(person: str, slug: str, project_id: str) -> object:
        claim = SessionClaim(session="a" * 32, person=person, project_id=project_id, permit_version=2)
        (verdict,) = governance.check_sessions([claim])
        if not verdict.allowed:
            raise RuntimeError(verdict.reason)
        return verdict

    asks: dict[str, Ask] = {"open": start, "check": check, "peer": peer}
    took: dict[str, list[float]] = {name: [] for name in asks}
    for number, who in enumerate(members):
        for name, ask in asks.items():
            began = time.perf_counter()
            ask(*who)
            if number >= WARM:
                took[name].append((time.perf_counter() - began) * 1000)
    return took


def _figures(kind: str, took: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    peer = _p99(took["peer"])
    ours = {"decide": took["open"] + took["check"], "open": took["open"], "check": took["check"]}
    return {
        f"governance.{name}.p99.{kind}": {
            "ours": round(_p99(found), 3),
            "peer": round(peer, 3),
            "peer_name": "the bare statement through the driver",
            "unit": "ms",
            "ratio": round(_p99(found) / peer, 3),
        }
        for name, found in ours.items()
    }


def _p99(found: list[float]) -> float:
    return sorted(found)[int(len(found) * 0.99)]


@contextmanager
def _bare_sqlite(path: Path) -> Iterator[Ask]:
    connection = sqlite3.connect(path)
    try:
        yield lambda person, slug, project: connection.execute(_BARE.format("?"), (person, project)).fetchone()
    finally:
        connection.close()


@contextmanager
def _bare_postgresql(running: Server, database: str) -> Iterator[Ask]:
    with psycopg.connect(host=str(running.socket), user=OWNER, dbname=database, autocommit=True) as connection:
        yield lambda person, slug, project: connection.execute(_BARE.format("%s"), (person, project)).fetchone()


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))

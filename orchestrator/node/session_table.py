"""The sessions that a part runs, and what is the same of them wherever: on one machine, and as pods of a cluster.

One workspace a person and project; a session ends once, and what of it did not go is tried again. How one is brought up
and taken down is for whoever derives from here: :mod:`orchestrator.node.sessions`, and the door of a cluster.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, TypeVar

from orchestrator.errors import BulleError, ConflictError, NodeError, NotFoundError, UnavailableError
from orchestrator.terms import Grant
from orchestrator.workspaces.spec import BRIDGE_PORT

_log = logging.getLogger(__name__)


class State(StrEnum):
    """Where a session is in its life."""

    STARTING = "starting"
    PROVING = "proving"
    MOUNTING = "mounting"
    RUNNING = "running"
    STOPPING = "stopping"


#: which state may follow which; there is nothing after STOPPING but being gone
FOLLOWS: dict[State, frozenset[State]] = {
    State.STARTING: frozenset({State.PROVING, State.STOPPING}),
    State.PROVING: frozenset({State.MOUNTING, State.STOPPING}),
    State.MOUNTING: frozenset({State.RUNNING, State.STOPPING}),
    State.RUNNING: frozenset({State.STOPPING}),
    State.STOPPING: frozenset(),
}
#: a start in one of these is under way
UNDER_WAY = (State.STARTING, State.PROVING, State.MOUNTING)


@dataclass(frozen=True)
class Step:
    """Progress of a start: a step by name (docs/architecture.md), and how far it is."""

    step: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class Described:
    """A session as the door shows it."""

    session: str
    person: str
    project: str
    state: State
    host: str
    port: int = BRIDGE_PORT


Report = Callable[[Step], None]


class AbortedError(BulleError):
    """Whoever asked for a start went away, or somebody stopped it."""

    code = "aborted"


@dataclass
class Life:
    """A session, as far as it is the same everywhere."""

    grant: Grant
    abort: threading.Event
    #: by this machine's clock, when it must be up
    deadline: float
    state: State = State.STARTING
    host: str = ""
    ending: threading.Lock = field(default_factory=threading.Lock, repr=False)
    gone: threading.Event = field(default_factory=threading.Event, repr=False)

    def enter(self, state: State) -> None:
        """Become ``state``."""
        if state not in FOLLOWS[self.state]:
            raise NodeError(f"a session that is {self.state} cannot become {state}")
        self.state = state

    def go_on(self) -> None:
        """Raise when this start is not wanted any more."""
        if self.abort.is_set():
            raise AbortedError("the start was aborted")

    def described(self) -> Described:
        """As the door shows it."""
        grant = self.grant
        return Described(grant.session, grant.person, grant.project, self.state, self.host)


Kept = TypeVar("Kept", bound=Life)


class SessionTable(ABC, Generic[Kept]):
    """The sessions that are not gone. Safe between threads."""

    #: who says that it takes no more starts, and what to do then
    called = "the node agent"
    stopping_hint: str | None = None
    #: how many sessions may be taken down at once; None: all
    stoppers: int | None = None

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._sessions: dict[str, Kept] = {}
        self._closed = False

    @abstractmethod
    def _end(self, session: Kept, reason: str) -> None:
        """Take a session down, once; raises BulleError where something of it did not go."""

    def _admit(self, session: Kept) -> None:
        """Take a session up, unless its person has one in its project.

        Raises:
            UnavailableError: no more starts are taken.
            ConflictError: there is one, on its way up or down perhaps.
        """
        grant = session.grant
        with self._guard:
            if self._closed:
                raise UnavailableError(f"{self.called} is stopping", hint=self.stopping_hint)
            for other in self._sessions.values():
                if (other.grant.person, other.grant.project_id) == (grant.person, grant.project_id):
                    raise ConflictError(
                        f"this workspace is {other.state} already",
                        hint="stop it first, or wait until it has stopped",
                    )
            if grant.session in self._sessions:
                raise ConflictError(f"session {grant.session} exists")
            self._sessions[grant.session] = session

    def _is_gone(self, session: Kept) -> None:
        """Nothing of it is left."""
        with self._guard:
            self._sessions.pop(session.grant.session, None)
        session.gone.set()

    # -- look -----------------------------------------------------------------------------------------------
    def every(self) -> list[Described]:
        """Every session that is not gone."""
        with self._guard:
            return [session.described() for session in self._sessions.values()]

    def get(self, session: str) -> Described:
        """One of them; raises NotFoundError."""
        with self._guard:
            found = self._sessions.get(session)
        if found is None:
            raise NotFoundError(f"no session {session[:64]}")
        return found.described()

    def grants(self, *states: State) -> list[Grant]:
        """The grants of the sessions in one of ``states``."""
        with self._guard:
            return [each.grant for each in self._sessions.values() if each.state in states]

    # -- stop -----------------------------------------------------------------------------------------------
    def stop(self, session: str, reason: str) -> None:
        """End a session and wait until nothing of it is left; one that is not there is no error.

        Raises:
            BulleError: something of it did not go; it is tried again by :meth:`retry`.
        """
        with self._guard:
            found = self._sessions.get(session)
            if found is None:
                return
            found.abort.set()
            starting = found.state in UNDER_WAY
        if starting:
            # The thread that starts it notices and takes all back.
            if not found.gone.wait(timeout=30):
                raise NodeError(f"session {session} is still being taken down")
            return
        self._end(found, reason)

    def retry(self) -> None:
        """Try again to take down what did not go before."""
        with self._guard:
            left = [each for each in self._sessions.values() if each.state is State.STOPPING]
        for session in left:
            if session.ending.acquire(blocking=False):
                session.ending.release()
                try:
                    self._end(session, "retried")
                except BulleError as error:
                    _log.error("session %s: %s", session.grant.session, error)

    def stop_all(self, reason: str, sessions: list[str] | None = None) -> None:
        """End these sessions (None: every one) at the same time; faults are logged and left to :meth:`retry`."""
        with self._guard:
            names = list(self._sessions) if sessions is None else sessions
        if not names:
            return
        # Threads of their own: each of these waits for work that a pool of the table's owner may do.
        most = min(self.stoppers or len(names), len(names))
        with ThreadPoolExecutor(max_workers=most, thread_name_prefix="stop") as stoppers:
            jobs = [(name, stoppers.submit(self.stop, name, reason)) for name in names]
        for name, job in jobs:
            try:
                job.result()
            except BulleError as error:
                _log.error("session %s did not end: %s", name, error)

    def stop_refused(self, refused: dict[str, str]) -> None:
        """End sessions, each for its reason (session → reason), all of one reason at the same time."""
        by_reason: dict[str, list[str]] = {}
        for name, reason in refused.items():
            by_reason.setdefault(reason, []).append(name)
        for reason, names in by_reason.items():
            self.stop_all(reason, names)


def why(error: BaseException) -> dict[str, Any]:
    """What the audit log is told of a start that failed."""
    if isinstance(error, BulleError):
        return {"code": error.code, "message": error.message[:1000]}
    return {"code": "unforeseen", "message": type(error).__name__}

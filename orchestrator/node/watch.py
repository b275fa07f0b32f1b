"""Watches what runs: dead containers, passed ends, and every few seconds what the authority says of each
session.

A revoked member's session ends and its mounts go within seconds, also when the hub is down: the hub is not
asked.
"""

from __future__ import annotations

import logging
import threading
import time

from orchestrator.errors import BulleError
from orchestrator.node.asking import Asking, claim_of
from orchestrator.node.grants import Clock
from orchestrator.node.journal import Journal
from orchestrator.node.ports import Authority
from orchestrator.node.session_table import State
from orchestrator.node.sessions import Sessions
from orchestrator.node.volumes import Volumes
from orchestrator.workspaces.runtime import Runtime

_log = logging.getLogger(__name__)

_PARTS = 3
_UP = (State.MOUNTING, State.RUNNING)


class Watch:
    """One thread that looks, and stops what must not run."""

    def __init__(
        self,
        *,
        sessions: Sessions,
        volumes: Volumes,
        runtime: Runtime,
        authority: Authority,
        journal: Journal,
        clock: Clock,
        seconds: float,
    ) -> None:
        self._sessions = sessions
        self._volumes = volumes
        self._runtime = runtime
        self._asking = Asking(authority)
        self._journal = journal
        self._clock = clock
        self._seconds = seconds
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    @property
    def asking(self) -> Asking:
        """The question to the authority, and how long ago it was answered."""
        return self._asking

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more; returns when the thread has ended."""
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        asked = 0.0
        while not self._end.wait(min(0.5, self._seconds)):
            try:
                self.look()
                if time.monotonic() - asked >= self._seconds:
                    asked = time.monotonic()
                    self.ask()
                    self._asking.compared()
                    self._sessions.retry()
            except Exception:  # noqa: BLE001 - see below
                # Whatever it was, the next look must come: this thread is what ends sessions.
                _log.exception("the watch stumbled")

    def look(self) -> None:
        """Stop sessions of which a container ended, or whose time is over."""
        running = self._sessions.grants(State.RUNNING)
        now = self._clock()
        over = [grant.session for grant in running if now >= grant.ends_at]
        if over:
            self._sessions.stop_all("its end has come", over)
        if not running:
            return
        for grant in running:
            try:
                self._volumes.refuse_lost(grant.session)
            except BulleError as error:
                self._sessions.stop_all(error.message, [grant.session])
        try:
            found = self._runtime.list()
        except BulleError as error:
            _log.error("containers cannot be looked at: %s", error)
            return
        alive: dict[str, int] = {}
        for each in found:
            alive[each.session] = alive.get(each.session, 0) + each.running
        died = [grant.session for grant in running if alive.get(grant.session, 0) < _PARTS]
        if died:
            self._sessions.stop_all("a part of it ended", died)

    def ask(self) -> None:
        """Ask the authority about every session, and every volume of one; stop what it does not allow.

        What that is: :meth:`orchestrator.node.asking.Asking.refused`.
        """
        grants = {grant.session: grant for grant in self._sessions.grants(*_UP)}
        known = {each.session for each in self._sessions.every()}
        volumes = [each for each in self._volumes.published() if each.grant.session not in known]
        grants.update({each.grant.session: each.grant for each in volumes})
        self._journal.catch_up()
        refused = self._asking.refused(map(claim_of, grants.values()))
        self._sessions.stop_refused(refused)
        for each in volumes:
            if each.grant.session in refused:
                self._volumes.unpublish(str(each.target))

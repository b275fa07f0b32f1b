"""Compares what the door runs with what is allowed, and with what the cluster says of it.

Two threads, because neither may hold up the other: a cluster whose API hangs must not keep the authority's refusals
from being known, and the reverse.
"""

from __future__ import annotations

import logging
import threading
import time

from orchestrator.cluster import pods
from orchestrator.cluster.projects import Projects
from orchestrator.cluster.sessions import PodSession, PodSessions
from orchestrator.cluster_api import HttpsApi, Manifest
from orchestrator.config import Kubernetes
from orchestrator.errors import BulleError, ForbiddenError, UnavailableError
from orchestrator.node.asking import Asking, claim_of
from orchestrator.node.grants import Clock
from orchestrator.node.journal import Journal
from orchestrator.node.ports import Authority
from orchestrator.node.rounds import again_and_again
from orchestrator.node.session_table import State
from orchestrator.workspaces.pod import namespace_of
from orchestrator.workspaces.spec import LABEL_DEPLOYMENT

_log = logging.getLogger(__name__)

#: seconds for which a pod's node, or its bridge, may be silent; the cluster itself takes 40 s to notice
LOST = 30.0
#: seconds between two looks for what is nobody's, and at the list of projects
SWEEP = 60.0
#: seconds for which a namespace on the list may be closed to a door that begins: the controller, or the cluster after
#: its own start, may need them; after that it was never made
CLOSED = 20.0


class DoorWatch:
    """Looks, and stops what must not run."""

    def __init__(
        self,
        sessions: PodSessions,
        projects: Projects,
        *,
        api: HttpsApi,
        cluster: Kubernetes,
        deployment: str,
        authority: Authority,
        journal: Journal,
        clock: Clock,
        seconds: float,
    ) -> None:
        self._sessions = sessions
        self._projects = projects
        self._api = api
        self._cluster = cluster
        self._labels = f"{LABEL_DEPLOYMENT}={deployment}"
        self._asking = Asking(authority)
        self._journal = journal
        self._clock = clock
        self._seconds = seconds
        self._swept = time.monotonic()
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=self._look_on, name="look", daemon=True),
            threading.Thread(target=again_and_again, args=(self.ask, seconds, self._end), name="ask", daemon=True),
        ]

    @property
    def asking(self) -> Asking:
        """The question to the authority, and how long ago it was answered."""
        return self._asking

    def start(self) -> None:
        """Take up what an earlier door left, and then look."""
        for each in self._threads:
            each.start()

    def stop(self) -> None:
        """Look no more."""
        self._end.set()
        for each in self._threads:
            if each.is_alive():
                each.join(10)

    def _look_on(self) -> None:
        while not self._end.is_set():
            try:
                taken, removed = self.recover()
            except BulleError as error:
                _log.error("what runs is not known, so nothing is started: %s", error)
                self._end.wait(1)
                continue
            _log.info("%d sessions taken up, %d leftovers removed", taken, removed)
            break
        again_and_again(self.look, self._seconds, self._end)

    # -- at the beginning -------------------------------------------------------------------------------------
    def recover(self) -> tuple[int, int]:
        """Find the sessions of an earlier door again; how many there were, and how many half-made ones were removed.

        Raises:
            UnavailableError: the cluster does not say; nothing is started until it does.
        """
        taken = removed = 0
        patience = time.monotonic() + CLOSED
        waiting = sorted(self._projects.listed())
        while waiting:
            closed = []
            for each in waiting:
                try:
                    found = self._sessions.take_up(namespace_of(each, self._cluster), adopt=True)
                except ForbiddenError:
                    closed.append(each)
                    continue
                taken, removed = taken + found[0], removed + found[1]
            if not closed or time.monotonic() > patience or self._end.is_set():
                break
            waiting = closed
            self._end.wait(0.5)
        self._sessions.known()
        return taken, removed

    # -- the authority ----------------------------------------------------------------------------------------
    def ask(self) -> None:
        """Ask the authority about every session; stop what it does not allow. After 30 s of silence that is all."""
        self._journal.catch_up()
        grants = self._sessions.grants(State.STARTING, State.PROVING, State.MOUNTING, State.RUNNING)
        self._sessions.stop_refused(self._asking.refused(map(claim_of, grants)))
        self._asking.compared()

    # -- the cluster ------------------------------------------------------------------------------------------
    def look(self) -> None:
        """End what is over, has failed, or whose pod or node is gone. What cannot be seen is left alone."""
        now = self._clock()
        over = [each.session for each in self._sessions.grants(State.RUNNING) if now >= each.ends_at]
        self._sessions.stop_all("its end has come", over)
        # First what is known, then what there is: a session that begins in between is in neither.
        for namespace, sessions in self._sessions.running().items():
            try:
                found = self._api.every("pods", namespace, labels=self._labels)
            except UnavailableError as error:
                _log.warning("the pods of %s cannot be looked at: %s", namespace, error)
                continue
            there = {str(each["metadata"]["name"]): each for each in found}
            reasons = {each.grant.session: self._reason(each, there.get(each.name)) for each in sessions}
            self._sessions.stop_refused({name: reason for name, reason in reasons.items() if reason})
        self._sessions.retry()
        if time.monotonic() - self._swept >= SWEEP:
            self._swept = time.monotonic()
            self.sweep()

    def _reason(self, session: PodSession, pod: Manifest | None) -> str | None:
        if pod is None:
            return "its pod is gone"
        if session.uid and pod["metadata"].get("uid") != session.uid:
            return "its pod is another one"
        if over := pods.over(pod):
            return over
        if not pods.unreachable(pod):
            session.silent_since = None
            return None
        if session.silent_since is None:
            session.silent_since = time.monotonic()
        # Taken away from the API without waiting for a kubelet that may never come back: the researcher can start anew.
        return "its node is lost" if time.monotonic() - session.silent_since > LOST else None

    def sweep(self) -> None:
        """Remove what is nobody's, and take projects without a session off the list."""
        for each in sorted(self._projects.listed()):
            if self._end.is_set():
                return
            try:
                self._sessions.take_up(namespace_of(each, self._cluster), adopt=False)
            except UnavailableError as error:
                _log.debug("%s", error)
        self._projects.let_go(self._sessions.in_use)

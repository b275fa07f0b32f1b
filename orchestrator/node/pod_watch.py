"""Watches the pods of a node: what kubelet says of them, and every few seconds what the authority says of each session.

The same two questions as :mod:`orchestrator.node.watch` asks on one machine. It cannot end a pod, which is for the
part that made it; it takes the data away, without asking that part.
"""

from __future__ import annotations

import threading

from orchestrator.node.asking import Asking, claim_of
from orchestrator.node.csi_volumes import PROVING_SECONDS, PodVolumes
from orchestrator.node.journal import Journal
from orchestrator.node.ports import Authority
from orchestrator.node.rounds import again_and_again


class PodWatch:
    """Two threads that look, and take away what must not be there."""

    def __init__(self, volumes: PodVolumes, authority: Authority, journal: Journal, seconds: float) -> None:
        self._volumes = volumes
        self._asking = Asking(authority)
        self._journal = journal
        self._end = threading.Event()
        every = min(PROVING_SECONDS, seconds)
        self._threads = [
            # Apart: to open a view takes its time, and whom the authority refuses must not wait for it.
            threading.Thread(target=again_and_again, args=(self._look, every, self._end), name="look", daemon=True),
            threading.Thread(target=again_and_again, args=(self.ask, seconds, self._end), name="ask", daemon=True),
        ]

    @property
    def asking(self) -> Asking:
        """The question to the authority, and how long ago it was answered."""
        return self._asking

    def start(self) -> None:
        """Begin to look."""
        for each in self._threads:
            each.start()

    def stop(self) -> None:
        """Look no more; returns when the threads have ended."""
        self._end.set()
        for each in self._threads:
            each.join()

    def _look(self) -> None:
        self._volumes.look(wait=False)

    def ask(self) -> None:
        """Ask the authority about every session; data goes from those that must not go on."""
        grants = self._volumes.grants()
        self._journal.catch_up()
        for name, reason in self._asking.refused(map(claim_of, grants)).items():
            self._volumes.end(name, reason)
        self._asking.compared()

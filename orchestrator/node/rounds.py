"""Work that the agent does from time to time, on a thread of its own: what it waits for holds up no session's end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from orchestrator.errors import BulleError

_log = logging.getLogger(__name__)


class Rounds:
    """Calls each of ``jobs`` (seconds between two calls, what to call), one after the other, until it is stopped."""

    def __init__(self, jobs: Sequence[tuple[float, Callable[[], None]]], *, seconds: float = 1.0) -> None:
        self._jobs = [(every, job) for every, job in jobs]
        self._due = [0.0] * len(self._jobs)
        self._seconds = seconds
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rounds", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, seconds: float = 3.0) -> bool:
        """Do no more. Waits so long for the call under way, and says whether it has ended: an engine that hangs must
        not keep the agent from ending sessions.
        """
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._end.wait(self._seconds):
            for number, (every, job) in enumerate(self._jobs):
                now = time.monotonic()
                if now < self._due[number] or self._end.is_set():
                    continue
                self._due[number] = now + every
                attempt(job)


def attempt(job: Callable[[], None]) -> None:
    """Do it once. Whatever goes wrong is said in the log: the next time must come, and the other jobs with it."""
    try:
        job()
    except BulleError as error:
        _log.warning("%s", error)
    except Exception:  # noqa: BLE001 - see above
        _log.exception("a round stumbled")


def again_and_again(job: Callable[[], None], seconds: float, end: threading.Event) -> None:
    """Do it every ``seconds``, until ``end``."""
    while not end.wait(seconds):
        attempt(job)

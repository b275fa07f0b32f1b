"""Writing down what may happen often, now and then: nobody fills the audit log, and nothing goes untold for long."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta


class Sparsely:
    """Counts what happens often, and says when it is time to write it down. Threads may share it."""

    _MOST = 10_000

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: dict[str, datetime] = {}
        self._untold: dict[str, int] = {}

    def due(self, what: str, now: datetime, every: timedelta) -> int | None:
        """How often ``what`` happened since it was last told, this time included; None: not time yet."""
        with self._lock:
            times = self._untold.get(what, 0) + 1
            last = self._told.get(what)
            if last is not None and now - last < every:
                self._untold[what] = times
                return None
            if len(self._told) >= self._MOST:
                self._told.clear()
                self._untold.clear()
            self._told[what] = now
            self._untold.pop(what, None)
            return times

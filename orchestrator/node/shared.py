"""Things that several sessions use at once: made for the first, gone with the last."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Thing = TypeVar("Thing")


@dataclass
class _Entry(Generic[Thing]):
    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0
    thing: Thing | None = None


class Shared(Generic[Thing]):
    """Counts the users of each thing by its key. Safe between threads; different keys do not wait for each
    other."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._entries: dict[str, _Entry[Thing]] = {}

    def acquire(self, key: str, make: Callable[[], Thing]) -> Thing:
        """The thing with ``key``, made if nobody uses it yet. When ``make`` raises, nobody holds anything."""
        with self._guard:
            entry = self._entries.setdefault(key, _Entry())
            entry.users += 1
        try:
            with entry.lock:
                if entry.thing is None:
                    entry.thing = make()
                return entry.thing
        except BaseException:
            self._leave(key, entry, None)
            raise

    def release(self, key: str, destroy: Callable[[Thing], None]) -> None:
        """Give back what :meth:`acquire` gave; the last user's call destroys it."""
        with self._guard:
            entry = self._entries.get(key)
        if entry is not None:
            self._leave(key, entry, destroy)

    def _leave(self, key: str, entry: _Entry[Thing], destroy: Callable[[Thing], None] | None) -> None:
        # The thing is destroyed under its lock, so that whoever comes next finds it whole or makes it anew.
        with entry.lock:
            with self._guard:
                entry.users -= 1
                last = entry.users == 0
            if not last:
                return
            thing, entry.thing = entry.thing, None
            try:
                if thing is not None and destroy is not None:
                    destroy(thing)
            finally:
                with self._guard:
                    if entry.users == 0 and self._entries.get(key) is entry:
                        del self._entries[key]

    def keys(self) -> list[str]:
        """What is in use."""
        with self._guard:
            return sorted(self._entries)

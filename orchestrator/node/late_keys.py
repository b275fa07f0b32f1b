"""A key ring that is opened when it is first asked, and again until its custodian answers."""

from __future__ import annotations

import threading
from collections.abc import Callable

from orchestrator.node.ports import Keys


class LateKeys:
    """Each call raises what opening raised, as long as it does."""

    def __init__(self, open_ring: Callable[[], Keys]) -> None:
        self._open = open_ring
        self._guard = threading.Lock()
        self._opened: Keys | None = None

    def _ring(self) -> Keys:
        with self._guard:
            if self._opened is None:
                self._opened = self._open()
            return self._opened

    def get(self, key_id: str) -> bytes:
        """See :meth:`Keys.get`."""
        return self._ring().get(key_id)

    def get_or_create(self, key_id: str) -> bytes:
        """See :meth:`Keys.get_or_create`."""
        return self._ring().get_or_create(key_id)

    def exists(self, key_id: str) -> bool:
        """See :meth:`Keys.exists`."""
        return self._ring().exists(key_id)

    def destroy(self, key_id: str) -> None:
        """See :meth:`Keys.destroy`."""
        self._ring().destroy(key_id)

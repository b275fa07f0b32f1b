"""The list of projects that need a namespace: one ConfigMap, which the door writes and the namespace controller reads.

That is all the door can say about namespaces. It has no right on one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from orchestrator.cluster.rights import projects_map
from orchestrator.cluster_api import HttpsApi, Manifest
from orchestrator.config import Kubernetes
from orchestrator.errors import ConflictError, UnavailableError

_TRIES = 10


class Projects:
    """The door's hand on the list. Safe between threads."""

    def __init__(self, api: HttpsApi, cluster: Kubernetes, ticks: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._namespace, self._name = cluster.namespace, projects_map(cluster)
        self._keep = cluster.projects.keep_minutes * 60
        self._ticks = ticks
        self._lock = threading.Lock()
        self._used: dict[str, float] = {}

    def listed(self) -> frozenset[str]:
        """Every project on the list; raises UnavailableError when it cannot be read."""
        with self._lock:
            return frozenset(self._read().get("data") or {})

    def want(self, project_id: str, *, again: bool = False) -> None:
        """Have a namespace made for a project that is not on the list; ``again``: it is on it, and closed.

        What stands beside an id on the list means nothing but that it was written anew.
        """
        with self._lock:
            known = project_id in self._used
            self._used[project_id] = self._ticks()
            if not known or again:
                anew = str(time.time_ns()) if again else ""
                try:
                    self._change(lambda data: data.update({project_id: anew or data.get(project_id, "")}))
                except BaseException:
                    self._used.pop(project_id, None)
                    raise

    def let_go(self, in_use: Callable[[str], bool]) -> None:
        """Take off the list what had no session for as long as the settings say; what is in use is put back on it."""
        with self._lock:
            now = self._ticks()
            listed = self._read().get("data") or {}
            gone = []
            for each in {*listed, *self._used}:
                if in_use(each):
                    self._used[each] = now
                elif now - self._used.setdefault(each, now) >= self._keep:
                    gone.append(each)
            kept = [each for each in self._used if in_use(each)]
            if not set(gone) & set(listed) and all(each in listed for each in kept):
                return

            def change(data: dict[str, str]) -> None:
                for each in gone:
                    data.pop(each, None)
                for each in kept:
                    data.setdefault(each, "")

            self._change(change)
            for each in gone:
                self._used.pop(each, None)

    def _read(self) -> Manifest:
        found = self._api.get("configmaps", self._namespace, self._name)
        if found is None:
            raise UnavailableError(
                f"there is no ConfigMap {self._namespace}/{self._name}", hint="it comes with the chart: helm upgrade"
            )
        return found

    def _change(self, change: Callable[[dict[str, str]], object]) -> None:
        for _ in range(_TRIES):
            found = self._read()
            before = dict(found.get("data") or {})
            data = dict(before)
            change(data)
            if data == before:
                return
            try:
                # With the resourceVersion that was read: what somebody else wrote in between is not lost.
                self._api.replace("configmaps", self._namespace, {**found, "data": data})
            except ConflictError:
                continue
            return
        raise UnavailableError(f"ConfigMap {self._namespace}/{self._name} is changed by others all the time")

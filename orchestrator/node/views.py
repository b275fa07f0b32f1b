"""Views: one for each project and permit version on this machine, shared by its sessions, in RAM,
read-only."""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Collection
from pathlib import Path

from orchestrator.errors import NodeError
from orchestrator.node import measures, mounts
from orchestrator.node.ports import Progress, ViewBuilder
from orchestrator.node.shared import Shared
from orchestrator.terms import Grant

#: how long a view may still be held by a program that is only just being started
_SETTLE_SECONDS = 5.0


def view_key(grant: Grant) -> str:
    """Under which a view is shared: the same project, permit version, tables, columns and rows to the letter."""
    tables = "\n".join(table.model_dump_json() for table in grant.permit.tables)
    terms = hashlib.sha256(tables.encode()).hexdigest()
    return f"{grant.project_id}-{grant.permit.version}-{terms[:16]}"


class Views:
    """The views that are in use."""

    def __init__(self, mounts_folder: Path, builder: ViewBuilder, *, size: str = "50%") -> None:
        self._folder = mounts_folder / "views"
        self._builder = builder
        self._size = size
        self._open: Shared[Path] = Shared()

    def open(self, grant: Grant, released: Collection[str], progress: Progress) -> Path:
        """A finished view, read-only; built if no session uses it yet. A view that fails leaves nothing.

        Raises:
            BulleError: what the builder raised, or NodeError when there is no RAM for it.
        """
        return self._open.acquire(view_key(grant), lambda: self._build(grant, released, progress))

    def place(self, grant: Grant) -> Path:
        """Where the view of a grant is made."""
        return self._folder / view_key(grant)

    def adopt(self, grant: Grant) -> bool:
        """Count a session as a user of the view that an earlier process of the agent built; whether it is there."""
        target = self.place(grant)
        found = [each for each in mounts.mounts_below(self._folder) if each.path == target]
        # Read-only is how a finished one is known from one that was being built.
        if not found or not all("ro" in each.options for each in found):
            return False
        self._open.acquire(view_key(grant), lambda: target)
        return True

    def close(self, grant: Grant) -> None:
        """Give a view back; with its last session it is gone."""
        self._open.release(view_key(grant), _remove)

    def _build(self, grant: Grant, released: Collection[str], progress: Progress) -> Path:
        target = self._folder / view_key(grant)
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            mounts.tmpfs(target, self._size, mode=0o755)
            self._measured(grant, released, target, progress)
            _make_read_only(target)
        except OSError as error:
            _remove(target)
            raise NodeError(
                f"the view could not be built: {error.strerror or error}", hint="is there RAM left?"
            ) from error
        except BaseException:
            _remove(target)
            raise
        return target

    def _measured(self, grant: Grant, released: Collection[str], target: Path, progress: Progress) -> None:
        began, outcome = time.monotonic(), "failed"
        try:
            self._builder.build(grant, released, target, progress)
            outcome = "done"
        finally:
            measures.VIEW_SECONDS.took(time.monotonic() - began, outcome=outcome)


def _make_read_only(target: Path) -> None:
    """Make a finished view read-only, once nobody has a file of it open to write.

    The builder has closed its own by now; but a program that another thread starts has a copy of every open file until
    it begins to run, and on a busy machine that takes a while. The view shows to nobody before this is done.
    """
    until = time.monotonic() + _SETTLE_SECONDS
    while True:
        try:
            mounts.make_read_only(target)
        except NodeError as error:
            busy = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EBUSY
            if not busy or time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return


def _remove(target: Path) -> None:
    mounts.unmount(target)
    target.rmdir()

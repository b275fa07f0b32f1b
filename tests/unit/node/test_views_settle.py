"""A view that somebody still holds open when it is finished: it becomes read-only a little later, or not at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from orchestrator.errors import NodeError
from orchestrator.node import mounts, views
from tests.unit.node.apart import apart


def _held(root: Path, seconds: float) -> None:
    """A file system in RAM of which a file is open to write for so long, made read-only."""
    target = root / "view"
    target.mkdir(exist_ok=True)
    mounts.tmpfs(target, "1m")
    held = os.open(target / "file", os.O_WRONLY | os.O_CREAT)
    end = threading.Timer(seconds, os.close, [held])
    end.start()
    try:
        views._make_read_only(target)
        with pytest.raises(OSError, match="Read-only"):
            (target / "other").write_text("x")
    finally:
        end.cancel()
        mounts.unmount(target)


def test_a_view_that_is_held_for_a_moment_becomes_read_only(tmp_path: Path) -> None:
    apart(lambda: _held(tmp_path, 0.3))


def test_without_the_wait_such_a_start_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control."""
    monkeypatch.setattr(views, "_SETTLE_SECONDS", -1.0)
    with pytest.raises(RuntimeError, match="was not made read-only"):
        apart(lambda: _held(tmp_path, 0.3))


def test_a_view_that_stays_held_is_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "_SETTLE_SECONDS", 0.2)

    def refused() -> None:
        with pytest.raises(NodeError, match="was not made read-only"):
            _held(tmp_path, 30.0)

    apart(refused)


def test_another_fault_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[Path] = []

    def fails(target: Path) -> None:
        tries.append(target)
        raise NodeError("not a mount point") from OSError(22, "Invalid argument")

    monkeypatch.setattr(mounts, "make_read_only", fails)
    with pytest.raises(NodeError):
        views._make_read_only(tmp_path)
    assert len(tries) == 1

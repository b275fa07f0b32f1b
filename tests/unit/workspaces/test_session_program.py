"""The main process of the sandbox does nothing in a home that is not there yet. Run here without a desktop."""

from __future__ import annotations

import os
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FILE = Path(__file__).parents[3] / "images/sandbox/overlay/usr/lib/bulle/session"


class WaitingError(Exception):
    """It would wait here."""


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program, its home a folder that is not mounted, its display ready; what it does is in ``done``."""
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    loader = SourceFileLoader("sandbox_session", str(FILE))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    program = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, loader.name, program)
    loader.exec_module(program)
    done: list[str] = []
    program.done = done  # type: ignore[attr-defined]
    program.HOME = tmp_path  # type: ignore[attr-defined]

    def wait_for(ready: Any) -> None:
        if not ready():
            raise WaitingError

    class Display:
        @classmethod
        def connect(cls) -> Display:
            return cls()

        def paint(self, colour: int) -> None:
            done.append("paint")

    def furnish_home() -> None:
        done.append("home")
        raise WaitingError

    changes = {
        "wait_for": wait_for,
        "Display": Display,
        "furnish_home": furnish_home,
        "desktop_environment": lambda settings: {
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "JUPYTER_RUNTIME_DIR": str(tmp_path / "jupyter"),
        },
    }
    for name, value in changes.items():
        setattr(program, name, value)
    return program


def nothing_is_done_before_the_home(program: ModuleType) -> None:
    before = os.umask(0o022)
    try:
        with pytest.raises(WaitingError):
            program.run()
    finally:
        os.umask(before)
    assert program.done == []


def test_nothing_is_done_before_the_home_is_mounted(session: ModuleType) -> None:
    nothing_is_done_before_the_home(session)


def test_negative_control_without_waiting_the_desktop_writes_where_no_home_is(session: ModuleType) -> None:
    session.home_is_there = lambda: True  # type: ignore[attr-defined]
    with pytest.raises(AssertionError):
        nothing_is_done_before_the_home(session)
    assert session.done == ["paint", "home"]

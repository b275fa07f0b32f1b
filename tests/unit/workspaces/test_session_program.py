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


# -- JupyterLab: on loopback, with a token of this session --------------------------------------------------
CONFIGURATION = Path(__file__).parents[3] / "images/sandbox/overlay/usr/local/etc/jupyter/jupyter_server_config.py"
TOKEN_VARIABLE = '"JUPYTER_TOKEN_FILE"'


class Settings:
    """Traits as JupyterLab's configuration sets them; those that are not set are None."""

    def __getattr__(self, name: str) -> Any:
        if name[0].isupper():
            setattr(self, name, Settings())
            return getattr(self, name)
        return None


def jupyterlab_is_closed(text: str) -> None:
    found = Settings()
    exec(compile(text, "configuration", "exec"), {"get_config": lambda: found})
    assert found.ServerApp.ip == "127.0.0.1" and found.ServerApp.allow_remote_access is False
    # Empty strings would switch the token off; unset, the file of JUPYTER_TOKEN_FILE counts.
    assert found.IdentityProvider.token is None and found.ServerApp.token is None
    assert found.PasswordIdentityProvider.hashed_password is None and found.ServerApp.password is None
    assert found.ServerApp.allow_origin is None and found.ServerApp.disable_check_xsrf is None
    assert found.ServerApp.allow_unauthenticated_access is None


def test_jupyterlab_listens_to_loopback_and_keeps_its_token() -> None:
    jupyterlab_is_closed(CONFIGURATION.read_text())
    assert TOKEN_VARIABLE in FILE.read_text()


@pytest.mark.parametrize(
    "line",
    [
        'c.ServerApp.ip = "0.0.0.0"',
        "c.ServerApp.allow_remote_access = True",
        'c.ServerApp.token = ""',
        'c.IdentityProvider.token = ""',
        'c.ServerApp.allow_origin = "*"',
        "c.ServerApp.disable_check_xsrf = True",
    ],
)
def test_negative_control_an_open_jupyterlab_is_seen(line: str) -> None:
    with pytest.raises(AssertionError):
        jupyterlab_is_closed(f"{CONFIGURATION.read_text()}\n{line}\n")


def each_session_has_its_own_token(program: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = folder / "page.html"
    page.write_text("@URL@")
    real = Path

    def place(text: str) -> Path:
        return page if text.endswith("jupyterlab.html") else real(text)

    monkeypatch.setattr(program, "Path", place)
    monkeypatch.setattr(program, "RUNTIME", folder)
    tokens = []
    for _ in range(2):
        where = real(program.jupyter_token())
        tokens.append(where.read_text())
        assert where.stat().st_mode & 0o777 == 0o600 and where.parent.stat().st_mode & 0o777 == 0o700
        assert tokens[-1] in (where.parent / "jupyterlab.html").read_text()
    assert len(set(tokens)) == 2 and all(len(token) == 48 for token in tokens)


def test_each_session_has_its_own_token_for_jupyterlab(
    session: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    each_session_has_its_own_token(session, tmp_path, monkeypatch)


def test_negative_control_one_token_for_all_sessions_is_seen(
    session: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session.secrets, "token_hex", lambda length: "0" * 2 * length)
    with pytest.raises(AssertionError):
        each_session_has_its_own_token(session, tmp_path, monkeypatch)

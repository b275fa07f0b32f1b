"""Where the tests keep what they make: a short path, because a unix socket's has 107 bytes at most."""

from __future__ import annotations

import shutil
import tempfile

import pytest

_FOLDER = pytest.StashKey[str]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.option.basetemp is None and not hasattr(config, "workerinput"):
        config.stash[_FOLDER] = config.option.basetemp = tempfile.mkdtemp(prefix="b")


def pytest_unconfigure(config: pytest.Config) -> None:
    """What a run made goes with it."""
    folder = config.stash.get(_FOLDER, None)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from tests.unit.governance.places import place, running

# How long an example takes says how busy the machine is, not whether the rule holds.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

RAM = Path("/dev/shm")


@pytest.fixture
def folder():
    """A folder in RAM where there is one: every change here waits for the disk several times."""
    with tempfile.TemporaryDirectory(dir=RAM if RAM.is_dir() else None) as name:
        yield Path(name)


@pytest.fixture
def here(folder):
    """An empty deployment."""
    made = place(folder)
    yield made
    made.store.close()


@pytest.fixture
def sleep(here):
    """One with people, the project 'sleep', its permit version 1 and its member 'researcher'."""
    running(here.governance)
    return here

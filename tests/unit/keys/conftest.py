"""Custodians to test against: the embedded one, and a SoftHSM token."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.keys import FileCustodian

MODULES = (
    Path("/usr/lib/softhsm/libsofthsm2.so"),
    Path("/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"),
    Path("/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so"),
)


@pytest.fixture
def custodian(tmp_path: Path) -> FileCustodian:
    path = tmp_path / "custodian" / "kek"
    FileCustodian.create(path)
    return FileCustodian(path)


@dataclass(frozen=True)
class Token:
    """A fresh SoftHSM token; a process that uses it needs ``environment``."""

    module: Path
    label: str
    pin_file: Path
    environment: dict[str, str]

    def run(self, code: str) -> str:
        """Run Python in a process of its own: a PKCS#11 module is loaded once a process."""
        prelude = (
            "from pathlib import Path\n"
            "from orchestrator.keys import Pkcs11Custodian\n"
            "from orchestrator.errors import CustodyError\n"
            f"at = dict(module=Path({str(self.module)!r}), token_label={self.label!r},"
            f" pin_file=Path({str(self.pin_file)!r}))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", prelude + code],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture(scope="session")
def token(tmp_path_factory: pytest.TempPathFactory) -> Token:
    module = next((path for path in MODULES if path.exists()), None)
    tool = shutil.which("softhsm2-util")
    if module is None or tool is None:
        pytest.skip("SoftHSM is missing: apt-get install softhsm2")
    folder = tmp_path_factory.mktemp("token")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\nlog.level = ERROR\n")
    pin_file = folder / "pin"
    pin_file.touch(mode=0o600)
    pin_file.write_text("271828\n")
    environment = {"SOFTHSM2_CONF": str(folder / "softhsm2.conf")}
    subprocess.run(
        [tool, "--init-token", "--free", "--label", "bulle-test", "--so-pin", "314159", "--pin", "271828"],
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
    )
    return Token(module, "bulle-test", pin_file, environment)

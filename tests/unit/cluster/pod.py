"""The tools' pod of a release: its volumes mounted in place, the state folder root's, its user the authority's."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

from orchestrator.cluster.prepare import layout_of
from orchestrator.config import Settings, load_settings
from tests.unit.cluster.test_prepare import GROUP, as_the_authority, run_prepare, secret_in

#: what of the state folder is on which volume
PARTS = {"control": ("authority", "audit", "hub"), "data": ("datasets", "folders", "keyring", "public")}


@dataclass
class Pod:
    """To be made and used in a mount namespace of its own (tests/unit/node/apart.py)."""

    root: Path

    @classmethod
    def make(cls, root: Path, key: bytes, name: str = "trial") -> Pod:
        """A release that was installed just now: its volumes prepared, its tools' pod running."""
        root.mkdir(mode=0o755, parents=True)
        made = cls(root)
        for volume in (*PARTS, "sockets"):
            path = made.volumes / volume
            path.mkdir(parents=True)
            os.chown(path, 0, GROUP)
            path.chmod(0o2775)
        done = run_prepare(made.volumes)
        assert done.returncode == 0, done.stderr
        made.state.mkdir(mode=0o755)
        for volume, parts in PARTS.items():
            for part in parts:
                (made.state / part).mkdir()
                subprocess.run(["mount", "--bind", made.volumes / volume / part, made.state / part], check=True)
        secret_in(made.state / "custodian", key_encryption_key=key)
        told = {
            "deployment": name,
            "state": str(made.state),
            "oidc": {"issuer": "https://login.example.org", "client_id": "x", "client_secret_file": "/x"},
            "kubernetes": {"hub": ["bulle-hub.bulle.svc:8081"]},
        }
        made.settings_file.write_text(yaml.safe_dump(told))
        made.out.mkdir()
        os.chown(made.out, GROUP, GROUP)
        return made

    @property
    def volumes(self) -> Path:
        return self.root / "volumes"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def out(self) -> Path:
        """A folder that the tools' user may write."""
        return self.root / "out"

    @property
    def settings_file(self) -> Path:
        return self.root / "bulle.yaml"

    @property
    def settings(self) -> Settings:
        return load_settings(self.settings_file)

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return as_the_authority(
            "-m", "orchestrator.cli", *map(str, words), BULLE_SETTINGS=str(self.settings_file), COLUMNS="200"
        )

    def bulle(self, *words: str | Path) -> str:
        done = self.run(*words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def refused(self, *words: str | Path) -> str:
        done = self.run(*words)
        assert done.returncode == 1, (words, done.stdout, done.stderr)
        return done.stderr

    def given(self, path: Path) -> Path:
        """A copy of a file for the tools' user alone, as it lies in the pod."""
        here = self.out / path.name
        here.write_bytes(path.read_bytes())
        here.chmod(0o600)
        os.chown(here, GROUP, GROUP)
        return here

    def prepared(self) -> str:
        """What the control pod's first container says when it starts again."""
        done = run_prepare(self.volumes)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def files(self) -> dict[str, bytes]:
        """Every file on its volumes, but those of SQLite's own that come and go."""
        return {
            path.relative_to(self.volumes).as_posix(): path.read_bytes()
            for path in self.volumes.rglob("*")
            if path.is_file() and not path.name.endswith(("-wal", "-shm"))
        }

    @property
    def beside(self) -> list[Path]:
        """What a restore or an import left."""
        return [
            path for path in self.volumes.rglob(".*") if path.name.startswith((".restoring", ".arriving", ".leaving"))
        ]

    def key(self, name: str) -> bytes:
        return (layout_of(self.volumes).authority / name).read_bytes()

"""The commands, as an operator types them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pyrage import x25519

from orchestrator.cli import main
from tests.unit.moving.stage import Deployment


def bulle(deployment: Deployment, *words: str | Path) -> int:
    try:
        main(["--settings", str(deployment.settings_file), *map(str, words)])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_a_project_is_sent_and_taken_in(
    source: Deployment, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BULLE_AS", raising=False)
    destination = Deployment.make(folder, "destination")
    assert bulle(destination, "transfer", "key") == 0
    key = re.findall(r"--for (age1\w+)", capsys.readouterr().out)[0]
    assert bulle(source, "transfer", "key") == 0
    signer = re.findall(r"--from ([0-9a-f]{32})", capsys.readouterr().out)[0]
    file = folder / "sleep.age"
    assert bulle(source, "project", "export", "sleep", "--for", key, "--out", file) == 1  # the operator alone
    assert "project.export" in capsys.readouterr().err and not file.exists()
    assert bulle(source, "project", "export", "sleep", "--for", key, "--out", file, "--as", "custodian") == 0
    assert bulle(destination, "project", "import", file, "--from", "0" * 32) == 1
    assert bulle(destination, "project", "import", file, "--from", signer) == 0
    assert "suspended" in capsys.readouterr().out
    # the key is made once, and told in the log
    assert bulle(destination, "transfer", "key") == 0
    assert key in capsys.readouterr().out
    assert destination.kinds().count(("transfer.create", "started")) == 1
    assert (destination.layout.custodian / "transfer.key").stat().st_mode & 0o777 == 0o600
    assert b"AGE-SECRET-KEY" not in (destination.layout.custodian / "transfer.key").read_bytes()


def test_a_backup_is_made_and_restored(source: Deployment, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    identity = x25519.Identity.generate()
    key = folder / "identity"
    key.touch(mode=0o600)
    key.write_text(f"# an age identity\n{identity}\n")
    (folder / "backups").mkdir()
    secrets = folder / "elsewhere.age"
    recipient = str(identity.to_public())
    assert bulle(source, "backup", "create", folder / "backups", "--for", recipient, "--secrets", secrets) == 0
    (file,) = (folder / "backups").iterdir()
    assert file.name.startswith("bulle-source-") and file.name.endswith(".tar.age")
    key.chmod(0o644)
    words = ("backup", "restore", file, "--state", folder / "new", "--identity", key, "--secrets", secrets)
    assert bulle(source, *words) == 1
    key.chmod(0o600)
    assert bulle(source, *words) == 0
    assert "the audit log verifies" in capsys.readouterr().out
    assert (folder / "new" / "bulle.yaml").exists()

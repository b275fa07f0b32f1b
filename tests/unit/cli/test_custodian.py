"""The key-encryption key is made on a real PKCS#11 token, once, and every attempt is in the audit log."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from orchestrator.config import load_settings
from orchestrator.governance.keys import create_signing_keys

MODULE = next(
    (path for path in Path("/usr/lib").glob("*/softhsm/libsofthsm2.so")), Path("/usr/lib/softhsm/libsofthsm2.so")
)


@pytest.fixture
def settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A deployment whose custodian is a freshly initialised SoftHSM token."""
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm2.conf"))
    words = ["softhsm2-util", "--init-token", "--free", "--label", "bulle", "--pin", "1234", "--so-pin", "5678"]
    subprocess.run(words, check=True, capture_output=True)
    pin = tmp_path / "pin"
    pin.write_text("1234")
    pin.chmod(0o600)
    path = tmp_path / "bulle.yaml"
    state = tmp_path / "state"
    path.write_text(
        yaml.safe_dump(
            {
                "deployment": "unit",
                "state": str(state),
                "oidc": {"issuer": "https://login.example.org", "client_id": "b", "client_secret_file": "/none"},
                "custodian": {
                    "kind": "pkcs11",
                    "module": str(MODULE),
                    "token_label": "bulle",
                    "key_label": "kek",
                    "pin_file": str(pin),
                },
            }
        )
    )
    for folder in ("authority", "audit", "public", "keyring", "custodian"):
        (state / folder).mkdir(parents=True)
    create_signing_keys(load_settings(path).layout)
    return path


def bulle(settings: Path, *words: str) -> subprocess.CompletedProcess[str]:
    # A process of its own: a PKCS#11 module is loaded once for a process, with the token that it found then.
    return subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", "--settings", str(settings), *words],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )


def test_a_key_is_made_on_the_token_once(settings_file: Path) -> None:
    before = bulle(settings_file, "custodian", "show")
    assert before.returncode == 1 and "0 AES keys" in before.stderr
    made = bulle(settings_file, "custodian", "create-key")
    assert made.returncode == 0 and "PKCS#11 token 'bulle'" in made.stdout, made.stderr
    assert bulle(settings_file, "custodian", "show").returncode == 0
    again = bulle(settings_file, "custodian", "create-key")
    assert again.returncode == 1 and "Traceback" not in again.stderr
    log = bulle(settings_file, "audit", "show", "--kind", "custodian.create").stdout
    assert len(log.splitlines()) == 4  # started, done; started, failed
    assert "1234" not in made.stdout + made.stderr + again.stderr + log

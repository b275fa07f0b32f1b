"""Owners, modes and secrets of the state folder."""

import os
import stat
from pathlib import Path

import pytest

from orchestrator.config import Oidc, Settings, Uid
from orchestrator.machine import state
from orchestrator.machine.doctor import Level, check_owners, check_secrets

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners can only be set by root")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    tmp_path.chmod(0o755)
    secret = tmp_path / "state/secrets/hub/client-secret"
    return Settings(
        deployment="unit",
        state=tmp_path / "state",
        oidc=Oidc(issuer="https://login.example.org", client_id="bulle", client_secret_file=secret),
    )


@needs_root
def test_prepare_makes_every_folder_with_its_owner_and_mode(settings: Settings) -> None:
    state.prepare_state(settings)
    for folder in state.folders(settings.layout):
        found = folder.path.stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (
            folder.uid,
            folder.gid,
            folder.mode,
        )
    assert check_owners(settings).level is Level.FINE


@needs_root
def test_doctor_sees_a_folder_opened_to_others(settings: Settings) -> None:
    state.prepare_state(settings)
    settings.layout.authority.chmod(0o755)
    assert check_owners(settings).level is Level.FAULT


@needs_root
def test_secrets_are_made_once_shared_and_closed_to_others(settings: Settings) -> None:
    state.prepare_state(settings)
    hub, proxy = settings.layout.secrets / "hub/proxy-token", settings.layout.secrets / "proxy/proxy-token"
    first = hub.read_text()
    assert len(first) == 64 and first == proxy.read_text()
    assert proxy.stat().st_uid == Uid.PROXY and hub.stat().st_uid == Uid.HUB
    assert stat.S_IMODE(proxy.stat().st_mode) == 0o600
    state.prepare_state(settings)
    assert hub.read_text() == first


@needs_root
def test_doctor_sees_a_secret_that_others_can_read(settings: Settings) -> None:
    state.prepare_state(settings)
    state.write_secret(settings.oidc.client_secret_file, "x", Uid.HUB)
    assert check_secrets(settings).level is Level.FINE
    settings.oidc.client_secret_file.chmod(0o644)
    assert check_secrets(settings).level is Level.FAULT


def test_a_part_that_lost_its_secret_gets_the_shared_one_again(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    state.write_secret(secret, "first", os.geteuid())
    state.write_secret(secret, "second", os.geteuid())
    assert secret.read_text() == "second"
    assert not list(tmp_path.glob(".*"))

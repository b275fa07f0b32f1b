from __future__ import annotations

import os
import stat
from datetime import UTC, datetime

import pytest

from orchestrator.audit import AuditLog
from orchestrator.config import Layout
from orchestrator.errors import AuditError, SettingsError
from orchestrator.governance import keys as signing_keys
from orchestrator.governance.keys import create_signing_keys, load_private_key, load_public_key
from orchestrator.terms import Event, Outcome


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "state")


def log_of(layout: Layout) -> AuditLog:
    key = load_private_key(layout.authority / "audit.key.pem")
    return AuditLog(layout.audit, key, clock=lambda: datetime.now(UTC))


def test_made_once_with_narrow_modes(layout):
    assert create_signing_keys(layout)
    before = {path: path.read_bytes() for path in layout.state.rglob("*") if path.is_file()}
    assert not create_signing_keys(layout)
    assert before == {path: path.read_bytes() for path in layout.state.rglob("*") if path.is_file()}
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in before}
    assert modes == {
        "grant.key.pem": 0o600,
        "audit.key.pem": 0o600,
        "grant.pub.pem": 0o644,
        "audit.pub.pem": 0o644,
        "log.jsonl": 0o600,
        "head.json": 0o600,
    }
    for name in ("grant", "audit"):
        private = load_private_key(layout.authority / f"{name}.key.pem")
        assert private.public_key() == load_public_key(layout.public / f"{name}.pub.pem")
    assert log_of(layout).verify().ok


def test_a_removed_log_is_not_begun_again(layout):
    create_signing_keys(layout)
    for path in layout.audit.iterdir():
        path.unlink()
    create_signing_keys(layout)
    assert not log_of(layout).verify().ok
    with pytest.raises(AuditError):
        log_of(layout).head()


@pytest.mark.parametrize("step", ["create", "publish"])
def test_a_killed_run_is_finished_by_the_next(layout, monkeypatch, step):
    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    with monkeypatch.context() as patch:
        if step == "create":
            patch.setattr(AuditLog, "_write_head", kill)
        else:
            patch.setattr(signing_keys, "_publish", kill)
        with pytest.raises(Killed):
            create_signing_keys(layout)
    create_signing_keys(layout)
    assert log_of(layout).verify().ok
    assert not list(layout.state.rglob("*.new"))


def test_a_key_that_others_can_read_is_refused(layout):
    create_signing_keys(layout)
    path = layout.authority / "grant.key.pem"
    path.chmod(0o640)
    with pytest.raises(SettingsError, match="read by others"):
        load_private_key(path)


def test_a_missing_or_broken_key_is_named(layout):
    with pytest.raises(SettingsError, match=r"grant\.key"):
        load_private_key(layout.authority / "grant.key.pem")
    layout.public.mkdir(parents=True)
    (layout.public / "grant.pub.pem").write_text("nothing")
    with pytest.raises(SettingsError, match="does not hold"):
        load_public_key(layout.public / "grant.pub.pem")


def test_a_key_put_there_by_somebody_else_is_refused(layout, tmp_path):
    """By a link, as a pipe, or as a file that another account owns."""
    create_signing_keys(layout)
    path = layout.authority / "grant.key.pem"
    own = path.read_bytes()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(own)
    elsewhere.chmod(0o600)
    path.unlink()
    path.symlink_to(elsewhere)
    with pytest.raises(SettingsError, match="cannot read"):
        load_private_key(path)
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(SettingsError, match="not a plain file"):
        load_private_key(path)
    path.unlink()
    path.write_bytes(own)
    path.chmod(0o600)
    load_private_key(path)  # negative control: as it was, it is taken
    if os.geteuid() == 0:
        os.chown(path, 4242, 4242)
        with pytest.raises(SettingsError, match="belongs to uid 4242"):
            load_private_key(path)


@pytest.mark.parametrize("plant", ["pipe", "link"])
def test_a_pipe_or_link_in_place_of_the_logs_head_is_refused(layout, tmp_path, plant):
    """It must neither hang whoever verifies nor lead them elsewhere."""
    create_signing_keys(layout)
    head = layout.audit / "head.json"
    kept = tmp_path / "kept"
    head.rename(kept)
    if plant == "pipe":
        os.mkfifo(head)
    else:
        head.symlink_to(kept)
    with pytest.raises(AuditError):
        log_of(layout).record(Event(kind="person.add", actor="operator", outcome=Outcome.DONE))
    head.unlink()
    kept.rename(head)
    log_of(layout).record(Event(kind="person.add", actor="operator", outcome=Outcome.DONE))

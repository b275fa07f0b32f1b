"""``bulle dataset`` as a person uses it, with a real settings file, key ring and audit log."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from orchestrator.cli import context
from orchestrator.cli.dataset import app
from orchestrator.config import load_settings
from orchestrator.errors import InputError
from orchestrator.machine.state import prepare_state
from orchestrator.terms import Event
from tests.unit.data.conftest import PEOPLE, ROWS


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    settings = tmp_path / "bulle.yaml"
    oidc = {"issuer": "http://127.0.0.1:1", "client_id": "x", "client_secret_file": "/x"}
    settings.write_text(yaml.safe_dump({"deployment": "test", "state": str(tmp_path / "state"), "oidc": oidc}))
    monkeypatch.setattr(context, "_chosen", settings)
    prepare_state(load_settings(settings))
    (tmp_path / "people.yaml").write_text(yaml.safe_dump(PEOPLE))
    (tmp_path / "people.csv").write_text(ROWS)
    return tmp_path


class Recorder:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def record(self, event: Event) -> int:
        self.events.append(event)
        return len(self.events)


@pytest.fixture
def audit(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(context, "open_audit", lambda settings: recorder)
    return recorder


def run(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def ingest(files: Path, source: str = "people.csv") -> str:
    return run("ingest", "people", files / source, "--schema", files / "people.yaml", "--as", "custodian")


def test_ingest_list_show_delete(files: Path, audit: Recorder) -> None:
    assert "people/people, version 1: 4 rows" in ingest(files)
    assert "people" in run("list")
    shown = run("show", "people")
    assert "quasi-identifier" in shown
    assert "1: male" in shown
    run("delete", "people", "--yes")
    assert "people" not in run("list")
    assert not list((files / "state" / "keyring").iterdir())
    told = [(event.kind, str(event.outcome)) for event in audit.events]
    assert told == [
        ("dataset.ingest", "started"),
        ("key.create", "started"),
        ("dataset.ingest", "done"),
        ("dataset.delete", "started"),
        ("dataset.delete", "done"),
    ]
    assert {event.actor for event in audit.events[:3]} == {"custodian"}


def test_a_refused_file_is_audited_without_its_values(files: Path, audit: Recorder) -> None:
    (files / "bad.csv").write_text(ROWS + "QX-PLANTED-9,not-a-date,,,,\n")
    with pytest.raises(InputError, match="row 5, column 'born'"):
        ingest(files, "bad.csv")
    assert [str(event.outcome) for event in audit.events if event.kind == "dataset.ingest"] == ["started", "failed"]
    written = "".join(event.model_dump_json() for event in audit.events)
    assert "not-a-date" not in written
    assert "QX-PLANTED" not in written


def test_nothing_is_ingested_that_cannot_be_audited(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def record(self, event: Event) -> int:
            raise RuntimeError("no log")

    monkeypatch.setattr(context, "open_audit", lambda settings: Broken())
    with pytest.raises(RuntimeError):
        ingest(files)
    assert not list((files / "state" / "datasets").iterdir())
    assert not list((files / "state" / "keyring").iterdir())


def test_with_the_real_audit_log(files: Path) -> None:
    assert "version 1" in ingest(files)
    log = b"".join(path.read_bytes() for path in (files / "state" / "audit").rglob("*") if path.is_file())
    assert b"dataset/people/1/people/column/pid" in log
    assert b"QX-PLANTED" not in log

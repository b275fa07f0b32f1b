"""``bulle`` on a state folder of the test's own, as a process would run it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cli import main
from orchestrator.config import Settings, load_settings
from orchestrator.governance.keys import create_signing_keys


@dataclass(frozen=True)
class CommandLine:
    """Runs command lines in one deployment; called, it returns exit code, output and errors."""

    settings: Settings
    #: the settings file
    file: Path
    capture: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        code = 0
        try:
            main(list(arguments))
        except SystemExit as ended:
            code = int(ended.code or 0)
        out, err = self.capture.readouterr()
        return code, out, err


@pytest.fixture
def deployment_folder(tmp_path: Path) -> Path:
    """Where the settings file and the state of the test's deployment are; a module may say elsewhere."""
    return tmp_path


@pytest.fixture
def deployment_settings() -> dict[str, Any]:
    """What its settings file says besides the least; a module may say more."""
    return {}


@pytest.fixture
def command_line(
    deployment_folder: Path,
    deployment_settings: dict[str, Any],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> CommandLine:
    """The command line of a deployment with its signing keys, and nobody in it."""
    path = deployment_folder / "bulle.yaml"
    least = {
        "deployment": "trial",
        "state": str(deployment_folder / "state"),
        "oidc": {"issuer": "http://127.0.0.1:9", "client_id": "x", "client_secret_file": "/x"},
    }
    path.write_text(yaml.safe_dump({**least, **deployment_settings}))
    settings = load_settings(path)
    create_signing_keys(settings.layout)
    monkeypatch.setenv("BULLE_SETTINGS", str(path))
    monkeypatch.delenv("BULLE_AS", raising=False)
    # What is looked for in a table is not cut by the end of a line: neither in a command whose module another test has
    # loaded already, nor in one that is loaded only now.
    monkeypatch.setenv("COLUMNS", "400")
    for name, module in list(sys.modules.items()):
        if name.startswith("orchestrator.cli.") and hasattr(module, "console"):
            monkeypatch.setattr(module.console, "width", 400)
    return CommandLine(settings, path, capfd)


@pytest.fixture
def bulle(command_line: CommandLine) -> CommandLine:
    """The same; a module may put people in it first."""
    return command_line

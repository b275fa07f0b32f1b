"""What several of these tests need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import Settings
from orchestrator.portal.application import Portal


def settings_in(folder: Path, **change: Any) -> Settings:
    """A deployment whose metrics are wanted."""
    token = folder / "token"
    token.write_text("a long token of Prometheus\n", encoding="utf-8")
    token.chmod(0o600)
    values = {
        "deployment": "unit",
        "state": str(folder),
        "oidc": {"issuer": "https://login.example.org", "client_id": "b", "client_secret_file": "/x"},
        "metrics": {"token_file": str(token)},
    }
    return Settings.model_validate({**values, **change})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


@pytest.fixture
def portal(settings: Settings) -> Portal:
    return Portal(settings, None, None)  # type: ignore[arg-type]

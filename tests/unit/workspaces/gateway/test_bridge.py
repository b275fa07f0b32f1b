"""What a bridge is told, and when it ends."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from orchestrator.errors import SettingsError
from orchestrator.workspaces.gateway import pages
from orchestrator.workspaces.gateway.bridge import Bridge
from orchestrator.workspaces.gateway.settings import Session, read_session

ENVIRONMENT = {
    "JUPYTERHUB_API_TOKEN": "t0p-s3cret",
    "JUPYTERHUB_API_URL": "http://172.31.250.1:8081/hub/api",
    "JUPYTERHUB_CLIENT_ID": "jupyterhub-user-a-hip",
    "JUPYTERHUB_OAUTH_ACCESS_SCOPES": '["access:servers!server=a/hip"]',
    "JUPYTERHUB_SERVICE_PREFIX": "/user/a/hip/",
    "JUPYTERHUB_USER": "a",
}
TOLD: dict[str, Any] = {
    "environment": ENVIRONMENT,
    "session": "0" * 32,
    "display_name": "A",
    "project": "hip",
    "project_title": "Hip",
    "paste_in": True,
    "ends_at": "2030-01-01T00:00:00+00:00",
    "idle_minutes": 10,
}


def read(tmp_path: Path, **changes: object) -> Session:
    path = tmp_path / "bridge.json"
    told = {key: value for key, value in {**TOLD, **changes}.items() if value != "absent"}
    path.write_text(json.dumps(told))
    return read_session(path)


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    session = read(tmp_path)
    assert session.prefix == "/user/a/hip/"
    assert session.user == "a"
    assert session.ends_at == datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"paste_in": "absent"}, "paste_in"),
        ({"paste_in": 1}, "paste_in"),
        ({"idle_minutes": True}, "idle_minutes"),
        ({"idle_minutes": -1}, "idle_minutes"),
        ({"ends_at": "soon"}, "ends_at"),
        ({"ends_at": "2030-01-01T00:00:00"}, "ends_at"),
        ({"surprise": 1}, "surprise"),
        ({"environment": []}, "environment"),
        ({"environment": {**ENVIRONMENT, "LD_PRELOAD": "/x"}}, "LD_PRELOAD"),
        ({"environment": {**ENVIRONMENT, "JUPYTERHUB_USER": ""}}, "JUPYTERHUB_USER"),
        ({"environment": {**ENVIRONMENT, "JUPYTERHUB_SERVICE_PREFIX": "//evil.example/"}}, "PREFIX"),
    ],
)
def test_a_wrong_file_is_refused_and_its_secrets_are_not_repeated(
    tmp_path: Path, changes: dict[str, object], named: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        read(tmp_path, **changes)
    assert named in str(refused.value)
    assert "t0p-s3cret" not in str(refused.value)


def test_an_absent_or_broken_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        read_session(tmp_path / "bridge.json")
    (tmp_path / "bridge.json").write_text("{")
    with pytest.raises(SettingsError, match="not JSON"):
        read_session(tmp_path / "bridge.json")


def bridge(tmp_path: Path, **changes: object) -> Bridge:
    made = Bridge(read(tmp_path, **changes), Mock())
    made._alone_since = 1000.0
    return made


NOW = datetime(2029, 1, 1, tzinfo=UTC)


def test_it_ends_after_its_idle_minutes_with_nobody_connected(tmp_path: Path) -> None:
    made = bridge(tmp_path)
    assert not made.is_due(NOW, 1000.0 + 599)
    assert made.is_due(NOW, 1000.0 + 600)
    assert not bridge(tmp_path, idle_minutes=0).is_due(NOW, 1e9)


def test_it_does_not_idle_out_while_somebody_is_connected(tmp_path: Path) -> None:
    made = bridge(tmp_path)
    made.joined(Mock())
    assert not made.is_due(NOW, 1e9)


def test_it_ends_when_the_session_does(tmp_path: Path) -> None:
    made = bridge(tmp_path)
    made.joined(Mock())
    assert made.is_due(made.session.ends_at, 1000.0)
    assert not made.is_due(made.session.ends_at - timedelta(seconds=1), 1000.0)


def test_the_second_browser_replaces_the_first(tmp_path: Path) -> None:
    made = bridge(tmp_path)
    first, second = Mock(), Mock()
    made.joined(first)
    made.joined(second)
    first.close.assert_called_once()
    second.close.assert_not_called()


def test_another_page_has_another_address(tmp_path: Path) -> None:
    for name in ("desktop.js", "style.css"):
        (tmp_path / name).write_text("x")
    before = pages.Files("/p/", tmp_path).url
    assert before.startswith("/p/files/")
    (tmp_path / "desktop.js").write_text("y")
    assert pages.Files("/p/", tmp_path).url != before

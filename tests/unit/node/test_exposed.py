"""An agent's metrics on the network of a cluster: for who has the token, and nothing else is there."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from orchestrator.config import Metrics
from orchestrator.errors import SettingsError
from orchestrator.metrics.measures import CONTENT_TYPE
from orchestrator.node import exposed as room
from orchestrator.node import measures
from orchestrator.node.exposed import ExposedNode, expose_node
from tests.unit.workspaces.test_spec import SETTINGS

TOKEN = "5" * 64


def who_has_no_token_hears_nothing(served: ExposedNode) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{served.port}", trust_env=False) as client:
        for given in (None, "", "Bearer", f"Basic {TOKEN}", f"Bearer {TOKEN[1:]}", f"Bearer {TOKEN}5", "Bearer é"):
            headers = {} if given is None else {"authorization": given.encode()}
            for path in ("/metrics", "/"):
                answer = client.get(path, headers=headers)
                assert answer.status_code == 401 and "bulle_" not in answer.text, (given, path)


def test_who_has_the_token_hears_and_nobody_else() -> None:
    measures.WORKSPACES.follow(lambda: 3, state="running")
    served = ExposedNode("127.0.0.1:0", TOKEN)
    try:
        who_has_no_token_hears_nothing(served)
        headers = {"authorization": f"Bearer {TOKEN}"}
        told = httpx.get(f"http://127.0.0.1:{served.port}/metrics", headers=headers, trust_env=False)
        assert told.status_code == 200 and told.headers["content-type"] == CONTENT_TYPE
        assert 'bulle_workspaces{state="running"} 3' in told.text, told.text
        assert told.headers["server"] == "bulle"
        for path in ("/", "/metrics/", "/../etc/passwd"):
            url = f"http://127.0.0.1:{served.port}{path}"
            assert httpx.get(url, headers=headers, trust_env=False).status_code == 404
    finally:
        served.stop()


def test_negative_control_without_a_comparison_everybody_hears(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room.hmac, "compare_digest", lambda one, other: True)
    served = ExposedNode("127.0.0.1:0", TOKEN)
    try:
        with pytest.raises(AssertionError):
            who_has_no_token_hears_nothing(served)
    finally:
        served.stop()


def test_the_settings_say_where(tmp_path: Path) -> None:
    token = tmp_path / "token"
    settings = SETTINGS.model_copy(update={"metrics": Metrics(listen="0.0.0.0:0", token_file=token)})
    with pytest.raises(SettingsError, match="cannot be read"):
        expose_node(settings)
    token.write_text(TOKEN)
    token.chmod(0o400)
    served = expose_node(settings)
    assert isinstance(served, ExposedNode)
    with pytest.raises(SettingsError, match="cannot listen"):
        ExposedNode(f"0.0.0.0:{served.port}", TOKEN)
    served.stop()
    assert expose_node(SETTINGS) is None

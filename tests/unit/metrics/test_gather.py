"""The one place to scrape: who may, and what it tells when parts are silent or strange."""

from __future__ import annotations

import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError
from starlette.testclient import TestClient

from orchestrator.config import Settings, Uid
from orchestrator.errors import SettingsError
from orchestrator.machine.doctor import Level, check_secrets
from orchestrator.machine.parts import Part, control_plane
from orchestrator.machine.state import folders, shared_secrets
from orchestrator.metrics import gather
from orchestrator.metrics.exposed import Exposed, expose
from orchestrator.metrics.gather import MOST, Source, gatherer, sources_of
from orchestrator.metrics.measures import PARTS
from orchestrator.node.container import agent_container
from tests.unit.metrics.conftest import settings_in

TOKEN = "a long token of Prometheus"
WITH_TOKEN = {"Authorization": f"Bearer {TOKEN}"}


def source(answer: httpx.Response | Exception) -> Source:
    def handle(request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return httpx.AsyncClient(transport=httpx.MockTransport(handle), base_url="http://part"), {}


def tells(text: str) -> Source:
    return source(httpx.Response(200, text=text))


def page(**sources: Source) -> httpx.Response:
    with TestClient(gatherer(sources, TOKEN)) as client:
        return client.get("/metrics", headers=WITH_TOKEN)


# -- who may ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer a",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        "Bearer é",
    ],
)
def test_nobody_reads_without_the_token(header: str | None) -> None:
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(200, text="secret_figure 1\n")

    one = httpx.AsyncClient(transport=httpx.MockTransport(handle), base_url="http://part"), {}
    with TestClient(gatherer({"authority": one}, TOKEN)) as client:
        answer = client.get("/metrics", headers={} if header is None else {"Authorization": header.encode()})
    assert answer.status_code == 401 and "secret_figure" not in answer.text
    assert asked == [], "no part is asked for nobody"


def test_without_the_comparison_anybody_would_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: tokens that are always taken for the right one."""
    monkeypatch.setattr(gather.hmac, "compare_digest", lambda one, other: True)
    with TestClient(gatherer({"authority": tells("secret_figure 1\n")}, TOKEN)) as client:
        assert "secret_figure" in client.get("/metrics").text


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/metrics"), ("GET", "/"), ("GET", "/metrics/x"), ("PUT", "/metrics")]
)
def test_there_is_one_page_and_no_other(method: str, path: str) -> None:
    with TestClient(gatherer({}, TOKEN)) as client:
        assert client.request(method, path, headers=WITH_TOKEN).status_code in (404, 405)


# -- what it tells ----------------------------------------------------------------------------------------
def test_all_parts_are_told_as_one_page_and_the_silent_ones_are_named() -> None:
    answer = page(
        authority=tells("# TYPE a gauge\na 1\n"),
        node=source(httpx.ConnectError("gone")),
        portal=source(httpx.Response(500, text="b 1\n")),
        hub=tells("# TYPE c gauge\nc 2\n"),
    )
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert answer.headers["cache-control"] == "no-store"
    told = {
        (sample.name, sample.labels.get("part")): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert told == {
        ("bulle_part_up", "authority"): 1,
        ("bulle_part_up", "node"): 0,
        ("bulle_part_up", "portal"): 0,
        ("bulle_part_up", "hub"): 1,
        ("a", None): 1,
        ("c", None): 2,
    }


def test_a_part_that_tells_without_end_is_left_out() -> None:
    answer = page(authority=tells("x" * (MOST + 1)), node=tells("a 1\n"))
    assert len(answer.content) < 1000 and 'part="authority"} 0' in answer.text and "a 1" in answer.text


def test_the_real_parts_on_their_sockets(settings: Settings) -> None:
    write_hub_token(settings)
    with exposed(settings):
        sources = sources_of(settings)
        assert set(sources) == {*PARTS, "hub"}
        with TestClient(gatherer(sources, TOKEN)) as client:
            answer = client.get("/metrics", headers=WITH_TOKEN)
    names = [family.name for family in text_string_to_metric_families(answer.text)]
    assert len(names) == len(set(names)), "a family that is told twice is refused by Prometheus"
    assert {"bulle_part_up", "bulle_workspaces", "bulle_refusals", "bulle_page_seconds"} <= set(names)
    assert [f'part="{part}"}} 1' in answer.text for part in PARTS] == [True] * 3
    assert 'part="hub"} 0' in answer.text


def write_hub_token(settings: Settings) -> None:
    path = settings.layout.secrets / "metrics" / "hub-token"
    path.parent.mkdir(parents=True)
    path.write_text("0" * 64, encoding="utf-8")
    path.chmod(0o600)


@contextmanager
def exposed(settings: Settings) -> Iterator[list[Exposed]]:
    running = []
    for part in PARTS:
        settings.layout.metrics_socket(part).parent.mkdir(parents=True)
        one = expose(part, settings)
        assert one is not None
        running.append(one)
    try:
        yield running
    finally:
        for one in running:
            one.stop()


# -- a part's own socket ----------------------------------------------------------------------------------
def test_a_parts_socket_is_open_to_its_group_and_to_nobody_else(settings: Settings) -> None:
    with exposed(settings):
        for part in PARTS:
            mode = stat.S_IMODE(settings.layout.metrics_socket(part).stat().st_mode)
            assert mode == 0o660
    assert [settings.layout.metrics_socket(part).exists() for part in PARTS] == [False] * 3


def test_a_part_tells_one_page_and_outlives_whoever_leaves(settings: Settings) -> None:
    path = settings.layout.metrics_socket("node")
    with exposed(settings):
        for said in (b"", b"GET /metrics HTTP/1.1\r\n", b"\0\xff\r\n\r\n"):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                client.sendall(said)
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://part") as http:
            assert http.get("/metrics").status_code == 200
            assert http.get("/metrics").headers["server"] == "bulle"
            assert http.get("/other").status_code == 404
            assert http.post("/metrics").status_code == 501


def test_nothing_is_told_where_nothing_is_wanted(tmp_path: Path) -> None:
    assert expose("node", settings_in(tmp_path, metrics=None)) is None
    assert list(tmp_path.glob("sockets/*")) == []


def test_a_socket_that_cannot_be_made_is_said(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="cannot listen on"):
        expose("node", settings)


# -- where it stands --------------------------------------------------------------------------------------
@pytest.mark.parametrize("listen", ["0.0.0.0:9464", "192.0.2.1:9464", ":9464", "[::]:9464", "127.0.0.1", "host:9464"])
def test_it_listens_on_loopback_alone(tmp_path: Path, listen: str) -> None:
    with pytest.raises(ValidationError, match="not a port of loopback"):
        settings_in(tmp_path, metrics={"token_file": "/x", "listen": listen})


def parts(settings: Settings) -> dict[str, Part]:
    return {part.name: part for part in control_plane(settings, Path("/etc/bulle/bulle.yaml"), demo_idp=False)}


def test_the_part_sees_three_sockets_and_two_tokens(settings: Settings) -> None:
    layout, part = settings.layout, parts(settings)["metrics"]
    assert settings.metrics is not None
    assert part.uid == Uid.METRICS and not any(bind.writable for bind in part.binds)
    assert {bind.path for bind in part.binds if bind.inside is None} == {
        layout.secrets / "metrics",
        settings.metrics.token_file,
        *(layout.metrics_socket(each).parent for each in PARTS),
    }


def test_where_none_is_wanted_there_is_no_part_and_no_place(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, metrics=None)
    assert "metrics" not in parts(settings)
    binds = [str(bind.path) for part in parts(settings).values() for bind in part.binds]
    binds += agent_container(settings, Path("/etc/bulle/bulle.yaml"), "sha256:0")["volumes"]
    assert [bind for bind in binds if "metrics" in bind] == []


def test_each_socket_lies_in_a_folder_of_its_part_and_the_metrics_part(settings: Settings) -> None:
    layout = settings.layout
    owners = {"authority": Uid.AUTHORITY, "node": 0, "portal": Uid.PORTAL}
    there = {folder.path: folder for folder in folders(layout)}
    for part in PARTS:
        folder = there[layout.metrics_socket(part).parent]
        assert (folder.uid, folder.gid, folder.mode) == (owners[part], Uid.METRICS, 0o2750)
    writable = {bind.path for part in parts(settings).values() for bind in part.binds if bind.writable}
    for each in ("authority", "portal"):
        assert layout.metrics_socket(each).parent in writable  # type: ignore[arg-type]
    agent = agent_container(settings, Path("/etc/bulle/bulle.yaml"), "sha256:0")
    assert any(bind.startswith(f"{layout.metrics_socket('node').parent}:") for bind in agent["volumes"])


def test_the_hubs_token_for_this_is_the_hubs_and_this_parts(settings: Settings) -> None:
    (secret,) = [each for each in shared_secrets(settings.layout) if each.name == "metrics-token"]
    assert {uid for _, uid in secret.files} == {Uid.HUB, Uid.METRICS}


def test_the_doctor_sees_a_token_that_is_missing_or_open_to_others(settings: Settings, tmp_path: Path) -> None:
    client_secret = tmp_path / "client-secret"
    client_secret.write_text("x")
    client_secret.chmod(0o600)
    settings = settings.model_copy(
        update={"oidc": settings.oidc.model_copy(update={"client_secret_file": client_secret})}
    )
    assert settings.metrics is not None
    assert check_secrets(settings).level is Level.FINE
    settings.metrics.token_file.chmod(0o644)
    assert check_secrets(settings).level is Level.FAULT
    settings.metrics.token_file.unlink()
    found = check_secrets(settings)
    assert found.level is Level.FAULT and "metrics.token_file" in found.message


def test_on_a_cluster_node_agents_are_asked_by_prometheus_itself_and_not_told_to_be_down(tmp_path: Path) -> None:
    here = settings_in(tmp_path)
    token = here.layout.secrets / "metrics" / "hub-token"
    token.parent.mkdir(parents=True, exist_ok=True)
    token.write_text("t")
    token.chmod(0o600)
    there = Settings.model_validate({**here.model_dump(exclude_none=True), "kubernetes": {}})
    assert set(sources_of(here)) == {"authority", "node", "portal", "hub"}
    assert set(sources_of(there)) == {"authority", "portal", "hub"}
    assert str(sources_of(there)["hub"][0].base_url) == "http://127.0.0.1:8081/hub/"

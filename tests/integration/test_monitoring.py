"""Metrics and logs of a deployment that runs: what the one page tells, to whom, and whose name is nowhere in it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import docker
import httpx
import pytest
from playwright.sync_api import Browser
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.cli import demo
from orchestrator.config import Uid
from orchestrator.machine.parts import container_name
from tests.integration.conftest import free_ports
from tests.integration.people import log_in, open_workspace, person
from tests.integration.test_end_to_end import password

TOKEN = "c0ffee" * 10
PARTS = ("authority", "node", "hub", "portal", "metrics")


@pytest.fixture(scope="module")
def watched(place: demo.Place, images: dict[str, str]) -> Iterator[tuple[demo.Place, demo.Running, str]]:
    """A deployment with metrics and logs in JSON; its address for Prometheus."""
    first = free_ports(7)
    own = replace(
        place,
        deployment="watched",
        state=place.state.with_name("watched"),
        port=first,
        internal_port=first + 1,
        bridge_subnet="172.31.202.0/24",
    )
    listen = f"127.0.0.1:{first + 5}"
    token = own.state / "token-of-prometheus"
    own.state.mkdir(parents=True)
    demo.write_settings(own, {"metrics": {"token_file": str(token), "listen": listen}, "logs": "json"})
    token.write_text(TOKEN, encoding="utf-8")
    shutil.chown(token, Uid.METRICS, Uid.METRICS)
    token.chmod(0o600)
    try:
        yield own, demo.up(print, own, images=images), f"http://{listen}"
    finally:
        demo.down(print, own)
        shutil.rmtree(own.state, ignore_errors=True)


def scraped(url: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    answer = httpx.get(f"{url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=10, trust_env=False)
    assert answer.status_code == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


@pytest.mark.timeout(600)
def test_figures_and_logs_of_a_deployment(
    watched: tuple[demo.Place, demo.Running, str], browser: Browser, engine: docker.DockerClient
) -> None:
    place, running, url = watched
    secret = password(running, "researcher")
    with person(browser) as profile:
        page = profile.new_page()
        log_in(page, running.url, "researcher", secret)
        open_workspace(page, "doctor-visits")

        # -- what is told ---------------------------------------------------------------------------------
        found = scraped(url)
        for part in ("authority", "node", "portal", "hub"):
            assert found["bulle_part_up", (("part", part),)] == 1, part
        assert found["bulle_workspaces", (("state", "running"),)] == 1
        assert found["bulle_mounts", (("kind", "view"),)] == 1
        assert found["bulle_workspace_starts_total", (("outcome", "done"),)] == 1
        assert found["bulle_workspace_start_seconds_count", ()] == 1
        assert found["bulle_view_build_seconds_count", (("outcome", "done"),)] == 1
        assert found["bulle_probe_runs_total", (("outcome", "passed"),)] == 1
        assert found["bulle_grants_total", (("outcome", "done"),)] == 1
        assert found["bulle_audit_records", ()] > 10
        assert found["bulle_authority_silence_seconds", ()] < 10
        assert found["bulle_reconcile_age_seconds", ()] < 10
        assert found["bulle_node_silence_seconds", ()] < 10
        assert found["bulle_decision_seconds_count", (("question", "check"),)] >= 1
        assert found["bulle_page_seconds_count", (("page", "home"), ("status", "2xx"))] >= 1
        assert found["bulle_machine_storage_bytes", (("what", "free"),)] > 0
        assert any(name.startswith("jupyterhub_") for name, _ in found), "the hub's own are there too"

        # -- about nobody ---------------------------------------------------------------------------------
        told = json.dumps([[name, labels] for name, labels in found])
        for word in ("researcher", "doctor-visits", "rwm5yr", "@", secret):
            assert word not in told, word

        # -- and to nobody else ---------------------------------------------------------------------------
        for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Bearer {TOKEN}x"}):
            assert httpx.get(f"{url}/metrics", headers=headers, trust_env=False).status_code == 401
        for path in ("/metrics", "/services/portal/metrics", "/services/metrics/metrics", "/hub/metrics"):
            for answer in (
                page.request.get(running.url + path, max_redirects=0),
                page.request.get(running.url + path, max_redirects=0, headers={"Authorization": f"Bearer {TOKEN}"}),
            ):
                assert answer.status != 200 and "bulle_" not in answer.text(), path
                assert "jupyterhub_" not in answer.text(), path

    # -- logs ---------------------------------------------------------------------------------------------
    bulle = [".venv/bin/bulle", "--settings", str(place.settings_file), "workspace"]
    listed = subprocess.run([*bulle, "list", "--json"], capture_output=True, check=True).stdout
    subprocess.run([*bulle, "stop", json.loads(listed)[0]["session"]], check=True)
    lines = 0
    for part in PARTS:
        log = engine.containers.get(container_name(place.deployment, part)).logs().decode()
        for line in log.splitlines():
            record = json.loads(line)
            assert record["part"] == part and {"time", "level", "logger", "message"} <= set(record)
            lines += 1
        for word in (secret, "@example.org", "rwm5yr", TOKEN):
            assert word not in log, (part, word)
        assert not re.search(r"eyJ[\w-]{10,}\.", log)
    assert lines > 0

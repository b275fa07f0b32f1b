"""The main job in a real browser: log in, open a workspace, work in it, be refused, be removed."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import docker
import pytest
from playwright.sync_api import Browser, expect

from orchestrator.cli import demo
from tests.integration.people import (
    focus_desktop,
    log_in,
    open_workspace,
    person,
    picture,
    type_in_terminal,
    wait_gone,
    wait_pixels,
)


def password(deployment: demo.Running, name: str) -> str:
    return next(each.password for each in deployment.people if each.name == name)


def part(engine: docker.DockerClient, place: demo.Place, session: str, name: str):  # type: ignore[no-untyped-def]
    found = [
        each
        for each in engine.containers.list(filters={"label": f"bulle.deployment={place.deployment}"})
        if each.labels.get("bulle.session") == session and each.labels.get("bulle.part") == name
    ]
    assert len(found) == 1, (name, [each.labels for each in found])
    return found[0]


def inside(container, *words: str) -> str:  # type: ignore[no-untyped-def]
    """What a command prints that runs as the researcher in the sandbox."""
    code, out = container.exec_run(list(words), user="1000", environment={"HOME": "/home/researcher"})
    assert code == 0, out.decode()
    return str(out.decode())


def sessions(bulle) -> list[dict[str, str]]:  # type: ignore[no-untyped-def]
    return list(json.loads(bulle("workspace", "list", "--json").stdout))


def audit(bulle, *filters: str) -> list[dict]:  # type: ignore[no-untyped-def,type-arg]
    return list(json.loads(bulle("audit", "show", "--json", *filters).stdout))


def mounts_of(place: demo.Place) -> list[str]:
    text = Path("/proc/self/mountinfo").read_text()
    below = str(place.state / "mounts") + "/"
    return [line.split()[4] for line in text.splitlines() if line.split()[4].startswith(below)]


@pytest.mark.timeout(600)
def test_a_researcher_works_and_nothing_else_gets_in(
    deployment: demo.Running, place: demo.Place, browser: Browser, engine: docker.DockerClient, bulle
) -> None:
    with person(browser) as profile:
        page = profile.new_page()
        log_in(page, deployment.url, "researcher", password(deployment, "researcher"))
        expect(page.get_by_text("doctor-visits").or_(page.get_by_text("Doctor visits")).first).to_be_visible()
        picture(page, "portal-home")
        open_workspace(page, "doctor-visits")
        time.sleep(4)
        picture(page, "desktop-first")
        session = sessions(bulle)[0]["session"]
        sandbox = part(engine, place, session, "sandbox")

        # typing in its terminal arrives, and the view is there
        type_in_terminal(page, "ls -l /data/rwm5yr | tee ~/typed.txt")
        time.sleep(3)
        picture(page, "desktop-terminal")
        assert "rwm5yr.parquet" in inside(sandbox, "cat", "/home/researcher/typed.txt")

        # the view: the permit's columns and rows, with this project's pseudonyms, read-only
        code = (
            "import pyarrow.parquet as p, json; t=p.read_table('/data/rwm5yr/rwm5yr.parquet');"
            "print(json.dumps([t.column_names, t.num_rows, min(t['year'].to_pylist()), t['id'][0].as_py()]))"
        )
        columns, rows, first_year, pseudonym = json.loads(inside(sandbox, "python3", "-c", code))
        assert columns == ["id", "year", "docvis", "hospvis", "age", "female", "outwork"]
        assert rows > 10_000 and first_year == 1985
        assert re.fullmatch("[0-9a-f]{32}", pseudonym)
        assert sandbox.exec_run(["sh", "-c", "echo x > /data/x"], user="1000")[0] != 0
        assert sandbox.exec_run(["touch", "/data/rwm5yr/rwm5yr.parquet"], user="1000")[0] != 0

        # the same page again: the session is kept
        page.reload()
        wait_pixels(page)
        assert [each["session"] for each in sessions(bulle)] == [session]

        # French keys arrive right
        focus_desktop(page)
        page.keyboard.type("printf '%s' 'éàç@#€{}ù' > ~/azerty.txt", delay=20)
        page.keyboard.press("Enter")
        time.sleep(2)
        assert inside(sandbox, "cat", "/home/researcher/azerty.txt") == "éàç@#€{}ù"

    # an outsider is let in to nothing
    with person(browser) as profile:
        page = profile.new_page()
        log_in(page, deployment.url, "outsider", password(deployment, "outsider"))
        picture(page, "portal-outsider")
        assert page.locator("form[action*='/open/']").count() == 0
        for path in ("/user/researcher/doctor-visits/", "/hub/spawn/outsider/doctor-visits"):
            answer = page.goto(deployment.url + path)
            assert answer is not None
            page.wait_for_timeout(1500)
            assert page.locator("#screen canvas").count() == 0
        picture(page, "outsider-refused")
    assert len(sessions(bulle)) == 1
    bulle("workspace", "stop", session)
    assert sessions(bulle) == []
    assert mounts_of(place) == []


@pytest.mark.timeout(300)
def test_a_removed_member_is_out_within_seconds(
    deployment: demo.Running, place: demo.Place, browser: Browser, engine: docker.DockerClient, bulle
) -> None:
    with person(browser) as profile:
        page = profile.new_page()
        log_in(page, deployment.url, "researcher2", password(deployment, "researcher2"))
        open_workspace(page, "colon-survival")
        assert len(sessions(bulle)) == 1 and mounts_of(place)
        bulle("member", "suspend", "colon-survival", "researcher2", "--as", "lead")
        removed = time.monotonic()
        while (sessions(bulle) or mounts_of(place)) and time.monotonic() - removed < 30:
            time.sleep(0.2)
        # the five seconds are the product's promise (reconcile_seconds ≤ 5), not a benchmark
        assert time.monotonic() - removed < 5 + 1
        wait_gone(page, 30)
        picture(page, "desktop-ended")
    kinds = [record["event"]["kind"] for record in audit(bulle, "--person", "researcher2")]
    assert "grant.issue" in kinds and "key.release" in kinds and "workspace.stop" in kinds


def test_the_audit_log_of_all_this_is_whole_and_a_change_shows(
    deployment: demo.Running, place: demo.Place, bulle
) -> None:
    assert bulle("audit", "verify").returncode == 0
    log = next((place.state / "audit").glob("*.jsonl"))
    kept = log.read_bytes()
    try:
        log.write_bytes(kept.replace(b"researcher", b"resaercher", 1))
        assert bulle("audit", "verify", check=False).returncode == 1
        log.write_bytes(b"".join(kept.splitlines(keepends=True)[:-1]))
        assert bulle("audit", "verify", check=False).returncode == 1
    finally:
        log.write_bytes(kept)
    assert bulle("audit", "verify").returncode == 0


def test_nothing_answers_but_the_proxy(deployment: demo.Running, place: demo.Place) -> None:
    """No part of this deployment listens beyond loopback and its internal network."""
    listening = subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=True).stdout
    ours = {str(port) for port in (place.port, *range(place.internal_port, place.internal_port + 4))}
    for line in listening.splitlines():
        address, port = line.split()[3].rsplit(":", 1)
        if port in ours:
            assert address in ("127.0.0.1", place.bridge_subnet.replace(".0/24", ".1")), line

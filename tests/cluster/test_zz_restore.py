"""The whole platform on an empty cluster, from a backup, by the commands of ``docs/moving.md``: from PostgreSQL into
SQLite on the way, with the home that somebody left."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from pyrage import x25519

from tests.cluster.live import NAMESPACE, PROJECT, RELEASE, Desktop, Live, stop_all, until
from tests.integration.people import log_in, open_workspace, person, picture, type_in_terminal

TOOLS = f"deployment/{RELEASE}-tools"
FILES = ("backup.age", "secrets.age", "identity")
CUSTODIAN = "custodian-of-the-backup"


def in_desktop(live: Live, browser: Browser, line: str) -> str:
    """What a researcher finds in their file after typing a line."""
    with person(browser) as profile:
        page = profile.new_page()
        log_in(page, live.url, "researcher", live.password("researcher"))
        open_workspace(page, PROJECT)
        desktop = Desktop(live, page)
        type_in_terminal(page, f"{line}; echo done >>~/kept.txt; exit")
        until(lambda: desktop.read("/home/researcher/kept.txt").endswith("done\n"), 15, "what was typed arrived")
        picture(page, "cluster-desktop-restored")
        text = desktop.read("/home/researcher/kept.txt")
        page.goto(f"{live.url}/services/portal/")
        stop_all(live, page)
    return text


def copied_out(live: Live, name: str) -> bytes:
    line = live.cluster.command("exec", "-n", NAMESPACE, TOOLS, "--", "cat", f"/tmp/{name}")
    return subprocess.run(line, capture_output=True, check=True, timeout=120).stdout


def copied_in(live: Live, name: str, content: bytes) -> None:
    write = ["/bin/sh", "-c", f"umask 077; cat >/tmp/{name}"]
    line = live.cluster.command("exec", "-i", "-n", NAMESPACE, TOOLS, "--", *write)
    subprocess.run(line, input=content, check=True, timeout=120)


def custodian_key(live: Live) -> str:
    """The key that the chart made, as its Secret has it."""
    found = json.loads(live.cluster.kubectl("get", "secret", "-n", NAMESPACE, f"{RELEASE}-custodian", "-o", "json"))
    key: str = found["data"]["key-encryption-key"]
    assert len(base64.b64decode(key)) == 32
    return key


@pytest.mark.timeout(600)
def test_the_platform_comes_back_on_an_empty_cluster(live: Live, browser: Browser, tmp_path: Path) -> None:
    kubectl = live.cluster.kubectl
    assert in_desktop(live, browser, "echo of before >~/kept.txt") == "of before\ndone\n"
    identity = x25519.Identity.generate()
    words = ("--for", str(identity.to_public()), "--secrets", "/tmp/secrets.age")
    live.bulle("backup", "create", "/tmp/backup.age", *words)
    kept = {name: copied_out(live, name) for name in FILES[:2]} | {"identity": f"{identity}\n".encode()}
    assert all(content.startswith(b"age-encryption.org/v1") for content in (kept["backup.age"], kept["secrets.age"]))
    key, people, projects = custodian_key(live), live.bulle("person", "list"), live.bulle("project", "list")

    live.unforward()
    live.remove()
    live.volumes()
    kubectl("create", "namespace", NAMESPACE)
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": CUSTODIAN, "namespace": NAMESPACE}}
    kubectl("create", "-f", "-", given={**secret, "data": {"key-encryption-key": key}})
    try:
        live.apply(database={"internal": False}, custodian={"kind": "file", "existingSecret": CUSTODIAN})
        kubectl("rollout", "status", "-n", NAMESPACE, TOOLS, "--timeout=120s")
        assert PROJECT not in live.bulle("project", "list"), "an empty one"
        for name, content in kept.items():
            copied_in(live, name, content)
        kubectl("scale", "-n", NAMESPACE, f"statefulset/{RELEASE}-control", "--replicas=0")
        kubectl("wait", "-n", NAMESPACE, "--for=delete", f"pod/{RELEASE}-control-0", "--timeout=120s")
        live.bulle(
            "backup", "restore", "/tmp/backup.age", "--identity", "/tmp/identity", "--secrets", "/tmp/secrets.age"
        )
        kubectl("scale", "-n", NAMESPACE, f"statefulset/{RELEASE}-control", "--replicas=1")
        kubectl("rollout", "restart", "-n", NAMESPACE, f"daemonset/{RELEASE}-node")
        for each in (f"statefulset/{RELEASE}-control", f"daemonset/{RELEASE}-node"):
            kubectl("rollout", "status", "-n", NAMESPACE, each, "--timeout=120s")
        live.forward()
        assert (live.bulle("person", "list"), live.bulle("project", "list")) == (people, projects)
        assert in_desktop(live, browser, "echo of after >>~/kept.txt") == "of before\ndone\nof after\ndone\n"
        live.bulle("audit", "verify")
    finally:
        live.unforward()

"""What programs that others wrote say of the chart's objects: the cluster's own schemas, and checkov's rules."""

from __future__ import annotations

import functools
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.helm.chart import DEPLOYMENTS, NEWEST, Manifest, find, rendered
from tests.unit.helm.tools import tools

EVERY = sorted(DEPLOYMENTS)
EXCEPTIONS = Path(__file__).with_name("exceptions.yaml")
#: kinds of an operator; no cluster brings them
FOREIGN = {"PodMonitor", "PrometheusRule"}


# -- the cluster's schemas ---------------------------------------------------------------------------------------
def judged(objects: list[Manifest]) -> dict[str, Any]:
    own = [each for each in objects if each["kind"] not in FOREIGN]
    line = [str(tools() / "python"), "-I", str(Path(__file__).with_name("judge.py")), "1.28"]
    done = subprocess.run(line, input=json.dumps(own), capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_version_of_kubernetes_knows_every_field() -> None:
    found = judged([each for deployment in EVERY for each in rendered(deployment)])
    assert found["faults"] == []
    assert found["versions"][0] == "1.28" and f"{found['versions'][-1]}.0" == NEWEST and len(found["versions"]) >= 10


def test_negative_control_a_field_that_nobody_knows_is_seen() -> None:
    objects = rendered("demo")
    spec = find(objects, "StatefulSet", "bulle-control")["spec"]
    spec["template"]["spec"]["containers"][0]["securityContext"]["readOnlyRoot"] = True
    found = judged(objects)
    assert len(found["faults"]) == len(found["versions"]) and "readOnlyRoot" in found["faults"][0]


# -- checkov -----------------------------------------------------------------------------------------------------
@functools.cache
def exceptions() -> dict[str, dict[str, Any]]:
    """What checkov finds and we leave as it is: check → objects, and why."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(EXCEPTIONS.read_text(encoding="utf-8"))
    return found


def failures(objects: list[Manifest], tmp_path: Path) -> set[tuple[str, str]]:
    """What checkov finds: check, and object."""
    file = tmp_path / "objects.yaml"
    file.write_text(yaml.safe_dump_all(objects), encoding="utf-8")
    words = ["--framework", "kubernetes", "--skip-download", "--compact", "--quiet", "-o", "json", "--soft-fail"]
    # its own settings file, which it looks for in the folder and at home, is nobody's
    done = subprocess.run(
        [str(tools() / "checkov"), "-f", file.name, *words],
        capture_output=True, text=True, check=False, timeout=300, cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LOG_LEVEL": "ERROR"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["summary"]["parsing_errors"] == 0 and found["summary"]["passed"] > 100
    return {
        (each["check_id"], ".".join(each["resource"].split(".")[::2])) for each in found["results"]["failed_checks"]
    }


def excepted() -> set[tuple[str, str]]:
    return {(check, name) for check, row in exceptions().items() for name in row["objects"]}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[tuple[str, str]]]:
    """Of the deployments whose objects have the names that the exceptions name."""
    return {name: failures(rendered(name), tmp_path_factory.mktemp(name)) for name in ("hospital", "inside")}


def test_checkov_finds_nothing_that_has_no_written_reason(everything: dict[str, set[tuple[str, str]]]) -> None:
    assert set().union(*everything.values()) - excepted() == set()


def test_no_reason_is_written_for_what_is_not_found(everything: dict[str, set[tuple[str, str]]]) -> None:
    assert excepted() - set().union(*everything.values()) == set()
    assert all(len(row["because"]) > 20 for row in exceptions().values())


def test_negative_control_checkov_sees_what_is_broken(tmp_path: Path) -> None:
    objects = rendered("inside")
    container = find(objects, "Deployment", "bulle-namespaces")["spec"]["template"]["spec"]["containers"][0]
    container["securityContext"]["privileged"] = True
    assert ("CKV_K8S_16", "Deployment.bulle-namespaces") in failures(objects, tmp_path) - excepted()

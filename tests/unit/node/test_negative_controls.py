"""Negative controls of the agent's borders: without each control its own test fails."""

from __future__ import annotations

import json
import os.path
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ConfigDict

from orchestrator.errors import InputError
from orchestrator.node import door, volumes
from orchestrator.node.container import agent_container
from orchestrator.node.door import StartRequest
from tests.unit.node import test_border
from tests.unit.workspaces.test_spec import SETTINGS

NOT_REFUSED = pytest.raises(pytest.fail.Exception, match="DID NOT RAISE")
LAYOUT = SETTINGS.layout


# -- targets of mounts -----------------------------------------------------------------------------------
def any_path(text: str, allowed: Path) -> Path:
    return Path(text)


def by_its_beginning(text: str, allowed: Path) -> Path:
    if not text.startswith(f"{allowed}/"):
        raise InputError(text)
    return Path(text)


@pytest.mark.parametrize(
    ("instead", "text"),
    [(any_path, "/etc"), (any_path, "etc"), (by_its_beginning, "../../../etc"), (by_its_beginning, "a/../..")],
)
def test_a_target_that_is_not_checked_is_seen(
    monkeypatch: pytest.MonkeyPatch, instead: Callable[[str, Path], Path], text: str
) -> None:
    monkeypatch.setattr(test_border, "checked_target", instead)
    with pytest.raises(AssertionError):
        test_border.below_or_refused(text)


def test_a_check_that_does_not_look_for_links_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Everything else is checked as ever."""
    looks = volumes.checked_target

    def blind(text: str, allowed: Path) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "is_symlink", lambda self: False)
            patch.setattr(Path, "resolve", lambda self, strict=False: Path(os.path.normpath(self)))
            return looks(text, allowed)

    monkeypatch.setattr(test_border, "checked_target", blind)
    with NOT_REFUSED:
        test_border.test_a_target_behind_a_symbolic_link_is_refused(tmp_path)


# -- requests --------------------------------------------------------------------------------------------
class Lenient(StartRequest):
    """A request in which unknown fields are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


@pytest.mark.parametrize(
    "body",
    [
        {"grant": "x", "bridge_environment": {}, "mounts": []},
        {"grant": "x", "bridge_environment": {}, "image": "y"},
    ],
    ids=str,
)
def test_without_the_refusal_of_unknown_fields_they_pass(monkeypatch: pytest.MonkeyPatch, body: Any) -> None:
    monkeypatch.setattr(door, "StartRequest", Lenient)
    with NOT_REFUSED:
        test_border.test_a_request_is_taken_whole_or_refused_whole(body)


@pytest.mark.parametrize(
    "body",
    [
        {"grant": "x" * (1 << 20), "bridge_environment": {}},
        {"grant": "x", "bridge_environment": {f"n{n}": "" for n in range(100)}},
        {"grant": "x"},
        None,
    ],
    ids=["long", "many", "half", "nothing"],
)
def test_a_request_that_is_read_without_its_bounds_is_seen(monkeypatch: pytest.MonkeyPatch, body: Any) -> None:
    monkeypatch.setattr(test_border, "parse_start", lambda raw: SimpleNamespace(**(json.loads(raw) or {})))
    with NOT_REFUSED:
        test_border.test_a_request_is_taken_whole_or_refused_whole(body)


@pytest.mark.parametrize(
    "changes", [{"JUPYTERHUB_USER": "eve"}, {"JUPYTERHUB_SERVER_NAME": "lung"}, {"JUPYTERHUB_API_TOKEN": ""}], ids=str
)
def test_an_environment_that_is_not_checked_is_seen(monkeypatch: pytest.MonkeyPatch, changes: dict[str, str]) -> None:
    monkeypatch.setattr(test_border, "checked_environment", lambda environment, grant: environment)
    with NOT_REFUSED:
        test_border.test_an_environment_for_somebody_else_or_malformed_is_refused(changes)


# -- the agent's container -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.update(network_mode="host"),
        lambda found: found.update(read_only=False),
        lambda found: found.update(cap_drop=[]),
        lambda found: found["cap_add"].append("NET_ADMIN"),
        lambda found: found.update(privileged=True),
        lambda found: found.update(pid_mode="host"),
        lambda found: found["devices"].append("/dev/sda:/dev/sda:rwm"),
        lambda found: found.update(device_cgroup_rules=["b *:* rwm"]),
        lambda found: found["volumes"].append(f"{LAYOUT.authority}:{LAYOUT.authority}:ro"),
        lambda found: found["volumes"].append(f"{LAYOUT.secrets}:{LAYOUT.secrets}:ro"),
        lambda found: found["volumes"].append(f"{LAYOUT.state}:{LAYOUT.state}:rw"),
        lambda found: found["volumes"].remove(f"{LAYOUT.datasets}:{LAYOUT.datasets}:ro"),
    ],
    ids=[
        "network",
        "root",
        "drop",
        "capability",
        "privileged",
        "pids",
        "disk",
        "disks",
        "signing key",
        "secrets",
        "state",
        "datasets",
    ],
)
def test_an_agent_with_more_than_it_needs_is_seen(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], object]
) -> None:
    def wider(*given: Any) -> dict[str, Any]:
        found = agent_container(*given)
        change(found)
        return found

    monkeypatch.setattr(test_border, "agent_container", wider)
    with pytest.raises(AssertionError):
        test_border.test_the_agent_s_container_has_no_more_than_it_needs()

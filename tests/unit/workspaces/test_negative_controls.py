"""Negative controls of what a workspace is made of: without each control its own test fails."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.terms import Grant
from orchestrator.workspaces import spec
from orchestrator.workspaces.spec import ContainerSpec, Mount, WorkspacePaths
from tests.unit.workspaces import test_spec

NOT_REFUSED = pytest.raises(pytest.fail.Exception, match="DID NOT RAISE")


def command(sandbox: ContainerSpec, grant: Grant) -> ContainerSpec:
    return dataclasses.replace(sandbox, command=(*sandbox.command, grant.display_name))


def environment(sandbox: ContainerSpec, grant: Grant) -> ContainerSpec:
    return dataclasses.replace(sandbox, environment=(*sandbox.environment, ("PROJECT", grant.project_title)))


def mount(sandbox: ContainerSpec, grant: Grant) -> ContainerSpec:
    return dataclasses.replace(sandbox, mounts=(*sandbox.mounts, Mount(Path("/srv") / grant.project, "/srv", False)))


def network(sandbox: ContainerSpec, grant: Grant) -> ContainerSpec:
    return dataclasses.replace(sandbox, network=grant.project)


@pytest.mark.parametrize("leak", [command, environment, mount, network])
def test_a_value_of_a_grant_that_enters_a_container_is_seen(
    monkeypatch: pytest.MonkeyPatch, leak: Callable[[ContainerSpec, Grant], ContainerSpec]
) -> None:
    usual = spec.workspace_specs

    def leaking(grant: Grant, *given: Any) -> tuple[ContainerSpec, ContainerSpec, ContainerSpec]:
        display, bridge, sandbox = usual(grant, *given)
        return display, bridge, leak(sandbox, grant)

    monkeypatch.setattr(test_spec, "workspace_specs", leaking)
    with pytest.raises(AssertionError):
        test_spec.same_whatever_the_grant_says(
            test_spec.a_grant().model_copy(
                update={"display_name": "; sh", "project_title": "x\nLD_PRELOAD=/x", "project": "lung"}
            )
        )


@pytest.mark.parametrize("session", ["..", "../../etc", "0" * 31, "0" * 32 + "\n"])
def test_without_its_form_a_session_id_becomes_another_path(monkeypatch: pytest.MonkeyPatch, session: str) -> None:
    monkeypatch.setattr(WorkspacePaths, "of", classmethod(lambda cls, mounts, text: cls(mounts / "ws" / text)))
    with NOT_REFUSED:
        test_spec.test_a_session_id_never_becomes_another_path(session)


@pytest.mark.parametrize("image", ["sandbox:latest", "bulle/sandbox", ""])
def test_without_the_form_of_a_content_id_a_tag_would_run(monkeypatch: pytest.MonkeyPatch, image: str) -> None:
    monkeypatch.setattr(spec, "_IMAGE_ID", re.compile(r".*"))
    with NOT_REFUSED:
        test_spec.test_an_image_is_named_by_its_content_only(image)

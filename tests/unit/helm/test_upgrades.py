"""What an upgrade and a rollback leave as it is. With a desktop open, on a real cluster: tests/cluster/test_live.py."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from orchestrator.cluster.rights import projects_map
from orchestrator.config import load_settings
from tests.unit.helm.chart import DEPLOYMENTS, Manifest, find, of_kind, rendered, settings_text

Data = dict[str, str]


def applied(before: Manifest, after: Manifest, live: Data) -> Data:
    """``data`` of a live object after helm went from one manifest to another: what both leave out is not helm's."""
    old: Data = before.get("data") or {}
    new: Data = after.get("data") or {}
    return {key: value for key, value in live.items() if key not in old or key in new} | new


def project_list(deployment: str) -> Manifest:
    return find(rendered(deployment), "ConfigMap", f"{'workspaces' if deployment == 'existing' else 'bulle'}-projects")


@pytest.mark.parametrize("deployment", sorted(DEPLOYMENTS))
def test_the_list_of_projects_is_the_door_s_alone(deployment: str, tmp_path: Any) -> None:
    path = tmp_path / "bulle.yaml"
    path.write_text(settings_text(rendered(deployment)), encoding="utf-8")
    cluster = load_settings(path).kubernetes
    assert cluster is not None
    made = project_list(deployment)
    assert made["metadata"]["name"] == projects_map(cluster)
    assert made["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert not made.keys() & {"data", "binaryData", "immutable"}
    live = {"a" * 32: ""}
    assert applied(made, made, live) == live


def test_negative_control_a_list_in_the_release_is_put_back_by_a_rollback() -> None:
    """The reason for the test before: two projects, the second of which came after the first upgrade."""
    first, second = copy.deepcopy(project_list("demo")), copy.deepcopy(project_list("demo"))
    first["data"], second["data"] = {"a" * 32: ""}, {"b" * 32: ""}
    assert applied(second, first, {"b" * 32: ""}) == {"a" * 32: ""}


@pytest.mark.parametrize("deployment", sorted(DEPLOYMENTS))
def test_what_cannot_be_made_again_outlives_the_release(deployment: str) -> None:
    lasting = list(of_kind(rendered(deployment), "Secret", "PersistentVolumeClaim"))
    assert (lasting == []) == (deployment == "existing")
    assert all(each["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for each in lasting)


@pytest.mark.parametrize("deployment", sorted(DEPLOYMENTS))
def test_what_a_cluster_never_lets_change_does_not_depend_on_the_version(deployment: str) -> None:
    """Selectors, the service of the StatefulSet, claims: an upgrade that changed them would be refused half-way."""
    version = find(rendered(deployment), "CSIDriver", "workspace.bulle")["metadata"]["labels"]["helm.sh/chart"]
    for each in of_kind(rendered(deployment), "StatefulSet", "Deployment", "DaemonSet"):
        selector = each["spec"]["selector"]["matchLabels"]
        assert version not in selector.values()
        assert selector.keys() == {f"app.kubernetes.io/{part}" for part in ("name", "instance", "component")}
        assert selector.items() <= each["spec"]["template"]["metadata"]["labels"].items()
        assert "volumeClaimTemplates" not in each["spec"]

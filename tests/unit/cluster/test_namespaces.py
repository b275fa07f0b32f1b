"""The namespace controller makes what a project needs, mends it, and touches nothing that is not its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster import namespaces
from orchestrator.cluster.namespaces import LABEL_CONTROL, Namespaces, contents, namespace
from orchestrator.cluster.rights import Part
from orchestrator.config import Settings
from orchestrator.errors import NotFoundError, UnavailableError
from tests.unit.cluster.conftest import NAMESPACE, PROJECT, Stage
from tests.unit.cluster.fake import CONTROL, FakeCluster, fake_cluster

PROJECTS = {
    "labels": {"tier": "research"},
    "annotations": {"example.org/contact": "it"},
    "quota": {"requests.memory": "4096Mi"},
    "limit_range": {"max": {"memory": "8Gi"}},
}


class Quiet:
    """A cluster on which the controller is called by hand."""

    def __init__(self, cluster: FakeCluster, folder: Path) -> None:
        self.cluster = cluster
        self.settings: Settings = Stage(cluster, folder).settings
        told = self.settings.model_dump(exclude_none=True, mode="json")
        told["kubernetes"]["projects"] = PROJECTS
        told["workspace"]["start_timeout"] = 5
        self.settings = Settings.model_validate(told)
        self.controller = Namespaces(self.settings, cluster.api(Part.NAMESPACES))

    def list(self, *ids: str) -> None:
        self.cluster.change("configmaps", CONTROL, "bulle-projects", data=dict.fromkeys(ids, ""))


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[Quiet]:
    with fake_cluster(tmp_path / "cluster") as cluster:
        yield Quiet(cluster, tmp_path)


def test_a_project_on_the_list_gets_a_namespace_with_all_that_holds_it(quiet: Quiet) -> None:
    quiet.list(PROJECT)
    quiet.controller.look()
    assert quiet.cluster.names("namespaces") == [CONTROL, NAMESPACE]
    for kind, wanted in contents(PROJECT, quiet.settings):
        found = quiet.cluster.objects[(kind, NAMESPACE, wanted["metadata"]["name"])]
        assert {**wanted, "metadata": None} == {**found, "metadata": None}
    labels = quiet.cluster.of("namespaces")[1]["metadata"]["labels"]
    assert labels["tier"] == "research" and labels["pod-security.kubernetes.io/warn"] == "restricted"


def test_by_default_nobody_speaks_and_only_bridge_and_control_plane_may(quiet: Quiet) -> None:
    policies = {
        each["metadata"]["name"]: each["spec"]
        for kind, each in contents(PROJECT, quiet.settings)
        if kind == "networkpolicies"
    }
    nothing, bridge = policies["bulle-nothing"], policies["bulle-bridge"]
    assert nothing == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    (come,), (go,) = bridge["ingress"], bridge["egress"]
    assert come["from"] == go["to"] and len(go["to"]) == 1
    assert go["to"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "bulle"}
    assert [each["port"] for each in (*come["ports"], *go["ports"])] == [8888, 8081]


def test_the_door_s_rights_are_made_last_and_go_first(quiet: Quiet) -> None:
    quiet.list(PROJECT)
    quiet.controller.look()
    made = [call for call in quiet.cluster.calls if call.startswith("create")]
    assert made[0].startswith("create namespaces") and made[-1].startswith("create rolebindings")
    quiet.list()
    quiet.controller.mend()
    gone = [call for call in quiet.cluster.calls if call.startswith("delete")]
    assert gone == [f"delete rolebindings {NAMESPACE}/bulle-door", f"delete namespaces /{NAMESPACE}"]
    assert quiet.cluster.names("namespaces") == [CONTROL]


def test_what_the_door_says_is_no_name(quiet: Quiet) -> None:
    attacks = ("kube-system", "../x", "1" * 31, "1" * 33, "A" * 32, "١" * 32, "")
    quiet.list(*attacks)
    quiet.controller.look()
    quiet.controller.mend()
    assert quiet.cluster.names("namespaces") == [CONTROL]


def test_without_that_check_any_name_gets_a_namespace(quiet: Quiet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "_ID", re.compile(r"[a-z-]+"))
    quiet.list("kube-system")
    quiet.controller.look()
    assert quiet.cluster.names("namespaces") == [CONTROL, "bulle-project-kube-system"]


def theirs(quiet: Quiet, **labels: str) -> None:
    quiet.cluster.add("namespaces", "", {"metadata": {"name": NAMESPACE, "labels": labels}})


@pytest.mark.parametrize(
    "labels", [{}, {"bulle.deployment": "trial"}, {"bulle.deployment": "trial", LABEL_CONTROL: "other"}]
)
def test_a_namespace_that_somebody_else_made_is_left_alone(quiet: Quiet, labels: dict[str, str]) -> None:
    theirs(quiet, **labels)
    quiet.list(PROJECT)
    quiet.controller.look()
    assert [key for key in quiet.cluster.objects if key[1] == NAMESPACE] == []
    quiet.list()
    quiet.controller.mend()
    assert quiet.cluster.names("namespaces") == [CONTROL, NAMESPACE]
    assert not [call for call in quiet.cluster.calls if call.startswith(("delete", "patch"))]


def test_one_with_our_labels_and_another_name_is_not_removed(quiet: Quiet) -> None:
    labels = namespace(PROJECT, quiet.settings)["metadata"]["labels"]
    for name in ("other-" + "2" * 32, "bulle-project-x", "bulle-project-" + "2" * 33):
        quiet.cluster.add("namespaces", "", {"metadata": {"name": name, "labels": labels}})
    before = quiet.cluster.names("namespaces")
    quiet.controller.mend()
    assert quiet.cluster.names("namespaces") == before


def _open_policy(cluster: FakeCluster) -> None:
    cluster.change("networkpolicies", NAMESPACE, "bulle-nothing", spec={"podSelector": {}, "egress": [{}]})


def _more_people(cluster: FakeCluster) -> None:
    subjects = [*cluster.of("rolebindings")[0]["subjects"], {"kind": "User", "name": "eve"}]
    cluster.change("rolebindings", NAMESPACE, "bulle-door", subjects=subjects)


def _another_role(cluster: FakeCluster) -> None:
    cluster.change("rolebindings", NAMESPACE, "bulle-door", roleRef={"kind": "ClusterRole", "name": "cluster-admin"})


def _token(cluster: FakeCluster) -> None:
    cluster.change("serviceaccounts", NAMESPACE, "bulle-workspace", automountServiceAccountToken=True)


def _quota(cluster: FakeCluster) -> None:
    cluster.remove("resourcequotas", NAMESPACE, "bulle")


def _label(cluster: FakeCluster) -> None:
    cluster.objects[("namespaces", "", NAMESPACE)]["metadata"]["labels"].pop("pod-security.kubernetes.io/audit")


@pytest.mark.parametrize(
    "drift", [_open_policy, _more_people, _another_role, _token, _quota, _label], ids=lambda each: each.__name__
)
def test_what_somebody_changes_is_mended(quiet: Quiet, drift: Callable[[FakeCluster], None]) -> None:
    quiet.list(PROJECT)
    quiet.controller.look()

    def state() -> list[Any]:
        told = []
        for (kind, where, name), each in sorted(quiet.cluster.objects.items()):
            if NAMESPACE in (where, name):
                told.append((kind, name, dict(each["metadata"].get("labels") or {}), {**each, "metadata": None}))
        return told

    before = state()
    drift(quiet.cluster)
    assert state() != before
    quiet.controller.mend()
    assert state() == before


def test_what_the_cluster_writes_in_its_own_way_is_no_change(quiet: Quiet) -> None:
    quiet.list(PROJECT)
    create = quiet.cluster._create

    def in_its_own_way(kind: str, *rest: Any) -> Any:
        code, body = create(kind, *rest)
        if kind == "resourcequotas":
            hard = {**body["spec"]["hard"], "requests.memory": "4Gi"}
            quiet.cluster.change(kind, NAMESPACE, "bulle", spec={"hard": hard})
            body["spec"] = {"hard": hard}
        return code, body

    quiet.cluster._create = in_its_own_way  # type: ignore[method-assign]
    quiet.controller.look()
    quiet.controller.mend()
    assert not [call for call in quiet.cluster.calls if call.startswith("update")]


def test_a_namespace_with_a_workspace_stays_and_so_do_the_door_s_rights(quiet: Quiet) -> None:
    quiet.list(PROJECT)
    quiet.controller.look()
    quiet.cluster.add("pods", NAMESPACE, {"metadata": {"name": "ws-1"}, "status": {}})
    quiet.list()
    quiet.controller.mend()
    assert NAMESPACE in quiet.cluster.names("namespaces") and quiet.cluster.names("rolebindings") == ["bulle-door"]


def test_a_workspace_that_comes_during_the_removal_is_not_removed_with_it(quiet: Quiet) -> None:
    quiet.list(PROJECT)
    quiet.controller.look()
    quiet.list()

    def start(call: str) -> None:
        if call.startswith("DELETE") and "rolebindings" in call:
            quiet.cluster.add("pods", NAMESPACE, {"metadata": {"name": "ws-1"}, "status": {}})
            quiet.list(PROJECT)

    quiet.cluster.meddle = start
    quiet.controller.mend()
    assert quiet.cluster.names("pods") == ["ws-1"]
    quiet.controller.look()
    assert quiet.cluster.names("rolebindings") == ["bulle-door"]


@pytest.mark.parametrize("how", ["gone", "silent"])
def test_without_the_list_nothing_is_made_or_removed(quiet: Quiet, how: str) -> None:
    quiet.list(PROJECT)
    quiet.controller.look()
    if how == "gone":
        quiet.cluster.remove("configmaps", CONTROL, "bulle-projects")
    else:
        quiet.cluster.silent = True
    with pytest.raises((NotFoundError, UnavailableError)):
        quiet.controller.mend()
    assert NAMESPACE in quiet.cluster.names("namespaces")

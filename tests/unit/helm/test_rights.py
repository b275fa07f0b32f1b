"""The roles that the chart makes are the table of the code and of docs/kubernetes.md: no more, no less."""

from __future__ import annotations

import copy

import pytest

from orchestrator.cluster.rights import RIGHTS, Part, Where
from tests.unit.cluster.test_rights import PAGE, on_the_page
from tests.unit.helm.chart import DEPLOYMENTS, NAMESPACE, Manifest, find, of_kind, rendered

Right = tuple[str, str, str, str, str, str]
"""Part, where, group, resource, verb, and the ending of the one object's name."""

ACCOUNTS = {"control": Part.DOOR, "namespaces": Part.NAMESPACES, "node": Part.NODE}
GROUPS = {"tokenreviews": "authentication.k8s.io"}


def wanted() -> set[Right]:
    found = {
        (each.part.value, each.where.value, each.group, each.resource, verb, each.named)
        for each in RIGHTS
        for verb in each.verbs
    }
    # The node agent's are on the page, and in the code where it is the one that calls.
    for part, where, resource, verbs in on_the_page(PAGE.read_text(encoding="utf-8")):
        if part == Part.NODE.value:
            found |= {(part, where, GROUPS.get(resource, ""), resource, verb, "") for verb in verbs}
    return found


def given(objects: list[Manifest], name: str) -> set[Right]:
    """Every right that the objects give, to whom."""
    bound = []
    for binding in of_kind(objects, "RoleBinding", "ClusterRoleBinding"):
        role = find(objects, binding["roleRef"]["kind"], binding["roleRef"]["name"])
        # a ClusterRole that a RoleBinding gives, or a Role that gives more than its own namespace, would be another
        assert binding["kind"] == f"{role['kind']}Binding"
        (subject,) = binding["subjects"]
        assert subject["kind"] == "ServiceAccount" and subject["namespace"] == NAMESPACE
        part = ACCOUNTS[subject["name"].removeprefix(f"{name}-")]
        bound.append((part, Where.CONTROL if role["kind"] == "Role" else Where.CLUSTER, role))
    # bound by the namespace controller in each project's namespace, and by the chart nowhere
    project = find(objects, "ClusterRole", f"{name}-project")
    assert project["metadata"]["name"] not in [role["metadata"]["name"] for *_, role in bound]
    assert len(bound) + 1 == len(list(of_kind(objects, "Role", "ClusterRole"))), "no role without a holder"
    bound.append((Part.DOOR, Where.PROJECT, project))
    found: set[Right] = set()
    for part, where, role in bound:
        assert "aggregationRule" not in role
        for rule in role["rules"]:
            assert not rule.keys() - {"apiGroups", "resources", "resourceNames", "verbs"}
            for ending in rule.get("resourceNames", [""]):
                assert not ending or ending.startswith(f"{name}-")
                found |= {
                    (part.value, where.value, group, resource, verb, ending.removeprefix(f"{name}-"))
                    for group in rule["apiGroups"]
                    for resource in rule["resources"]
                    for verb in rule["verbs"]
                }
    return found


@pytest.mark.parametrize("deployment", sorted(DEPLOYMENTS))
def test_the_roles_are_the_table(deployment: str) -> None:
    name = "workspaces" if deployment == "existing" else "bulle"
    assert given(rendered(deployment), name) == wanted()


def test_negative_control_a_right_more_or_less_is_seen() -> None:
    objects = rendered("demo")
    before = given(objects, "bulle")
    more, less = copy.deepcopy(objects), copy.deepcopy(objects)
    find(more, "ClusterRole", "bulle-project")["rules"][0]["verbs"].append("patch")
    assert given(more, "bulle") - before == {("door", "project", "", "pods", "patch", "")}
    find(less, "ClusterRole", "bulle-namespaces")["rules"][0]["verbs"].remove("delete")
    assert before - given(less, "bulle") == {("namespace controller", "cluster", "", "namespaces", "delete", "")}


def test_negative_control_a_role_that_somebody_else_holds_is_seen() -> None:
    objects = rendered("demo")
    find(objects, "ClusterRoleBinding", "bulle-node")["subjects"][0]["name"] = "bulle-tools"
    with pytest.raises(KeyError):
        given(objects, "bulle")


def test_no_right_is_everything() -> None:
    assert not [right for right in wanted() if "*" in right]
    assert not {verb for *_, verb, _ in wanted()} & {"escalate", "impersonate", "deletecollection"}

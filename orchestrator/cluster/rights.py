"""Who may what in the cluster: the one table behind the chart's roles, docs/kubernetes.md and the tests.

``tests/unit/cluster/test_rights.py`` compares it with the page; the cluster of the unit tests refuses each call that is
not in it, and the test fails when a right is in it that nobody uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from orchestrator.config import Kubernetes


class Part(StrEnum):
    """Who has a service account with rights."""

    DOOR = "door"
    NAMESPACES = "namespace controller"
    NODE = "node agent"


class Where(StrEnum):
    """Where a right holds."""

    #: in the control plane's namespace, by a Role
    CONTROL = "control"
    #: in each project's namespace, by the RoleBinding that the namespace controller makes
    PROJECT = "project"
    #: by a ClusterRole and a ClusterRoleBinding
    CLUSTER = "cluster"


@dataclass(frozen=True)
class Right:
    """A part may do ``verbs`` with objects of one kind."""

    part: Part
    where: Where
    group: str
    resource: str
    verbs: tuple[str, ...]
    #: for what the right is limited to: a name's ending after the release's
    named: str = ""


_CORE, _RBAC, _NET = "", "rbac.authorization.k8s.io", "networking.k8s.io"
_KEPT = ("get", "create", "update")

RIGHTS: tuple[Right, ...] = (
    Right(Part.DOOR, Where.CONTROL, _CORE, "configmaps", ("get", "update"), named="projects"),
    Right(Part.DOOR, Where.PROJECT, _CORE, "pods", ("get", "list", "create", "delete")),
    Right(Part.DOOR, Where.PROJECT, _CORE, "secrets", ("list", "create", "delete")),
    Right(Part.DOOR, Where.PROJECT, _CORE, "events", ("list",)),
    Right(Part.NAMESPACES, Where.CONTROL, _CORE, "configmaps", ("get",), named="projects"),
    Right(Part.NAMESPACES, Where.CLUSTER, _CORE, "namespaces", ("get", "list", "create", "delete", "patch")),
    Right(Part.NAMESPACES, Where.CLUSTER, _CORE, "pods", ("list",)),
    Right(Part.NAMESPACES, Where.CLUSTER, _CORE, "serviceaccounts", _KEPT),
    Right(Part.NAMESPACES, Where.CLUSTER, _CORE, "resourcequotas", _KEPT),
    Right(Part.NAMESPACES, Where.CLUSTER, _CORE, "limitranges", (*_KEPT, "delete")),
    Right(Part.NAMESPACES, Where.CLUSTER, _NET, "networkpolicies", _KEPT),
    Right(Part.NAMESPACES, Where.CLUSTER, _RBAC, "rolebindings", (*_KEPT, "delete")),
    Right(Part.NAMESPACES, Where.CLUSTER, _RBAC, "clusterroles", ("bind",), named="project"),
)


def projects_map(cluster: Kubernetes) -> str:
    """The ConfigMap in which the door says which projects need a namespace."""
    return f"{cluster.name}-projects"


def project_role(cluster: Kubernetes) -> str:
    """The ClusterRole that the door has in a project's namespace."""
    return f"{cluster.name}-project"


def control_account(cluster: Kubernetes) -> str:
    """The door's service account."""
    return f"{cluster.name}-control"

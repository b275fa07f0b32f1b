"""Which pod asks for a volume, and whether it is the one that the grant allows.

A kubelet says for which pod it asks, and hands on a token of that pod's service account, made for this driver. Both
are checked with the cluster's API, and the pod as the cluster has it is compared with what a workspace must be. So
whoever may create pods in a project's namespace, or has seen a grant, gets data into no pod of their own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.cluster_api import Reviewed
from orchestrator.config import Kubernetes
from orchestrator.errors import GrantError
from orchestrator.node.csi import TOKENS, Asked
from orchestrator.terms import Grant
from orchestrator.workspaces.pod import ACCOUNT, namespace_of, pod_name
from orchestrator.workspaces.pod_differences import differences

#: for whom the token is made: one for the cluster's API, or for another driver, is refused
AUDIENCE = "bulle-node"
_POD = "csi.storage.k8s.io/pod."

Pod = Mapping[str, Any]


@dataclass(frozen=True)
class PodName:
    """One pod, not another one of the same name."""

    namespace: str
    name: str
    uid: str


class ClusterApi(Protocol):
    """The two questions that the node agent has for the cluster."""

    def token_review(self, token: str, audience: str) -> Reviewed:
        """Whose token it is; raises UnavailableError when the cluster does not say."""

    def read_pod(self, namespace: str, name: str) -> Pod | None:
        """A pod as the cluster has it, None where there is none; raises like :meth:`token_review`."""


class PodIdentity:
    """Checks who asks."""

    def __init__(self, api: ClusterApi, cluster: Kubernetes, node: str, wanted: Callable[[Grant], Pod]) -> None:
        self._api = api
        self._cluster = cluster
        self._node = node
        self._wanted = wanted

    def check(self, asked: Asked, grant: Grant) -> PodName:
        """The pod that asks, which is the one that ``grant`` allows.

        Raises:
            GrantError: it is another pod, its token does not show that it is this one, or it is not as it must be.
            UnavailableError: the cluster cannot be asked.
        """
        who = PodName(*(asked.context.get(f"{_POD}{part}", "") for part in ("namespace", "name", "uid")))
        if asked.context.get("csi.storage.k8s.io/ephemeral") != "true" or not who.uid:
            raise GrantError("no pod asks: the driver needs podInfoOnMount and the mode Ephemeral")
        # Stops: a grant that is used in another project's namespace, and a second pod beside the first.
        expected = (namespace_of(grant.project_id, self._cluster), pod_name(grant.session))
        if (who.namespace, who.name) != expected:
            raise GrantError(f"the grant is for pod {'/'.join(expected)}, not for {who.namespace}/{who.name}"[:300])
        self._check_token(asked, who)
        self.check_pod(who, grant)
        return who

    def _check_token(self, asked: Asked, who: PodName) -> None:
        reviewed = self._api.token_review(_token_of(asked), AUDIENCE)
        if not reviewed.authenticated:
            raise GrantError("the cluster does not know the pod's token")
        # A cluster that knows no audiences leaves them away: then the token could be for anybody.
        if AUDIENCE not in reviewed.audiences:
            raise GrantError(f"the pod's token is not for {AUDIENCE}")
        account = f"system:serviceaccount:{who.namespace}:{ACCOUNT}"
        if reviewed.username != account:
            raise GrantError(f"the pod's token is {reviewed.username!r}'s, not {account!r}'s"[:300])
        # Stops: a token of the same account that another pod has, or nobody's pod.
        extra = reviewed.extra or {}
        for part, value in (("name", who.name), ("uid", who.uid)):
            if extra.get(f"authentication.kubernetes.io/pod-{part}") != (value,):
                raise GrantError(f"the pod's token is not bound to this pod's {part}")

    def check_pod(self, who: PodName, grant: Grant) -> Pod:
        """The pod as the cluster has it, if it is still that one and as it must be; raises like :meth:`check`."""
        pod = self._api.read_pod(who.namespace, who.name)
        if pod is None:
            raise GrantError(f"there is no pod {who.namespace}/{who.name}")
        if pod.get("metadata", {}).get("uid") != who.uid:
            raise GrantError(f"pod {who.namespace}/{who.name} is another one of the same name")
        if pod.get("spec", {}).get("nodeName") != self._node:
            raise GrantError(f"pod {who.namespace}/{who.name} is not on this node")
        found = differences(self._wanted(grant), pod)
        if found:
            raise GrantError(f"pod {who.namespace}/{who.name} is not as a workspace must be: {', '.join(found[:5])}")
        return pod


def _token_of(asked: Asked) -> str:
    try:
        token = json.loads(asked.secrets.get(TOKENS, ""))[AUDIENCE]["token"]
    except (ValueError, KeyError, TypeError) as error:
        raise GrantError(f"no token of the pod for {AUDIENCE}: the driver needs tokenRequests") from error
    if not isinstance(token, str) or not token or not token.isascii():
        raise GrantError("the pod's token is none")
    return token

"""Which pod asks for a volume, and whether it is the one that the grant allows.

A kubelet says for which pod it asks, and hands on a token of that pod's service account, made for this driver. Both
are checked with the cluster's API, and the pod as the cluster has it is compared with what a workspace must be. So
whoever may create pods in a project's namespace, or has seen a grant, gets data into no pod of their own.
"""

from __future__ import annotations

import json
import os
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx

from orchestrator.config import Kubernetes
from orchestrator.errors import GrantError, NodeError, UnavailableError
from orchestrator.node.csi import TOKENS, Asked
from orchestrator.terms import Grant
from orchestrator.workspaces.pod import ACCOUNT, namespace_of, pod_name
from orchestrator.workspaces.pod_differences import differences

#: for whom the token is made: one for the cluster's API, or for another driver, is refused
AUDIENCE = "bulle-node"
_POD = "csi.storage.k8s.io/pod."
_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
_LARGEST = 1 << 22

Pod = Mapping[str, Any]


@dataclass(frozen=True)
class PodName:
    """One pod, not another one of the same name."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True)
class Reviewed:
    """What the cluster says about a token."""

    authenticated: bool
    audiences: tuple[str, ...] = ()
    username: str = ""
    extra: Mapping[str, tuple[str, ...]] | None = None


class ClusterApi(Protocol):
    """The two questions that the node agent has for the cluster."""

    def token_review(self, token: str, audience: str) -> Reviewed:
        """Whose token it is; raises UnavailableError when the cluster does not say."""

    def read_pod(self, namespace: str, name: str) -> Pod | None:
        """A pod as the cluster has it, None where there is none; raises like :meth:`token_review`."""


class HttpsApi:
    """The cluster's API, with the agent's own service account."""

    def __init__(self, address: str, account: Path, *, seconds: float = 5) -> None:
        self._account = account
        # The cluster's own authority and no other; no proxy of the environment, no redirect: the token goes nowhere
        # else.
        context = ssl.create_default_context(cafile=str(account / "ca.crt"))
        self._client = httpx.Client(base_url=address, verify=context, timeout=seconds, trust_env=False)

    @classmethod
    def of_the_cluster(cls) -> HttpsApi:
        """As each container of a cluster finds it.

        Raises:
            NodeError: this is no container of a cluster, or it has no service account.
        """
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise NodeError("KUBERNETES_SERVICE_HOST is not set", hint="the agent of a cluster runs in the cluster")
        account = Path("/var/run/secrets/kubernetes.io/serviceaccount")
        try:
            return cls(f"https://{f'[{host}]' if ':' in host else host}:{port}", account)
        except OSError as error:
            raise NodeError(f"{account / 'ca.crt'}: {error.strerror or error}") from error

    def token_review(self, token: str, audience: str) -> Reviewed:
        """Whose token it is."""
        asked = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        answer = self._ask("POST", "/apis/authentication.k8s.io/v1/tokenreviews", asked)
        status = (answer or {}).get("status") or {}
        user = status.get("user") or {}
        try:
            return Reviewed(
                authenticated=status.get("authenticated") is True and not status.get("error"),
                audiences=tuple(status.get("audiences") or ()),
                username=str(user.get("username", "")),
                extra={str(key): tuple(values) for key, values in (user.get("extra") or {}).items()},
            )
        except (AttributeError, TypeError) as error:
            raise UnavailableError("the cluster's API gave an answer that is none") from error

    def read_pod(self, namespace: str, name: str) -> Pod | None:
        """A pod as the cluster has it."""
        if not _NAME.fullmatch(namespace) or not _NAME.fullmatch(name):
            return None
        return self._ask("GET", f"/api/v1/namespaces/{namespace}/pods/{name}")

    def _ask(self, method: str, path: str, content: Any = None) -> dict[str, Any] | None:
        try:
            # Read at each question: kubelet renews it.
            own = (self._account / "token").read_text(encoding="ascii").strip()
            answer = self._client.request(method, path, json=content, headers={"Authorization": f"Bearer {own}"})
            if answer.status_code == httpx.codes.NOT_FOUND:
                return None
            if not answer.is_success or len(answer.content) > _LARGEST:
                raise UnavailableError(f"the cluster's API answered {answer.status_code} to {method} {path}")
            found = answer.json()
        except (httpx.HTTPError, OSError, ValueError) as error:
            raise UnavailableError(f"the cluster's API: {type(error).__name__}") from error
        if not isinstance(found, dict):
            raise UnavailableError("the cluster's API gave an answer that is none")
        return found


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

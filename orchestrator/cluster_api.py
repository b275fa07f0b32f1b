"""The API of a Kubernetes cluster, as far as Bulle's parts call it, each with its own service account.

Not a client library: the parts need a dozen calls, and who may make which is a table (``cluster/rights.py``,
docs/kubernetes.md) to which the cluster keeps.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from orchestrator.errors import (
    BulleError,
    ConflictError,
    ForbiddenError,
    InputError,
    NodeError,
    NotFoundError,
    UnavailableError,
)

Manifest = dict[str, Any]

#: where each kind of object lies
RESOURCES = {
    "namespaces": "/api/v1",
    "pods": "/api/v1",
    "nodes": "/api/v1",
    "secrets": "/api/v1",
    "events": "/api/v1",
    "configmaps": "/api/v1",
    "serviceaccounts": "/api/v1",
    "resourcequotas": "/api/v1",
    "limitranges": "/api/v1",
    "networkpolicies": "/apis/networking.k8s.io/v1",
    "rolebindings": "/apis/rbac.authorization.k8s.io/v1",
}
_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
#: bytes of one answer; a list comes in pages
_LARGEST = 1 << 22
_PAGE = 50


@dataclass(frozen=True)
class Reviewed:
    """What the cluster says about a token."""

    authenticated: bool
    audiences: tuple[str, ...] = ()
    username: str = ""
    extra: Mapping[str, tuple[str, ...]] | None = None


class HttpsApi:
    """The cluster's API. Safe between threads.

    Every call raises UnavailableError when the cluster does not answer, and ForbiddenError (which is one) when this
    service account may not make it: in both cases nothing is known, and nothing may follow from it.
    """

    def __init__(self, address: str, account: Path, *, seconds: float = 5) -> None:
        self._account = account
        # The cluster's own authority and no other; no proxy of the environment, no redirect: the token goes nowhere
        # else.
        context = ssl.create_default_context(cafile=str(account / "ca.crt"))
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=16, keepalive_expiry=30)
        self._client = httpx.Client(
            base_url=address, verify=context, timeout=seconds, trust_env=False, limits=limits, follow_redirects=False
        )

    @classmethod
    def of_the_cluster(cls) -> HttpsApi:
        """As each container of a cluster finds it.

        Raises:
            NodeError: this is no container of a cluster, or it has no service account.
        """
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise NodeError("KUBERNETES_SERVICE_HOST is not set", hint="this part of a cluster runs in the cluster")
        account = Path("/var/run/secrets/kubernetes.io/serviceaccount")
        try:
            return cls(f"https://{f'[{host}]' if ':' in host else host}:{port}", account)
        except OSError as error:
            raise NodeError(f"{account / 'ca.crt'}: {error.strerror or error}") from error

    # -- objects ----------------------------------------------------------------------------------------------
    def get(self, kind: str, namespace: str | None, name: str) -> Manifest | None:
        """An object; None where there is none."""
        try:
            return self._ask("GET", _path(kind, namespace, name))
        except NotFoundError:
            return None

    def every(self, kind: str, namespace: str | None, *, labels: str = "", fields: str = "") -> list[Manifest]:
        """Every object of a kind in a namespace with these labels and fields."""
        wanted = {"limit": str(_PAGE), "labelSelector": labels, "fieldSelector": fields, "continue": ""}
        found: list[Manifest] = []
        while True:
            query = {key: value for key, value in wanted.items() if value}
            page = self._ask("GET", _path(kind, namespace), query=query)
            items = page.get("items") or []
            if not isinstance(items, list) or not all(isinstance(each, dict) for each in items):
                raise UnavailableError("the cluster's API gave an answer that is none")
            found += items
            wanted["continue"] = str((page.get("metadata") or {}).get("continue") or "")
            if not wanted["continue"]:
                return found

    def create(self, kind: str, namespace: str | None, wanted: Manifest) -> Manifest:
        """Make an object.

        Raises:
            ConflictError: there is one of this name.
            NotFoundError: there is no such namespace.
            InputError: the cluster finds it wrong.
        """
        return self._ask("POST", _path(kind, namespace), wanted)

    def replace(self, kind: str, namespace: str | None, wanted: Manifest) -> Manifest:
        """Put an object in the place of the one of its name.

        Raises:
            NotFoundError: there is none.
            ConflictError: it was changed since ``wanted`` was read (where that names its resourceVersion).
            InputError: the cluster finds it wrong.
        """
        return self._ask("PUT", _path(kind, namespace, str(wanted["metadata"]["name"])), wanted)

    def patch(self, kind: str, namespace: str | None, name: str, change: Manifest) -> Manifest:
        """Change parts of an object (RFC 7386); raises like :meth:`replace`."""
        headers = {"Content-Type": "application/merge-patch+json"}
        return self._ask("PATCH", _path(kind, namespace, name), change, headers=headers)

    def delete(self, kind: str, namespace: str | None, name: str, *, grace: int | None = None, uid: str = "") -> bool:
        """Delete an object, and no other of its name where ``uid`` is given; False where there is none.

        Raises:
            ConflictError: it is another one.
        """
        options: Manifest = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        if uid:
            options["preconditions"] = {"uid": uid}
        try:
            self._ask("DELETE", _path(kind, namespace, name), options)
        except NotFoundError:
            return False
        return True

    # -- the node agent's two questions -----------------------------------------------------------------------
    def token_review(self, token: str, audience: str) -> Reviewed:
        """Whose token it is."""
        asked = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        status = self._ask("POST", "/apis/authentication.k8s.io/v1/tokenreviews", asked).get("status") or {}
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

    def read_pod(self, namespace: str, name: str) -> Manifest | None:
        """A pod as the cluster has it; None also for names that no pod can have."""
        try:
            return self.get("pods", namespace, name)
        except InputError:
            return None

    # -- the wire ---------------------------------------------------------------------------------------------
    def _ask(
        self,
        method: str,
        path: str,
        content: Any = None,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Manifest:
        try:
            # Read at each question: kubelet renews it.
            own = (self._account / "token").read_text(encoding="ascii").strip()
            sent = {"Authorization": f"Bearer {own}", **(headers or {})}
            answer = self._client.request(method, path, json=content, params=query, headers=sent)
            if not answer.is_success:
                raise _error_of(answer, f"{method} {path}")
            if len(answer.content) > _LARGEST:
                raise UnavailableError(f"the cluster's API answered too much to {method} {path}")
            found = answer.json()
        except (httpx.HTTPError, OSError, ValueError) as error:
            raise UnavailableError(f"the cluster's API: {type(error).__name__}") from error
        if not isinstance(found, dict):
            raise UnavailableError("the cluster's API gave an answer that is none")
        return found


def _path(kind: str, namespace: str | None, name: str | None = None) -> str:
    # Stops: a name that leads to another path of the API. Shown by tests/unit/node/test_pod_identity.py.
    for each in (namespace, name):
        if each is not None and not _NAME.fullmatch(each):
            raise InputError(f"{each[:80]!r} is no name of an object")
    within = "" if namespace is None else f"/namespaces/{namespace}"
    return f"{RESOURCES[kind]}{within}/{kind}" + ("" if name is None else f"/{name}")


#: what an answer's status means; any other means that nothing is known
_MEANT: dict[int, type[BulleError]] = {
    400: InputError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    422: InputError,
}


def _error_of(answer: httpx.Response, asked: str) -> BulleError:
    """What the cluster meant; its own words are for the administrator."""
    try:
        said = str(answer.json().get("message") or "")[:600]
    except (ValueError, AttributeError):
        said = ""
    message = f"the cluster's API answered {answer.status_code} to {asked}" + (f": {said}" if said else "")
    return _MEANT.get(answer.status_code, UnavailableError)(message)

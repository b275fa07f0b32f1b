"""The controller of projects' namespaces (``python -m orchestrator.cluster.namespaces``).

It reads one list of project ids, which the door writes, and takes nothing else from anybody. It makes what stands in
:func:`namespace` and :func:`contents`, mends it, and takes it away when the project is off the list and no workspace
is left. It is the one part that may make namespaces, and may not make a pod.

The door's rights in a namespace are made last, and go first: so where the door may do something, everything else of
the namespace is there.
"""

from __future__ import annotations

import json
import logging
import re
import signal
import sys
import threading
import time
from typing import Any

from orchestrator import logs
from orchestrator.cluster.rights import control_account, project_role, projects_map
from orchestrator.cluster_api import HttpsApi, Manifest
from orchestrator.config import Kubernetes, Settings
from orchestrator.errors import BulleError, ConflictError, NotFoundError, SettingsError
from orchestrator.process import harden, own_settings, run_part
from orchestrator.workspaces.pod import ACCOUNT, namespace_of
from orchestrator.workspaces.spec import BRIDGE_PORT, LABEL_DEPLOYMENT, LABEL_PART

_log = logging.getLogger(__name__)

#: the control plane's namespace: two deployments of one name in a cluster do not take each other's projects
LABEL_CONTROL = "bulle.control"
#: labels of the control plane's pod, as the chart sets them
CONTROL_POD = {"app.kubernetes.io/component": "control"}
_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
#: seconds between two looks at the list: the first start of a project waits for it
LOOK = 0.5
#: seconds between two comparisons of everything
MEND = 30.0

#: what no project's namespace ever needs, and what would be a way out of it or a place for somebody's data
_NEVER = {
    "services": "0",
    "persistentvolumeclaims": "0",
    "replicationcontrollers": "0",
    "count/deployments.apps": "0",
    "count/daemonsets.apps": "0",
    "count/statefulsets.apps": "0",
    "count/replicasets.apps": "0",
    "count/jobs.batch": "0",
    "count/cronjobs.batch": "0",
    "count/ingresses.networking.k8s.io": "0",
}
_RBAC = "rbac.authorization.k8s.io"
_RIGHTS = "bulle-door"
#: parts of an object that are what it says; all else is the cluster's
_COMPARED = ("spec", "subjects", "roleRef", "automountServiceAccountToken")


def namespace(project_id: str, settings: Settings) -> Manifest:
    """The namespace of a project."""
    cluster = _cluster(settings)
    labels: dict[str, str] = {
        **cluster.projects.labels,
        LABEL_DEPLOYMENT: settings.deployment,
        LABEL_CONTROL: cluster.namespace,
        # The network lock is root with NET_ADMIN for some milliseconds, which neither restricted nor baseline lets in;
        # there is no exception for one container. What comes in besides is held by the node agent, which gives data to
        # no pod but a workspace's. Everything else of a pod keeps to restricted, and a warning says where it does not.
        "pod-security.kubernetes.io/enforce": "privileged",
        "pod-security.kubernetes.io/audit": "restricted",
        "pod-security.kubernetes.io/warn": "restricted",
    }
    metadata: Manifest = {"name": namespace_of(project_id, cluster), "labels": labels}
    if cluster.projects.annotations:
        metadata["annotations"] = dict(cluster.projects.annotations)
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def contents(project_id: str, settings: Settings) -> list[tuple[str, Manifest]]:
    """What is in the namespace of a project, kind by kind, in the order in which it is made."""
    cluster = _cluster(settings)
    ours = {LABEL_DEPLOYMENT: settings.deployment}

    def made(kind: str, version: str, name: str, **rest: Any) -> Manifest:
        metadata: Manifest = {"name": name, "namespace": namespace_of(project_id, cluster), "labels": ours}
        return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}

    found: list[tuple[str, Manifest]] = [
        ("networkpolicies", made("NetworkPolicy", "networking.k8s.io/v1", "bulle-nothing", spec=_nothing())),
        (
            "networkpolicies",
            made("NetworkPolicy", "networking.k8s.io/v1", "bulle-bridge", spec=_bridge(settings, cluster)),
        ),
        ("resourcequotas", made("ResourceQuota", "v1", "bulle", spec={"hard": cluster.projects.quota | _NEVER})),
    ]
    if cluster.projects.limit_range:
        limits: list[Manifest] = [{"type": "Container"} | dict(cluster.projects.limit_range)]
        found.append(("limitranges", made("LimitRange", "v1", "bulle", spec={"limits": limits})))
    found.append(
        ("serviceaccounts", made("ServiceAccount", "v1", ACCOUNT, automountServiceAccountToken=False)),
    )
    # Last: see above.
    account = {"kind": "ServiceAccount", "name": control_account(cluster), "namespace": cluster.namespace}
    role = {"apiGroup": _RBAC, "kind": "ClusterRole", "name": project_role(cluster)}
    found.append(("rolebindings", made("RoleBinding", f"{_RBAC}/v1", _RIGHTS, subjects=[account], roleRef=role)))
    return found


def _nothing() -> Manifest:
    return {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def _bridge(settings: Settings, cluster: Kubernetes) -> Manifest:
    """The one conversation of a workspace: the control plane's pod with its bridge, and the bridge with the hub."""
    there = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": cluster.namespace}},
        "podSelector": {"matchLabels": CONTROL_POD},
    }
    hub = [{"protocol": "TCP", "port": settings.internal_port}]
    return {
        "podSelector": {"matchLabels": {LABEL_DEPLOYMENT: settings.deployment, LABEL_PART: "workspace"}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [there], "ports": [{"protocol": "TCP", "port": BRIDGE_PORT}]}],
        "egress": [{"to": [there], "ports": hub}],
    }


def _cluster(settings: Settings) -> Kubernetes:
    if settings.kubernetes is None:
        raise SettingsError("kubernetes: is not set, so this is no cluster")
    return settings.kubernetes


class Namespaces:
    """Makes the namespaces of a deployment be as they must."""

    def __init__(self, settings: Settings, api: HttpsApi) -> None:
        self._settings = settings
        self._cluster = _cluster(settings)
        self._api = api
        #: what is whole, and what the door said of it then: it says something else when it finds it closed
        self._whole: dict[str, str] = {}
        self._said: set[str] = set()
        #: what the cluster made of what it was told: it writes 4Gi for 4096Mi
        self._answered: dict[tuple[str, str, str], tuple[str, str]] = {}

    def wanted(self) -> dict[str, str]:
        """The ids on the list, and what the door says of each: it is compared, and never read.

        What is no id is left out.

        Raises:
            NotFoundError: there is no list.
            UnavailableError: the cluster does not say.
        """
        found = self._api.get("configmaps", self._cluster.namespace, projects_map(self._cluster))
        if found is None:
            raise NotFoundError(f"there is no ConfigMap {self._cluster.namespace}/{projects_map(self._cluster)}")
        listed = found.get("data") or {}
        # Stops: a door in an attacker's hands that has a namespace of another name made, or one of the cluster's own
        # opened to it. Shown by tests/unit/cluster/test_namespaces.py.
        for each in sorted(set(listed) - self._said):
            if not _ID.fullmatch(each):
                self._say(each, f"{each[:64]!r} on the list is no project's id")
        return {each: str(said) for each, said in listed.items() if _ID.fullmatch(each)}

    def look(self) -> None:
        """Make what is new on the list."""
        for each, said in self.wanted().items():
            if self._whole.get(each) != said:
                self._try(each, said)

    def mend(self) -> None:
        """Compare everything that is on the list, and remove what is not."""
        wanted = self.wanted()
        self._whole = {each: said for each, said in self._whole.items() if each in wanted}
        for each, said in wanted.items():
            self._try(each, said)
        selector = f"{LABEL_DEPLOYMENT}={self._settings.deployment}"
        for found in self._api.every("namespaces", None, labels=selector):
            name = str(found["metadata"]["name"])
            project_id = name.removeprefix(f"{self._cluster.project_prefix}-")
            # Stops: the removal of a namespace that somebody else made.
            if _ID.fullmatch(project_id) and project_id not in wanted and self._is_ours(found, project_id):
                try:
                    self._remove(project_id)
                except BulleError as error:
                    _log.warning("namespace %s is not removed: %s", name, error)

    def _try(self, project_id: str, said: str) -> None:
        try:
            whole = self._make(project_id)
        except BulleError as error:
            whole = False
            _log.warning("namespace %s: %s", namespace_of(project_id, self._cluster), error)
        if whole:
            self._whole[project_id] = said
        else:
            self._whole.pop(project_id, None)

    def _is_ours(self, found: Manifest, project_id: str) -> bool:
        wanted = namespace(project_id, self._settings)["metadata"]
        labels = found["metadata"].get("labels") or {}
        same = all(labels.get(key) == wanted["labels"][key] for key in (LABEL_DEPLOYMENT, LABEL_CONTROL))
        return same and found["metadata"].get("name") == wanted["name"]

    def _make(self, project_id: str) -> bool:
        wanted = namespace(project_id, self._settings)
        name = wanted["metadata"]["name"]
        found = self._api.get("namespaces", None, name)
        if found is None:
            try:
                found = self._api.create("namespaces", None, wanted)
                _log.info("namespace %s was made", name)
            except ConflictError:
                found = self._api.get("namespaces", None, name)
        if found is None or found["metadata"].get("deletionTimestamp"):
            return False
        # Stops: a namespace that somebody prepared under this name, to have people's workspaces in it.
        if not self._is_ours(found, project_id):
            self._say(name, f"namespace {name} was made by others; it is left alone, and nothing starts in it")
            return False
        self._said.discard(name)
        missing = self._missing(wanted, found)
        if missing:
            _log.warning("namespace %s was changed, and is mended", name)
            self._api.patch("namespaces", None, name, {"metadata": missing})
        for kind, each in contents(project_id, self._settings):
            self._keep(kind, each)
        # What the settings do not want any more.
        if not self._cluster.projects.limit_range and self._api.get("limitranges", name, "bulle") is not None:
            self._api.delete("limitranges", name, "bulle")
        return True

    @staticmethod
    def _missing(wanted: Manifest, found: Manifest) -> Manifest:
        made: Manifest = {}
        for key in ("labels", "annotations"):
            there = found["metadata"].get(key) or {}
            lacking = {
                name: value for name, value in (wanted["metadata"].get(key) or {}).items() if there.get(name) != value
            }
            if lacking:
                made[key] = lacking
        return made

    def _keep(self, kind: str, wanted: Manifest) -> None:
        where, name = wanted["metadata"]["namespace"], wanted["metadata"]["name"]
        found = self._api.get(kind, where, name)
        told = _said(wanted, wanted)
        if found is None:
            found = self._api.create(kind, where, wanted)
            self._answered[(kind, where, name)] = (told, _said(found, wanted))
            return
        if told == _said(found, wanted) or self._answered.get((kind, where, name)) == (told, _said(found, wanted)):
            return
        _log.warning("%s %s in %s was changed, and is mended", kind, name, where)
        if kind == "rolebindings" and found.get("roleRef") != wanted["roleRef"]:
            # A role cannot be replaced by another in a binding.
            self._api.delete(kind, where, name)
            found = self._api.create(kind, where, wanted)
        else:
            version = found["metadata"].get("resourceVersion")
            changed = {**wanted, "metadata": {**wanted["metadata"], "resourceVersion": version}}
            if kind == "serviceaccounts" and "secrets" in found:
                changed["secrets"] = found["secrets"]
            found = self._api.replace(kind, where, changed)
        self._answered[(kind, where, name)] = (told, _said(found, wanted))

    def _remove(self, project_id: str) -> None:
        """Take a namespace away, if no workspace is in it.

        First the door's rights: what it makes before that is seen, and it can make nothing after it.
        """
        name = namespace_of(project_id, self._cluster)
        if self._occupied(name):
            return
        self._api.delete("rolebindings", name, _RIGHTS)
        if self._occupied(name) or project_id in self.wanted():
            self._whole.pop(project_id, None)
            return
        found = self._api.get("namespaces", None, name)
        if found is None or not self._is_ours(found, project_id):
            return
        self._api.delete("namespaces", None, name, uid=str(found["metadata"].get("uid") or ""))
        self._answered = {key: value for key, value in self._answered.items() if key[1] != name}
        _log.info("namespace %s was removed: nobody works in it", name)

    def _occupied(self, name: str) -> bool:
        return bool(self._api.every("pods", name))

    def _say(self, key: str, words: str) -> None:
        if key not in self._said:
            if len(self._said) < 10_000:
                self._said.add(key)
            _log.error("%s", words)


def _said(found: Manifest, wanted: Manifest) -> str:
    """What an object says, as far as ``wanted`` says something."""
    return json.dumps({key: found.get(key) for key in _COMPARED if key in wanted}, sort_keys=True)


def run(controller: Namespaces, ended: threading.Event) -> None:
    """Look and mend until ``ended``."""
    mended = -MEND
    while not ended.is_set():
        try:
            if time.monotonic() - mended >= MEND:
                mended = time.monotonic()
                controller.mend()
            else:
                controller.look()
        except BulleError as error:
            _log.warning("%s", error)
            ended.wait(2)
        except Exception:  # noqa: BLE001 - the next look must come
            _log.exception("the controller stumbled")
            ended.wait(2)
        ended.wait(LOOK)


def serve() -> None:
    """Run until a signal.

    Raises:
        BulleError: it cannot begin.
    """
    settings = own_settings()
    logs.configure("namespaces", settings.logs)
    harden()
    controller = Namespaces(settings, HttpsApi.of_the_cluster())
    ended = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: ended.set())
    run(controller, ended)


def main() -> int:
    """Run until a signal; 1 with one line of what was wrong, when it cannot begin."""
    return run_part("namespaces", serve)


if __name__ == "__main__":
    sys.exit(main())

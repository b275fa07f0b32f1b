"""The node agent takes no pod for a workspace's but the one that is made for it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.workspaces import pod_differences
from orchestrator.workspaces.pod_differences import differences
from tests.unit.workspaces.test_pod import SANDBOX, change, made

Manifest = dict[str, Any]


def as_a_cluster_has_it() -> Manifest:
    """What the API of a cluster made of a pod: defaults, other words for the same, and its own notes."""
    found = copy.deepcopy(made())
    found["metadata"] |= {"uid": "1", "resourceVersion": "2", "creationTimestamp": "x", "managedFields": [{}]}
    found["metadata"]["annotations"] |= {
        "cni.projectcalico.org/podIP": "10.0.0.1/32",
        "seccomp.security.alpha.kubernetes.io/pod": "localhost/bulle/workspace.json",
        "container.seccomp.security.alpha.kubernetes.io/network-lock": "runtime/default",
    }
    found["metadata"]["labels"]["topology.kubernetes.io/zone"] = "a"
    spec = found["spec"]
    for name in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
        del spec[name]
    spec |= {"nodeName": "node1", "schedulerName": "default-scheduler", "priority": 0, "preemptionPolicy": "Never"}
    spec |= {"serviceAccount": "bulle-workspace"}
    spec["tolerations"] = [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "tolerationSeconds": 300}]
    for each in spec["containers"]:
        each["resources"]["limits"]["cpu"] = "2"
        each["resizePolicy"] = [{"resourceName": "cpu", "restartPolicy": "NotRequired"}]
        for mount in each["volumeMounts"]:
            if not mount["readOnly"]:
                del mount["readOnly"]
    spec["containers"][0]["resources"]["limits"]["memory"] = "4Gi"
    spec["containers"][2]["readinessProbe"] |= {"successThreshold": 1, "timeoutSeconds": 1}
    found["status"] = {"phase": "Pending"}
    return found


def test_what_a_cluster_adds_is_no_difference() -> None:
    assert differences(made(), made()) == []
    assert differences(made(), as_a_cluster_has_it()) == []


#: what somebody who may create or change pods would like to bring
BROUGHT: list[tuple[str, Any]] = [
    ("spec.containers[3]", {"name": "mine", "image": "mine"}),
    ("spec.initContainers[2]", {"name": "mine", "image": "mine"}),
    ("spec.initContainers[0]", {"name": "mine", "image": "mine"}),
    ("spec.ephemeralContainers", [{"name": "mine"}]),
    ("spec.affinity.nodeAffinity", {"requiredDuringSchedulingIgnoredDuringExecution": {}}),
    ("spec.affinity.podAffinity", {}),
    ("spec.volumes[0]", {"name": "mine", "hostPath": {"path": "/"}}),
    ("spec.volumes[0].emptyDir", {}),
    ("spec.volumes[0].hostPath", {"path": "/"}),
    ("spec.volumes[0].csi.nodePublishSecretRef", {"name": "another"}),
    ("spec.volumes[0].csi.volumeAttributes", {"bulle/kind": "view", "bulle/target": "/x"}),
    ("spec.volumes[0].csi.driver", "mine"),
    (f"{SANDBOX}.volumeMounts[0]", {"name": "bridge", "mountPath": "/mnt"}),
    (f"{SANDBOX}.volumeMounts", []),
    (f"{SANDBOX}.image", "sha256:" + "c" * 64),
    (f"{SANDBOX}.command", ["/bin/sh"]),
    (f"{SANDBOX}.args", ["x"]),
    (f"{SANDBOX}.env", [{"name": "LD_PRELOAD", "value": "/x"}]),
    (f"{SANDBOX}.envFrom", [{"secretRef": {"name": "x"}}]),
    (f"{SANDBOX}.lifecycle", {"postStart": {"exec": {"command": ["x"]}}}),
    (f"{SANDBOX}.livenessProbe", {"exec": {"command": ["x"]}}),
    (f"{SANDBOX}.startupProbe", {"exec": {"command": ["x"]}}),
    (f"{SANDBOX}.readinessProbe", {"exec": {"command": ["x"]}}),
    ("spec.containers[2].readinessProbe.exec", {"command": ["x"]}),
    (f"{SANDBOX}.volumeDevices", [{"name": "x"}]),
    (f"{SANDBOX}.stdin", True),
    (f"{SANDBOX}.ports", [{"containerPort": 1, "hostPort": 1}]),
    (f"{SANDBOX}.restartPolicy", "Always"),
    (f"{SANDBOX}.terminationMessagePath", "/dev/termination-log"),
    (f"{SANDBOX}.resources.limits.nvidia.com/gpu", "1"),
    (f"{SANDBOX}.resources.limits.memory", "64Gi"),
    (f"{SANDBOX}.securityContext.capabilities", {"drop": ["ALL"], "add": ["NET_ADMIN"]}),
    (f"{SANDBOX}.securityContext.capabilities.add", ["NET_ADMIN"]),
    (f"{SANDBOX}.securityContext.privileged", True),
    (f"{SANDBOX}.securityContext.procMount", "Unmasked"),
    (f"{SANDBOX}.securityContext.runAsUser", 1001),
    (f"{SANDBOX}.securityContext.seccompProfile", {"type": "Unconfined"}),
    (f"{SANDBOX}.securityContext.seLinuxOptions", {"type": "spc_t"}),
    ("spec.initContainers[0].command", ["/bin/true"]),
    ("spec.securityContext.seccompProfile", {"type": "Unconfined"}),
    ("spec.securityContext.supplementalGroups", [1003]),
    ("spec.securityContext.fsGroup", 1003),
    ("spec.securityContext.runAsUser", 0),
    ("spec.hostNetwork", True),
    ("spec.hostPID", True),
    ("spec.hostIPC", True),
    ("spec.hostUsers", False),
    ("spec.hostAliases", [{"ip": "1.2.3.4", "hostnames": ["x"]}]),
    ("spec.shareProcessNamespace", True),
    ("spec.automountServiceAccountToken", True),
    ("spec.serviceAccountName", "default"),
    ("spec.serviceAccount", "default"),
    ("spec.restartPolicy", "Always"),
    ("spec.dnsPolicy", "ClusterFirst"),
    ("spec.runtimeClassName", "mine"),
    ("spec.imagePullSecrets", [{"name": "x", "more": 1}]),
    ("spec.tolerations", [{"key": "mine", "operator": "Exists"}]),
    ("spec.something-new", {}),
    ("metadata.namespace", "default"),
    ("metadata.name", "other"),
    ("metadata.labels.mine", "x"),
    ("metadata.ownerReferences", [{"kind": "Job"}]),
    (
        "metadata.annotations",
        {
            "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
            "container.apparmor.security.beta.kubernetes.io/sandbox": "unconfined",
        },
    ),
    (
        "metadata.annotations",
        {
            "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
            "seccomp.security.alpha.kubernetes.io/pod": "unconfined",
        },
    ),
]


@pytest.mark.parametrize(("path", "value"), BROUGHT, ids=[f"{path}-{at}" for at, (path, _) in enumerate(BROUGHT)])
def test_what_somebody_brings_is_a_difference(path: str, value: Any) -> None:
    found = as_a_cluster_has_it()
    change(path, value)(found)
    assert differences(made(), found)


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [way, *(place for key, each in value.items() for place in places(each, (*way, key)))]
    if isinstance(value, list):
        return [way, *(place for at, each in enumerate(value) for place in places(each, (*way, at)))]
    return [way]


WAYS = [way for way in places(made()) if way]


@given(st.sampled_from(WAYS))
def test_anything_taken_away_is_a_difference(way: tuple[Any, ...]) -> None:
    found = copy.deepcopy(made())
    at: Any = found
    for step in way[:-1]:
        at = at[step]
    removed = at.pop(way[-1])
    assert differences(made(), found) or removed is False, way


@given(st.sampled_from([way for way in WAYS if way[0] == "spec"]), st.text(min_size=1, max_size=12))
def test_any_unknown_name_anywhere_is_a_difference(way: tuple[Any, ...], name: str) -> None:
    found = copy.deepcopy(made())
    at: Any = found
    for step in way:
        at = at[step]
    if isinstance(at, dict):
        at.setdefault(f"x{name}", {"a": 1})
        assert differences(made(), found), way


@pytest.mark.parametrize("found", [None, [], {}, "x", {"spec": []}, {"metadata": {}, "spec": {}}])
def test_what_is_no_pod_is_different(found: Any) -> None:
    assert differences(made(), found)


def test_negative_control_a_longer_table_lets_a_hook_in(monkeypatch: pytest.MonkeyPatch) -> None:
    found = as_a_cluster_has_it()
    change(f"{SANDBOX}.lifecycle", {"postStart": {"exec": {"command": ["x"]}}})(found)
    assert differences(made(), found) == ["spec.containers[].lifecycle"]
    monkeypatch.setitem(pod_differences.ADDED, "spec.containers[].lifecycle", lambda value: True)
    assert differences(made(), found) == []

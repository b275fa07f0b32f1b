"""A workspace's pod does not depend on what a caller hands in, and keeps to Pod Security *restricted*.

The cluster of the tests is too old to have the admission controller, so each of its controls is a check here, with a
pod in which it is broken beside it.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given

from orchestrator.config import Settings, Uid, resolved
from orchestrator.errors import SettingsError
from orchestrator.terms import Grant
from orchestrator.workspaces import pod, probe
from orchestrator.workspaces.gateway import settings as gateway_settings
from orchestrator.workspaces.pod import DRIVER, LOCK, REPORT_FOLDER, REPORT_NAME, SECCOMP, workspace_pod
from orchestrator.workspaces.pod_differences import differences
from orchestrator.workspaces.spec import BRIDGE_PORT, LABEL_SESSION, Images
from tests.unit.workspaces.test_spec import IMAGES, SETTINGS, a_grant, grants

Manifest = dict[str, Any]
LOCK_IMAGE = IMAGES.gateway
CLUSTER = Settings.model_validate(
    {**SETTINGS.model_dump(exclude_none=True), "kubernetes": {"hub": ["10.96.0.7:8081", "[fd00::7]:8081"]}}
)
PLACED = Settings.model_validate(
    {
        **SETTINGS.model_dump(exclude_none=True),
        "kubernetes": {
            "runtime_class": "kata",
            "priority_class": "workspaces",
            "node_selector": {"tier": "research"},
            "tolerations": [{"key": "research", "operator": "Exists", "effect": "NoSchedule"}],
            "image_pull_secrets": ["pull"],
        },
    }
)


def made(grant: Grant | None = None, settings: Settings = CLUSTER) -> Manifest:
    return workspace_pod(grant or a_grant(), settings, IMAGES, LOCK_IMAGE)


def containers(manifest: Manifest) -> list[Manifest]:
    spec = manifest["spec"]
    return [*spec.get("initContainers", []), *spec["containers"], *spec.get("ephemeralContainers", [])]


def named(manifest: Manifest, name: str) -> Manifest:
    return next(each for each in containers(manifest) if each["name"] == name)


# -- Pod Security: baseline and restricted, control by control ----------------------------------------------
Check = Callable[[Manifest, Manifest], bool]
"""Whether a control holds for a container of a pod."""


def context(of: Manifest, name: str) -> Any:
    return of.get("securityContext", {}).get(name)


def effective(manifest: Manifest, container: Manifest, name: str) -> Any:
    own = context(container, name)
    return context(manifest["spec"], name) if own is None else own


def seccomp_is_set(manifest: Manifest, container: Manifest) -> bool:
    return (effective(manifest, container, "seccompProfile") or {}).get("type") in ("RuntimeDefault", "Localhost")


def annotations(manifest: Manifest) -> Manifest:
    return manifest["metadata"].get("annotations", {})


SAFE_SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
}
VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"
}  # fmt: skip

RESTRICTED: dict[str, Check] = {
    "HostProcess": lambda pod, each: not (context(each, "windowsOptions") or {}).get("hostProcess"),
    "Host Namespaces": lambda pod, each: not any(pod["spec"].get(f"host{name}") for name in ("Network", "PID", "IPC")),
    "Privileged Containers": lambda pod, each: not context(each, "privileged"),
    "HostPath Volumes": lambda pod, each: not any("hostPath" in volume for volume in pod["spec"]["volumes"]),
    "Host Ports": lambda pod, each: not any(port.get("hostPort") for port in each.get("ports", [])),
    "AppArmor": lambda pod, each: not any("apparmor" in key for key in annotations(pod)),
    "SELinux": lambda pod, each: effective(pod, each, "seLinuxOptions") is None,
    "/proc Mount Type": lambda pod, each: context(each, "procMount") in (None, "Default"),
    "Sysctls": lambda pod, each: {row["name"] for row in context(pod["spec"], "sysctls") or []} <= SAFE_SYSCTLS,
    "Volume Types": lambda pod, each: all(
        len(volume) == 2 and volume.keys() & VOLUMES for volume in pod["spec"]["volumes"]
    ),
    "Privilege Escalation": lambda pod, each: context(each, "allowPrivilegeEscalation") is False,
    "Running as Non-root": lambda pod, each: effective(pod, each, "runAsNonRoot") is True,
    "Running as Non-root user": lambda pod, each: effective(pod, each, "runAsUser") != 0,
    "Seccomp": seccomp_is_set,
    "Capabilities dropped": lambda pod, each: "ALL" in (context(each, "capabilities") or {}).get("drop", []),
    "Capabilities added": lambda pod, each: (
        set((context(each, "capabilities") or {}).get("add", [])) <= {"NET_BIND_SERVICE"}
    ),
}
#: the one exception, and exactly what it is
EXCEPTED = {LOCK: {"Running as Non-root", "Running as Non-root user", "Capabilities added"}}


def broken(manifest: Manifest) -> set[tuple[str, str]]:
    return {
        (each["name"], control)
        for each in containers(manifest)
        for control, holds in RESTRICTED.items()
        if not holds(manifest, each)
    }


@given(grants)
def test_every_pod_is_restricted_but_for_the_network_lock(grant: Grant) -> None:
    for settings in (CLUSTER, PLACED):
        assert broken(made(grant, settings)) == {(LOCK, control) for control in EXCEPTED[LOCK]}
    lock = named(made(grant), LOCK)
    assert lock["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN"]}
    assert lock["securityContext"]["privileged"] is False and "volumeMounts" not in lock


def change(path: str, value: Any) -> Callable[[Manifest], None]:
    """Sets what stands at ``spec.containers[2].securityContext.privileged``."""

    def apply(manifest: Manifest) -> None:
        at: Any = manifest
        *way, last = path.replace("]", "").replace("[", ".").split(".")
        for step in way:
            at = at[int(step)] if isinstance(at, list) else at.setdefault(step, {})
        if isinstance(at, list):
            at.insert(int(last), value)
        else:
            at[last] = value

    return apply


SANDBOX = "spec.containers[0]"
HOLES: list[tuple[str, str, Any]] = [
    ("HostProcess", f"{SANDBOX}.securityContext.windowsOptions", {"hostProcess": True}),
    ("Host Namespaces", "spec.hostNetwork", True),
    ("Host Namespaces", "spec.hostPID", True),
    ("Host Namespaces", "spec.hostIPC", True),
    ("Privileged Containers", f"{SANDBOX}.securityContext.privileged", True),
    ("HostPath Volumes", "spec.volumes[0]", {"name": "x", "hostPath": {"path": "/"}}),
    ("Host Ports", f"{SANDBOX}.ports", [{"containerPort": 1, "hostPort": 1}]),
    ("AppArmor", "metadata.annotations", {"container.apparmor.security.beta.kubernetes.io/sandbox": "unconfined"}),
    ("SELinux", "spec.securityContext.seLinuxOptions", {"type": "spc_t"}),
    ("/proc Mount Type", f"{SANDBOX}.securityContext.procMount", "Unmasked"),
    ("Sysctls", "spec.securityContext.sysctls", [{"name": "kernel.msgmax", "value": "1"}]),
    ("Volume Types", "spec.volumes[0]", {"name": "x", "nfs": {"server": "x", "path": "/"}}),
    ("Privilege Escalation", f"{SANDBOX}.securityContext.allowPrivilegeEscalation", True),
    ("Running as Non-root", f"{SANDBOX}.securityContext.runAsNonRoot", False),
    ("Running as Non-root user", f"{SANDBOX}.securityContext.runAsUser", 0),
    ("Seccomp", "spec.securityContext.seccompProfile", {"type": "Unconfined"}),
    ("Seccomp", f"{SANDBOX}.securityContext.seccompProfile", {"type": "Unconfined"}),
    ("Capabilities dropped", f"{SANDBOX}.securityContext.capabilities", {}),
    ("Capabilities added", f"{SANDBOX}.securityContext.capabilities", {"drop": ["ALL"], "add": ["NET_ADMIN"]}),
]


@pytest.mark.parametrize(("control", "path", "value"), HOLES)
def test_negative_control_a_pod_that_is_not_restricted_is_seen(control: str, path: str, value: Any) -> None:
    manifest = made()
    assert ("sandbox", control) not in broken(manifest)
    change(path, value)(manifest)
    assert ("sandbox", control) in broken(manifest)


def test_every_control_has_its_negative_control() -> None:
    assert {control for control, *_ in HOLES} == set(RESTRICTED)


# -- what restricted does not ask for -------------------------------------------------------------------------
def assert_confined(manifest: Manifest) -> None:
    spec = manifest["spec"]
    assert spec["automountServiceAccountToken"] is False, "no token"
    assert spec["enableServiceLinks"] is False and spec["shareProcessNamespace"] is False
    assert spec["restartPolicy"] == "Never" and spec["dnsPolicy"] == "None"
    assert spec["dnsConfig"] == {"nameservers": ["127.0.0.1"]}
    assert spec["securityContext"]["seccompProfile"] == {"type": "Localhost", "localhostProfile": SECCOMP}
    assert spec["securityContext"].get("supplementalGroups", []) == [] and "fsGroup" not in spec["securityContext"]
    assert spec["securityContext"]["sysctls"] == [{"name": "net.ipv4.ping_group_range", "value": "1 0"}]
    assert [each["name"] for each in spec["initContainers"]] == [LOCK], "before all others"
    assert all(each["csi"]["driver"] == DRIVER for each in spec["volumes"])
    for each in containers(manifest):
        assert each["securityContext"]["readOnlyRootFilesystem"] is True
        assert each["terminationMessagePath"].startswith("/root/"), "nobody writes into the cluster's API"
        assert each["image"].startswith("sha256:")
        assert {"cpu", "memory"} <= each["resources"]["limits"].keys()
        assert not each.keys() & {
            "envFrom",
            "env",
            "lifecycle",
            "livenessProbe",
            "startupProbe",
            "args",
            "stdin",
            "tty",
        }
        if each["name"] == LOCK:
            continue
        shell, option, line = each["command"]
        assert (shell, option) == ("/bin/sh", "-c") and line.startswith("ulimit -c 0 && exec /usr/bin/env -i ")
        if each["name"] == "sandbox":
            first = shlex.split(line.partition(" -I ")[2])
            assert first[:-3] == ["/usr/lib/bulle/probe.py", "--locked", "--first", f"{REPORT_FOLDER}/{REPORT_NAME}"]
            assert first[-2:] == ["/usr/lib/bulle/session", "</dev/null"], "nothing before the probe"
        else:
            assert line.endswith(" </dev/null >/dev/null 2>&1"), "nothing printed reaches a disk"
            assert each["terminationMessagePolicy"] == "File", "nor the cluster's API"
        places = {mount["mountPath"] for mount in each["volumeMounts"]}
        assert {"/tmp", "/dev/shm"} <= places, "RAM that is nobody else's"


@given(grants)
def test_every_container_is_confined_whatever_the_grant_says(grant: Grant) -> None:
    assert_confined(made(grant))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.automountServiceAccountToken", True),
        ("spec.enableServiceLinks", True),
        ("spec.shareProcessNamespace", True),
        ("spec.restartPolicy", "Always"),
        ("spec.dnsPolicy", "ClusterFirst"),
        ("spec.dnsConfig", {"nameservers": ["10.96.0.10"]}),
        ("spec.securityContext.seccompProfile", {"type": "RuntimeDefault"}),
        ("spec.securityContext.supplementalGroups", [1003]),
        ("spec.securityContext.fsGroup", 1003),
        ("spec.securityContext.sysctls", []),
        ("spec.initContainers", []),
        ("spec.volumes[0]", {"name": "x", "csi": {"driver": "other"}}),
        (f"{SANDBOX}.securityContext.readOnlyRootFilesystem", False),
        (f"{SANDBOX}.terminationMessagePath", "/dev/termination-log"),
        ("spec.containers[2].terminationMessagePolicy", "FallbackToLogsOnError"),
        (f"{SANDBOX}.image", "sandbox:latest"),
        (f"{SANDBOX}.resources", {"limits": {}}),
        (f"{SANDBOX}.envFrom", []),
        (f"{SANDBOX}.lifecycle", {}),
        (f"{SANDBOX}.command", ["/bin/sh", "-c", "exec /usr/lib/bulle/session"]),
        (f"{SANDBOX}.command", ["/bin/sh", "-c", "ulimit -c 0 && exec /usr/bin/env -i /usr/lib/bulle/session"]),
        (f"{SANDBOX}.volumeMounts", []),
    ],
)
def test_negative_control_any_setting_taken_away_is_seen(path: str, value: Any) -> None:
    manifest = made()
    assert_confined(manifest)
    change(path, value)(manifest)
    with pytest.raises(AssertionError):
        assert_confined(manifest)


def test_each_part_has_its_own_user_and_only_display_and_bridge_share_a_group() -> None:
    found = {
        each["name"]: (each["securityContext"]["runAsUser"], each["securityContext"]["runAsGroup"])
        for each in containers(made())
    }
    assert found == {
        LOCK: (0, 0),
        "display": (Uid.DISPLAY, 1003),
        "bridge": (Uid.BRIDGE, 1003),
        "sandbox": (Uid.SANDBOX, Uid.SANDBOX),
    }


def test_who_sees_what() -> None:
    manifest = made()
    seen = {
        each["name"]: {
            mount["mountPath"]: (mount["name"], mount["readOnly"], mount.get("mountPropagation"))
            for mount in each.get("volumeMounts", [])
        }
        for each in containers(manifest)
    }
    late = "HostToContainer"
    in_ram = {
        "/tmp": ("sandbox-tmp", False, None),
        "/run/user/1000": ("sandbox-run-user-1000", False, None),
        "/dev/shm": ("sandbox-dev-shm", False, None),
    }
    files = {"/tmp/.X11-unix": ("x11", True, None), "/run/bulle": ("sandbox", True, None)}
    assert seen["sandbox"] == {
        "/data": ("view", True, late),
        "/home/researcher": ("home", False, late),
        "/project": ("project", False, late),
        **files,
        **in_ram,
    }
    assert seen["bridge"].keys() & seen["sandbox"].keys() == {"/tmp", "/dev/shm"}
    assert not {name for name, *_ in seen["bridge"].values()} & {name for name, *_ in seen["sandbox"].values()}
    assert not {name for name, *_ in seen["display"].values()} & {"view", "home", "project", "sandbox", "bridge"}
    used = {name for mounts in seen.values() for name, *_ in mounts.values()}
    assert used == {volume["name"] for volume in manifest["spec"]["volumes"]}


def test_a_volume_says_what_it_is_and_nothing_of_whose() -> None:
    (view,) = [each for each in made()["spec"]["volumes"] if each["name"] == "view"]
    assert view["csi"] == {
        "driver": DRIVER,
        "readOnly": True,
        "volumeAttributes": {"bulle/kind": "view"},
        "nodePublishSecretRef": {"name": f"ws-{'0' * 32}"},
    }


def same_whatever_the_grant_says(grant: Grant) -> None:
    plain = a_grant(grant.session).model_copy(update={"project_id": grant.project_id})
    assert made(grant) == made(plain), "two grants with these ids make the same pod"
    other = json.dumps(made(a_grant("f" * 32).model_copy(update={"project_id": "e" * 32})))
    assert json.dumps(made(grant)) == other.replace("f" * 32, grant.session).replace("e" * 32, grant.project_id)


@given(grants)
def test_no_value_of_a_grant_but_the_session_s_and_the_project_s_id_is_in_the_pod(grant: Grant) -> None:
    same_whatever_the_grant_says(grant)


def test_negative_control_a_value_of_a_grant_in_the_pod_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = pod.workspace_specs

    def leaking(grant: Grant, *given: Any) -> Any:
        display, bridge, sandbox = usual(grant, *given)
        return display, bridge, dataclasses.replace(sandbox, environment=(("PROJECT", grant.project_title),))

    monkeypatch.setattr(pod, "workspace_specs", leaking)
    with pytest.raises(AssertionError):
        same_whatever_the_grant_says(a_grant().model_copy(update={"project_title": "Hearts of somebody"}))


# -- commands ---------------------------------------------------------------------------------------------------
def words(container: Manifest) -> list[str]:
    return shlex.split(container["command"][2])


def test_the_lock_knows_the_bridge_its_port_and_the_hub() -> None:
    assert named(made(), LOCK)["command"] == [
        "/usr/lib/bulle/network-lock", "1001", "8888", "10.96.0.7:8081", "[fd00::7]:8081"
    ]  # fmt: skip
    assert probe.BRIDGE_PORT == gateway_settings.PORT == BRIDGE_PORT == 8888


def targets(of: Manifest) -> Any:
    return json.loads(words(named(of, "sandbox"))[-3])


def test_the_probe_is_first_in_the_sandbox_and_knocks_at_the_hub() -> None:
    assert {"10.96.0.7:8081", "[fd00::7]:8081"} <= set(targets(made())["tcp"])


def test_nothing_of_a_target_is_read_by_the_shell() -> None:
    sly = "'; touch /tmp/x; $(id) `id` \""
    settings = CLUSTER.model_copy(update={"probe": CLUSTER.probe.model_copy(update={"names": (sly,)})})
    assert targets(made(settings=settings))["names"] == [sly]


def environment_of(container: Manifest) -> Iterator[str]:
    line = words(container)
    return (word.split("=")[0] for word in line[line.index("-i") + 1 :] if "=" in word)


def test_the_environment_is_what_the_specification_says() -> None:
    assert list(environment_of(named(made(), "sandbox"))) == [
        "PATH", "HOME", "USER", "LOGNAME", "LANG", "SHELL", "DISPLAY", "XAUTHORITY", "XDG_RUNTIME_DIR"
    ]  # fmt: skip


# -- settings ---------------------------------------------------------------------------------------------------
def test_placement_is_the_administrator_s() -> None:
    spec = made(settings=PLACED)["spec"]
    assert (spec["runtimeClassName"], spec["priorityClassName"]) == ("kata", "workspaces")
    assert spec["nodeSelector"] == {"tier": "research"} and spec["imagePullSecrets"] == [{"name": "pull"}]
    assert spec["tolerations"] == [{"key": "research", "operator": "Exists", "effect": "NoSchedule"}]


def beside_its_project(manifest: dict[str, Any]) -> None:
    (term,) = manifest["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term.keys() == {"labelSelector", "topologyKey"}, "of its own namespace, which is the project's"
    assert term["topologyKey"] == "kubernetes.io/hostname"
    labels = manifest["metadata"]["labels"]
    # Kubernetes lets the first one in because it is what it asks for itself.
    assert term["labelSelector"]["matchLabels"].items() <= labels.items()
    assert labels[LABEL_SESSION] not in term["labelSelector"]["matchLabels"].values(), "and so is every other"


def test_all_workspaces_of_a_project_are_on_one_node() -> None:
    beside_its_project(made())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.affinity", {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}}),
        ("metadata.labels", {"bulle.session": "a"}),
    ],
)
def test_negative_control_without_the_rule_or_the_label_they_are_not(path: str, value: Any) -> None:
    manifest = made()
    change(path, value)(manifest)
    with pytest.raises((AssertionError, ValueError)):
        beside_its_project(manifest)


def test_without_a_cluster_in_the_settings_there_is_no_pod() -> None:
    with pytest.raises(SettingsError, match="kubernetes"):
        made(settings=SETTINGS)


@pytest.mark.parametrize("image", ["gateway:latest", "registry.example/gateway", "sha256:abc", ""])
def test_images_are_named_by_their_content_only(image: str) -> None:
    with pytest.raises(SettingsError):
        workspace_pod(a_grant(), CLUSTER, IMAGES, image)
    with pytest.raises(SettingsError):
        workspace_pod(a_grant(), CLUSTER, Images(IMAGES.gateway, image), LOCK_IMAGE)


def test_a_name_with_a_digest_is_named_by_its_content() -> None:
    digest = f"registry.example:5000/bulle/sandbox@sha256:{'b' * 64}"
    assert named(workspace_pod(a_grant(), CLUSTER, Images(digest, digest), digest), "sandbox")["image"] == digest


@pytest.mark.parametrize(
    "hub",
    [
        "10.96.0.7",
        "10.96.0.7:0",
        "10.96.0.7:65536",
        "fd00::7:1",
        "1.2.3.4:1 -x",
        # a resolver reads these as addresses: 10.96.0.7, 127.0.0.1
        "10.6291463:1",
        "127.1:1",
        "[hub.bulle.svc]:1",
        "hub..svc:1",
        "-hub:1",
        "hub",
    ],
)
def test_the_hub_is_an_address_and_a_port(hub: str) -> None:
    with pytest.raises(ValueError, match="address and a port"):
        Settings.model_validate({**SETTINGS.model_dump(exclude_none=True), "kubernetes": {"hub": [hub]}})


def test_a_hub_with_a_name_makes_no_pod_until_it_is_resolved() -> None:
    cluster = {"hub": ["bulle-hub.bulle.svc:8081"]}
    named_hub = Settings.model_validate({**SETTINGS.model_dump(exclude_none=True), "kubernetes": cluster})
    with pytest.raises(SettingsError, match="resolved"):
        made(settings=named_hub)
    there = resolved(named_hub, lambda name: ["10.96.0.7"])
    assert "10.96.0.7:8081" in str(made(settings=there)["spec"]["initContainers"])


def test_the_pod_of_one_call_is_not_changed_by_what_is_done_to_that_of_another() -> None:
    first = made()
    before = copy.deepcopy(first)
    made()["spec"]["containers"].clear()
    assert made() == first == before


def test_a_project_of_a_tier_has_its_nodes_and_devices_and_no_other_has() -> None:
    tier = {
        "projects": ["heart"],
        "node_selector": {"pool": "gpu"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "runtime_class": "accelerated",
        "devices": {"nvidia.com/gpu": 1},
        "device_files": ["/dev/nvidia*"],
    }
    content = CLUSTER.model_dump(mode="json")
    common = {"node_selector": {"tier": "research"}, "tolerations": [{"key": "research", "operator": "Exists"}]}
    others = Settings.model_validate({**content, "kubernetes": {**content["kubernetes"], **common}})
    settings = Settings.model_validate({**content, "kubernetes": {**content["kubernetes"], **common, "tiers": [tier]}})
    plain = workspace_pod(a_grant(), others, IMAGES, IMAGES.gateway)
    for project, inside in (("heart", True), ("lungs", False)):
        grant = a_grant().model_copy(update={"project": project})
        pod = workspace_pod(grant, settings, IMAGES, IMAGES.gateway)
        if not inside:
            assert pod == plain
            continue
        spec = pod["spec"]
        assert spec["nodeSelector"] == {**plain["spec"]["nodeSelector"], "pool": "gpu"}
        assert spec["tolerations"] == [*plain["spec"]["tolerations"], {"key": "gpu", "operator": "Exists"}]
        assert spec["runtimeClassName"] == "accelerated"
        with_device = [each["name"] for each in spec["containers"] if "nvidia.com/gpu" in each["resources"]["limits"]]
        assert with_device == ["sandbox"] and targets(pod)["devices"] == ["/dev/nvidia*"]
        assert targets(plain)["devices"] == []
        # Somebody who adds a device, or takes the tier of another project, has another pod.
        assert differences(plain, pod) and differences(pod, plain)

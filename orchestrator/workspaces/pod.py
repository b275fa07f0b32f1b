"""A workspace on Kubernetes: one pod of three containers, by a pure function from the same specification as elsewhere.

Two callers: the part that creates the pod, and the node agent, which compares the pod that asks it for a volume with
what this function says (:mod:`orchestrator.workspaces.pod_differences`). So whoever can create pods in a project's
namespace gets data into no pod but this one.

Each control stands here as a value, with the attack that it stops; ``tests/unit/workspaces/test_pod.py`` holds every
pod against Pod Security *restricted*, and ``tests/cluster/test_pod.py`` attacks one from the inside.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.config import Kubernetes, Settings, Tier, Uid
from orchestrator.errors import SettingsError
from orchestrator.terms import Grant
from orchestrator.workspaces import isolation
from orchestrator.workspaces.spec import (
    BRIDGE_PORT,
    LABEL_DEPLOYMENT,
    LABEL_PART,
    LABEL_SESSION,
    PROBE_COMMAND,
    ContainerSpec,
    Images,
    PartName,
    Tmpfs,
    WorkspacePaths,
    pinned,
    workspace_specs,
)

DRIVER = "workspace.bulle"
#: keys of a volume's attributes: what it is, and for a folder in RAM whose and where
KIND, PART, TARGET = "bulle/kind", "bulle/part", "bulle/target"
TMPFS = "tmpfs"
#: name of the service account under which workspaces run; it may do nothing, and its token is in no container
ACCOUNT = "bulle-workspace"
#: where kubelet finds the system-call filter that the node agent puts there (below its folder for such profiles)
SECCOMP = "bulle/workspace.json"
LOCK = "network-lock"
LOCK_COMMAND = ("/usr/lib/bulle/network-lock", str(Uid.BRIDGE), str(BRIDGE_PORT))

#: kubelet shows a file of the node here, which all may write, and copies it into the cluster's API when the container
#: ends: behind a folder that is root's alone (mode 0700 in both images), no program of a workspace gets there
ROOTS_OWN = "/root"
UNREACHABLE = f"{ROOTS_OWN}/termination-log"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: where the isolation probe leaves its report for the node agent: the folder in RAM and the name there. The researcher
#: may change it afterwards, when it has been read and means nothing any more
REPORT_FOLDER, REPORT_NAME = f"/run/user/{Uid.SANDBOX}", "isolation-report.json"
#: what a session mounts late, when the probe has passed
_LATE = ("view", "home", "project")

Manifest = dict[str, Any]


def namespace_of(project_id: str, cluster: Kubernetes) -> str:
    """The namespace of a project. Made from the project's id, and never read back into one."""
    return f"{cluster.project_prefix}-{project_id}"


def pod_name(session: str) -> str:
    """Name of a session's pod and of its secret."""
    return f"ws-{session}"


def folders_in_ram(spec: ContainerSpec) -> tuple[Tmpfs, ...]:
    """Every folder in RAM of a container. In a pod that is ``/dev/shm`` too: the one that a pod brings is shared by
    all its containers, and the researcher must share no memory with what is trusted."""
    return (*spec.tmpfs, Tmpfs("/dev/shm", spec.shm_mb, 0o1777))  # noqa: S108 - a tmpfs of the container's own


@dataclass(frozen=True)
class Volume:
    """A volume of a pod that the node agent fills, and its place in one container."""

    name: str
    attributes: Mapping[str, str]
    #: whether no container has it writable
    read_only: bool
    target: str
    read_only_there: bool
    late: bool

    def manifest(self, secret: str) -> Manifest:
        """As the pod names it."""
        csi = {
            "driver": DRIVER,
            "readOnly": self.read_only,
            "volumeAttributes": dict(self.attributes),
            # The grant goes from the secret to the node agent: it is in no container, and in no file of the pod.
            "nodePublishSecretRef": {"name": secret},
        }
        return {"name": self.name, "csi": csi}

    def mount(self) -> Manifest:
        """As the container names it."""
        made: Manifest = {"name": self.name, "mountPath": self.target, "readOnly": self.read_only_there}
        if self.late:
            # What the agent mounts on it afterwards shows in the running container.
            made["mountPropagation"] = "HostToContainer"
        return made


def volumes_of(spec: ContainerSpec, paths: WorkspacePaths) -> list[Volume]:
    """Every volume of a container."""
    found = []
    for mount in spec.mounts:
        kind = mount.source.relative_to(paths.root).name
        kind = "view" if kind == "data" else kind
        found.append(
            Volume(
                name=kind,
                attributes={KIND: kind},
                # What is shared is shared as one volume; the read-only side is said at the container.
                read_only=kind in ("view", "display", "sandbox", "bridge"),
                target=mount.target,
                read_only_there=mount.read_only,
                late=kind in _LATE,
            )
        )
    for each in folders_in_ram(spec):
        name = f"{spec.part}{each.target.replace('/', '-')}"
        attributes = {KIND: TMPFS, PART: spec.part.value, TARGET: each.target}
        found.append(Volume(name, attributes, False, each.target, False, False))
    return found


def workspace_pod(grant: Grant, settings: Settings, images: Images, lock_image: str) -> Manifest:
    """The pod of the session that ``grant`` allows, as JSON for the cluster's API.

    Of the grant only the session's and the project's id stand in it, and what the project's tier gives; who a session
    belongs to is in no object of the cluster. ``lock_image`` holds the network lock; it is the gateway's.

    Raises:
        SettingsError: ``settings.kubernetes`` is not set, ``kubernetes.hub`` holds names still, or an image is not
            named by its content.
    """
    cluster = settings.kubernetes
    if cluster is None:
        raise SettingsError("kubernetes: is not set, so there is no pod to make")
    # Stops: a lock that lets a bridge nowhere, or (read as no address) anywhere: the pod has no resolver.
    if cluster.named_hubs:
        raise SettingsError(f"kubernetes.hub: {cluster.named_hubs[0]} is a name; it is resolved before a pod is made")
    paths = WorkspacePaths.of(settings.layout.mounts, grant.session)
    specs = display, bridge, sandbox = workspace_specs(grant, settings, images, paths)
    volumes = {volume.name: volume for spec in specs for volume in volumes_of(spec, paths)}
    name = pod_name(grant.session)
    tier = cluster.tier_of(grant.project)
    targets = isolation.targets_of(settings, grant.project)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace_of(grant.project_id, cluster),
            "labels": {
                LABEL_DEPLOYMENT: settings.deployment,
                LABEL_SESSION: grant.session,
                LABEL_PART: "workspace",
            },
            "annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"},
        },
        "spec": {
            "serviceAccountName": ACCOUNT,
            # Stops: a sandbox that asks the cluster's API with a token it was handed.
            "automountServiceAccountToken": False,
            # Stops: addresses of other services in the environment.
            "enableServiceLinks": False,
            "hostNetwork": False,
            "hostPID": False,
            "hostIPC": False,
            # Stops: one container that looks into, or signals, the processes of another.
            "shareProcessNamespace": False,
            # Stops: a sandbox that is started again beside a bridge of before; a session has one life.
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 2,
            # Nobody in there needs a name, and a resolver of the cluster that hands questions on is a way out.
            "dnsPolicy": "None",
            "dnsConfig": {"nameservers": ["127.0.0.1"]},
            "hostname": "workspace",
            "securityContext": {
                "runAsNonRoot": True,
                "seccompProfile": {"type": "Localhost", "localhostProfile": SECCOMP},
                # Stops: a ping, for which no capability is needed in many clusters.
                "sysctls": [{"name": "net.ipv4.ping_group_range", "value": "1 0"}],
            },
            "initContainers": [_lock(lock_image, cluster)],
            # Kubelet starts them one after the other: first the sandbox, whose probe everything waits for.
            "containers": [
                _container(spec, volumes_of(spec, paths), tier, targets) for spec in (sandbox, display, bridge)
            ],
            "volumes": [volume.manifest(name) for volume in volumes.values()],
            "affinity": _beside_the_project(settings),
            **_placement(cluster, tier),
        },
    }


def _beside_the_project(settings: Settings) -> Manifest:
    """All pods of a project, which are those of its namespace, on one node; the first goes anywhere, because Kubernetes
    lets a pod in that is what it asks for itself.

    Stops: two nodes that mount one project's folder. What holds where the scheduler does not: node/lease.py.
    """
    workspaces = {LABEL_DEPLOYMENT: settings.deployment, LABEL_PART: "workspace"}
    term = {"labelSelector": {"matchLabels": workspaces}, "topologyKey": "kubernetes.io/hostname"}
    return {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def _placement(cluster: Kubernetes, tier: Tier | None) -> Manifest:
    found: Manifest = {}
    if runtime := (tier and tier.runtime_class) or cluster.runtime_class:
        found["runtimeClassName"] = runtime
    if cluster.priority_class:
        found["priorityClassName"] = cluster.priority_class
    if labels := {**cluster.node_selector, **(tier.node_selector if tier else {})}:
        found["nodeSelector"] = labels
    if taints := (*cluster.tolerations, *(tier.tolerations if tier else ())):
        found["tolerations"] = [each.model_dump(exclude_none=True) for each in taints]
    if cluster.image_pull_secrets:
        found["imagePullSecrets"] = [{"name": each} for each in cluster.image_pull_secrets]
    return found


def _security(uid: int, group: int) -> Manifest:
    return {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "runAsUser": uid,
        "runAsGroup": group,
        "capabilities": {"drop": ["ALL"]},
    }


def _group(spec: ContainerSpec) -> int:
    """The container's group. Supplementary groups are the whole pod's in Kubernetes, and the sandbox must not be in
    that of the RFB socket: so who shares one has it as their only group."""
    if len(spec.groups) > 1:
        raise SettingsError(f"{spec.part} has more groups than a container of a pod can have")
    return spec.groups[0] if spec.groups else spec.uid


def _alone(command: Sequence[str], environment: Sequence[tuple[str, str]], *, quiet: bool = True) -> list[str]:
    """``command`` as a container's, with what a pod cannot say.

    - no core dumps, now and for all that it starts. Stops: plaintext on a disk of the node
    - an environment of these names only. Stops: what the cluster adds (its API's address, at least)
    - ``quiet``: no output. Stops: what a program prints, in a file of kubelet's on a disk of the node
    """
    words = ["/usr/bin/env", "-i", f"PATH={_PATH}", *(f"{name}={value}" for name, value in environment), *command]
    output = " >/dev/null 2>&1" if quiet else ""
    return ["/bin/sh", "-c", f"ulimit -c 0 && exec {shlex.join(words)} </dev/null{output}"]


def _after_the_probe(spec: ContainerSpec, targets: isolation.Targets) -> tuple[str, ...]:
    """The sandbox's command, behind the isolation probe: in the researcher's own container, as the researcher's user,
    before anything of the researcher's is there.

    It becomes the sandbox's program where it found no way out, and ends the container where it did. The node agent
    judges the whole report once more, by itself, before it opens anything. What it prints, in the pod's status, holds
    no data: none is mounted yet. Afterwards nothing that is printed gets anywhere (``become`` in ``probe.py``).
    """
    report = f"{REPORT_FOLDER}/{REPORT_NAME}"
    return (*PROBE_COMMAND, "--locked", "--first", report, json.dumps(targets, sort_keys=True), *spec.command)


def _container(
    spec: ContainerSpec, volumes: Sequence[Volume], tier: Tier | None, targets: isolation.Targets
) -> Manifest:
    proves = spec.part is PartName.SANDBOX
    command = _after_the_probe(spec, targets) if proves else spec.command
    made: Manifest = {
        "name": spec.part.value,
        "image": spec.image,
        "imagePullPolicy": "IfNotPresent",
        "command": _alone(command, spec.environment, quiet=not proves),
        "workingDir": "/",
        "securityContext": _security(spec.uid, _group(spec)),
        "resources": {
            "limits": {"cpu": f"{int(spec.cpus * 1000)}m", "memory": f"{spec.memory_mb}Mi"},
            # Processors are shared; the memory asked for is what an idle desktop needs.
            "requests": {"cpu": "50m", "memory": f"{min(spec.memory_mb, 512)}Mi"},
        },
        "volumeMounts": [volume.mount() for volume in volumes],
        "terminationMessagePath": UNREACHABLE,
        # Of the sandbox: what the probe found.
        "terminationMessagePolicy": "FallbackToLogsOnError" if proves else "File",
    }
    if proves and tier is not None:
        # The node's device plugin shows them in this container alone; no device of the node is named here.
        given = {name: str(count) for name, count in tier.devices.items()}
        made["resources"]["limits"] |= given
        made["resources"]["requests"] |= given
    if spec.part is PartName.BRIDGE:
        made["ports"] = [{"name": "bridge", "containerPort": BRIDGE_PORT, "protocol": "TCP"}]
        made["readinessProbe"] = {"tcpSocket": {"port": BRIDGE_PORT}, "periodSeconds": 1, "failureThreshold": 60}
    return made


def _lock(image: str, cluster: Kubernetes) -> Manifest:
    """The network lock: for its few milliseconds it may change the pod's network, and then it is gone.

    The one container that is not as Pod Security *restricted* wants it: root, with ``NET_ADMIN``.
    """
    if not pinned(image):
        raise SettingsError(f"image of the network lock is {image!r}, not named by its content")
    security = {
        **_security(0, 0),
        "runAsNonRoot": False,
        "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    return {
        "name": LOCK,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": [*LOCK_COMMAND, *cluster.hub],
        "workingDir": "/",
        "securityContext": security,
        "resources": {"limits": {"cpu": "1", "memory": "64Mi"}, "requests": {"cpu": "10m", "memory": "16Mi"}},
        "terminationMessagePath": UNREACHABLE,
        # What it says is its own: that the network could not be locked, and why.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }

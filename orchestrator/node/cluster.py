"""The node agent of a cluster's node, composed: a CSI driver of its kubelet. No door, no engine.

The same volumes, keys and rules as on one machine; what asks for them is a kubelet, and who watches the containers is
kubelet too. When it ends it leaves running desktops alone: see docs/csi.md.
"""

from __future__ import annotations

import json
import logging
import platform
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

from orchestrator import logs
from orchestrator.cluster_api import HttpsApi
from orchestrator.config import Layout, Settings, resolved
from orchestrator.errors import BulleError, SettingsError, UnavailableError
from orchestrator.metrics.exposed import Exposed
from orchestrator.node import measures, mounts
from orchestrator.node.agent import running_version
from orchestrator.node.chores import chores, follow
from orchestrator.node.control_groups import ControlGroups
from orchestrator.node.csi import csi_server
from orchestrator.node.csi_volumes import PodKind, PodVolumes
from orchestrator.node.exposed import ExposedNode, expose_node
from orchestrator.node.folders import Folders
from orchestrator.node.journal import Journal
from orchestrator.node.late_keys import LateKeys
from orchestrator.node.lease import node_name
from orchestrator.node.parts import CommonParts, common_parts, grant_desk, images_of, volumes_of
from orchestrator.node.pod_identity import ClusterApi, Pod, PodIdentity
from orchestrator.node.pod_watch import PodWatch
from orchestrator.node.registration import csi_socket, registration_server, registry_socket, write_profile
from orchestrator.node.rounds import Rounds
from orchestrator.node.session_table import State
from orchestrator.node.usage import Meter
from orchestrator.node.volumes import Kind
from orchestrator.process import harden, now
from orchestrator.terms import Grant
from orchestrator.workspaces import seccomp as filters
from orchestrator.workspaces.pod import workspace_pod

_log = logging.getLogger(__name__)

#: seconds between two tries of what is not there yet, at most
PATIENCE = 10.0
#: seconds between two words about it
_SAY_SECONDS = 30.0
_KEPT = "usage.json"
Thing = TypeVar("Thing")


@dataclass(kw_only=True)
class ClusterParts(CommonParts):
    """What the agent works with; each can be replaced in a test."""

    api: ClusterApi


def real_cluster_parts(settings: Settings) -> ClusterParts:
    """The cluster's API, the authority and the key ring, which is opened when it is first asked: whoever must be cut
    off is so whether the custodian answers or not."""
    return ClusterParts(api=HttpsApi.of_the_cluster(), **vars(common_parts(settings, LateKeys)))


class Wanted:
    """The pod that a grant allows. The hub's name becomes an address at the first question, once."""

    def __init__(self, settings: Settings) -> None:
        self._images = images_of(settings)
        self._settings = settings
        self._resolved: Settings | None = None

    def settings(self) -> Settings:
        """With addresses in place of names; raises UnavailableError while a name has none."""
        if self._resolved is None:
            try:
                self._resolved = resolved(self._settings)
            except SettingsError as error:
                raise UnavailableError(error.message, hint=error.hint) from error
        return self._resolved

    def __call__(self, grant: Grant) -> Pod:
        """As the cluster must have it; raises like :meth:`settings`."""
        return workspace_pod(grant, self.settings(), self._images, self._images.gateway)


def pod_volumes(
    settings: Settings,
    parts: ClusterParts,
    journal: Journal,
    node: str,
    *,
    folders: Folders | None = None,
    wanted: Wanted | None = None,
) -> PodVolumes:
    """The volumes of this node's pods.

    Raises:
        SettingsError: ``kubernetes`` is not set.
    """
    cluster, layout = settings.kubernetes, settings.layout
    if cluster is None:
        raise SettingsError("kubernetes: is not set, so this is no node of a cluster")
    wanted = wanted or Wanted(settings)
    return PodVolumes(
        settings,
        resolved=wanted.settings,
        kubelet=cluster.kubelet,
        images=images_of(settings),
        volumes=volumes_of(settings, parts, folders or Folders(layout, parts.keys), journal),
        desk=grant_desk(settings),
        identity=PodIdentity(parts.api, cluster, node, wanted),
        journal=journal,
        clock=now,
    )


class _EndedError(Exception):
    """The agent was told to end before it had begun."""


class Beginning:
    """What is needed may be on its way up just as this agent is: it is waited for, with a word about it."""

    def __init__(self, ended: threading.Event) -> None:
        self._ended = ended

    def with_patience(self, what: str, do: Callable[[], Thing]) -> Thing:
        """What ``do`` gives, as soon as it does."""
        pause, said = 0.5, -_SAY_SECONDS
        while not self._ended.is_set():
            try:
                return do()
            except BulleError as error:
                if time.monotonic() - said >= _SAY_SECONDS:
                    said = time.monotonic()
                    _log.warning("not serving yet, waiting for %s: %s", what, error)
            self._ended.wait(pause)
            pause = min(2 * pause, PATIENCE)
        raise _EndedError


def serve_cluster(
    settings: Settings,
    parts: Callable[[Settings], ClusterParts] = real_cluster_parts,
    end: threading.Event | None = None,
) -> None:
    """Run the driver until SIGTERM, SIGINT or ``end``. What is published stays.

    Raises:
        SettingsError: ``kubernetes`` is not set. All else that is missing is waited for.
    """
    logs.configure("node", settings.logs)
    harden()
    if settings.kubernetes is None:
        raise SettingsError("kubernetes: is not set, so this is no node of a cluster")
    ended = end or threading.Event()
    if end is None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, lambda *_: ended.set())
    with suppress(_EndedError):
        _serve(settings, settings.kubernetes.kubelet, parts, ended)


def _serve(
    settings: Settings, kubelet: Path, parts: Callable[[Settings], ClusterParts], ended: threading.Event
) -> None:
    beginning, node, layout = Beginning(ended), node_name(), settings.layout
    # Of an agent that was killed: whoever looks for them would take this one for one that serves.
    _unlink_sockets(kubelet)
    for each in (kubelet, layout.mounts):
        if not mounts.is_shared(each):
            _log.error("%s does not hand mounts on: no pod will see its data; see docs/csi.md, propagation", each)
    with_parts = beginning.with_patience("certificates and the cluster's account", lambda: parts(settings))
    journal = Journal(with_parts.authority)
    folders, wanted = Folders(layout, with_parts.keys), Wanted(settings)
    volumes = beginning.with_patience(
        "the public key of grants",
        lambda: pod_volumes(settings, with_parts, journal, node, folders=folders, wanted=wanted),
    )
    taken_up, gone = beginning.with_patience("the node's mounts", lambda: _recover(folders, volumes))
    # From here on whoever must not go on does not, whether the rest is there yet or not.
    watch = PodWatch(volumes, with_parts.authority, journal, settings.reconcile_seconds)
    watch.start()
    try:
        beginning.with_patience("the authority", lambda: journal.done("node.start", containers=taken_up, mounts=gone))
        beginning.with_patience("the keys", lambda: with_parts.keys.exists("x"))
        beginning.with_patience("the hub's address", wanted.settings)
        beginning.with_patience("the cluster's API", lambda: with_parts.api.read_pod("default", "x"))
        profile = filters.for_cluster(json.loads(with_parts.seccomp), platform.machine())
        beginning.with_patience("kubelet's folder", lambda: write_profile(kubelet, profile))
        meter, rounds = _rounds(with_parts, journal, folders, volumes, layout)
        _follow(volumes, watch, journal, layout.folders)
        exposed = _exposed(settings)
        try:
            _serve_kubelet(kubelet, volumes, node, rounds, ended)
        finally:
            if exposed is not None:
                exposed.stop()
            with suppress(BulleError, OSError):
                meter.report()
    finally:
        watch.stop()
        volumes.rest()
    with suppress(BulleError):
        journal.done("node.stop")


def _exposed(settings: Settings) -> Exposed | ExposedNode | None:
    try:
        return expose_node(settings)
    except BulleError as error:
        # People work on without being watched over.
        _log.error("no metrics are told: %s", error)
        return None


def _recover(folders: Folders, volumes: PodVolumes) -> tuple[int, int]:
    folders.tidy()
    return volumes.recover()


def _serve_kubelet(kubelet: Path, volumes: PodVolumes, node: str, rounds: Rounds, ended: threading.Event) -> None:
    csi_socket(kubelet).parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    driver = csi_server(volumes, csi_socket(kubelet), running_version(), node)
    registry, _ = registration_server(kubelet)
    driver.start()
    # Only when the driver answers: kubelet calls it as soon as it is told of it.
    registry.start()
    rounds.start()
    _log.info("serving %s for node %s; %d sessions taken up", csi_socket(kubelet), node, len(volumes.every()))
    try:
        ended.wait()
    finally:
        registry.stop(grace=0).wait()
        driver.stop(grace=5).wait()
        rounds.stop()
        _unlink_sockets(kubelet)


def _unlink_sockets(kubelet: Path) -> None:
    for path in (registry_socket(kubelet), csi_socket(kubelet)):
        path.unlink(missing_ok=True)


def _rounds(
    parts: ClusterParts, journal: Journal, folders: Folders, volumes: PodVolumes, layout: Layout
) -> tuple[Meter, Rounds]:
    """What is done from time to time for this node's pods."""

    def running(*states: State) -> list[Grant]:
        return volumes.running() if states == (State.RUNNING,) else volumes.every()

    return chores(
        parts,
        journal=journal,
        folders=folders,
        volumes=volumes,
        sessions=SimpleNamespace(grants=running),
        runtime=ControlGroups(volumes.pod_of),
        layout=layout,
        kept=layout.mounts / "pods" / _KEPT,
        node=node_name(),
    )


def _follow(volumes: PodVolumes, watch: PodWatch, journal: Journal, disks: Path) -> None:
    """Tell the levels of these from now on."""
    measures.WORKSPACES.follow(lambda: len(volumes.running()), state=State.RUNNING)
    measures.WORKSPACES.follow(lambda: len(volumes.every()) - len(volumes.running()), state=State.STARTING)
    for kind in Kind:
        measures.MOUNTS.follow(partial(volumes.count, PodKind(kind)), kind=kind)
    follow(watch.asking, journal, disks)

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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator import logs
from orchestrator.cluster_api import HttpsApi
from orchestrator.config import Settings, resolved
from orchestrator.errors import BulleError, SettingsError, UnavailableError
from orchestrator.metrics.exposed import expose
from orchestrator.node.agent import harden, running_version
from orchestrator.node.csi import csi_server
from orchestrator.node.csi_volumes import PodVolumes
from orchestrator.node.folders import Folders
from orchestrator.node.journal import Journal
from orchestrator.node.lease import node_name
from orchestrator.node.parts import CommonParts, common_parts, grant_desk, images_of, now, volumes_of
from orchestrator.node.pod_identity import ClusterApi, PodIdentity
from orchestrator.node.pod_watch import PodWatch
from orchestrator.node.registration import csi_socket, registration_server, registry_socket, write_profile
from orchestrator.node.rounds import Rounds
from orchestrator.node.usage import SIZES_SECONDS
from orchestrator.workspaces import seccomp as filters
from orchestrator.workspaces.pod import workspace_pod

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class ClusterParts(CommonParts):
    """What the agent works with; each can be replaced in a test."""

    api: ClusterApi


def real_cluster_parts(settings: Settings) -> ClusterParts:
    """The cluster's API, the authority and the key ring."""
    return ClusterParts(api=HttpsApi.of_the_cluster(), **vars(common_parts(settings)))


def pod_volumes(
    settings: Settings, parts: ClusterParts, journal: Journal, node: str, folders: Folders | None = None
) -> PodVolumes:
    """The volumes of this node's pods.

    Raises:
        SettingsError: ``kubernetes`` is not set.
    """
    cluster, layout = settings.kubernetes, settings.layout
    if cluster is None:
        raise SettingsError("kubernetes: is not set, so this is no node of a cluster")

    images = images_of(settings)
    volumes = volumes_of(settings, parts, folders or Folders(layout, parts.keys), journal)
    return PodVolumes(
        settings,
        kubelet=cluster.kubelet,
        images=images,
        volumes=volumes,
        desk=grant_desk(settings),
        identity=PodIdentity(
            parts.api, cluster, node, lambda grant: workspace_pod(grant, settings, images, images.gateway)
        ),
        journal=journal,
        clock=now,
    )


def serve_cluster(
    settings: Settings,
    parts: Callable[[Settings], ClusterParts] = real_cluster_parts,
    end: threading.Event | None = None,
) -> None:
    """Run the driver until SIGTERM, SIGINT or ``end``. What is published stays.

    Raises:
        BulleError: it cannot begin: a part is missing, what an earlier one left cannot be taken up or removed, or
            the start cannot be audited.
    """
    logs.configure("node", settings.logs)
    harden()
    settings = resolved(settings)
    with_parts = parts(settings)
    journal = Journal(with_parts.authority)
    node = node_name()
    folders = Folders(settings.layout, with_parts.keys)
    volumes = pod_volumes(settings, with_parts, journal, node, folders)
    ended = end or threading.Event()
    if end is None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, lambda *_: ended.set())
    folders.tidy()
    taken_up, gone = volumes.recover()
    if not _told(journal, ended, containers=taken_up, mounts=gone):
        return
    kubelet = _kubelet(settings)
    write_profile(kubelet, filters.for_cluster(json.loads(with_parts.seccomp), platform.machine()))
    watch = PodWatch(volumes, with_parts.authority, journal, settings.reconcile_seconds)
    csi_socket(kubelet).parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    driver = csi_server(volumes, csi_socket(kubelet), running_version(), node)
    registry, _ = registration_server(kubelet)
    rounds = Rounds([(SIZES_SECONDS, folders.sweep)])
    driver.start()
    # Only when the driver answers: kubelet calls it as soon as it is told of it.
    registry.start()
    watch.start()
    rounds.start()
    expose("node", settings)
    _log.info("serving %s for node %s; %d sessions taken up", csi_socket(kubelet), node, taken_up)
    try:
        ended.wait()
    finally:
        registry.stop(grace=0).wait()
        driver.stop(grace=5).wait()
        rounds.stop()
        watch.stop()
        for path in (registry_socket(kubelet), csi_socket(kubelet)):
            path.unlink(missing_ok=True)
        with suppress(BulleError):
            journal.done("node.stop")


def _told(journal: Journal, ended: threading.Event, **detail: Any) -> bool:
    """Have the start in the audit log before anything is served. The authority's pod may be on its way up just as this
    one is: it is waited for, with a word about it. False: it was not heard before the end."""
    while not ended.is_set():
        try:
            journal.done("node.start", **detail)
            return True
        except UnavailableError as error:
            _log.warning("waiting for the authority: %s", error)
            ended.wait(1.0)
    return False


def _kubelet(settings: Settings) -> Path:
    assert settings.kubernetes is not None  # noqa: S101 - pod_volumes refused it
    return settings.kubernetes.kubelet

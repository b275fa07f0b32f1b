"""Makes the node agent known to a kubelet: its plugin registry, and the system-call filter in its folder.

A kubelet looks for sockets in its folder ``plugins_registry``, asks each who it is, and tells it whether it took it.
These are two calls, so there is no second program beside the agent for them.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

from orchestrator.errors import NodeError
from orchestrator.node import kubelet_pb2, kubelet_pb2_grpc
from orchestrator.node.csi import PLUGIN, listen
from orchestrator.workspaces.pod import SECCOMP

_log = logging.getLogger(__name__)

#: of the CSI specification, as a kubelet reads them
VERSIONS = ("1.0.0",)


def csi_socket(kubelet: Path) -> Path:
    """Where a kubelet calls the driver."""
    return kubelet / "plugins" / PLUGIN / "csi.sock"


def registry_socket(kubelet: Path) -> Path:
    """Where a kubelet finds the driver."""
    return kubelet / "plugins_registry" / f"{PLUGIN}-reg.sock"


class RegistrationService(kubelet_pb2_grpc.RegistrationServicer):
    """Says where the driver is, and hears whether kubelet took it."""

    def __init__(self, endpoint: Path) -> None:
        self._endpoint = endpoint
        self.registered = threading.Event()

    def GetInfo(  # noqa: N802 - kubelet's name
        self, request: kubelet_pb2.InfoRequest, context: grpc.ServicerContext
    ) -> kubelet_pb2.PluginInfo:
        """A CSI driver, its name and its socket."""
        return kubelet_pb2.PluginInfo(
            type="CSIPlugin", name=PLUGIN, endpoint=str(self._endpoint), supported_versions=VERSIONS
        )

    def NotifyRegistrationStatus(  # noqa: N802
        self, request: kubelet_pb2.RegistrationStatus, context: grpc.ServicerContext
    ) -> kubelet_pb2.RegistrationStatusResponse:
        """Kubelet tells how it went; it asks again by itself when it did not."""
        if request.plugin_registered:
            self.registered.set()
            _log.info("kubelet took the driver")
        else:
            self.registered.clear()
            _log.error("kubelet did not take the driver: %s", request.error[:300])
        return kubelet_pb2.RegistrationStatusResponse()


def registration_server(kubelet: Path) -> tuple[grpc.Server, RegistrationService]:
    """A server on the registry's socket, not started. To be started when the driver answers, and ended before it."""
    service = RegistrationService(csi_socket(kubelet))
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2, thread_name_prefix="registration"))
    kubelet_pb2_grpc.add_RegistrationServicer_to_server(service, server)
    path = registry_socket(kubelet)
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    listen(server, path)
    return server, service


def write_profile(kubelet: Path, profile: dict[str, Any]) -> Path:
    """Put the system-call filter where kubelet finds it: the old one or the new one is there, never half of one.

    Raises:
        NodeError: it could not be written.
    """
    place = kubelet / "seccomp" / SECCOMP
    fresh = place.with_name(f".{place.name}.new")
    try:
        place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with fresh.open("w", encoding="utf-8") as file:
            json.dump(profile, file, separators=(",", ":"))
            file.flush()
            os.fsync(file.fileno())
        fresh.chmod(0o644)
        fresh.replace(place)
    except OSError as error:
        raise NodeError(f"the system-call filter was not written to {place}: {error.strerror}") from error
    return place

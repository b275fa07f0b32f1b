"""The node agent as a CSI plugin: Identity and Node services (csi.proto) over the same :class:`Volumes` as
the door."""

from __future__ import annotations

import os
import socket
from concurrent import futures
from pathlib import Path

import grpc

from orchestrator.errors import (
    BulleError,
    ConflictError,
    GrantError,
    InputError,
    NotFoundError,
    UnavailableError,
)
from orchestrator.node import csi_pb2, csi_pb2_grpc
from orchestrator.node.grants import GrantDesk
from orchestrator.node.volumes import Kind, Volumes

PLUGIN = "workspace.bulle"
KIND = "bulle/kind"
_MOST = 1 << 20

#: the specification's status for each kind of failure (CSI spec, "Error Scheme")
_STATUS = (
    (GrantError, grpc.StatusCode.PERMISSION_DENIED),
    (InputError, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFoundError, grpc.StatusCode.NOT_FOUND),
    (ConflictError, grpc.StatusCode.ABORTED),
    (UnavailableError, grpc.StatusCode.UNAVAILABLE),
    (BulleError, grpc.StatusCode.INTERNAL),
)


def status_of(error: BulleError) -> grpc.StatusCode:
    """The gRPC status by which ``error`` is answered."""
    return next(status for kind, status in _STATUS if isinstance(error, kind))


class IdentityService(csi_pb2_grpc.IdentityServicer):
    """Who the plugin is."""

    def __init__(self, version: str) -> None:
        self._version = version

    def GetPluginInfo(  # noqa: N802 - the specification's name
        self, request: csi_pb2.GetPluginInfoRequest, context: grpc.ServicerContext
    ) -> csi_pb2.GetPluginInfoResponse:
        """Name and version."""
        return csi_pb2.GetPluginInfoResponse(name=PLUGIN, vendor_version=self._version)

    def GetPluginCapabilities(  # noqa: N802
        self, request: csi_pb2.GetPluginCapabilitiesRequest, context: grpc.ServicerContext
    ) -> csi_pb2.GetPluginCapabilitiesResponse:
        """No controller service: volumes come with a grant and go with their session."""
        return csi_pb2.GetPluginCapabilitiesResponse()

    def Probe(  # noqa: N802
        self, request: csi_pb2.ProbeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.ProbeResponse:
        """Whether it serves."""
        return csi_pb2.ProbeResponse()


class NodeService(csi_pb2_grpc.NodeServicer):
    """Mounts against a grant."""

    def __init__(self, volumes: Volumes, desk: GrantDesk, node_id: str) -> None:
        self._volumes = volumes
        self._desk = desk
        self._node_id = node_id

    def NodePublishVolume(  # noqa: N802
        self, request: csi_pb2.NodePublishVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodePublishVolumeResponse:
        """Show the view, home or project folder of the session that ``secrets["grant"]`` names."""
        try:
            if not request.volume_id or not request.target_path:
                raise InputError("volume_id and target_path must be set")
            if not request.HasField("volume_capability"):
                raise InputError("volume_capability must be set")
            kind = request.volume_context.get(KIND, "")
            if kind not in set(Kind):
                raise InputError(f"volume_context {KIND} must be one of {', '.join(Kind)}, not {kind!r}")
            token = request.secrets.get("grant", "")
            if not token:
                raise GrantError("no grant: secrets must hold one")
            verified = self._desk.use_for_volume(token)
            self._volumes.publish(Kind(kind), verified.grant, request.target_path)
        except BulleError as error:
            context.abort(status_of(error), str(error))
        return csi_pb2.NodePublishVolumeResponse()

    def NodeUnpublishVolume(  # noqa: N802
        self, request: csi_pb2.NodeUnpublishVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodeUnpublishVolumeResponse:
        """Take it away; succeeds also when it is not there."""
        try:
            if not request.volume_id or not request.target_path:
                raise InputError("volume_id and target_path must be set")
            self._volumes.unpublish(request.target_path)
        except BulleError as error:
            context.abort(status_of(error), str(error))
        return csi_pb2.NodeUnpublishVolumeResponse()

    def NodeGetCapabilities(  # noqa: N802
        self, request: csi_pb2.NodeGetCapabilitiesRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodeGetCapabilitiesResponse:
        """No staging, no statistics, no growing."""
        return csi_pb2.NodeGetCapabilitiesResponse()

    def NodeGetInfo(  # noqa: N802
        self, request: csi_pb2.NodeGetInfoRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodeGetInfoResponse:
        """The name of this machine."""
        return csi_pb2.NodeGetInfoResponse(node_id=self._node_id)


def csi_server(volumes: Volumes, desk: GrantDesk, path: Path, version: str) -> grpc.Server:
    """A server of both services on the unix socket ``path``, not started. Only root can open the socket."""
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=4, thread_name_prefix="csi"),
        options=[("grpc.max_receive_message_length", _MOST)],
    )
    csi_pb2_grpc.add_IdentityServicer_to_server(IdentityService(version), server)
    csi_pb2_grpc.add_NodeServicer_to_server(NodeService(volumes, desk, socket.gethostname()), server)
    path.unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{path}")
    finally:
        os.umask(before)
    return server

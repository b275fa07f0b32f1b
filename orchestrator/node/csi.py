"""The node agent as a CSI plugin: Identity and Node services (csi.proto), as the specification's text wants them.

What a call must say stands here, and which status answers what; what is mounted is for a :class:`Publisher`: on one
machine :class:`GrantVolumes` over the same volumes as the door, on a cluster
:class:`orchestrator.node.csi_volumes.PodVolumes`. Each condition, with its test: docs/csi.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import threading
from collections.abc import Mapping
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import grpc
from google.protobuf.wrappers_pb2 import BoolValue

from orchestrator.errors import (
    BulleError,
    ConflictError,
    GrantError,
    InputError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)
from orchestrator.node import csi_pb2, csi_pb2_grpc
from orchestrator.node.grants import GrantDesk
from orchestrator.node.volumes import Kind, Volumes

PLUGIN = "workspace.bulle"
KIND = "bulle/kind"
#: token of the pod's service account, in the attributes or, in newer clusters where it is asked for, in the secrets
TOKENS = "csi.storage.k8s.io/serviceAccount.tokens"
_MOST = 1 << 20
#: bytes (CSI spec, "Size Limits"); paths as the kernel takes them
_TEXT, _ATTRIBUTES, _PATH, _TOKENS = 128, 4096, 4095, 16384
_SECRET_NAME = re.compile(r"[A-Za-z0-9._/-]+")
_BLOCK, _MOUNT = "block", "mount"
_UNUSABLE_MODES = frozenset({csi_pb2.VolumeCapability.AccessMode.MULTI_NODE_SINGLE_WRITER})
_UNUSABLE_MODES |= {csi_pb2.VolumeCapability.AccessMode.MULTI_NODE_MULTI_WRITER}
_UNUSABLE_MODES |= {csi_pb2.VolumeCapability.AccessMode.MULTI_NODE_READER_ONLY}


class AlreadyPublishedError(ConflictError):
    """The target shows another volume, or this one with other arguments."""

    code = "already-published"


class PublishedElsewhereError(ConflictError):
    """The volume shows at another target of this node."""

    code = "published-elsewhere"


#: the specification's status for each kind of failure (CSI spec, "Error Scheme")
_STATUS = (
    (RefusedError, grpc.StatusCode.PERMISSION_DENIED),
    (InputError, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFoundError, grpc.StatusCode.NOT_FOUND),
    (AlreadyPublishedError, grpc.StatusCode.ALREADY_EXISTS),
    (PublishedElsewhereError, grpc.StatusCode.FAILED_PRECONDITION),
    (ConflictError, grpc.StatusCode.ABORTED),
    (UnavailableError, grpc.StatusCode.UNAVAILABLE),
    (BulleError, grpc.StatusCode.INTERNAL),
)


def status_of(error: BulleError) -> grpc.StatusCode:
    """The gRPC status by which ``error`` is answered."""
    return next(status for kind, status in _STATUS if isinstance(error, kind))


@dataclass(frozen=True)
class Asked:
    """A volume that is asked for, its fields checked for themselves."""

    volume_id: str
    target: str
    read_only: bool
    context: Mapping[str, str]
    #: token, environment: never in a message or a log
    secrets: Mapping[str, str] = field(repr=False)
    #: of all arguments but secrets and tokens, by which a repeated call is known
    arguments: str

    @property
    def kind(self) -> str:
        """What the volume holds."""
        return self.context.get(KIND, "")

    @property
    def grant(self) -> str:
        """The grant on which it rides.

        Raises:
            GrantError: there is none.
        """
        if not self.secrets.get("grant"):
            raise GrantError("no grant: secrets must hold one")
        return self.secrets["grant"]


class Publisher(Protocol):
    """Shows volumes, and takes them away."""

    def publish(self, asked: Asked) -> None:
        """Show a volume; again with the same arguments is no error."""

    def unpublish(self, volume_id: str, target: str) -> None:
        """Take it away; one that does not show is no error."""


def _checked_id(volume_id: str, target: str) -> None:
    if not volume_id or not target:
        raise InputError("volume_id and target_path must be set")
    if len(volume_id.encode()) > _TEXT:
        raise InputError(f"volume_id is longer than {_TEXT} bytes")
    if len(target.encode()) > _PATH:
        raise InputError(f"target_path is longer than {_PATH} bytes")


def _checked_capability(capability: csi_pb2.VolumeCapability) -> None:
    access = capability.WhichOneof("access_type")
    if access == _BLOCK:
        raise InputError("volume_capability: there are no block volumes")
    if access != _MOUNT:
        raise InputError("volume_capability: mount must be set")
    if capability.mount.fs_type or capability.mount.mount_flags:
        # Stops: a caller who takes nosuid, nodev or noexec away.
        raise InputError("volume_capability: file system and mount flags are the agent's to choose")
    if not capability.access_mode.mode:
        raise InputError("volume_capability: access_mode must be set")
    if capability.access_mode.mode in _UNUSABLE_MODES:
        raise InputError("volume_capability: a volume is one pod's, on one node")


def checked(request: csi_pb2.NodePublishVolumeRequest) -> Asked:
    """A request to publish, whole or not at all.

    Raises:
        InputError: a field is missing, too long, or asks for what the driver does not have; no secret is repeated.
    """
    _checked_id(request.volume_id, request.target_path)
    if not request.HasField("volume_capability"):
        raise InputError("volume_capability must be set")
    _checked_capability(request.volume_capability)
    if request.staging_target_path:
        raise InputError("staging_target_path must not be set: volumes are not staged")
    if request.publish_context:
        raise InputError("publish_context must not be set: there is no controller service")
    context = dict(request.volume_context)
    tokens = context.pop(TOKENS, "")
    if len(tokens) > _TOKENS:
        raise InputError(f"volume_context {TOKENS} is longer than {_TOKENS} bytes")
    if sum(len(key.encode()) + len(value.encode()) for key, value in context.items()) > _ATTRIBUTES:
        raise InputError(f"volume_context is larger than {_ATTRIBUTES} bytes")
    if any(not _SECRET_NAME.fullmatch(name) for name in request.secrets):
        raise InputError("secrets: a name has characters that no secret's name has")
    mode = request.volume_capability.access_mode.mode
    told = json.dumps([mode, request.readonly, context], sort_keys=True)
    secrets = {**request.secrets, **({TOKENS: tokens} if tokens else {})}
    arguments = hashlib.sha256(told.encode()).hexdigest()
    return Asked(request.volume_id, request.target_path, request.readonly, context, secrets, arguments)


def is_repeated(shown: Mapping[str, tuple[str, str]], asked: Asked) -> bool:
    """Whether exactly this shows already; ``shown`` has volume and arguments by target.

    Raises:
        AlreadyPublishedError: the target shows something else.
        PublishedElsewhereError: the volume shows at another target.
    """
    there = shown.get(asked.target)
    if there == (asked.volume_id, asked.arguments):
        return True
    if there is not None:
        raise AlreadyPublishedError(f"{asked.target} shows another volume, or this one with other arguments")
    if any(volume_id == asked.volume_id for volume_id, _ in shown.values()):
        raise PublishedElsewhereError(f"volume {asked.volume_id} shows at another target")
    return False


class GrantVolumes:
    """The volumes of one machine: whoever can open the socket is root, and has a grant or gets nothing."""

    def __init__(self, volumes: Volumes, desk: GrantDesk) -> None:
        self._volumes = volumes
        self._desk = desk
        self._guard = threading.Lock()
        self._shown: dict[str, tuple[str, str]] = {}

    def publish(self, asked: Asked) -> None:
        """Show the view, home or project folder of the session that ``secrets["grant"]`` names.

        Raises:
            InputError: there is no such kind, or it cannot be read-only.
            BulleError: the grant does not hold, or it could not be mounted.
        """
        if asked.kind not in set(Kind):
            raise InputError(f"volume_context {KIND} must be one of {', '.join(Kind)}, not {asked.kind!r}")
        if asked.read_only and asked.kind != Kind.VIEW:
            raise InputError(f"readonly: a {asked.kind} is writable")
        showing = {str(each.target) for each in self._volumes.published()}
        with self._guard:
            # What the watch took away is forgotten here too.
            self._shown = {target: told for target, told in self._shown.items() if target in showing}
            if is_repeated(self._shown, asked):
                return
        self._volumes.publish(Kind(asked.kind), self._desk.use_for_volume(asked.grant).grant, asked.target)
        with self._guard:
            self._shown[asked.target] = (asked.volume_id, asked.arguments)

    def unpublish(self, volume_id: str, target: str) -> None:
        """Take a volume away; raises as :meth:`Volumes.unpublish`."""
        self._volumes.unpublish(target)
        with self._guard:
            self._shown.pop(target, None)


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
        return csi_pb2.ProbeResponse(ready=BoolValue(value=True))


class NodeService(csi_pb2_grpc.NodeServicer):
    """Mounts against a grant."""

    def __init__(self, publisher: Publisher, node_id: str) -> None:
        self._publisher = publisher
        self._node_id = node_id
        self._guard = threading.Lock()
        self._pending: set[str] = set()

    def NodePublishVolume(  # noqa: N802 - the specification's name
        self, request: csi_pb2.NodePublishVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodePublishVolumeResponse:
        """Show a volume of the session that ``secrets["grant"]`` names."""
        try:
            asked = checked(request)
            self._begin(asked.volume_id)
            try:
                self._publisher.publish(asked)
            finally:
                self._pending.discard(asked.volume_id)
        except BulleError as error:
            context.abort(status_of(error), str(error))
        return csi_pb2.NodePublishVolumeResponse()

    def NodeUnpublishVolume(  # noqa: N802
        self, request: csi_pb2.NodeUnpublishVolumeRequest, context: grpc.ServicerContext
    ) -> csi_pb2.NodeUnpublishVolumeResponse:
        """Take it away; succeeds also when it is not there."""
        try:
            _checked_id(request.volume_id, request.target_path)
            self._begin(request.volume_id)
            try:
                self._publisher.unpublish(request.volume_id, request.target_path)
            finally:
                self._pending.discard(request.volume_id)
        except BulleError as error:
            context.abort(status_of(error), str(error))
        return csi_pb2.NodeUnpublishVolumeResponse()

    def _begin(self, volume_id: str) -> None:
        with self._guard:
            if volume_id in self._pending:
                raise ConflictError(f"a call for volume {volume_id} is under way")
            self._pending.add(volume_id)

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


def csi_server(publisher: Publisher, path: Path, version: str, node_id: str | None = None) -> grpc.Server:
    """A server of both services on the unix socket ``path``, not started. Only root can open the socket."""
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=16, thread_name_prefix="csi"),
        options=[("grpc.max_receive_message_length", _MOST)],
    )
    csi_pb2_grpc.add_IdentityServicer_to_server(IdentityService(version), server)
    csi_pb2_grpc.add_NodeServicer_to_server(NodeService(publisher, node_id or socket.gethostname()), server)
    listen(server, path)
    return server


def listen(server: grpc.Server, path: Path) -> None:
    """Have ``server`` answer on the unix socket ``path``, which root alone can open."""
    path.unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{path}")
    finally:
        os.umask(before)

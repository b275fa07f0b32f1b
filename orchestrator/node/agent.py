"""The node agent, composed: clean up, serve the door and CSI, watch, and leave nothing behind.

The one process with root. It has no network; it answers on two unix sockets and asks the engine and the
authority on two others.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import uvicorn

from orchestrator import logs
from orchestrator.config import Layout, Settings, Uid
from orchestrator.errors import BulleError, NodeError
from orchestrator.metrics.exposed import expose
from orchestrator.node import measures, mounts
from orchestrator.node.chores import chores, follow
from orchestrator.node.csi import GrantVolumes, csi_server
from orchestrator.node.door import door_app
from orchestrator.node.folders import Folders
from orchestrator.node.journal import Journal
from orchestrator.node.lease import Leases
from orchestrator.node.parts import CommonParts, common_parts, grant_desk, images_of, volumes_of
from orchestrator.node.session_table import State
from orchestrator.node.sessions import Sessions
from orchestrator.node.volumes import Kind, Volumes
from orchestrator.node.watch import Watch
from orchestrator.process import harden, now
from orchestrator.workspaces.docker import DockerRuntime
from orchestrator.workspaces.runtime import Runtime

_log = logging.getLogger(__name__)

SOCKETS: tuple[Literal["door", "csi"], ...] = ("door", "csi")


@dataclass(kw_only=True)
class Parts(CommonParts):
    """What the agent works with; each can be replaced in a test."""

    runtime: Runtime


def real_parts(settings: Settings) -> Parts:
    """The engine, the authority and the key ring of a deployment, open and warm."""
    return Parts(runtime=DockerRuntime(settings.deployment), **vars(common_parts(settings)))


def clean(layout: Layout, runtime: Runtime) -> tuple[int, int]:
    """Remove every workspace container and every mount of the deployment; how many of each there were.

    So an agent that was killed, at whatever point, leaves nothing running, mounted or in clear once it is
    back.

    Raises:
        NodeError: something stays; the agent must not serve then.
    """
    found = runtime.list()
    for each in found:
        runtime.remove(each.id)
    layout.mounts.mkdir(mode=0o700, parents=True, exist_ok=True)
    gone = mounts.unmount_below(layout.mounts)
    for name in ("ws", "views", "plain", "cipher"):
        _remove_empty(layout.mounts / name)
        (layout.mounts / name).mkdir(mode=0o711)
    for unfinished in layout.folders.glob("*/disk.new"):
        unfinished.unlink()
    return len(found), gone


def _remove_empty(folder: Path) -> None:
    """Remove a tree of empty folders. A file in one would be plaintext under a mount that is gone: that is
    said."""
    if not folder.exists():
        return
    for here, folders, files in os.walk(folder, topdown=False):
        if files:
            raise NodeError(f"{here} holds files that no mount of this agent explains: {files[0]}")
        for each in folders:
            path = Path(here) / each
            if path.is_symlink():
                raise NodeError(f"{path} is a symbolic link, which this agent never makes")
            path.rmdir()
    folder.rmdir()


def door_socket(path: Path) -> socket.socket:
    """The door, listening: root and the hub's group may open it, nobody else."""
    path.unlink(missing_ok=True)
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777)
    try:
        door.bind(str(path))
    finally:
        os.umask(before)
    os.chown(path, 0, Uid.HUB)
    path.chmod(0o660)
    door.listen(64)
    return door


def serve(settings: Settings, parts: Callable[[Settings], Parts] = real_parts) -> None:
    """Run the node agent until SIGTERM or SIGINT; then end every session and unmount everything.

    Raises:
        BulleError: it cannot begin: a part is missing, what an earlier one left cannot be removed, or the
        start
            cannot be audited.
    """
    logs.configure("node", settings.logs)
    harden()
    layout = settings.layout
    with_parts = parts(settings)
    journal = Journal(with_parts.authority)
    # No other machine has these disks: however long they do not answer, what is open stays this one's.
    folders = Folders(layout, with_parts.keys, Leases(hold=math.inf))
    folders.tidy()
    containers, mounted = clean(layout, with_parts.runtime)
    journal.done("node.start", containers=containers, mounts=mounted)

    desk = grant_desk(settings)
    volumes = volumes_of(settings, with_parts, folders, journal)
    sessions = Sessions(
        settings,
        images=lambda: images_of(settings),
        runtime=with_parts.runtime,
        volumes=volumes,
        desk=desk,
        journal=journal,
        seccomp=with_parts.seccomp,
        clock=now,
    )
    watch = Watch(
        sessions=sessions,
        volumes=volumes,
        runtime=with_parts.runtime,
        authority=with_parts.authority,
        journal=journal,
        clock=now,
        seconds=settings.reconcile_seconds,
    )
    meter, rounds = chores(
        with_parts,
        journal=journal,
        folders=folders,
        volumes=volumes,
        sessions=sessions,
        runtime=with_parts.runtime,
        layout=layout,
    )
    csi = csi_server(GrantVolumes(volumes, desk), layout.socket("csi"), running_version())
    csi.start()
    layout.socket("csi").chmod(0o600)
    door = door_socket(layout.socket("door"))
    watch.start()
    rounds.start()
    _follow(sessions, volumes, watch, journal, layout.folders)
    expose("node", settings)
    server = uvicorn.Server(
        uvicorn.Config(
            door_app(sessions),
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=1 << 16,
        )
    )
    # uvicorn ends its loop on these signals and then raises them again: what follows must still be done.
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: None)
    try:
        server.run(sockets=[door])
    finally:
        csi.stop(grace=0)
        quiet = rounds.stop()
        watch.stop()
        sessions.close("the node agent stops")
        for publication in volumes.published():
            volumes.unpublish(str(publication.target))
        clean(layout, with_parts.runtime)
        for name in SOCKETS:
            layout.socket(name).unlink(missing_ok=True)
        if quiet:
            with suppress(BulleError):
                meter.report()
        with suppress(BulleError):
            journal.done("node.stop")


def _follow(sessions: Sessions, volumes: Volumes, watch: Watch, journal: Journal, folder: Path) -> None:
    """Tell the levels of these from now on."""

    def sessions_in(state: State) -> int:
        return sum(each.state is state for each in sessions.every())

    def volumes_of(kind: Kind) -> int:
        return sum(each.kind is kind for each in volumes.published())

    for state in State:
        measures.WORKSPACES.follow(partial(sessions_in, state), state=state)
    for kind in Kind:
        measures.MOUNTS.follow(partial(volumes_of, kind), kind=kind)
    follow(watch.asking, journal, folder)


def running_version() -> str:
    """The version of this program."""
    try:
        return version("bulle")
    except PackageNotFoundError:
        return "0"

"""The container in which the node agent runs: pure, so that what it may do can be read and tested."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from orchestrator.config import Pkcs11Custodian, Settings
from orchestrator.process import SETTINGS_INSIDE
from orchestrator.workspaces.spec import LABEL_DEPLOYMENT, LABEL_PART

#: Each with the reason for which the agent does not work without it.
CAPABILITIES = (
    "SYS_ADMIN",  # mount, unmount, loop devices
    "CHOWN",  # the parts' files, and the root folder of a new home, belong to the parts' users
    "DAC_OVERRIDE",  # gocryptfs acts for uid 1000 in its home; the socket of the authority is uid 1013's
    "FOWNER",  # the same, for modes and times
    "FSETID",  # the set-gid folder of the RFB socket, which belongs to another group
    "SETGID",  # gocryptfs makes a file as the user who asked for it
    "SETUID",
    "MKNOD",  # a node for a loop device that the machine made later
    "KILL",  # end gocryptfs
    "LINUX_IMMUTABLE",  # an archived folder, which root too writes only after a second thought
)


def agent_container(settings: Settings, settings_file: Path, image_id: str, node: str = "") -> dict[str, Any]:
    """Arguments of ``docker.containers.run`` for the node agent. It runs as root, has no network and a
    read-only root.

    It holds the engine's socket, which is root on the machine: that is why nothing else does, and why it
    hears nothing but two unix sockets.
    """
    layout = settings.layout
    binds = [
        f"{settings_file}:{SETTINGS_INSIDE}:ro",
        f"{layout.public}:{layout.public}:ro",
        f"{layout.datasets}:{layout.datasets}:ro",
        f"{layout.folders}:{layout.folders}:rw",
        f"{layout.keyring}:{layout.keyring}:rw",
        f"{layout.custodian}:{layout.custodian}:rw",
        f"{layout.sockets / 'node'}:{layout.sockets / 'node'}:ro",
        f"{layout.sockets / 'door'}:{layout.sockets / 'door'}:rw",
        f"{layout.sockets / 'csi'}:{layout.sockets / 'csi'}:rw",
        # What is mounted below it inside shows on the machine, and in the workspaces bound to it.
        f"{layout.mounts}:{layout.mounts}:rw,rshared",
        "/var/run/docker.sock:/var/run/docker.sock:rw",
    ]
    if settings.metrics is not None:
        told = layout.metrics_socket("node").parent
        binds.append(f"{told}:{told}:rw")
    custodian = settings.custodian
    if isinstance(custodian, Pkcs11Custodian):
        binds += [f"{path}:{path}:ro" for path in dict.fromkeys((custodian.module, custodian.pin_file))]
    return {
        "image": image_id,
        "command": ["/usr/bin/python3", "-m", "orchestrator.node"],
        "name": f"bulle-{settings.deployment}-node",
        "labels": {LABEL_DEPLOYMENT: settings.deployment, LABEL_PART: "node"},
        "user": "0:0",
        "network_mode": "none",
        "read_only": True,
        "cap_drop": ["ALL"],
        "cap_add": list(CAPABILITIES),
        # Both default profiles forbid mount(2) even with SYS_ADMIN.
        "security_opt": ["no-new-privileges", "seccomp=unconfined", "apparmor=unconfined"],
        "devices": ["/dev/fuse:/dev/fuse:rwm", "/dev/loop-control:/dev/loop-control:rwm"],
        "device_cgroup_rules": ["b 7:* rwm"],  # loop devices, and no disk of the machine
        "volumes": binds,
        "tmpfs": {
            "/tmp": "size=64m,mode=1777,nosuid,nodev,noexec",  # noqa: S108 - a tmpfs of the container's own
            "/run": "size=16m,mode=755,nosuid,nodev,noexec",
        },
        # No limit of memory: the pages of views count here, and they are bounded by the machine's RAM alone.
        # No swap for what it holds itself: keys.
        "mem_swappiness": 0,
        "pids_limit": 1024,
        "ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
        # gocryptfs processes whose parent was the agent are reaped.
        "init": True,
        "restart_policy": {"Name": "always"},
        "stop_signal": "SIGTERM",
        "log_config": {"type": "json-file", "config": {"max-size": "10m", "max-file": "3"}},
        "environment": {
            "BULLE_SETTINGS": SETTINGS_INSIDE,
            # Of the machine and not of the container: the leases of folders say who has them.
            "BULLE_NODE": node or socket.gethostname(),
            "HOME": "/tmp",  # noqa: S108
            "TMPDIR": "/tmp",  # noqa: S108
        },
        "detach": True,
    }

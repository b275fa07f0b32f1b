"""What a pod of the control plane does first: the folders of its volumes and the signing keys, without root.

Run by an init container as the authority's user, with the volumes whole at ``/volumes``. The other containers see one
folder each (a subPath); which of them a container mounts decides who may call whom, because all share the pod's group.
Safe to repeat, and at once.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config import Layout, Uid
from orchestrator.errors import SettingsError
from orchestrator.governance.keys import create_signing_keys
from orchestrator.process import run_part

VOLUMES = Path("/volumes")
#: the pod's fsGroup
GROUP = Uid.AUTHORITY
#: in the authority's folder as long as a backup is being put into the volumes
RESTORING = ".restoring"


@dataclass(frozen=True)
class Folder:
    """A folder and its mode; its group is the pod's."""

    path: Path
    mode: int


def layout_of(volumes: Path) -> Layout:
    """The state folder's layout where it is spread over volumes."""
    layout = Layout(volumes)
    control, data = volumes / "control", volumes / "data"
    layout.authority, layout.audit, layout.hub = control / "authority", control / "audit", control / "hub"
    layout.database = layout.authority / layout.database.name
    layout.datasets, layout.folders, layout.keyring = data / "datasets", data / "folders", data / "keyring"
    layout.public = data / "public"
    layout.images = layout.public / layout.images.name
    layout.sockets = volumes / "sockets"
    return layout


def folders(layout: Layout) -> tuple[Folder, ...]:
    """Every folder of the volumes.

    A socket's folder can be written by whom makes the socket in it: the authority by its user, door and portal by the
    group. Set-gid gives a socket the group that all containers have.
    """
    sockets = layout.sockets
    return (
        Folder(layout.authority, 0o700),
        Folder(layout.audit, 0o700),
        # the hub's user is another; no other container mounts it
        Folder(layout.hub, 0o2770),
        # the small database's own user, and the authority by its socket
        Folder(layout.authority.parent / "database", 0o2770),
        Folder(layout.authority.parent / "database" / "socket", 0o2770),
        Folder(layout.datasets, 0o755),
        Folder(layout.public, 0o755),
        # shared by node agents (root) and the administrator's tools, who read them for backups
        Folder(layout.folders, 0o2770),
        Folder(layout.keyring, 0o2770),
        Folder(sockets / "hub", 0o2750),
        Folder(sockets / "portal", 0o2750),
        Folder(sockets / "cluster", 0o2750),
        Folder(sockets / "door", 0o2770),
        Folder(sockets / "metrics-authority", 0o2750),
        Folder(sockets / "metrics-portal", 0o2770),
    )


def prepare(volumes: Path = VOLUMES, group: int = GROUP) -> list[str]:
    """Make what is missing and set right what is not; one line for each thing done.

    Raises:
        SettingsError: a folder or key cannot be had as it must be.
    """
    layout = layout_of(volumes)
    told = make_folders(volumes, group)
    # Stops: half a deployment that begins anew, with other keys, over the half that a killed restore left.
    if (layout.authority / RESTORING).exists():
        raise SettingsError("a backup was not restored whole", hint="restore it again: what is there is cleared first")
    told += _tighten([layout.authority, layout.audit])
    if create_signing_keys(layout):
        told.append("made the signing keys")
    return told


def make_folders(volumes: Path, group: int = GROUP) -> list[str]:
    """Only the folders; see :func:`prepare`. Raises SettingsError."""
    return [line for folder in folders(layout_of(volumes)) for line in _folder(folder, group)]


def _folder(folder: Folder, group: int) -> Iterator[str]:
    path = folder.path
    try:
        try:
            path.mkdir(mode=0o700)
            yield f"made {path}"
        except FileExistsError:
            pass
        found = path.lstat()
        # Stops: a link that somebody who wrote the volume left, to have another folder opened to the pod.
        if not stat.S_ISDIR(found.st_mode):
            raise SettingsError(f"{path} is not a folder", hint="find out who put it there")
        if (found.st_gid, stat.S_IMODE(found.st_mode)) != (group, folder.mode):
            # The group first: a change of it takes the set-gid bit away.
            if found.st_gid != group:
                os.chown(path, -1, group)
            path.chmod(folder.mode)
            now = path.stat()
            if (now.st_gid, stat.S_IMODE(now.st_mode)) != (group, folder.mode):
                raise SettingsError(f"{path} keeps group {now.st_gid} and mode {stat.S_IMODE(now.st_mode):04o}")
    except OSError as error:
        raise SettingsError(
            f"{path}: {error.strerror}",
            hint=f"the volume must be writable to group {group} (fsGroup), and its folders made by nobody else",
        ) from error


def _tighten(places: Iterable[Path]) -> Iterator[str]:
    """Take away from group and others what a volume plugin gave them: one that applies fsGroup makes 0600 into 0660.

    In the meantime nobody else had them: no other container mounts these folders.
    """
    for path in sorted(path for place in places for path in place.rglob("*")):
        try:
            found = path.lstat()
            if stat.S_ISREG(found.st_mode) and found.st_mode & 0o077:
                path.chmod(0o600)
                yield f"{path}: mode {stat.S_IMODE(found.st_mode):04o} is 0600 again"
        except FileNotFoundError:
            continue  # a file of the database's, or of another run of this
        except OSError as error:
            raise SettingsError(f"{path}: {error.strerror}", hint=f"it must belong to user {Uid.AUTHORITY}") from error


def _say_and_prepare() -> None:
    for line in prepare():
        print(f"prepare: {line}", flush=True)


def main() -> int:
    """Prepare the volumes; the exit status."""
    return run_part("prepare", _say_and_prepare)


if __name__ == "__main__":
    sys.exit(main())

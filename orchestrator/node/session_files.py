"""The folders of one session and the few files that its parts read, on the session's own small tmpfs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from orchestrator.config import Gid, Settings, Uid
from orchestrator.errors import InputError, NodeError
from orchestrator.node import mounts
from orchestrator.terms import Grant
from orchestrator.workspaces.gateway.display import write_xauthority
from orchestrator.workspaces.spec import WorkspacePaths

#: what JupyterHub gives a single-user server so that it can ask the hub who knocks (Spawner.get_env); nothing
#: else of a
#: caller's environment reaches the bridge
BRIDGE_ENVIRONMENT = frozenset(
    f"JUPYTERHUB_{name}"
    for name in (
        "ACTIVITY_URL",
        "ADMIN_ACCESS",
        "API_TOKEN",
        "API_URL",
        "BASE_URL",
        "CLIENT_ID",
        "COOKIE_HOST_PREFIX_ENABLED",
        "COOKIE_OPTIONS",
        "DEBUG",
        "HOST",
        "OAUTH_ACCESS_SCOPES",
        "OAUTH_CALLBACK_URL",
        "OAUTH_CLIENT_ALLOWED_SCOPES",
        "OAUTH_SCOPES",
        "PUBLIC_HUB_URL",
        "PUBLIC_URL",
        "ROOT_DIR",
        "SERVER_NAME",
        "SERVICE_PREFIX",
        "SERVICE_URL",
        "USER",
    )
)
_NEEDED = ("JUPYTERHUB_API_TOKEN", "JUPYTERHUB_API_URL", "JUPYTERHUB_CLIENT_ID", "JUPYTERHUB_SERVICE_PREFIX")
_LONGEST = 4096


def checked_environment(environment: dict[str, str], grant: Grant) -> dict[str, str]:
    """The bridge's environment, whole or not at all.

    Raises:
        InputError: a name is unknown, a value too long or not printable, one is missing, or it is for another
        person
            or workspace than the grant. No value is repeated: one of them is a token.
    """
    unknown = sorted(environment.keys() - BRIDGE_ENVIRONMENT)
    if unknown:
        raise InputError(f"bridge_environment may not hold {', '.join(unknown)[:200]}")
    for name, value in environment.items():
        if len(value) > _LONGEST or not value.isprintable():
            raise InputError(f"bridge_environment: {name} is longer than {_LONGEST} characters or not printable")
    missing = [name for name in _NEEDED if not environment.get(name)]
    if missing:
        raise InputError(f"bridge_environment lacks {', '.join(missing)}")
    # The bridge lets in whom its environment names: it must be the person whose workspace this is.
    for name, expected in (("JUPYTERHUB_USER", grant.person), ("JUPYTERHUB_SERVER_NAME", grant.project)):
        if environment.get(name) != expected:
            raise InputError(f"bridge_environment: {name} is not the one of the grant")
    return dict(environment)


def prepare(paths: WorkspacePaths, grant: Grant, settings: Settings, environment: dict[str, str]) -> None:
    """Make the folders of a session and fill ``run``; see the table in docs/architecture.md.

    Raises:
        NodeError: it could not be done; :func:`clear` takes away what was.
    """
    try:
        paths.root.parent.mkdir(mode=0o711, exist_ok=True)
        paths.root.mkdir(mode=0o711)
        for folder in (paths.data, paths.home, paths.project, paths.run):
            folder.mkdir(mode=0o755)
        mounts.tmpfs(paths.run, "16m")
        # The X protocol wants this folder to be root's and sticky. The display alone has it writable.
        _folder(paths.run / "x11", 0, 0, 0o1777)
        # Set-gid: the socket belongs to the one group that display and bridge share.
        _folder(paths.run / "rfb", Uid.DISPLAY, Gid.RFB, 0o2750)
        for name in ("display", "sandbox", "bridge"):
            _folder(paths.run / name, 0, 0, 0o755)
        cookie = os.urandom(16)
        write_xauthority(paths.run / "display" / "Xauthority", cookie, uid=Uid.DISPLAY)
        write_xauthority(paths.run / "sandbox" / "Xauthority", cookie, uid=Uid.SANDBOX)
        told: dict[str, Any] = {
            "session": grant.session,
            "display_name": grant.display_name,
            "project": grant.project,
            "project_title": grant.project_title,
            "ends_at": grant.ends_at.isoformat(),
        }
        workspace = settings.workspace
        bridge = {
            "environment": environment,
            "paste_in": workspace.paste_in,
            "idle_minutes": workspace.idle_minutes,
        }
        _file(paths.run / "bridge" / "bridge.json", {**told, **bridge}, Uid.BRIDGE)
        _file(paths.run / "sandbox" / "session.json", {**told, "language": settings.languages[0]}, Uid.SANDBOX)
    except OSError as error:
        raise NodeError(f"the folders of a session could not be made: {error.strerror or error}") from error


def _folder(path: Path, uid: int, gid: int, mode: int) -> None:
    path.mkdir()
    os.chown(path, uid, gid)
    path.chmod(mode)


def _file(path: Path, content: dict[str, Any], uid: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(content, file)
        os.fchown(handle, uid, uid)


def clear(paths: WorkspacePaths) -> None:
    """Take away the folders of a session; also those that were only half made.

    Raises:
        NodeError: something could not be unmounted or removed.
    """
    mounts.unmount_below(paths.root)
    try:
        for folder in (paths.data, paths.home, paths.project, paths.run, paths.root):
            if folder.exists():
                # rmdir and not more: a folder that is not empty would be a mount that did not go.
                folder.rmdir()
    except OSError as error:
        raise NodeError(f"the folders of a session could not be removed: {error.strerror}") from error

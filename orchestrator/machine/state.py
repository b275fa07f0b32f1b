"""The state folder of a deployment: who owns each part of it, and the secrets that are made once.

Owners and modes are a control: a part of the control plane can read its own folder and no other's, and a socket can
be opened only by the part into which its folder is mounted. ``tests/unit/machine/test_state.py`` holds them.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config import Layout, Settings, Uid
from orchestrator.governance.keys import create_signing_keys


@dataclass(frozen=True)
class Folder:
    """A folder, its owner, group and mode."""

    path: Path
    uid: int
    gid: int
    mode: int


def folders(layout: Layout) -> tuple[Folder, ...]:
    """Every folder of a deployment, parents first.

    The folders of sockets are set-gid: a socket made in one belongs to the group of its one client, and nobody else
    can reach it, whatever the socket's own mode becomes.
    """
    secret = layout.secrets
    sockets = layout.sockets
    return (
        Folder(layout.state, 0, 0, 0o711),
        Folder(layout.datasets, 0, 0, 0o755),  # ciphertext and manifests
        Folder(layout.folders, 0, 0, 0o700),
        Folder(layout.keyring, 0, 0, 0o700),
        Folder(layout.custodian, 0, 0, 0o700),
        Folder(layout.audit, Uid.AUTHORITY, Uid.AUTHORITY, 0o700),
        Folder(layout.authority, Uid.AUTHORITY, Uid.AUTHORITY, 0o700),
        Folder(layout.public, 0, 0, 0o755),
        Folder(layout.hub, Uid.HUB, Uid.HUB, 0o700),
        Folder(secret, 0, 0, 0o711),
        Folder(secret / "hub", Uid.HUB, Uid.HUB, 0o700),
        Folder(secret / "proxy", Uid.PROXY, Uid.PROXY, 0o700),
        Folder(secret / "portal", Uid.PORTAL, Uid.PORTAL, 0o700),
        Folder(secret / "metrics", Uid.METRICS, Uid.METRICS, 0o700),
        Folder(secret / "demo-idp", Uid.DEMO_IDP, Uid.DEMO_IDP, 0o700),
        # Views are in clear below it: no local account but root may look in. Workspaces see what is bound for them.
        Folder(layout.mounts, 0, 0, 0o700),
        Folder(sockets, 0, 0, 0o711),
        Folder(sockets / "hub", Uid.AUTHORITY, Uid.HUB, 0o2750),
        Folder(sockets / "portal", Uid.AUTHORITY, Uid.PORTAL, 0o2750),
        Folder(sockets / "node", Uid.AUTHORITY, 0, 0o2750),
        Folder(sockets / "door", 0, Uid.HUB, 0o2750),
        Folder(sockets / "csi", 0, 0, 0o700),
        Folder(sockets / "metrics-authority", Uid.AUTHORITY, Uid.METRICS, 0o2750),
        Folder(sockets / "metrics-node", 0, Uid.METRICS, 0o2750),
        Folder(sockets / "metrics-portal", Uid.PORTAL, Uid.METRICS, 0o2750),
    )


@dataclass(frozen=True)
class SharedSecret:
    """One random secret, and the files (one for each part that needs it) in which it stands."""

    name: str
    files: tuple[tuple[Path, int], ...]


def shared_secrets(layout: Layout) -> tuple[SharedSecret, ...]:
    """The secrets between parts of the control plane: 32 random bytes as hexadecimal text, made once."""
    hub, proxy, portal = layout.secrets / "hub", layout.secrets / "proxy", layout.secrets / "portal"
    metrics = layout.secrets / "metrics"
    return (
        SharedSecret("cookie-secret", ((hub / "cookie-secret", Uid.HUB),)),
        SharedSecret("crypt-key", ((hub / "crypt-key", Uid.HUB),)),
        SharedSecret("proxy-token", ((hub / "proxy-token", Uid.HUB), (proxy / "proxy-token", Uid.PROXY))),
        SharedSecret("portal-token", ((hub / "portal-token", Uid.HUB), (portal / "api-token", Uid.PORTAL))),
        SharedSecret("metrics-token", ((hub / "metrics-token", Uid.HUB), (metrics / "hub-token", Uid.METRICS))),
    )


def write_secret(path: Path, text: str, uid: int) -> None:
    """Create ``path`` with mode 0600 for ``uid``. It never shows to others, not even while it is written."""
    staging = path.with_name(f".{path.name}.new")
    staging.unlink(missing_ok=True)
    handle = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        os.fchown(handle, uid, uid)
        file.write(text)
        file.flush()
        os.fsync(handle)
    staging.replace(path)


def prepare_state(settings: Settings) -> None:
    """Make the folders, signing keys and secrets of a deployment. What is there already stays as it is."""
    layout = settings.layout
    layout.state.parent.mkdir(parents=True, exist_ok=True)
    for folder in folders(layout):
        folder.path.mkdir(exist_ok=True)
        os.chown(folder.path, folder.uid, folder.gid)
        folder.path.chmod(folder.mode)
    create_signing_keys(layout)
    for secret in shared_secrets(layout):
        ensure_secret(secret)


def ensure_secret(secret: SharedSecret) -> None:
    """Make a secret unless it is there; a part that lost its copy gets the same one again."""
    present = [path for path, _ in secret.files if path.exists()]
    if len(present) == len(secret.files):
        return
    value = present[0].read_text(encoding="utf-8") if present else secrets.token_hex(32)
    for path, uid in secret.files:
        write_secret(path, value, uid)

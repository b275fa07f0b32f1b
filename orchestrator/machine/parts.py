"""The containers of the control plane, as values: pure functions from settings and images to what the engine runs.

Every part but the node agent runs without root, without a capability, with a read-only root file system, and sees only
its own folders (at the same path inside as outside, so that one settings file serves all).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from orchestrator.config import Settings, Uid
from orchestrator.metrics.measures import PARTS
from orchestrator.process import SETTINGS_INSIDE
from orchestrator.workspaces.spec import LABEL_DEPLOYMENT, LABEL_PART


@dataclass(frozen=True)
class Bind:
    """A host folder or file shown inside a part at the same path."""

    path: Path
    writable: bool = False
    inside: str | None = None

    def words(self) -> str:
        """The engine's notation."""
        return f"{self.path}:{self.inside or self.path}:{'rw' if self.writable else 'ro'}"


@dataclass(frozen=True)
class Part:
    """One container of the control plane."""

    name: str
    image: str
    command: tuple[str, ...]
    uid: int
    network: str
    binds: tuple[Bind, ...]
    memory_mb: int = 512

    def container(self, deployment: str, image_id: str, mark: str) -> dict[str, Any]:
        """Arguments of ``docker.containers.run`` for this part; ``mark`` tells whether a running one is up to date."""
        return {
            "image": image_id,
            "command": list(self.command),
            "name": container_name(deployment, self.name),
            "labels": {LABEL_DEPLOYMENT: deployment, LABEL_PART: self.name, "bulle.mark": mark},
            "user": f"{self.uid}:{self.uid}",
            # A compromised part must not change its own program, gain a capability, or become another user.
            "read_only": True,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "network_mode": self.network,
            "volumes": [bind.words() for bind in self.binds],
            "tmpfs": {"/tmp": "size=64m,mode=1777,nosuid,nodev,noexec"},  # noqa: S108 - a tmpfs of the container's own
            "mem_limit": f"{self.memory_mb}m",
            # Tokens in their memory go neither to swap nor into a core file.
            "memswap_limit": f"{self.memory_mb}m",
            "mem_swappiness": 0,
            "ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
            "pids_limit": 256,
            # Always: what an engine that crashed stopped on its way up is started again too. `bulle down` removes them.
            "restart_policy": {"Name": "always"},
            "log_config": {"type": "json-file", "config": {"max-size": "10m", "max-file": "3"}},
            "environment": {"BULLE_SETTINGS": SETTINGS_INSIDE, "HOME": "/tmp", "TMPDIR": "/tmp"},  # noqa: S108
            "detach": True,
        }


def container_name(deployment: str, part: str) -> str:
    """Name of a part's container: for people; nothing reads an identity out of it."""
    return f"bulle-{deployment}-{part}"


def control_plane(settings: Settings, settings_file: Path, *, demo_idp: bool) -> tuple[Part, ...]:
    """The parts besides the node agent, in the order in which they start."""
    layout = settings.layout
    own = Bind(settings_file, inside=SETTINGS_INSIDE)
    images = Bind(layout.public)
    secret = layout.secrets
    tls = (Bind(settings.tls.certificate_file), Bind(settings.tls.key_file)) if settings.tls else ()
    client_secret = (Bind(settings.oidc.client_secret_file),)
    # The authority has no network: it connects to PostgreSQL by the socket in this folder, and no other part sees it.
    database = tuple(
        Bind(path) for path in (settings.database_socket, settings.database_password_file) if path is not None
    )

    def measured(part: Literal["authority", "portal"]) -> tuple[Bind, ...]:
        """Where a part tells what it measures, if anybody asks."""
        return () if settings.metrics is None else (Bind(layout.metrics_socket(part).parent, writable=True),)

    parts = [
        Part(
            "authority",
            "controller",
            ("/usr/bin/python3", "-m", "orchestrator.cli", "serve", "authority"),
            Uid.AUTHORITY,
            "none",
            (
                own,
                images,
                Bind(layout.authority, writable=True),
                Bind(layout.audit, writable=True),
                Bind(layout.datasets),
                *(Bind(path) for path in settings.governance.terms.files.values()),
                Bind(layout.sockets / "hub", writable=True),
                Bind(layout.sockets / "portal", writable=True),
                Bind(layout.sockets / "node", writable=True),
                *database,
                *measured("authority"),
            ),
        ),
        Part(
            "proxy",
            "controller",
            ("/usr/lib/bulle/proxy",),
            Uid.PROXY,
            "host",
            (own, Bind(secret / "proxy"), *tls),
        ),
        Part(
            "hub",
            "controller",
            ("/usr/lib/bulle/hub",),
            Uid.HUB,
            "host",
            (
                own,
                images,
                Bind(secret / "hub"),
                *client_secret,
                Bind(layout.hub, writable=True),
                Bind(layout.sockets / "hub"),
                Bind(layout.sockets / "door"),
            ),
        ),
        Part(
            "portal",
            "controller",
            ("/usr/lib/bulle/portal",),
            Uid.PORTAL,
            "host",
            (
                own,
                images,
                Bind(secret / "portal"),
                Bind(layout.sockets / "portal"),
                # It sends what people are told: the authority has no network.
                *(Bind(path) for path in settings.notifications.secret_files),
                *measured("portal"),
            ),
        ),
    ]
    if settings.metrics is not None:
        parts.append(
            Part(
                "metrics",
                "controller",
                ("/usr/bin/python3", "-m", "orchestrator.metrics"),
                Uid.METRICS,
                # Loopback, where Prometheus asks, and the hub. It can open three sockets, each of which tells one page.
                "host",
                (
                    own,
                    Bind(secret / "metrics"),
                    Bind(settings.metrics.token_file),
                    *(Bind(layout.metrics_socket(part).parent) for part in PARTS),
                ),
                memory_mb=256,
            )
        )
    if demo_idp:
        parts.insert(
            1,
            Part(
                "demo-idp",
                "demo-idp",
                ("/usr/lib/bulle/demo-idp",),
                Uid.DEMO_IDP,
                "host",
                (own, Bind(secret / "demo-idp")),
            ),
        )
    return tuple(parts)

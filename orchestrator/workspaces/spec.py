"""What a workspace is made of: three frozen container specifications, by a pure function from a grant and
settings.

Everything that matters to isolation is decided here and nowhere else. A caller of the node agent's door hands
in a grant and the bridge's environment; neither can name an image, a command, a path, a user or an option
(``tests/unit/workspaces/test_spec.py`` shows it over arbitrary grants).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

from orchestrator.config import Gid, Settings, Uid
from orchestrator.errors import SettingsError
from orchestrator.terms import Grant

#: where the bridge listens, on the bridge network only
BRIDGE_PORT = 8888
#: labels by which the agent finds its containers again; no identity is ever read out of them
LABEL_DEPLOYMENT = "bulle.deployment"
LABEL_SESSION = "bulle.session"
LABEL_PART = "bulle.part"

PROBE_COMMAND = ("/usr/bin/python3", "-I", "/usr/lib/bulle/probe.py")

#: a content id of this machine, or a name that is pinned by the digest behind it, as clusters have it
_IMAGE_ID = re.compile(r"(?:[a-z0-9][a-z0-9._/:-]*@)?sha256:[0-9a-f]{64}")


def pinned(image: str) -> bool:
    """Whether a name of an image can mean one content only."""
    return _IMAGE_ID.fullmatch(image) is not None


class PartName(StrEnum):
    """The three parts of a workspace."""

    DISPLAY = "display"
    BRIDGE = "bridge"
    SANDBOX = "sandbox"


@dataclass(frozen=True)
class Mount:
    """A folder of the machine shown in a container."""

    source: Path
    target: str
    read_only: bool
    #: ``rslave``: a mount made on the source later shows in the running container
    propagation: Literal["rprivate", "rslave"] = "rprivate"


@dataclass(frozen=True)
class Tmpfs:
    """A folder in RAM, private to a container; nosuid and nodev always."""

    target: str
    size_mb: int
    mode: int
    uid: int | None = None
    executable: bool = False

    def options(self) -> str:
        """The options of the mount, as the kernel takes them."""
        owner = [] if self.uid is None else [f"uid={self.uid}", f"gid={self.uid}"]
        run = "exec" if self.executable else "noexec"
        return ",".join(["rw", "nosuid", "nodev", run, f"size={self.size_mb}m", f"mode={self.mode:o}", *owner])


@dataclass(frozen=True)
class ContainerSpec:
    """One container, whole. What has no field here (capabilities, devices, privileges, ports) no workspace
    ever has."""

    part: PartName
    image: str
    command: tuple[str, ...]
    uid: int
    groups: tuple[int, ...]
    #: name of the one network to join; None: no interface but ``lo``
    network: str | None
    mounts: tuple[Mount, ...]
    tmpfs: tuple[Tmpfs, ...]
    memory_mb: int
    cpus: float
    processes: int
    shm_mb: int
    environment: tuple[tuple[str, str], ...]
    labels: tuple[tuple[str, str], ...]
    #: seccomp profile as JSON text; None: the engine's default one
    seccomp: str | None = field(default=None, repr=False)
    open_files: int = 16384

    def __post_init__(self) -> None:
        # Names and tags can be moved to another image (CVE-2023-48311 was a variant): only content ids are
        # taken.
        if not pinned(self.image):
            raise SettingsError(f"image of {self.part} is {self.image!r}, not a content id sha256:…")
        if self.uid == 0 or 0 in self.groups:
            raise SettingsError(f"{self.part} would run as root")


@dataclass(frozen=True)
class Images:
    """Content ids of the images that workspaces run."""

    gateway: str
    sandbox: str


def images_of(settings: Settings) -> Images:
    """The images that workspaces run: on a cluster the settings', else those that were recorded when they were built.

    Raises:
        SettingsError: none are named or recorded.
    """
    named = settings.kubernetes.images if settings.kubernetes is not None else None
    if named is not None:
        return Images(gateway=named.gateway, sandbox=named.sandbox)
    recorded = settings.layout.images
    try:
        ids = json.loads(recorded.read_text(encoding="utf-8"))
        return Images(gateway=str(ids["gateway"]), sandbox=str(ids["sandbox"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"{recorded} does not name the images of gateway and sandbox: {error!r}", hint="bulle images build"
        ) from error


@dataclass(frozen=True)
class WorkspacePaths:
    """The folders of one session below ``mounts/ws/<session>`` (the table of docs/architecture.md)."""

    root: Path

    @classmethod
    def of(cls, mounts: Path, session: str) -> WorkspacePaths:
        """The folders of ``session`` below the deployment's shared mount folder."""
        if not re.fullmatch(r"[0-9a-f]{32}", session):
            raise ValueError(f"{session!r} is not a session id")
        return cls(mounts / "ws" / session)

    @property
    def data(self) -> Path:
        """Where the view shows."""
        return self.root / "data"

    @property
    def home(self) -> Path:
        """Where the home shows."""
        return self.root / "home"

    @property
    def project(self) -> Path:
        """Where the project folder shows."""
        return self.root / "project"

    @property
    def run(self) -> Path:
        """The session's own small tmpfs: sockets and the parts' read-only files."""
        return self.root / "run"


def bridge_network(deployment: str) -> str:
    """Name of the internal network on which the hub's proxy reaches bridges."""
    return f"bulle-{deployment}-bridges"


def workspace_specs(
    grant: Grant, settings: Settings, images: Images, paths: WorkspacePaths, seccomp: str | None = None
) -> tuple[ContainerSpec, ContainerSpec, ContainerSpec]:
    """Display, bridge and sandbox of one session.

    Of the grant only the session id is used, as a label and (through ``paths``) in folder names: who a
    session belongs to is kept in the agent's memory and is never read back from a container.
    """
    limits = settings.workspace.limits
    run = paths.run

    def labels(part: PartName) -> tuple[tuple[str, str], ...]:
        return (
            (LABEL_DEPLOYMENT, settings.deployment),
            (LABEL_SESSION, grant.session),
            (LABEL_PART, part.value),
        )

    display = ContainerSpec(
        part=PartName.DISPLAY,
        image=images.gateway,
        command=("/usr/lib/bulle/display", *(("--paste-in",) if settings.workspace.paste_in else ())),
        uid=Uid.DISPLAY,
        groups=(Gid.RFB,),
        # Any X client can order Xvnc to connect out (vncconfig -connect): there is no network to do it on.
        network=None,
        mounts=(
            Mount(run / "x11", "/tmp/.X11-unix", read_only=False),  # noqa: S108 - the X protocol's fixed place
            Mount(run / "rfb", "/run/bulle/rfb", read_only=False),
            Mount(run / "display", "/run/bulle/display", read_only=True),
        ),
        tmpfs=(Tmpfs("/tmp", 32, 0o1777),),  # noqa: S108 - a tmpfs of the container's own
        memory_mb=limits.display_memory_mb,
        cpus=limits.cpus,
        processes=64,
        shm_mb=16,
        environment=(("HOME", "/tmp"), ("LANG", "C.UTF-8")),  # noqa: S108
        labels=labels(PartName.DISPLAY),
        seccomp=seccomp,
    )
    bridge = ContainerSpec(
        part=PartName.BRIDGE,
        image=images.gateway,
        command=("/usr/lib/bulle/bridge",),
        uid=Uid.BRIDGE,
        groups=(Gid.RFB,),
        network=bridge_network(settings.deployment),
        mounts=(
            Mount(run / "rfb", "/run/bulle/rfb", read_only=True),
            Mount(run / "bridge", "/run/bulle/bridge", read_only=True),
        ),
        tmpfs=(Tmpfs("/tmp", 32, 0o1777),),  # noqa: S108
        memory_mb=256,
        cpus=limits.cpus,
        processes=64,
        shm_mb=16,
        environment=(("HOME", "/tmp"), ("LANG", "C.UTF-8")),  # noqa: S108
        labels=labels(PartName.BRIDGE),
        seccomp=seccomp,
    )
    sandbox = ContainerSpec(
        part=PartName.SANDBOX,
        image=images.sandbox,
        command=("/usr/lib/bulle/session",),
        uid=Uid.SANDBOX,
        groups=(),
        network=None,
        mounts=(
            Mount(paths.data, "/data", read_only=True, propagation="rslave"),
            Mount(paths.home, "/home/researcher", read_only=False, propagation="rslave"),
            Mount(paths.project, "/project", read_only=False, propagation="rslave"),
            # Read-only, so that the sandbox can connect to the socket and cannot put another one in its
            # place.
            Mount(run / "x11", "/tmp/.X11-unix", read_only=True),  # noqa: S108
            Mount(run / "sandbox", "/run/bulle", read_only=True),
        ),
        tmpfs=(
            Tmpfs("/tmp", limits.tmp_mb, 0o1777, executable=True),  # noqa: S108 - R compiles packages there
            Tmpfs(f"/run/user/{Uid.SANDBOX}", 64, 0o700, uid=Uid.SANDBOX),
        ),
        memory_mb=limits.memory_mb,
        cpus=limits.cpus,
        processes=limits.processes,
        shm_mb=min(256, limits.memory_mb // 4),
        environment=(
            ("HOME", "/home/researcher"),
            ("USER", "researcher"),
            ("LOGNAME", "researcher"),
            ("LANG", "C.UTF-8"),
            ("SHELL", "/bin/bash"),
            ("DISPLAY", ":1"),
            ("XAUTHORITY", "/run/bulle/Xauthority"),
            ("XDG_RUNTIME_DIR", f"/run/user/{Uid.SANDBOX}"),
        ),
        labels=labels(PartName.SANDBOX),
        seccomp=seccomp,
    )
    return display, bridge, sandbox

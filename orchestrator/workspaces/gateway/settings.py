"""What one bridge is told by the node agent: ``bridge.json``, read once at its start.

Plain dataclasses and checks by hand: this is read on the way to the first pixels, and pydantic alone would take
longer to import than the bridge takes to start.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.errors import SettingsError

BRIDGE_JSON = Path("/run/bulle/bridge/bridge.json")
RFB_SOCKET = Path("/run/bulle/rfb/rfb.sock")
PORT = 8888

_NEEDED = (
    "JUPYTERHUB_API_TOKEN",
    "JUPYTERHUB_API_URL",
    "JUPYTERHUB_CLIENT_ID",
    "JUPYTERHUB_OAUTH_ACCESS_SCOPES",
    "JUPYTERHUB_SERVICE_PREFIX",
    "JUPYTERHUB_USER",
)


@dataclass(frozen=True)
class Session:
    """One workspace as its bridge knows it. Times are aware."""

    environment: dict[str, str]
    session: str
    display_name: str
    project: str
    project_title: str
    paste_in: bool
    ends_at: datetime
    idle_minutes: int

    @property
    def prefix(self) -> str:
        """The path below which the bridge answers, with a slash at both ends."""
        return self.environment["JUPYTERHUB_SERVICE_PREFIX"]

    @property
    def user(self) -> str:
        """The one hub user who may come in."""
        return self.environment["JUPYTERHUB_USER"]


def read_session(path: Path = BRIDGE_JSON) -> Session:
    """Read and check ``bridge.json``.

    Raises:
        SettingsError: it is absent, not JSON, or a field is missing or wrong; values are not repeated, because some
            are secret.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"{path} is not JSON") from error
    if not isinstance(raw, dict):
        raise SettingsError(f"{path} must be an object")
    return _session(raw, path)


def _session(raw: dict[str, Any], path: Path) -> Session:
    environment = raw.get("environment")
    if not isinstance(environment, dict):
        raise SettingsError(f"{path}: environment must be an object")
    for name, value in environment.items():
        # Only the hub's own variables: PYTHONPATH, LD_PRELOAD or a proxy's would change what runs.
        if not name.startswith("JUPYTERHUB_") or not isinstance(value, str):
            raise SettingsError(f"{path}: environment may hold texts named JUPYTERHUB_…, not '{name}'")
    missing = [name for name in _NEEDED if not environment.get(name)]
    if missing:
        raise SettingsError(f"{path}: environment lacks {', '.join(missing)}")
    prefix = environment["JUPYTERHUB_SERVICE_PREFIX"]
    if not (prefix.startswith("/") and prefix.endswith("/") and "//" not in prefix):
        raise SettingsError(f"{path}: JUPYTERHUB_SERVICE_PREFIX must begin and end with one '/'")
    kinds: dict[str, type] = {
        "session": str,
        "display_name": str,
        "project": str,
        "project_title": str,
        "paste_in": bool,
        "ends_at": str,
        "idle_minutes": int,
    }
    for name, kind in kinds.items():
        if type(raw.get(name)) is not kind:
            raise SettingsError(f"{path}: {name} is missing or not a {kind.__name__}")
    unknown = raw.keys() - kinds.keys() - {"environment"}
    if unknown:
        raise SettingsError(f"{path}: unknown {', '.join(sorted(unknown))}")
    try:
        ends_at = datetime.fromisoformat(raw["ends_at"])
    except ValueError as error:
        raise SettingsError(f"{path}: ends_at is not a time in ISO 8601") from error
    if ends_at.tzinfo is None or raw["idle_minutes"] < 0:
        raise SettingsError(f"{path}: ends_at needs a time zone, and idle_minutes may not be negative")
    return Session(**{**raw, "environment": dict(environment), "ends_at": ends_at.astimezone(UTC)})


def enter_environment(session: Session) -> None:
    """Put the hub's variables where its library looks for them, before it is imported.

    They come by file and not as the container's environment, which anybody who may ask the engine could read.
    """
    os.environ.update(session.environment)

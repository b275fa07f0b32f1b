"""What every part is as a process: where its settings are, how it ends when it cannot begin, who reads its memory."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.config import Settings, load_settings
from orchestrator.errors import BulleError

#: the settings file of a part, where nobody names another by :data:`VARIABLE`
SETTINGS_INSIDE = "/etc/bulle/bulle.yaml"
VARIABLE = "BULLE_SETTINGS"

_PR_SET_DUMPABLE = 4


def own_settings() -> Settings:
    """The settings with which this part runs. Raises SettingsError."""
    return load_settings(Path(os.environ.get(VARIABLE, SETTINGS_INSIDE)))


def run_part(name: str, run: Callable[[], None]) -> int:
    """The exit status of a part that runs until a signal: 1, with one line of what was wrong, when it cannot begin."""
    try:
        run()
    except BulleError as error:
        print(f"{name}: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


def harden() -> None:
    """No core dump of this process or its children, and no other process of the same user that reads its memory: it
    holds keys, grants, or a token of the cluster."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    os.umask(0o022)


def now() -> datetime:
    """The time by this machine's clock."""
    return datetime.now(UTC)

"""Secrets of the control plane's parts: read from files of their own, never from the environment or
arguments.
"""

from __future__ import annotations

from pathlib import Path

from orchestrator.errors import SettingsError


def read_secret(path: Path) -> str:
    """The secret in a file, without surrounding white space.

    Raises:
        SettingsError: the file is absent, empty, or open to everybody on the machine.
    """
    try:
        text = path.read_text(encoding="utf-8").strip()
        mode = path.stat().st_mode
    except OSError as error:
        raise SettingsError(f"the secret {path} cannot be read: {error.strerror}", hint="run: bulle doctor") from error
    if mode & 0o007:
        raise SettingsError(
            f"the secret {path} can be read by everybody (mode {mode & 0o777:o})", hint=f"chmod 600 {path}"
        )
    if not text:
        raise SettingsError(f"the secret {path} is empty", hint="remove it, so that it is made anew")
    return text

"""What every command needs: the settings, and the rooms opened with them."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.config import FileCustodian, Settings, load_settings
from orchestrator.errors import SettingsError
from orchestrator.process import SETTINGS_INSIDE, VARIABLE

if TYPE_CHECKING:
    from orchestrator.audit import AuditLog
    from orchestrator.governance.service import Governance

#: where the settings file is looked for, where no option and no environment variable names it
PLACES = (Path("bulle.yaml"), Path(SETTINGS_INSIDE), Path("/var/lib/bulle/demo/bulle.yaml"))

_chosen: Path | None = None


def choose_settings(path: Path | None) -> None:
    """Remember the file that ``--settings`` named, for the rest of the process."""
    global _chosen  # noqa: PLW0603 - one command line has one settings file
    _chosen = path


def settings_file() -> Path:
    """The settings file in use: the option's, the environment's, or the first of :data:`PLACES` there is.

    Raises:
        SettingsError: there is none.
    """
    if _chosen is not None:
        return _chosen
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    for place in PLACES:
        if place.exists():
            return place.absolute()
    looked = ", ".join(str(place) for place in PLACES)
    raise SettingsError(f"no settings file (looked for {looked})", hint="name it with --settings")


def open_settings() -> Settings:
    """The validated settings. Raises SettingsError."""
    return load_settings(settings_file())


def _now() -> datetime:
    return datetime.now(UTC)


def open_audit(settings: Settings) -> AuditLog:
    """The audit log, to write. What root writes there is given to the folder's owner, the authority.

    Raises:
        SettingsError: the log's key is missing, or may not be read.
    """
    from orchestrator.audit import AuditLog  # noqa: PLC0415 - a command imports only what it needs
    from orchestrator.governance.keys import AUDIT_KEY, load_private_key  # noqa: PLC0415

    return AuditLog(settings.layout.audit, load_private_key(settings.layout.authority / AUDIT_KEY), clock=_now)


def open_governance(settings: Settings) -> Governance:
    """Governance with its store prepared. A store that root makes is given to the authority.

    Raises:
        SettingsError: the store cannot be opened, or a key is missing.
    """
    from orchestrator.data.catalogue import Catalogue  # noqa: PLC0415
    from orchestrator.governance.service import Governance  # noqa: PLC0415
    from orchestrator.governance.signatures import signing_of  # noqa: PLC0415
    from orchestrator.governance.store import Store  # noqa: PLC0415

    audit = open_audit(settings)
    if settings.database is None:
        _check_store(settings)
    store = Store(settings.database_url, settings.database_password_file)
    store.prepare()
    if settings.database is None:
        _give_store_to_authority(settings)
    catalogue = Catalogue(settings.layout.datasets)
    governance = Governance(
        store,
        audit,
        _now,
        catalogue,
        settings.governance,
        tells=settings.notifications.wanted,
        signing=signing_of(settings),
    )
    governance.embedded_custodian = isinstance(settings.custodian, FileCustodian)
    return governance


def _store_files(settings: Settings) -> list[Path]:
    path = settings.layout.database
    return [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm", "-journal")]


def _check_store(settings: Settings) -> None:
    # Stops: root being led, by a link that somebody in the authority's place put there, to write another file.
    # Shown by tests/unit/governance/test_command_line.py.
    for path in _store_files(settings):
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise SettingsError(f"{path} is not a plain file", hint="find out who put it there")


def _give_store_to_authority(settings: Settings) -> None:
    if os.geteuid() != 0:
        return
    owner = settings.layout.authority.stat()
    for path in _store_files(settings):
        if path.exists():
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
            path.chmod(0o600)

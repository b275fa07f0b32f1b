"""What every command needs: the settings, and the rooms opened with them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.config import Settings, Uid, load_settings
from orchestrator.errors import SettingsError
from orchestrator.terms import TablePermit

if TYPE_CHECKING:
    from orchestrator.audit import AuditLog
    from orchestrator.governance.desk import Catalogue, TableInfo
    from orchestrator.governance.service import Governance

#: where the settings file is looked for, where no option and no environment variable names it
PLACES = (Path("bulle.yaml"), Path("/etc/bulle/bulle.yaml"), Path("/var/lib/bulle/demo/bulle.yaml"))
VARIABLE = "BULLE_SETTINGS"

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


@contextmanager
def as_authority() -> Iterator[None]:
    """Act as the authority's user where the process is root.

    The store and the audit log belong to the authority: a file that root made there would stop the service.
    """
    if os.geteuid() != 0:
        yield
        return
    group = os.getegid()
    os.setegid(Uid.AUTHORITY)
    os.seteuid(Uid.AUTHORITY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)


@contextmanager
def _as_root_again() -> Iterator[None]:
    """Within :func:`as_authority`, be root for a moment, if the process was."""
    acting = os.geteuid()
    if os.getuid() != 0 or acting == 0:
        yield
        return
    os.seteuid(0)
    try:
        yield
    finally:
        os.seteuid(acting)


class _RootCatalogue:
    """The catalogue, read as root: the authority's user need not be able to read the datasets' folder."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def check(self, tables: Sequence[TablePermit]) -> None:
        """See the catalogue."""
        with _as_root_again():
            self._catalogue.check(tables)

    def table(self, dataset: str, table: str) -> TableInfo:
        """See the catalogue."""
        with _as_root_again():
            return self._catalogue.table(dataset, table)


def _now() -> datetime:
    return datetime.now(UTC)


def open_audit(settings: Settings) -> AuditLog:
    """The audit log, to write. As root, record within :func:`as_authority`.

    Raises:
        SettingsError: the log's key is missing, or may not be read.
    """
    from orchestrator.audit import AuditLog  # noqa: PLC0415 - a command imports only what it needs
    from orchestrator.governance.keys import AUDIT_KEY, load_private_key  # noqa: PLC0415

    return AuditLog(
        settings.layout.audit, load_private_key(settings.layout.authority / AUDIT_KEY), clock=_now
    )


def open_governance(settings: Settings) -> Governance:
    """Governance with its store prepared. As root, use it within :func:`as_authority`.

    Raises:
        SettingsError: the store cannot be opened, or a key is missing.
    """
    from orchestrator.data.catalogue import Catalogue as Datasets  # noqa: PLC0415
    from orchestrator.governance.service import Governance  # noqa: PLC0415
    from orchestrator.governance.store import Store  # noqa: PLC0415

    with as_authority():
        audit = open_audit(settings)
        store = Store(settings.database_url)
        store.prepare()
    return Governance(store, audit, _now, _RootCatalogue(Datasets(settings.layout.datasets)))

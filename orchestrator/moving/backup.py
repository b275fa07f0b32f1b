"""The whole state of a deployment in one encrypted archive, while it runs.

The order is the consistency. Governance comes first, in one transaction, and the audit log last: whatever was decided
in the copied store is told in the copied log, because a change is logged before it is made. Datasets and folders come
before the key ring: whatever was copied has its keys, because keys are made first.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from orchestrator.audit import AuditLog
from orchestrator.audit.log import HEAD_NAME, LOG_NAME
from orchestrator.audit.opening import PUBLIC_KEY as AUDIT_PUBLIC
from orchestrator.config import Layout, Settings
from orchestrator.data.manifest import CURRENT, KEYS, MANIFEST, read_current
from orchestrator.errors import BulleError, NotFoundError, SettingsError, UnavailableError
from orchestrator.governance import rows
from orchestrator.governance.identity import OPERATOR
from orchestrator.governance.keys import AUDIT_KEY, GRANT_KEY, GRANT_PUBLIC, load_private_key
from orchestrator.governance.store import SCHEMA, Store
from orchestrator.keys.file import KEY_FILE, read_private
from orchestrator.keys.ring import KEY_SUFFIX
from orchestrator.moving import manifest as manifests
from orchestrator.moving.archive import Part, Writer
from orchestrator.moving.envelope import sealed
from orchestrator.moving.images import still
from orchestrator.moving.manifest import Manifest
from orchestrator.moving.places import Place, place_of
from orchestrator.moving.transfer import TRANSFER_KEY, transfer_file
from orchestrator.terms import Event, Outcome, Value

STORE, SETTINGS = "store.jsonl", "settings.yaml"
SUFFIX = ".tar.age"
IMPORTED = "imported"

_HASH, _ID = "[0-9a-f]{64}", "[0-9a-f]{32}"
_TABLE = "[a-z0-9](?:[a-z0-9_-]{0,38}[a-z0-9])?"
#: every name that stands in a backup; anything else is refused when it is restored
_BACKUP = re.compile(
    rf"{re.escape(STORE)}|{re.escape(SETTINGS)}"
    rf"|{manifests.PUBLIC}/(?:{re.escape(GRANT_PUBLIC)}|{re.escape(AUDIT_PUBLIC)})"
    rf"|datasets/{_TABLE}/(?:{re.escape(CURRENT)}|[1-9][0-9]{{0,8}}/(?:{re.escape(MANIFEST)}|{re.escape(KEYS)}"
    rf"|{_TABLE}\.parquet))"
    rf"|folders/(?:archive/{_ID}/)?{_HASH}/disk\.img|folders/archive/{_ID}/destroyed\.json"
    rf"|keyring/{_HASH}{re.escape(KEY_SUFFIX)}|custodian/{re.escape(TRANSFER_KEY)}"
    rf"|audit/(?:{re.escape(LOG_NAME)}|{re.escape(HEAD_NAME)}|{IMPORTED}/{_ID}/[a-z]+(?:[.][a-z]+)+)"
)
_SECRETS = re.compile(
    rf"authority/(?:{re.escape(GRANT_KEY)}|{re.escape(AUDIT_KEY)})|custodian/{re.escape(KEY_FILE)}"
    rf"|{manifests.PUBLIC}/{re.escape(GRANT_PUBLIC)}"
)


def belongs(name: str) -> bool:
    """Whether a part of this name stands in a backup."""
    return _BACKUP.fullmatch(name) is not None


def is_secret(name: str) -> bool:
    """Whether a part of this name stands in a file of secrets."""
    return _SECRETS.fullmatch(name) is not None


class Report(Value):
    """What was written."""

    id: str
    file: str
    secrets: Path | None
    parts: int
    #: images that were in use: their names, and how they were copied
    in_use: dict[str, str]
    sha256: str


class Shelf(Protocol):
    """A place for many backups, in which each has a name of its own."""

    def place(self, name: str) -> Place:
        """Where a backup of that name goes."""


def place_for(target: Path | Shelf, about: Manifest) -> Place:
    """Where to write: ``target`` itself, or under a name of the moment and the backup in what it is the folder of."""
    name = f"bulle-{about.deployment}-{about.made:%Y%m%dT%H%M%SZ}"
    if not isinstance(target, Path):
        return target.place(f"{name}-{about.id}{SUFFIX}")
    return place_of(target / f"{name}{SUFFIX}" if target.is_dir() else target)


def id_in(name: str) -> str | None:
    """The id of the backup that a name, if it has one, was given to."""
    match = re.fullmatch(rf"bulle-.+-({_ID}){re.escape(SUFFIX)}", name)
    return None if match is None else match[1]


def create(  # noqa: PLR0917 - what it is made of
    settings: Settings,
    settings_file: Path,
    store: Store,
    audit: AuditLog,
    recipients: Sequence[str],
    target: Path | Shelf,
    *,
    secrets: Path | None = None,
    clock: Callable[[], datetime],
) -> Report:
    """Write a backup for ``recipients``, and with ``secrets`` the private keys into another file.

    Raises:
        ConflictError: a file exists.
        SettingsError: the store is of another version.
        UnavailableError, AuditError: nothing was left.
    """
    found = store.schema()
    if found != SCHEMA:
        raise SettingsError(f"the governance store follows schema {found}, not {SCHEMA}", hint="bulle up")
    layout, when = settings.layout, manifests.made(clock())
    key = load_private_key(layout.authority / GRANT_KEY)
    about = Manifest(
        kind="backup", id=manifests.new_id(), deployment=settings.deployment, made=when, store=SCHEMA,
        closed=tuple(sorted(_closed(layout))),
    )  # fmt: skip
    place = place_for(target, about)
    detail = {"backup": about.id, "file": place.name, "for": list(recipients), "second_file": secrets is not None}
    # Before the first byte; a backup of which nothing was told could be anybody's copy of everything.
    audit.record(Event(kind="backup.create", actor=OPERATOR, outcome=Outcome.STARTED, detail=detail))
    try:
        with ExitStack() as undo:
            if secrets is not None:
                with sealed(secrets, recipients) as stream:
                    writer = Writer(stream, when.timestamp())
                    _add_secrets(writer, settings)
                    _finish(writer, about.model_copy(update={"kind": "secrets", "closed": ()}), key)
                undo.callback(secrets.unlink, missing_ok=True)
            with sealed(place, recipients) as stream:
                writer = Writer(stream, when.timestamp())
                _add_all(writer, layout, settings_file, store)
                parts = _finish(writer, about, key)
            undo.pop_all()
    except BulleError as error:
        audit.record(
            Event(
                kind="backup.create",
                actor=OPERATOR,
                outcome=Outcome.FAILED,
                detail={**detail, "message": error.message[:1000]},
            )
        )
        raise
    digest = place.sha256()
    done = Event(kind="backup.create", actor=OPERATOR, outcome=Outcome.DONE, detail={**detail, "sha256": digest})
    audit.record(done)
    in_use: dict[str, str] = {part.name: part.copied for part in parts if part.copied != "whole"}
    return Report(id=about.id, file=str(place), secrets=secrets, parts=len(parts), in_use=in_use, sha256=digest)


def _finish(writer: Writer, about: Manifest, key: Ed25519PrivateKey) -> tuple[Part, ...]:
    parts = tuple(writer.parts)
    writer.close(manifests.MANIFEST, manifests.signed(about.model_copy(update={"parts": parts}), key))
    return parts


def _add_all(writer: Writer, layout: Layout, settings_file: Path, store: Store) -> None:
    _add_store(writer, layout, store)
    writer.add(SETTINGS, _read(settings_file))
    for name in (GRANT_PUBLIC, AUDIT_PUBLIC):
        writer.add(f"{manifests.PUBLIC}/{name}", _read(layout.public / name))
    for dataset in sorted(path for path in _listed(layout.datasets) if path.is_dir() and path.name[0] != "."):
        _add_dataset(writer, dataset)
    for name, path, mount in sorted(_images(layout)):
        _add_image(writer, name, path, mount)
    for plan in sorted((layout.folders / "archive").glob("*/destroyed.json")):
        writer.add(f"folders/archive/{plan.parent.name}/{plan.name}", _read(plan))
    for path in sorted(_listed(layout.keyring)):
        if re.fullmatch(_HASH + re.escape(KEY_SUFFIX), path.name):
            with suppress(NotFoundError):  # destroyed since it was listed
                writer.add(f"keyring/{path.name}", _read(path))
    if transfer_file(layout).exists():  # wrapped, like the key ring
        writer.add(f"custodian/{TRANSFER_KEY}", _read(transfer_file(layout)))
    _add_audit(writer, layout)


def _add_store(writer: Writer, layout: Layout, store: Store) -> None:
    # A nameless file: the archive wants to know the size first, and nothing of it stays if we are killed.
    with tempfile.TemporaryFile(dir=layout.authority) as file:
        with store.read() as session:
            for line in rows.dumped(session):
                file.write(line)
        size = file.tell()
        file.seek(0)
        writer.add_stream(STORE, file, size)


def _add_dataset(writer: Writer, folder: Path) -> None:
    """What is published. All its files are opened before the first is read, so a deletion meanwhile tears nothing."""
    with ExitStack() as opened:
        files: list[tuple[str, int]] = []
        try:
            for version in read_current(folder).published:
                place = folder / str(version)
                found = [place / MANIFEST, place / KEYS, *sorted(place.glob("*.parquet"))]
                for path in found:
                    files.append((f"{version}/{path.name}", _opened(opened, path)))
            current = _read(folder / CURRENT)
        except (NotFoundError, FileNotFoundError):
            return  # never published, or deleted just now with its keys
        for name, descriptor in files:
            writer.add_descriptor(f"datasets/{folder.name}/{name}", descriptor)
        writer.add(f"datasets/{folder.name}/{CURRENT}", current)


def _add_image(writer: Writer, name: str, path: Path, mount: Path) -> None:
    with still(path, mount) as image:
        writer.add_image(name, image.descriptor, image.copied)


def _images(layout: Layout) -> Iterator[tuple[str, Path, Path]]:
    """Name in the archive, place and mount point of every image of a disk."""
    for folder in _listed(layout.folders):
        if re.fullmatch(_HASH, folder.name) and (folder / "disk.img").exists():
            yield f"folders/{folder.name}/disk.img", folder / "disk.img", layout.mounts / "cipher" / folder.name
    for path in (layout.folders / "archive").glob("*/*/disk.img"):
        inside = f"{path.parent.parent.name}/{path.parent.name}"
        yield f"folders/archive/{inside}/disk.img", path, layout.mounts / "cipher" / path.parent.name


def _closed(layout: Layout) -> list[str]:
    return [path.name for path in _listed(layout.folders / "archive") if re.fullmatch(_ID, path.name)]


def _add_audit(writer: Writer, layout: Layout) -> None:
    # Head first, and of the log what the head speaks of: the log only grows.
    head = _read(layout.audit / HEAD_NAME)
    log = AuditLog(layout.audit, load_private_key(layout.authority / AUDIT_KEY), clock=datetime.now)
    with (layout.audit / LOG_NAME).open("rb") as file:
        writer.add_stream(f"audit/{LOG_NAME}", file, log.parse_head(head).size)
    writer.add(f"audit/{HEAD_NAME}", head)
    for path in sorted((layout.audit / IMPORTED).glob("*/*")):
        writer.add(f"audit/{IMPORTED}/{path.parent.name}/{path.name}", _read(path))


def _add_secrets(writer: Writer, settings: Settings) -> None:
    layout = settings.layout
    writer.add(f"{manifests.PUBLIC}/{GRANT_PUBLIC}", _read(layout.public / GRANT_PUBLIC))
    for name in (GRANT_KEY, AUDIT_KEY):
        writer.add(f"authority/{name}", _read(layout.authority / name))
    if settings.custodian.kind == "file" and (layout.custodian / KEY_FILE).exists():
        # Its own reader: on a cluster it is a link of kubelet's, and no other link is followed.
        writer.add(f"custodian/{KEY_FILE}", read_private(layout.custodian / KEY_FILE, "the custodian's key"))


def _listed(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _read(path: Path) -> bytes:
    """A small file. Root reads what others own, so a link in its place is never followed."""
    with ExitStack() as opened:
        descriptor = _opened(opened, path)
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return file.read()


def _opened(stack: ExitStack, path: Path) -> int:
    # Stops: a link that somebody in the authority's place puts there, to have root copy another file into a backup.
    # Shown by tests/unit/moving/test_backup.py.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} is not there") from error
    except OSError as error:
        raise UnavailableError(f"{path}: {error.strerror}") from error
    stack.callback(os.close, descriptor)
    return descriptor

"""A deployment from its backup: everything is checked beside the place where it will lie, and moved there last."""

from __future__ import annotations

import hmac
import os
import re
import secrets as random
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pyrage import x25519
from sqlalchemy import text

from orchestrator.audit import AuditLog, load_public_key
from orchestrator.audit.chain import fingerprint
from orchestrator.audit.opening import PUBLIC_KEY as AUDIT_PUBLIC
from orchestrator.cluster.prepare import GROUP, RESTORING, layout_of, make_folders
from orchestrator.config import Layout, Settings, Uid, load_settings
from orchestrator.errors import ConflictError, InputError, SettingsError, UnavailableError
from orchestrator.governance import rows
from orchestrator.governance.identity import OPERATOR
from orchestrator.governance.keys import AUDIT_KEY, GRANT_KEY, GRANT_PUBLIC, load_private_key
from orchestrator.governance.store import Store
from orchestrator.keys.durable import erase, sync_folder
from orchestrator.keys.file import KEY_FILE, read_private
from orchestrator.moving import manifest as manifests
from orchestrator.moving.archive import unpack
from orchestrator.moving.backup import SETTINGS, STORE, belongs, id_in, is_secret
from orchestrator.moving.envelope import unsealed
from orchestrator.moving.manifest import Kind, Manifest
from orchestrator.moving.places import Place
from orchestrator.moving.transfer import TRANSFER_KEY
from orchestrator.terms import Event, Outcome, Value

#: name of the settings file in the restored state folder
RESTORED_SETTINGS = "bulle.yaml"
#: beginnings of the kinds of records that a deployment writes of itself, before anybody does anything
_OF_ITSELF = ("audit.open", "audit.recover", "node.", "probe.", "pod.", "door.", "mount.")
#: connections of others of ours to the same database
_OTHERS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'bulle'"
    " AND pid <> pg_backend_pid()"
)


class Report(Value):
    """What was restored."""

    id: str
    deployment: str
    made: datetime
    signer: str
    records: int
    rows: int
    settings: Path
    secrets: bool
    #: images that were written to while they were copied: to be checked before use
    changed: tuple[str, ...]
    #: files outside the state folder that the settings name, which no backup holds
    elsewhere: tuple[Path, ...]


def restore(
    file: Path | Place,
    identity: x25519.Identity,
    state: Path,
    *,
    signer: str | None = None,
    secrets: Path | None = None,
    settings_file: Path | None = None,
    clock: Callable[[], datetime],
) -> Report:
    """Put a backup into the empty or absent folder ``state``.

    Args:
        file: the backup.
        identity: of one for whom it was made.
        state: absolute path.
        signer: fingerprint of the deployment that must have made it; None: whoever did.
        secrets: the file with the private keys; without it nothing can be signed, and ``bulle up`` says so.
        settings_file: settings of the new place, of which the database is used; None: those of the backup.
        clock: gives the moment.

    Raises:
        ConflictError: there is something already, in the folder or in the database.
        InputError, RefusedError, AuditError: the backup was changed or cut, or is not what it should be.
        UnavailableError: the folder or database cannot be written. In all cases nothing is left behind.
    """
    state = Path(os.path.abspath(state))  # noqa: PTH100 - links stay what they are
    _check_empty(state)
    with _beside(state) as staging:
        about, signed_by, records = _unpacked(file, identity, staging, signer, secrets, clock)
        settings = _settings(staging, state, settings_file)
        count = _place(staging, state, settings)
    return _report(about, signed_by, records, count, settings_file or state / RESTORED_SETTINGS, secrets, settings)


def restore_volumes(
    file: Path | Place,
    identity: x25519.Identity,
    volumes: Path,
    settings_file: Path,
    *,
    secrets: Path,
    signer: str | None = None,
    clock: Callable[[], datetime],
    group: int = GROUP,
) -> Report | None:
    """Put a backup into the empty volumes of a control plane on a cluster, before it starts.

    None, and nothing done, where a deployment is there, so that a pod may ask at each of its starts. A run that is
    killed leaves a mark, with which nothing starts and over which the next run begins anew. The custodian's key of a
    file of secrets is left out: on a cluster it is a Secret.

    Raises:
        As :func:`restore`.
    """
    settings = load_settings(settings_file)
    layout = layout_of(volumes)
    make_folders(volumes, group)
    if not (layout.authority / RESTORING).exists():
        if (layout.authority / GRANT_KEY).exists():
            return None
        if taken := [place for place in _places(layout) if any(place.iterdir())]:
            raise ConflictError(f"{taken[0]} is not empty", hint="give it empty volumes")
    return _into(layout, file, identity, settings, settings_file, secrets, signer, clock)


def restore_here(
    file: Path | Place,
    identity: x25519.Identity,
    settings_file: Path,
    *,
    secrets: Path,
    signer: str | None = None,
    clock: Callable[[], datetime],
) -> Report:
    """Put a backup into a deployment on a cluster that was made just now and did nothing, where its tools run.

    What it has made for itself (signing keys, the first records of its log, an empty store) gives way. A run that is
    killed leaves a mark, as in :func:`restore_volumes`.

    Raises:
        ConflictError: something was done in it already, or its control pod still runs.
        As :func:`restore`; of a restore that fails nothing stays, and the new deployment is as it was, or begins anew.
    """
    settings = load_settings(settings_file)
    layout = settings.layout
    if missing := [place for place in _places(layout) if not place.is_dir()]:
        raise SettingsError(f"{missing[0]} is not there", hint="start the control pod once: it prepares the volumes")
    _check_stopped(settings)
    if not (layout.authority / RESTORING).exists():
        _check_untouched(settings)
    return _into(layout, file, identity, settings, settings_file, secrets, signer, clock)


def _into(  # noqa: PLR0917 - what it is made of
    layout: Layout,
    file: Path | Place,
    identity: x25519.Identity,
    settings: Settings,
    settings_file: Path,
    secrets: Path,
    signer: str | None,
    clock: Callable[[], datetime],
) -> Report:
    mark, places = layout.authority / RESTORING, _places(layout)
    if mark.exists():
        _clear(places, but=mark)
    mark.touch(mode=0o600)
    sync_folder(mark.parent)
    moving = False

    def move() -> None:
        nonlocal moving
        moving = True
        _spread(staging, places)

    try:
        staging = layout.authority / f"{RESTORING}-here"
        staging.mkdir(mode=0o700)
        for place in places:  # beside its place, on the same volume: images of homes are renamed, not copied
            beside = place / f"{RESTORING}-{place.name}"
            beside.mkdir(mode=0o700)
            (staging / place.name).symlink_to(beside)
        about, signed_by, records = _unpacked(file, identity, staging, signer, secrets, clock)
        _leave_custody(staging, settings)
        count = _place(staging, staging, settings, move)
    except BaseException:
        _clear(places, but=mark, every=moving)
        mark.unlink()
        raise
    mark.unlink()
    sync_folder(mark.parent)
    return _report(about, signed_by, records, count, settings_file, secrets, settings)


def _places(layout: Layout) -> tuple[Path, ...]:
    return (layout.authority, layout.audit, layout.datasets, layout.folders, layout.keyring, layout.public)


def _leave_custody(staging: Path, settings: Settings) -> None:
    """Leave out the custodian's key, which is a Secret on a cluster, if it is that of this deployment."""
    key, own = staging / "custodian" / KEY_FILE, settings.layout.custodian / KEY_FILE
    if key.exists():
        # Stops: a deployment that comes up and opens nothing, which is seen when somebody wants to work.
        same = not own.exists() or hmac.compare_digest(key.read_bytes(), read_private(own, "the custodian's key"))
        erase(key)
        if not same:
            raise ConflictError(
                "the custodian's key here is not the one of the backup", hint="put that of the backup into its Secret"
            )
    if (staging / "custodian" / TRANSFER_KEY).exists():
        shutil.copyfile(staging / "custodian" / TRANSFER_KEY, staging / "keyring" / TRANSFER_KEY)


def _check_stopped(settings: Settings) -> None:
    """Refuse while somebody else has the store open, as the authority has from its start to its end."""
    # Stops: a restore under a running authority, whose next change would be lost. Shown by
    # tests/unit/cluster/test_restore_here.py.
    hint = "stop the control pod, then restore"
    if settings.database:
        store = Store(settings.database_url, settings.database_password_file)
        try:
            with store.read() as session:
                others = session.scalar(text(_OTHERS))
        finally:
            store.close()
        if others:
            raise ConflictError("the governance store is in use", hint=hint)
        return
    if not settings.layout.database.exists():
        return
    connection = sqlite3.connect(settings.layout.database, timeout=0)
    try:
        # In this mode SQLite lets nobody else have the file open, not even to do nothing with it.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        raise ConflictError("the governance store is in use", hint=hint) from error
    finally:
        connection.close()


def _check_untouched(settings: Settings) -> None:
    """Refuse a deployment in which anything was done that a restore would take away."""
    layout, hint = settings.layout, "restore into a new release, with empty volumes"
    archive = layout.folders / "archive"
    taken = [
        *(path for path in layout.datasets.iterdir() if not path.name.startswith(".")),
        *(path for path in layout.folders.iterdir() if re.fullmatch("[0-9a-f]{64}", path.name)),
        *(archive.iterdir() if archive.is_dir() else ()),
        *(path for path in layout.keyring.iterdir() if not path.name.startswith(".")),
    ]
    if taken:
        raise ConflictError(f"there is something in this deployment: {taken[0]}", hint=hint)
    if (layout.public / AUDIT_PUBLIC).exists():
        log = AuditLog(layout.audit, public_key=load_public_key(layout.public / AUDIT_PUBLIC), clock=datetime.now)
        log.verify().raise_if_bad()
        for record in log.read():
            if not record.event.kind.startswith(_OF_ITSELF):
                raise ConflictError(f"something was done in this deployment: {record.event.kind}", hint=hint)
    if settings.database or layout.database.exists():
        store = Store(settings.database_url, settings.database_password_file)
        try:
            store.prepare()
            with store.read() as session:
                rows.check_empty(session)
        finally:
            store.close()


def _spread(staging: Path, places: Sequence[Path]) -> None:
    """Move what was unpacked beside each place into it, and make that durable."""
    for place in places[:2]:  # what a new deployment made for itself: its keys, its store, its log
        for path in place.iterdir():
            if not path.name.startswith(RESTORING):
                path.unlink()
    for place in places:
        beside = place / f"{RESTORING}-{place.name}"
        for path in [beside, *(each for each in beside.rglob("*") if each.is_dir())]:
            sync_folder(path)
        for path in beside.iterdir():
            path.rename(place / path.name)
        beside.rmdir()
        sync_folder(place)
    shutil.rmtree(staging)


def _clear(places: Sequence[Path], but: Path, *, every: bool = True) -> None:
    """Remove what is in the places; with ``every`` false, only what a restore has put beside."""
    for path in (each for place in places for each in place.iterdir() if each != but):
        if not every and not path.name.startswith(RESTORING):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _unpacked(  # noqa: PLR0917 - what it is made of
    file: Path | Place,
    identity: x25519.Identity,
    staging: Path,
    signer: str | None,
    secrets: Path | None,
    clock: Callable[[], datetime],
) -> tuple[Manifest, str, int]:
    """Unpack and check everything; the manifest, who signed it, and the number of the audit log's records."""
    about = _opened(file, identity, staging, "backup", belongs, signer)
    # Stops: an older backup, whole and signed, that somebody put in the place of a newer one. Shown by
    # tests/unit/moving/test_s3.py.
    if id_in(file.name) not in (None, about.id):
        raise InputError(f"{file.name} is another backup than its name says: {about.id}, made {about.made:%Y-%m-%d}")
    layout = Layout(staging)
    signed_by = fingerprint(load_public_key(layout.public / GRANT_PUBLIC))
    log = AuditLog(layout.audit, public_key=load_public_key(layout.public / AUDIT_PUBLIC), clock=clock)
    found = log.verify()
    found.raise_if_bad()
    if secrets is not None:
        _take_secrets(secrets, identity, staging, about, signed_by)
        told = Event(
            kind="backup.restore", actor=OPERATOR, outcome=Outcome.DONE,
            detail={"backup": about.id, "made": about.made.isoformat(), "head": found.records},
        )  # fmt: skip
        AuditLog(layout.audit, load_private_key(layout.authority / AUDIT_KEY), clock=clock).record(told)
    for project_id in about.closed:
        (layout.folders / "archive" / project_id).mkdir(mode=0o700, parents=True, exist_ok=True)
    return about, signed_by, found.records


def _report(  # noqa: PLR0917 - what it tells
    about: Manifest,
    signed_by: str,
    records: int,
    count: int,
    settings_file: Path,
    secrets: Path | None,
    settings: Settings,
) -> Report:
    return Report(
        id=about.id,
        deployment=about.deployment,
        made=about.made,
        signer=signed_by,
        records=records,
        rows=count,
        settings=settings_file,
        secrets=secrets is not None,
        changed=tuple(part.name for part in about.parts if part.copied == "changed"),
        elsewhere=_elsewhere(settings),
    )


def _check_empty(state: Path) -> None:
    if state.is_symlink() or (state.exists() and (not state.is_dir() or any(state.iterdir()))):
        raise ConflictError(f"{state} is not an empty folder", hint="restore beside it, and move it when it is right")


@contextmanager
def _beside(state: Path) -> Iterator[Path]:
    """A folder on the same disk, which goes with all that is in it unless it was moved away."""
    staging = state.with_name(f".{state.name}.restoring-{random.token_hex(8)}")
    try:
        state.parent.mkdir(parents=True, exist_ok=True)
        staging.mkdir(mode=0o700)
    except OSError as error:
        raise UnavailableError(f"{staging} cannot be made: {error.strerror}") from error
    try:
        yield staging
    finally:
        if staging.exists():
            shutil.rmtree(staging)


def _opened(  # noqa: PLR0917 - what it is made of
    file: Path | Place,
    identity: x25519.Identity,
    into: Path,
    kind: Kind,
    allowed: Callable[[str], bool],
    signer: str | None,
) -> Manifest:
    with unsealed(file, identity) as stream:
        parts, ending = unpack(stream, into, allowed, manifests.MANIFEST)
    return manifests.checked(ending, kind, into, parts, signer)


def _take_secrets(file: Path, identity: x25519.Identity, staging: Path, backup: Manifest, signer: str) -> None:
    place = staging / ".secrets"
    place.mkdir(mode=0o700)
    about = _opened(file, identity, place, "secrets", is_secret, signer)
    # Stops: keys of another moment or deployment, with which the log would go on under another hand.
    if about.id != backup.id:
        raise InputError(f"{file.name} belongs to backup {about.id}, not to {backup.id}")
    for name, public in ((GRANT_KEY, GRANT_PUBLIC), (AUDIT_KEY, AUDIT_PUBLIC)):
        key: Ed25519PrivateKey = load_private_key(place / "authority" / name)
        if fingerprint(key.public_key()) != fingerprint(load_public_key(staging / manifests.PUBLIC / public)):
            raise InputError(f"{name} does not belong to {public}")
    shutil.rmtree(place / manifests.PUBLIC)
    for path in place.glob("*/*"):
        target = staging / path.relative_to(place)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        path.rename(target)
    shutil.rmtree(place)


def _settings(staging: Path, state: Path, given: Path | None) -> Settings:
    """The settings that hold from now on: those given, or the backup's with the new state folder."""
    if given is not None:
        settings = load_settings(given)
        if settings.state != state:
            raise SettingsError(f"{given}: state is {settings.state}, and what is restored goes to {state}")
        (staging / SETTINGS).unlink()
        return settings
    text = (staging / SETTINGS).read_text(encoding="utf-8")
    written, count = re.subn(r"(?m)^state\s*:.*$", lambda _: f"state: {state}", text)
    if count != 1:
        raise SettingsError("the backup's settings do not name the state folder in a line of its own",
                            hint="name settings for the new place with --with-settings")  # fmt: skip
    (staging / SETTINGS).unlink()
    path = staging / RESTORED_SETTINGS
    path.write_text(written, encoding="utf-8")
    return load_settings(path)


def _place(staging: Path, state: Path, settings: Settings, move: Callable[[], None] | None = None) -> int:
    """Fill the store, then move everything to its place (as ``move`` does); the number of rows."""
    layout, dump = Layout(staging), staging / STORE
    layout.authority.mkdir(mode=0o700, exist_ok=True)
    url = settings.database_url if settings.database else f"sqlite:///{layout.database}"

    def put() -> None:
        dump.unlink()
        _own(staging)
        if move is None:
            _move(staging, state)
        else:
            move()

    store = Store(url, settings.database_password_file)
    try:
        store.prepare()
        with store.write() as session:
            with dump.open("rb") as lines:
                count = rows.load(session, lines)
            if settings.database:
                # Elsewhere: what is there is made certain only when the folder is in its place.
                put()
            try:
                session.commit()
            except BaseException:
                if settings.database and state != staging:
                    state.rename(staging)
                raise
    finally:
        store.close()
    if not settings.database:
        put()
    return count


def _own(staging: Path) -> None:
    """Owners and modes of what ``bulle up`` does not set itself."""
    layout = Layout(staging)
    for path in layout.public.glob("*.pem"):
        path.chmod(0o644)
    layout.public.chmod(0o755)
    for path in [layout.datasets, *layout.datasets.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
        elif path.suffix == ".json" and path.exists():
            path.chmod(0o644 if path.name != "keys.json" else 0o600)
    for path in (layout.folders / "archive").glob("*/*/disk.img"):
        path.chmod(0o400)
    if os.geteuid() == 0:
        for folder in (layout.authority, layout.audit):
            for path in [folder, *folder.rglob("*")]:
                os.chown(path, Uid.AUTHORITY, Uid.AUTHORITY, follow_symlinks=False)


def _move(staging: Path, state: Path) -> None:
    for path in [staging, *(each for each in staging.rglob("*") if each.is_dir())]:
        sync_folder(path)
    try:
        staging.rename(state)  # over an empty folder, or where there is none
        sync_folder(state.parent)
    except OSError as error:
        raise ConflictError(f"{state} is not an empty folder: {error.strerror}") from error


def _elsewhere(settings: Settings) -> tuple[Path, ...]:
    named = [
        settings.oidc.client_secret_file,
        settings.database_password_file,
        settings.database_ca_file,
        *((settings.tls.certificate_file, settings.tls.key_file) if settings.tls else ()),
        settings.custodian.pin_file if settings.custodian.kind == "pkcs11" else None,
        *settings.governance.terms.files.values(),
        *settings.notifications.secret_files,
        *((settings.backup.credentials_file, settings.backup.ca_file) if settings.backup else ()),
    ]
    return tuple(path for path in named if path is not None and not path.is_relative_to(settings.state))

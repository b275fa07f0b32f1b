"""The authority's two signing keys: for grants and for the audit log."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from orchestrator.audit import AuditLog, load_public_key
from orchestrator.audit.opening import PUBLIC_KEY as AUDIT_PUBLIC
from orchestrator.config import Layout, Uid
from orchestrator.errors import SettingsError

GRANT_KEY = "grant.key.pem"
AUDIT_KEY = "audit.key.pem"
GRANT_PUBLIC = "grant.pub.pem"

__all__ = ["create_signing_keys", "load_private_key", "load_public_key"]


def _utc_now() -> datetime:
    return datetime.now(UTC)


def create_signing_keys(layout: Layout, clock: Callable[[], datetime] = _utc_now) -> bool:
    """Make the keys that are missing, and begin the audit log together with its key. Safe to repeat.

    Private halves are PEM files of mode 0600 in ``layout.authority``, public halves of mode 0644 in
    ``layout.public``. Run as root, what the authority must write is given to its user id. Of several that run at once
    one makes them. Returns whether anything was made.

    Raises:
        SettingsError: a file cannot be read or written.
        AuditError: the audit log cannot be begun.
    """
    try:
        for folder, mode in ((layout.authority, 0o700), (layout.audit, 0o700)):
            if not folder.exists():
                folder.mkdir(mode=mode, parents=True, exist_ok=True)
                _give_to_authority(folder)
        layout.public.mkdir(mode=0o755, parents=True, exist_ok=True)
        with _one_at_a_time(layout.authority):
            return _create_signing_keys(layout, clock)
    except OSError as error:
        raise SettingsError(f"cannot make the signing keys: {error}") from error


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _create_signing_keys(layout: Layout, clock: Callable[[], datetime]) -> bool:
    made = False
    if not (layout.authority / GRANT_KEY).exists():
        _fresh(layout.authority / GRANT_KEY).replace(layout.authority / GRANT_KEY)
        made = True
    if not (layout.authority / AUDIT_KEY).exists():
        # The key takes its final name only when its log has begun: a missing log is then always
        # tampering.
        fresh = _fresh(layout.authority / AUDIT_KEY)
        log = AuditLog(layout.audit, load_private_key(fresh), clock=clock)
        if not (layout.audit / "head.json").exists():
            log.create()
        else:
            log.verify().raise_if_bad()
        for path in layout.audit.iterdir():
            _give_to_authority(path)
        fresh.replace(layout.authority / AUDIT_KEY)
        made = True
    for private, public in ((GRANT_KEY, GRANT_PUBLIC), (AUDIT_KEY, AUDIT_PUBLIC)):
        made |= _publish(load_private_key(layout.authority / private), layout.public / public)
    return made


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """The Ed25519 private key in a PEM file.

    Raises:
        SettingsError: there is none, it is no plain file, others can read it, or it is somebody else's.
    """
    try:
        key = load_pem_private_key(_read_own(path), password=None)
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}", hint="bulle up makes the keys") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SettingsError(f"{path} does not hold a private key in PEM") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingsError(f"{path} holds a {type(key).__name__}, not an Ed25519 key")
    return key


def _read_own(path: Path) -> bytes:
    # Stops: a signing key that other users of the machine can copy, or that one of them put there, by a link or as a
    # file of their own. Looked at on the open file, so it cannot be swapped in between. Shown by test_keys.py.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise SettingsError(f"{path} is not a plain file", hint="find out who put it there")
        if found.st_mode & 0o077:
            raise SettingsError(f"{path} can be read by others", hint=f"chmod 600 {path}")
        if found.st_uid not in (0, os.geteuid(), Uid.AUTHORITY):
            raise SettingsError(f"{path} belongs to uid {found.st_uid}", hint="find out who put it there")
        return file.read()


def _fresh(path: Path) -> Path:
    """A new key beside ``path``, or the one that a killed run left there."""
    fresh = path.with_name(path.name + ".new")
    try:
        load_private_key(fresh)
    except SettingsError:
        fresh.unlink(missing_ok=True)
        pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        _write(fresh, pem, 0o600)
    _give_to_authority(fresh)
    return fresh


def _publish(key: Ed25519PrivateKey, path: Path) -> bool:
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    if path.exists() and path.read_bytes() == pem:
        return False
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    _write(fresh, pem, 0o644)
    fresh.replace(path)
    return True


def _write(path: Path, data: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as stream:
        os.fchmod(fd, mode)
        stream.write(data)
        stream.flush()
        os.fsync(fd)


def _give_to_authority(path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(path, Uid.AUTHORITY, Uid.AUTHORITY, follow_symlinks=False)

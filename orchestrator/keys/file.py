"""The embedded custodian: a key-encryption key in a file that root alone may read. For trials."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from orchestrator.errors import CustodyError
from orchestrator.keys.durable import publish_new

KEY_FILE = "key-encryption-key"
"""Name of the key file below the custodian's folder."""

KEY_BYTES = 32
NONCE_BYTES = 12


def read_private(path: Path, what: str) -> bytes:
    """Read a file that only its owner, who is root or the caller, may read.

    Control: a secret file that others can read is refused, so that a careless ``chmod`` or copy does not go
    unnoticed. The check is on the opened file, not on the path, so it cannot be swapped in between.
    Test: ``tests/unit/keys/test_file.py::test_a_key_that_others_can_read_is_refused``.

    In a folder that kubelet made of a Secret the file is a link of kubelet's, and the pod's group may read it: who is
    in that group is who has the Secret mounted. Nobody makes such a folder by accident.

    Raises:
        CustodyError: absent, not a plain file, owned by someone else, or open to group or others.
    """
    of_secret = _in_secret(path)
    try:
        descriptor = os.open(of_secret or path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise CustodyError(f"{what} {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise CustodyError(f"{what} {path} is not a plain file")
        if status.st_mode & (0o077 if of_secret is None else 0o037):
            raise CustodyError(
                f"{what} {path} can be read by others (mode {stat.S_IMODE(status.st_mode):04o})",
                hint=f"chmod 600 {path}, and consider the key known to whoever could read it",
            )
        if status.st_uid not in (0, os.geteuid()):
            raise CustodyError(f"{what} {path} belongs to uid {status.st_uid}", hint=f"chown root {path}")
        return stream.read()


def _in_secret(path: Path) -> Path | None:
    """Where the file is, if ``path`` is a link in a Secret's folder: to ``..data/NAME``, and that to ``..MOMENT``."""
    data = path.parent / "..data"
    try:
        if str(path.readlink()) != f"..data/{path.name}":
            return None
        moment = str(data.readlink())
    except OSError:
        return None
    return path.parent / moment / path.name if re.fullmatch(r"\.\.[A-Za-z0-9_.-]+", moment) else None


class FileCustodian:
    """AES-256-GCM (NIST SP 800-38D) under a key in a file; the key id is the associated data."""

    embedded = True

    def __init__(self, path: Path) -> None:
        key = read_private(path, "the custodian's key")
        if len(key) != KEY_BYTES:
            raise CustodyError(f"the custodian's key {path} has {len(key)} bytes instead of {KEY_BYTES}")
        self.description = f"embedded key file {path} (for trials: whoever has the disk has everything)"
        self._cipher = AESGCM(key)

    @staticmethod
    def create(path: Path) -> None:
        """Make a new random key; of two who try at once, one makes it and both find it.

        Raises:
            CustodyError: the folder cannot be written.
        """
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            publish_new(path, os.urandom(KEY_BYTES))
        except FileExistsError:
            return
        except OSError as error:
            raise CustodyError(f"the custodian's key {path} cannot be made: {error.strerror}") from error

    def wrap(self, key: bytes, key_id: str) -> bytes:
        """See :class:`orchestrator.keys.custodian.KeyCustodian`."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, key, key_id.encode())

    def unwrap(self, wrapped: bytes, key_id: str) -> bytes:
        """See :class:`orchestrator.keys.custodian.KeyCustodian`."""
        try:
            return self._cipher.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], key_id.encode())
        except (InvalidTag, ValueError) as error:
            raise CustodyError(
                f"the wrapped key of '{key_id}' was altered, or belongs to another key or custodian"
            ) from error

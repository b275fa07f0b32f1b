"""Wrapped data keys, one file a key.

The name of the file is a hash of the key id, because key ids name people and projects, which the host of the
disk need not know. Destroying a key makes everything under it unreadable, whatever backups of the ciphertext
exist.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

from orchestrator.errors import ConflictError, CustodyError, NotFoundError
from orchestrator.keys.custodian import KeyCustodian
from orchestrator.keys.durable import UNFINISHED, erase, publish_new

KEY_BYTES = 32
#: a key's file is the SHA-256 of its key id, and this
KEY_SUFFIX = ".key"
_STALE_SECONDS = 3600


class KeyRing:
    """Data keys of 256 bits by key id, wrapped by a custodian. Safe with several processes on one folder."""

    def __init__(self, folder: Path, custodian: KeyCustodian) -> None:
        self._folder = folder
        self._custodian = custodian
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._sweep()
        except OSError as error:
            raise CustodyError(f"the key ring {folder} cannot be used: {error.strerror}") from error

    @property
    def custodian(self) -> KeyCustodian:
        """The custodian behind this ring."""
        return self._custodian

    def create(self, key_id: str) -> bytes:
        """Make, wrap and keep a new random key.

        Raises:
            ConflictError: there is one already; it is untouched.
            CustodyError: it could not be wrapped or kept; nothing was left.
        """
        key = os.urandom(KEY_BYTES)
        self._keep(key_id, key)
        return key

    def put(self, key_id: str, key: bytes) -> None:
        """Wrap and keep a key that was made elsewhere.

        Raises:
            ConflictError: there is one already; it is untouched.
            CustodyError: it is no key, or could not be wrapped or kept; nothing was left.
        """
        if len(key) != KEY_BYTES:
            raise CustodyError(f"the key '{key_id}' has {len(key)} bytes instead of {KEY_BYTES}")
        self._keep(key_id, key)

    def get(self, key_id: str) -> bytes:
        """Unwrap a key.

        Raises:
            NotFoundError: there is none.
            CustodyError: the custodian does not unwrap it.
        """
        try:
            wrapped = self._path(key_id).read_bytes()
        except FileNotFoundError as error:
            raise NotFoundError(f"there is no key '{key_id}'") from error
        except OSError as error:
            raise CustodyError(f"the key '{key_id}' cannot be read: {error.strerror}") from error
        key = self._custodian.unwrap(wrapped, key_id)
        if len(key) != KEY_BYTES:
            raise CustodyError(f"the key '{key_id}' has {len(key)} bytes instead of {KEY_BYTES}")
        return key

    def get_or_create(self, key_id: str) -> bytes:
        """The key, made on first use; all who race for it get the same one."""
        try:
            return self.get(key_id)
        except NotFoundError:
            try:
                return self.create(key_id)
            except ConflictError:
                return self.get(key_id)

    def exists(self, key_id: str) -> bool:
        """Whether there is a key with this id."""
        return self._path(key_id).exists()

    def destroy(self, key_id: str) -> None:
        """Overwrite a wrapped key and remove it; a key that is not there is no error.

        For good only where no backup of the key ring holds it still: the custodian, on a token or in a file, opens
        a wrapped key from wherever it comes. docs/data.md says what to do with backups.

        Raises:
            CustodyError: it could not be removed.
        """
        try:
            erase(self._path(key_id))
        except OSError as error:
            raise CustodyError(f"the key '{key_id}' cannot be destroyed: {error.strerror}") from error

    def _keep(self, key_id: str, key: bytes) -> None:
        wrapped = self._custodian.wrap(key, key_id)
        try:
            publish_new(self._path(key_id), wrapped)
        except FileExistsError as error:
            raise ConflictError(f"the key '{key_id}' exists already") from error
        except OSError as error:
            raise CustodyError(f"the key '{key_id}' cannot be kept: {error.strerror}") from error

    def _path(self, key_id: str) -> Path:
        return self._folder / f"{hashlib.sha256(key_id.encode()).hexdigest()}{KEY_SUFFIX}"

    def _sweep(self) -> None:
        """Remove what a process that was killed in the middle of a write left behind."""
        for path in self._folder.glob(f"{UNFINISHED}*"):
            try:
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink()
            except FileNotFoundError:
                continue

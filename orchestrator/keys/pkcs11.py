"""A custodian whose key-encryption key is on a PKCS#11 token (HSM, SoftHSM) and cannot leave it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

from orchestrator.errors import CustodyError
from orchestrator.keys.file import read_private

KEY_BITS = 256
NONCE_BYTES = 12
TAG_BITS = 128


@contextmanager
def _token_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except (pkcs11.PKCS11Error, RuntimeError) as error:
        reason = str(error) or type(error).__name__
        raise CustodyError(f"the PKCS#11 token did not {doing}: {reason}") from error


class Pkcs11Custodian:
    """AES-256-GCM done inside the token; the key id is the associated data.

    One session, used by one thread at a time. A process that forks opens a custodian of its own.
    """

    embedded = False

    def __init__(self, *, module: Path, token_label: str, key_label: str, pin_file: Path) -> None:
        self.description = f"PKCS#11 token '{token_label}', key '{key_label}'"
        self._lock = threading.Lock()
        session = _open_session(module, token_label, pin_file)
        with _token_errors(f"find the key '{key_label}'"):
            keys = list(
                session.get_objects(
                    {
                        Attribute.CLASS: ObjectClass.SECRET_KEY,
                        Attribute.KEY_TYPE: KeyType.AES,
                        Attribute.LABEL: key_label,
                    }
                )
            )
        if len(keys) != 1:
            raise CustodyError(
                f"the token '{token_label}' has {len(keys)} AES keys labelled '{key_label}' instead of 1",
                hint="make one (AES-256, sensitive, not extractable) with the token's own tool",
            )
        self._key = keys[0]
        # Control: a key that can be read out of the token is refused, so that root on this host cannot take
        # it along. Test: tests/unit/keys/test_pkcs11.py::test_a_key_that_can_leave_the_token_is_refused
        with _token_errors("tell whether the key can leave it"):
            leaves = self._key[Attribute.EXTRACTABLE] or not self._key[Attribute.SENSITIVE]
        if leaves:
            raise CustodyError(
                f"the key '{key_label}' can be read out of the token '{token_label}'",
                hint="make a key that is sensitive and not extractable",
            )

    @staticmethod
    def create(*, module: Path, token_label: str, key_label: str, pin_file: Path) -> None:
        """Make the key-encryption key on an initialised token.

        Raises:
            CustodyError: a key with this label exists, or the token refuses.
        """
        session = _open_session(module, token_label, pin_file)
        try:
            with _token_errors(f"make the key '{key_label}'"):
                if list(session.get_objects({Attribute.LABEL: key_label})):
                    raise CustodyError(f"the token '{token_label}' has a key '{key_label}' already")
                session.generate_key(
                    KeyType.AES,
                    KEY_BITS,
                    label=key_label,
                    store=True,
                    template={
                        Attribute.SENSITIVE: True,
                        Attribute.EXTRACTABLE: False,
                        Attribute.PRIVATE: True,
                        Attribute.ENCRYPT: True,
                        Attribute.DECRYPT: True,
                        Attribute.WRAP: False,
                        Attribute.UNWRAP: False,
                    },
                )
        finally:
            session.close()

    def wrap(self, key: bytes, key_id: str) -> bytes:
        """See :class:`orchestrator.keys.custodian.KeyCustodian`."""
        nonce = os.urandom(NONCE_BYTES)
        with self._lock, _token_errors(f"wrap the key of '{key_id}'"):
            sealed: bytes = self._key.encrypt(
                key, mechanism=Mechanism.AES_GCM, mechanism_param=_parameters(nonce, key_id)
            )
        return nonce + sealed

    def unwrap(self, wrapped: bytes, key_id: str) -> bytes:
        """See :class:`orchestrator.keys.custodian.KeyCustodian`."""
        if len(wrapped) <= NONCE_BYTES + TAG_BITS // 8:
            raise CustodyError(f"the wrapped key of '{key_id}' is too short")
        with self._lock, _token_errors(f"unwrap '{key_id}', which was altered or belongs to another key"):
            key: bytes = self._key.decrypt(
                wrapped[NONCE_BYTES:],
                mechanism=Mechanism.AES_GCM,
                mechanism_param=_parameters(wrapped[:NONCE_BYTES], key_id),
            )
        return key


def _parameters(nonce: bytes, key_id: str) -> Any:
    return pkcs11.GCMParams(nonce, aad=key_id.encode(), tag_bits=TAG_BITS)


def _open_session(module: Path, token_label: str, pin_file: Path) -> Any:
    pin = read_private(pin_file, "the token's PIN file").decode().strip()
    with _token_errors(f"open '{token_label}' through {module}"):
        token = pkcs11.lib(str(module)).get_token(token_label=token_label)
        try:
            return token.open(user_pin=pin, rw=True)
        except pkcs11.exceptions.UserAlreadyLoggedIn:
            # a login belongs to the process: another session of ours made it
            return token.open(rw=True)

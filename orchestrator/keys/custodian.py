"""What a key custodian is, and which one a deployment has.

A custodian holds the key-encryption key and nothing else. It turns a data key into a wrapped key that may lie
on any disk, and back. The key id (``docs/architecture.md``, *Keys*) is bound to the wrapped key as associated
data, so a host that swaps two wrapped keys on its disk gets an error and not another key.
"""

from __future__ import annotations

from typing import Protocol, assert_never

from orchestrator.config import FileCustodian as FileSettings
from orchestrator.config import Layout, Settings
from orchestrator.config import Pkcs11Custodian as Pkcs11Settings
from orchestrator.errors import CustodyError
from orchestrator.keys.file import KEY_FILE, FileCustodian
from orchestrator.keys.pkcs11 import Pkcs11Custodian


class KeyCustodian(Protocol):
    """Wraps and unwraps data keys under a key-encryption key that its callers never see."""

    @property
    def embedded(self) -> bool:
        """Whether the key-encryption key lies on the same machine in a file: for trials only."""
        ...

    @property
    def description(self) -> str:
        """One line for people: what kind of custodian, where."""
        ...

    def wrap(self, key: bytes, key_id: str) -> bytes:
        """Encrypt ``key`` with ``key_id`` as associated data.

        Raises:
            CustodyError: the custodian does not answer or refuses.
        """
        ...

    def unwrap(self, wrapped: bytes, key_id: str) -> bytes:
        """Give back the key that :meth:`wrap` wrapped for the same ``key_id``.

        Raises:
            CustodyError: the wrapped key was altered, belongs to another key id or another custodian.
        """
        ...


def open_custodian(settings: Settings, layout: Layout) -> KeyCustodian:
    """Open the custodian that the settings name.

    The embedded one is made on its first use, while the deployment has no wrapped key yet. Later a missing
    key file is an error: a new key in its place could open nothing and would hide the loss. On a cluster it is a
    Secret, and none is made: in a container it would be gone with it, and everything under it.

    Raises:
        CustodyError: the key file or the token is absent, open to others, or unusable.
    """
    match settings.custodian:
        case FileSettings():
            path = layout.custodian / KEY_FILE
            if not path.exists():
                if settings.kubernetes is not None:
                    raise CustodyError(
                        f"the custodian's key {path} is not there", hint="mount the custodian's Secret in this pod"
                    )
                if layout.keyring.is_dir() and any(layout.keyring.iterdir()):
                    raise CustodyError(
                        f"the custodian's key {path} is gone, and wrapped keys exist that only it opens",
                        hint="put the key file back from its backup",
                    )
                FileCustodian.create(path)
            return FileCustodian(path)
        case Pkcs11Settings() as token:
            return Pkcs11Custodian(
                module=token.module,
                token_label=token.token_label,
                key_label=token.key_label,
                pin_file=token.pin_file,
            )
        case other:
            assert_never(other)

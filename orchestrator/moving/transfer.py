"""The key under which others send projects to this deployment: an age identity, made at first use.

Its private half is wrapped by the custodian, so it opens nothing where the custodian does not answer, and lies in the
custodian's folder, which is root's; on a cluster, where that is a Secret or not there, beside the wrapped keys. It
never leaves the deployment, and is no way to any data that is here.
"""

from __future__ import annotations

from pathlib import Path

from pyrage import x25519

from orchestrator.config import Layout
from orchestrator.errors import CustodyError, NotFoundError
from orchestrator.keys import KeyCustodian
from orchestrator.keys.durable import publish_new
from orchestrator.keys.file import read_private
from orchestrator.moving.envelope import identity_of

#: name of its file in the custodian's folder
TRANSFER_KEY = "transfer.key"
_KEY_ID = "transfer/identity"


def transfer_file(layout: Layout) -> Path:
    """Where it is, or will be."""
    own = layout.custodian
    return (own if own.is_dir() and not (own / "..data").is_symlink() else layout.keyring) / TRANSFER_KEY


def transfer_identity(layout: Layout, custodian: KeyCustodian, *, make: bool = False) -> x25519.Identity:
    """This deployment's identity; with ``make`` it is made where there is none.

    Raises:
        NotFoundError: there is none yet.
        CustodyError: the custodian does not unwrap it, or it cannot be kept.
    """
    path = transfer_file(layout)
    if make and not path.exists():
        _create(path, custodian)
    if not path.exists():
        raise NotFoundError("this deployment has no transfer key yet", hint="bulle transfer key")
    # Beside the wrapped keys it is as they are: for node agents and tools, and worth nothing without the custodian.
    wrapped = path.read_bytes() if path.parent == layout.keyring else read_private(path, "the transfer key")
    return identity_of(custodian.unwrap(wrapped, _KEY_ID).decode())


def _create(path: Path, custodian: KeyCustodian) -> None:
    wrapped = custodian.wrap(str(x25519.Identity.generate()).encode(), _KEY_ID)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        publish_new(path, wrapped)
    except FileExistsError:
        return  # somebody else made it at the same time
    except OSError as error:
        raise CustodyError(f"the transfer key cannot be kept: {error.strerror}") from error

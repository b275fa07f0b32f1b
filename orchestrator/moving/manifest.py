"""The last part of an archive: what is in it, and who says so.

A JWS in compact form (RFC 7515) with Ed25519 (RFC 8037), signed with the deployment's grant key. Its types are those of
no grant and no certificate, so none passes for another.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import AwareDatetime, Field, ValidationError

from orchestrator.audit import load_public_key
from orchestrator.audit.chain import fingerprint
from orchestrator.errors import InputError, RefusedError
from orchestrator.governance.grants import ALGORITHM
from orchestrator.governance.keys import GRANT_PUBLIC
from orchestrator.moving.archive import Part
from orchestrator.terms import Value

#: name of the part
MANIFEST = "manifest.jws"
#: where the public keys stand in an archive
PUBLIC = "public"

Kind = Literal["backup", "secrets", "project"]


class Named(Protocol):
    """A manifest of some kind."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """What it lists."""


class Manifest(Value):
    """What an archive holds, in its order."""

    format: Literal[1] = 1
    kind: Kind
    #: random, once for each archive; a secrets file bears that of its backup
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    deployment: str
    made: AwareDatetime
    #: the schema of the governance store from which rows were taken
    store: str = ""
    #: of a project: whose it is
    project: dict[str, Any] | None = None
    #: project ids whose folders were put away or destroyed
    closed: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")], ...] = ()
    parts: tuple[Part, ...] = ()


def new_id() -> str:
    """The id of a new archive."""
    return uuid.uuid4().hex


def signed(manifest: Manifest, key: Ed25519PrivateKey) -> bytes:
    """The manifest as its part of the archive."""
    headers = {"kid": fingerprint(key.public_key()), "typ": _type(manifest.kind)}
    return jwt.encode(manifest.model_dump(mode="json"), key, algorithm=ALGORITHM, headers=headers).encode()


def _type(kind: Kind) -> str:
    return f"bulle-{kind}+jwt"


def checked(text: bytes, kind: Kind, folder: Path, parts: Sequence[Part], signer: str | None) -> Manifest:
    """The manifest, if the deployment whose keys lie in ``folder`` signed it and the parts are exactly those it lists.

    Args:
        text: the manifest as it was read.
        kind: what it must be.
        folder: where the archive was unpacked.
        parts: what was unpacked, in its order.
        signer: fingerprint of the grant key that must have signed; None: that of the archive itself, whoever that is.

    Raises:
        InputError: it was changed, or is of another kind.
        RefusedError: somebody else signed it.
    """
    key = load_public_key(folder / PUBLIC / GRANT_PUBLIC)
    # Stops: an archive that somebody else made, for whom the recipient's public key is all that is needed. Shown by
    # tests/unit/moving/test_manifest.py.
    if signer is not None and fingerprint(key) != signer:
        raise RefusedError(
            f"the archive is signed by {fingerprint(key)}, not by {signer}",
            hint="ask the other side for its fingerprint again: bulle transfer key",
        )
    manifest = _read(text, kind, key)
    listed = [part.model_copy(update={"copied": "whole"}) for part in manifest.parts]
    # Stops: parts that were changed, left away, added, exchanged or put into another order.
    if listed != list(parts):
        raise InputError("the archive does not hold what its manifest lists: it was changed")
    return manifest


def _read(text: bytes, kind: Kind, key: Ed25519PublicKey) -> Manifest:
    try:
        if jwt.get_unverified_header(text).get("typ") != _type(kind):
            raise InputError(f"this is no {kind} of Bulle")
        return Manifest.model_validate(jwt.decode(text, key, algorithms=[ALGORITHM]))
    except (jwt.PyJWTError, ValidationError) as error:
        raise InputError("the archive's manifest was changed, or is of a newer version") from error


def made(when: datetime) -> datetime:
    """A moment as manifests say it: to the second."""
    return when.replace(microsecond=0)

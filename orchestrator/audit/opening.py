"""The log of a deployment, opened to verify and read with the published key."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from orchestrator.audit.log import AuditLog
from orchestrator.config import Layout
from orchestrator.errors import SettingsError

#: name of the log's public key in ``layout.public``
PUBLIC_KEY = "audit.pub.pem"


def load_public_key(path: Path) -> Ed25519PublicKey:
    """The Ed25519 public key in a PEM file. Raises SettingsError where there is none."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}", hint="bulle up makes the keys") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SettingsError(f"{path} does not hold a public key in PEM") from error
    if not isinstance(key, Ed25519PublicKey):
        raise SettingsError(f"{path} holds a {type(key).__name__}, not an Ed25519 key")
    return key


def open_for_verification(layout: Layout) -> AuditLog:
    """The deployment's log, to verify and read. Raises SettingsError where its public key is missing."""
    return AuditLog(
        layout.audit, public_key=load_public_key(layout.public / PUBLIC_KEY), clock=lambda: datetime.now(UTC)
    )

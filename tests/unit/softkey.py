"""A passkey in software, for tests: answers as a browser and an authenticator would (WebAuthn level 2, ES256)."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

ORIGIN = "http://localhost:8000"
PRESENT, VERIFIED, ATTESTED = 0x01, 0x04, 0x40


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def plain(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class SoftKey:
    def __init__(self, origin: str = ORIGIN, rp_id: str = "localhost", *, verifies: bool = True) -> None:
        self.origin, self.rp_id, self.verifies = origin, rp_id, verifies
        self.private = ec.generate_private_key(ec.SECP256R1())
        # It begins with a letter, so that no command line takes it for an option.
        self.id = b"\0" + secrets.token_bytes(31)
        self.count = 0

    @property
    def name(self) -> str:
        return b64(self.id)

    @property
    def cose(self) -> bytes:
        numbers = self.private.public_key().public_numbers()
        return cbor2.dumps({1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32, "big"), -3: numbers.y.to_bytes(32, "big")})

    def _authenticator_data(self, flags: int, attested: bytes = b"") -> bytes:
        self.count += 1
        flags |= PRESENT | (VERIFIED if self.verifies else 0)
        rp = hashlib.sha256(self.rp_id.encode()).digest()
        return rp + bytes([flags]) + self.count.to_bytes(4, "big") + attested

    def _client_data(self, kind: str, challenge: str, **more: Any) -> bytes:
        told = {"type": kind, "challenge": challenge, "origin": self.origin, "crossOrigin": False, **more}
        return json.dumps(told).encode()

    def create(self, options: dict[str, Any]) -> str:
        """The response of ``navigator.credentials.create()``, as JSON."""
        attested = bytes(16) + len(self.id).to_bytes(2, "big") + self.id + self.cose
        data = {"fmt": "none", "attStmt": {}, "authData": self._authenticator_data(ATTESTED, attested)}
        return json.dumps(
            {
                "id": self.name,
                "rawId": self.name,
                "type": "public-key",
                "response": {
                    "clientDataJSON": b64(self._client_data("webauthn.create", options["challenge"])),
                    "attestationObject": b64(cbor2.dumps(data)),
                    "transports": ["internal"],
                },
            }
        )

    def get(self, challenge: bytes, **more: Any) -> dict[str, Any]:
        """The response of ``navigator.credentials.get()``."""
        data = self._authenticator_data(0)
        client = self._client_data("webauthn.get", b64(challenge), **more)
        signature = self.private.sign(data + hashlib.sha256(client).digest(), ec.ECDSA(hashes.SHA256()))
        return {
            "id": self.name,
            "rawId": self.name,
            "type": "public-key",
            "response": {
                "authenticatorData": b64(data),
                "clientDataJSON": b64(client),
                "signature": b64(signature),
                "userHandle": None,
            },
        }

    def sign(self, record: str, **more: Any) -> dict[str, Any]:
        """A signature under a record, as a browser sends it to the authority."""
        return {"record": record, "credential": self.get(hashlib.sha256(record.encode()).digest(), **more)}

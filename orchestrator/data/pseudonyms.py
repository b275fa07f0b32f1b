"""The two levels of pseudonym.

*Level one*, at ingest: an identifier is normalised and becomes HMAC-SHA-256 (RFC 2104) under the dataset's
secret, cut to 128 bits. The identifier itself is never stored. *Level two*, in a view: that 128-bit value
becomes AES-256 of itself under the project's key. One block is a permutation, so two people never share a
pseudonym; without the key nobody can go back, nor tell which pseudonyms of two projects belong to one person.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from orchestrator.config import PseudonymForm

PSEUDONYM_BYTES = 16
LEVEL_ONE = pa.binary(PSEUDONYM_BYTES)
_HMAC_BLOCK = 64
_REMEMBERED = 2_000_000
_HEX_PAIRS = np.array([int.from_bytes(f"{byte:02x}".encode(), "little") for byte in range(256)], dtype="<u2")


class _Hash(Protocol):
    def copy(self) -> _Hash: ...
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


class LevelOne:
    """Pseudonyms of one entity of one dataset. Distinct values are hashed once and remembered, within limits.

    Text is normalised to NFKC (UAX #15) and stripped of white space at both ends; letter case is kept,
    because two people whose identifiers differ by case must never become one. Whole numbers are written in
    decimal. The entity is hashed in front, so that equal identifiers of different things get different
    pseudonyms.
    """

    def __init__(self, secret: bytes, entity: str) -> None:
        # HMAC by its definition, from two states kept ready: half the time of the library's call per value.
        padded = (secret if len(secret) <= _HMAC_BLOCK else hashlib.sha256(secret).digest()).ljust(_HMAC_BLOCK, b"\0")
        self._inner: _Hash = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded) + entity.encode() + b"\0")
        self._outer: _Hash = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))
        self._known: pa.Array | None = None
        self._pseudonyms = pa.array([], LEVEL_ONE)

    def __call__(self, identifiers: pa.Array) -> pa.Array:
        """Pseudonyms, as 16 raw bytes, of text or whole numbers. Missing or blank ones stay missing."""
        encoded = identifiers.dictionary_encode()
        distinct = encoded.dictionary
        if self._known is None or len(self._known) > _REMEMBERED:
            self._known, self._pseudonyms = distinct.slice(0, 0), self._pseudonyms.slice(0, 0)
        places = pc.index_in(distinct, value_set=self._known)
        if places.null_count:
            news = distinct.filter(places.is_null())
            numbers = np.arange(len(self._known), len(self._known) + len(news), dtype=np.int32)
            places = pc.replace_with_mask(places, places.is_null(), pa.array(numbers))
            self._known = pa.concat_arrays([self._known, news])
            self._pseudonyms = pa.concat_arrays([self._pseudonyms, self._hashed(news)])
        return self._pseudonyms.take(places.take(encoded.indices))

    def _hashed(self, values: pa.Array) -> pa.Array:
        inner, outer = self._inner.copy, self._outer.copy
        result: list[bytes] = []
        blanks: list[int] = []
        for text in _normalised(values):
            if not text:
                blanks.append(len(result))
            inside = inner()
            inside.update(text)
            outside = outer()
            outside.update(inside.digest())
            result.append(outside.digest()[:PSEUDONYM_BYTES])
        buffers = [None, pa.py_buffer(b"".join(result))]
        hashed = pa.Array.from_buffers(LEVEL_ONE, len(result), buffers)
        if blanks:
            mask = np.zeros(len(result), np.bool_)
            mask[blanks] = True
            hashed = pc.if_else(pa.array(mask), None, hashed)
        return hashed


def _normalised(values: pa.Array) -> list[bytes]:
    if pa.types.is_string(values.type):
        texts = pc.utf8_trim_whitespace(pc.utf8_normalize(values, "NFKC"))
        return [text.encode() for text in texts.to_numpy(zero_copy_only=False)]
    return [b"%d" % value for value in values.to_numpy().tolist()]


class LevelTwo:
    """A project's pseudonyms from level-one values, a batch at a time."""

    def __init__(self, project_key: bytes, form: PseudonymForm) -> None:
        # ECB is right here and nowhere else: every plaintext is one block, the output of a keyed hash; equal
        # identifiers must give equal pseudonyms.
        self._cipher = Cipher(algorithms.AES256(project_key), modes.ECB())  # noqa: S305
        self._form = form

    @property
    def type(self) -> pa.DataType:
        """Type of the pseudonyms."""
        return LEVEL_ONE if self._form is PseudonymForm.BYTES else pa.string()

    def __call__(self, level_one: pa.Array) -> pa.Array:
        """Pseudonyms as 32 hexadecimal digits or 16 raw bytes; missing ones stay missing."""
        if level_one.offset:
            level_one = pa.concat_arrays([level_one, level_one.slice(0, 0)])
        count = len(level_one)
        validity, blocks = level_one.buffers()
        encryptor = self._cipher.encryptor()
        permuted = encryptor.update(np.frombuffer(blocks, np.uint8, count * PSEUDONYM_BYTES).data) if count else b""
        if self._form is PseudonymForm.BYTES:
            buffers = [validity, pa.py_buffer(permuted)]
            return pa.Array.from_buffers(LEVEL_ONE, count, buffers, level_one.null_count)
        digits = _HEX_PAIRS[np.frombuffer(permuted, np.uint8)]
        ends = np.arange(count + 1, dtype=np.int32) * (2 * PSEUDONYM_BYTES)
        buffers = [validity, pa.py_buffer(ends), pa.py_buffer(digits)]
        return pa.Array.from_buffers(pa.string(), count, buffers, level_one.null_count)

"""The chain itself, without I/O: records, heads, and what is wrong with a sequence of lines.

A record is one line of canonical JSON: ``event``, ``prev`` (SHA-256 of the line before, without its
newline), ``seq`` (from 1), ``signature`` and ``time``. The head is a statement about the whole log: number,
hash and end of the last record. Both are signed with Ed25519 (RFC 8032), each under its own prefix so that
neither passes for the other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import ValidationError

from orchestrator.audit.details import canonical, event_fields
from orchestrator.errors import AuditError
from orchestrator.terms import Event

#: ``prev`` of the first record
GENESIS = "0" * 64
#: longest line, newline included
MAX_LINE = 64 * 1024

_RECORD_PREFIX = b"bulle audit record v1\n"
_HEAD_PREFIX = b"bulle audit head v1\n"


def digest(line: bytes) -> str:
    """Hash of one record's line, as the next record's ``prev`` and the head hold it."""
    return hashlib.sha256(line).hexdigest()


def fingerprint(key: Ed25519PublicKey) -> str:
    """First 128 bits of the SHA-256 of a public key, in hexadecimal."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:32]


def write_time(moment: datetime) -> str:
    """A moment as the log writes it: UTC, microseconds, ``Z``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _read_time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _signed_by(key: Ed25519PublicKey, signature: str, message: bytes) -> bool:
    try:
        raw = bytes.fromhex(signature)
        key.verify(raw, message)
    except (InvalidSignature, ValueError):
        return False
    return raw.hex() == signature  # one spelling only


def _members(data: bytes, names: set[str]) -> dict[str, Any]:
    """The JSON object in ``data``, which must be in canonical form and have exactly the members ``names``."""
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise AuditError("not JSON") from error
    # Exactly one spelling is accepted, so that no byte can change without the meaning or the hash changing.
    if not isinstance(fields, dict) or set(fields) != names or canonical(fields) != data:
        raise AuditError("not in canonical form")
    return fields


@dataclass(frozen=True)
class Record:
    """One event in its place in the log."""

    seq: int
    time: datetime
    prev: str
    event: Event
    signature: str

    @classmethod
    def make(cls, seq: int, time: datetime, prev: str, event: Event, key: Ed25519PrivateKey) -> Self:
        """The signed record of ``event``. Raises AuditError where the event may not be logged."""
        record = cls(seq, time, prev, event, "")
        return cls(seq, time, prev, event, key.sign(_RECORD_PREFIX + canonical(record._signed())).hex())

    @classmethod
    def parse(cls, line: bytes) -> Self:
        """The record in a line (without its newline). Raises AuditError where it is not exactly one."""
        fields = _members(line, {"event", "prev", "seq", "signature", "time"})
        try:
            record = cls(
                seq=fields["seq"],
                time=_read_time(fields["time"]),
                prev=fields["prev"],
                event=Event.model_validate(fields["event"]),
                signature=fields["signature"],
            )
        except (ValidationError, TypeError, ValueError) as error:
            raise AuditError("not an audit record") from error
        if type(record.seq) is not int or record.line() != line:
            raise AuditError("not an audit record")
        return record

    def _signed(self) -> dict[str, Any]:
        return {
            "event": event_fields(self.event),
            "prev": self.prev,
            "seq": self.seq,
            "time": write_time(self.time),
        }

    def line(self) -> bytes:
        """The record's bytes in the log, without the newline."""
        return canonical({**self._signed(), "signature": self.signature})

    def signed_by(self, key: Ed25519PublicKey) -> bool:
        """Whether the holder of ``key`` wrote this very record at this very place."""
        return _signed_by(key, self.signature, _RECORD_PREFIX + canonical(self._signed()))


@dataclass(frozen=True)
class Head:
    """Signed statement: the log has ``seq`` records in ``size`` bytes, the last of which hashes to
    ``hash``.
    """

    seq: int
    hash: str
    size: int
    time: str
    key: str
    signature: str

    @classmethod
    def make(cls, seq: int, hash_: str, size: int, time: datetime, key: Ed25519PrivateKey) -> Self:
        """The head signed with ``key``."""
        fields: dict[str, Any] = {"seq": seq, "hash": hash_, "size": size, "time": write_time(time)}
        fields["key"] = fingerprint(key.public_key())
        return cls(**fields, signature=key.sign(_HEAD_PREFIX + canonical(fields)).hex())

    @classmethod
    def parse(cls, data: bytes, key: Ed25519PublicKey) -> Self:
        """The head in ``data`` (one line). Raises AuditError where it is malformed or not signed by
        ``key``.
        """
        fields = _members(data.removesuffix(b"\n"), {"seq", "hash", "size", "time", "key", "signature"})
        signature = str(fields.pop("signature"))
        if fields["key"] != fingerprint(key):
            raise AuditError(f"the head names key {fields['key']}; expected {fingerprint(key)}")
        if not _signed_by(key, signature, _HEAD_PREFIX + canonical(fields)):
            raise AuditError("the head's signature is wrong")
        return cls(**fields, signature=signature)

    def line(self) -> bytes:
        """The head as it is stored and exported, without a newline."""
        return canonical({name: getattr(self, name) for name in self.__dataclass_fields__})


@dataclass(frozen=True)
class Report:
    """What a verification found."""

    ok: bool
    records: int
    first_bad: int | None = None
    problem: str | None = None
    head: Head | None = None
    #: bytes or a record that a killed writer left beyond the head, and that nobody acted upon
    unfinished: str | None = None

    def raise_if_bad(self) -> None:
        """Raises AuditError naming the first bad record, if there is one."""
        if not self.ok:
            raise AuditError(f"the audit log does not verify: {self.problem} (first bad record: {self.first_bad})")


def link_fault(record: Record, expected_seq: int, previous: str) -> str | None:
    """What is wrong with a record's place in the chain.

    Stops: a record changed, removed, inserted or moved. Shown by tests/unit/audit/test_tampering.py.
    """
    if record.seq != expected_seq:
        return f"record {expected_seq} is missing or out of order: number {record.seq} stands in its place"
    if record.prev != previous:
        return f"record {expected_seq} does not follow from the one before it"
    return None


def head_fault(line: bytes, head: Head) -> str | None:
    """What is wrong with the line that a head (the log's own, or one exported before) speaks of."""
    if digest(line) != head.hash:
        return f"record {head.seq} is not the one that the head of {head.time} was signed over"
    return None


class _Bad(Exception):  # noqa: N818 - control flow within this module
    def __init__(self, seq: int, problem: str) -> None:
        self.seq, self.problem = seq, problem


def examine(lines: Iterable[bytes], head: Head, key: Ed25519PublicKey, anchor: Head | None = None) -> Report:
    """Check a whole log. ``lines`` keep their newlines; the last may lack one (a torn write).

    A killed writer can leave, beyond the head, either one torn line or one whole record: it signs the head
    anew before it writes another. Anything else is tampering. What lies beyond the head was never
    acknowledged, so no action was taken on it; a whole record there must bear its own signature, so nobody
    without the key can have one adopted.
    """
    walk = _Walk(head, key, anchor)
    try:
        for line in lines:
            if not line.endswith(b"\n"):
                walk.torn(line)
                break
            walk.step(line[:-1])
        walk.end()
    except _Bad as bad:
        return Report(False, walk.count, bad.seq, bad.problem, head)
    return Report(True, walk.count, head=head, unfinished=walk.unfinished)


class _Walk:
    """State of one pass over the lines; its methods raise :class:`_Bad` at the first fault."""

    def __init__(self, head: Head, key: Ed25519PublicKey, anchor: Head | None) -> None:
        self.head, self.key, self.anchor = head, key, anchor
        self.count, self.position = 0, 0
        self.previous = GENESIS
        self.before: Record | None = None
        self.unfinished: str | None = None

    def torn(self, line: bytes) -> None:
        """A last line without its newline."""
        seq = self.count + 1
        if self.count < self.head.seq:
            raise _Bad(seq, f"record {seq} is cut")
        if self.count > self.head.seq or len(line) >= MAX_LINE:
            raise _Bad(seq, "there are bytes beyond the head that no interrupted write leaves")
        self.unfinished = f"{len(line)} bytes of a record that was never finished"

    def step(self, line: bytes) -> None:
        """One whole line, without its newline."""
        seq, head = self.count + 1, self.head
        record = _linked(line, seq, self.previous, self.before, self.key)
        self.position += len(line) + 1
        self.count, self.previous, self.before = seq, digest(line), record
        if seq == head.seq:
            _check_head(line, record, head, self.key)
            if self.position != head.size:
                raise _Bad(seq, f"record {seq} ends at byte {self.position}; the head says {head.size}")
        elif seq == head.seq + 1:
            if not record.signed_by(self.key):
                raise _Bad(seq, f"record {seq} lies beyond the head and is not signed")
            self.unfinished = f"record {seq}, written but never acknowledged"
        elif seq > head.seq + 1:
            raise _Bad(seq, f"record {seq} lies beyond the head")
        if self.anchor is not None and seq == self.anchor.seq:
            _check_head(line, record, self.anchor, self.key)

    def end(self) -> None:
        """No more lines."""
        count, head, anchor = self.count, self.head, self.anchor
        if count < head.seq:
            raise _Bad(count + 1, f"the log ends after record {count}; its head says {head.seq}")
        if anchor is not None and count < anchor.seq:
            told = f"it ends at {count}, the exported head says {anchor.seq}"
            raise _Bad(count + 1, f"the log was rolled back: {told}")


def _linked(line: bytes, seq: int, previous: str, before: Record | None, key: Ed25519PublicKey) -> Record:
    try:
        record = Record.parse(line)
    except AuditError as error:
        raise _Bad(seq, f"record {seq} is {error.message}") from error
    fault = link_fault(record, seq, previous)
    if fault is not None:
        # A broken link means that this record or the one before was changed: its own signature says which.
        if before is not None and record.seq == seq and not before.signed_by(key):
            raise _Bad(before.seq, f"record {before.seq} was changed")
        raise _Bad(seq, fault)
    return record


def _check_head(line: bytes, record: Record, head: Head, key: Ed25519PublicKey) -> None:
    fault = head_fault(line, head)
    if fault is not None:
        raise _Bad(record.seq, fault if record.signed_by(key) else f"record {record.seq} was changed")

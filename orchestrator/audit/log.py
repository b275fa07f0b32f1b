"""The log on disk: ``log.jsonl`` and ``head.json`` in one folder, written under one lock.

The order of a write is: record, fsync, head, fsync, return. So the head never speaks of a record that is
not on disk, and a caller who got a number back can act. docs/audit.md says what a kill at each step leaves
and why it cannot be used by an attacker.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from orchestrator.audit.chain import (
    GENESIS,
    MAX_LINE,
    Head,
    Record,
    Report,
    digest,
    examine,
    fingerprint,
)
from orchestrator.audit.measures import WRITES
from orchestrator.errors import AuditError
from orchestrator.terms import Event, Outcome

LOG_NAME = "log.jsonl"
HEAD_NAME = "head.json"


@dataclass(frozen=True)
class Filters:
    """Which records to read; what is None does not narrow. ``kind`` may end in ``.`` or ``.*`` for a
    family.
    """

    project: str | None = None
    person: str | None = None
    session: str | None = None
    kind: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    outcome: Outcome | None = None
    #: any of these
    kinds: frozenset[str] | None = None

    def match(self, record: Record) -> bool:
        """Whether all filters that are set let the record through."""
        event = record.event
        return (
            self.project in (None, event.project)
            and self.person in (None, event.person, acting(event.actor))
            and self.session in (None, event.session)
            and self.outcome in (None, event.outcome)
            and (self.kind is None or is_kind(event.kind, self.kind))
            and (self.kinds is None or event.kind in self.kinds)
            and (self.since is None or record.time >= self.since)
            and (self.until is None or record.time < self.until)
        )


def acting(actor: str) -> str:
    """Who acts, without the part of the platform that told of it (``hub:ada``)."""
    return actor.rsplit(":", 1)[-1]


def is_kind(kind: str, wanted: str) -> bool:
    """Whether ``kind`` is the ``wanted`` one, or of the family that ``wanted`` names by ``.`` or ``.*`` at its end."""
    family = wanted.removesuffix("*")
    return kind == family or (family.endswith(".") and kind.startswith(family))


class AuditLog:
    """Append-only, hash-chained log with signed heads.

    With the private key it writes and verifies; with the public key alone it verifies and reads. Several
    processes and threads may hold one on the same folder.
    """

    def __init__(
        self,
        folder: Path,
        key: Ed25519PrivateKey | None = None,
        *,
        public_key: Ed25519PublicKey | None = None,
        clock: Callable[[], datetime],
    ) -> None:
        if key is not None:
            public_key = key.public_key()
        if public_key is None:
            raise AuditError("the audit log needs its private key to write or its public key to verify")
        self.folder = folder
        self._key = key
        self._public = public_key
        self._clock = clock

    @property
    def public_key(self) -> Ed25519PublicKey:
        """Key under which heads and records verify."""
        return self._public

    def create(self) -> None:
        """Begin the log with an ``audit.open`` record.

        Only the making of a new signing key calls this. :meth:`record` never creates a log, so one whose
        files were all removed cannot quietly begin again.

        Raises:
            AuditError: there is a log already, or it cannot be written.
        """
        key = self._signing_key()
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked():
                path = self.folder / LOG_NAME
                if (self.folder / HEAD_NAME).exists():
                    raise AuditError(f"{self.folder} holds an audit log already")
                # Without a head, one torn or whole first record is what a kill between the two writes leaves.
                if path.exists() and path.stat().st_size > MAX_LINE:
                    raise AuditError(f"{path} exists and has no head")
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
                try:
                    os.ftruncate(fd, 0)
                    self._give_to_owner(fd)
                    opening = Event(
                        kind="audit.open",
                        actor="authority",
                        outcome=Outcome.DONE,
                        detail={"signer": fingerprint(key.public_key())},
                    )
                    self._append(fd, 0, GENESIS, 0, opening)
                finally:
                    os.close(fd)
        except OSError as error:
            raise AuditError(f"cannot begin the audit log in {self.folder}: {error.strerror}") from error

    def record(self, event: Event) -> int:
        """Write ``event`` durably and return its number.

        Raises:
            AuditError: it may not have been written; the caller must then not act.
        """
        began, outcome = time.perf_counter(), "failed"
        try:
            seq = self._record(event)
            outcome = "done"
            return seq
        finally:
            WRITES.took(time.perf_counter() - began, outcome=outcome)

    def _record(self, event: Event) -> int:
        self._signing_key()
        try:
            with self._locked():
                head = self._load_head()
                fd = os.open(self.folder / LOG_NAME, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    head = self._settle(fd, head)
                    return self._append(fd, head.seq, head.hash, head.size, event).seq
                finally:
                    os.close(fd)
        except OSError as error:
            raise AuditError(f"cannot write the audit log in {self.folder}: {error.strerror}") from error

    def head(self) -> Head:
        """The current signed head, to be kept elsewhere and given to :meth:`verify` later."""
        try:
            with self._locked(shared=True):
                return self._load_head()
        except OSError as error:
            raise AuditError(f"cannot read the audit log in {self.folder}: {error.strerror}") from error

    def parse_head(self, data: bytes) -> Head:
        """An exported head. Raises AuditError where it is not one signed by this log's key."""
        return Head.parse(data, self.public_key)

    def verify(self, anchor: Head | None = None) -> Report:
        """Find any changed, cut, inserted or reordered record.

        Against an exported ``anchor`` it also finds that log and head were rolled back together.
        """
        try:
            with self._locked(shared=True):
                path = self.folder / LOG_NAME
                size = path.stat().st_size if path.exists() else 0
                count = 0
                try:
                    head = self._load_head()
                except AuditError as error:
                    if size:
                        count = sum(1 for _ in self._lines(size))
                    return Report(False, count, count + 1, error.message)
            # The log only grows, so what was there under the lock can be read without holding writers up.
            return examine(self._lines(size), head, self.public_key, anchor)
        except OSError as error:
            return Report(False, 0, 1, f"the audit log in {self.folder} cannot be read: {error.strerror}")

    def read(self, filters: Filters | None = None) -> Iterator[Record]:
        """The records that match, oldest first. Raises AuditError at a line that is not a record."""
        wanted = filters or Filters()
        path = self.folder / LOG_NAME
        try:
            size = path.stat().st_size
            for number, line in enumerate(self._lines(size), start=1):
                if not line.endswith(b"\n"):
                    return
                try:
                    record = Record.parse(line[:-1])
                except AuditError as error:
                    raise AuditError(f"record {number} is {error.message}", hint="run bulle audit verify") from error
                if wanted.match(record):
                    yield record
        except OSError as error:
            raise AuditError(f"cannot read {path}: {error.strerror}") from error

    def _signing_key(self) -> Ed25519PrivateKey:
        if self._key is None:
            raise AuditError("this audit log was opened to verify, without the key that writes")
        return self._key

    @contextmanager
    def _locked(self, *, shared: bool = False) -> Iterator[None]:
        # The folder itself is the lock: it is there before the first record and needs no write permission
        # to share.
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _lines(self, size: int) -> Iterator[bytes]:
        path = self.folder / LOG_NAME
        if not size:
            return
        with path.open("rb") as stream:
            while size > 0:
                line = stream.readline(min(size, MAX_LINE))
                if not line:
                    return
                size -= len(line)
                yield line
                if not line.endswith(b"\n"):
                    return

    def _load_head(self) -> Head:
        path = self.folder / HEAD_NAME
        try:
            # Stops: a link, or a pipe that never answers, in the place of the head: whoever verifies, root perhaps,
            # would read something else or wait for ever. Shown by tests/unit/governance/test_keys.py.
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(fd, "rb") as file:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise AuditError(f"{path} is not a plain file", hint="find out who put it there")
                data = file.read()
        except FileNotFoundError as error:
            raise AuditError(f"{path} is missing", hint="see docs/audit.md, 'When the log does not verify'") from error
        except OSError as error:
            raise AuditError(f"{path}: {error.strerror}", hint="find out who put it there") from error
        return Head.parse(data, self.public_key)

    def _settle(self, fd: int, head: Head) -> Head:
        """Check the log's end against its head and finish what a killed writer left; returns the head to
        follow.
        """
        size = os.fstat(fd).st_size
        if size < head.size:
            raise AuditError(f"the audit log was cut: {size} bytes, its head says {head.size}")
        before = os.pread(fd, min(MAX_LINE, head.size), max(0, head.size - MAX_LINE))
        last = before[:-1].rsplit(b"\n", 1)[-1]
        if not before.endswith(b"\n") or digest(last) != head.hash:
            raise AuditError(f"the audit log was changed: its last record is not number {head.seq} of the head")
        beyond = os.pread(fd, MAX_LINE + 1, head.size)
        if not beyond:
            return head
        if len(beyond) > MAX_LINE or b"\n" in beyond[:-1]:
            raise AuditError("the audit log was changed: it goes on beyond its head")
        if beyond.endswith(b"\n"):
            record = Record.parse(beyond[:-1])
            # Stops: a record added by someone without the key being adopted as if a killed writer had left
            # it. Shown by tests/unit/audit/test_recovery.py.
            if (record.seq, record.prev) != (head.seq + 1, head.hash) or not record.signed_by(self.public_key):
                raise AuditError("the audit log was changed: the record beyond its head is forged")
            return self._write_head(record.seq, digest(beyond[:-1]), size)
        os.ftruncate(fd, head.size)
        torn = Event(
            kind="audit.recover",
            actor="authority",
            outcome=Outcome.DONE,
            detail={"dropped_bytes": len(beyond), "dropped_sha256": digest(beyond)},
        )
        return self._append(fd, head.seq, head.hash, head.size, torn)

    def _append(self, fd: int, seq: int, previous: str, size: int, event: Event) -> Head:
        record = Record.make(seq + 1, self._clock(), previous, event, self._signing_key())
        line = record.line()
        if len(line) >= MAX_LINE:
            raise AuditError(f"event {event.kind} is too large to be logged: {len(line)} bytes")
        # What cannot be read back must not be written: it would stop every later writer.
        Record.parse(line)
        rest = memoryview(line + b"\n")
        try:
            while rest:
                rest = rest[os.write(fd, rest) :]
            os.fsync(fd)
        except OSError:
            # A full disk must not leave half a record; if this fails too, the next writer drops it.
            os.ftruncate(fd, size)
            raise
        return self._write_head(seq + 1, digest(line), size + len(line) + 1)

    def _give_to_owner(self, fd: int) -> None:
        # A command run by root must not leave files that the authority can no longer write.
        if os.geteuid() == 0:
            owner = self.folder.stat()
            os.fchown(fd, owner.st_uid, owner.st_gid)

    def _write_head(self, seq: int, hash_: str, size: int) -> Head:
        head = Head.make(seq, hash_, size, self._clock(), self._signing_key())
        path = self.folder / HEAD_NAME
        fresh = path.with_suffix(".new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            data = head.line() + b"\n"
            if os.write(fd, data) != len(data):
                raise AuditError(f"cannot write {fresh}: the disk is full")
            self._give_to_owner(fd)
            os.fsync(fd)
        finally:
            os.close(fd)
        fresh.replace(path)
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        return head

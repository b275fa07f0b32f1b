"""The records of the audit log that concern one project, to be taken along and verified elsewhere.

Each record bears its own signature over its number, its moment, the hash of the record before it and what happened
(docs/audit.md). So each is proved by itself, and so is its place; the signed head proves how long the log was. That no
record of the project was left out is the word of who signed the manifest: others' records, which would prove it, stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from orchestrator.audit import AuditLog, Head, Record
from orchestrator.audit.chain import MAX_LINE, digest
from orchestrator.errors import AuditError

RECORDS, HEAD = "audit.jsonl", "audit-head.json"


def concerning(log: AuditLog, names: frozenset[str]) -> tuple[Iterator[bytes], Head]:
    """Lines of the records about a project (by its slug or id), and the head that they lie under."""
    head = log.head()

    def lines() -> Iterator[bytes]:
        for record in log.read():
            if record.seq > head.seq:
                return
            if record.event.project in names:
                yield record.line() + b"\n"

    return lines(), head


def verified(folder: Path, key: Ed25519PublicKey, names: frozenset[str]) -> int:
    """Check an extract in ``folder``; the number of records.

    Raises:
        AuditError: a record is not signed by ``key``, out of its order, about something else, or beyond the head.
    """
    head = Head.parse((folder / HEAD).read_bytes(), key)
    before: Record | None = None
    count = 0
    with (folder / RECORDS).open("rb") as file:
        while line := file.readline(MAX_LINE):
            if not line.endswith(b"\n"):
                raise AuditError("the audit extract is cut")
            record = Record.parse(line[:-1])
            _check(record, before, head, key)
            if record.event.project not in names:
                raise AuditError(f"record {record.seq} of the audit extract is about something else")
            before, count = record, count + 1
    return count


def _check(record: Record, before: Record | None, head: Head, key: Ed25519PublicKey) -> None:
    # Stops: a decision that was made up, changed, or moved to another moment. Shown by
    # tests/unit/moving/test_projects.py.
    if not record.signed_by(key):
        raise AuditError(f"record {record.seq} of the audit extract was changed")
    if before is not None and record.seq <= before.seq:
        raise AuditError(f"record {record.seq} of the audit extract stands out of its order")
    if before is not None and record.seq == before.seq + 1 and record.prev != digest(before.line()):
        raise AuditError(f"record {record.seq} of the audit extract does not follow from the one before it")
    if record.seq > head.seq or (record.seq == head.seq and digest(record.line()) != head.hash):
        raise AuditError(f"record {record.seq} of the audit extract is not under its head")

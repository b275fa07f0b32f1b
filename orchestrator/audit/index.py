"""Finding records in a large log without reading it whole.

The index lives in memory and holds positions only: it is made from the log, follows it as it grows (also when another
process appends), and is made anew where the log is another. Nothing rests on it: each record that it leads to is read
from the log and its signature checked, and only ``AuditLog.verify`` says that none is missing.
"""

from __future__ import annotations

import heapq
import json
import os
import threading
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import BinaryIO

from orchestrator.audit.chain import MAX_LINE, Record
from orchestrator.audit.log import LOG_NAME, AuditLog, Filters, acting, is_kind
from orchestrator.errors import AuditError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class AuditIndex:
    """Where the records of a log are: by kind, person, project and outcome. Threads may share it."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._forget()

    def newest(self, filters: Filters, *, limit: int, before: int | None = None) -> tuple[list[Record], int | None]:
        """The newest ``limit`` records that match, newest first, of those numbered below ``before``.

        With them the number to go on before; None where there are no more.

        Raises:
            AuditError: the log cannot be read, or a record that was found is not one that the log's key signed.
        """
        try:
            with (self._log.folder / LOG_NAME).open("rb") as stream, self._lock:
                self._follow(stream)
                found: list[Record] = []
                for seq in self._candidates(filters, before):
                    record = self._read(stream, seq)
                    if not filters.match(record):
                        continue
                    if len(found) == limit:
                        return found, found[-1].seq
                    found.append(record)
                return found, None
        except OSError as error:
            raise AuditError(f"cannot read the audit log in {self._log.folder}: {error.strerror}") from error

    def _forget(self) -> None:
        self._file: tuple[int, int] | None = None  # device and inode
        self._end = 0
        self._starts: array[int] = array("Q")
        self._times: array[int] = array("q")  # microseconds
        self._in_order = True
        self._kinds: dict[str, array[int]] = {}
        self._persons: dict[str, array[int]] = {}  # who acted, or whom it was about
        self._projects: dict[str, array[int]] = {}
        self._outcomes: dict[str, array[int]] = {}

    def _follow(self, stream: BinaryIO) -> None:
        about = os.fstat(stream.fileno())
        if self._file != (about.st_dev, about.st_ino) or about.st_size < self._end:
            self._forget()
            self._file = (about.st_dev, about.st_ino)
        stream.seek(self._end)
        # What a writer has not finished has no newline yet: it is for the next time.
        while (line := stream.readline(MAX_LINE)).endswith(b"\n"):
            self._add(line)
        if len(line) == MAX_LINE:
            raise _unreadable(len(self._starts) + 1)

    def _add(self, line: bytes) -> None:
        seq = len(self._starts) + 1
        try:
            fields = json.loads(line)
            event = fields["event"]
            when = _microseconds(datetime.fromisoformat(fields["time"]))
            kind, outcome, actor = event["kind"], event["outcome"], event["actor"]
            person, project = event.get("person"), event.get("project")
            texts = (kind, outcome, actor, person or "", project or "")
            if fields["seq"] != seq or not all(isinstance(text, str) for text in texts):
                raise ValueError(seq)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise _unreadable(seq) from error
        self._in_order = self._in_order and (not self._times or self._times[-1] <= when)
        self._starts.append(self._end)
        self._times.append(when)
        self._end += len(line)
        for lists, name in ((self._kinds, kind), (self._outcomes, outcome), (self._projects, project)):
            if name is not None:
                lists.setdefault(name, array("I")).append(seq)
        for name in {person, acting(actor)} - {None}:
            self._persons.setdefault(name, array("I")).append(seq)

    def _read(self, stream: BinaryIO, seq: int) -> Record:
        stream.seek(self._starts[seq - 1])
        try:
            record = Record.parse(stream.readline(MAX_LINE)[:-1])
        except AuditError as error:
            raise _unreadable(seq) from error
        # Stops: somebody with the disk and without the key who shows auditors another history. Shown by
        # tests/unit/audit/test_index.py.
        if record.seq != seq or not record.signed_by(self._log.public_key):
            raise _unreadable(seq)
        return record

    def _candidates(self, filters: Filters, before: int | None) -> Iterator[int]:
        """Numbers of records that may match, downwards."""
        first, below = 1, len(self._starts) + 1
        if before is not None:
            below = max(1, min(below, before))
        if self._in_order:
            if filters.since is not None:
                first = 1 + bisect_left(self._times, _microseconds(filters.since))
            if filters.until is not None:
                below = min(below, 1 + bisect_left(self._times, _microseconds(filters.until)))
        wanted = sorted(self._wanted(filters), key=lambda lists: sum(map(len, lists)))
        if not wanted:
            yield from range(below - 1, first - 1, -1)
            return
        # The rarest leads, and the others are asked only of what it names.
        for seq in heapq.merge(*(_downwards(one, first, below) for one in wanted[0]), reverse=True):
            if all(any(_holds(one, seq) for one in lists) for lists in wanted[1:]):
                yield seq

    def _wanted(self, filters: Filters) -> Iterator[list[array[int]]]:
        """For each filter that is set, the lists of which one must name a record."""
        if filters.project is not None:
            yield _lists(self._projects, [filters.project])
        if filters.person is not None:
            yield _lists(self._persons, [filters.person])
        if filters.outcome is not None:
            yield _lists(self._outcomes, [filters.outcome])
        if filters.kind is not None:
            family = filters.kind
            yield _lists(self._kinds, [kind for kind in self._kinds if is_kind(kind, family)])
        if filters.kinds is not None:
            yield _lists(self._kinds, filters.kinds)


def _lists(lists: dict[str, array[int]], names: Iterable[str]) -> list[array[int]]:
    return [lists[name] for name in names if name in lists]


def _downwards(numbers: array[int], first: int, below: int) -> Iterator[int]:
    lowest = bisect_left(numbers, first)
    for place in range(bisect_left(numbers, below) - 1, lowest - 1, -1):
        yield numbers[place]


def _holds(numbers: array[int], seq: int) -> bool:
    place = bisect_left(numbers, seq)
    return place < len(numbers) and numbers[place] == seq


def _microseconds(when: datetime) -> int:
    return (when - _EPOCH) // _MICROSECOND


def _unreadable(seq: int) -> AuditError:
    return AuditError(f"record {seq} of the audit log is not what was written", hint="run bulle audit verify")

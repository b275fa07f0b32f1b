"""Looks for planted bytes in everything that persists of a used deployment: what a thief of the disks would do.

A needle is looked for in clear, in UTF-16, in hexadecimal and base64 text, in any alignment; files that are
compressed or columnar are opened where that needs no key (Parquet, gzip, zip, SQLite are read as what they are).
"""

from __future__ import annotations

import base64
import gzip
import os
import sqlite3
import stat
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

CHUNK = 8 << 20


@dataclass(frozen=True)
class Needle:
    """What was planted and must not be found."""

    name: str
    forms: tuple[bytes, ...]

    @classmethod
    def text(cls, name: str, value: str) -> Needle:
        raw = value.encode()
        inner = base64.b64encode(b"\0\0\0" + raw)[4:-4]  # aligned; the two other alignments follow
        others = [base64.b64encode(b"\0" * shift + raw)[4:-4] for shift in (1, 2)]
        encoded = (inner, *others) if len(raw) >= 12 else ()
        return cls(name, (raw, value.encode("utf-16-le"), raw.hex().encode(), *encoded))

    @classmethod
    def raw(cls, name: str, value: bytes) -> Needle:
        return cls(name, (value, value.hex().encode(), value.hex().upper().encode()))


@dataclass(frozen=True)
class Found:
    needle: str
    where: Path


def same_device_files(root: Path) -> Iterator[Path]:
    """Every regular file below ``root`` on the same file system: mounts (tmpfs, FUSE) are not what a disk holds.

    What is removed meanwhile, a pod's folder for one, is left out.
    """

    def here(path: Path, kind: Callable[[int], bool]) -> bool:
        try:
            found = path.lstat()
        except OSError:
            return False
        return kind(found.st_mode) and found.st_dev == device

    device = root.stat().st_dev
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if here(Path(folder, name), stat.S_ISDIR)]
        yield from (Path(folder, name) for name in names if here(Path(folder, name), stat.S_ISREG))


def _opened(path: Path) -> Iterator[bytes]:
    """What the file holds as what it is, where it can be read without a key."""
    with path.open("rb") as file:
        magic = file.read(16)
    if magic.startswith(b"PAR1"):
        try:
            table = pq.read_table(path)
        except (pa.ArrowException, OSError):
            return  # encrypted, or not Parquet: its bytes were searched as they are
        for column in table.columns:
            for value in column.to_pylist():
                yield value if isinstance(value, bytes) else str(value).encode()
    elif magic.startswith(b"\x1f\x8b"):
        try:
            yield gzip.decompress(path.read_bytes())
        except (OSError, EOFError):
            return
    elif magic.startswith(b"PK\x03\x04"):
        try:
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    yield name.encode()
                    yield archive.read(name)
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError):
            return
    elif magic.startswith(b"SQLite format 3"):
        with sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True) as database:
            yield "\n".join(database.iterdump()).encode()


def _written(path: Path) -> Iterator[bytes]:
    """The bytes of a file, without the holes of a sparse one (a home's disk is mostly hole)."""
    with path.open("rb", buffering=0) as file:
        size, at = os.fstat(file.fileno()).st_size, 0
        while at < size:
            try:
                begin = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but a hole is left
                return
            at = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
            os.lseek(file.fileno(), begin, os.SEEK_SET)
            left = at - begin
            while left > 0 and (chunk := file.read(min(CHUNK, left))):
                left -= len(chunk)
                yield chunk


def search(root: Path, needles: list[Needle], *, deep: bool = True, since: float | None = None) -> list[Found]:
    """Which needles are where below ``root``.

    ``deep`` also opens container formats. ``since`` (seconds since the epoch) passes over files whose inode has not
    changed since then: the kernel sets that time, so what was planted later cannot be in one of them.
    """
    longest = max(len(form) for needle in needles for form in needle.forms)
    found: list[Found] = []
    for path in same_device_files(root):
        if since is not None and path.lstat().st_ctime < since:
            continue
        seen: set[str] = set()

        def look(data: bytes, seen: set[str] = seen, path: Path = path) -> None:
            for needle in needles:
                if needle.name not in seen and any(form in data for form in needle.forms):
                    seen.add(needle.name)
                    found.append(Found(needle.name, path))

        look(str(path).encode())
        try:
            tail = b""
            for chunk in _written(path):
                look(tail + chunk)
                tail = chunk[-longest:]
            if deep:
                for data in _opened(path):
                    look(data)
        except FileNotFoundError:
            continue  # it went while we looked
    return found

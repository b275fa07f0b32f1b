"""What is in the envelope: a tar file that any tar reads (POSIX pax; images of disks as GNU sparse files, version 1.0).

Written and read as a stream. Reading trusts nothing: a closed list of names, plain files alone, each name once, and in
the end a list of all parts with their digests, which the manifest signs (:mod:`orchestrator.moving.manifest`).
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

from pydantic import Field

from orchestrator.errors import InputError, UnavailableError
from orchestrator.terms import Value

_BLOCK = 1 << 20
_RECORD = 512
_MOST_PARTS = 1_000_000
_LARGEST = 1 << 46

Copied = Literal["whole", "crash-consistent", "changed"]
"""How an image was copied: ``whole``, as it lay there unmounted; ``crash-consistent``, frozen while mounted, as after a
power cut at one moment; ``changed``, written to meanwhile: to be checked with e2fsck before it is used."""


class Part(Value):
    """One file in the archive."""

    name: str
    size: Annotated[int, Field(ge=0)]
    #: of its bytes; of a sparse file, of each extent: a line "offset size" in decimal, then its bytes
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    copied: Copied = "whole"


class _Hashed(io.RawIOBase):
    """A stream of which each byte that is read is hashed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data


def extents(descriptor: int) -> Iterator[tuple[int, int]]:
    """Where a sparse file has bytes: offset and size of each piece."""
    end = os.fstat(descriptor).st_size
    position = 0
    while position < end:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        position = min(os.lseek(descriptor, start, os.SEEK_HOLE), end)
        yield start, position - start


class _Extents(io.RawIOBase):
    """The bytes of some extents after one another, hashed with their places."""

    def __init__(self, descriptor: int, pieces: list[tuple[int, int]]) -> None:
        self._descriptor = descriptor
        self._pieces = iter(pieces)
        self._position = self._left = 0
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._position, self._left = piece
            self.digest.update(b"%d %d\n" % piece)
        wanted = min(self._left, _BLOCK if size < 0 else size)
        data = os.pread(self._descriptor, wanted, self._position)
        data += b"\0" * (wanted - len(data))  # cut meanwhile: the manifest says that it changed
        self._position, self._left = self._position + wanted, self._left - wanted
        self.digest.update(data)
        return data


class _After(io.RawIOBase):
    """One stream after another, as tarfile asks for them: exactly as many bytes as it wants."""

    def __init__(self, first: bytes, then: _Extents) -> None:
        self._first, self._then = first, then

    def read(self, size: int = -1) -> bytes:
        parts, self._first = [self._first[:size]], self._first[size:]
        left = size - len(parts[0])
        while left > 0:
            data = self._then.read(left)
            if not data:
                break
            parts.append(data)
            left -= len(data)
        return b"".join(parts)


class _Sink(io.RawIOBase):
    """A stream to write to, which takes no notice of what tarfile says when it is thrown away unfinished."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, data: Any) -> int:
        return len(data) if self._stream.closed else self._stream.write(data)


class Writer:
    """Writes an archive, part by part, in the order of the calls."""

    def __init__(self, stream: BinaryIO, moment: float) -> None:
        self._tar = tarfile.open(  # noqa: SIM115 - closed by close()
            fileobj=_Sink(stream), mode="w|", format=tarfile.PAX_FORMAT, bufsize=_BLOCK
        )
        self._tar.copybufsize = _BLOCK  # type: ignore[attr-defined] # or it would copy 16 kB at a time
        self._moment = int(moment)
        self.parts: list[Part] = []

    def add(self, name: str, data: bytes) -> None:
        """A small part."""
        self.add_stream(name, io.BytesIO(data), len(data))

    def add_stream(self, name: str, file: BinaryIO, size: int) -> None:
        """The next ``size`` bytes of a stream. Raises UnavailableError where there are fewer."""
        hashed = _Hashed(file)
        try:
            self._tar.addfile(self._info(name, size), hashed)
        except tarfile.TarError as error:
            raise UnavailableError(f"{name} became shorter while it was read") from error
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            raise UnavailableError(f"{name} cannot be read: {error}") from error
        self.parts.append(Part(name=name, size=size, sha256=hashed.digest.hexdigest()))

    def add_descriptor(self, name: str, descriptor: int) -> None:
        """An open file from its beginning, as long as it is now."""
        with os.fdopen(os.dup(descriptor), "rb") as file:
            file.seek(0)
            self.add_stream(name, file, os.fstat(descriptor).st_size)

    def add_image(self, name: str, descriptor: int, copied: Callable[[], Copied]) -> None:
        """An image of a disk, without its holes; ``copied`` is asked when it is read."""
        end = os.fstat(descriptor).st_size
        pieces = [*extents(descriptor), (end, 0)]
        numbers = [len(pieces), *(number for piece in pieces for number in piece)]
        index = "".join(f"{number}\n" for number in numbers).encode()
        index += b"\0" * (-len(index) % _RECORD)
        folder, _, base = name.rpartition("/")
        info = self._info(f"{folder}/GNUSparseFile.0/{base}", len(index) + sum(size for _, size in pieces))
        info.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": name,
            "GNU.sparse.realsize": str(end),
        }
        data = _Extents(descriptor, [piece for piece in pieces if piece[1]])
        self._tar.addfile(info, _After(index, data))
        self.parts.append(Part(name=name, size=end, sha256=data.digest.hexdigest(), copied=copied()))

    def close(self, name: str, last: bytes) -> None:
        """The last part, which speaks of the others, and the end of the archive."""
        self._tar.addfile(self._info(name, len(last)), io.BytesIO(last))
        self._tar.close()

    def _info(self, name: str, size: int) -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = size, 0o600, self._moment
        return info


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnavailableError(f"{folder} cannot be written: {error.strerror or error}") from error


def unpack(stream: BinaryIO, into: Path, allowed: Callable[[str], bool], last: str) -> tuple[list[Part], bytes]:
    """Write the parts of an archive below ``into``; the parts in their order, and the content of the last one.

    Nothing of it may be believed before the manifest was checked and the envelope read to its end.

    Raises:
        InputError: it holds what no archive of this kind holds, or is none.
        UnavailableError: the folder cannot be written.
    """
    parts: list[Part] = []
    seen: set[str] = set()
    ending: bytes | None = None
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=_BLOCK) as tar:
            for member in tar:
                if ending is not None:
                    raise InputError(f"the archive goes on after {last}")
                # Stops: names that lead out of the folder, links, devices, a second file over the first, a file that
                # fills the disk with what is not there. Shown by tests/unit/moving/test_archive.py.
                if not (member.isreg() and (member.name == last or allowed(member.name))) or member.islnk():
                    raise InputError(f"the archive holds {member.name[:200]!r}, which does not belong in it")
                if member.name in seen or len(seen) >= _MOST_PARTS or not 0 <= member.size <= _LARGEST:
                    raise InputError(f"the archive holds {member.name[:200]!r} twice, or too much")
                seen.add(member.name)
                file = tar.extractfile(member)
                if file is None:
                    raise InputError(f"the archive holds {member.name[:200]!r}, which is no file")
                if member.name == last:
                    ending = file.read(64 * _BLOCK)
                    continue
                # What a sparse file has is read from the stream itself: tarfile would give its holes too, as zeros.
                sparse = getattr(member, "sparse", None)
                source = tar.fileobj if sparse is not None else file
                with _disk(into):
                    parts.append(_written(member, source, sparse, into / member.name))
    except tarfile.TarError as error:
        raise InputError(f"the archive is damaged: {error}") from error
    if ending is None:
        raise InputError(f"the archive is cut: {last} is missing")
    return parts, ending


def _written(member: tarfile.TarInfo, file: Any, sparse: list[tuple[int, int]] | None, path: Path) -> Part:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    digest = hashlib.sha256()
    try:
        os.ftruncate(descriptor, member.size)
        position = 0
        for start, size in [(0, member.size)] if sparse is None else sparse:
            if not size:
                continue
            if start < position or start + size > member.size:
                raise InputError(f"{member.name!r} has its pieces in disorder")
            if sparse is not None:
                digest.update(b"%d %d\n" % (start, size))
            left, position = size, start
            while left:
                data = file.read(min(left, _BLOCK))
                if not data:
                    raise InputError(f"{member.name!r} is cut")
                digest.update(data)
                view = memoryview(data)
                while view:
                    wrote = os.pwrite(descriptor, view, position)
                    view, position, left = view[wrote:], position + wrote, left - wrote
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return Part(name=member.name, size=member.size, sha256=digest.hexdigest())

"""Where an envelope lies: a file here, or an object in a store elsewhere (:mod:`orchestrator.moving.s3`)."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from orchestrator.errors import ConflictError, InputError, UnavailableError
from orchestrator.keys.durable import sync_folder


class Place(Protocol):
    """Where one envelope lies, or will. As text it is what an administrator names it by."""

    @property
    def name(self) -> str:
        """The last part of its name."""

    def writing(self) -> AbstractContextManager[BinaryIO]:
        """A stream to write it. Leaving the block publishes it; leaving it by an error leaves nothing there.

        Raises:
            ConflictError: there is something already, which stays as it is.
            UnavailableError: it cannot be written.
        """

    def reading(self) -> AbstractContextManager[BinaryIO]:
        """A stream to read it.

        Raises:
            InputError: it is not there.
            UnavailableError: it cannot be read to its end.
        """

    def sha256(self) -> str:
        """SHA-256 of what was written, in hexadecimal."""


class File:
    """A file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """See :class:`Place`."""
        return self.path.name

    @contextmanager
    def writing(self) -> Iterator[BinaryIO]:
        """See :class:`Place`."""
        path = self.path
        if path.exists() or path.is_symlink():
            raise ConflictError(f"{path} exists already")
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UnavailableError(f"{path} cannot be written: {error.strerror}") from error
        try:
            with os.fdopen(descriptor, "wb") as out:
                yield out
                out.flush()
                os.fsync(out.fileno())
            _publish(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)

    @contextmanager
    def reading(self) -> Iterator[BinaryIO]:
        """See :class:`Place`."""
        try:
            file = self.path.open("rb")
        except OSError as error:
            raise InputError(f"{self.path}: {error.strerror}") from error
        with file:
            yield file

    def sha256(self) -> str:
        """See :class:`Place`."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def _publish(fresh: Path, path: Path) -> None:
    try:
        os.link(fresh, path)
        sync_folder(path.parent)
    except FileExistsError as error:
        raise ConflictError(f"{path} exists already") from error
    except OSError as error:
        raise UnavailableError(f"{path} cannot be written: {error.strerror}") from error


def place_of(where: Path | Place) -> Place:
    """The place that a path, or a place itself, names."""
    return File(where) if isinstance(where, Path) else where

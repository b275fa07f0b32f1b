"""The envelope around all that leaves: an age file, streamed (https://age-encryption.org/v1).

age is an open format with several independent programs: what Bulle writes, ``age --decrypt`` opens. Its payload is
sealed in chunks with ChaCha20-Poly1305, numbered and with the last one marked, so that a file that was changed, cut or
put together anew does not open to its end. Nothing may be believed before that end.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import pyrage
from pyrage import x25519

from orchestrator.errors import BulleError, InputError, UnavailableError
from orchestrator.keys.file import read_private
from orchestrator.moving.places import Place, place_of

_PIPE_BYTES = 1 << 20


def recipient_of(text: str) -> x25519.Recipient:
    """The recipient that ``age1…`` names. Raises InputError."""
    try:
        return x25519.Recipient.from_str(text.strip())
    except pyrage.RecipientError as error:
        raise InputError(f"'{text[:80]}' is not an age recipient (age1…)") from error


def identity_of(text: str) -> x25519.Identity:
    """The identity in the text of an identity file, as ``age-keygen`` writes it. Raises InputError."""
    lines = [line.strip() for line in text.splitlines()]
    found = [line for line in lines if line and not line.startswith("#")]
    if len(found) != 1:
        raise InputError(f"an identity file holds one identity; this one has {len(found)} lines")
    try:
        return x25519.Identity.from_str(found[0])
    except pyrage.IdentityError as error:
        raise InputError("the file does not hold an age identity (AGE-SECRET-KEY-1…)") from error


def read_identity(path: Path) -> x25519.Identity:
    """The identity in a file that only its owner may read. Raises CustodyError, InputError."""
    return identity_of(read_private(path, "the identity").decode(errors="replace"))


class _Beside:
    """Encrypting or decrypting in a thread of its own, which may fail; it always lets go of its end of the pipe."""

    def __init__(self, work: Callable[[], None], end: BinaryIO) -> None:
        self.error: Exception | None = None

        def run() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - whatever the library raises is told where it is waited for
                self.error = error
            finally:
                with suppress(OSError):
                    end.close()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        self._thread.join()


def _pipe() -> tuple[BinaryIO, BinaryIO]:
    source, sink = os.pipe2(os.O_CLOEXEC)
    with suppress(OSError):
        fcntl.fcntl(sink, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return os.fdopen(source, "rb"), os.fdopen(sink, "wb", buffering=_PIPE_BYTES)


@contextmanager
def sealed(where: Path | Place, recipients: Sequence[str]) -> Iterator[BinaryIO]:
    """A new envelope for ``recipients``; what is written to the stream is in it. It is there whole or not at all.

    Raises:
        InputError: a recipient is none.
        ConflictError: there is something already.
        UnavailableError: it cannot be written; nothing was left.
    """
    if not recipients:
        raise InputError("there is nobody to encrypt for", hint="name a recipient (age1…)")
    wanted = [recipient_of(text) for text in recipients]
    place = place_of(where)
    with place.writing() as out:
        source, sink = _pipe()
        beside = _Beside(lambda: pyrage.encrypt_io(source, out, wanted), source)
        try:
            yield sink
            sink.close()
        except BrokenPipeError:
            pass  # the other side failed, and says why
        finally:
            with suppress(OSError):
                sink.close()
            beside.wait()
        if beside.error is not None:
            raise UnavailableError(f"{place} cannot be written: {beside.error}") from beside.error


@contextmanager
def unsealed(where: Path | Place, identity: x25519.Identity) -> Iterator[BinaryIO]:
    """The content of an envelope, as a stream. Leaving the block reads to the end.

    Raises:
        InputError: it is for somebody else, or was changed or cut; what was read is then worth nothing.
        UnavailableError: it cannot be read to its end; so too.
    """
    place = place_of(where)
    with place.reading() as file:
        source, sink = _pipe()
        beside = _Beside(lambda: _decrypt(file, sink, identity), sink)
        failed: BaseException | None = None
        try:
            yield source
            while source.read(_PIPE_BYTES):
                pass
        except (BulleError, OSError) as error:
            failed = error
        finally:
            source.close()
            beside.wait()
        # Stops: an archive that was cut or changed on its way, of which the part before is believed. Shown by
        # tests/unit/moving/test_envelope.py.
        if (
            beside.error is not None
            and not isinstance(beside.error, BrokenPipeError)
            and "roken pipe" not in str(beside.error)
        ):
            raise InputError(f"{place.name} does not open: {_told(beside.error)}") from beside.error
        if failed is not None:
            raise failed


def _decrypt(file: BinaryIO, sink: BinaryIO, identity: x25519.Identity) -> None:
    pyrage.decrypt_io(file, sink, [identity])
    sink.flush()


def _told(error: Exception) -> str:
    if "No matching keys" in str(error):
        return "it is encrypted for somebody else"
    return "it was changed or cut, or is no age file"

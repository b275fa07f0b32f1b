"""Reading a byte stream message by message, whatever the pieces in which it arrives.

A *program* is a generator that says what it wants next: :class:`Take` so many bytes to look at, :class:`Pass` so
many on unseen, or :class:`Drop` them. Nothing goes on unless the program took or passed it on, and what is held
back is never more than the largest ``Take``.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Take:
    """Hand the program exactly ``size`` bytes, once they are all there."""

    size: int


@dataclass(frozen=True, slots=True)
class Pass:
    """Send the next ``size`` bytes on as they arrive."""

    size: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Throw the next ``size`` bytes away as they arrive."""

    size: int


Program = Generator[Take | Pass | Drop, bytes, None]
"""What is sent in answer to ``Take`` are its bytes; to the others, nothing (``b""``)."""


class Flow:
    """One direction of a connection: bytes in by :meth:`feed`, what may go on out of it."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._out: list[bytes | memoryview] = []
        self._program: Program | None = None
        self._want: Take | Pass | Drop = Take(0)
        self._left = 0

    def run(self, program: Program) -> None:
        """Begin with ``program``."""
        self._program = program
        self._next_want(next(program))

    def emit(self, data: bytes) -> None:
        """Send ``data`` on: what a program calls."""
        self._out.append(data)

    def collect(self) -> bytes:
        """Everything that may go on since the last call."""
        out, self._out = self._out, []
        return b"".join(out)

    def feed(self, data: bytes) -> None:
        """Work through ``data``; the program's exceptions come out here."""
        view, at = memoryview(data), 0
        while True:
            piece = view[at : at + self._left]
            at += len(piece)
            self._left -= len(piece)
            answer = b""
            want = self._want
            if isinstance(want, Take):
                if self._left:
                    self._held += piece
                    return
                answer = bytes(self._held) + bytes(piece) if self._held else bytes(piece)
                self._held.clear()
            else:
                if isinstance(want, Pass) and piece:
                    self._out.append(piece)
                if self._left:
                    return
            if self._program is None:
                raise RuntimeError("a flow needs a program before it is fed")
            self._next_want(self._program.send(answer))

    def _next_want(self, want: Take | Pass | Drop) -> None:
        self._want, self._left = want, want.size

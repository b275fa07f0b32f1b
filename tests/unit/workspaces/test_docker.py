"""The engine's stream format, read from a socket."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.workspaces.docker import _frames


def read(sent: bytes, most: int = 1 << 16) -> tuple[bytes, bytes]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(sent)
        theirs.shutdown(socket.SHUT_WR)
        return _frames(ours, most)


def frame(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxxxL", kind, len(content)) + content


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=50)), max_size=20))
def test_frames_come_apart_as_they_were_put_together(frames: list[tuple[int, bytes]]) -> None:
    output, errors = read(b"".join(frame(kind, content) for kind, content in frames))
    assert output == b"".join(content for kind, content in frames if kind == 1)
    assert errors == b"".join(content for kind, content in frames if kind == 2)


@given(st.integers(1, 20))
def test_a_cut_stream_is_an_error(cut: int) -> None:
    sent = frame(1, b"some answer")
    with pytest.raises(OSError, match="cut short"):
        read(sent[: min(cut, len(sent) - 1)])


def a_long_answer_is_an_error(most: int) -> None:
    with pytest.raises(OSError, match="longer"):
        read(frame(1, b"x" * 101), most=most)


def test_a_long_answer_is_an_error() -> None:
    a_long_answer_is_an_error(100)


def test_negative_control_without_its_bound_a_long_answer_is_held_in_memory() -> None:
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        a_long_answer_is_an_error(1 << 40)

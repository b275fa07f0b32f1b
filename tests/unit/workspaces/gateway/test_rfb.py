"""The filter: known messages pass unchanged however they are cut, all else ends the conversation."""

from __future__ import annotations

import struct
import zlib
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.workspaces.gateway import rfb
from orchestrator.workspaces.gateway.paste import EXTENDED_CLIPBOARD, MAX_PASTE
from tests.unit.workspaces.gateway.conversation import (
    ASK,
    CLIENT_HELLO,
    compact,
    cut_text,
    extended_cut_text,
    rect,
    server_hello,
    update,
    without_name,
)

TEXT = 1
CAPS, REQUEST, PEEK, NOTIFY, PROVIDE = (1 << bit for bit in range(24, 29))


def new(*, paste_in: bool = False) -> rfb.RfbFilter:
    guard = rfb.RfbFilter(paste_in=paste_in)
    hello = guard.from_server(server_hello())
    assert hello.to_client == without_name(server_hello())
    assert guard.from_client(CLIENT_HELLO).to_server == CLIENT_HELLO
    return guard


def noise(length: int, seed: int = 7) -> bytes:
    return bytes((seed * 31 + i * 17) & 0xFF for i in range(length))


def tight(width: int, height: int, control: int, *parts: bytes) -> bytes:
    return rect(rfb.TIGHT, bytes((control,)) + b"".join(parts), width=width, height=height)


RECTS = {
    "raw": rect(rfb.RAW, noise(3 * 5 * 4), width=3, height=5),
    "copy": rect(rfb.COPY_RECT, noise(4), x=1, y=2, width=10, height=10),
    "zrle": rect(rfb.ZRLE, struct.pack(">I", 300) + noise(300), width=64, height=64),
    "zrle, empty": rect(rfb.ZRLE, struct.pack(">I", 0), width=64, height=64),
    "tight fill": tight(200, 100, 0x80, noise(3)),
    "tight jpeg": tight(64, 64, 0x90, compact(20_000), noise(20_000)),
    "tight jpeg, long": tight(64, 64, 0x90, compact(70_000), noise(70_000)),
    "tight basic": tight(64, 64, 0x10, compact(99), noise(99)),
    "tight basic with resets": tight(64, 64, 0x1F, compact(200), noise(200)),
    "tight basic, tiny": tight(1, 3, 0x00, noise(9)),
    "tight copy filter": tight(64, 64, 0x40, b"\x00", compact(5), noise(5)),
    "tight two colours": tight(64, 64, 0x50, b"\x01\x01", noise(6), compact(50), noise(50)),
    "tight two colours, tiny": tight(9, 3, 0x50, b"\x01\x01", noise(6), noise(6)),
    "tight palette": tight(64, 64, 0x60, b"\x01\x0f", noise(48), compact(50), noise(50)),
    "tight palette, tiny": tight(3, 3, 0x60, b"\x01\x02", noise(9), noise(9)),
    "tight gradient": tight(64, 64, 0x70, b"\x02", compact(300), noise(300)),
    "tight, nothing": tight(0, 7, 0x00),
    "cursor": rect(rfb.CURSOR, noise(10 * 3 * 4 + 2 * 3), x=4, y=2, width=10, height=3),
    "no cursor": rect(rfb.CURSOR),
    "vmware cursor": rect(rfb.VMWARE_CURSOR, b"\x01\x00" + noise(8 * 8 * 4), width=8, height=8),
    "vmware cursor, classic": rect(rfb.VMWARE_CURSOR, b"\x00\x00" + noise(8 * 8 * 8), width=8, height=8),
    "extended size": rect(rfb.EXTENDED_DESKTOP_SIZE, b"\x01\0\0\0" + noise(16), x=0, y=0, width=1600, height=900),
    "size": rect(rfb.DESKTOP_SIZE, width=1600, height=900),
}
MESSAGES = [
    *(update(body) for body in RECTS.values()),
    update(*RECTS.values()),
    update(*RECTS.values(), rect(rfb.LAST_RECT), count=0xFFFF),
    update(RECTS["raw"], rect(rfb.LAST_RECT), count=9),
    update(),
    b"\x02",
    b"\x96",
    struct.pack(">B3xIB", 248, 0x80000001, 8) + noise(8),
]
CLIPBOARDS = [
    cut_text(b""),
    cut_text(b"name,age\nx,4"),
    cut_text(noise(70_000)),
    extended_cut_text(CAPS | PROVIDE | TEXT, struct.pack(">I", 0)),
    extended_cut_text(NOTIFY | TEXT),
    extended_cut_text(PROVIDE | TEXT, zlib.compress(b"\0\0\0\5data\0")),
    extended_cut_text(PROVIDE | TEXT, noise(9_000)),
]


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(edges)]


@pytest.mark.parametrize("name", RECTS)
def test_every_known_rectangle_passes_unchanged(name: str) -> None:
    message = update(RECTS[name])
    out = new().from_server(message + b"\x02")
    assert out.to_client == message + b"\x02"


@settings(max_examples=150, deadline=None)
@given(
    chosen=st.lists(st.sampled_from(MESSAGES), min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 1 << 20), max_size=40),
)
def test_however_a_stream_is_cut_the_same_comes_out(chosen: list[bytes], cuts: list[int]) -> None:
    stream = server_hello() + b"".join(chosen)
    guard = rfb.RfbFilter(paste_in=False)
    out = b"".join(guard.from_server(piece).to_client for piece in pieces(stream, cuts))
    assert out == without_name(stream)


def test_byte_by_byte_too() -> None:
    stream = server_hello() + b"".join(message for message in MESSAGES if len(message) < 5_000)
    guard = rfb.RfbFilter(paste_in=False)
    out = b"".join(guard.from_server(stream[i : i + 1]).to_client for i in range(len(stream)))
    assert out == without_name(stream)


@settings(max_examples=150, deadline=None)
@given(
    chosen=st.lists(st.sampled_from(MESSAGES), max_size=4),
    clipboard=st.sampled_from(CLIPBOARDS),
    at=st.integers(0, 4),
    cuts=st.lists(st.integers(0, 1 << 20), max_size=20),
    paste_in=st.booleans(),
)
def test_a_clipboard_between_any_two_messages_vanishes(
    chosen: list[bytes], clipboard: bytes, at: int, cuts: list[int], paste_in: bool
) -> None:
    before, after = b"".join(chosen[:at]), b"".join(chosen[at:])
    guard = rfb.RfbFilter(paste_in=paste_in)
    stream = server_hello() + before + clipboard + after
    out = b"".join(guard.from_server(piece).to_client for piece in pieces(stream, cuts))
    assert out == without_name(server_hello() + before + after)


@settings(max_examples=300, deadline=None)
@given(garbage=st.binary(max_size=3000), cuts=st.lists(st.integers(0, 3000), max_size=10))
def test_what_is_not_understood_never_passes(garbage: bytes, cuts: list[int]) -> None:
    """Of any bytes whatever, what passes is the bytes of messages that are allowed, from the first on."""
    guard = new()
    out = b""
    try:
        for piece in pieces(garbage, cuts):
            out += guard.from_server(piece).to_client
    except rfb.ProtocolError:
        pass
    kinds = {0, 2, 150, 248}
    assert not out or out[0] in kinds
    if garbage and garbage[0] not in kinds | {3}:
        assert out == b""


@settings(max_examples=300, deadline=None)
@given(garbage=st.binary(max_size=3000), cuts=st.lists(st.integers(0, 3000), max_size=10))
def test_garbage_from_the_browser_never_passes(garbage: bytes, cuts: list[int]) -> None:
    guard = new(paste_in=True)
    out = b""
    try:
        for piece in pieces(garbage, cuts):
            out += guard.from_client(piece).to_server
    except rfb.ProtocolError:
        pass
    assert not out or out[0] in {0, 2, 3, 4, 5, 6, 150, 248, 251}
    assert not out or out[0] != 3, "no update may be asked for before the pixel format is set"


@pytest.mark.parametrize("kind", sorted(set(range(256)) - {0, 2, 3, 150, 248}))
def test_any_other_message_of_the_display_ends_the_conversation(kind: int) -> None:
    with pytest.raises(rfb.ProtocolError, match="is not allowed"):
        new().from_server(bytes((kind,)))


@pytest.mark.parametrize("kind", sorted(set(range(256)) - {0, 2, 3, 4, 5, 6, 150, 248, 251}))
def test_any_other_message_of_the_browser_ends_the_conversation(kind: int) -> None:
    with pytest.raises(rfb.ProtocolError, match="is not allowed"):
        new(paste_in=True).from_client(bytes((kind,)))


@pytest.mark.parametrize("encoding", [2, 4, 5, 6, 15, 21, 50, -258, -260, -261, -307, -309, -314, -316, -1])
def test_encodings_outside_the_list_end_the_conversation(encoding: int) -> None:
    with pytest.raises(rfb.ProtocolError, match="encoding"):
        new().from_server(update(rect(encoding, width=8, height=8)))


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (update(tight(8, 8, 0xA0)), "compression"),
        (update(tight(8, 8, 0x40, b"\x03")), "filter"),
        (update(rect(rfb.RAW, x=1599, y=0, width=2, height=1)), "outside"),
        (update(rect(rfb.DESKTOP_SIZE, width=20_000, height=10)), "desktop"),
        (update(rect(rfb.CURSOR, width=2000, height=2000)), "cursor"),
        (update(rect(rfb.VMWARE_CURSOR, b"\x02\x00", width=2, height=2)), "cursor"),
        (struct.pack(">B3xIB", 248, 0, 65), "fence"),
        (struct.pack(">B3xi", 3, -(1 << 31)), "clipboard"),
    ],
)
def test_sizes_and_kinds_out_of_bounds_end_the_conversation(message: bytes, why: str) -> None:
    with pytest.raises(rfb.ProtocolError, match=why):
        new().from_server(message)


@pytest.mark.parametrize(
    "hello",
    [
        b"RFB 003.003\n",
        b"HTTP/1.1 200",
        rfb.VERSION + b"\x00",
        rfb.VERSION + b"\x01\x02",
        rfb.VERSION + b"\x01\x01\0\0\0\1",
    ],
)
def test_another_handshake_is_refused(hello: bytes) -> None:
    with pytest.raises(rfb.ProtocolError):
        rfb.RfbFilter(paste_in=False).from_server(hello + b"\0\0\0\1")


def test_the_desktops_name_is_ours() -> None:
    guard = rfb.RfbFilter(paste_in=False)
    assert b"secret" not in guard.from_server(server_hello(b"secret")).to_client


# --- browser → display


def test_what_a_browser_may_send_passes() -> None:
    messages = [
        ASK,
        struct.pack(">BBxxI", 4, 1, 0x65),
        struct.pack(">BBHH", 5, 1, 10, 20),
        struct.pack(">BBHHHH", 150, 1, 0, 0, 1600, 900),
        struct.pack(">B3xIB", 248, 1, 4) + b"abcd",
        struct.pack(">BxHHBxIHHHHI", 251, 800, 600, 1, 5, 0, 0, 800, 600, 0),
    ]
    stream = b"".join(messages)
    guard = new()
    assert b"".join(guard.from_client(stream[i : i + 1]).to_server for i in range(len(stream))) == stream


def test_only_listed_encodings_are_asked_for() -> None:
    wanted = [7, 16, -260, -261, -307, -309, EXTENDED_CLIPBOARD, -316, -258, 50, 5, 0, 7]
    message = struct.pack(f">BxH{len(wanted)}i", 2, len(wanted), *wanted)
    assert new().from_client(message).to_server == struct.pack(">BxH3i", 2, 3, 7, 16, 0)
    assert new(paste_in=True).from_client(message).to_server == struct.pack(
        ">BxH4i", 2, 4, 7, 16, 0, EXTENDED_CLIPBOARD
    )


@pytest.mark.parametrize(
    "message",
    [
        bytes(4) + struct.pack(">BBBBHHHBBBxxx", 16, 16, 0, 1, 31, 63, 31, 11, 5, 0),
        struct.pack(">BBHHHH", 3, 0, 0, 0, 1600, 900),
        struct.pack(">BBHHHH", 150, 1, 0, 0, 1600, 900),
        ASK + bytes(4) + rfb.PIXEL_FORMAT,
        struct.pack(">BxH", 2, 300),
        struct.pack(">BBHH", 5, 0x80, 1, 1),
        struct.pack(">B3xi", 6, -4),
        struct.pack(">B3xi", 6, MAX_PASTE + 1),
        struct.pack(">B3xi", 6, 2) + b"\xff\xfe",
        struct.pack(">BxHHBxIHHHHI", 251, 8, 8, 2, 0, 0, 0, 8, 8, 0),
    ],
)
def test_a_browser_that_asks_for_more_is_cut_off(message: bytes) -> None:
    with pytest.raises(rfb.ProtocolError):
        new(paste_in=True).from_client(message)


def test_a_desktop_is_never_made_larger_than_the_display_can_hold() -> None:
    message = struct.pack(">BxHHBxIHHHHI", 251, 60_000, 60_000, 1, 5, 0, 0, 60_000, 60_000, 0)
    passed = new().from_client(message).to_server
    assert struct.unpack(">BxHHBxIHHHHI", passed)[1:3] == (7680, 4320)


def test_negative_control_without_its_bound_a_desktop_is_made_as_large_as_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rfb, "MAX_SCREEN", (65_535, 65_535))
    with pytest.raises(AssertionError):
        test_a_desktop_is_never_made_larger_than_the_display_can_hold()


# --- paste in


def paste(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">B3xi", 6, len(data)) + data


def test_pasting_where_it_is_not_allowed_ends_the_conversation() -> None:
    with pytest.raises(rfb.ProtocolError, match="pasting"):
        new().from_client(paste("x"))


def test_pasted_text_is_offered_and_handed_over_when_asked_for_in_unicode() -> None:
    guard = new(paste_in=True)
    answer = guard.from_server(extended_cut_text(CAPS | REQUEST | NOTIFY | PROVIDE | TEXT, bytes(4)))
    assert answer.to_client == b""
    assert _flags(answer.to_server) & CAPS
    assert _flags(guard.from_client(paste("œ 5 €\nz")).to_server) == NOTIFY | TEXT
    handed = guard.from_server(extended_cut_text(REQUEST | TEXT))
    assert handed.to_client == b""
    assert _flags(handed.to_server) == PROVIDE | TEXT
    body = zlib.decompress(handed.to_server[12:])
    assert body == struct.pack(">I", len(body) - 4) + "œ 5 €\r\nz".encode() + b"\0"
    assert _flags(guard.from_server(extended_cut_text(PEEK)).to_server) == NOTIFY | TEXT


def _flags(message: bytes) -> int:
    kind, length, flags = struct.unpack_from(">B3xiI", message)
    assert kind == 6
    assert -length == len(message) - 8 or length == -8
    return int(flags)


def test_the_displays_own_clipboard_is_neither_asked_for_nor_answered() -> None:
    guard = new(paste_in=True)
    guard.from_server(extended_cut_text(CAPS | TEXT, bytes(4)))
    for message in (extended_cut_text(NOTIFY | TEXT), extended_cut_text(PROVIDE | TEXT, b"x")):
        out = guard.from_server(message)
        assert (out.to_client, out.to_server) == (b"", b"")


# --- negative control


def test_without_the_rule_the_clipboard_would_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the control away and the check above must fail: what passes is then the text itself."""
    guard = new()

    def careless() -> rfb.Program:
        head = yield rfb.Take(7)
        guard._to_client.emit(b"\x03" + head)
        yield rfb.Pass(int.from_bytes(head[3:], "big"))

    monkeypatch.setitem(guard._server_messages, 3, careless)
    assert guard.from_server(cut_text(b"secret")).to_client == cut_text(b"secret")

"""Pieces of RFB conversations, for tests."""

from __future__ import annotations

import struct

from orchestrator.workspaces.gateway import rfb

SIZE = (1600, 900)
CLIENT_HELLO = rfb.VERSION + b"\x01\x01"
ASK = (
    bytes(4)
    + rfb.PIXEL_FORMAT
    + struct.pack(">BxH7i", 2, 7, rfb.COPY_RECT, rfb.TIGHT, rfb.ZRLE, rfb.RAW, -26, -224, -239)
    + struct.pack(">BBHHHH", 3, 0, 0, 0, *SIZE)
)
NEXT_UPDATE = struct.pack(">BBHHHH", 3, 1, 0, 0, *SIZE)


def server_hello(name: bytes = b"1234:1 (x)", size: tuple[int, int] = SIZE) -> bytes:
    init = struct.pack(">HH", *size) + struct.pack(">BBBBHHHBBBxxx", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
    return rfb.VERSION + b"\x01\x01" + bytes(4) + init + struct.pack(">I", len(name)) + name


def handshake_length(stream: bytes) -> int:
    """Where messages begin in what a server sent, after its one security type."""
    return 12 + 2 + 4 + 24 + int.from_bytes(stream[38:42], "big")


def without_name(stream: bytes) -> bytes:
    """What a filter makes of a server's handshake: the name is ours."""
    return stream[:38] + struct.pack(">I", len(rfb.NAME)) + rfb.NAME + stream[handshake_length(stream) :]


def update(*rects: bytes, count: int | None = None) -> bytes:
    return struct.pack(">BxH", 0, len(rects) if count is None else count) + b"".join(rects)


def rect(encoding: int, body: bytes = b"", x: int = 0, y: int = 0, width: int = 0, height: int = 0) -> bytes:
    return struct.pack(">HHHHi", x, y, width, height, encoding) + body


def cut_text(text: bytes) -> bytes:
    return struct.pack(">B3xi", 3, len(text)) + text


def extended_cut_text(flags: int, body: bytes = b"") -> bytes:
    payload = struct.pack(">I", flags) + body
    return struct.pack(">B3xi", 3, -len(payload)) + payload


def compact(length: int) -> bytes:
    if length < 0x80:
        return bytes((length,))
    if length < 0x4000:
        return bytes((length & 0x7F | 0x80, length >> 7))
    return bytes((length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14))

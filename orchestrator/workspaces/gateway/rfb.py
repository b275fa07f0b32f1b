"""The bridge's filter: an RFB conversation parsed in both directions, of which only the known goes on.

RFB is the remote framebuffer protocol (RFC 6143; extensions from the community's ``rfbproto``). The picture may leave,
and nothing else: every message is taken apart as far as its size, every encoding that can be asked for is in the
list below, and anything else ends the connection. The server's clipboard and its desktop's name are dropped. Content is
not decoded: pixels are passed on as slices.

Attack stopped: a program in the sandbox that makes the X server speak (clipboard, title, an extension switched on) to
get text out of the workspace into the browser, and a page that asks the server for more than a picture (file transfer,
power off, audio). Tests: ``tests/unit/workspaces/gateway/test_rfb.py``, ``tests/integration/test_gateway.py``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from orchestrator.errors import RefusedError
from orchestrator.workspaces.gateway.paste import EXTENDED_CLIPBOARD, MAX_PASTE, MAX_SERVER_MESSAGE, Paste
from orchestrator.workspaces.gateway.stream import Drop, Flow, Pass, Program, Take

VERSION = b"RFB 003.008\n"
NAME = b"Bulle"

#: the one pixel format: 32 bits, depth 24, little-endian, true colour, red lowest. One format means that the size of
#: every rectangle is known without keeping step with a change of format under way.
PIXEL_FORMAT = struct.pack(">BBBBHHHBBBxxx", 32, 24, 0, 1, 255, 255, 255, 0, 8, 16)
_PIXEL = 4
_TIGHT_PIXEL = 3

RAW, COPY_RECT, TIGHT, ZRLE = 0, 1, 7, 16
CURSOR, VMWARE_CURSOR = -239, 0x574D5664
DESKTOP_SIZE, EXTENDED_DESKTOP_SIZE, LAST_RECT = -223, -308, -224
FENCE, CONTINUOUS_UPDATES = -312, -313
_JPEG_QUALITY, _COMPRESS_LEVEL = range(-32, -22), range(-256, -246)

ENCODINGS = frozenset(
    {
        *(RAW, COPY_RECT, TIGHT, ZRLE, CURSOR, VMWARE_CURSOR),
        *(DESKTOP_SIZE, EXTENDED_DESKTOP_SIZE, LAST_RECT, FENCE, CONTINUOUS_UPDATES),
        *_JPEG_QUALITY,
        *_COMPRESS_LEVEL,
    }
)
"""What a browser may ask the display for. Not: names, clipboards, LEDs, audio, scancodes, file transfer."""

MAX_SIDE = 16384
MAX_SCREEN = (7680, 4320)
"""Largest desktop that a browser may ask for: it costs the display memory."""
MAX_DROP = 64 << 20
_MAX_FENCE = 64
_MAX_ENCODINGS = 256
_MAX_NAME = 4096
_MAX_CURSOR = 1024


class ProtocolError(RefusedError):
    """The conversation left what is allowed; the connection must end."""

    code = "rfb"


@dataclass(frozen=True, slots=True)
class Output:
    """What goes on after a piece of input."""

    to_client: bytes
    to_server: bytes


@dataclass(frozen=True, slots=True)
class _Rect:
    x: int
    y: int
    width: int
    height: int


def _refuse(message: str) -> NoReturn:
    raise ProtocolError(message)


class RfbFilter:
    """One connection between a browser and a display. After an exception it must not be used again.

    Args:
        paste_in: whether text may be pasted into the workspace.
    """

    def __init__(self, *, paste_in: bool) -> None:
        self._paste = Paste() if paste_in else None
        self._to_client, self._to_server = Flow(), Flow()
        self._size = (0, 0)
        self._format_set = False
        self._server_messages: dict[int, Callable[[], Program]] = {
            0: self._framebuffer_update,
            2: self._bell,
            3: self._server_cut_text,
            150: self._end_of_continuous_updates,
            248: self._server_fence,
        }
        self._client_messages: dict[int, Callable[[], Program]] = {
            0: self._set_pixel_format,
            2: self._set_encodings,
            3: self._update_request,
            4: self._key,
            5: self._pointer,
            6: self._client_cut_text,
            150: self._enable_continuous_updates,
            248: self._client_fence,
            251: self._set_desktop_size,
        }
        self._rectangles: dict[int, Callable[[_Rect], Program]] = {
            RAW: self._raw,
            COPY_RECT: self._copy_rect,
            TIGHT: self._tight,
            ZRLE: self._zrle,
            CURSOR: self._cursor,
            VMWARE_CURSOR: self._vmware_cursor,
            DESKTOP_SIZE: self._desktop_size,
            EXTENDED_DESKTOP_SIZE: self._extended_desktop_size,
        }
        self._to_client.run(self._server())
        self._to_server.run(self._client())

    def from_server(self, data: bytes) -> Output:
        """Work through bytes of the display.

        Raises:
            ProtocolError: something that is not allowed; nothing of it goes on.
        """
        self._to_client.feed(data)
        return self._output()

    def from_client(self, data: bytes) -> Output:
        """Work through bytes of the browser.

        Raises:
            ProtocolError: something that is not allowed; nothing of it goes on.
        """
        self._to_server.feed(data)
        return self._output()

    def _output(self) -> Output:
        return Output(self._to_client.collect(), self._to_server.collect())

    # --- display → browser

    def _server(self) -> Program:
        emit = self._to_client.emit
        version = yield Take(len(VERSION))
        if version != VERSION:
            _refuse(f"the display speaks {version!r}, not {VERSION!r}")
        emit(version)
        count = (yield Take(1))[0]
        if 1 not in (yield Take(count)):
            _refuse("the display offers no connection without a password")
        emit(b"\x01\x01")
        result = yield Take(4)
        if any(result):
            _refuse("the display refused the connection")
        emit(result)
        init = yield Take(24)
        width, height, length = struct.unpack(">HH16xI", init)
        if length > _MAX_NAME:
            _refuse(f"the name of the desktop has {length} bytes")
        yield Drop(length)
        self._resize(width, height)
        emit(init[:20] + struct.pack(">I", len(NAME)) + NAME)
        while True:
            kind = (yield Take(1))[0]
            message = self._server_messages.get(kind)
            if message is None:
                _refuse(f"message {kind} of the display is not allowed")
            yield from message()

    def _resize(self, width: int, height: int) -> None:
        if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
            _refuse(f"a desktop of {width}×{height} is not allowed")
        self._size = (width, height)

    def _framebuffer_update(self) -> Program:
        emit = self._to_client.emit
        (count,) = struct.unpack(">xH", (yield Take(3)))
        emit(struct.pack(">BxH", 0, count))
        done = 0
        # 0xffff: as many as come until a LastRect, which may also cut any other count short
        while done < count or count == 0xFFFF:
            head = yield Take(12)
            x, y, width, height, encoding = struct.unpack(">HHHHi", head)
            if encoding == LAST_RECT:
                emit(head)
                return
            body = self._rectangles.get(encoding)
            if body is None:
                _refuse(f"encoding {encoding} of the display is not allowed")
            if encoding >= 0 and encoding != VMWARE_CURSOR:
                self._check_inside(x, y, width, height)
            emit(head)
            yield from body(_Rect(x, y, width, height))
            done += 1

    def _check_inside(self, x: int, y: int, width: int, height: int) -> None:
        if x + width > self._size[0] or y + height > self._size[1]:
            _refuse(f"rectangle {width}×{height}+{x}+{y} lies outside the desktop {self._size[0]}×{self._size[1]}")

    @staticmethod
    def _raw(rect: _Rect) -> Program:
        yield Pass(rect.width * rect.height * _PIXEL)

    @staticmethod
    def _copy_rect(_: _Rect) -> Program:
        yield Pass(4)

    def _zrle(self, _: _Rect) -> Program:
        length = yield Take(4)
        self._to_client.emit(length)
        yield Pass(int.from_bytes(length, "big"))

    def _tight(self, rect: _Rect) -> Program:
        """Tight: a control byte says fill, JPEG, or one of three filters over (perhaps) zlib data."""
        emit = self._to_client.emit
        control = yield Take(1)
        emit(control)
        kind = control[0] >> 4
        if kind == 0b1000:
            yield Pass(_TIGHT_PIXEL)
        elif kind == 0b1001:
            yield from self._compact()
        elif kind < 0b1000:
            size = rect.width * rect.height * _TIGHT_PIXEL
            if kind & 0b0100:
                name = yield Take(1)
                emit(name)
                if name[0] == 1:
                    colours = yield Take(1)
                    emit(colours)
                    yield Pass((colours[0] + 1) * _TIGHT_PIXEL)
                    row = (rect.width + 7) // 8 if colours[0] == 1 else rect.width
                    size = row * rect.height
                elif name[0] not in (0, 2):
                    _refuse(f"filter {name[0]} of the Tight encoding is not allowed")
            if size < 12:
                yield Pass(size)
            else:
                yield from self._compact()
        else:
            _refuse(f"compression {kind} of the Tight encoding is not allowed")

    def _compact(self) -> Program:
        """A length in one to three bytes of seven bits (the third of eight), then as many bytes."""
        length = shift = 0
        while True:
            byte = yield Take(1)
            self._to_client.emit(byte)
            last = shift == 14
            length |= (byte[0] & (0xFF if last else 0x7F)) << shift
            if last or byte[0] < 0x80:
                break
            shift += 7
        yield Pass(length)

    def _cursor(self, rect: _Rect) -> Program:
        self._check_cursor(rect)
        yield Pass(rect.width * rect.height * _PIXEL + (rect.width + 7) // 8 * rect.height)

    def _vmware_cursor(self, rect: _Rect) -> Program:
        self._check_cursor(rect)
        kind = yield Take(2)
        if kind[0] > 1:
            _refuse(f"a cursor of kind {kind[0]} is not allowed")
        self._to_client.emit(bytes((kind[0], 0)))
        yield Pass(rect.width * rect.height * _PIXEL * (2 if kind[0] == 0 else 1))

    @staticmethod
    def _check_cursor(rect: _Rect) -> None:
        if rect.width > _MAX_CURSOR or rect.height > _MAX_CURSOR:
            _refuse(f"a cursor of {rect.width}×{rect.height} is not allowed")

    def _desktop_size(self, rect: _Rect) -> Program:
        self._resize(rect.width, rect.height)
        yield Pass(0)

    def _extended_desktop_size(self, rect: _Rect) -> Program:
        head = yield Take(4)
        self._to_client.emit(head[:1] + bytes(3))
        yield Pass(head[0] * 16)
        refused = rect.x == 1 and rect.y != 0
        if not refused:
            self._resize(rect.width, rect.height)

    def _bell(self) -> Program:
        self._to_client.emit(b"\x02")
        yield Pass(0)

    def _end_of_continuous_updates(self) -> Program:
        self._to_client.emit(b"\x96")
        yield Pass(0)

    def _server_fence(self) -> Program:
        flags, length = struct.unpack(">3xIB", (yield Take(8)))
        if length > _MAX_FENCE:
            _refuse(f"a fence of {length} bytes is not allowed")
        payload = yield Take(length)
        self._to_client.emit(struct.pack(">B3xIB", 248, flags, length) + payload)

    def _server_cut_text(self) -> Program:
        """Clipboard out: dropped, whatever it is. Attack: `xclip` in the sandbox, read in the browser."""
        (length,) = struct.unpack(">3xi", (yield Take(7)))
        if abs(length) > MAX_DROP:
            _refuse(f"a clipboard of {abs(length)} bytes")
        if length < 0 and self._paste is not None and -length <= MAX_SERVER_MESSAGE:
            self._to_server.emit(self._paste.server_says((yield Take(-length))))
        else:
            yield Drop(abs(length))

    # --- browser → display

    def _client(self) -> Program:
        emit = self._to_server.emit
        version = yield Take(len(VERSION))
        if version != VERSION:
            _refuse("the browser speaks another version of RFB")
        emit(version)
        security = yield Take(1)
        if security != b"\x01":
            _refuse("the browser chose a security type that was not offered")
        emit(security)
        yield Take(1)
        emit(b"\x01")  # shared, always: an exclusive connection would end another one
        while True:
            kind = (yield Take(1))[0]
            message = self._client_messages.get(kind)
            if message is None:
                _refuse(f"message {kind} of the browser is not allowed")
            yield from message()

    def _set_pixel_format(self) -> Program:
        if (yield Take(19))[3:] != PIXEL_FORMAT or self._format_set:
            _refuse("the browser asked for another pixel format")
        self._format_set = True
        self._to_server.emit(bytes(4) + PIXEL_FORMAT)

    def _set_encodings(self) -> Program:
        (count,) = struct.unpack(">xH", (yield Take(3)))
        if count > _MAX_ENCODINGS:
            _refuse(f"the browser asked for {count} encodings")
        asked = struct.unpack(f">{count}i", (yield Take(4 * count)))
        allowed = [encoding for encoding in dict.fromkeys(asked) if encoding in ENCODINGS]
        if self._paste is not None:
            allowed.append(EXTENDED_CLIPBOARD)
        self._to_server.emit(struct.pack(f">BxH{len(allowed)}i", 2, len(allowed), *allowed))

    def _require_format(self) -> None:
        if not self._format_set:
            _refuse("the browser asked for a picture before it set the pixel format")

    def _update_request(self) -> Program:
        self._require_format()
        self._to_server.emit(b"\x03" + (yield Take(9)))

    def _enable_continuous_updates(self) -> Program:
        self._require_format()
        self._to_server.emit(b"\x96" + (yield Take(9)))

    def _key(self) -> Program:
        down, keysym = struct.unpack(">B2xI", (yield Take(7)))
        self._to_server.emit(struct.pack(">BBxxI", 4, bool(down), keysym))

    def _pointer(self) -> Program:
        event = yield Take(5)
        if event[0] & 0x80:
            _refuse("an extended pointer event was not offered")
        self._to_server.emit(b"\x05" + event)

    def _client_cut_text(self) -> Program:
        """Paste in. Attack: a paste where the project forbids it, or one that fills the bridge's memory."""
        (length,) = struct.unpack(">3xi", (yield Take(7)))
        if self._paste is None:
            _refuse("pasting in is not allowed in this project")
        if not 0 <= length <= MAX_PASTE:
            _refuse(f"a paste of {length} bytes is not allowed")
        try:
            text = (yield Take(length)).decode()
        except UnicodeDecodeError:
            _refuse("the pasted text is not UTF-8")
        self._to_server.emit(self._paste.offer(text))

    def _client_fence(self) -> Program:
        flags, length = struct.unpack(">3xIB", (yield Take(8)))
        if length > _MAX_FENCE:
            _refuse(f"a fence of {length} bytes is not allowed")
        payload = yield Take(length)
        self._to_server.emit(struct.pack(">B3xIB", 248, flags, length) + payload)

    def _set_desktop_size(self) -> Program:
        width, height, screens = struct.unpack(">xHHBx", (yield Take(7)))
        if screens != 1:
            _refuse(f"a desktop of {screens} screens is not allowed")
        screen, flags = struct.unpack(">I8xI", (yield Take(16)))
        width, height = (min(max(side, 64), most) for side, most in zip((width, height), MAX_SCREEN, strict=True))
        self._to_server.emit(struct.pack(">BxHHBxIHHHHI", 251, width, height, 1, screen, 0, 0, width, height, flags))

"""Pasting in, in Unicode, with nothing coming back.

RFB's plain cut text is Latin-1, which has no "€", "œ" or "’". The *extended clipboard* (the RFB community's
``rfbproto``, pseudo-encoding 0xC0A1E5CE) has all of it, but as a conversation in both directions. The bridge holds
that conversation itself: the page sends it UTF-8 text, the bridge offers the text to the display and hands it over when
an application asks for it. To the browser no clipboard message ever goes, and what the display says about its own
clipboard is neither asked for nor read.
"""

from __future__ import annotations

import struct
import zlib

EXTENDED_CLIPBOARD = -0x3F5E1A32
"""The pseudo-encoding 0xC0A1E5CE as a signed number."""

MAX_PASTE = 1 << 20
"""Bytes of UTF-8 that may be pasted at once."""

MAX_SERVER_MESSAGE = 4096
"""Bytes of the display's side of the conversation that are looked at; it needs about a dozen."""

_TEXT = 1 << 0
_CAPS, _REQUEST, _PEEK, _NOTIFY, _PROVIDE = (1 << bit for bit in (24, 25, 26, 27, 28))


def _message(flags: int, body: bytes = b"") -> bytes:
    payload = struct.pack(">I", flags) + body
    return b"\x06\0\0\0" + struct.pack(">i", -len(payload)) + payload


class Paste:
    """The bridge's side of the extended clipboard; every method returns what to send to the display."""

    def __init__(self) -> None:
        self._text: str | None = None
        self._extended = False

    def offer(self, text: str) -> bytes:
        """Offer ``text`` to the applications of the desktop."""
        self._text = text
        return _message(_NOTIFY | _TEXT) if self._extended else b""

    def server_says(self, payload: bytes) -> bytes:
        """Answer one message of the display: what it can do, what it has, what it wants."""
        if len(payload) < 4:
            return b""
        (flags,) = struct.unpack_from(">I", payload)
        if flags & _CAPS:
            self._extended = True
            can = _message(_CAPS | _REQUEST | _PEEK | _NOTIFY | _PROVIDE | _TEXT, struct.pack(">I", 0))
            return can + (_message(_NOTIFY | _TEXT) if self._text is not None else b"")
        if flags & _REQUEST and flags & _TEXT and self._text is not None:
            return self._provide(self._text)
        if flags & _PEEK:
            return _message(_NOTIFY | (_TEXT if self._text is not None else 0))
        # The display's own clipboard, announced or sent: not wanted, not read.
        return b""

    @staticmethod
    def _provide(text: str) -> bytes:
        lines = text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\n").replace("\0", "")
        data = lines.encode() + b"\0"
        return _message(_PROVIDE | _TEXT, zlib.compress(struct.pack(">I", len(data)) + data))

"""The display: how Xvnc is started, and the cookie file by which X clients prove themselves.

Xvnc is the container's main process: when it dies, the container ends and the session with it. The container has
no network, no data, no home, no capability and a read-only root (see ``docs/gateway.md``).
"""

from __future__ import annotations

import os
import shlex
import struct
import sys
import tempfile
from pathlib import Path

DISPLAY = 1
XAUTHORITY = "/run/bulle/display/Xauthority"
RFB_SOCKET = "/run/bulle/rfb/rfb.sock"
START_SIZE = "1600x900"

_PROTOCOL = b"MIT-MAGIC-COOKIE-1"
_FAMILY_WILD = 0xFFFF

#: extensions that a desktop does without. MIT-SHM cannot work between containers; XTEST and RECORD would let one
#: X client type into and listen to another (also a program that a researcher was tricked into running); X-Resource
#: and DOUBLE-BUFFER, GLX and XVideo are parsers of client data that nothing here needs.
_EXTENSIONS_OFF = ("MIT-SHM", "GLX", "XTEST", "RECORD", "DOUBLE-BUFFER", "X-Resource", "XVideo")


def arguments(*, paste_in: bool) -> list[str]:
    """Command line of Xvnc, the program first.

    Each control names the attack that it stops; ``tests/integration/test_gateway.py`` makes the attacks.
    """
    return [
        "/usr/bin/Xvnc",
        f":{DISPLAY}",
        *("-geometry", START_SIZE),
        *("-depth", "24"),
        # X clients: only with this session's cookie. Stops a process outside the sandbox that reaches the socket.
        *("-auth", XAUTHORITY),
        # X over TCP would be a port that anybody on a shared network namespace (a pod) could try.
        *("-nolisten", "tcp"),
        # The abstract socket belongs to the network namespace, which a pod's containers share: only the socket
        # file in /tmp/.X11-unix, which is handed to the sandbox on purpose.
        *("-nolisten", "local"),
        # RFB: no TCP port, one unix socket that only the bridge is given. Stops every way round the bridge.
        *("-rfbport", "-1"),
        *("-rfbunixpath", RFB_SOCKET),
        *("-rfbunixmode", "0660"),
        # The socket is the authentication: who may open it is decided by its folder and group.
        *("-SecurityTypes", "None"),
        # TigerVNC lets any X client set parameters (`vncconfig -set SendCutText=1`): none may be set.
        "-AllowOverride=",
        # Clipboard out: never offered. Stops copying data out as text; the bridge's filter stands behind it.
        "-SendCutText=0",
        "-SendPrimary=0",
        # Clipboard in: as the project says. The primary selection stays the sandbox's own.
        f"-AcceptCutText={int(paste_in)}",
        "-SetPrimary=0",
        # The window of the browser decides the size; one connection never throws the session away.
        "-AcceptSetDesktopSize=1",
        "-AlwaysShared",
        # When the last X client goes (a desktop that restarts), the server must stay as it is.
        "-noreset",
        # Keys arrive as keysyms, so that what is engraved on the researcher's keyboard is what they get.
        "-RawKeyboard=0",
        # No cut-buffer bell, no screen saver: nobody else sees this screen.
        *("-s", "0"),
        "-dpms",
        "-br",
        # Warnings only: what clients do is not written anywhere.
        *("-Log", "*:stderr:10"),
        *(word for name in _EXTENSIONS_OFF for word in ("-extension", name)),
    ]


def script() -> str:
    """The shell script ``/usr/lib/bulle/display``, which takes ``--paste-in`` or nothing.

    A script made when the image is built, because starting Python here would cost what Xvnc itself costs.
    Without a cookie file Xvnc would let every local client in, so it does not start without one.
    """
    without, allowed = (shlex.join(arguments(paste_in=paste_in)) for paste_in in (False, True))
    return f"""#!/bin/sh
# Made by orchestrator.workspaces.gateway.display; the reasons stand there.
umask 077
if [ ! -s {XAUTHORITY} ]; then
  echo "display: {XAUTHORITY} is missing or empty; write it before the container starts" >&2
  exit 78
fi
case "$*" in
  "") exec {without} ;;
  --paste-in) exec {allowed} ;;
  *) echo "display: unknown arguments: $*" >&2; exit 64 ;;
esac
"""


def xauthority(cookie: bytes, display: int = DISPLAY) -> bytes:
    """One entry of an Xauthority file that fits any host name (family 0xffff).

    The format is four counted fields after the family, big-endian (libXau, ``AuRead.c``).
    """
    if len(cookie) != 16:
        raise ValueError(f"an X cookie has 16 bytes, not {len(cookie)}")
    fields = (b"", str(display).encode(), _PROTOCOL, cookie)
    return struct.pack(">H", _FAMILY_WILD) + b"".join(struct.pack(">H", len(field)) + field for field in fields)


def write_xauthority(path: Path, cookie: bytes, display: int = DISPLAY, *, uid: int | None = None) -> None:
    """Write the cookie file whole, by renaming it into place.

    Args:
        path: where; its folder exists.
        cookie: 16 random bytes, new for each session.
        display: number of the X display.
        uid: who alone may read it; None leaves it to the caller (mode 0400, the caller's).
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".Xauthority-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(xauthority(cookie, display))
            os.fchmod(file.fileno(), 0o400)
            if uid is not None:
                os.fchown(file.fileno(), uid, -1)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


if __name__ == "__main__":
    sys.stdout.write(script())

"""What may be asked of the bridge, and from where: pure rules over a request's headers."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

LANGUAGES = ("en", "fr")

HEADERS: Mapping[str, str] = {
    # Attack: a script or picture from elsewhere in the page that shows the desktop; the page in somebody's frame.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    # Attack: a window that opened the page, or that it opened, reaching into it.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Attack: the workspace's address told to the next site.
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Attack: the page, were it ever taken over, reading the clipboard or recording.
    "Permissions-Policy": "camera=(), clipboard-read=(), display-capture=(), geolocation=(), microphone=(), usb=()",
    "Cache-Control": "no-store",
}


def same_origin(origin: str | None, host: str | None, scheme: str) -> bool:
    """Whether a websocket was opened by a page of the very address that it is asked for.

    Attack: another site's page that opens the websocket with the visitor's cookies.

    Args:
        origin: the ``Origin`` header; a browser always sends it with a websocket, so none is a refusal.
        host: the ``Host`` header, as the browser sent it.
        scheme: ``http`` or ``https``, as the browser used.
    """
    if not origin or not host:
        return False
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return origin == f"{parts.scheme}://{parts.netloc}" and parts.scheme == scheme and parts.netloc == host.lower()


def own_page_asks(headers: Mapping[str, str]) -> bool:
    """Whether a request for part of a page comes from the bridge's own page, as far as the browser says."""
    return headers.get("Sec-Fetch-Site", "same-origin") == "same-origin"


def language(accept: str) -> str:
    """The best language for an ``Accept-Language`` header (RFC 9110, 12.5.4)."""
    best, weight = LANGUAGES[0], 0.0
    for item in accept.split(",")[:20]:
        tag, _, quality = item.partition(";")
        name = tag.strip().lower().split("-")[0]
        try:
            q = float(quality.strip().removeprefix("q=")) if quality.strip() else 1.0
        except ValueError:
            continue
        if name in LANGUAGES and q > weight:
            best, weight = name, q
    return best

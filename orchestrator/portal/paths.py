"""Paths of the portal's pages, checked before anything is asked about them or led to."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from starlette.requests import Request

from orchestrator.errors import NotFoundError
from orchestrator.portal.hub import PREFIX

_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
#: what follows a form, and so can be no page to go to
_FORMS = tuple(f"{PREFIX}{part}" for part in ("act/", "logout", "open/", "stop/"))


def path_of(request: Request) -> str:
    """The path of the page that is asked for, with its query."""
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


def slug_of(request: Request) -> str:
    """The project that an address names. Raises NotFoundError where no project can have that name."""
    slug = str(request.path_params["slug"])
    if not _SLUG.fullmatch(slug):
        raise NotFoundError("no such project")
    return slug


def local_path(text: str) -> str | None:
    """``text`` if it is the path of a page of ours, perhaps with a query; else None.

    Stops a form that leads elsewhere when it is done (open redirect). Shown by tests/unit/portal/test_acting.py, which
    leaves it out.
    """
    if len(text) > 1000 or not text.startswith(PREFIX) or not re.fullmatch(r"[\x21\x22\x24-\x5b\x5d-\x7e]+", text):
        return None
    parts = urlsplit(text)
    plain = unquote(parts.path)
    if (
        parts.scheme
        or parts.netloc
        or any(word in plain for word in ("//", "\\", "/../", "/./"))
        or plain.endswith(("/..", "/."))
        or plain.startswith(_FORMS)
    ):
        return None
    return text

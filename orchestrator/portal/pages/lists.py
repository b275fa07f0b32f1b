"""What pages with long lists share: the words of a search, the next page, the address of either."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar
from urllib.parse import urlencode

from starlette.requests import Request

from orchestrator.portal.hub import PREFIX

Line = TypeVar("Line")


def _marked(text: str) -> str:
    """Mark ``text`` for the catalogues of the languages."""
    return text


#: the choice that does not narrow
ANY = _marked("Any")


def word(request: Request, name: str) -> str:
    """What the reader typed into a field of a search, on one line; empty where there is none."""
    return " ".join(request.query_params.get(name, "").split())[:100]


def local(path: str, **query: str | int | None) -> str:
    """The address of a page of ours, with what is not empty of ``query``."""
    given = {name: value for name, value in query.items() if value not in (None, "")}
    return f"{PREFIX}{path}" + (f"?{urlencode(given)}" if given else "")


def cut(found: Sequence[Line], most: int) -> tuple[Sequence[Line], bool]:
    """The first ``most``, and whether there are more: ask for one more than is shown."""
    return found[:most], len(found) > most

"""What is presented with a person's call besides its arguments: a passkey's signature, an API token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Presented:
    """What came with the call that is being performed, besides its arguments."""

    #: an assertion of a passkey, as the browser gave it: unverified. ``Decisions._decide`` reads it.
    signature: Mapping[str, Any] | None = None
    #: id of the API token under which the person acts
    token: str | None = None


_NOTHING = Presented()
_presented: ContextVar[Presented] = ContextVar("bulle_presented", default=_NOTHING)


def presented() -> Presented:
    """What came with the call that is being performed."""
    return _presented.get()


@contextmanager
def presenting(*, signature: Mapping[str, Any] | None = None, token: str | None = None) -> Iterator[None]:
    """Within it, :func:`presented` tells these. The caller's thread, and no other, sees them."""
    reset = _presented.set(Presented(signature, token))
    try:
        yield
    finally:
        _presented.reset(reset)

"""What the node agent needs of other rooms, as small protocols, so that each can be tested for itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Protocol

from orchestrator.governance.cards import ClosingDone, ClosingDue, ClosingReceipt, NodeReport
from orchestrator.terms import Event, Grant, SessionClaim, SessionVerdict

#: rows done, and rows in all (0: not known)
Progress = Callable[[int, int], None]


class Keys(Protocol):
    """The ring of wrapped keys (:class:`orchestrator.keys.KeyRing`)."""

    def get(self, key_id: str) -> bytes:
        """Unwrap a key."""

    def get_or_create(self, key_id: str) -> bytes:
        """Unwrap a key, made on first use."""

    def exists(self, key_id: str) -> bool:
        """Whether there is one."""

    def destroy(self, key_id: str) -> None:
        """Overwrite it and remove it."""


class Authority(Protocol):
    """The authority as the node agent may ask it
    (:class:`orchestrator.governance.client.AuthorityClient`)."""

    def record(self, event: Event) -> int:
        """Write an event; raises when it could not be written."""

    def check_sessions(self, claims: Iterable[SessionClaim]) -> list[SessionVerdict]:
        """Whether each running session is still allowed."""


class UsageDesk(Protocol):
    """The authority as it is told of usage."""

    def report_usage(self, report: NodeReport) -> None:
        """Tell what was measured."""


class ClosingDesk(Protocol):
    """The authority as it says what is to be done for closed projects."""

    def closings(self) -> list[ClosingDue]:
        """What is due now."""

    def closed(self, project_id: str, done: ClosingDone) -> ClosingReceipt:
        """Tell what was done; with destroyed keys, it answers the certificate."""


class NodeAuthority(Authority, UsageDesk, ClosingDesk, Protocol):
    """All that the node agent asks of the authority."""


class ViewBuilder(Protocol):
    """Makes a permit real (:func:`orchestrator.data.view.build_view`, with keys and settings bound)."""

    def required_keys(self, grant: Grant) -> list[str]:
        """Ids of the keys that the view needs; no more are released."""

    def build(self, grant: Grant, released: Collection[str], target: Path, progress: Progress) -> None:
        """Write the view's files below ``target``, opening no key but those of ``released``."""

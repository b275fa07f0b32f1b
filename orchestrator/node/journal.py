"""What the node agent tells the audit log. Before an action; if it cannot be written, the action does not
happen."""

from __future__ import annotations

import logging
import threading
from typing import Any

from orchestrator.errors import BulleError
from orchestrator.node.ports import Authority
from orchestrator.terms import Event, Grant, Outcome

ACTOR = "node-agent"

_log = logging.getLogger(__name__)


def event_of(
    kind: str, outcome: Outcome, grant: Grant | None = None, *, project: str | None = None, **detail: Any
) -> Event:
    """An event by the node agent, about the person, project and session of ``grant``, or about a project (slug)."""
    about = {"project": project} if project is not None else {}
    if grant is not None:
        about = {"person": grant.person, "project": grant.project, "session": grant.session}
    return Event(kind=kind, actor=ACTOR, outcome=outcome, detail=detail, **about)


class Journal:
    """Writes events through the authority."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._late: list[Event] = []
        self._guard = threading.Lock()

    @property
    def waiting(self) -> int:
        """How many events could not be written yet."""
        return len(self._late)

    def before(self, kind: str, grant: Grant | None = None, **detail: Any) -> None:
        """Write that something begins.

        Raises:
            BulleError: it was not written, so it must not be done.
        """
        self._authority.record(event_of(kind, Outcome.STARTED, grant, **detail))

    def done(self, kind: str, grant: Grant | None = None, **detail: Any) -> None:
        """Write what has come about; raises like :meth:`before`."""
        self._authority.record(event_of(kind, Outcome.DONE, grant, **detail))

    def after(self, kind: str, outcome: Outcome, grant: Grant | None = None, **detail: Any) -> None:
        """Write how something ended that could not be held back (a stop, a failure); later, if not now."""
        with self._guard:
            self._late.append(event_of(kind, outcome, grant, **detail))
        self.catch_up()

    def catch_up(self) -> None:
        """Write what could not be written before, in order."""
        with self._guard:
            while self._late:
                try:
                    self._authority.record(self._late[0])
                except BulleError as error:
                    if error.code == "unavailable":
                        return
                    # An event that the authority does not take must not stop those behind it.
                    _log.error("event %s was refused by the authority: %s", self._late[0].kind, error)
                del self._late[0]

"""What the authority says of the sessions that run, and what follows when it says nothing.

The one question behind the watch of a machine, that of a cluster's node, and that of the door of a cluster: each has
its own way to end a session, and all have the same reasons.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Protocol

from orchestrator.errors import BulleError
from orchestrator.terms import Grant, SessionClaim, SessionVerdict

_log = logging.getLogger(__name__)

#: seconds without an answer of the authority after which everything stops
PATIENCE = 30.0


class Asked(Protocol):
    """The authority, as far as it is asked here."""

    def check_sessions(self, claims: Iterable[SessionClaim]) -> list[SessionVerdict]:
        """Whether each running session is still allowed."""


def claim_of(grant: Grant) -> SessionClaim:
    """What the authority is asked about a session."""
    return SessionClaim(
        session=grant.session,
        person=grant.person,
        project_id=grant.project_id,
        permit_version=grant.permit.version,
    )


class Asking:
    """Asks about sessions, and knows how long nothing was heard."""

    def __init__(self, authority: Asked) -> None:
        self._authority = authority
        self._answered = self._compared = time.monotonic()

    @property
    def age(self) -> float:
        """Seconds since what runs was last compared with what is allowed."""
        return time.monotonic() - self._compared

    @property
    def silence(self) -> float:
        """Seconds since the authority last answered."""
        return time.monotonic() - self._answered

    def compared(self) -> None:
        """What was answered has been acted on."""
        self._compared = time.monotonic()

    def refused(self, claims: Iterable[SessionClaim]) -> dict[str, str]:
        """Of the sessions of ``claims`` those that must not go on, and why.

        A session without a verdict is not allowed. After :data:`PATIENCE` seconds without an answer none is; an
        authority that answers with errors alone is a silent one.
        """
        asked = list(claims)
        try:
            verdicts = self._authority.check_sessions(asked)
        except BulleError as error:
            silent = self.silence
            _log.warning("the authority was not heard for %.0f s: %s", silent, error)
            if silent <= PATIENCE:
                return {}
            return dict.fromkeys((claim.session for claim in asked), "the authority cannot be asked")
        self._answered = time.monotonic()
        said = {verdict.session: verdict for verdict in verdicts}
        return {
            claim.session: (said[claim.session].reason or "refused") if claim.session in said else "no verdict"
            for claim in asked
            if claim.session not in said or not said[claim.session].allowed
        }

"""Governance as one object: people, projects, permits, and access."""

from __future__ import annotations

from orchestrator.governance.accounts import Accounts
from orchestrator.governance.applications import Applications
from orchestrator.governance.auditing import Auditing
from orchestrator.governance.closing import Closing
from orchestrator.governance.decisions import Decisions
from orchestrator.governance.inbox import Inbox
from orchestrator.governance.memberships import Memberships
from orchestrator.governance.moving import Moving
from orchestrator.governance.notices import Notices
from orchestrator.governance.people import People
from orchestrator.governance.permits import Permits
from orchestrator.governance.projects import Projects
from orchestrator.governance.reading import Reading
from orchestrator.governance.sessions import Sessions
from orchestrator.governance.shelf import Shelf
from orchestrator.governance.tokens import Tokens
from orchestrator.governance.usage import Usage


class Governance(
    Reading,
    People,
    Projects,
    Memberships,
    Permits,
    Sessions,
    Accounts,
    Applications,
    Closing,
    Decisions,
    Tokens,
    Inbox,
    Notices,
    Usage,
    Auditing,
    Shelf,
    Moving,
):
    """Who may do what. Every method that changes something takes who does it as ``by``: a person's id, or
    one of :data:`orchestrator.governance.identity.OPERATOR` and ``HUB``.

    ``Governance(store, audit, clock, catalogue, policy)``: the store must have been prepared; ``clock`` gives aware
    moments. Changes raise RefusedError (a rule, named), InputError, NotFoundError, ConflictError,
    AuditError (nothing was changed) and UnavailableError.
    """

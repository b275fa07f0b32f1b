"""Governance as one object: people, projects, permits, and access."""

from __future__ import annotations

from orchestrator.governance.people import People
from orchestrator.governance.permits import Permits
from orchestrator.governance.projects import Projects
from orchestrator.governance.sessions import Sessions


class Governance(People, Projects, Permits, Sessions):
    """Who may do what. Every method that changes something takes who does it as ``by``: a person's id, or
    one of :data:`orchestrator.governance.identity.OPERATOR` and ``HUB``.

    ``Governance(store, audit, clock, catalogue)``: the store must have been prepared; ``clock`` gives aware
    moments. Changes raise RefusedError (a rule, named), InputError, NotFoundError, ConflictError,
    AuditError (nothing was changed) and UnavailableError.
    """

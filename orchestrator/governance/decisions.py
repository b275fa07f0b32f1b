"""Two people for one decision, passkeys, and decisions that are signatures."""

from __future__ import annotations

from orchestrator.governance.desk import Desk


class Decisions(Desk):
    """Part of Governance: see the module."""

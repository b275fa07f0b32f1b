"""What people may read of projects, by the rules."""

from __future__ import annotations

from orchestrator.governance.desk import Desk


class Reading(Desk):
    """Part of Governance: see the module."""

"""Reading the audit log."""

from __future__ import annotations

from orchestrator.governance.desk import Desk


class Auditing(Desk):
    """Part of Governance: see the module."""

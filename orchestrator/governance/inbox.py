"""What waits for a person."""

from __future__ import annotations

from orchestrator.governance.desk import Desk


class Inbox(Desk):
    """Part of Governance: see the module."""

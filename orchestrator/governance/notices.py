"""What people are told: reminders and news, once each."""

from __future__ import annotations

from orchestrator.governance.desk import Desk


class Notices(Desk):
    """Part of Governance: see the module."""

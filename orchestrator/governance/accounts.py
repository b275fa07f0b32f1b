"""A person's own account: terms of use and training."""

from __future__ import annotations

from orchestrator.governance.desk import Desk


class Accounts(Desk):
    """Part of Governance: see the module."""

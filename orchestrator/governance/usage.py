"""What sessions use, what it costs, and quotas."""

from __future__ import annotations

from orchestrator.governance.desk import Desk


class Usage(Desk):
    """Part of Governance: see the module."""

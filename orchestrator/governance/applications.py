"""Applications: for a project, an amendment, a renewal; checked and decided."""

from __future__ import annotations

from orchestrator.governance.desk import Desk


class Applications(Desk):
    """Part of Governance: see the module."""

"""The catalogue of datasets, without rows."""

from __future__ import annotations

from orchestrator.governance.desk import Desk


class Shelf(Desk):
    """Part of Governance: see the module."""

"""What follows a project's closing: archive, retention, destroyed keys, proof."""

from __future__ import annotations

from orchestrator.governance.desk import Desk


class Closing(Desk):
    """Part of Governance: see the module."""

"""Tokens for the REST API."""

from __future__ import annotations

from orchestrator.governance.desk import Desk


class Tokens(Desk):
    """Part of Governance: see the module."""

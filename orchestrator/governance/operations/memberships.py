"""Operations: memberships."""

from __future__ import annotations

from orchestrator.governance.operations.declared import Operation

OPERATIONS: tuple[Operation, ...] = ()

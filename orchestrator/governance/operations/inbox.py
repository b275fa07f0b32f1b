"""Operations: what waits for the person who asks."""

from __future__ import annotations

from orchestrator.governance.cards import Waiting
from orchestrator.governance.operations.declared import Nothing, Operation, Scope

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        name="inbox.read",
        method="GET",
        path="/inbox",
        summary="All that waits for you, what is due first at the top.",
        scope=Scope.READ,
        arguments=Nothing,
        answer=list[Waiting],
        run=lambda governance, by, arguments: governance.inbox(by),
    ),
)

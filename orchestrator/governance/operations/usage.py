"""Operations: usage, quotas and health."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from orchestrator.governance.cards import Health, Month, UsagePage
from orchestrator.governance.costs import QuotaKind
from orchestrator.governance.operations.declared import Nothing, Operation, Scope
from orchestrator.terms import Value


class UsageWanted(Value):
    """Of which month (this one), and of which project (all that the reader may see)."""

    month: Month | None = None
    project: Annotated[str, Field(max_length=64)] | None = None


class QuotaWanted(Value):
    """A project's own limit; without ``most``, the deployment's applies again."""

    project: Annotated[str, Field(max_length=64)]
    kind: QuotaKind
    most: Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)] | None = None


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        name="usage.read",
        method="GET",
        path="/usage",
        summary="What was used in a month and what it costs, as far as one may see it.",
        scope=Scope.READ,
        arguments=UsageWanted,
        answer=UsagePage,
        run=lambda governance, by, told: governance.usage(by, told.month, told.project),
    ),
    Operation(
        name="quota.set",
        method="PUT",
        path="/projects/{project}/quotas/{kind}",
        summary="Limit what a project may use in a month, or hold.",
        scope=Scope.ADMIN,
        arguments=QuotaWanted,
        answer=None,
        run=lambda governance, by, told: governance.set_quota(by, told.project, told.kind, told.most),
    ),
    Operation(
        name="health.read",
        method="GET",
        path="/health",
        summary="How the machine and the deployment do.",
        scope=Scope.READ,
        arguments=Nothing,
        answer=Health,
        run=lambda governance, by, told: governance.health(by),
    ),
)

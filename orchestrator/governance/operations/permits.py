"""Operations: permits."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, Field

from orchestrator.governance.operations.declared import Operation, Scope
from orchestrator.governance.operations.projects import OneProject
from orchestrator.governance.permits import PermitDraft
from orchestrator.terms import TablePermit


class Drafting(OneProject):
    """What a project is to see, and when."""

    valid_from: AwareDatetime
    valid_until: AwareDatetime
    tables: Annotated[tuple[TablePermit, ...], Field(min_length=1, max_length=50)]


class OnePermit(OneProject):
    """One version of a project's permit."""

    version: Annotated[int, Field(ge=1, le=1_000_000)]


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "permit.draft",
        "POST",
        "/projects/{project}/permits",
        "Propose what a project may see; answers the version",
        Scope.PROJECTS,
        Drafting,
        int,
        lambda governance, by, asked: governance.draft_permit(
            by,
            asked.project,
            PermitDraft(valid_from=asked.valid_from, valid_until=asked.valid_until, tables=asked.tables),
        ),
    ),
    Operation(
        "permit.approve",
        "POST",
        "/projects/{project}/permits/{version}/approve",
        "Put a permit into effect in place of the one before",
        Scope.DECIDE,
        OnePermit,
        None,
        lambda governance, by, asked: governance.approve_permit(by, asked.project, asked.version),
    ),
    Operation(
        "permit.revoke",
        "POST",
        "/projects/{project}/permits/{version}/revoke",
        "Take a permit back; what runs under it ends",
        Scope.PROJECTS,
        OnePermit,
        None,
        lambda governance, by, asked: governance.revoke_permit(by, asked.project, asked.version),
    ),
)

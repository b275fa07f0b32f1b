"""Everything that a person can do or read, declared once.

The portal's pages, the REST API, ``bulle call`` and the authority's socket all take an operation by its name from
:data:`OPERATIONS`: there is no second way, so no rule can be got round by asking elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from orchestrator.governance.operations import (
    accounts,
    applications,
    auditing,
    catalogue,
    decisions,
    inbox,
    memberships,
    people,
    permits,
    projects,
    tokens,
    usage,
)
from orchestrator.governance.operations.declared import Operation, Scope

__all__ = ["OPERATIONS", "Operation", "Scope", "gathered", "printed_operations"]


def gathered(*areas: Iterable[Operation]) -> Mapping[str, Operation]:
    """The operations of all areas by name. Raises ValueError where two share a name, or a method and path."""
    found: dict[str, Operation] = {}
    places: set[tuple[str, str]] = set()
    for area in areas:
        for operation in area:
            place = (operation.method, operation.path)
            if operation.name in found or place in places:
                raise ValueError(f"two operations are called {operation.name}, or lie at {place}")
            found[operation.name] = operation
            places.add(place)
    return MappingProxyType(found)


OPERATIONS: Mapping[str, Operation] = gathered(
    people.OPERATIONS,
    accounts.OPERATIONS,
    memberships.OPERATIONS,
    applications.OPERATIONS,
    projects.OPERATIONS,
    permits.OPERATIONS,
    inbox.OPERATIONS,
    decisions.OPERATIONS,
    tokens.OPERATIONS,
    catalogue.OPERATIONS,
    auditing.OPERATIONS,
    usage.OPERATIONS,
)


def printed_operations(operations: Mapping[str, Operation] = OPERATIONS) -> str:
    """The table in Markdown, as docs/api.md holds it."""
    lines = ["| operation | address | scope | what it does |", "|---|---|---|---|"]
    for name, operation in sorted(operations.items()):
        address = f"`{operation.method} {operation.path}`" if operation.scope is not None else "in the browser only"
        lines.append(f"| `{name}` | {address} | {operation.scope or ''} | {operation.summary.rstrip('.')} |")
    return "\n".join(lines)

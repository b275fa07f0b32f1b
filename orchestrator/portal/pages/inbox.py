"""The pages of inbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.routing import Route

from orchestrator.portal.acting import Act

if TYPE_CHECKING:
    from orchestrator.portal.application import Portal

ACTS: tuple[Act, ...] = ()


def routes(portal: Portal) -> list[Route]:
    """Their routes."""
    return []

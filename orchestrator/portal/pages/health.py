"""The page on how the deployment does."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orchestrator.governance.cards import Health, NodeHealth
from orchestrator.pages.languages import Language
from orchestrator.portal.acting import Act
from orchestrator.portal.sessions import Session

if TYPE_CHECKING:
    from orchestrator.portal.application import Portal

ACTS: tuple[Act, ...] = ()
#: the node agent reports every few seconds; workspaces stop when it cannot for as long as this
_SILENT = timedelta(seconds=30)


def _marked(text: str) -> str:
    """Mark ``text`` for the catalogues of the languages."""
    return text


_PROCESSORS = _marked("Load, of processors")
_MEMORY = _marked("Memory in use, GB")
_STORAGE = _marked("Storage in use, GB")
_OF = _marked("%(used)s of %(most)s")


def routes(portal: Portal) -> list[Route]:
    """Their routes."""
    return [Route("/platform", portal.own(Platform(portal).read), name="platform")]


@dataclass(frozen=True)
class Capacity:
    """How much of one thing is in use."""

    kind: str
    name: str
    used: float
    most: float
    text: str


class Platform:
    """The page of the deployment's health."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal

    async def read(self, request: Request, session: Session) -> Response:
        """The machine, what runs on it, and what waits to be sent."""
        health: Health = await self._portal.call(session, "health.read")
        heard_at = health.node.heard_at
        return await self._portal.page(
            request,
            session,
            "platform.html",
            here="platform",
            health=health,
            heard=heard_at is not None and datetime.now(UTC) - heard_at < _SILENT,
            capacity=_capacity(health.node, self._portal.language(request)),
        )


def _capacity(node: NodeHealth, reader: Language) -> list[Capacity]:
    figures = (
        ("processors", _PROCESSORS, node.load, node.cpus),
        ("memory", _MEMORY, node.memory_total_gb - node.memory_free_gb, node.memory_total_gb),
        ("storage", _STORAGE, node.storage_total_gb - node.storage_free_gb, node.storage_total_gb),
    )
    return [
        Capacity(kind, name, used, most, reader.text(_OF, used=_round(reader, used), most=_round(reader, most)))
        for kind, name, used, most in figures
        if most > 0
    ]


def _round(reader: Language, value: float) -> str:
    return reader.number(round(value, 1))

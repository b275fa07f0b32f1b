"""My projects, and the pages of a project."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orchestrator.portal.acting import Act
from orchestrator.portal.hub import server_url
from orchestrator.portal.sessions import Session

if TYPE_CHECKING:
    from orchestrator.portal.application import Portal

ACTS: tuple[Act, ...] = ()


def routes(portal: Portal) -> list[Route]:
    """Their routes."""
    pages = Projects(portal)
    return [Route("/", portal.own(pages.home), name="home")]


class Projects:
    """Pages that read a person's projects."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal

    async def home(self, request: Request, session: Session) -> Response:
        """My projects."""
        projects, servers = await asyncio.gather(
            self._portal.authority.projects(session.person),
            self._portal.hub.servers(session.token, session.person),
        )
        return await self._portal.page(
            request,
            session,
            "home.html",
            here="home",
            projects=projects,
            servers=servers,
            url=lambda slug: server_url(session.person, slug),
        )

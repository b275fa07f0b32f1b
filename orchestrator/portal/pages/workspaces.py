"""A workspace from the click to the desktop, and its end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from orchestrator.errors import NotFoundError
from orchestrator.governance.cards import ProjectCard
from orchestrator.portal.acting import Act
from orchestrator.portal.hub import PREFIX, server_url
from orchestrator.portal.paths import slug_of
from orchestrator.portal.progress import relayed
from orchestrator.portal.sessions import Session

if TYPE_CHECKING:
    from orchestrator.portal.application import Portal

ACTS: tuple[Act, ...] = ()


def routes(portal: Portal) -> list[Route]:
    """Their routes."""
    pages = Workspaces(portal)
    return [
        Route("/open/{slug}", portal.own(pages.open, form=True), methods=["POST"], name="open"),
        Route("/start/{slug}", portal.own(pages.start), name="start"),
        Route("/start/{slug}/events", portal.own(pages.events, page=False), name="events"),
        Route("/stop/{slug}", portal.own(pages.stop, form=True), methods=["POST"], name="stop"),
    ]


class Workspaces:
    """Starts and stops a person's workspaces with that person's own token."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal

    async def open(self, request: Request, session: Session) -> Response:
        """Start a workspace and answer at once with the page that shows how it starts."""
        slug = slug_of(request)
        self._portal.starts.begin(session, slug)
        return RedirectResponse(f"{PREFIX}start/{slug}", 303)

    async def start(self, request: Request, session: Session) -> Response:
        """The steps of a start as they happen; a workspace that is up is gone to."""
        slug = slug_of(request)
        project, servers = await asyncio.gather(
            self._project(session, slug), self._portal.hub.servers(session.token, session.person)
        )
        server = servers.get(slug)
        if server is not None and server.ready:
            return RedirectResponse(server_url(session.person, slug), 302)
        return await self._portal.page(request, session, "start.html", project=project, slug=slug)

    async def events(self, request: Request, session: Session) -> Response:
        """The same steps as a stream of events (Server-Sent Events, WHATWG HTML, section 9.2)."""
        slug = slug_of(request)
        reader = self._portal.language(request)

        async def stream() -> AsyncIterator[bytes]:
            told: dict[str, Any] = {}
            async with aclosing(self._portal.starts.find(session, slug).events()) as events:
                async for event in events:
                    told = relayed(event, server_url(session.person, slug), reader)
                    if told:
                        yield _event(told)
            if "ready" not in told and "failed" not in told:
                yield _event({"gone": True})

        return StreamingResponse(stream(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    async def stop(self, request: Request, session: Session) -> Response:
        """Stop a workspace, or break off its start."""
        slug = slug_of(request)
        self._portal.starts.forget(session, slug)
        await self._portal.hub.stop(session.token, session.person, slug)
        return RedirectResponse(PREFIX, 303)

    async def _project(self, session: Session, slug: str) -> ProjectCard:
        for project in await self._portal.authority.projects(session.person):
            if project.slug == slug:
                return project
        raise NotFoundError(f"you have no project '{slug}'")


def _event(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()

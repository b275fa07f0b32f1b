"""What waits for a person, each with the way to where it is done."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orchestrator.governance.cards import Waiting
from orchestrator.portal.acting import Act
from orchestrator.portal.hub import PREFIX
from orchestrator.portal.sessions import Session

if TYPE_CHECKING:
    from orchestrator.portal.application import Portal

ACTS: tuple[Act, ...] = ()


def routes(portal: Portal) -> list[Route]:
    """Their routes."""
    return [Route("/inbox", portal.own(Inbox(portal).read), name="inbox")]


class Inbox:
    """The page that reads it."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal

    async def read(self, request: Request, session: Session) -> Response:
        """All of it, what is due first at the top."""
        visitor = await self._portal.visitor(session)
        return await self._portal.page(
            request, session, "inbox.html", here="inbox", visitor=visitor, lines=visitor.inbox, leads=where
        )


def where(waiting: Waiting) -> str:
    """The address of the page on which it is done."""
    person = quote(waiting.person or "", safe="")
    project = f"projects/{waiting.project}"
    application = f"applications/{waiting.project}/{waiting.number}"
    places = {
        "terms": "account#terms",
        "training": "account#trainings",
        "invitation": "",
        "application-returned": f"{application}/edit",
        "application-check": application,
        "application-decide": application,
        "permit-approve": f"{project}/permit?version={waiting.number}",
        "project-activate": project,
        "renewal": f"{project}/applications",
        "quota": f"usage?project={waiting.project}",
    }
    if waiting.kind in places:
        return PREFIX + places[waiting.kind]
    if waiting.project is None:
        return PREFIX + (f"people/{person}" if person else "")
    return PREFIX + (f"{project}/people#member-{person}" if person else project)

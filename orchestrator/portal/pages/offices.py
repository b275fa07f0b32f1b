"""The list of all projects, for people in office."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orchestrator.governance.states import ProjectState
from orchestrator.portal import words
from orchestrator.portal.acting import Act
from orchestrator.portal.pages.lists import ANY, cut, local, word
from orchestrator.portal.sessions import Session

if TYPE_CHECKING:
    from orchestrator.portal.application import Portal

ACTS: tuple[Act, ...] = ()
#: projects on a page
_PAGE = 50


def routes(portal: Portal) -> list[Route]:
    """Their routes."""
    return [Route("/projects", portal.own(Offices(portal).projects), name="projects")]


class Offices:
    """Pages that read every project."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal

    async def projects(self, request: Request, session: Session) -> Response:
        """Every project, a page at a time."""
        search, after, state = word(request, "search"), word(request, "after"), word(request, "state")
        # A state that is none asks for all, as the empty choice does: the list says which choice it shows.
        state = state if state in set(ProjectState) else ""
        reader = self._portal.language(request)
        found = await self._portal.call(
            session, "projects.list", search=search, state=state or None, after=after, limit=_PAGE + 1
        )
        projects, more = cut(found, _PAGE)
        return await self._portal.page(
            request,
            session,
            "projects.html",
            here="projects",
            projects=projects,
            search=search,
            state=state,
            states=[
                ("", reader.text(ANY)),
                *((each, reader.text(words.PROJECT_STATES[each])) for each in ProjectState),
            ],
            first=local("projects", search=search, state=state) if after else None,
            next=local("projects", search=search, state=state, after=projects[-1].slug) if more else None,
        )

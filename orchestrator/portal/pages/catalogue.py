"""The pages of the catalogue: what datasets there are and what their columns mean, and no row of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orchestrator.errors import NotFoundError
from orchestrator.portal.acting import Act
from orchestrator.portal.pages.lists import local, word
from orchestrator.portal.sessions import Session

if TYPE_CHECKING:
    from orchestrator.portal.application import Portal

ACTS: tuple[Act, ...] = ()
_DATASET = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,38}[a-z0-9])?")


def routes(portal: Portal) -> list[Route]:
    """Their routes."""
    pages = Catalogue(portal)
    return [
        Route("/catalogue", portal.own(pages.search), name="catalogue"),
        Route("/catalogue/{dataset}", portal.own(pages.dataset), name="dataset"),
    ]


class Catalogue:
    """Pages that read the catalogue."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal

    async def search(self, request: Request, session: Session) -> Response:
        """The datasets that fit the words."""
        search = word(request, "search")
        found = await self._portal.call(session, "catalogue.search", search=search)
        return await self._portal.page(
            request, session, "catalogue.html", here="catalogue", datasets=found, search=search
        )

    async def dataset(self, request: Request, session: Session) -> Response:
        """One dataset and its columns."""
        name = str(request.path_params["dataset"])
        if not _DATASET.fullmatch(name):
            raise NotFoundError("no such dataset")
        found = await self._portal.call(session, "catalogue.read", dataset=name)
        return await self._portal.page(
            request,
            session,
            "dataset.html",
            here="catalogue",
            dataset=found,
            apply=local("applications/new", dataset=name),
        )

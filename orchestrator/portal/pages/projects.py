"""My projects, and the pages of one project: what it is, its people, its permit, its applications, what happened."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orchestrator.errors import NotFoundError, RefusedError
from orchestrator.governance.cards import (
    CatalogueEntry,
    MemberRecord,
    PermitRecord,
    PersonCard,
    ProjectPage,
    TableCard,
)
from orchestrator.governance.rules import Action
from orchestrator.governance.states import MemberRole, MembershipState, PermitState, ProjectState
from orchestrator.portal.acting import Act
from orchestrator.portal.dictionary import readable_table
from orchestrator.portal.hub import server_url
from orchestrator.portal.pages.lists import local, word
from orchestrator.portal.paths import slug_of
from orchestrator.portal.sessions import Session

if TYPE_CHECKING:
    from orchestrator.portal.application import Portal


def _marked(text: str) -> str:
    """Mark ``text`` for the catalogues of the languages."""
    return text


ACTS = (
    Act("project.activate", _marked("The project is active.")),
    Act("project.suspend", _marked("The project is suspended. What ran in it ends within seconds.")),
    Act("project.close", _marked("The project is closed. What ran in it ends within seconds.")),
    Act("project.export", _marked("Decided. The administrator of the machine writes the file now.")),
    Act("project.retain", _marked("The day on which the keys are destroyed is set.")),
    Act("member.invite", _marked("Invited. It is theirs to accept now.")),
    Act("member.request", _marked("Asked. Whoever decides sees it in their inbox.")),
    Act("member.accept", _marked("Accepted. The membership now waits for its approval.")),
    Act("member.approve", _marked("Approved.")),
    Act("member.consent", _marked("You agreed to this external partner.")),
    Act("member.confirm", _marked("Confirmed.")),
    Act("member.suspend", _marked("The membership is suspended. What ran ends within seconds.")),
    Act("member.end", _marked("The membership has ended. What ran ends within seconds.")),
    Act("member.leave", _marked("You left the project.")),
    Act("permit.approve", _marked("The permit is in force.")),
    Act("permit.revoke", _marked("The permit is revoked. What ran under it ends within seconds.")),
)
#: people that a search for somebody to invite shows, at most
_FOUND = 20
#: in the order in which a project's people are read: who needs something first
_ORDER = (
    MembershipState.REQUESTED,
    MembershipState.INVITED,
    MembershipState.ACTIVE,
    MembershipState.SUSPENDED,
    MembershipState.ENDED,
)


def routes(portal: Portal) -> list[Route]:
    """Their routes."""
    pages = Projects(portal)
    return [
        Route("/", portal.own(pages.home), name="home"),
        Route("/projects/{slug}", portal.own(pages.overview), name="project"),
        Route("/projects/{slug}/people", portal.own(pages.people), name="project-people"),
        Route("/projects/{slug}/permit", portal.own(pages.permit), name="project-permit"),
        Route("/projects/{slug}/applications", portal.own(pages.applications), name="project-applications"),
        Route("/projects/{slug}/activity", portal.own(pages.activity), name="project-activity"),
    ]


class Projects:
    """Pages that read a person's projects."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal

    async def home(self, request: Request, session: Session) -> Response:
        """My projects."""
        projects, servers, account = await asyncio.gather(
            self._portal.authority.projects(session.person),
            self._portal.hub.servers(session.token, session.person),
            self._portal.call(session, "account.read"),
        )
        return await self._portal.page(
            request,
            session,
            "home.html",
            here="home",
            projects=projects,
            servers=servers,
            account=account,
            url=lambda slug: server_url(session.person, slug),
        )

    async def overview(self, request: Request, session: Session) -> Response:
        """What a project is, how it stands, and what can be done about that."""
        page, servers = await asyncio.gather(
            self._read(request, session), self._portal.hub.servers(session.token, session.person)
        )
        return await self._shown(
            request,
            session,
            "project.html",
            "overview",
            page,
            servers=servers,
            url=server_url(session.person, page.project.slug),
        )

    async def people(self, request: Request, session: Session) -> Response:
        """Who is in a project, and who decides about it."""
        page, visitor = await asyncio.gather(self._read(request, session), self._portal.visitor(session))
        may_search = visitor.may(Action.PEOPLE_READ) and Action.MEMBER_INVITE in page.may
        search = word(request, "search")
        found: list[PersonCard] = []
        if may_search and search:
            found = await self._portal.call(session, "people.list", search=search, limit=_FOUND)
        leads = page.mine is not None and page.mine.role is MemberRole.LEAD
        reads = leads or visitor.may(Action.PERSON_READ)
        inside = {member.person for member in page.members if member.state is not MembershipState.ENDED}
        return await self._shown(
            request,
            session,
            "project_people.html",
            "people",
            page,
            visitor=visitor,
            members=sorted(page.members, key=lambda one: (_ORDER.index(one.state), one.role, one.display_name)),
            may_search=may_search,
            search=search,
            found=[person for person in found if person.id not in inside],
            # The authority leaves out what the reader may not see; saying "none" of it would be wrong.
            reads=lambda member: reads or member.person == session.person,
        )

    async def permit(self, request: Request, session: Session) -> Response:
        """What a project may see, in the version in force or in another one."""
        page = await self._read(request, session)
        asked = word(request, "version")
        version = _version(page, asked)
        tables = () if version is None else await self._readable(session, page, version)
        return await self._shown(
            request,
            session,
            "project_permit.html",
            "permit",
            page,
            version=version,
            tables=tables,
            may_approve=version is not None
            and version.state is PermitState.DRAFT
            and version.drafted_by != session.person
            and Action.PERMIT_APPROVE in page.may,
            may_revoke=version is not None
            and version.state in (PermitState.APPROVED, PermitState.DRAFT)
            and Action.PERMIT_REVOKE in page.may,
            address=lambda number: local(f"projects/{page.project.slug}/permit", version=number),
        )

    async def applications(self, request: Request, session: Session) -> Response:
        """What was applied for in a project."""
        page, visitor = await asyncio.gather(self._read(request, session), self._portal.visitor(session))
        leads = page.mine is not None and page.mine.role is MemberRole.LEAD
        reads = leads or visitor.may(Action.APPLICATION_READ)
        return await self._shown(
            request,
            session,
            "project_applications.html",
            "applications",
            page,
            visitor=visitor,
            may_read=lambda line: reads or line.drafted_by == session.person,
        )

    async def activity(self, request: Request, session: Session) -> Response:
        """What happened in a project."""
        before = word(request, "before")
        number = int(before) if before.isascii() and before.isdigit() and len(before) < 12 else None
        page = await self._read(request, session)
        slug = page.project.slug
        records = await self._portal.call(session, "project.activity", project=slug, before=number)
        return await self._shown(
            request,
            session,
            "project_activity.html",
            "activity",
            page,
            records=records.records,
            first=local(f"projects/{slug}/activity") if number else None,
            following=local(f"projects/{slug}/activity", before=records.before) if records.before else None,
        )

    async def _read(self, request: Request, session: Session) -> ProjectPage:
        slug = slug_of(request)
        try:
            page: ProjectPage = await self._portal.call(session, "project.read", project=slug)
        except RefusedError as error:
            # Stops: somebody who learns from the answer which projects there are. Shown by
            # tests/unit/portal/test_projects.py.
            raise NotFoundError(f"you have no project '{slug}'") from error
        return page

    async def _shown(
        self, request: Request, session: Session, template: str, at: str, page: ProjectPage, **values: Any
    ) -> Response:
        names = {member.person: member.display_name for member in page.members}
        return await self._portal.page(
            request,
            session,
            template,
            here="home" if page.mine is not None else "projects",
            at=at,
            page=page,
            project=page.project,
            me=_mine(page, session.person),
            base=local(f"projects/{page.project.slug}"),
            usage=local("usage", project=page.project.slug),
            name=lambda person: names.get(person, person),
            over=page.project.state in (ProjectState.CLOSED, ProjectState.DELETED),
            **values,
        )

    async def _readable(self, session: Session, page: ProjectPage, version: PermitRecord) -> tuple[TableCard, ...]:
        if page.permit is not None and page.permit.version == version.version:
            return page.permit.tables
        entries = await self._entries(session, {table.dataset for table in version.terms.tables})
        return tuple(readable_table(table, entries.get(table.dataset)) for table in version.terms.tables)

    async def _entries(self, session: Session, datasets: set[str]) -> dict[str, CatalogueEntry]:
        entries: list[CatalogueEntry] = await self._portal.call(session, "catalogue.search")
        return {entry.dataset: entry for entry in entries if entry.dataset in datasets}


def _mine(page: ProjectPage, person: str) -> MemberRecord | None:
    return next((member for member in page.members if member.person == person), None)


def _version(page: ProjectPage, asked: str) -> PermitRecord | None:
    """The version that is asked for; else the one in force, else the newest."""
    if asked:
        for permit in page.permits:
            if str(permit.version) == asked:
                return permit
        raise NotFoundError("there is no such version of the permit")
    in_force = [permit for permit in page.permits if permit.state is PermitState.APPROVED]
    return next(iter(in_force), max(page.permits, key=lambda permit: permit.version, default=None))

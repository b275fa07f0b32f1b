"""The portal's routes. Every page is somebody's and leads to a login without one; ``OPEN`` names the rest."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from orchestrator import pages
from orchestrator.config import Settings
from orchestrator.errors import BulleError, NotFoundError, RefusedError, UnavailableError
from orchestrator.governance.cards import DeploymentCard, PersonCard, ProjectCard
from orchestrator.governance.client import AsyncAuthorityClient
from orchestrator.governance.states import PlatformRole
from orchestrator.pages.languages import COOKIE as LANGUAGE_COOKIE
from orchestrator.portal.hub import PREFIX, Hub, server_url
from orchestrator.portal.look import Look, SafeHeaders
from orchestrator.portal.progress import relayed
from orchestrator.portal.sessions import LOGIN_SECONDS, SESSION_SECONDS, Session, Sessions
from orchestrator.portal.starts import Starts

SESSION_COOKIE = "bulle-portal"
LOGIN_COOKIE = "bulle-portal-login"
#: routes that anybody may ask for: none of them shows or changes anything of anybody
OPEN = ("health", "language", "oauth_callback", "static")
_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
_LARGEST_FORM = 4096


@dataclass(frozen=True)
class Visitor:
    """The person whose page this is, and what every page shows of them."""

    session: Session
    card: PersonCard
    deployment: DeploymentCard

    @property
    def warn(self) -> bool:
        """Whether to say that the embedded custodian protects against nobody who has the disk."""
        return self.deployment.embedded_custodian and PlatformRole.ADMINISTRATOR in self.card.roles


Page = Callable[[Request, Session], Awaitable[Response]]


class Portal:
    """The portal of one deployment."""

    def __init__(self, settings: Settings, hub: Hub, authority: AsyncAuthorityClient) -> None:
        self._settings = settings
        self._hub = hub
        self._authority = authority
        self._sessions = Sessions()
        self._starts = Starts(hub)
        self._look = Look(settings)
        self._secure = settings.public_url.startswith("https://")

    def application(self) -> Starlette:
        """The ASGI application."""
        own = self._own
        routes = [
            Route("/", own(self.home), name="home"),
            Route("/about", own(self.about), name="about"),
            Route("/open/{slug}", own(self.open, form=True), methods=["POST"], name="open"),
            Route("/start/{slug}", own(self.start), name="start"),
            Route("/start/{slug}/events", own(self.events, page=False), name="events"),
            Route("/stop/{slug}", own(self.stop, form=True), methods=["POST"], name="stop"),
            Route("/logout", own(self.logout, form=True), methods=["POST"], name="logout"),
            Route("/oauth_callback", self.oauth_callback, name="oauth_callback"),
            Route("/language/{code}", self.choose_language, name="language"),
            Route("/health", self.health, name="health"),
            Mount("/static", _Assets(directory=pages.FOLDER / "static"), name="static"),
        ]

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            yield
            await self._starts.close()
            await self._hub.close()
            await self._authority.close()

        return Starlette(
            routes=[Mount(PREFIX.rstrip("/"), routes=routes)],
            middleware=[Middleware(SafeHeaders)],
            exception_handlers={
                HTTPException: self._http_fault,
                BulleError: self._fault,
                Exception: self._fault,
            },
            lifespan=lifespan,
        )

    # -- who is there ------------------------------------------------------------------------------
    def _own(self, serve: Page, *, form: bool = False, page: bool = True) -> Callable[[Request], Awaitable[Response]]:
        """Serve only to a logged-in person; with ``form``, only from a form of that person's own pages."""

        async def guarded(request: Request) -> Response:
            session = self._sessions.find(request.cookies.get(SESSION_COOKIE))
            if session is not None and await self._hub.person_of(session.token) != session.person:
                self._sessions.close(session)
                session = None
            if session is None:
                return self._login(request) if page and not form else self._look.fault(request, 403, "login")
            if form and not await self._form_is_own(request, session):
                return self._look.fault(request, 403, "form")
            return await serve(request, session)

        return guarded

    async def _form_is_own(self, request: Request, session: Session) -> bool:
        if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return False
        if int(request.headers.get("content-length") or 0) > _LARGEST_FORM:
            return False
        fields = parse_qs((await request.body())[:_LARGEST_FORM].decode("utf-8", "replace"))
        return self._sessions.form_fits(session, fields.get("token", [None])[0])

    def _login(self, request: Request) -> Response:
        verifier, challenge = self._hub.new_verifier()
        next_path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        login = self._sessions.begin_login(next_path, verifier)
        answer = RedirectResponse(self._hub.login_url(login.state, challenge), 302)
        self._set_cookie(answer, LOGIN_COOKIE, login.state, int(LOGIN_SECONDS))
        return answer

    async def oauth_callback(self, request: Request) -> Response:
        """The browser comes back from the hub with a code for a token."""
        query = request.query_params
        login = self._sessions.finish_login(query.get("state", ""), request.cookies.get(LOGIN_COOKIE))
        if login is None or "code" not in query:
            # An old tab, or a restart of the portal in between: begin again. The hub remembers who it is.
            if query.get("error"):
                return self._look.fault(request, 403, "login")
            return RedirectResponse(PREFIX, 302)
        token = await self._hub.token_for(query["code"], login.verifier)
        person = await self._hub.person_of(token)
        if person is None:
            return self._look.fault(request, 403, "login")
        session = self._sessions.open(person, token)
        answer = RedirectResponse(login.next_path, 302)
        self._set_cookie(answer, SESSION_COOKIE, session.id, int(SESSION_SECONDS))
        answer.delete_cookie(LOGIN_COOKIE, path=PREFIX)
        return answer

    def _set_cookie(self, answer: Response, name: str, value: str, seconds: int) -> None:
        answer.set_cookie(name, value, max_age=seconds, path=PREFIX, httponly=True, samesite="lax", secure=self._secure)

    async def logout(self, request: Request, session: Session) -> Response:
        """Log out here, then at the hub, which ends everything else of this person."""
        self._sessions.close(session)
        # A page that leads on, not a redirect: the provider's own log-out, at the end, is at another address, and
        # no form of ours may lead to one (form-action).
        answer = self._look.page(request, "leaving.html")
        answer.delete_cookie(SESSION_COOKIE, path=PREFIX)
        return answer

    async def _visitor(self, session: Session) -> Visitor:
        card, deployment = await asyncio.gather(self._authority.person(session.person), self._authority.deployment())
        return Visitor(session, card, deployment)

    # -- pages -------------------------------------------------------------------------------------
    async def home(self, request: Request, session: Session) -> Response:
        """My projects."""
        visitor, projects, servers = await asyncio.gather(
            self._visitor(session),
            self._authority.projects(session.person),
            self._hub.servers(session.token, session.person),
        )
        return self._look.page(
            request,
            "home.html",
            visitor=visitor,
            here="home",
            projects=projects,
            servers=servers,
            url=lambda slug: server_url(session.person, slug),
        )

    async def about(self, request: Request, session: Session) -> Response:
        """What leaves a workspace: nothing."""
        return self._look.page(request, "about.html", visitor=await self._visitor(session), here="about")

    async def open(self, request: Request, session: Session) -> Response:
        """Start a workspace and answer at once with the page that shows how it starts."""
        slug = _slug(request)
        self._starts.begin(session, slug)
        return RedirectResponse(f"{PREFIX}start/{slug}", 303)

    async def start(self, request: Request, session: Session) -> Response:
        """The steps of a start as they happen; a workspace that is up is gone to."""
        slug = _slug(request)
        visitor, project, servers = await asyncio.gather(
            self._visitor(session),
            self._project(session, slug),
            self._hub.servers(session.token, session.person),
        )
        server = servers.get(slug)
        if server is not None and server.ready:
            return RedirectResponse(server_url(session.person, slug), 302)
        return self._look.page(request, "start.html", visitor=visitor, project=project, slug=slug)

    async def events(self, request: Request, session: Session) -> Response:
        """The same steps as a stream of events (Server-Sent Events, WHATWG HTML, section 9.2)."""
        slug = _slug(request)
        reader = self._look.language(request)

        async def stream() -> AsyncIterator[bytes]:
            told: dict[str, Any] = {}
            async with aclosing(self._starts.find(session, slug).events()) as events:
                async for event in events:
                    told = relayed(event, server_url(session.person, slug), reader)
                    if told:
                        yield _event(told)
            if "ready" not in told and "failed" not in told:
                yield _event({"gone": True})

        return StreamingResponse(stream(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    async def stop(self, request: Request, session: Session) -> Response:
        """Stop a workspace, or break off its start."""
        slug = _slug(request)
        self._starts.forget(session, slug)
        await self._hub.stop(session.token, session.person, slug)
        return RedirectResponse(PREFIX, 303)

    async def _project(self, session: Session, slug: str) -> ProjectCard:
        for project in await self._authority.projects(session.person):
            if project.slug == slug:
                return project
        raise NotFoundError(f"you have no project '{slug}'")

    # -- open to all -------------------------------------------------------------------------------
    async def choose_language(self, request: Request) -> Response:
        """Keep the reader's language in a cookie and go back to where they were."""
        code = request.path_params["code"]
        if code not in self._settings.languages:
            raise HTTPException(404)
        answer = RedirectResponse(_back(request.headers.get("referer"), self._settings.public_url), 303)
        answer.set_cookie(
            LANGUAGE_COOKIE,
            code,
            max_age=365 * 86400,
            path="/",
            httponly=True,
            samesite="lax",
            secure=self._secure,
        )
        return answer

    async def health(self, request: Request) -> Response:
        """That the portal serves."""
        return PlainTextResponse("ok")

    # -- faults ------------------------------------------------------------------------------------
    async def _http_fault(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        return self._look.fault(request, status, "not-found" if status == HTTPStatus.NOT_FOUND else "other")

    async def _fault(self, request: Request, error: Exception) -> Response:
        if isinstance(error, NotFoundError):
            return self._look.fault(request, 404, "not-found")
        if isinstance(error, RefusedError):
            return self._look.fault(request, 403, "refused", error.message)
        if isinstance(error, UnavailableError):
            return self._look.fault(request, 503, "unavailable", error.message)
        if isinstance(error, BulleError):
            return self._look.fault(request, error.http_status, "other", error.message)
        return self._look.fault(request, 500, "other")


class _Assets(StaticFiles):
    """Static files; their addresses carry a version, so browsers may keep them."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Serve one with a long life."""
        answer = super().file_response(*args, **kwargs)
        answer.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return answer


def _event(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


def _slug(request: Request) -> str:
    slug = str(request.path_params["slug"])
    if not _SLUG.fullmatch(slug):
        raise NotFoundError("no such project")
    return slug


def _back(referer: str | None, public_url: str) -> str:
    """The path of our page that a reader came from, else the home page. Never elsewhere (open redirect)."""
    came, ours = urlsplit(referer or ""), urlsplit(public_url)
    path = came.path
    if (came.scheme, came.netloc) != (ours.scheme, ours.netloc) or not re.match(r"/(?![/\\])", path):
        return PREFIX
    # Pages that only follow a form, or end a login, cannot be gone back to.
    if path.startswith((f"{PREFIX}open/", f"{PREFIX}stop/", "/hub/oauth_callback")):
        return PREFIX
    return path + (f"?{came.query}" if came.query else "")

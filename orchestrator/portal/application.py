"""The portal: who gets in, what a form needs, and what every page has. The pages themselves are in ``pages/``.

Every page is somebody's and leads to a login without one; ``OPEN`` names the rest.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from orchestrator import pages
from orchestrator.config import Settings
from orchestrator.errors import BulleError, NotFoundError, RefusedError, UnavailableError
from orchestrator.governance.cards import DeploymentCard, PersonCard, Waiting
from orchestrator.governance.client import AsyncAuthorityClient
from orchestrator.governance.rules import Action, Fact, judge
from orchestrator.governance.states import PlatformRole
from orchestrator.pages.languages import COOKIE as LANGUAGE_COOKIE
from orchestrator.pages.languages import Language
from orchestrator.portal import acting, api, words
from orchestrator.portal.acting import Acting
from orchestrator.portal.hub import PREFIX, Hub
from orchestrator.portal.look import Look, SafeHeaders
from orchestrator.portal.measures import Timed
from orchestrator.portal.pages import (
    account,
    applications,
    audit,
    catalogue,
    health,
    inbox,
    offices,
    passkeys,
    people,
    projects,
    usage,
    workspaces,
)
from orchestrator.portal.paths import path_of
from orchestrator.portal.sessions import LOGIN_SECONDS, SESSION_SECONDS, Session, Sessions
from orchestrator.portal.starts import Starts
from orchestrator.portal.telling import Teller

SESSION_COOKIE = "bulle-portal"
LOGIN_COOKIE = "bulle-portal-login"
#: routes that anybody may ask for: none of them shows or changes anything of anybody, but the API to who has a token
OPEN = ("api", "health", "language", "oauth_callback", "static")
#: each has ``routes(portal)`` and, where it has forms, ``ACTS``
PAGES = (projects, workspaces, inbox, applications, catalogue, account, passkeys, offices, people, usage, audit, health)
#: the largest of the portal's own small forms, in bytes
_SMALL = 4096

_ROLES = {
    PlatformRole.CUSTODIAN: Fact.CUSTODIAN,
    PlatformRole.REVIEWER: Fact.REVIEWER,
    PlatformRole.AUDITOR: Fact.AUDITOR,
    PlatformRole.ADMINISTRATOR: Fact.ADMINISTRATOR,
}
#: pages for people in office, and what they read: who may read it is shown the way there
_OFFICE = (
    ("projects", Action.PROJECTS_READ),
    ("people", Action.PEOPLE_READ),
    ("usage", Action.USAGE_READ),
    ("audit", Action.AUDIT_READ),
    ("platform", Action.HEALTH_READ),
)


@dataclass(frozen=True)
class Visitor:
    """The person whose page this is, and what every page shows of them."""

    session: Session
    card: PersonCard
    deployment: DeploymentCard
    #: what waits for this person
    inbox: Sequence[Waiting]

    @property
    def waiting(self) -> int:
        """How many things wait for this person."""
        return len(self.inbox)

    @property
    def warn(self) -> bool:
        """Whether to say that the embedded custodian protects against nobody who has the disk."""
        return self.deployment.embedded_custodian and PlatformRole.ADMINISTRATOR in self.card.roles

    @property
    def facts(self) -> frozenset[Fact]:
        """What holds of this person everywhere, for the rules; what they are in a project is not in it."""
        return frozenset({Fact.PERSON, *(_ROLES[role] for role in self.card.roles)})

    def may(self, action: Action) -> bool:
        """Whether this person's offices allow the action. For what is shown only: governance judges what is done."""
        return judge(action, self.facts).allowed

    @property
    def office(self) -> tuple[str, ...]:
        """The pages for people in office that this person may read."""
        return tuple(page for page, action in _OFFICE if self.may(action))


Page = Callable[[Request, Session], Awaitable[Response]]


class Portal:
    """The portal of one deployment."""

    def __init__(self, settings: Settings, hub: Hub, authority: AsyncAuthorityClient) -> None:
        self.settings = settings
        self.hub = hub
        self.authority = authority
        self._sessions = Sessions()
        self._teller = Teller(settings, authority)
        self.starts = Starts(hub)
        self._look = Look(settings)
        self._secure = settings.public_url.startswith("https://")

    def application(self) -> Starlette:
        """The ASGI application."""
        acts = acting.gathered(*(page.ACTS for page in PAGES))
        routes = [
            *(route for page in PAGES for route in page.routes(self)),
            Route(
                "/act/{operation}",
                self.own(Acting(self, acts).act, form=True, largest=acting.LARGEST),
                methods=["POST"],
                name="act",
            ),
            Route("/about", self.own(self.about), name="about"),
            Route("/logout", self.own(self.logout, form=True), methods=["POST"], name="logout"),
            Route("/oauth_callback", self.oauth_callback, name="oauth_callback"),
            Route("/language/{code}", self.choose_language, name="language"),
            Route("/health", self.health, name="health"),
            Mount(api.MOUNT, api.api(self.authority), name="api"),
            Mount("/static", _Assets(directory=pages.FOLDER / "static"), name="static"),
        ]

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            self._teller.start()
            yield
            await self._teller.close()
            await self.starts.close()
            await self.hub.close()
            await self.authority.close()

        return Starlette(
            routes=[Mount(PREFIX.rstrip("/"), routes=routes)],
            middleware=[Middleware(Timed), Middleware(SafeHeaders)],
            exception_handlers={
                HTTPException: self._http_fault,
                BulleError: self._fault,
                Exception: self._fault,
            },
            lifespan=lifespan,
        )

    # -- who is there ------------------------------------------------------------------------------
    def own(
        self, serve: Page, *, form: bool = False, page: bool = True, largest: int = _SMALL
    ) -> Callable[[Request], Awaitable[Response]]:
        """Serve only to a logged-in person; with ``form``, only what a form of that person's own pages sent.

        What a form sent is then in ``request.state.fields``. Without ``page``, a stranger is not led to a login.
        """

        async def guarded(request: Request) -> Response:
            session = self._sessions.find(request.cookies.get(SESSION_COOKIE))
            if session is not None and await self.hub.person_of(session.token) != session.person:
                self._sessions.close(session)
                session = None
            if session is None:
                return self._login(request) if page and not form else self.fault(request, 403, "login")
            if form and not await self._form_is_own(request, session, largest):
                return self.fault(request, 403, "form")
            try:
                return await serve(request, session)
            except UnavailableError:
                raise  # without the authority there is nobody's name to show either
            except BulleError as error:
                return self._fault_for(request, error, await self.visitor(session))

        return guarded

    async def _form_is_own(self, request: Request, session: Session, largest: int) -> bool:
        if request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return False
        body = bytearray()
        # Not by the length that is told: a body can come without one.
        async for part in request.stream():
            body += part
            if len(body) > largest:
                return False
        fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True)
        request.state.fields = fields
        return self._sessions.form_fits(session, fields.get(acting.TOKEN, [None])[0])

    def _login(self, request: Request) -> Response:
        verifier, challenge = self.hub.new_verifier()
        login = self._sessions.begin_login(path_of(request), verifier)
        answer = RedirectResponse(self.hub.login_url(login.state, challenge), 302)
        self._set_cookie(answer, LOGIN_COOKIE, login.state, int(LOGIN_SECONDS))
        return answer

    async def oauth_callback(self, request: Request) -> Response:
        """The browser comes back from the hub with a code for a token."""
        query = request.query_params
        login = self._sessions.finish_login(query.get("state", ""), request.cookies.get(LOGIN_COOKIE))
        if login is None or "code" not in query:
            # An old tab, or a restart of the portal in between: begin again. The hub remembers who it is.
            if query.get("error"):
                return self.fault(request, 403, "login")
            return RedirectResponse(PREFIX, 302)
        token = await self.hub.token_for(query["code"], login.verifier)
        person = await self.hub.person_of(token)
        if person is None:
            return self.fault(request, 403, "login")
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

    async def visitor(self, session: Session) -> Visitor:
        """Who the person is, as every page shows it."""
        card, deployment, inbox = await asyncio.gather(
            self.authority.person(session.person), self.authority.deployment(), self.call(session, "inbox.read")
        )
        return Visitor(session, card, deployment, inbox)

    # -- what pages are made of --------------------------------------------------------------------
    async def call(self, session: Session, operation: str, /, **arguments: Any) -> Any:
        """Do or read something in the person's name; the answer is the operation's (see its declaration).

        Raises:
            BulleError: as the authority answers it; UnavailableError where it does not.
        """
        return await self.authority.call(operation, session.person, **arguments)

    async def page(
        self, request: Request, session: Session, template: str, *, here: str = "", status: int = 200, **values: Any
    ) -> Response:
        """A page of this person's; ``here`` names its entry in the navigation."""
        visitor = values.pop("visitor", None) or await self.visitor(session)
        told = session.told(path_of(request)) if request.method == "GET" else None
        return self._look.page(
            request, template, status=status, visitor=visitor, here=here, told=told, path=path_of(request), **values
        )

    def fault(
        self, request: Request, status: int, kind: str, detail: str = "", visitor: Visitor | None = None
    ) -> Response:
        """A page that says what did not work."""
        return self._look.fault(request, status, kind, detail, visitor)

    def language(self, request: Request) -> Language:
        """The reader's language."""
        return self._look.language(request)

    async def about(self, request: Request, session: Session) -> Response:
        """What leaves a workspace: nothing."""
        return await self.page(request, session, "about.html", here="about")

    # -- open to all -------------------------------------------------------------------------------
    async def choose_language(self, request: Request) -> Response:
        """Keep the reader's language in a cookie and go back to where they were."""
        code = request.path_params["code"]
        if code not in self.settings.languages:
            raise HTTPException(404)
        answer = RedirectResponse(_back(request.headers.get("referer"), self.settings.public_url), 303)
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
        return self.fault(request, status, "not-found" if status == HTTPStatus.NOT_FOUND else "other")

    async def _fault(self, request: Request, error: Exception) -> Response:
        return self._fault_for(request, error)

    def _fault_for(self, request: Request, error: Exception, visitor: Visitor | None = None) -> Response:
        if isinstance(error, NotFoundError):
            return self.fault(request, 404, "not-found", visitor=visitor)
        if isinstance(error, RefusedError):
            return self.fault(request, 403, "refused", words.refusal(self.language(request), error), visitor)
        if isinstance(error, UnavailableError):
            return self.fault(request, 503, "unavailable", words.refusal(self.language(request), error), visitor)
        if isinstance(error, BulleError):
            told = words.refusal(self.language(request), error)
            return self.fault(request, error.http_status, "other", told, visitor)
        return self.fault(request, 500, "other")


class _Assets(StaticFiles):
    """Static files; their addresses carry a version, so browsers may keep them."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Serve one with a long life."""
        answer = super().file_response(*args, **kwargs)
        answer.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return answer


def _back(referer: str | None, public_url: str) -> str:
    """The path of our page that a reader came from, else the home page. Never elsewhere (open redirect)."""
    came, ours = urlsplit(referer or ""), urlsplit(public_url)
    path = came.path
    if (came.scheme, came.netloc) != (ours.scheme, ours.netloc) or not re.match(r"/(?![/\\])", path):
        return PREFIX
    # Pages that only follow a form, or end a login, cannot be gone back to.
    if path.startswith((f"{PREFIX}act/", f"{PREFIX}open/", f"{PREFIX}stop/", "/hub/oauth_callback")):
        return PREFIX
    return path + (f"?{came.query}" if came.query else "")

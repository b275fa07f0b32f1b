"""The authority service: governance, grants and the audit log behind unix sockets, one for each client.

Which socket a call comes through is who calls: each socket lies in a folder that only its client can enter.
So there is one application for each, with that client's calls and no others (docs/architecture.md, Wire
contracts). On a cluster the node agents, which are elsewhere, come by TLS and prove themselves with a certificate
(:mod:`orchestrator.governance.mutual_tls`), and the door that makes pods has a socket of its own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI, Path, Request
from fastapi.exceptions import RequestValidationError
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator import logs
from orchestrator.config import FileCustodian, Settings
from orchestrator.errors import BulleError, InputError, NotFoundError, RefusedError, to_wire
from orchestrator.governance import identity as governance_identity
from orchestrator.governance import measures
from orchestrator.governance.calls import Asked, perform
from orchestrator.governance.cards import (
    ClosingDone,
    ClosingDue,
    ClosingReceipt,
    DecisionWanted,
    DeploymentCard,
    GrantRequest,
    Groups,
    IssuedGrant,
    NodeReport,
    Notice,
    Person,
    PersonCard,
    PreparedDecision,
    ProjectCard,
    Recorded,
    SessionNews,
    Told,
)
from orchestrator.governance.certificates import sign_certificate
from orchestrator.governance.grants import issuer_of, sign_grant
from orchestrator.governance.keys import GRANT_KEY, load_private_key
from orchestrator.governance.secured import Secured
from orchestrator.governance.service import Governance
from orchestrator.governance.serving import serve_on_sockets
from orchestrator.governance.states import PlatformRole
from orchestrator.metrics.exposed import expose
from orchestrator.terms import Event, Outcome, SessionClaim, SessionVerdict

MAX_BODY = 512 * 1024
MAX_CLAIMS = 2000
#: seconds between two looks for reminders that are due
REMIND_SECONDS = 600.0

_log = logging.getLogger(__name__)

PersonId = Annotated[str, Path(max_length=64)]
ProjectId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]
SessionId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]


@dataclass(frozen=True)
class Part:
    """A client of the authority: the name it acts under, and the kinds of events that it may write."""

    actor: str
    kinds: frozenset[str] = frozenset()
    families: tuple[str, ...] = ()

    def may_write(self, kind: str) -> bool:
        """Whether an event of this kind is this client's to tell."""
        return kind in self.kinds or kind.startswith(self.families)


HUB = Part(
    "hub",
    kinds=frozenset({"workspace.request", "workspace.refused", "workspace.abort", "workspace.stop"}),
    families=("session.", "login."),
)
NODE = Part(
    "node-agent",
    families=("workspace.", "probe.", "key.", "view.", "mount.", "volume.", "folder.", "node."),
)
PORTAL = Part("portal", families=("page.",))
#: the part that makes pods on a cluster; what it tells of starts and stops is told under its own name
DOOR = Part("door", kinds=frozenset({"workspace.start", "workspace.stop"}), families=("pod.", "door."))


#: a node agent's reason where a volume could not be shown yet, for which its kubelet asks again
NOT_YET = "failed"


class News:
    """What node agents told of sessions, for the door of a cluster.

    It has no other way to hear that a view could not be built, or that data was taken away from a pod which still runs.
    Forgotten with the process: a door that hears nothing goes by what the cluster says.
    """

    MOST = 10_000

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._of: dict[str, SessionNews] = {}

    def heard(self, part: Part, event: Event) -> None:
        """Note what an event says."""
        # Stops: a hub in an attacker's hands that tells the door of ends. Shown by test_only_a_node_agent_s_word_counts
        # (tests/unit/governance/test_mutual_tls.py).
        if part is not NODE or not event.session:
            return
        if event.kind == "probe.passed" and event.outcome is Outcome.DONE:
            told: dict[str, Any] = {"isolated": True}
        elif event.kind == "probe.refused":
            told = {"isolated": False}
        elif event.kind == "workspace.start" and event.outcome is Outcome.DONE:
            told = {"opened": True}
        elif event.kind == "workspace.stop" and event.detail.get("reason") != NOT_YET:
            told = {"opened": False, "ended": str(event.detail.get("reason") or "ended by the node agent")}
        else:
            return
        with self._guard:
            before = self._of.pop(event.session, SessionNews())
            while len(self._of) >= self.MOST:
                self._of.pop(next(iter(self._of)))
            self._of[event.session] = before.model_copy(update=told)

    def judged(self, verdict: SessionVerdict) -> SessionVerdict:
        """A verdict, against a session from which its data was taken away: its pod has nothing to run for."""
        ended = self.of(verdict.session).ended
        if not verdict.allowed or ended is None:
            return verdict
        return SessionVerdict(session=verdict.session, allowed=False, reason=f"node-agent: {ended}")

    def of(self, session: str) -> SessionNews:
        """What is known of a session."""
        with self._guard:
            return self._of.get(session, SessionNews())


@dataclass(frozen=True)
class Authority:
    """What the applications share."""

    governance: Governance
    grant_key: Ed25519PrivateKey
    deployment: str
    embedded_custodian: bool
    #: group at the login provider → the platform role that it gives
    group_roles: Mapping[str, str] = field(default_factory=dict)
    #: person → roles that were refused them, and those that they held then
    _refused: dict[str, tuple[frozenset[PlatformRole], frozenset[str]]] = field(default_factory=dict, repr=False)
    news: News = field(default_factory=News, repr=False)

    def login(self, person: str, told: Person) -> PersonCard:
        """Follow what the login provider says of a person, the roles of their groups included."""
        self.governance.login(person, told)
        return self.follow(person, told.groups)

    def follow(self, person: str, groups: Iterable[str]) -> PersonCard:
        """Give and take the roles that these groups stand for."""
        roles = frozenset(PlatformRole(self.group_roles[group]) for group in groups if group in self.group_roles)
        if person in self._refused:
            # The log says it once, not at each of the hub's questions: nothing changed since.
            card = self.governance.person(person)
            if self._refused[person] == (roles, frozenset(card.roles)):
                return card
        try:
            self._refused.pop(person, None)
            return self.governance.follow_roles(governance_identity.HUB, person, roles)
        except RefusedError:
            # A role that does not go with one that they hold is not given, as the log says; they are who they are.
            card = self.governance.person(person)
            self._refused[person] = (roles, frozenset(card.roles))
            return card

    def issue(self, wanted: GrantRequest) -> IssuedGrant:
        """A signed grant, after every condition was checked anew and the issue is in the audit log."""
        now = self.governance.now()
        try:
            with measures.DECISIONS.timed(question="open"):
                grant = self.governance.may_open(wanted.person, wanted.project, now)
        except RefusedError as error:
            measures.GRANTS.add(outcome="refused")
            self.governance.audit.record(
                Event(
                    kind="grant.refused",
                    actor="authority",
                    outcome=Outcome.REFUSED,
                    person=wanted.person,
                    project=wanted.project,
                    detail={"reason": error.message},
                )
            )
            raise
        # Before the signature exists: no grant is ever out of which the log does not know.
        self.governance.audit.record(
            Event(
                kind="grant.issue",
                actor="authority",
                outcome=Outcome.DONE,
                person=grant.person,
                project=grant.project,
                session=grant.session,
                detail={"permit": grant.permit.version, "ends_at": grant.ends_at.isoformat()},
            )
        )
        measures.GRANTS.add(outcome="done")
        token = sign_grant(grant, self.grant_key, now, issuer_of(self.deployment))
        return IssuedGrant(grant=token, session=grant.session, ends_at=grant.ends_at)

    def closed(self, project_id: str, told: ClosingDone) -> ClosingReceipt:
        """Note what the node agent did for a closed project; destroyed keys are answered with a certificate."""
        if told.done == "archived":
            self.governance.archived(NODE.actor, project_id)
            return ClosingReceipt()

        def sign(claims: dict[str, Any]) -> str:
            return sign_certificate(claims, self.grant_key, issuer_of(self.deployment))

        certificate = self.governance.deleted(NODE.actor, project_id, told.keys, told.folders, sign)
        return ClosingReceipt(certificate=certificate)

    def write(self, part: Part, event: Event) -> Recorded:
        """Write a client's event under the client's own name."""
        # Stops: a hub or portal in an attacker's hands that writes history in the name of the node agent,
        # of the authority or of a person. Shown by tests/unit/governance/test_authority.py.
        if not part.may_write(event.kind):
            raise RefusedError(f"refused by rule own-events: {part.actor} may not write '{event.kind}'")
        actor = part.actor if event.actor in ("", part.actor) else f"{part.actor}:{event.actor}"
        seq = self.governance.audit.record(event.model_copy(update={"actor": actor}))
        self.news.heard(part, event)
        return Recorded(seq=seq)


def authority_of(settings: Settings, governance: Governance, grant_key: Ed25519PrivateKey) -> Authority:
    """The authority of a deployment."""
    governance.embedded_custodian = isinstance(settings.custodian, FileCustodian)
    embedded = isinstance(settings.custodian, FileCustodian)
    return Authority(governance, grant_key, settings.deployment, embedded, settings.oidc.group_roles)


# The routes are plain functions: FastAPI runs them in its thread pool, so that the store and the log's
# fsync do not hold up other calls.


def hub_app(authority: Authority) -> FastAPI:
    """What the hub may ask: tell of logins, have grants issued, write its events."""
    app = _app()
    _add_events(app, authority, HUB)

    @app.put("/v1/persons/{person}")
    def put_person(person: PersonId, told: Person) -> PersonCard:
        return authority.login(person, told)

    @app.put("/v1/persons/{person}/groups")
    def put_groups(person: PersonId, told: Groups) -> PersonCard:
        return authority.follow(person, told.groups)

    @app.post("/v1/persons/{person}/gone", status_code=204)
    def post_gone(person: PersonId) -> None:
        authority.governance.gone_person(governance_identity.HUB, person, gone=True)

    @app.post("/v1/grants", status_code=201)
    def post_grant(wanted: GrantRequest) -> IssuedGrant:
        return authority.issue(wanted)

    return app


def portal_app(authority: Authority) -> FastAPI:
    """What the portal may ask: perform operations for persons, write its events."""
    app = _app()
    _add_events(app, authority, PORTAL)

    @app.get("/v1/persons/{person}")
    def get_person(person: PersonId) -> PersonCard:
        return authority.governance.person(person)

    @app.get("/v1/persons/{person}/projects")
    def get_projects(person: PersonId) -> list[ProjectCard]:
        return authority.governance.projects_of(person)

    @app.post("/v1/operations/{name}")
    def post_operation(name: str, asked: Asked) -> Response:
        # Stops: a portal in an attacker's hands that acts as a part of the platform. Which person acts, it can say
        # as it likes: what must not hang on that is signed (docs/governance.md). Shown by test_operations.py.
        with measures.operation(name):
            told = perform(authority.governance, name, asked)
        return Response(status_code=204) if told is None else Response(told, media_type="application/json")

    @app.get("/v1/notices")
    def get_notices() -> list[Notice]:
        return authority.governance.unsent()

    @app.post("/v1/notices/{notice}")
    def post_notice(notice: int, how: Told) -> None:
        authority.governance.told(notice, sent=how.sent)

    @app.post("/v1/decisions")
    def post_decision(wanted: DecisionWanted) -> PreparedDecision:
        return authority.governance.prepare_decision(wanted.by, wanted.operation, wanted.arguments)

    @app.get("/v1/deployment")
    def get_deployment() -> DeploymentCard:
        return DeploymentCard(deployment=authority.deployment, embedded_custodian=authority.embedded_custodian)

    return app


def node_app(authority: Authority, *, one_of_many: bool = False) -> FastAPI:
    """What a node agent may ask: whether what runs is allowed, write its events."""
    app = _app()
    _add_events(app, authority, NODE)

    @app.post("/v1/sessions/check")
    def check(claims: Annotated[list[SessionClaim], Field(max_length=MAX_CLAIMS)]) -> list[SessionVerdict]:
        with measures.DECISIONS.timed(question="check"):
            verdicts = authority.governance.check_sessions(claims)
        for verdict in verdicts:
            if not verdict.allowed:
                measures.REFUSALS.add(rule=verdict.reason.partition(":")[0])
        authority.governance.heard(claims, one_of_many=one_of_many)
        return verdicts

    # On this socket alone. Stops: a portal or hub in an attacker's hands that writes usage, and with it cost or
    # quotas, for others. Shown by tests/unit/governance/test_usage.py.
    @app.post("/v1/usage", status_code=204)
    def usage(report: NodeReport) -> None:
        authority.governance.record_usage(report)

    @app.get("/v1/closings")
    def get_closings() -> list[ClosingDue]:
        return authority.governance.closings_due()

    @app.post("/v1/closings/{project_id}")
    def post_closing(project_id: ProjectId, told: ClosingDone) -> ClosingReceipt:
        return authority.closed(project_id, told)

    return app


def cluster_app(authority: Authority) -> FastAPI:
    """What the door of a cluster may ask: whether what runs is allowed, what node agents told of a session, write its
    events. Nothing else.

    That it asks is no sign that a node agent lives, and its claims are not what a node agent says runs.
    """
    app = _app()
    _add_events(app, authority, DOOR)

    @app.post("/v1/sessions/check")
    def check(claims: Annotated[list[SessionClaim], Field(max_length=MAX_CLAIMS)]) -> list[SessionVerdict]:
        with measures.DECISIONS.timed(question="check"):
            verdicts = authority.governance.check_sessions(claims)
        return [authority.news.judged(verdict) for verdict in verdicts]

    @app.get("/v1/sessions/{session}")
    def news(session: SessionId) -> SessionNews:
        return authority.news.of(session)

    return app


def _add_events(app: FastAPI, authority: Authority, part: Part) -> None:
    @app.post("/v1/events", status_code=201)
    def post_event(event: Event) -> Recorded:
        return authority.write(part, event)


def _app() -> FastAPI:
    app = FastAPI(openapi_url=None)
    app.add_middleware(BodyLimit, limit=MAX_BODY)
    app.add_exception_handler(BulleError, _answer(lambda error: error))
    app.add_exception_handler(RequestValidationError, _answer(_invalid))
    app.add_exception_handler(HTTPException, _answer(_no_such_call))
    app.add_exception_handler(Exception, _answer(lambda error: BulleError("the authority failed")))
    return app


def _answer(translate: Callable[[Exception], Exception]) -> Callable[[Request, Exception], JSONResponse]:
    def handle(request: Request, error: Exception) -> JSONResponse:
        told = translate(error)
        assert isinstance(told, BulleError)  # noqa: S101 - every translation gives one
        if isinstance(told, RefusedError):
            measures.refused(told.message)
        return JSONResponse(to_wire(told), status_code=told.http_status)

    return handle


def _invalid(error: Exception) -> BulleError:
    # The places only: the values were not understood, and may be anything.
    faults = error.errors() if isinstance(error, RequestValidationError) else []
    places = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults[:5])
    return InputError(f"the request is malformed: {places[:500]}")


def _no_such_call(error: Exception) -> BulleError:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return (
        NotFoundError("there is no such call on this socket")
        if status in (404, 405)
        else InputError(f"the request is malformed (status {status})")
    )


class BodyLimit:
    """Reads a request's body whole before the application sees it, and refuses one that is too large.

    Stops: a client that fills the authority's memory. Shown by tests/unit/governance/test_authority.py.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection event, as ASGI has it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client left
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.limit:
                error = InputError(f"the request is larger than {self.limit} bytes")
                await JSONResponse(to_wire(error), status_code=error.http_status)(scope, receive, send)
                return
        told = False

        async def replay() -> Message:
            nonlocal told
            if told:
                return await receive()
            told = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self.app(scope, replay, send)


class Clockwork:
    """A thread that closes the projects whose time is over, and makes the reminders which are due.

    A stop of the authority ends it with the process.
    """

    def __init__(self, governance: Governance, weekday: int | None, seconds: float = REMIND_SECONDS) -> None:
        self._governance = governance
        self._weekday = weekday
        self._seconds = seconds
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reminders", daemon=True)

    def start(self) -> None:
        """Begin; what is due already is done at once."""
        self._thread.start()

    def stop(self) -> None:
        """Make no more; returns when the thread has ended."""
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                self._governance.close_lapsed()
                self._governance.remind(self._weekday)
            except BulleError as error:
                _log.warning("reminders were not made: %s", error)
            except Exception:  # noqa: BLE001 - the next ones must come, whatever it was
                _log.exception("the reminders stumbled")
            if self._end.wait(self._seconds):
                return


def serve(settings: Settings, governance: Governance) -> None:
    """Run the sockets until SIGTERM or SIGINT; on a cluster, the port for node agents in place of theirs."""
    logs.configure("authority", settings.logs)
    layout = settings.layout
    measures.follow(governance)
    expose("authority", settings)
    authority = authority_of(settings, governance, load_private_key(layout.authority / GRANT_KEY))
    Clockwork(governance, settings.notifications.digest_weekday).start()
    apps = {layout.socket("hub"): hub_app(authority), layout.socket("portal"): portal_app(authority)}
    if settings.kubernetes is None:
        serve_on_sockets({**apps, layout.socket("node"): node_app(authority)})
    else:
        nodes = Secured(node_app(authority, one_of_many=True), settings.kubernetes.tls)
        serve_on_sockets({**apps, layout.socket("cluster"): cluster_app(authority)}, nodes)

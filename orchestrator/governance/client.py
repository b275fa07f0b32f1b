"""Clients of the authority, over its unix sockets, and over TLS for the node agents of a cluster.

An error that the authority answers is raised here as the same type. Where it cannot be asked, or its answer
cannot be understood, that is an UnavailableError: the caller then does nothing.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from orchestrator.errors import SettingsError, UnavailableError, from_wire
from orchestrator.governance.calls import operation_named
from orchestrator.governance.cards import (
    ClosingDone,
    ClosingDue,
    ClosingReceipt,
    DeploymentCard,
    IssuedGrant,
    NodeReport,
    Notice,
    PersonCard,
    PreparedDecision,
    ProjectCard,
    Recorded,
    SessionNews,
)
from orchestrator.governance.mutual_tls import Renewed, client_context
from orchestrator.terms import Event, SessionClaim, SessionVerdict

Answer = TypeVar("Answer")

TIMEOUT = 10.0
#: seconds for which an idle connection over TLS is kept; shorter than the server's own
_KEEP_SECONDS = 15.0

_PROJECTS = TypeAdapter(list[ProjectCard])
_NOTICES = TypeAdapter(list[Notice])
_CLAIMS = TypeAdapter(list[SessionClaim])
_VERDICTS = TypeAdapter(list[SessionVerdict])
_CLOSINGS = TypeAdapter(list[ClosingDue])


@dataclass(frozen=True)
class Call(Generic[Answer]):
    """One request, and how to read its answer."""

    method: str
    path: str
    read: Callable[[bytes], Answer]
    body: bytes | None = None

    def request(self) -> dict[str, Any]:
        """Arguments of httpx's ``request``."""
        headers = {"content-type": "application/json"} if self.body is not None else {}
        return {"method": self.method, "url": self.path, "content": self.body, "headers": headers}

    def answer(self, response: httpx.Response) -> Answer:
        """The answer, or the error that the authority meant."""
        try:
            # 202 is an error too: what was asked for was noted and is not done (SecondPersonError).
            if response.is_success and response.status_code != 202:
                return self.read(response.content)
            wire = response.json()
            error = from_wire(wire["code"], wire["message"], wire.get("hint"))
        except (ValidationError, ValueError, TypeError, KeyError, AttributeError) as fault:
            told = f"{self.method} {self.path}: status {response.status_code}"
            raise UnavailableError(f"the authority's answer cannot be understood ({told})") from fault
        raise error


def grant_call(person: str, project: str) -> Call[IssuedGrant]:
    """Ask for a grant."""
    body = _json({"person": person, "project": project})
    return Call("POST", "/v1/grants", IssuedGrant.model_validate_json, body)


def person_upsert_call(
    person: str, subject: str, display_name: str, email: str = "", groups: Iterable[str] = ()
) -> Call[PersonCard]:
    """Tell of a login."""
    body = _json({"subject": subject, "display_name": display_name, "email": email, "groups": list(groups)})
    return Call("PUT", _person_path(person), PersonCard.model_validate_json, body)


def person_follow_call(person: str, groups: Iterable[str]) -> Call[PersonCard]:
    """Tell of the groups of a person who is logged in."""
    body = _json({"groups": list(groups)})
    return Call("PUT", f"{_person_path(person)}/groups", PersonCard.model_validate_json, body)


def person_gone_call(person: str) -> Call[None]:
    """Tell that the login provider no longer knows a person."""
    return Call("POST", f"{_person_path(person)}/gone", lambda content: None)


def record_call(event: Event) -> Call[int]:
    """Write an event to the audit log."""

    def read(content: bytes) -> int:
        return Recorded.model_validate_json(content).seq

    return Call("POST", "/v1/events", read, event.model_dump_json().encode())


def check_sessions_call(claims: Iterable[SessionClaim]) -> Call[list[SessionVerdict]]:
    """Ask whether what runs is allowed."""
    return Call("POST", "/v1/sessions/check", _VERDICTS.validate_json, _CLAIMS.dump_json(list(claims)))


def session_news_call(session: str) -> Call[SessionNews]:
    """Ask what a node agent told of a session."""
    return Call("GET", f"/v1/sessions/{quote(session, safe='')}", SessionNews.model_validate_json)


def usage_call(report: NodeReport) -> Call[None]:
    """Tell what was measured."""
    return Call("POST", "/v1/usage", lambda content: None, report.model_dump_json().encode())


def closings_call() -> Call[list[ClosingDue]]:
    """Ask what is to be done for closed projects."""
    return Call("GET", "/v1/closings", _CLOSINGS.validate_json)


def closed_call(project_id: str, done: ClosingDone) -> Call[ClosingReceipt]:
    """Tell what was done for a closed project."""
    path = f"/v1/closings/{quote(project_id, safe='')}"
    return Call("POST", path, ClosingReceipt.model_validate_json, done.model_dump_json().encode())


def person_call(person: str) -> Call[PersonCard]:
    """Ask who a person is."""
    return Call("GET", _person_path(person), PersonCard.model_validate_json)


def projects_call(person: str) -> Call[list[ProjectCard]]:
    """Ask for a person's projects."""
    return Call("GET", f"{_person_path(person)}/projects", _PROJECTS.validate_json)


def operation_call(
    name: str,
    arguments: Mapping[str, Any],
    *,
    by: str | None = None,
    token: str | None = None,
    signature: Mapping[str, Any] | None = None,
) -> Call[Any]:
    """Ask for an operation, by a person or with a token. Raises NotFoundError where there is no such operation."""
    operation = operation_named(name)

    def read(content: bytes) -> Any:
        return None if operation.answer is None else operation.adapter.validate_json(content)

    asked = {"by": by, "token": token, "arguments": arguments, "signature": signature}
    # A number that is none is sent as what it is, for the authority to refuse.
    body = to_json(asked, inf_nan_mode="constants")
    return Call("POST", f"/v1/operations/{name}", read, body)


def prepare_call(by: str, operation: str, arguments: Mapping[str, Any]) -> Call[PreparedDecision]:
    """Ask what a person would sign."""
    asked = {"by": by, "operation": operation, "arguments": arguments}
    body = to_json(asked, inf_nan_mode="constants")
    return Call("POST", "/v1/decisions", PreparedDecision.model_validate_json, body)


def notices_call() -> Call[list[Notice]]:
    """Ask what waits to be sent."""
    return Call("GET", "/v1/notices", _NOTICES.validate_json)


def told_call(notice: int, sent: bool) -> Call[None]:
    """Tell that a notice went out, or that it could not."""
    return Call("POST", f"/v1/notices/{int(notice)}", lambda content: None, json.dumps({"sent": sent}).encode())


def deployment_call() -> Call[DeploymentCard]:
    """Ask about the deployment."""
    return Call("GET", "/v1/deployment", DeploymentCard.model_validate_json)


def _json(fields: Mapping[str, object]) -> bytes:
    # Not the models: what is too long or malformed is for the authority to refuse, as one typed error.
    return json.dumps(fields).encode()


def _person_path(person: str) -> str:
    # Nothing in a person's id may become another path.
    if person in ("", ".", ".."):
        raise UnavailableError(f"'{person}' is not a person's id")
    return f"/v1/persons/{quote(person, safe='')}"


class _OverTls:
    """A client for as long as its certificates last."""

    def __init__(self, url: str, certificates: Renewed, timeout: float) -> None:
        self._url, self._certificates, self._timeout = url, certificates, timeout
        self._lock = threading.Lock()
        self._context = certificates.context()
        self._http = self._made(self._context)

    def http(self) -> httpx.Client:
        """The client to ask with; of another, others may still be waiting for an answer, so it is left to them."""
        with self._lock:
            context = self._certificates.context()
            if context is not self._context:
                self._context, self._http = context, self._made(context)
            return self._http

    def _made(self, context: ssl.SSLContext) -> httpx.Client:
        limits = httpx.Limits(keepalive_expiry=_KEEP_SECONDS)
        return httpx.Client(base_url=self._url, verify=context, timeout=self._timeout, trust_env=False, limits=limits)


class AuthorityClient:
    """Blocking client; safe to share between threads. Which calls are answered depends on the socket.

    Every method raises UnavailableError where the authority does not answer, and otherwise the error it
    answered.
    """

    def __init__(self, socket: Path, *, timeout: float = TIMEOUT) -> None:
        transport = httpx.HTTPTransport(uds=str(socket))
        http = httpx.Client(transport=transport, base_url="http://authority", timeout=timeout, trust_env=False)
        self._place: Path | str = socket
        #: the client to ask with now
        self._http: Callable[[], httpx.Client] = lambda: http

    @classmethod
    def over_tls(cls, url: str, folder: Path, *, timeout: float = TIMEOUT) -> Self:
        """The client of a node agent on a cluster: ``url`` is ``https://…``; ``folder`` holds its certificate and key.

        The server's name is checked, by the authority in the folder alone; no proxy of the environment is asked.
        Certificates are read anew when they change on disk.

        Raises:
            SettingsError: ``url`` is none, or the folder does not hold them.
        """
        if not url.startswith("https://"):
            raise SettingsError(f"kubernetes.authority: {url} is not https://")
        made = cls.__new__(cls)
        made._place = url
        made._http = _OverTls(url, Renewed(folder, client_context), timeout).http
        return made

    def close(self) -> None:
        """Close the connections."""
        self._http().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, call: Call[Answer]) -> Answer:
        try:
            response = self._http().request(**call.request())
        except httpx.HTTPError as error:
            raise _unanswered(self._place, error) from error
        return call.answer(response)

    def grant(self, person: str, project: str) -> IssuedGrant:
        """A signed grant for ``person`` in the project with slug ``project`` (hub's socket)."""
        return self._ask(grant_call(person, project))

    def person_upsert(
        self, person: str, subject: str, display_name: str, email: str = "", groups: Iterable[str] = ()
    ) -> PersonCard:
        """Tell of a login; returns the person with platform roles (hub's socket)."""
        return self._ask(person_upsert_call(person, subject, display_name, email, groups))

    def person_gone(self, person: str) -> None:
        """Tell that the login provider no longer knows a person: what they run ends (hub's socket)."""
        self._ask(person_gone_call(person))

    def record(self, event: Event) -> int:
        """Write an event of the socket's own kinds to the audit log; returns its number (every socket)."""
        return self._ask(record_call(event))

    def check_sessions(self, claims: Iterable[SessionClaim]) -> list[SessionVerdict]:
        """Whether each running session is still allowed, in the order of the claims (node's socket)."""
        return self._ask(check_sessions_call(claims))

    def session_news(self, session: str) -> SessionNews:
        """What a node agent told of a session (the cluster's socket)."""
        return self._ask(session_news_call(session))

    def report_usage(self, report: NodeReport) -> None:
        """Tell what sessions used so far, and how the machine does (node's socket)."""
        self._ask(usage_call(report))

    def closings(self) -> list[ClosingDue]:
        """What is to be done for closed projects (node's socket)."""
        return self._ask(closings_call())

    def closed(self, project_id: str, done: ClosingDone) -> ClosingReceipt:
        """Tell what was done for one; with destroyed keys, the answer is the certificate (node's socket)."""
        return self._ask(closed_call(project_id, done))

    def person(self, person: str) -> PersonCard:
        """A person with platform roles; NotFoundError where there is none (portal's socket)."""
        return self._ask(person_call(person))

    def projects(self, person: str) -> list[ProjectCard]:
        """The person's projects (portal's socket)."""
        return self._ask(projects_call(person))

    def notices(self) -> list[Notice]:
        """The oldest notices that wait to be sent (portal's socket)."""
        return self._ask(notices_call())

    def told(self, notice: int, *, sent: bool) -> None:
        """Tell that a notice went out, or that it could not (portal's socket)."""
        self._ask(told_call(notice, sent))

    def deployment(self) -> DeploymentCard:
        """What the portal shows of the deployment (portal's socket)."""
        return self._ask(deployment_call())

    def call(self, name: str, by: str, /, **arguments: Any) -> Any:
        """What operation ``name`` answers when ``by`` asks for it (portal's socket)."""
        return self._ask(operation_call(name, arguments, by=by))

    def perform(
        self,
        name: str,
        arguments: Mapping[str, Any],
        *,
        by: str | None = None,
        token: str | None = None,
        signature: Mapping[str, Any] | None = None,
    ) -> Any:
        """The same, with a token in place of a person, or with a passkey's signature (portal's socket)."""
        return self._ask(operation_call(name, arguments, by=by, token=token, signature=signature))

    def prepare(self, by: str, operation: str, arguments: Mapping[str, Any]) -> PreparedDecision:
        """What ``by`` would sign if they asked for this operation now (portal's socket)."""
        return self._ask(prepare_call(by, operation, arguments))


class AsyncAuthorityClient:
    """The same calls as :class:`AuthorityClient`, awaitable, for one event loop."""

    def __init__(self, socket: Path, *, timeout: float = TIMEOUT) -> None:
        self._socket = socket
        transport = httpx.AsyncHTTPTransport(uds=str(socket))
        self._http = httpx.AsyncClient(
            transport=transport, base_url="http://authority", timeout=timeout, trust_env=False
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _ask(self, call: Call[Answer]) -> Answer:
        try:
            response = await self._http.request(**call.request())
        except httpx.HTTPError as error:
            raise _unanswered(self._socket, error) from error
        return call.answer(response)

    async def grant(self, person: str, project: str) -> IssuedGrant:
        """See :meth:`AuthorityClient.grant`."""
        return await self._ask(grant_call(person, project))

    async def person_upsert(
        self, person: str, subject: str, display_name: str, email: str = "", groups: Iterable[str] = ()
    ) -> PersonCard:
        """See :meth:`AuthorityClient.person_upsert`."""
        return await self._ask(person_upsert_call(person, subject, display_name, email, groups))

    async def person_follow(self, person: str, groups: Iterable[str]) -> PersonCard:
        """Tell of the groups of a person who is logged in (hub's socket)."""
        return await self._ask(person_follow_call(person, groups))

    async def person_gone(self, person: str) -> None:
        """See :meth:`AuthorityClient.person_gone`."""
        await self._ask(person_gone_call(person))

    async def record(self, event: Event) -> int:
        """See :meth:`AuthorityClient.record`."""
        return await self._ask(record_call(event))

    async def check_sessions(self, claims: Iterable[SessionClaim]) -> list[SessionVerdict]:
        """See :meth:`AuthorityClient.check_sessions`."""
        return await self._ask(check_sessions_call(claims))

    async def person(self, person: str) -> PersonCard:
        """See :meth:`AuthorityClient.person`."""
        return await self._ask(person_call(person))

    async def projects(self, person: str) -> list[ProjectCard]:
        """See :meth:`AuthorityClient.projects`."""
        return await self._ask(projects_call(person))

    async def notices(self) -> list[Notice]:
        """See :meth:`AuthorityClient.notices`."""
        return await self._ask(notices_call())

    async def told(self, notice: int, *, sent: bool) -> None:
        """See :meth:`AuthorityClient.told`."""
        await self._ask(told_call(notice, sent))

    async def deployment(self) -> DeploymentCard:
        """See :meth:`AuthorityClient.deployment`."""
        return await self._ask(deployment_call())

    async def call(self, name: str, by: str, /, **arguments: Any) -> Any:
        """See :meth:`AuthorityClient.call`."""
        return await self._ask(operation_call(name, arguments, by=by))

    async def prepare(self, by: str, operation: str, arguments: Mapping[str, Any]) -> PreparedDecision:
        """See :meth:`AuthorityClient.prepare`."""
        return await self._ask(prepare_call(by, operation, arguments))

    async def perform(
        self,
        name: str,
        arguments: Mapping[str, Any],
        *,
        by: str | None = None,
        token: str | None = None,
        signature: Mapping[str, Any] | None = None,
    ) -> Any:
        """See :meth:`AuthorityClient.perform`."""
        return await self._ask(operation_call(name, arguments, by=by, token=token, signature=signature))


def _unanswered(socket: Path | str, error: httpx.HTTPError) -> UnavailableError:
    told = str(error) or type(error).__name__
    return UnavailableError(f"the authority does not answer on {socket}: {told}", hint="see bulle status")

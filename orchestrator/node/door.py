"""The door: HTTP and JSON on a unix socket that only the hub's group may open (docs/architecture.md, "Wire
contracts").

A compromised hub stands before this: what it sends is data. It can start the workspace that a grant names,
look and stop; there is no field for an image, a path, a user or an option, and unknown fields are refused.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from orchestrator.errors import BulleError, InputError, NodeError, to_wire
from orchestrator.node.session_table import Described, Report, Step

_log = logging.getLogger(__name__)

MOST_BODY = 1 << 20
_LOOK_SECONDS = 0.2


class Sessions(Protocol):
    """What is behind the door: the sessions of a machine (:class:`orchestrator.node.sessions.Sessions`), or those of a
    cluster (:class:`orchestrator.cluster.sessions.PodSessions`)."""

    def start(self, token: str, environment: dict[str, str], report: Report, abort: threading.Event) -> Described:
        """Start the workspace that a grant is for; setting ``abort`` takes all back."""

    def stop(self, session: str, reason: str) -> None:
        """End a session; one that is not there is no error."""

    def get(self, session: str) -> Described:
        """One of them; raises NotFoundError."""

    def every(self) -> list[Described]:
        """Every session that is not gone."""


class StartRequest(BaseModel):
    """The body of ``POST /v1/workspaces``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    grant: Annotated[str, StringConstraints(min_length=1, max_length=1 << 19)]
    bridge_environment: Annotated[
        dict[
            Annotated[str, StringConstraints(max_length=64)],
            Annotated[str, StringConstraints(max_length=4096)],
        ],
        Field(max_length=64),
    ]


def parse_start(body: bytes) -> StartRequest:
    """The request in ``body``; raises InputError, which repeats none of its values."""
    try:
        return StartRequest.model_validate_json(body)
    except ValidationError as error:
        places = sorted({".".join(map(str, fault["loc"])) or "body" for fault in error.errors(include_input=False)})
        raise InputError(f"the request is not one for a start: {', '.join(places)[:300]}") from error


async def _body(request: Request) -> bytes:
    parts = bytearray()
    async for part in request.stream():
        parts += part
        if len(parts) > MOST_BODY:
            raise InputError(f"the request is larger than {MOST_BODY} bytes")
    return bytes(parts)


class _Start:
    """One start under way: the work in a thread, its steps in a queue."""

    def __init__(self, sessions: Sessions, wanted: StartRequest) -> None:
        self._sessions = sessions
        self._wanted = wanted
        self._loop = asyncio.get_running_loop()
        self._lines: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._abort = threading.Event()
        threading.Thread(target=self._run, name="start", daemon=True).start()

    def _tell(self, line: dict[str, Any]) -> None:
        self._loop.call_soon_threadsafe(self._lines.put_nowait, line)

    def _run(self) -> None:
        def report(step: Step) -> None:
            self._tell(asdict(step))

        try:
            done = self._sessions.start(self._wanted.grant, self._wanted.bridge_environment, report, self._abort)
        except BulleError as error:
            self._tell({"error": to_wire(error)})
        except Exception as error:  # noqa: BLE001 - the caller hears that it failed, the log what it was
            _log.exception("a start failed in an unforeseen way")
            self._tell({"error": to_wire(NodeError(f"unforeseen: {type(error).__name__}"))})
        else:
            self._tell({"started": {"session": done.session, "host": done.host, "port": done.port}})

    async def lines(self, request: Request) -> AsyncIterator[bytes]:
        """NDJSON until the last line. When the caller goes before it, everything is taken back."""
        session = None
        sent_last = False
        try:
            while not sent_last:
                try:
                    line = await asyncio.wait_for(self._lines.get(), _LOOK_SECONDS)
                except TimeoutError:
                    if await request.is_disconnected():
                        return
                    continue
                session = line.get("started", {}).get("session")
                last = "started" in line or "error" in line
                if last and await request.is_disconnected():
                    return
                yield json.dumps(line).encode() + b"\n"
                sent_last = last
        finally:
            if not sent_last:
                self._abort.set()
                if session is not None:
                    await asyncio.shield(asyncio.to_thread(self._sessions.stop, session, "the caller went away"))


def door_app(sessions: Sessions) -> Starlette:
    """The application behind the door's socket."""

    async def start(request: Request) -> Response:
        try:
            wanted = parse_start(await _body(request))
        except ClientDisconnect:
            return Response(status_code=400)
        under_way = _Start(sessions, wanted)
        return StreamingResponse(under_way.lines(request), media_type="application/x-ndjson")

    stoppers = ThreadPoolExecutor(max_workers=64, thread_name_prefix="door-stop")

    async def every(_: Request) -> Response:
        return JSONResponse([asdict(each) for each in sessions.every()])

    async def one(request: Request) -> Response:
        return JSONResponse(asdict(sessions.get(request.path_params["session"])))

    async def stop(request: Request) -> Response:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(stoppers, sessions.stop, request.path_params["session"], "asked by the hub")
        return Response(status_code=204)

    async def refuse(_: Request, error: Exception) -> Response:
        if not isinstance(error, BulleError):
            raise error
        return JSONResponse(to_wire(error), status_code=error.http_status)

    return Starlette(
        routes=[
            Route("/v1/workspaces", start, methods=["POST"]),
            Route("/v1/workspaces", every, methods=["GET"]),
            Route("/v1/workspaces/{session}", one, methods=["GET"]),
            Route("/v1/workspaces/{session}", stop, methods=["DELETE"]),
        ],
        exception_handlers={BulleError: refuse},
    )

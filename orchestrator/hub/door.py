"""The node agent's door, from the hub's side: HTTP and JSON on a unix socket.

The hub starts workspaces through this door and no other way. A spawner that speaks an engine's interface
(DockerSpawner, say) needs the engine's socket, and whoever holds that is root: a hub that is broken into
would own the machine. Here it holds a door that takes a grant, which it cannot sign, and nothing else: no
image, path, user or option.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from orchestrator.errors import BulleError, NodeError, UnavailableError, from_wire

_HINT = "the machine's node agent does not run or is starting again; try again in a minute"


@dataclass(frozen=True)
class Step:
    """A step of a start that is under way; ``total`` 0 when nothing is counted."""

    name: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class Started:
    """A workspace that is up, and where its bridge listens."""

    session: str
    host: str
    port: int


def read_line(line: str) -> Step | Started:
    """What one line of the door's answer to a start says.

    Raises:
        BulleError: the start ended with that error.
        NodeError: the line is not of the protocol.
    """
    try:
        said = json.loads(line)
        if "error" in said:
            error = said["error"]
            fault = from_wire(str(error["code"]), str(error["message"]), error.get("hint"))
        elif "started" in said:
            up = said["started"]
            return Started(session=str(up["session"]), host=str(up["host"]), port=int(up["port"]))
        else:
            return Step(str(said["step"]), max(0, int(said.get("done") or 0)), max(0, int(said.get("total") or 0)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NodeError(f"the node agent said something unexpected: {line[:200]!r}") from error
    raise fault


class Door:
    """Calls on the door at ``socket``."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def _client(self, seconds: float | None) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(self._socket)),
            base_url="http://door",
            timeout=httpx.Timeout(seconds, connect=5.0),
            trust_env=False,
        )

    async def start(self, grant: str, environment: dict[str, str]) -> AsyncGenerator[Step | Started]:
        """Start a workspace and yield its steps, lastly :class:`Started`.

        Closing this iterator early closes the connection, upon which the node agent aborts the start and
        cleans up.

        Raises:
            BulleError: the start failed or was refused; nothing is left of it.
            UnavailableError: the node agent does not answer.
        """
        body = {"grant": grant, "bridge_environment": environment}
        try:
            # No time limit between lines: a large view takes its time, and the hub limits the whole start.
            async with (
                self._client(None) as client,
                client.stream("POST", "/v1/workspaces", json=body) as answer,
            ):
                if answer.status_code != 200:
                    await answer.aread()
                    raise _fault(answer)
                async for line in answer.aiter_lines():
                    if line.strip():
                        yield read_line(line)
        except httpx.HTTPError as error:
            raise UnavailableError(f"the node agent does not answer: {error}", hint=_HINT) from error

    async def workspace(self, session: str) -> dict[str, Any] | None:
        """What the node agent says of a session; None when there is no such session.

        Raises:
            UnavailableError: the node agent does not answer, so nobody knows.
        """
        try:
            async with self._client(10.0) as client:
                answer = await client.get(f"/v1/workspaces/{session}")
        except httpx.HTTPError as error:
            raise UnavailableError(f"the node agent does not answer: {error}", hint=_HINT) from error
        if answer.status_code == 404:
            return None
        if answer.status_code != 200:
            raise _fault(answer)
        found: dict[str, Any] = answer.json()
        return found

    async def running(self, person: str, project: str) -> list[str]:
        """Sessions of this person in this project that run now.

        Raises:
            UnavailableError: the node agent does not answer, so nobody knows.
        """
        try:
            async with self._client(10.0) as client:
                answer = await client.get("/v1/workspaces")
        except httpx.HTTPError as error:
            raise UnavailableError(f"the node agent does not answer: {error}", hint=_HINT) from error
        if answer.status_code != 200:
            raise _fault(answer)
        return [
            str(each["session"])
            for each in answer.json()
            if (each["person"], each["project"], each["state"]) == (person, project, "running")
        ]

    async def stop(self, session: str) -> None:
        """Stop a session; one that is not there is stopped already.

        Raises:
            BulleError: it could not be stopped, or the node agent does not answer.
        """
        try:
            async with self._client(60.0) as client:
                answer = await client.delete(f"/v1/workspaces/{session}")
        except httpx.HTTPError as error:
            raise UnavailableError(f"the node agent does not answer: {error}", hint=_HINT) from error
        if answer.status_code not in (204, 404):
            raise _fault(answer)


def _fault(answer: httpx.Response) -> BulleError:
    try:
        said = answer.json()
        return from_wire(str(said["code"]), str(said["message"]), said.get("hint"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return NodeError(f"the node agent answered with status {answer.status_code}")

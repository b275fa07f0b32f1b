"""The spawner against a door and an authority that record what they are asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from jupyterhub.spawner import SpawnException
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from orchestrator.errors import BulleError, IsolationError
from orchestrator.hub.door import Started, Step, read_line
from orchestrator.hub.spawner import BRIDGE_ENVIRONMENT, STEPS, BulleSpawner, bridge_environment, progress_event

SESSION = "a" * 32


@dataclass
class World:
    """What stands behind the spawner, and what it was asked."""

    folder: Path
    lines: list[dict[str, Any]] = field(default_factory=list)
    refusal: tuple[int, dict[str, Any]] | None = None
    pause: float = 0.0
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    known: list[dict[str, str]] = field(default_factory=list)
    #: how many lines the door has told
    told: int = 0
    aborted: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def up(self) -> AsyncIterator[None]:
        apps = {
            "authority": Starlette(routes=[Route("/v1/grants", self._grant, methods=["POST"])]),
            "door": Starlette(
                routes=[
                    Route("/v1/workspaces", self._list, methods=["GET"]),
                    Route("/v1/workspaces", self._start, methods=["POST"]),
                    Route("/v1/workspaces/{session}", self._one, methods=["GET", "DELETE"]),
                ]
            ),
        }
        servers = [
            uvicorn.Server(uvicorn.Config(app, uds=str(self.folder / name), log_config=None, lifespan="off"))
            for name, app in apps.items()
        ]
        tasks = [asyncio.create_task(server.serve()) for server in servers]
        while not all(server.started for server in servers):  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        try:
            yield
        finally:
            for server in servers:
                server.should_exit = True
            await asyncio.gather(*tasks)

    async def _grant(self, request: Request) -> Response:
        self.asked.append(("grant", "", await request.json()))
        if self.refusal is not None:
            return JSONResponse(self.refusal[1], self.refusal[0])
        return JSONResponse({"grant": "JWS", "session": SESSION, "ends_at": "2099-01-01T00:00:00Z"}, 201)

    async def _start(self, request: Request) -> Response:
        self.asked.append(("start", "", await request.json()))

        async def stream() -> AsyncIterator[str]:
            whole = False
            try:
                for line in self.lines:
                    yield json.dumps(line) + "\n"
                    self.told += 1
                    await asyncio.sleep(self.pause)
                whole = True
            finally:
                # Given up while it waits here, or while a line is on its way: which of them is chance.
                if not whole:
                    self.aborted.set()

        return StreamingResponse(stream())

    async def _list(self, request: Request) -> Response:
        return JSONResponse(self.known)

    async def _one(self, request: Request) -> Response:
        session = request.path_params["session"]
        self.asked.append((request.method, session, None))
        if request.method == "DELETE":
            self.running.discard(session)
            return Response(status_code=204)
        return JSONResponse({"session": session}) if session in self.running else JSONResponse({}, 404)


RIGHT = [
    {"step": "starting"},
    {"step": "view", "done": 5, "total": 10},
    {"started": {"session": SESSION, "host": "172.31.250.9", "port": 8888}},
]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, list(RIGHT))


def spawner(world: World, name: str = "doctor-visits", options: dict[str, Any] | None = None) -> BulleSpawner:
    user = SimpleNamespace(name="ada", url="/user/ada/", escaped_name="ada", settings={}, id=1)
    hub = SimpleNamespace(public_host="", api_url="http://172.31.250.1:8081/hub/api", base_url="/hub/")
    orm = SimpleNamespace(name=name, state={}, server=None, user_options=options or {})
    made = BulleSpawner(user=user, hub=hub, orm_spawner=orm, db=None, oauth_client_id="client")
    made.authority_socket, made.door_socket = str(world.folder / "authority"), str(world.folder / "door")
    made.api_token, made.user_options = "the-bridge-token", options or {}
    made.hub_connect_url = "http://172.31.250.1:8081"
    return made


def run(world: World, use: Any) -> Any:
    async def inner() -> Any:
        async with world.up():
            return await use()

    return asyncio.run(inner())


def test_a_start_gives_the_grant_to_the_door_and_tells_the_steps(world: World) -> None:
    async def use() -> None:
        server = spawner(world)
        reader = asyncio.create_task(collect(server))
        assert await server.start() == "http://172.31.250.9:8888"
        events = await reader
        assert [event["step"] for event in events] == ["checking", "starting", "view", "ready"]
        assert (events[2]["done"], events[2]["total"]) == (5, 10)
        assert [event["progress"] for event in events] == sorted(event["progress"] for event in events)
        assert server.get_state()["session"] == SESSION

    async def collect(server: BulleSpawner) -> list[dict[str, Any]]:
        return [event async for event in server.progress()]

    run(world, use)
    assert world.asked[0] == ("grant", "", {"person": "ada", "project": "doctor-visits"})
    sent = world.asked[1][2]
    assert set(sent) == {"grant", "bridge_environment"} and sent["grant"] == "JWS"
    assert sent["bridge_environment"]["JUPYTERHUB_API_TOKEN"] == "the-bridge-token"
    assert set(sent["bridge_environment"]) <= set(BRIDGE_ENVIRONMENT)


def test_what_a_hub_that_was_killed_left_is_ended_before_a_start(world: World) -> None:
    """And nothing else is: not another person's, nor another project's, nor what is being started."""
    here = {"person": "ada", "project": "doctor-visits", "state": "running"}
    world.known = [
        {**here, "session": "b" * 32},
        {**here, "session": "c" * 32, "person": "grace"},
        {**here, "session": "d" * 32, "project": "sleep"},
        {**here, "session": "e" * 32, "state": "starting"},
    ]
    run(world, lambda: spawner(world).start())
    assert [(what, which) for what, which, _ in world.asked if what == "DELETE"] == [("DELETE", "b" * 32)]
    assert [what for what, _, _ in world.asked] == ["grant", "DELETE", "start"]


def test_options_change_nothing(world: World) -> None:
    """What a caller asks for cannot widen a start: with options and without, the door is asked the same."""
    wish = {
        "image": "evil",
        "mounts": ["/"],
        "environment": {"JUPYTERHUB_USER": "root"},
        "bridge_environment": {"A": "b"},
    }

    async def use() -> None:
        await spawner(world).start()
        server = spawner(world, options=wish)
        await server.start()
        assert server.user_options == {}

    run(world, use)
    assert world.asked[1] == world.asked[3]


def test_negative_control_an_environment_from_outside_would_be_filtered() -> None:
    kept = bridge_environment(
        {"JUPYTERHUB_USER": "ada", "LD_PRELOAD": "x", "CONFIGPROXY_AUTH_TOKEN": "secret", "PATH": "/"}
    )
    assert kept == {"JUPYTERHUB_USER": "ada"}


def test_a_refused_grant_tells_the_person_why_and_the_door_is_not_asked(world: World) -> None:
    world.refusal = 403, {"code": "refused", "message": "the membership has expired", "hint": None}

    async def use() -> None:
        server = spawner(world)
        with pytest.raises(SpawnException) as refused:
            await server.start()
        assert refused.value.jupyterhub_message == "the membership has expired"
        assert (refused.value.status_code, refused.value.reason) == (403, "refused")
        events = [event async for event in server.progress()]
        assert events[-1]["failure"] == {"code": "refused", "message": "the membership has expired", "hint": None}
        await server.stop()

    run(world, use)
    assert [what for what, _, _ in world.asked] == ["grant"]


def test_the_default_server_is_refused_before_anybody_is_asked(world: World) -> None:
    async def use() -> None:
        with pytest.raises(SpawnException, match="belongs to a project"):
            await spawner(world, name="").start()

    run(world, use)
    assert world.asked == []


def test_a_failed_probe_reaches_the_person_as_itself(world: World) -> None:
    world.lines = [
        RIGHT[0],
        {"error": {"code": "isolation", "message": "tcp 192.0.2.1 answered", "hint": "tell the administrator"}},
    ]

    async def use() -> None:
        server = spawner(world)
        with pytest.raises(SpawnException) as refused:
            await server.start()
        assert isinstance(refused.value.__cause__, IsolationError)
        await server.stop()

    run(world, use)
    assert world.asked[-1] == ("DELETE", SESSION, None)


@pytest.mark.parametrize(
    "lines", [[], [RIGHT[0]], [{"started": {"session": "b" * 32, "host": "h", "port": 1}}], [{"what": 1}]]
)
def test_an_answer_that_ends_wrongly_is_a_failure(world: World, lines: list[dict[str, Any]]) -> None:
    world.lines = lines

    async def use() -> None:
        with pytest.raises(SpawnException):
            await spawner(world).start()

    run(world, use)


def test_a_door_that_is_shut_is_a_failure_with_a_hint(world: World) -> None:
    async def use() -> None:
        server = spawner(world)
        server.door_socket = str(world.folder / "nobody")
        with pytest.raises(SpawnException, match="node agent"):
            await server.start()

    run(world, use)


def test_giving_up_closes_the_connection_so_that_the_agent_cleans_up(world: World) -> None:
    world.lines, world.pause = [{"step": "view", "done": n, "total": 1000} for n in range(1000)], 0.05

    async def use() -> None:
        start = asyncio.create_task(spawner(world).start())
        # Not after a time: on a busy machine the door may not even have been asked by then.
        while world.told < 2 and not start.done():  # noqa: ASYNC110 - a line of the door makes no event here
            await asyncio.sleep(0.01)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        await asyncio.wait_for(world.aborted.wait(), 60)
        assert world.told < len(world.lines)

    run(world, use)


def test_poll_finds_a_session_again_after_a_restart_of_the_hub(world: World) -> None:
    world.running.add(SESSION)

    async def use() -> None:
        server = spawner(world)
        server.load_state({"session": SESSION})
        assert await server.poll() is None
        world.running.clear()
        assert await server.poll() == 0
        server.door_socket = str(world.folder / "nobody")
        assert await server.poll() is None, "an agent that does not answer proves nothing"
        server.clear_state()
        assert await server.poll() == 0

    run(world, use)


# -- the lines of the door -------------------------------------------------------------------------------
def test_lines_are_read() -> None:
    assert read_line('{"step": "keys"}') == Step("keys", 0, 0)
    assert read_line(json.dumps(RIGHT[2])) == Started(SESSION, "172.31.250.9", 8888)
    with pytest.raises(IsolationError, match="out"):
        read_line('{"error": {"code": "isolation", "message": "a way out"}}')


@given(
    st.one_of(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda v: (
                st.lists(v) | st.dictionaries(st.sampled_from(["step", "started", "error", "done", "total", "code"]), v)
            ),
        ).map(json.dumps),
    )
)
def test_no_line_breaks_the_reader(line: str) -> None:
    with suppress(BulleError):
        assert isinstance(read_line(line), Step | Started)


@given(st.sampled_from([*STEPS, "unheard-of"]), st.integers(0, 10**12), st.integers(0, 10**12))
def test_progress_stays_within_its_step(name: str, done: int, total: int) -> None:
    event = progress_event(Step(name, done, total))
    assert 0 <= event["progress"] <= 100
    assert event["progress"] >= progress_event(Step(name))["progress"]

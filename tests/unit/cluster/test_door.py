"""The door of a cluster speaks as that of one machine does: the hub's own client is on the other side."""

from __future__ import annotations

import ast
import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
import uvicorn

from orchestrator.errors import IsolationError
from orchestrator.governance.serving import listen
from orchestrator.hub.door import Door, Started
from orchestrator.node.door import door_app
from tests.unit.cluster.conftest import Stage
from tests.unit.cluster.fake import OPEN, STUCK


@pytest.fixture
def hub(stage: Stage, tmp_path: Path) -> Iterator[Door]:
    stage.door.watch.start()
    server = uvicorn.Server(uvicorn.Config(door_app(stage.door.sessions), log_config=None, lifespan="off"))
    socket = listen(tmp_path / "door.sock")
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
    thread.start()
    end = time.monotonic() + 5
    while not stage.door.sessions._known.is_set() or not server.started:
        assert time.monotonic() < end
        time.sleep(0.01)
    yield Door(tmp_path / "door.sock")
    server.should_exit = True
    thread.join(10)
    stage.door.watch.stop()
    socket.close()


@pytest.mark.parametrize("part", ["door", "namespaces"])
def test_nothing_comes_along_that_opens_data_or_speaks_to_an_engine(part: str) -> None:
    program = f"import sys, orchestrator.cluster.{part}; print({{each.split('.')[0] for each in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"docker", "grpc", "pyarrow", "pkcs11", "sqlalchemy"} & ast.literal_eval(done.stdout)


def test_the_hub_starts_sees_and_stops_a_workspace(stage: Stage, hub: Door) -> None:
    grant = stage.grant()

    async def life() -> None:
        async with aclosing(hub.start(stage.signed(grant), stage.environment(grant))) as lines:
            told = [line async for line in lines]
        assert told[-1] == Started(grant.session, "10.244.0.9", 8888)
        assert await hub.running("ann", "heart") == [grant.session]
        found = await hub.workspace(grant.session)
        assert found is not None and found["state"] == "running"
        await hub.stop(grant.session)
        await hub.stop(grant.session)
        assert await hub.workspace(grant.session) is None

    asyncio.run(life())
    assert stage.left() == []


def test_the_hub_hears_what_the_probe_found(stage: Stage, hub: Door) -> None:
    stage.cluster.script = OPEN
    grant = stage.grant()

    async def start() -> None:
        async with aclosing(hub.start(stage.signed(grant), stage.environment(grant))) as lines:
            async for _ in lines:
                pass

    with pytest.raises(IsolationError, match="not isolated"):
        asyncio.run(start())


def test_when_the_hub_goes_away_everything_is_taken_back(stage: Stage, hub: Door) -> None:
    stage.cluster.script = STUCK
    grant = stage.grant()

    async def begin() -> None:
        async with aclosing(hub.start(stage.signed(grant), stage.environment(grant))) as lines:
            async for line in lines:
                if getattr(line, "name", "") == "proving":
                    return

    asyncio.run(begin())
    end = time.monotonic() + 3
    while stage.left() or stage.door.sessions.every():
        assert time.monotonic() < end
        time.sleep(0.02)

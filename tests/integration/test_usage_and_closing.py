"""What a real session uses reaches the authority; a closed project's keys and folders go, by the agent in its
container, with the capabilities that it has there and no others."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import docker
import pytest

from orchestrator.keys import KeyRing, open_custodian
from orchestrator.machine import images as machine_images
from orchestrator.node.closings import _immutable
from orchestrator.node.folders import archive_of, folder_name, home_key, project_key
from orchestrator.node.usage import SAMPLE_SECONDS
from tests.integration.agent_stage import Stage

MINE, OTHER = "1" * 32, "2" * 32
DUE = {"project_id": MINE, "project": "heart", "persons": ["researcher", "colleague"]}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, engine: docker.DockerClient) -> Iterator[Stage]:
    built = machine_images.build_images(["node", "gateway", "sandbox"], progress=print)
    made = Stage(tmp_path_factory.mktemp("usage"), built, "172.31.212.0/24")
    try:
        yield made
    finally:
        # An immutable file is not removed by the stage, nor by anybody who sweeps its folder.
        for image in made.settings.layout.folders.rglob("disk.img"):
            _immutable(image, wanted=False)
        made.close()


@pytest.fixture
def agent(stage: Stage) -> Iterator[Stage]:
    stage.start_agent()
    stage.authority.events.clear()
    stage.authority.reports.clear()
    stage.authority.closed.clear()
    yield stage
    stage.stop()


def until(what: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def session_of(stage: Stage, **changes: Any) -> str:
    grant = stage.grant(**changes)
    assert "started" in stage.start(grant)[-1]
    return grant.session


def test_what_a_session_uses_and_its_folders_hold_is_told(agent: Stage) -> None:
    session = session_of(agent)
    agent.in_sandbox(session, "dd if=/dev/urandom of=/home/researcher/noise bs=1M count=8; sync")
    # Three seconds of one processor, in a loop that the shell itself runs.
    agent.in_sandbox(session, "end=$(($(date +%s) + 4)); while [ $(date +%s) -lt $end ]; do :; done")
    time.sleep(SAMPLE_SECONDS + 1)
    agent.stop()
    lines = [line for told in agent.authority.reports for line in told["sessions"] if line["session"] == session]
    last = lines[-1]
    assert (last["person"], last["project_id"]) == ("researcher", MINE)
    assert last["ended"] is not None, "a polite end of the agent tells of all ends"
    assert last["seconds"] >= 4 and last["cpu_seconds"] >= 2 and last["memory_gb_seconds"] > 0.1
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)
    sizes = {each["person"]: each["bytes_used"] for told in agent.authority.reports for each in told["folders"]}
    assert sizes["researcher"] > 8 << 20 and 0 < sizes[""] < 8 << 20, "what it takes, and not its limit"
    machine = agent.authority.reports[-1]["machine"]
    assert machine["cpus"] >= 1 and machine["memory_total_gb"] > 1 and machine["storage_free_gb"] > 0


def test_a_closed_project_is_archived_and_then_destroyed_and_no_other(agent: Stage) -> None:
    layout = agent.settings.layout
    ring = KeyRing(layout.keyring, open_custodian(agent.settings, layout))
    mine = [project_key(MINE), home_key(MINE, "researcher"), home_key(MINE, "colleague")]
    for changes in ({}, {"person": "colleague"}, {"project_id": OTHER, "project": "lung"}):
        session = session_of(agent, **changes)
        agent.in_sandbox(session, "echo notes > /home/researcher/notes; echo ours > /project/notes")
    for each in (MINE, OTHER):
        assert ring.exists(project_key(each)) and ring.exists(f"project/{each}/pseudonyms")
    agent.stop()
    kept_aside = {key_id: layout.folders / folder_name(key_id) for key_id in mine}
    for key_id, folder in kept_aside.items():
        shutil.copytree(folder, layout.state / "aside" / folder_name(key_id))
    # Archived: it lies elsewhere, and a workspace does not open any more, whatever grant there is.
    agent.authority.due = [{**DUE, "action": "archive"}]
    agent.start_agent()
    until(lambda: bool(agent.authority.closed))
    assert [each["done"] for each in agent.authority.closed] == ["archived"]
    assert all((archive_of(layout.folders, MINE) / folder_name(key_id) / "disk.img").exists() for key_id in mine)
    with pytest.raises(PermissionError):
        (archive_of(layout.folders, MINE) / folder_name(mine[0]) / "disk.img").write_bytes(b"planted")
    said = agent.start(agent.grant())[-1]
    assert "project-closed" in said["error"]["message"]
    assert agent.nothing_left()
    # Destroyed.
    agent.authority.closed.clear()
    agent.authority.due = [{**DUE, "action": "destroy"}]
    agent.stop()
    agent.start_agent()
    until(lambda: bool(agent.authority.closed))
    (told,) = agent.authority.closed
    assert told["done"] == "destroyed"
    assert told["keys"] == sorted([*mine, f"project/{MINE}/pseudonyms"])
    assert told["folders"] == sorted(folder_name(key_id) for key_id in mine)
    assert not any(ring.exists(key_id) for key_id in told["keys"])
    assert [path.name for path in archive_of(layout.folders, MINE).iterdir()] == ["destroyed.json"]
    kinds = agent.authority.kinds()
    assert kinds.index("key.destroy started") < kinds.index("key.destroy done") < kinds.index("folder.destroy started")
    # Who kept the ciphertext, and has the key ring and the custodian's key, opens nothing.
    for key_id in mine:
        shutil.copytree(layout.state / "aside" / folder_name(key_id), layout.folders / folder_name(key_id))
    assert "error" in agent.start(agent.grant())[-1]
    for key_id in mine:
        shutil.rmtree(layout.folders / folder_name(key_id))
    # The other project works on, with what it had.
    session = session_of(agent, project_id=OTHER, project="lung")
    assert agent.in_sandbox(session, "cat /home/researcher/notes /project/notes") == (0, "notes\nours\n")


def test_nothing_is_destroyed_under_a_session_that_is_up(agent: Stage) -> None:
    layout = agent.settings.layout
    ring = KeyRing(layout.keyring, open_custodian(agent.settings, layout))
    session = session_of(agent, project_id="3" * 32, project="skin")
    agent.authority.due = [{**DUE, "project_id": "3" * 32, "project": "skin", "action": "destroy"}]
    # The first round is over; the next comes by itself.
    until(lambda: archive_of(layout.folders, "3" * 32).exists(), 90)
    time.sleep(1)
    assert agent.authority.closed == [] and ring.exists(project_key("3" * 32))
    assert agent.in_sandbox(session, "echo still > /project/notes && cat /project/notes") == (0, "still\n")
    with agent.door() as door:
        door.delete(f"/v1/workspaces/{session}")
    until(lambda: bool(agent.authority.closed), 90)
    assert not ring.exists(project_key("3" * 32))

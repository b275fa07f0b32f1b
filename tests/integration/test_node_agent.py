"""The node agent in its own container, with the real engine and the real images."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import docker
import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from orchestrator.config import Uid
from orchestrator.governance.grants import issuer_of, sign_grant
from orchestrator.machine import images as machine_images
from orchestrator.node import csi_pb2, csi_pb2_grpc
from tests.integration.agent_stage import PLANTED_ID, PLANTED_VALUE, Stage


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, engine: docker.DockerClient) -> Iterator[Stage]:
    built = machine_images.build_images(["node", "gateway", "sandbox"], progress=print)
    made = Stage(tmp_path_factory.mktemp("agent"), built, "172.31.211.0/24")
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def serving(stage: Stage) -> Iterator[Stage]:
    """The agent without a hole, for the tests that do not end it."""
    stage.start_agent()
    try:
        yield stage
    finally:
        stage.stop()


@pytest.fixture
def agent(serving: Stage) -> Iterator[Stage]:
    """The same, with no session before and after."""
    serving.authority.denied.clear()
    serving.authority.refuse_kinds.clear()
    serving.authority.events.clear()
    yield serving
    with serving.door() as door:
        for each in door.get("/v1/workspaces").json():
            door.delete(f"/v1/workspaces/{each['session']}")
    assert serving.nothing_left(), (serving.containers(), serving.mounted(), serving.log())


def started(lines: list[dict[str, Any]]) -> dict[str, Any]:
    assert "started" in lines[-1], lines
    return dict(lines[-1]["started"])


def refused(lines: list[dict[str, Any]]) -> dict[str, Any]:
    assert "error" in lines[-1], lines
    return dict(lines[-1]["error"])


def test_data_appears_in_the_running_sandbox_read_only_and_everything_goes_with_the_session(agent: Stage) -> None:
    grant = agent.grant()
    lines = agent.start(grant)
    done = started(lines)
    assert done["session"] == grant.session
    assert [line["step"] for line in lines[:-1]][:2] == ["starting", "proving"]
    assert lines[-2]["step"] == "ready"
    status, listed = agent.in_sandbox(grant.session, "ls /data/visits && id -u && touch /home/researcher/x /project/y")
    assert (status, listed.split()) == (0, ["visits.parquet", "1000"])
    for attempt in (
        "touch /data/z",
        "touch /data/visits/z",
        "rm /data/visits/visits.parquet",
        "mount -o remount,rw /data",
    ):
        status, said = agent.in_sandbox(grant.session, attempt)
        assert status != 0, said
    assert agent.in_sandbox(grant.session, "grep -c planted-person /data/visits/visits.parquet")[0] == 1
    assert agent.in_sandbox(grant.session, "stat -f -c %T /data")[1].strip() in ("tmpfs", "ramfs")
    with agent.door() as door:
        (shown,) = door.get("/v1/workspaces").json()
        assert shown == {
            **shown,
            "session": grant.session,
            "person": "researcher",
            "project": "heart",
            "state": "running",
        }
        assert door.get(f"/v1/workspaces/{grant.session}").json() == shown
        assert door.delete(f"/v1/workspaces/{grant.session}").status_code == 204
        assert door.delete(f"/v1/workspaces/{grant.session}").status_code == 204
        assert door.get(f"/v1/workspaces/{grant.session}").status_code == 404
    assert agent.nothing_left()
    kinds = agent.authority.kinds(grant.session)
    assert kinds[:2] == ["workspace.start started", "probe.passed done"]
    assert kinds.count("key.release started") == 3 and kinds.count("volume.mount started") == 3
    assert kinds.index("key.release started") > kinds.index("probe.passed done")
    assert kinds[-1] == "workspace.stop done"


def test_home_and_project_folder_persist_and_are_shared_as_they_should(agent: Stage) -> None:
    first, second = agent.grant(), agent.grant(person="colleague")
    started(agent.start(first))
    started(agent.start(second))
    agent.in_sandbox(first.session, "echo mine > /home/researcher/note; echo ours > /project/note")
    assert agent.in_sandbox(second.session, "cat /project/note")[1] == "ours\n"
    assert agent.in_sandbox(second.session, "cat /home/researcher/note")[0] != 0
    views = [path for path in agent.mounted() if "/views/" in path]
    assert len(views) == 1, "members of one project share one view"
    with agent.door() as door:
        door.delete(f"/v1/workspaces/{first.session}")
    assert agent.in_sandbox(second.session, "ls /data/visits")[1] == "visits.parquet\n"
    again = agent.grant()
    started(agent.start(again))
    assert agent.in_sandbox(again.session, "cat /home/researcher/note /project/note")[1] == "mine\nours\n"
    elsewhere = agent.grant(project_id="2" * 32, project="lung")
    started(agent.start(elsewhere))
    assert agent.in_sandbox(elsewhere.session, "ls -A /project")[1] == ""


def test_a_folder_has_a_hard_limit(agent: Stage) -> None:
    grant = agent.grant()
    started(agent.start(grant))
    status, said = agent.in_sandbox(grant.session, "dd if=/dev/zero of=/home/researcher/big bs=1M count=64 2>&1")
    assert status != 0 and "No space" in said
    agent.in_sandbox(grant.session, "rm /home/researcher/big")
    assert agent.in_sandbox(grant.session, "echo fits > /home/researcher/small && echo fits > /project/small")[0] == 0


def test_nothing_in_clear_on_the_disk(agent: Stage) -> None:
    grant = agent.grant()
    started(agent.start(grant))
    for place in ("/home/researcher", "/project"):
        agent.in_sandbox(
            grant.session, f"mkdir {place}/{PLANTED_ID}; seq -f '{PLANTED_VALUE} %g' 20000 > {place}/notes"
        )
    with agent.door() as door:
        door.delete(f"/v1/workspaces/{grant.session}")
    assert agent.nothing_left()
    os.sync()
    needles = (PLANTED_ID.encode(), PLANTED_VALUE.encode(), b"planted-")
    seen = 0
    for path, content in agent.bytes_on_disk():
        seen += len(content)
        assert not any(needle in content for needle in needles), path
    assert seen > 1 << 20


def test_a_second_start_of_the_same_workspace_is_refused(agent: Stage) -> None:
    results: list[list[dict[str, Any]]] = []
    threads = [threading.Thread(target=lambda: results.append(agent.start(agent.grant()))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(next(iter(lines[-1])) for lines in results) == ["error", "error", "started"]
    assert {refused(lines)["code"] for lines in results if "error" in lines[-1]} == {"conflict"}
    assert len(agent.containers()) == 3


def test_only_a_valid_unused_grant_starts(agent: Stage) -> None:
    grant = agent.grant()
    now = datetime.now(UTC)
    issuer = issuer_of(agent.settings.deployment)
    forged = sign_grant(grant, Ed25519PrivateKey.generate(), now, issuer)
    for token in (
        forged,
        agent.token(grant, issued=now - timedelta(minutes=5)),
        agent.token(grant, issued=now + timedelta(minutes=5)),
        sign_grant(grant, agent._key, now, issuer_of("another")),
        agent.token(agent.grant(ends_at=now - timedelta(seconds=1))),
        "not.a.grant",
    ):
        assert refused(agent.start(grant, token))["code"] == "grant"
    assert not agent.containers()
    token = agent.token(grant)
    started(agent.start(grant, token))
    with agent.door() as door:
        door.delete(f"/v1/workspaces/{grant.session}")
    assert refused(agent.start(grant, token))["code"] == "grant"
    assert refused(agent.start(grant, agent.token(grant)))["code"] == "grant", "a session id starts once"
    assert "workspace.start refused" in agent.authority.kinds()


@pytest.mark.parametrize("kind", ["workspace.start", "probe.passed", "key.release", "volume.mount"])
def test_what_cannot_be_audited_does_not_happen(agent: Stage, kind: str) -> None:
    agent.authority.refuse_kinds.add(kind)
    grant = agent.grant()
    assert refused(agent.start(grant))["code"] == "audit"
    assert agent.nothing_left()


def test_a_silent_authority_means_no_start(agent: Stage) -> None:
    agent.authority.stop()
    try:
        error = refused(agent.start(agent.grant()))
        assert error["code"] == "unavailable", error
        assert agent.nothing_left()
    finally:
        agent.authority.start()


def test_a_revoked_session_ends_with_its_mounts(agent: Stage) -> None:
    keeps, loses = agent.grant(), agent.grant(person="colleague")
    started(agent.start(keeps))
    started(agent.start(loses))
    agent.authority.denied.add(loses.session)
    until = time.monotonic() + 10
    while agent.containers(loses.session) or any(loses.session in path for path in agent.mounted()):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert len(agent.containers(keeps.session)) == 3
    stop = next(e for e in agent.authority.events if e["kind"] == "workspace.stop")
    assert (stop["session"], stop["detail"]["reason"]) == (loses.session, "revoked")


def test_a_session_ends_at_its_end_and_when_a_part_dies(agent: Stage) -> None:
    short = agent.grant(ends_at=datetime.now(UTC) + timedelta(seconds=6))
    started(agent.start(short))
    broken = agent.grant(person="colleague")
    started(agent.start(broken))
    agent.containers()[f"{broken.session}/display"].kill()
    assert agent.nothing_left(15)
    reasons = {e["session"]: e["detail"]["reason"] for e in agent.authority.events if e["kind"] == "workspace.stop"}
    assert reasons == {short.session: "its end has come", broken.session: "a part of it ended"}


def test_closing_the_connection_takes_a_start_back(agent: Stage) -> None:
    grant = agent.grant()
    body = {"grant": agent.token(grant), "bridge_environment": agent.environment(grant)}
    with agent.door() as door, door.stream("POST", "/v1/workspaces", json=body) as answer:
        for line in answer.iter_lines():
            if json.loads(line)["step"] == "proving":
                break
    assert agent.nothing_left()
    assert not any(each == "workspace.start done" for each in agent.authority.kinds(grant.session))
    started(agent.start(agent.grant()))


# -- the hub's identity -------------------------------------------------------------------------------------
def as_the_hub(agent: Stage, script: str) -> subprocess.CompletedProcess[str]:
    """Run Python as the hub's user, in a container like the hub's: with the door's socket and nothing
    else."""
    door = agent.settings.layout.socket("door")
    command = ["docker", "run", "--rm", "--network", "none", "--user", f"{Uid.HUB}:{Uid.HUB}", "--cap-drop", "ALL"]
    command += ["-v", f"{door.parent}:{door.parent}:ro", "--entrypoint", "/usr/bin/python3", agent.images["node"]]
    return subprocess.run([*command, "-c", script], capture_output=True, text=True, timeout=60, check=False)


ASK = """
import http.client, json, socket, sys
class Door(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX); self.sock.connect({door!r})
def ask(method, path, body=None):
    door = Door("door"); door.request(method, path, json.dumps(body) if body is not None else None)
    answer = door.getresponse(); print(answer.status, repr(answer.read().decode()[-300:]))
"""


def test_the_hub_can_do_nothing_but_what_a_grant_says(agent: Stage) -> None:
    layout = agent.settings.layout
    ask = ASK.format(door=str(layout.socket("door")))
    grant = agent.grant()
    token, environment = agent.token(grant), agent.environment(grant)

    def answers(*calls: tuple[Any, ...]) -> list[str]:
        done = as_the_hub(agent, ask + "\n".join(f"ask(*{call!r})" for call in calls))
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    body = {"grant": token, "bridge_environment": environment}
    lines = answers(
        # no other container, image, command, mount, network, user or option
        ("POST", "/v1/workspaces", {**body, "image": "bulle/other"}),
        ("POST", "/v1/workspaces", {**body, "mounts": [{"source": "/", "target": "/host"}]}),
        ("POST", "/v1/workspaces", {**body, "network": "host"}),
        ("POST", "/v1/workspaces", {"grant": token, "bridge_environment": {**environment, "LD_PRELOAD": "/data/x.so"}}),
        ("POST", "/v1/workspaces", {"grant": token, "bridge_environment": []}),
        # no call of the engine, and no CSI
        ("GET", "/containers/json"),
        ("POST", "/v1.41/containers/create", {"Image": agent.images["sandbox"]}),
        ("POST", "/csi.v1.Node/NodePublishVolume", {}),
        ("GET", "/v1/workspaces/../../../containers/json"),
        ("DELETE", "/v1/workspaces/..%2f..%2fetc"),
    )
    statuses = [int(line.split()[0]) for line in lines if line.split()[0].isdigit()]
    assert statuses[:3] == [422, 422, 422] and statuses[4:8] == [422, 404, 404, 404], lines
    assert "error" in lines[3] and "LD_PRELOAD" in lines[3]
    assert not agent.containers(), "none of these started anything"
    # Another project's volume: only a grant names a project, and the hub cannot sign one.
    other = agent.grant(project_id="2" * 32, project="lung")
    stolen = sign_grant(other, Ed25519PrivateKey.generate(), datetime.now(UTC), issuer_of(agent.settings.deployment))
    assert "grant" in answers(("POST", "/v1/workspaces", {"grant": stolen, "bridge_environment": environment}))[0]
    # A grant for one person's workspace does not open under another one's name.
    mixed = {"grant": agent.token(other), "bridge_environment": {**environment, "JUPYTERHUB_SERVER_NAME": "heart"}}
    assert "SERVER_NAME" in answers(("POST", "/v1/workspaces", mixed))[0]
    assert agent.nothing_left()


def test_sockets_can_be_opened_by_their_one_client_only(agent: Stage) -> None:
    layout = agent.settings.layout
    door, csi = layout.socket("door").stat(), layout.socket("csi").stat()
    assert (door.st_uid, door.st_gid, door.st_mode & 0o777) == (0, Uid.HUB, 0o660)
    assert (csi.st_uid, csi.st_gid, csi.st_mode & 0o777) == (0, 0, 0o600)
    knock = f"import socket; socket.socket(socket.AF_UNIX).connect({str(layout.socket('door'))!r})"
    assert as_the_hub(agent, knock).returncode == 0
    command = [
        "setpriv",
        "--reuid",
        str(Uid.PORTAL),
        "--regid",
        str(Uid.PORTAL),
        "--clear-groups",
        "python3",
        "-c",
        knock,
    ]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


# -- CSI ----------------------------------------------------------------------------------------------------
def publish(stub: Any, target: Path, kind: str, grant: str, **changes: Any) -> None:
    mode = csi_pb2.VolumeCapability.AccessMode(mode=csi_pb2.VolumeCapability.AccessMode.SINGLE_NODE_WRITER)
    capability = csi_pb2.VolumeCapability(mount=csi_pb2.VolumeCapability.MountVolume(), access_mode=mode)
    fields: dict[str, Any] = {
        "volume_id": kind,
        "target_path": str(target),
        "volume_capability": capability,
        "secrets": {"grant": grant},
        "volume_context": {"bulle/kind": kind},
    }
    stub.NodePublishVolume(csi_pb2.NodePublishVolumeRequest(**{**fields, **changes}), timeout=30)


def test_csi_mounts_against_a_grant_only(agent: Stage) -> None:
    layout = agent.settings.layout
    grant = agent.grant()
    token = agent.token(grant)
    folder = layout.mounts / "ws" / "csi-test"
    folder.mkdir()
    outside = layout.state / "elsewhere"
    outside.mkdir()
    with grpc.insecure_channel(f"unix:{layout.socket('csi')}") as channel:
        node, identity = csi_pb2_grpc.NodeStub(channel), csi_pb2_grpc.IdentityStub(channel)
        assert identity.GetPluginInfo(csi_pb2.GetPluginInfoRequest()).name == "workspace.bulle"
        assert identity.Probe(csi_pb2.ProbeRequest()) is not None
        assert node.NodeGetInfo(csi_pb2.NodeGetInfoRequest()).node_id

        def code(*arguments: Any, **changes: Any) -> grpc.StatusCode:
            with pytest.raises(grpc.RpcError) as caught:
                publish(node, *arguments, **changes)
            return caught.value.code()

        invalid = grpc.StatusCode.INVALID_ARGUMENT
        assert code(folder / "v", "view", token, volume_id="") is invalid
        assert code(folder / "v", "other", token) is invalid
        assert code(folder / "v", "view", token, volume_capability=None) is invalid
        assert code(outside, "view", token) is invalid
        assert code(Path(f"{folder}/../../../elsewhere"), "view", token) is invalid
        (folder / "link").symlink_to(outside)
        assert code(folder / "link", "view", token) is invalid
        assert code(folder / "link" / "v", "view", token) is invalid
        (folder / "link").unlink()
        forged = sign_grant(
            grant, Ed25519PrivateKey.generate(), datetime.now(UTC), issuer_of(agent.settings.deployment)
        )
        assert code(folder / "v", "view", forged) is grpc.StatusCode.PERMISSION_DENIED
        assert code(folder / "v", "view", "") is grpc.StatusCode.PERMISSION_DENIED
        assert not agent.mounted()
        for kind in ("view", "home", "project"):
            publish(node, folder / kind, kind, token)
            publish(node, folder / kind, kind, token)
        assert (folder / "view" / "visits" / "visits.parquet").is_file()
        with pytest.raises(OSError, match="Read-only"):
            (folder / "view" / "x").write_text("x")
        assert code(folder / "again", "view", token) is grpc.StatusCode.FAILED_PRECONDITION
        assert code(folder / "again", "view", token, volume_id="other") is grpc.StatusCode.ABORTED
        for _ in range(2):
            for kind in ("view", "home", "project"):
                request = csi_pb2.NodeUnpublishVolumeRequest(volume_id=kind, target_path=str(folder / kind))
                node.NodeUnpublishVolume(request, timeout=30)
    assert not agent.mounted()
    for kind in ("view", "home", "project"):
        (folder / kind).rmdir()
    folder.rmdir()
    outside.rmdir()


@pytest.fixture
def mortal(serving: Stage) -> Iterator[Stage]:
    """The agent for a test that ends it; up again, without a hole, afterwards."""
    try:
        yield serving
    finally:
        serving.authority.on_event = lambda event: None
        serving.start_agent()


# -- crashes ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("moment", ["workspace.start", "probe.passed", "key.release", "volume.mount", "running"])
def test_an_agent_killed_at_any_moment_leaves_nothing_after_its_restart(mortal: Stage, moment: str) -> None:
    hit = threading.Event()

    def die(event: dict[str, Any]) -> None:
        if event["kind"] == moment and not hit.is_set():
            hit.set()
            mortal.kill()

    mortal.authority.on_event = die
    grant = mortal.grant()
    try:
        if moment == "running":
            started(mortal.start(grant))
            mortal.in_sandbox(grant.session, f"echo {PLANTED_VALUE} > /home/researcher/note; sync")
            mortal.kill()
        else:
            with pytest.raises(Exception):  # noqa: B017 - the connection ends in whatever way
                mortal.start(grant)
            assert hit.wait(10)
    finally:
        mortal.authority.on_event = lambda event: None
    mortal.kill()
    mortal.start_agent()
    assert mortal.nothing_left(1)
    for path, content in mortal.bytes_on_disk():
        assert b"planted-" not in content, path
    again = mortal.grant()
    started(mortal.start(again))
    if moment == "running":
        listed = mortal.in_sandbox(again.session, "ls -A /home/researcher")
        assert listed[0] == 0, (listed, mortal.authority.events[-4:], mortal.log())
    with mortal.door() as door:
        door.delete(f"/v1/workspaces/{again.session}")
    assert mortal.nothing_left()


def test_a_polite_end_stops_sessions_and_unmounts(mortal: Stage) -> None:
    grant = mortal.grant()
    started(mortal.start(grant))
    mortal.stop()
    assert mortal.nothing_left(1)
    assert not mortal.settings.layout.socket("door").exists()
    assert "workspace.stop done" in mortal.authority.kinds(grant.session)


# -- holes --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("hole", "found"),
    [
        ("network", "interfaces"),
        ("capability", "CapBnd"),
        ("writable-root", "unlink /etc"),
        ("privileges", "NoNewPrivs"),
        ("core-dumps", "core-dumps"),
        ("engine-socket", "docker.sock"),
        ("environment", "environment"),
        ("device", "/dev/fuse"),
        ("seccomp", "io_uring_setup"),
    ],
)
def test_a_sandbox_with_a_hole_is_refused_by_the_probe(mortal: Stage, hole: str, found: str) -> None:
    mortal.stop()
    mortal.start_agent(hole)
    mortal.authority.events.clear()
    try:
        grant = mortal.grant()
        error = refused(mortal.start(grant))
        assert error["code"] == "isolation"
        assert mortal.nothing_left()
        (event,) = [each for each in mortal.authority.events if each["kind"] == "probe.refused"]
        assert event["session"] == grant.session and event["outcome"] == "refused"
        assert found in str(event["detail"]["findings"]), event
        assert not any(each["kind"] in ("key.release", "volume.mount") for each in mortal.authority.events)
    finally:
        mortal.stop()

"""The life of a session on a cluster, through a real API server, and what a stolen hub can try at it."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from orchestrator.cluster import sessions, watch
from orchestrator.errors import (
    BulleError,
    ConflictError,
    GrantError,
    InputError,
    IsolationError,
    NodeError,
    NotFoundError,
    RefusedError,
    UnavailableError,
)
from orchestrator.governance.cards import SessionNews
from orchestrator.node import asking
from orchestrator.node.session_table import AbortedError, State, Step
from orchestrator.workspaces.pod import workspace_pod
from orchestrator.workspaces.pod_differences import differences
from tests.unit.cluster.conftest import IMAGES, NAMESPACE, PROJECT, Stage
from tests.unit.cluster.fake import (
    DONE,
    FINDING,
    GOOD,
    OPEN,
    PLACED,
    RUNNING,
    STUCK,
    WAITING,
    _inits,
    _sandbox_ended,
    status,
)


@pytest.fixture
def open_stage(stage: Stage) -> Stage:
    """With a door that knows what runs."""
    stage.door.watch.recover()
    return stage


def until(reached: Callable[[], Any], seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.01)


# -- a start ------------------------------------------------------------------------------------------------
def test_a_grant_becomes_the_pod_that_the_node_agent_wants_and_a_secret_beside_it(open_stage: Stage) -> None:
    steps: list[Step] = []
    grant = open_stage.grant()
    started = open_stage.start(grant, steps)
    assert (started.host, started.port, started.state) == ("10.244.0.9", 8888, State.RUNNING)
    (pod,) = open_stage.cluster.of("pods")
    assert differences(workspace_pod(grant, open_stage.settings, IMAGES, IMAGES.gateway), pod) == []
    (secret,) = open_stage.cluster.of("secrets")
    assert secret["metadata"]["name"] == pod["metadata"]["name"] == f"ws-{grant.session}"
    told = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
    assert json.loads(told["bridge"]) == open_stage.environment(grant) and told["grant"].count(".") == 2
    assert [each.step for each in steps] == ["starting", "starting", "starting", "proving", "view", "desktop", "ready"]
    assert open_stage.authority.kinds() == ["pod.start started", "pod.start done"]


def test_a_second_start_in_a_project_asks_nothing_but_to_make_secret_and_pod(open_stage: Stage) -> None:
    open_stage.start(open_stage.grant())
    open_stage.cluster.calls.clear()
    open_stage.start(open_stage.grant(person="bob"))
    mine = [call for call in open_stage.cluster.calls if "secrets" in call or "pods" in call or "create" in call]
    assert mine[:2] == [f"create secrets {NAMESPACE}/", f"create pods {NAMESPACE}/"]


def test_a_bridge_that_answers_is_up_before_kubelet_says_so_but_only_with_the_data(open_stage: Stage) -> None:
    open_stage.connects = True
    open_stage.cluster.script = [status(_inits(DONE), RUNNING, ready=False)]
    assert open_stage.start(open_stage.grant()).state is State.RUNNING
    # What answers may be a bridge beside a sandbox that is not proved yet.
    open_stage.cluster.script = STUCK
    abort = threading.Event()
    threading.Timer(0.5, abort.set).start()
    with pytest.raises(AbortedError):
        open_stage.start(open_stage.grant(person="bob"), abort=abort)


# -- what a stolen hub can try --------------------------------------------------------------------------------
def attack_forged(stage: Stage) -> None:
    grant = stage.grant()
    stage.door.sessions.start(
        stage.signed(grant, Ed25519PrivateKey.generate()), stage.environment(grant), lambda _: None, threading.Event()
    )


def attack_stale(stage: Stage) -> None:
    grant = stage.grant()
    token = stage.signed(grant)
    stage.now += timedelta(minutes=3)
    stage.door.sessions.start(token, stage.environment(grant), lambda _: None, threading.Event())


def attack_older_than_the_door(stage: Stage) -> None:
    grant = stage.grant()
    token = stage.signed(grant)
    stage.now += timedelta(seconds=30)
    stage.door = stage.another_door()
    stage.door.watch.recover()
    stage.door.sessions.start(token, stage.environment(grant), lambda _: None, threading.Event())


def attack_twice(stage: Stage) -> None:
    grant = stage.grant()
    token = stage.signed(grant)
    stage.door.sessions.start(token, stage.environment(grant), lambda _: None, threading.Event())
    stage.door.sessions.stop(grant.session, "asked by the hub")
    stage.door.sessions.start(token, stage.environment(grant), lambda _: None, threading.Event())


@pytest.mark.parametrize(
    "attack", [attack_forged, attack_stale, attack_older_than_the_door, attack_twice], ids=lambda each: each.__name__
)
def test_a_grant_that_does_not_hold_starts_nothing(open_stage: Stage, attack: Callable[[Stage], None]) -> None:
    with pytest.raises(GrantError):
        attack(open_stage)
    assert open_stage.left() == []
    assert open_stage.authority.kinds()[-1] == "workspace.start refused"


def test_without_the_age_of_the_door_a_used_grant_starts_again(
    open_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "LIFETIME", timedelta(0))
    attack_older_than_the_door(open_stage)
    assert open_stage.left() != []


@pytest.mark.parametrize("change", [{"JUPYTERHUB_USER": "eve"}, {"LD_PRELOAD": "x"}, {"JUPYTERHUB_API_TOKEN": "\n"}])
def test_a_bridge_for_somebody_else_is_refused(open_stage: Stage, change: dict[str, str]) -> None:
    grant = open_stage.grant()
    given = {**open_stage.environment(grant), **change}
    with pytest.raises(InputError):
        open_stage.door.sessions.start(open_stage.signed(grant), given, lambda _: None, threading.Event())
    assert open_stage.left() == [] and open_stage.cluster.names("namespaces") == ["bulle"]


def test_of_many_starts_of_one_workspace_at_once_one_comes_about(open_stage: Stage) -> None:
    outcomes: list[str] = []

    def one() -> None:
        try:
            open_stage.start(open_stage.grant())
            outcomes.append("started")
        except BulleError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(outcomes) == ["conflict"] * 7 + ["started"]
    assert len(open_stage.left()) == 2


def test_a_stop_during_a_start_takes_all_back_and_returns_when_it_is_gone(open_stage: Stage) -> None:
    open_stage.cluster.script = STUCK
    grant = open_stage.grant()
    ends: list[BulleError] = []

    def start() -> None:
        with pytest.raises(AbortedError) as raised:
            open_stage.start(grant)
        ends.append(raised.value)

    thread = threading.Thread(target=start)
    thread.start()
    until(lambda: open_stage.cluster.names("pods"))
    open_stage.door.sessions.stop(grant.session, "asked by the hub")
    assert open_stage.left() == []
    thread.join()
    assert len(ends) == 1
    open_stage.door.sessions.stop(grant.session, "again")
    with pytest.raises(NotFoundError):
        open_stage.door.sessions.get(grant.session)


def test_a_pod_that_goes_to_and_fro_does_not_fill_the_caller_s_stream(open_stage: Stage) -> None:
    open_stage.cluster.script = [*GOOD[1:4] * 4, *GOOD]
    steps: list[Step] = []
    open_stage.start(open_stage.grant(), steps)
    assert len(steps) == len(set(steps))


# -- a start that fails ---------------------------------------------------------------------------------------
def _waiting(reason: str, message: str) -> list[dict[str, Any]]:
    return [status(_inits({"waiting": {"reason": reason, "message": message}}), WAITING)]


UNPLACED = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: too little"}
FAILURES: dict[str, tuple[list[dict[str, Any]], type[BulleError], str]] = {
    "probe": (OPEN, IsolationError, FINDING),
    "lock": (
        [status(_inits({"terminated": {"exitCode": 1, "message": "no nftables"}}), WAITING)],
        IsolationError,
        "no nftables",
    ),
    "image": (_waiting("ImagePullBackOff", "no such manifest"), NodeError, "cannot be pulled: no such manifest"),
    "unplaced": ([{"phase": "Pending", "conditions": [UNPLACED]}], UnavailableError, "too little"),
    "admission of the node": (
        [{"phase": "Failed", "reason": "SysctlForbidden", "conditions": PLACED}],
        NodeError,
        "SysctlForbidden",
    ),
    "held up": (_waiting("CreateContainerConfigError", "no seccomp profile"), NodeError, "no seccomp profile"),
    "too slow": (STUCK, NodeError, "not up in time"),
    "probe without a report": ([_sandbox_ended("Traceback\nOSError: no space")], IsolationError, "no space"),
    "desktop": ([_sandbox_ended("isolation-probe: 0 of 9 attempts are open")], NodeError, "ended during the start"),
    "a part ended": ([status(_inits(DONE), DONE)], NodeError, "ended during the start"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_start_that_fails_says_why_and_leaves_nothing(open_stage: Stage, name: str) -> None:
    script, kind, words = FAILURES[name]
    open_stage.cluster.script = script
    grant = open_stage.grant()
    with pytest.raises(kind, match=words):
        open_stage.start(grant)
    assert open_stage.left() == []
    outcome = "refused" if issubclass(kind, RefusedError) else "failed"
    assert open_stage.authority.kinds() == ["pod.start started", f"workspace.start {outcome}"]
    # and the person may try again
    open_stage.cluster.script = GOOD
    open_stage.start(open_stage.grant())


def test_a_volume_that_the_node_agent_refuses_ends_the_start_with_its_words(open_stage: Stage) -> None:
    open_stage.cluster.script = GOOD[:2]

    def refuse(call: str) -> None:
        if call.startswith("GET") and "/events" in call:
            (pod,) = open_stage.cluster.of("pods")
            said = 'MountVolume.SetUp failed for volume "x11" : rpc error: code = PermissionDenied desc = not this pod'
            event = {"metadata": {"name": "e"}, "reason": "FailedMount", "type": "Warning", "message": said}
            open_stage.cluster.add("events", NAMESPACE, {**event, "involvedObject": {"uid": pod["metadata"]["uid"]}})

    open_stage.cluster.meddle = refuse
    with pytest.raises(RefusedError, match="not this pod"):
        open_stage.start(open_stage.grant())
    assert open_stage.left() == []


def test_a_start_is_over_when_the_node_agent_has_opened_the_data(open_stage: Stage) -> None:
    grant = open_stage.grant()
    open_stage.authority.news[grant.session] = SessionNews()

    def opens() -> None:
        open_stage.authority.news[grant.session] = SessionNews(isolated=True, opened=True)

    threading.Timer(0.6, opens).start()
    began = time.monotonic()
    open_stage.start(grant)
    assert time.monotonic() - began > 0.5


def test_what_the_node_agent_read_in_the_probe_s_report_ends_the_start(open_stage: Stage) -> None:
    grant = open_stage.grant()
    found = "the sandbox is not isolated: tcp 192.0.2.1:443: connected"
    open_stage.authority.news[grant.session] = SessionNews(isolated=False, ended=found)
    with pytest.raises(IsolationError, match="connected"):
        open_stage.start(grant)
    assert open_stage.left() == []


def test_a_view_that_cannot_be_opened_ends_the_start_with_the_agent_s_words(open_stage: Stage) -> None:
    grant = open_stage.grant()
    open_stage.authority.news[grant.session] = SessionNews(ended="the key is not released")
    with pytest.raises(NodeError, match="the key is not released"):
        open_stage.start(grant)
    assert open_stage.left() == []


def test_a_project_without_room_is_told_so(open_stage: Stage) -> None:
    open_stage.cluster.refuse_pods = "pods is forbidden: exceeded quota: bulle, requested: memory=1Gi"
    with pytest.raises(RefusedError, match="no room"):
        open_stage.start(open_stage.grant())
    assert open_stage.left() == []


def test_what_cannot_be_audited_does_not_begin(open_stage: Stage) -> None:
    open_stage.authority.silent = True
    with pytest.raises(UnavailableError):
        open_stage.start(open_stage.grant())
    assert open_stage.left() == [] and open_stage.cluster.names("namespaces") == ["bulle"]


# -- the watch ------------------------------------------------------------------------------------------------
def test_who_is_refused_by_the_authority_loses_pod_and_secret(open_stage: Stage) -> None:
    kept, refused = open_stage.grant(), open_stage.grant(person="bob")
    for each in (kept, refused):
        open_stage.start(each)
    open_stage.authority.refuses[refused.session] = "membership ended"
    open_stage.door.watch.ask()
    assert open_stage.left() == [f"ws-{kept.session}"] * 2
    assert open_stage.authority.events[-1].detail == {"reason": "membership ended"}


def test_a_silent_authority_stops_everything_after_its_time(open_stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    open_stage.start(open_stage.grant())
    open_stage.authority.silent = True
    open_stage.door.watch.ask()
    assert len(open_stage.left()) == 2
    monkeypatch.setattr(asking, "PATIENCE", 0.0)
    open_stage.door.watch.ask()
    assert open_stage.left() == []


def _end_comes(stage: Stage) -> None:
    stage.now += timedelta(hours=9)


def _a_part_ends(stage: Stage) -> None:
    (pod,) = stage.cluster.of("pods")
    said = status(_inits(DONE), RUNNING, ready=True)
    said["containerStatuses"][0]["state"] = {"terminated": {"exitCode": 137}}
    stage.cluster._looks.clear()
    stage.cluster.change("pods", NAMESPACE, pod["metadata"]["name"], status=said)


def _pod_goes(stage: Stage) -> None:
    stage.cluster.remove("pods", NAMESPACE, stage.cluster.names("pods")[0])


def _evicted(stage: Stage) -> None:
    (pod,) = stage.cluster.of("pods")
    stage.cluster.change(
        "pods",
        NAMESPACE,
        pod["metadata"]["name"],
        metadata={**pod["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"},
    )


def _node_lost(stage: Stage) -> None:
    (pod,) = stage.cluster.of("pods")
    said = status(_inits(DONE), RUNNING, ready=False)
    stage.cluster._looks.clear()
    stage.cluster.change("pods", NAMESPACE, pod["metadata"]["name"], status=said)


@pytest.mark.parametrize(
    "happens", [_end_comes, _a_part_ends, _pod_goes, _evicted, _node_lost], ids=lambda each: each.__name__
)
def test_a_session_that_is_over_goes_whole_and_the_hub_sees_it_gone(
    open_stage: Stage, happens: Callable[[Stage], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOST", 0.0)
    grant = open_stage.grant()
    open_stage.start(grant)
    happens(open_stage)
    open_stage.door.watch.look()
    open_stage.door.watch.look()
    assert open_stage.left() == []
    with pytest.raises(NotFoundError):
        open_stage.door.sessions.get(grant.session)


def test_a_node_that_is_silent_for_a_moment_loses_nothing(open_stage: Stage) -> None:
    open_stage.start(open_stage.grant())
    _node_lost(open_stage)
    open_stage.door.watch.look()
    assert len(open_stage.left()) == 2


@pytest.mark.parametrize("how", ["silent", "without rights"])
def test_nothing_is_deleted_by_ignorance(open_stage: Stage, how: str) -> None:
    grant = open_stage.grant()
    open_stage.start(grant)
    rights = open_stage.cluster.of("rolebindings")
    if how == "silent":
        open_stage.cluster.silent = True
    else:
        open_stage.cluster.change("rolebindings", NAMESPACE, "bulle-door", subjects=[])
    open_stage.door.watch.look()
    assert open_stage.door.sessions.get(grant.session).state is State.RUNNING
    if how == "silent":
        with pytest.raises(UnavailableError):
            open_stage.start(open_stage.grant(person="bob"))
    open_stage.cluster.silent = False
    open_stage.cluster.change("rolebindings", NAMESPACE, "bulle-door", subjects=rights[0]["subjects"])
    open_stage.door.watch.look()
    assert len(open_stage.left()) == 2


def test_a_stop_while_the_cluster_is_silent_is_made_up_for(open_stage: Stage) -> None:
    grant = open_stage.grant()
    open_stage.start(grant)
    open_stage.cluster.silent = True
    with pytest.raises(UnavailableError):
        open_stage.door.sessions.stop(grant.session, "asked by the hub")
    open_stage.cluster.silent = False
    assert open_stage.door.sessions.get(grant.session).state is State.STOPPING
    open_stage.door.sessions.retry()
    assert open_stage.left() == []


# -- the next door --------------------------------------------------------------------------------------------
def test_the_next_door_finds_what_runs_and_removes_what_is_half_made(open_stage: Stage) -> None:
    running, half = open_stage.grant(), open_stage.grant(person="bob")
    open_stage.start(running)
    open_stage.cluster.script = STUCK
    made = workspace_pod(half, open_stage.settings, IMAGES, IMAGES.gateway)
    open_stage.cluster.add("pods", NAMESPACE, made)
    # the grant's own time is over
    open_stage.now += timedelta(hours=1)
    next_door = open_stage.another_door()
    assert next_door.watch.recover() == (1, 1)
    (found,) = next_door.sessions.every()
    assert (found.session, found.person, found.host) == (running.session, "ann", "10.244.0.9")
    assert set(open_stage.left()) == {f"ws-{running.session}"}
    with pytest.raises(ConflictError):
        open_stage.door = next_door
        open_stage.start(open_stage.grant())


@pytest.mark.parametrize("what", ["forged", "of another session", "none"])
def test_the_next_door_takes_up_no_pod_without_its_own_signed_grant(open_stage: Stage, what: str) -> None:
    grant = open_stage.grant()
    open_stage.start(grant)
    token = {
        "forged": open_stage.signed(grant, Ed25519PrivateKey.generate()),
        "of another session": open_stage.signed(open_stage.grant()),
        "none": "x",
    }[what]
    data = {"grant": base64.b64encode(token.encode()).decode()}
    open_stage.cluster.change("secrets", NAMESPACE, f"ws-{grant.session}", data=data)
    next_door = open_stage.another_door()
    assert next_door.watch.recover() == (0, 1)
    assert open_stage.left() == []


def test_a_door_that_does_not_know_says_so_and_not_that_nothing_is_there(stage: Stage) -> None:
    stage.cluster.silent = True
    with pytest.raises(UnavailableError):
        stage.door.watch.recover()
    for ask in (
        stage.door.sessions.every,
        lambda: stage.door.sessions.get("0" * 32),
        lambda: stage.door.sessions.stop("0" * 32, "asked"),
        lambda: stage.start(stage.grant()),
    ):
        with pytest.raises(UnavailableError):
            ask()


def test_leftovers_are_swept_and_a_project_without_a_session_goes_off_the_list(open_stage: Stage) -> None:
    grant = open_stage.grant()
    open_stage.start(grant)
    orphan = {"name": "ws-" + "a" * 32, "labels": {"bulle.deployment": open_stage.settings.deployment}}
    open_stage.cluster.add("secrets", NAMESPACE, {"metadata": orphan})
    open_stage.door.watch.sweep()
    assert open_stage.left() == [f"ws-{grant.session}"] * 2
    assert open_stage.door.projects.listed() == {PROJECT}
    open_stage.door.sessions.stop(grant.session, "asked by the hub")
    open_stage.door.watch.sweep()
    assert open_stage.door.projects.listed() == frozenset()


def test_a_door_that_ends_leaves_desktops_running(open_stage: Stage) -> None:
    open_stage.start(open_stage.grant())
    open_stage.door.sessions.close()
    assert len(open_stage.left()) == 2
    with pytest.raises(UnavailableError, match="stopping"):
        open_stage.start(open_stage.grant(person="bob"))

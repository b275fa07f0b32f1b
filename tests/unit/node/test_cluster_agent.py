"""The agent of a cluster's node, composed: it registers, serves, and leaves what is published when it ends."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import serialization

from orchestrator import config
from orchestrator.errors import SettingsError, UnavailableError
from orchestrator.governance.keys import GRANT_PUBLIC
from orchestrator.keys import FileCustodian, KeyRing
from orchestrator.node import __main__ as entry
from orchestrator.node import asking, cluster, csi_pb2, csi_pb2_grpc, kubelet_pb2, kubelet_pb2_grpc
from orchestrator.node.cluster import ClusterParts, pod_volumes, serve_cluster
from orchestrator.node.journal import Journal
from orchestrator.node.late_keys import LateKeys
from orchestrator.node.lease import node_name
from orchestrator.node.pod_watch import PodWatch
from orchestrator.node.registration import csi_socket, registry_socket
from tests.unit.node.apart import apart
from tests.unit.node.test_csi_volumes import Desk, Node
from tests.unit.node.test_mounts import Builder, changed
from tests.unit.workspaces.test_spec import IMAGES, SETTINGS

PROFILE = '{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,"archMap":[],"syscalls":[]}'


class Agent:
    """An agent of a node that begins, in a thread."""

    def __init__(self, node: Node, *, public_key: bool = True) -> None:
        layout = node.settings.layout
        raw = node.resolved.model_dump(mode="json", exclude_none=True)
        raw["kubernetes"]["kubelet"] = str(node.kubelet)
        self.settings = type(node.settings).model_validate(raw)
        self.node, self.desk, self.api = node, Desk(), Nobody()
        for each in (layout.public, layout.keyring, layout.folders, layout.state / "custodian"):
            each.mkdir(parents=True)
        layout.images.write_text(f'{{"gateway": "{IMAGES.gateway}", "sandbox": "{IMAGES.sandbox}"}}')
        if public_key:
            self.publish_key()
        self.kek = layout.state / "custodian" / "kek"
        FileCustodian.create(self.kek)
        self.end = threading.Event()
        self.serving = threading.Thread(target=self._serve)
        os.environ["BULLE_NODE"] = "node-7"

    def publish_key(self) -> None:
        public = self.node.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (self.settings.layout.public / GRANT_PUBLIC).write_bytes(public)

    def _serve(self) -> None:
        keys = LateKeys(lambda: KeyRing(self.settings.layout.keyring, FileCustodian(self.kek)))
        parts = ClusterParts(api=self.api, authority=self.desk, keys=keys, builder=Builder(), seccomp=PROFILE)
        serve_cluster(self.settings, lambda _: parts, self.end)

    @property
    def serves(self) -> bool:
        return registry_socket(self.node.kubelet).exists()

    def until(self, so: Callable[[], bool], seconds: float = 20) -> bool:
        patience = time.monotonic() + seconds
        while not so() and time.monotonic() < patience:
            time.sleep(0.02)
        return so()

    def stop(self) -> None:
        self.end.set()
        self.serving.join()


def it_serves(node: Node) -> None:
    agent = Agent(node)
    agent.serving.start()
    try:
        assert agent.until(lambda: agent.serves)
        with grpc.insecure_channel(f"unix:{registry_socket(node.kubelet)}") as channel:
            grpc.channel_ready_future(channel).result(timeout=20)
            stub = kubelet_pb2_grpc.RegistrationStub(channel)
            info = stub.GetInfo(kubelet_pb2.InfoRequest(), timeout=5)
        with grpc.insecure_channel(f"unix:{info.endpoint}") as channel:
            stub = csi_pb2_grpc.NodeStub(channel)
            assert stub.NodeGetInfo(csi_pb2.NodeGetInfoRequest(), timeout=5).node_id == "node-7"
    finally:
        agent.stop()
    assert (node.kubelet / "seccomp" / "bulle" / "workspace.json").is_file()
    assert not csi_socket(node.kubelet).exists() and not registry_socket(node.kubelet).exists()
    assert agent.desk.kinds == ["node.start", "node.stop"]
    assert agent.desk.reports, "how the node does"


def _no_key(agent: Agent) -> Callable[[], None]:
    (agent.settings.layout.public / GRANT_PUBLIC).unlink()
    return agent.publish_key


def _no_authority(agent: Agent) -> Callable[[], None]:
    agent.desk.away = True
    return lambda: setattr(agent.desk, "away", False)


def _no_custodian(agent: Agent) -> Callable[[], None]:
    agent.kek.rename(agent.kek.with_name("away"))
    return lambda: agent.kek.with_name("away").rename(agent.kek) and None


def _no_name(agent: Agent) -> Callable[[], None]:
    found: list[list[str]] = [[]]
    cluster.resolved = partial(config.resolved, look_up=lambda name: found[0])
    named = agent.settings.kubernetes.model_copy(update={"hub": ("bulle-hub.bulle.svc:8081",)})  # type: ignore[union-attr]
    agent.settings = agent.settings.model_copy(update={"kubernetes": named})
    return lambda: found.__setitem__(0, ["10.96.0.7"])


def _no_api(agent: Agent) -> Callable[[], None]:
    agent.api.away = True
    return lambda: setattr(agent.api, "away", False)


def it_waits(node: Node, lack: Callable[[Agent], Callable[[], None]]) -> None:
    agent = Agent(node)
    cluster.PATIENCE = 0.2
    comes = lack(agent)
    for each in (csi_socket(node.kubelet), registry_socket(node.kubelet)):
        each.parent.mkdir(parents=True)
        each.touch()  # of an agent that was killed
    agent.serving.start()
    time.sleep(0.8)
    assert not agent.serves and agent.serving.is_alive(), "kubelet is told of nobody who cannot serve"
    comes()
    assert agent.until(lambda: agent.serves)
    agent.stop()


@pytest.mark.parametrize("lack", [_no_key, _no_authority, _no_custodian, _no_name, _no_api])
def test_what_is_not_there_yet_is_waited_for_and_kubelet_told_of_nobody(tmp_path: Path, lack: Any) -> None:
    apart(lambda: it_waits(Node(tmp_path), lack))


def it_can_be_stopped(node: Node) -> None:
    agent = Agent(node)
    agent.desk.away = True
    agent.serving.start()
    time.sleep(0.3)
    agent.stop()
    assert not agent.serves


def test_an_agent_that_waits_can_be_stopped(tmp_path: Path) -> None:
    apart(lambda: it_can_be_stopped(Node(tmp_path)))


def data_goes_before_it_serves(node: Node, seconds: float = 20) -> None:
    node.publish_all(node.token(node.grant()))
    node.pass_probe()
    node.pods.look()
    assert (node.target("view") / "people.parquet").is_file()
    # That agent is killed; the next one finds no authority, and time goes by.
    agent = Agent(node)
    agent.desk.away = True
    asking.PATIENCE = 1.0
    agent.serving.start()
    shown = node.target("view")
    try:
        assert agent.until(lambda: not list(shown.iterdir()), seconds), "cut off, whether it serves already or not"
        assert not agent.serves
    finally:
        agent.stop()


def test_whoever_must_be_cut_off_is_so_before_the_next_agent_serves(tmp_path: Path) -> None:
    apart(lambda: data_goes_before_it_serves(Node(tmp_path)))


def test_negative_control_an_agent_that_only_waits_cuts_nobody_off(tmp_path: Path) -> None:
    with (
        changed(PodWatch, "start", lambda self: None),
        changed(PodWatch, "stop", lambda self: None),
        pytest.raises(AssertionError, match="cut off"),
    ):
        apart(lambda: data_goes_before_it_serves(Node(tmp_path), 3))


class Nobody:
    """A cluster without pods."""

    def token_review(self, token: str, audience: str) -> Any:
        raise AssertionError("nobody asked")

    away = False

    def read_pod(self, namespace: str, name: str) -> Any:
        if self.away:
            raise UnavailableError("the cluster's API: ConnectError")
        return None


def test_the_agent_of_a_node_registers_serves_and_ends(tmp_path: Path) -> None:
    apart(lambda: it_serves(Node(tmp_path)))


def test_without_a_cluster_in_the_settings_there_is_no_driver() -> None:
    parts: Any = None
    with pytest.raises(SettingsError, match="kubernetes"):
        pod_volumes(SETTINGS, parts, Journal(Desk()), "n")


def test_the_settings_decide_which_agent_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    monkeypatch.setattr(entry, "serve", lambda settings: ran.append("machine"))
    monkeypatch.setattr(entry, "serve_cluster", lambda settings: ran.append("cluster"))
    for text in ("", "kubernetes: {}\n"):
        file = tmp_path / "bulle.yaml"
        oidc = "oidc: {issuer: 'https://idp.example', client_id: c, client_secret_file: /s}\n"
        file.write_text(f"deployment: trial\nstate: /var/lib/trial\n{oidc}{text}")
        monkeypatch.setenv("BULLE_SETTINGS", str(file))
        assert entry.main() == 0
    assert ran == ["machine", "cluster"]
    assert node_name()

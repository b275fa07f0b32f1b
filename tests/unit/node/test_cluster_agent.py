"""The agent of a cluster's node, composed: it registers, serves, and leaves what is published when it ends."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import serialization

from orchestrator.errors import SettingsError
from orchestrator.governance.keys import GRANT_PUBLIC
from orchestrator.keys import FileCustodian, KeyRing
from orchestrator.node import __main__ as entry
from orchestrator.node import csi_pb2, csi_pb2_grpc, kubelet_pb2, kubelet_pb2_grpc
from orchestrator.node.cluster import ClusterParts, pod_volumes, serve_cluster
from orchestrator.node.journal import Journal
from orchestrator.node.lease import node_name
from orchestrator.node.registration import csi_socket, registry_socket
from tests.unit.node.apart import apart
from tests.unit.node.test_csi_volumes import Desk, Node
from tests.unit.node.test_mounts import Builder
from tests.unit.workspaces.test_spec import IMAGES, SETTINGS

PROFILE = '{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,"archMap":[],"syscalls":[]}'


def it_serves(node: Node) -> None:
    layout = node.settings.layout
    raw = node.settings.model_dump(mode="json", exclude_none=True)
    raw["kubernetes"]["kubelet"] = str(node.kubelet)
    settings = type(node.settings).model_validate(raw)
    layout.public.mkdir(parents=True)
    public = node.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (layout.public / GRANT_PUBLIC).write_bytes(public)
    layout.images.write_text(f'{{"gateway": "{IMAGES.gateway}", "sandbox": "{IMAGES.sandbox}"}}')
    layout.keyring.mkdir()
    layout.folders.mkdir()
    (layout.state / "custodian").mkdir()
    FileCustodian.create(layout.state / "custodian" / "kek")
    custodian = FileCustodian(layout.state / "custodian" / "kek")
    desk = Desk()
    parts = ClusterParts(
        api=Nobody(), authority=desk, keys=KeyRing(layout.keyring, custodian), builder=Builder(), seccomp=PROFILE
    )
    os.environ["BULLE_NODE"] = "node-7"
    end = threading.Event()
    serving = threading.Thread(target=serve_cluster, args=(settings, lambda _: parts, end))
    serving.start()
    try:
        with grpc.insecure_channel(f"unix:{registry_socket(node.kubelet)}") as channel:
            grpc.channel_ready_future(channel).result(timeout=20)
            stub = kubelet_pb2_grpc.RegistrationStub(channel)
            info = stub.GetInfo(kubelet_pb2.InfoRequest(), timeout=5)
        with grpc.insecure_channel(f"unix:{info.endpoint}") as channel:
            stub = csi_pb2_grpc.NodeStub(channel)
            assert stub.NodeGetInfo(csi_pb2.NodeGetInfoRequest(), timeout=5).node_id == "node-7"
    finally:
        end.set()
        serving.join()
    assert (node.kubelet / "seccomp" / "bulle" / "workspace.json").is_file()
    assert not csi_socket(node.kubelet).exists() and not registry_socket(node.kubelet).exists()
    assert desk.kinds == ["node.start", "node.stop"]


class Nobody:
    """A cluster without pods."""

    def token_review(self, token: str, audience: str) -> Any:
        raise AssertionError("nobody asked")

    def read_pod(self, namespace: str, name: str) -> Any:
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

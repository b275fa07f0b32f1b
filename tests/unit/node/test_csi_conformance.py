"""The driver answers as the specification's text says, over gRPC on a unix socket; the table is in docs/csi.md."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from orchestrator.errors import BulleError, ConflictError, GrantError, NodeError, UnavailableError
from orchestrator.node import csi, csi_pb2, csi_pb2_grpc, kubelet_pb2, kubelet_pb2_grpc
from orchestrator.node.csi import Asked, csi_server, is_repeated
from orchestrator.node.registration import csi_socket, registration_server, registry_socket, write_profile

PAGE = Path(__file__).parents[3] / "docs" / "csi.md"
MODE = csi_pb2.VolumeCapability.AccessMode
Code = grpc.StatusCode


class Shelf:
    """Volumes that only stand in a list."""

    def __init__(self) -> None:
        self.shown: dict[str, tuple[str, str]] = {}
        self.asked: list[Asked] = []
        self.error: BulleError | None = None
        self.wait: threading.Event | None = None
        self.waiting = threading.Event()

    def publish(self, asked: Asked) -> None:
        if is_repeated(self.shown, asked):
            return
        if self.error:
            raise self.error
        if self.wait:
            self.waiting.set()
            self.wait.wait(10)
        self.asked.append(asked)
        self.shown[asked.target] = (asked.volume_id, asked.arguments)

    def unpublish(self, volume_id: str, target: str) -> None:
        if self.error:
            raise self.error
        self.shown.pop(target, None)


class Driver:
    def __init__(self, channel: grpc.Channel, shelf: Shelf) -> None:
        self.identity, self.node = csi_pb2_grpc.IdentityStub(channel), csi_pb2_grpc.NodeStub(channel)
        self.shelf = shelf

    def publish(self, **changes: Any) -> Code:
        return code_of(lambda: self.node.NodePublishVolume(request(**changes), timeout=10))

    def unpublish(self, volume_id: str = "csi-1", target_path: str = "/t/mount") -> Code:
        asked = csi_pb2.NodeUnpublishVolumeRequest(volume_id=volume_id, target_path=target_path)
        return code_of(lambda: self.node.NodeUnpublishVolume(asked, timeout=10))


def code_of(call: Any) -> Code:
    try:
        call()
    except grpc.RpcError as error:
        assert error.details(), "a status that is not OK has a message"
        return error.code()
    return Code.OK


def capability(mode: Any = MODE.SINGLE_NODE_WRITER, **fields: Any) -> csi_pb2.VolumeCapability:
    fields = fields or {"mount": csi_pb2.VolumeCapability.MountVolume()}
    return csi_pb2.VolumeCapability(access_mode=MODE(mode=mode), **fields)


def request(**changes: Any) -> csi_pb2.NodePublishVolumeRequest:
    fields: dict[str, Any] = {
        "volume_id": "csi-1",
        "target_path": "/t/mount",
        "volume_capability": capability(),
        "secrets": {"grant": "g"},
        "volume_context": {"bulle/kind": "view", csi.TOKENS: "{}"},
    }
    return csi_pb2.NodePublishVolumeRequest(**{**fields, **changes})


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    shelf = Shelf()
    server = csi_server(shelf, tmp_path / "csi.sock", "1.2", "node-7")
    server.start()
    with grpc.insecure_channel(f"unix:{tmp_path / 'csi.sock'}") as channel:
        yield Driver(channel, shelf)
    server.stop(grace=0).wait()


def test_get_plugin_info_names_the_driver(driver: Driver) -> None:
    found = driver.identity.GetPluginInfo(csi_pb2.GetPluginInfoRequest())
    assert (found.name, found.vendor_version) == ("workspace.bulle", "1.2")
    assert re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,61}[a-z0-9]", found.name)


def test_get_plugin_capabilities_tells_of_no_controller(driver: Driver) -> None:
    assert driver.identity.GetPluginCapabilities(csi_pb2.GetPluginCapabilitiesRequest()).SerializeToString() == b""


def test_probe_says_that_it_is_ready(driver: Driver) -> None:
    assert driver.identity.Probe(csi_pb2.ProbeRequest()).ready.value is True


def test_node_get_capabilities_tells_of_no_staging(driver: Driver) -> None:
    assert driver.node.NodeGetCapabilities(csi_pb2.NodeGetCapabilitiesRequest()).SerializeToString() == b""


def test_node_get_info_names_the_node(driver: Driver) -> None:
    assert driver.node.NodeGetInfo(csi_pb2.NodeGetInfoRequest()).node_id == "node-7"


def test_calls_that_are_not_there_are_unimplemented(driver: Driver, tmp_path: Path) -> None:
    with grpc.insecure_channel(f"unix:{tmp_path / 'csi.sock'}") as channel:
        for name in ("Node/NodeStageVolume", "Node/NodeExpandVolume", "Controller/CreateVolume"):
            call = channel.unary_unary(f"/csi.v1.{name}", request_serializer=bytes)
            assert code_of(lambda call=call: call(b"", timeout=5)) is Code.UNIMPLEMENTED


@pytest.mark.parametrize("missing", ["volume_id", "target_path", "volume_capability"])
def test_publish_without_a_required_field_is_invalid(driver: Driver, missing: str) -> None:
    whole = request()
    whole.ClearField(missing)
    assert code_of(lambda: driver.node.NodePublishVolume(whole, timeout=5)) is Code.INVALID_ARGUMENT
    assert not driver.shelf.asked


@pytest.mark.parametrize(
    "changes",
    [
        {"volume_capability": csi_pb2.VolumeCapability(access_mode=MODE(mode=MODE.SINGLE_NODE_WRITER))},
        {"volume_capability": csi_pb2.VolumeCapability(mount=csi_pb2.VolumeCapability.MountVolume())},
        {"volume_capability": capability(block=csi_pb2.VolumeCapability.BlockVolume())},
        {"volume_capability": capability(mount=csi_pb2.VolumeCapability.MountVolume(fs_type="ext4"))},
        {"volume_capability": capability(mount=csi_pb2.VolumeCapability.MountVolume(mount_flags=["suid"]))},
        {"volume_capability": capability(MODE.MULTI_NODE_MULTI_WRITER)},
        {"volume_capability": capability(MODE.MULTI_NODE_READER_ONLY)},
        {"volume_capability": capability(MODE.MULTI_NODE_SINGLE_WRITER)},
    ],
)
def test_publish_with_a_capability_that_no_volume_has_is_invalid(driver: Driver, changes: dict[str, Any]) -> None:
    assert driver.publish(**changes) is Code.INVALID_ARGUMENT
    assert driver.publish() is Code.OK


def test_publish_of_a_staged_volume_is_invalid(driver: Driver) -> None:
    assert driver.publish(staging_target_path="/s") is Code.INVALID_ARGUMENT
    assert driver.publish(publish_context={"a": "b"}) is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"volume_id": "v" * 128}, Code.OK),
        ({"volume_id": "v" * 129}, Code.INVALID_ARGUMENT),
        ({"target_path": "/" + "t" * 4094}, Code.OK),
        ({"target_path": "/" + "t" * 4095}, Code.INVALID_ARGUMENT),
        ({"volume_context": {"a": "b" * 4095}}, Code.OK),
        ({"volume_context": {"a": "b" * 4096}}, Code.INVALID_ARGUMENT),
        ({"volume_context": {csi.TOKENS: "b" * 16385}}, Code.INVALID_ARGUMENT),
        ({"secrets": {"gr ant": "g"}}, Code.INVALID_ARGUMENT),
    ],
)
def test_fields_are_as_large_as_they_may_be_and_not_larger(
    driver: Driver, changes: dict[str, Any], answer: Any
) -> None:
    assert driver.publish(**changes) is answer


def test_publish_twice_the_same_is_ok(driver: Driver) -> None:
    assert driver.publish() is Code.OK
    # kubelet's tokens are new at each call, secrets are no part of the comparison
    again = {"volume_context": {"bulle/kind": "view", csi.TOKENS: "{1}"}, "secrets": {"grant": "h"}}
    assert driver.publish(**again) is Code.OK
    assert len(driver.shelf.asked) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"readonly": True},
        {"volume_context": {"bulle/kind": "home"}},
        {"volume_capability": capability(MODE.SINGLE_NODE_READER_ONLY)},
        {"volume_id": "csi-2"},
    ],
)
def test_publish_at_the_same_target_with_other_arguments_already_exists(driver: Driver, changes: Any) -> None:
    assert driver.publish() is Code.OK
    assert driver.publish(**changes) is Code.ALREADY_EXISTS


def test_publish_at_a_second_target_fails_its_precondition(driver: Driver) -> None:
    assert driver.publish() is Code.OK
    assert driver.publish(target_path="/t/other") is Code.FAILED_PRECONDITION


def test_readonly_is_handed_on(driver: Driver) -> None:
    assert driver.publish(readonly=True) is Code.OK
    assert driver.shelf.asked[0].read_only is True


def test_a_call_beside_a_pending_one_is_aborted(driver: Driver) -> None:
    driver.shelf.wait = threading.Event()
    first = driver.node.NodePublishVolume.future(request(), timeout=20)
    assert driver.shelf.waiting.wait(10)
    assert driver.publish() is Code.ABORTED
    assert driver.unpublish() is Code.ABORTED
    driver.shelf.wait.set()
    first.result()
    assert driver.publish() is Code.OK
    assert driver.unpublish() is Code.OK


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (GrantError("x"), Code.PERMISSION_DENIED),
        (ConflictError("x"), Code.ABORTED),
        (UnavailableError("x"), Code.UNAVAILABLE),
        (NodeError("x"), Code.INTERNAL),
    ],
)
def test_what_goes_wrong_has_the_specification_s_status(driver: Driver, error: BulleError, answer: Any) -> None:
    driver.shelf.error = error
    assert driver.publish() is answer
    assert driver.shelf.shown == {}


def test_no_secret_is_in_what_is_said(driver: Driver) -> None:
    asked = csi.checked(request(secrets={"grant": "SECRET"}, volume_context={csi.TOKENS: "SECRET"}))
    assert "SECRET" not in repr(asked) and "SECRET" not in asked.arguments


def test_unpublish_of_nothing_is_ok(driver: Driver) -> None:
    assert driver.unpublish() is Code.OK
    assert driver.publish() is Code.OK
    assert driver.unpublish() is Code.OK
    assert driver.unpublish() is Code.OK


@pytest.mark.parametrize("missing", [{"volume_id": ""}, {"target_path": ""}, {"volume_id": "v" * 129}])
def test_unpublish_without_a_required_field_is_invalid(driver: Driver, missing: dict[str, str]) -> None:
    assert driver.unpublish(**missing) is Code.INVALID_ARGUMENT


def test_the_socket_is_root_s_alone(driver: Driver, tmp_path: Path) -> None:
    assert (tmp_path / "csi.sock").stat().st_mode & 0o777 == 0o600


def conformance_rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if "`test_" in line]


def test_every_row_of_the_conformance_table_has_its_test_and_every_test_its_row() -> None:
    here = {name for name in globals() if name.startswith("test_")}
    text = PAGE.read_text(encoding="utf-8")
    table = text[text.index("## Conformance") :].split("\n## ")[0]
    rows = conformance_rows(table)
    calls = {row[0].strip("`") for row in rows}
    assert calls >= {
        "GetPluginInfo", "GetPluginCapabilities", "Probe", "NodePublishVolume", "NodeUnpublishVolume",
        "NodeGetCapabilities", "NodeGetInfo",
    }  # fmt: skip
    named = set(re.findall(r"`(test_\w+)`", table))
    assert named <= here, named - here
    codes = {row[2].strip("`") for row in rows}
    assert codes <= {code.name for code in Code} | {"–"}
    unnamed = here - named - {"test_every_row_of_the_conformance_table_has_its_test_and_every_test_its_row"}
    assert {each for each in unnamed if "kubelet" not in each and "filter" not in each} == set()


# -- kubelet's registry -------------------------------------------------------------------------------------
def test_a_kubelet_finds_the_driver_in_its_registry_and_at_the_endpoint(tmp_path: Path) -> None:
    csi_socket(tmp_path).parent.mkdir(parents=True)
    driver = csi_server(Shelf(), csi_socket(tmp_path), "1", "n")
    registry, service = registration_server(tmp_path)
    driver.start()
    registry.start()
    assert registry_socket(tmp_path) == tmp_path / "plugins_registry" / "workspace.bulle-reg.sock"
    with grpc.insecure_channel(f"unix:{registry_socket(tmp_path)}") as channel:
        stub = kubelet_pb2_grpc.RegistrationStub(channel)
        info = stub.GetInfo(kubelet_pb2.InfoRequest(), timeout=5)
        assert (info.type, info.name, list(info.supported_versions)) == ("CSIPlugin", "workspace.bulle", ["1.0.0"])
        with grpc.insecure_channel(f"unix:{info.endpoint}") as there:
            found = csi_pb2_grpc.IdentityStub(there).GetPluginInfo(csi_pb2.GetPluginInfoRequest(), timeout=5)
        assert found.name == info.name
        stub.NotifyRegistrationStatus(kubelet_pb2.RegistrationStatus(plugin_registered=True), timeout=5)
        assert service.registered.is_set()
        stub.NotifyRegistrationStatus(kubelet_pb2.RegistrationStatus(error="no"), timeout=5)
        assert not service.registered.is_set()
    for server in (registry, driver):
        server.stop(grace=0).wait()


def test_the_system_call_filter_is_written_whole(tmp_path: Path) -> None:
    for content in ({"a": 1}, {"a": 2}):
        place = write_profile(tmp_path, content)
        assert place == tmp_path / "seccomp" / "bulle" / "workspace.json"
        assert place.read_text() == f'{{"a":{content["a"]}}}'
    assert [each.name for each in place.parent.iterdir()] == ["workspace.json"]
    (tmp_path / "other").write_text("")
    with pytest.raises(NodeError):
        write_profile(tmp_path / "other", {})

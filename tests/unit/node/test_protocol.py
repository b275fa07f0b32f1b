"""The generated files are those of the checked-in protocol, and speak the specification's language."""

from __future__ import annotations

from pathlib import Path

from orchestrator.node import csi_pb2
from orchestrator.node.protocol import ROOT, generate


def test_generated_files_are_up_to_date(tmp_path: Path) -> None:
    generate(ROOT, tmp_path)
    for made in sorted((tmp_path / "orchestrator/node").iterdir()):
        assert made.read_text() == (ROOT / "orchestrator/node" / made.name).read_text(), f"{made.name}: run make proto"


def test_names_and_numbers_are_the_specification_s() -> None:
    assert csi_pb2.DESCRIPTOR.package == "csi.v1"
    services = {name: sorted(each.methods_by_name) for name, each in csi_pb2.DESCRIPTOR.services_by_name.items()}
    assert services == {
        "Identity": ["GetPluginCapabilities", "GetPluginInfo", "Probe"],
        "Node": ["NodeGetCapabilities", "NodeGetInfo", "NodePublishVolume", "NodeUnpublishVolume"],
    }
    fields = {field.name: field.number for field in csi_pb2.NodePublishVolumeRequest.DESCRIPTOR.fields}
    assert fields == {
        "volume_id": 1,
        "publish_context": 2,
        "staging_target_path": 3,
        "target_path": 4,
        "volume_capability": 5,
        "readonly": 6,
        "secrets": 7,
        "volume_context": 8,
    }
    fields = {field.name: field.number for field in csi_pb2.NodeUnpublishVolumeRequest.DESCRIPTOR.fields}
    assert fields == {"volume_id": 1, "target_path": 2}

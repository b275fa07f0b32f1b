"""What a pod used, from trees of control groups as kernels and kubelets make them."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import NodeError
from orchestrator.node.control_groups import ControlGroups
from orchestrator.workspaces.runtime import Used

UID = "0f0f0f0f-0000-4000-8000-00000000000a"
OTHER = "0f0f0f0f-0000-4000-8000-00000000000b"
SYSTEMD = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice"


def second_version(root: Path, group: str, cpu: int, memory: int, cache: int) -> None:
    place = root / group
    (place / "cri-containerd-1.scope").mkdir(parents=True)
    (root / "cgroup.controllers").write_text("cpu memory\n")
    (place / "cpu.stat").write_text(f"usage_usec {cpu}\nuser_usec 1\n")
    (place / "memory.current").write_text(f"{memory}\n")
    (place / "memory.stat").write_text(f"anon 1\ninactive_file {cache}\nactive_file 5\n")


def first_version(root: Path, group: str, cpu: int, memory: int, cache: int) -> None:
    accounts = "cpu,cpuacct" if "slice" in group else "cpuacct"
    for kind in (accounts, "memory"):
        (root / kind / group).mkdir(parents=True)
    (root / accounts / group / "cpuacct.usage").write_text(f"{cpu * 1000}\n")
    (root / "memory" / group / "memory.usage_in_bytes").write_text(f"{memory}\n")
    (root / "memory" / group / "memory.stat").write_text(f"inactive_file 7\ntotal_inactive_file {cache}\n")


GROUPS = [
    f"kubepods/burstable/pod{UID}",
    f"kubepods/pod{UID}",
    SYSTEMD.format(UID.replace("-", "_")),
    "kubelet.slice/kubelet-" + SYSTEMD.format(UID.replace("-", "_")).replace("/", "/kubelet-"),
]


@pytest.mark.parametrize("make", [first_version, second_version])
@pytest.mark.parametrize("group", GROUPS)
def test_processor_and_memory_of_a_pod_are_found_in_both_versions(tmp_path: Path, make: object, group: str) -> None:
    assert callable(make)
    make(tmp_path, group, 2_500_000, 10_000, 4_000)
    make(tmp_path, group.replace(UID, OTHER).replace(UID.replace("-", "_"), OTHER.replace("-", "_")), 1, 1, 0)
    (tmp_path / "system.slice" / "a.service").mkdir(parents=True)
    groups = ControlGroups({"s": UID}.get, tmp_path)
    (found,) = groups.list("s")
    assert found.running and groups.used(found.id) == Used(2.5, 6_000.0)
    assert groups.used(found.id) == Used(2.5, 6_000.0), "where it lies is remembered"
    assert groups.list("another") == []


def test_a_pod_without_a_group_or_with_one_that_is_gone_is_not_measured(tmp_path: Path) -> None:
    groups = ControlGroups({"s": UID}.get, tmp_path)
    with pytest.raises(NodeError, match="no control groups"):
        groups.used(UID)
    second_version(tmp_path, GROUPS[0], 1, 2, 0)
    with pytest.raises(NodeError, match="has no control group"):
        groups.used(OTHER)
    groups.used(UID)
    for each in (tmp_path / GROUPS[0]).iterdir():
        each.rmdir() if each.is_dir() else each.unlink()
    for _ in range(2):
        with pytest.raises(NodeError):
            groups.used(UID)


def test_what_cannot_be_understood_is_not_measured(tmp_path: Path) -> None:
    second_version(tmp_path, GROUPS[0], 1, 2, 0)
    (tmp_path / GROUPS[0] / "cpu.stat").write_text("nothing\n")
    with pytest.raises(NodeError, match="cannot be read"):
        ControlGroups({"s": UID}.get, tmp_path).used(UID)

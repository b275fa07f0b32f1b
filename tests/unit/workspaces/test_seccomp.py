"""The tightened system-call filter, over a small profile of the package's shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import NodeError
from orchestrator.workspaces.seccomp import for_cluster, load, tightened

ALLOW, ERRNO = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"
PROFILE: dict[str, Any] = {
    "defaultAction": ERRNO,
    "defaultErrnoRet": 38,
    "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}],
    "syscalls": [
        {"names": ["kexec_load", "bdflush"], "action": ERRNO, "args": [], "errnoRet": 1},
        {"names": ["read", "socketcall", "unshare", "clone", "clone3", "mount", "keyctl"], "action": ALLOW, "args": []},
        {"names": ["bpf"], "action": ALLOW, "args": [], "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["bpf"], "action": ERRNO, "args": [], "excludes": {"caps": ["CAP_SYS_ADMIN"]}, "errnoRet": 1},
        {"names": ["socket"], "action": ALLOW, "args": None, "includes": {"caps": ["CAP_AUDIT_WRITE"]}},
        {"names": ["socket"], "action": ALLOW, "args": [{"index": 0, "value": 16, "op": "SCMP_CMP_NE"}]},
    ],
}


def rules(profile: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [rule for rule in profile["syscalls"] if name in rule["names"]]


def test_sockets_are_of_four_families() -> None:
    found = rules(tightened(PROFILE), "socket")
    assert [rule["args"][0]["value"] for rule in found] == [1, 2, 10, 16]
    assert all(rule["action"] == ALLOW and rule["args"][0]["op"] == "SCMP_CMP_EQ" for rule in found)


def test_nothing_leads_past_the_filter() -> None:
    tight = tightened(PROFILE)
    for name in ("socketcall", "unshare", "mount", "keyctl", "bpf", "io_uring_setup", "kexec_load"):
        assert [rule["action"] for rule in rules(tight, name)] == [ERRNO], name
    (clone,) = rules(tight, "clone")
    assert clone["args"][0]["op"] == "SCMP_CMP_MASKED_EQ" and clone["args"][0]["value"] == 0x7E020000
    assert [rule["errnoRet"] for rule in rules(tight, "clone3")] == [38]
    assert tight["archMap"] == [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []}]
    assert rules(tight, "read")[0]["action"] == ALLOW


def test_a_profile_that_allows_by_default_is_refused() -> None:
    with pytest.raises(NodeError, match="SCMP_ACT_ALLOW"):
        tightened({**PROFILE, "defaultAction": ALLOW})


def test_no_workspace_without_a_profile(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="seccomp profile"):
        load(tmp_path / "absent.json")
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(NodeError):
        load(tmp_path / "broken.json")
    (tmp_path / "good.json").write_text(json.dumps(PROFILE))
    assert json.loads(load(tmp_path / "good.json"))["defaultAction"] == ERRNO


def test_a_cluster_gets_the_same_rules_without_those_of_other_machines() -> None:
    mixed = {**PROFILE, "syscalls": [*PROFILE["syscalls"]]}
    mixed["syscalls"].append({"names": ["breakpoint"], "action": ALLOW, "args": [], "includes": {"arches": ["arm64"]}})
    mixed["syscalls"].append({"names": ["arch_prctl"], "action": ALLOW, "args": [], "includes": {"arches": ["amd64"]}})
    made = for_cluster(tightened(mixed), "x86_64")
    assert rules(made, "breakpoint") == [] and rules(made, "arch_prctl")[0]["action"] == ALLOW
    assert made["architectures"] == ["SCMP_ARCH_X86_64"] and made["defaultAction"] == ERRNO
    for name in ("unshare", "mount", "keyctl", "io_uring_setup"):
        assert [rule["action"] for rule in rules(made, name)] == [ERRNO], name
    assert [rule["args"][0]["value"] for rule in rules(made, "socket")] == [1, 2, 10, 16]
    assert all(rule.keys() <= {"names", "action", "errnoRet", "args"} for rule in made["syscalls"])


def test_a_condition_that_the_cluster_s_form_cannot_say_is_refused() -> None:
    tight = tightened(PROFILE)
    tight["syscalls"].append({"names": ["ptrace"], "action": ALLOW, "args": [], "includes": {"minKernel": "4.8"}})
    with pytest.raises(NodeError, match="minKernel"):
        for_cluster(tight, "x86_64")
    with pytest.raises(NodeError, match="riscv64"):
        for_cluster(tightened(PROFILE), "riscv64")

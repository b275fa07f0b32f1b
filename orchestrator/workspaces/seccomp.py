"""The system-call filter of workspaces: a distribution's maintained profile, tightened.

Engines before 23.0 let a container open ``AF_VSOCK`` sockets, which belong to no network namespace: on a
virtual machine a sandbox without any network could talk to the hypervisor through them. So the profile of the
package ``golang-github-containers-common`` (the one of Podman and Buildah, of the same descent as Docker's)
is taken, and

- sockets are of four families only: unix, IPv4, IPv6 and netlink,
- no new namespaces, mounts, keyrings or io_uring, with or without a capability,
- only the machine's native call table, since the 32-bit one multiplexes sockets past any filter.

``tests/integration/test_isolation_probe.py`` shows each with the filter, and open without it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orchestrator.errors import NodeError

#: where Debian's package puts it
PROFILE = Path("/usr/share/containers/seccomp.json")

_FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK
#: every CLONE_NEW* flag of clone(2)
_NAMESPACES = 0x7E020000
_ALLOW = "SCMP_ACT_ALLOW"
_REMOVED = frozenset(
    {
        "add_key",
        "bpf",
        "chroot",
        "clone",
        "clone3",
        "delete_module",
        "fsconfig",
        "fsmount",
        "fsopen",
        "fspick",
        "init_module",
        "finit_module",
        "io_uring_enter",
        "io_uring_register",
        "io_uring_setup",
        "kcmp",
        "kexec_file_load",
        "kexec_load",
        "keyctl",
        "mount",
        "mount_setattr",
        "move_mount",
        "open_by_handle_at",
        "open_tree",
        "perf_event_open",
        "pidfd_getfd",
        "pivot_root",
        "process_vm_readv",
        "process_vm_writev",
        "request_key",
        "setns",
        "socket",
        "socketcall",
        "swapoff",
        "swapon",
        "umount",
        "umount2",
        "unshare",
        "userfaultfd",
        "vhangup",
    }
)


def tightened(profile: dict[str, Any]) -> dict[str, Any]:
    """``profile`` (Docker's format) with the rules above.

    Raises:
        NodeError: it is not an allow-list, so taking names out of it would allow more.
    """
    if profile.get("defaultAction") != "SCMP_ACT_ERRNO":
        raise NodeError(f"seccomp profile: default action is {profile.get('defaultAction')}, not SCMP_ACT_ERRNO")
    rules = []
    for rule in profile["syscalls"]:
        # Rules that depend on a capability go: no part of a workspace has any.
        if rule.get("includes", {}).get("caps"):
            continue
        names = [name for name in rule["names"] if name not in _REMOVED]
        kept = names if rule["action"] == _ALLOW or rule.get("args") else rule["names"]
        if kept:
            rules.append({**rule, "names": kept, "excludes": {**rule.get("excludes", {}), "caps": []}})
    denied = {name for rule in rules if rule["action"] != _ALLOW for name in rule["names"]}
    refused = sorted(_REMOVED - denied - {"clone", "clone3", "socket"})
    rules.append({"names": refused, "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": []})
    # The C library falls back to clone, whose flags a filter can read, when clone3 is not implemented (38,
    # ENOSYS).
    rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "args": []})
    no_namespace = {"index": 0, "value": _NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    rules.append({"names": ["clone"], "action": _ALLOW, "args": [no_namespace]})
    for family in _FAMILIES:
        same = {"index": 0, "value": family, "valueTwo": 0, "op": "SCMP_CMP_EQ"}
        rules.append({"names": ["socket"], "action": _ALLOW, "args": [same]})
    native = [{**arch, "subArchitectures": []} for arch in profile.get("archMap", [])]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": profile.get("defaultErrnoRet", 1),
        "archMap": native,
        "syscalls": rules,
    }


#: machine → its name in the package's rules, and in the form that runtimes of clusters take
_MACHINES = {"x86_64": ("amd64", "SCMP_ARCH_X86_64"), "aarch64": ("arm64", "SCMP_ARCH_AARCH64")}


def for_cluster(tight: dict[str, Any], machine: str) -> dict[str, Any]:
    """A tightened profile in the form that kubelet hands on (the runtime specification's), for one kind of machine.

    That form knows no conditions: a rule for another machine, which it would take for one of this, is left out.

    Raises:
        NodeError: the machine is unknown, or a rule has a condition that nobody foresaw.
    """
    if machine not in _MACHINES:
        raise NodeError(f"seccomp profile: no rules for {machine}")
    name, architecture = _MACHINES[machine]
    rules = []
    for rule in tight["syscalls"]:
        includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
        if unforeseen := {key for each in (includes, excludes) for key, value in each.items() if value} - {"arches"}:
            raise NodeError(f"seccomp profile: a rule depends on {', '.join(sorted(unforeseen))}")
        if includes.get("arches") and name not in includes["arches"]:
            continue
        if name in (excludes.get("arches") or ()):
            continue
        kept = {key: rule[key] for key in ("names", "action", "errnoRet") if key in rule}
        rules.append({**kept, "args": rule.get("args") or []})
    return {
        "defaultAction": tight["defaultAction"],
        "defaultErrnoRet": tight["defaultErrnoRet"],
        # One only: a program of another call table is killed by its first call.
        "architectures": [architecture],
        "syscalls": rules,
    }


def load(path: Path = PROFILE) -> str:
    """The tightened profile as JSON text, ready for a :class:`~orchestrator.workspaces.spec.ContainerSpec`.

    Raises:
        NodeError: the package's profile is not there or is not one; no workspace starts without it.
    """
    try:
        profile = json.loads(path.read_text(encoding="utf-8"))
        return json.dumps(tightened(profile), separators=(",", ":"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        hint = "install golang-github-containers-common, or use the agent's image"
        raise NodeError(f"seccomp profile {path}: {error}", hint=hint) from error

"""The network lock of a pod: of all that share its network, only the bridge speaks on it.

On Kubernetes the three parts of a workspace share one network namespace. Before any of them starts, this program runs
in it once, as root with ``NET_ADMIN`` and nothing else, and ends. What it leaves behind holds whatever plugin the
cluster uses, and nobody in the pod has the capability to change it.

Two locks, one behind the other. Rules of routing (``ip rule``) by user id: a socket of anybody but the bridge finds no
way, so that the kernel refuses at once (EACCES), and a program says so instead of waiting. And a packet filter by
owner of the socket: what has no way to be refused by routing, such as a multicast on a given interface, is dropped.

Only the standard library; run as ``network-lock UID PORT [HUB…]``. It ends with 0 only when the kernel, asked
again, says word for word what was set, and then refuses this very process. Shown by
``tests/integration/test_network_lock.py`` and ``tests/cluster/test_pod.py``.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

#: the sandbox's user: the only one that may begin a conversation within the pod
SANDBOX = 1000
#: the highest user id there is; the one above is the kernel's word for "nobody in particular"
_LAST = 4294967294
#: mark of a connection that the bridge began or took
MARK = "0x62756c6c"
_NEIGHBOURS = "nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert"
#: addresses kept for documentation: nobody is there
_NOWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}


class LockError(Exception):
    """The network is not locked."""


def hub_address(text: str) -> tuple[str, str, int]:
    """``("ip", "10.96.0.7", 8081)`` of ``10.96.0.7:8081``; for ``[fd00::7]:8081`` the family is ``ip6``.

    Raises:
        LockError: it is not an address and a port. Names are not taken: nobody in the pod can resolve one.
    """
    host, _, port = text.rpartition(":")
    six = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if six else host)
        number = int(port) if port.isascii() and port.isdecimal() else 0
    except ValueError:
        raise LockError(f"{text!r} is not an address and a port") from None
    if six != (address.version == 6) or not 0 < number < 1 << 16 or "%" in host:
        raise LockError(f"{text!r} is not an address and a port")
    return ("ip6" if six else "ip"), str(address), number


def packet_filter(uid: int, port: int, hubs: Sequence[str]) -> str:
    """The filter, in the very words in which ``nft`` lists it.

    What a socket that was closed still has to send has no owner any more: it passes by the mark of its connection,
    which only the bridge's own packets set. ``skuid`` of what has no owner is neither equal nor unequal to anything.
    """
    to_hub = [f"{family} daddr {host} tcp dport {number}" for family, host, number in map(hub_address, hubs)]
    begun = [f"meta skuid {uid} ct direction original {each} ct mark set {MARK} accept" for each in to_hub or ["tcp"]]
    if not to_hub:
        begun = [f"meta skuid {uid} ct direction original meta l4proto tcp ct mark set {MARK} accept"]
    input_rules = [
        f'iifname "lo" tcp dport {port} drop',
        'iifname "lo" accept',
        "ct state established,related accept",
        f"tcp dport {port} ct state new accept",
        f"icmpv6 type {{ {_NEIGHBOURS} }} ip6 hoplimit 255 accept",
    ]
    output_rules = [
        # Stops: a researcher who knocks at the bridge from inside, past the hub's proxy.
        f'oifname "lo" tcp dport {port} drop',
        f'oifname "lo" meta skuid {SANDBOX} accept',
        # Stops: a display or bridge that is talked into connecting to a program of the sandbox.
        'oifname "lo" ct state established,related accept',
        'oifname "lo" drop',
        # Stops: a sandbox that takes the port, or a connection, of a bridge that died.
        f"meta skuid != {uid} drop",
        f"meta skuid {uid} ct direction reply tcp sport {port} ct mark set {MARK} accept",
        *begun,
        f"meta skuid {uid} drop",
        f"ct mark {MARK} ct state established accept",
        f"icmpv6 type {{ {_NEIGHBOURS} }} ip6 hoplimit 255 accept",
    ]
    return "\n".join(
        [
            "table inet bulle {",
            *_chain("input", input_rules),
            "",
            "\tchain forward {",
            "\t\ttype filter hook forward priority filter; policy drop;",
            "\t}",
            "",
            *_chain("output", output_rules),
            "}",
        ]
    )


def _chain(hook: str, rules: Sequence[str]) -> list[str]:
    head = f"\t\ttype filter hook {hook} priority filter; policy drop;"
    return [f"\tchain {hook} {{", head, *(f"\t\t{rule}" for rule in rules), "\t}"]


def routing_rules(uid: int, port: int) -> list[dict[str, Any]]:
    """The rules of routing as ``ip -j rule show`` lists them: first the bridge's port, then this pod, then away.

    The row in the middle stands where the kernel's own first one was, which would have found the way to the bridge's
    port. User 0 is left out: by that name the kernel asks whether the sender of what arrives could be answered.
    Nobody in the pod is root, and the filter stands behind it.
    """
    others = [(1, uid - 1), (uid + 1, _LAST)]
    rows: list[dict[str, Any]] = []
    for at, (first, last) in enumerate(others):
        users = {"uid_start": first, "uid_end": last}
        rows.append({"priority": 10 + at, "src": "all", "ipproto": "tcp", "dport": port, **users, "action": "prohibit"})
    rows.append({"priority": 20, "src": "all", "table": "local"})
    for at, (first, last) in enumerate(others):
        rows.append({"priority": 30 + at, "src": "all", "uid_start": first, "uid_end": last, "action": "prohibit"})
    rows.append({"priority": 32766, "src": "all", "table": "main"})
    return rows


def routing_commands(rows: Sequence[dict[str, Any]]) -> str:
    """What ``ip -batch`` is told, so that there are these rules and no others."""
    lines = []
    for row in rows:
        words = ["rule add pref", str(row["priority"])]
        if "ipproto" in row:
            words += ["ipproto", row["ipproto"], "dport", str(row["dport"])]
        if "uid_start" in row:
            words += ["uidrange", f"{row['uid_start']}-{row['uid_end']}"]
        words += ["lookup", row["table"]] if "table" in row else [row["action"]]
        lines.append(" ".join(words))
    return "\n".join(lines) + "\n"


def _run(*command: str, given: str = "") -> str:
    done = subprocess.run(
        command,
        input=given,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
        env={"PATH": "/usr/sbin:/usr/bin"},
    )
    if done.returncode != 0:
        raise LockError(f"{command[0]} refused: {done.stderr.strip()[:500]}")
    return done.stdout


def _plain(text: str) -> str:
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def _lock_routing(family: str, uid: int, port: int) -> None:
    """Set the rules of one family and read them back."""
    wanted = routing_rules(uid, port)
    _run("ip", family, "rule", "flush")
    # ``flush`` keeps the kernel's own first row; it goes last, when the others are there.
    kept = json.loads(_run("ip", family, "-j", "rule", "show"))
    away = [f"rule del pref {row['priority']}\n" for row in kept]
    _run("ip", family, "-batch", "-", given=routing_commands(wanted) + "".join(away))
    found = json.loads(_run("ip", family, "-j", "rule", "show"))
    # Newer kernels have a mask of ports; the whole port is what was asked for.
    plain = [{key: value for key, value in row.items() if (key, value) != ("dport_mask", "0xffff")} for row in found]
    if plain != wanted:
        raise LockError(f"rules of routing ({family}) are not what was set: {json.dumps(found)[:500]}")


def _lock_filter(uid: int, port: int, hubs: Sequence[str]) -> None:
    """Set the filter and read it back; nobody else's may be there, since it could change where packets go."""
    wanted = packet_filter(uid, port, hubs)
    _run("nft", "-f", "-", given=f"flush ruleset\n{wanted}\n")
    found = _run("nft", "-s", "list", "ruleset")
    if _plain(found) != _plain(wanted):
        raise LockError(f"the packet filter is not what was set: {found[:1500]}")


def families() -> list[str]:
    """The families that this kernel speaks, as ``ip`` calls them. One that it does not speak leads nowhere."""
    found = []
    for option, family in (("-4", socket.AF_INET), ("-6", socket.AF_INET6)):
        try:
            socket.socket(family, socket.SOCK_DGRAM).close()
        except OSError as error:
            if error.errno != errno.EAFNOSUPPORT:
                raise
            continue
        found.append(option)
    return found


def refused(family: socket.AddressFamily) -> None:
    """This process is not the bridge, so it must be refused too: what was set is seen at work.

    Raises:
        LockError: the kernel sent a packet.
    """
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.sendto(b"bulle", (_NOWHERE[family], 9))
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EACCES, errno.ENETUNREACH):
                return
            raise LockError(f"the kernel does not refuse to send: {error}") from error
    raise LockError(f"the kernel sent a packet of user {os.getuid()}")


def lock(uid: int, port: int, hubs: Sequence[str]) -> None:
    """Lock the network of this process, and see that it is locked.

    Raises:
        LockError: something could not be set, or is not as it was set.
    """
    # The filter first: from then on nothing passes, whatever is still missing.
    _lock_filter(uid, port, hubs)
    for option in families():
        _lock_routing(option, uid, port)
        refused(socket.AF_INET if option == "-4" else socket.AF_INET6)


def main(arguments: Sequence[str]) -> int:
    """Lock; 0, or 1 with one line that says what is wrong (also where the pod's status shows it)."""
    if len(arguments) < 2 or not all(re.fullmatch(r"[1-9][0-9]{0,8}", each) for each in arguments[:2]):
        print("usage: network-lock UID PORT [HUB-ADDRESS:PORT…]", file=sys.stderr)
        return 2
    try:
        lock(int(arguments[0]), int(arguments[1]), arguments[2:])
    except (LockError, OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        print(f"network-lock: {error}", file=sys.stderr)
        return 1
    return 0

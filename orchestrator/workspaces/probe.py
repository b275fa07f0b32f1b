#!/usr/bin/python3 -I
"""Isolation probe: tries, as the researcher's user in the researcher's sandbox, to get out, write outside and
gain power.

Run as ``/usr/bin/python3 -I probe.py`` with the targets (a JSON object, see :data:`EMPTY_TARGETS`) on
standard input; prints a JSON list of ``{"attempt", "target", "result", "detail"}``, one entry for each pair
of :func:`plan`. The result is ``blocked``, or ``OPEN`` for anything else, including an attempt that failed in
a way nobody foresaw.

In a pod the sandbox shares its network with the bridge, so interfaces and routes are there, but locked: with
``--locked`` the probe tries to use each. ``--first REPORT TARGETS PROGRAM…`` is for where nobody can start it in a
container that runs: it is the container's first program. The report becomes the file REPORT, what is open goes to
standard error and ends it with 1, and only where nothing is does it become PROGRAM, whose output goes nowhere.

Only the standard library, nothing of this package: the file is copied into the sandbox image. What counts as
blocked on the network is the kernel's refusal to send. Silence is not enough, because a packet may have left;
so nothing outside needs to answer for a hole to show, and no third party is knocked at.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import socket
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Any

#: returns why it is blocked, or raises: OSError when the kernel refused, Open when it did not
Attempt = Callable[[str], "str | None"]

SECONDS = 0.35  # for one packet to be let through or refused
# For all attempts together. In a sandbox that holds, each is refused at once, and on a busy machine "at once" may take
# its time: a machine that is slow must not be taken for one that leaks. What has no verdict even then counts as open.
PATIENCE = 6.0
EMPTY_TARGETS: dict[str, list[str]] = {"tcp": [], "udp": [], "ping": [], "resolvers": [], "names": [], "devices": []}

# The kernel's ways to say that it has no way to send.
NOT_SENT = {
    errno.ENETUNREACH,
    errno.ENETDOWN,
    errno.EADDRNOTAVAIL,
    errno.EAFNOSUPPORT,
    errno.EPERM,
    errno.EACCES,
    errno.ENODEV,
}
FORBIDDEN = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EROFS}

ALLOWED_WRITES = ("/tmp", "/dev/shm", "/run/user/1000")
X11 = "/tmp/.X11-unix"
HARMLESS_DEVICES = {"null", "zero", "full", "random", "urandom", "tty", "console", "ptmx"}
SOCKET_PLACES = (
    "/run",
    "/var/run",
    "/tmp",
    "/var/tmp",
    "/data",
    "/project",
    "/home",
    "/mnt",
    "/srv",
    "/opt",
    "/media",
)
SECRET_WORDS = (
    "JUPYTERHUB_",
    "TOKEN",
    "SECRET",
    "PASSW",
    "CREDENTIAL",
    "API_KEY",
    "PRIVATE_KEY",
    "KUBERNETES_",
)
NETLINK_MESSAGES = {"link": 16, "address": 20, "route": 24, "rule": 32}
#: where the bridge of a pod listens
BRIDGE_PORT = 8888

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000


class Open(Exception):  # noqa: N818 - not an error of this program: the finding
    """The attempt succeeded."""


libc = ctypes.CDLL(None, use_errno=True)


def system_call(number_by_machine: dict[str, int], *arguments: Any) -> int:
    """Call the kernel by number; raises OSError as ``os`` does."""
    number = number_by_machine.get(os.uname().machine)
    if number is None:
        raise Open(f"number of the system call unknown on {os.uname().machine}")
    done = libc.syscall(ctypes.c_long(number), *arguments)
    if done < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(done)


def split_host(target: str) -> tuple[str, int]:
    """('10.0.0.1', 80) of '10.0.0.1:80'; ('::1', 80) of '[::1]:80'."""
    host, _, port = target.rpartition(":")
    return host.strip("[]"), int(port)


def family_of(host: str) -> int:
    """The socket family of an address."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


# -- network ------------------------------------------------------------------------------------------------
def tcp(target: str) -> None:
    """Connect. A refusal by the other side is an answer, so it is open too."""
    host, port = split_host(target)
    with socket.socket(family_of(host), socket.SOCK_STREAM) as sock:
        sock.settimeout(SECONDS / 2)
        try:
            sock.connect((host, port))
        except (TimeoutError, ConnectionError) as error:
            raise Open(f"the kernel sent it: {error}") from error
    raise Open("connected")


def send_datagram(family: int, kind: int, protocol: int, data: bytes, address: tuple[str, int]) -> None:
    """Send one packet; being able to is the finding."""
    with socket.socket(family, kind, protocol) as sock:
        sock.settimeout(SECONDS / 2)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.sendto(data, address)
    raise Open("a packet was sent")


def udp(target: str) -> None:
    """Send a datagram."""
    host, port = split_host(target)
    send_datagram(family_of(host), socket.SOCK_DGRAM, 0, b"bulle-probe", (host, port))


def resolver(target: str) -> None:
    """Ask a resolver directly."""
    host, port = split_host(target)
    question = struct.pack(">6H", 0xB011, 0x0100, 1, 0, 0, 0) + b"\x05probe\x07invalid\x00" + struct.pack(">2H", 16, 1)
    send_datagram(family_of(host), socket.SOCK_DGRAM, 0, question, (host, port))


def name(target: str) -> str | None:
    """Resolve a name as any program does. Whoever gets as far as waiting has sent a question."""
    try:
        found = socket.getaddrinfo(target, 80)
    except socket.gaierror as error:
        if error.errno in (socket.EAI_AGAIN, socket.EAI_NONAME, socket.EAI_FAIL, socket.EAI_SYSTEM):
            return f"not resolved: {error}"
        raise Open(f"unforeseen: {error}") from error
    raise Open(f"resolved to {found[0][4][0]}")


def ping(target: str) -> None:
    """Echo request over an unprivileged ping socket."""
    six = ":" in target
    protocol = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
    request = struct.pack(">BBHHH", 128 if six else 8, 0, 0xF7FF, 0, 0)
    send_datagram(family_of(target), socket.SOCK_DGRAM, protocol, request, (target, 0))


def socket_kind(family: int, kind: int, protocol: int = 0) -> Attempt:
    """An attempt to get a kind of socket that no research needs."""

    def attempt(_target: str) -> str | None:
        with socket.socket(family, kind, protocol):
            raise Open("the socket was made")

    return attempt


def interfaces(_target: str) -> str | None:
    """Any interface that is up, besides lo."""
    import fcntl  # noqa: PLC0415

    up = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, each in socket.if_nameindex():
            answer = fcntl.ioctl(sock, 0x8913, struct.pack("16sH14x", each.encode(), 0))  # SIOCGIFFLAGS
            if each != "lo" and struct.unpack("16xH14x", answer)[0] & 1:
                up.append(each)
    if up:
        raise Open(", ".join(up))
    return "lo only"


def routes(_target: str) -> str | None:
    """Any route that leaves lo."""
    rows = []
    with open("/proc/net/route", encoding="ascii") as file:
        rows += [row.split()[0] for row in file.readlines()[1:]]
    if os.path.exists("/proc/net/ipv6_route"):
        with open("/proc/net/ipv6_route", encoding="ascii") as file:
            rows += [row.split()[-1] for row in file]
    away = sorted({row for row in rows if row != "lo"})
    if away:
        raise Open(", ".join(away))
    return "none"


def netlink(target: str) -> str | None:
    """Change the network: a new link, address or route."""
    bodies = {
        "link": struct.pack("BxHiII", 0, 0, 0, 0, 0)
        + struct.pack("HH", 12, 18 | 0x8000)
        + struct.pack("HH4s", 8, 1, b"dum\0"),
        "address": struct.pack("BBBBi", socket.AF_INET, 32, 0, 0, 1)
        + struct.pack("HH4s", 8, 2, socket.inet_aton("198.51.100.7")),
        "route": struct.pack("BBBBBBBBI", socket.AF_INET, 32, 0, 0, 254, 3, 253, 1, 0)
        + struct.pack("HH4s", 8, 1, socket.inet_aton("198.51.100.8"))
        + struct.pack("HHi", 8, 4, 1),
        "rule": struct.pack("BBBBBBBBI", socket.AF_INET, 0, 0, 0, 254, 0, 0, 1, 0) + struct.pack("HHI", 8, 6, 1),
    }
    body = bodies[target]
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.settimeout(SECONDS / 2)
        sock.bind((0, 0))
        header = struct.pack("IHHII", 16 + len(body), NETLINK_MESSAGES[target], 0x605, 1, 0)
        sock.send(header + body)
        answer = sock.recv(4096)
    code = -struct.unpack("i", answer[16:20])[0]
    if code:
        raise OSError(code, os.strerror(code))
    raise Open("accepted")


def packet_filter(_target: str) -> str | None:
    """Change the packet filter: a table of one's own."""
    table = struct.pack("HH12s", 16, 1, b"bulle-probe")
    batch = b"".join(
        struct.pack("IHHIIBBH", 20 + len(body), kind, flags, number, 0, family, 0, socket.htons(subsystem)) + body
        for number, (kind, flags, family, subsystem, body) in enumerate(
            ((0x10, 1, 0, 10, b""), (0x0A00, 0x405, 1, 0, table), (0x11, 1, 0, 10, b"")), 1
        )
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as sock:
        sock.settimeout(SECONDS / 2)
        sock.bind((0, 0))
        sock.send(batch)
        answer = sock.recv(4096)
    code = -struct.unpack("i", answer[16:20])[0]
    if code:
        raise OSError(code, os.strerror(code))
    raise Open("accepted")


def interfaces_up() -> list[tuple[int, str]]:
    """Number and name of what is up, besides lo."""
    import fcntl  # noqa: PLC0415

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        flags = {
            pair: struct.unpack("16xH14x", fcntl.ioctl(sock, 0x8913, struct.pack("16sH14x", pair[1].encode(), 0)))[0]
            for pair in socket.if_nameindex()  # 0x8913: SIOCGIFFLAGS
        }
    return [pair for pair, value in flags.items() if value & 1 and pair[1] != "lo"]


def own_addresses() -> list[str]:
    """Every address of this network namespace, those of lo too."""
    import fcntl  # noqa: PLC0415

    found = ["127.0.0.1"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, each in interfaces_up():
            try:
                answer = fcntl.ioctl(sock, 0x8915, struct.pack("16sH14x", each.encode(), socket.AF_INET))  # SIOCGIFADDR
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    continue
                raise
            found.append(socket.inet_ntoa(answer[20:24]))
    if os.path.exists("/proc/net/if_inet6"):
        with open("/proc/net/if_inet6", encoding="ascii") as file:
            for row in file:
                address = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(row.split()[0]))
                found.append(f"{address}%{row.split()[-1]}" if address.startswith("fe80") else address)
    return found


def knock(kind: int, host: str, port: int, device: str = "") -> None:
    """One packet to an address, over a given interface where one is named."""
    address = socket.getaddrinfo(host, port, type=kind, flags=socket.AI_NUMERICHOST)[0]
    with socket.socket(address[0], kind) as sock:
        sock.settimeout(SECONDS / 2)
        if device:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode() + b"\0")
        if kind == socket.SOCK_DGRAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.sendto(b"bulle-probe", address[4])
        else:
            sock.connect(address[4])


def must_be_refused(what: str, kind: int, host: str, port: int, device: str = "") -> None:
    """Knock where the kernel must refuse to send; anything but its refusal is the finding."""
    try:
        knock(kind, host, port, device)
    except OSError as error:
        if error.errno in NOT_SENT:
            return
        raise Open(f"{what}: not refused by the kernel: {error}") from error
    raise Open(f"{what}: the kernel sent it")


def locked_interfaces(_target: str) -> str | None:
    """Send on each interface that is up: to what is on the same wire, which needs no route, and beyond."""
    up = interfaces_up()
    for number, each in up:
        must_be_refused(f"{each}: multicast", socket.SOCK_DGRAM, "224.0.0.1", 9, each)
        must_be_refused(f"{each}: broadcast", socket.SOCK_DGRAM, "255.255.255.255", 9, each)
        must_be_refused(f"{each}: datagram", socket.SOCK_DGRAM, "192.0.2.1", 9, each)
        if socket.has_ipv6 and os.path.exists("/proc/net/if_inet6"):
            link = f"ff02::1%{number}"
            must_be_refused(f"{each}: multicast 6", socket.SOCK_DGRAM, link, 9)
    return f"no sending on {', '.join(each for _, each in up) or 'any'}"


def locked_routes(_target: str) -> str | None:
    """Reach each gateway (in many clusters the node, with its kubelet), and the first address of each network."""
    wanted = []
    with open("/proc/net/route", encoding="ascii") as file:
        for row in file.readlines()[1:]:
            device, network, gateway = row.split()[:3]
            if device != "lo":
                numbers = [int(gateway, 16), socket.htonl(socket.ntohl(int(network, 16)) + 1)]
                wanted += [socket.inet_ntoa(struct.pack("I", each)) for each in numbers if each not in (0, 1 << 24)]
    if os.path.exists("/proc/net/ipv6_route"):
        with open("/proc/net/ipv6_route", encoding="ascii") as file:
            hops = {(row.split()[4], row.split()[-1]) for row in file if row.split()[-1] != "lo"}
        for hop, device in hops:
            if hop.strip("0"):
                address = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(hop))
                wanted.append(f"{address}%{device}" if address.startswith("fe80") else address)
    for host in dict.fromkeys(wanted):
        must_be_refused(f"{host}:9", socket.SOCK_DGRAM, host, 9)
        must_be_refused(f"{host}:10250", socket.SOCK_STREAM, host, 10250)
    return f"{len(wanted)} refused"


def locked_port(_target: str) -> str | None:
    """Come to the bridge's port from inside the pod. Whether the bridge listens already or not: an answer that nobody
    does has come through too."""
    for host in own_addresses():
        must_be_refused(host, socket.SOCK_STREAM, host, BRIDGE_PORT)
    return "refused on every address"


def abstract_sockets(_target: str) -> str | None:
    """Abstract unix sockets belong to the network namespace: before the desktop starts there is none of
    ours."""
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as file:
        names = [row.split()[7] for row in file.readlines()[1:] if len(row.split()) > 7]
    found = sorted({each for each in names if each.startswith("@")})
    if found:
        raise Open(", ".join(found[:5]))
    return "none"


def sockets_in_files(_target: str) -> str | None:
    """Unix sockets in the file system, besides the one of the X server (docker.sock, for one)."""
    until = time.monotonic() + PATIENCE
    found = []
    for place in SOCKET_PLACES:
        for folder, _, files in os.walk(place):
            if time.monotonic() > until:
                raise Open(f"not finished: too many files below {place}")
            for each in files:
                path = os.path.join(folder, each)
                if folder == X11 and each.startswith("X"):
                    continue
                try:
                    if stat.S_ISSOCK(os.lstat(path).st_mode):
                        found.append(path)
                except OSError:
                    continue
    if found:
        raise Open(", ".join(found[:5]))
    return "none"


# -- files --------------------------------------------------------------------------------------------------
def write(target: str) -> str | None:
    """Make a file in a folder that must not be writable."""
    path = os.path.join(target, f".probe-{os.getpid()}")
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileNotFoundError:
        return "no such folder"
    os.close(handle)
    os.unlink(path)
    raise Open("a file could be made")


def unlink(target: str) -> None:
    """Take a name out of a folder; only a read-only mount answers so for a name that is not there."""
    os.unlink(os.path.join(target, ".probe-nothing"))


def mounted_places() -> Iterator[tuple[str, list[str], str]]:
    """Mount points and their options."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for row in file:
            words = row.split()
            yield words[4].encode().decode("unicode_escape"), words[5].split(","), words[words.index("-") + 1]


def writable_mounts(_target: str) -> str | None:
    """Every mount that is not read-only, besides the private tmpfs ones, must belong to somebody else."""
    found = []
    for place, options, kind in mounted_places():
        if "ro" in options or place in ALLOWED_WRITES or kind in ("proc", "devpts", "mqueue") or place == "/dev":
            continue
        if os.access(place, os.W_OK) and os.stat(place).st_rdev != os.makedev(
            1, 3
        ):  # what the engine masks is /dev/null
            found.append(place)
    if found:
        raise Open(", ".join(found))
    return "none"


def mount_flags(_target: str) -> str | None:
    """What the researcher can write is nosuid and nodev."""
    found = [
        place
        for place, options, _ in mounted_places()
        if place in ALLOWED_WRITES and not {"nosuid", "nodev"} <= set(options)
    ]
    if found:
        raise Open(", ".join(found))
    return "nosuid, nodev"


def empty(target: str) -> str | None:
    """Nothing may be here before the probe has passed."""
    try:
        found = os.listdir(target)
    except FileNotFoundError:
        return "no such folder"
    if found:
        raise Open(f"{len(found)} names in it")
    return "empty"


def absent(target: str) -> str | None:
    """Something that must not be there at all."""
    if os.path.lexists(target):
        raise Open("it is there")
    return "absent"


def open_for_writing(target: str) -> str | None:
    """Open an interface of the kernel for writing, without writing."""
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CLOEXEC))
    except (FileNotFoundError, NotADirectoryError):
        return "absent"
    raise Open("it could be opened")


def open_for_reading(target: str) -> str | None:
    """Read from an interface that shows the machine."""
    try:
        handle = os.open(target, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return "absent"
    try:
        got = os.read(handle, 16)
    finally:
        os.close(handle)
    if got:
        raise Open(f"{len(got)} bytes")
    return "nothing in it"


def devices(target: str) -> str | None:
    """Device nodes, besides the harmless ones, terminals, and what ``all besides PATTERN…`` names: devices that the
    deployment gives. A block device is a disk, and never given."""
    given = target.split()[2:]
    found = []
    for folder, _, files in os.walk("/dev"):
        for each in files:
            path = os.path.join(folder, each)
            mode = os.lstat(path).st_mode
            known = folder == "/dev/pts" or each in HARMLESS_DEVICES or any(fnmatchcase(path, row) for row in given)
            if stat.S_ISBLK(mode) or (stat.S_ISCHR(mode) and not known):
                found.append(path)
    if found:
        raise Open(", ".join(found[:5]))
    return "harmless ones only"


# -- power --------------------------------------------------------------------------------------------------
def status_line(target: str) -> str | None:
    """What the kernel says of this process: no capability, no way to gain one, a filter, not root."""
    wanted = {"NoNewPrivs": "1", "Seccomp": "2"}
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        lines = dict(row.rstrip("\n").split(":", 1) for row in file if ":" in row)
    value = lines.get(target, "missing").strip()
    if target in ("Uid", "Gid"):
        good = "0" not in value.split() and len(set(value.split())) == 1
    elif target == "Groups":
        good = set(value.split()) <= {str(os.getuid())}
    elif target.startswith("Cap"):
        good = value.strip("0") == "" and value != ""
    else:
        good = value == wanted[target]
    if not good:
        raise Open(value)
    return value


def become_root(_target: str) -> str | None:
    """Change to user 0."""
    os.setresuid(0, 0, 0)
    raise Open("became root")


def groups(_target: str) -> str | None:
    """Take the group of root."""
    os.setgroups([0])
    raise Open("took group 0")


def in_child(action: Callable[[], int]) -> None:
    """Carry out what would change this process in another one; raises its OSError. ``action`` returns an
    errno or 0."""
    child = os.fork()
    if child == 0:
        os._exit(action())
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise OSError(code, os.strerror(code))


def unshare(target: str) -> str | None:
    """A namespace of one's own, in which to be root. A process with threads would be refused for having
    them."""
    flag = {"user": CLONE_NEWUSER, "mount": CLONE_NEWNS, "network": CLONE_NEWNET}[target]
    in_child(lambda: 0 if libc.unshare(flag) == 0 else ctypes.get_errno())
    raise Open("a namespace was made")


def mount(target: str) -> str | None:
    """Mount something; over what is there, or anew."""
    kind = {"tmpfs": (b"none", b"/tmp", b"tmpfs", 0), "remount": (None, b"/", None, 0x20)}[target]
    if libc.mount(*kind, None) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    raise Open("mounted")


def unmount(target: str) -> str | None:
    """Take a mount away, to see what is below."""
    if libc.umount2(target.encode(), 2) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    raise Open("unmounted")


def change_root(target: str) -> str | None:
    """Another root folder."""
    in_child(lambda: 0 if libc.chroot(target.encode()) == 0 else ctypes.get_errno())
    raise Open("changed root")


def make_node(target: str) -> str | None:
    """A device node of one's own."""
    path = f"/tmp/.probe-node-{target}"
    kind, device = {"disk": (stat.S_IFBLK, os.makedev(7, 0)), "memory": (stat.S_IFCHR, os.makedev(1, 1))}[target]
    os.mknod(path, kind | 0o600, device)
    os.unlink(path)
    raise Open("made")


def by_handle(_target: str) -> str | None:
    """Open a file of the machine by its number (the way out of early containers)."""
    handle = ctypes.create_string_buffer(struct.pack("Iiii", 8, 1, 2, 0))
    system_call({"x86_64": 304, "aarch64": 265}, ctypes.c_int(-100), handle, ctypes.c_int(0))
    raise Open("opened")


def dangerous_call(target: str) -> str | None:
    """System calls that have been the way out of containers; refused before the kernel looks at their
    arguments."""
    null = ctypes.c_void_p(None)
    numbers = {
        "bpf": ({"x86_64": 321, "aarch64": 280}, (ctypes.c_int(0), null, ctypes.c_int(0))),
        "perf_event_open": (
            {"x86_64": 298, "aarch64": 241},
            (null, ctypes.c_int(0), ctypes.c_int(-1), ctypes.c_int(-1), ctypes.c_long(0)),
        ),
        "add_key": (
            {"x86_64": 248, "aarch64": 217},
            (null, null, null, ctypes.c_size_t(0), ctypes.c_int(-3)),
        ),
        "keyctl": ({"x86_64": 250, "aarch64": 219}, (ctypes.c_int(0), ctypes.c_int(-3), ctypes.c_int(0))),
        "init_module": ({"x86_64": 175, "aarch64": 105}, (null, ctypes.c_ulong(0), null)),
        "io_uring_setup": ({"x86_64": 425, "aarch64": 425}, (ctypes.c_uint(1), null)),
        "userfaultfd": ({"x86_64": 323, "aarch64": 282}, (ctypes.c_int(0),)),
        "settimeofday": ({"x86_64": 164, "aarch64": 170}, (null, null)),
        "swapoff": ({"x86_64": 168, "aarch64": 225}, (null,)),
    }
    number, arguments = numbers[target]
    system_call(number, *arguments)
    raise Open("it was carried out")


def environment(target: str) -> str | None:
    """Secrets in an environment."""
    with open(target, "rb") as file:
        names = [pair.split(b"=")[0].decode(errors="replace") for pair in file.read().split(b"\0") if pair]
    found = [each for each in names if any(word in each.upper() for word in SECRET_WORDS)]
    if found:
        raise Open(", ".join(found))
    return f"{len(names)} harmless names"


def core_dumps(_target: str) -> str | None:
    """A core dump would put plaintext on a disk."""
    limits = resource.getrlimit(resource.RLIMIT_CORE)
    if limits != (0, 0):
        raise Open(f"limits {limits}")
    return "off"


def others_processes(_target: str) -> str | None:
    """Processes of anybody else."""
    found = []
    for each in os.listdir("/proc"):
        if each.isdigit():
            try:
                owner = os.stat(f"/proc/{each}").st_uid
            except FileNotFoundError:
                continue
            if owner != os.getuid():
                found.append(each)
    if found:
        raise Open(f"{len(found)} of them")
    return "none"


def shared_memory(_target: str) -> str | None:
    """System V shared memory of somebody else."""
    with open("/proc/sysvipc/shm", encoding="ascii") as file:
        if len(file.readlines()) > 1:
            raise Open("there is some")
    return "none"


ATTEMPTS: dict[str, tuple[Attempt, tuple[str, ...]]] = {
    "raw-socket-ip4": (socket_kind(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP), ("icmp",)),
    "raw-socket-ip6": (socket_kind(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6), ("icmp",)),
    "packet-socket": (socket_kind(socket.AF_PACKET, socket.SOCK_RAW, 0x0300), ("all",)),
    "packet-socket-cooked": (socket_kind(socket.AF_PACKET, socket.SOCK_DGRAM, 0x0300), ("all",)),
    # Families that know no network namespace: a virtual machine's hypervisor is reached through AF_VSOCK.
    "vsock": (socket_kind(40, socket.SOCK_STREAM), ("hypervisor",)),
    "bluetooth": (socket_kind(31, socket.SOCK_RAW), ("adapter",)),
    "kernel-crypto-socket": (socket_kind(38, socket.SOCK_SEQPACKET), ("AF_ALG",)),
    "interfaces": (interfaces, ("up",)),
    "routes": (routes, ("away",)),
    "netlink": (netlink, tuple(NETLINK_MESSAGES)),
    "packet-filter": (packet_filter, ("table",)),
    "abstract-sockets": (abstract_sockets, ("all",)),
    "sockets-in-files": (sockets_in_files, ("all",)),
    "write": (
        write,
        ("/", "/etc", "/usr", "/usr/lib/bulle", "/var", "/opt", "/root", "/run", "/home", "/home/researcher")
        + ("/data", "/project", "/run/bulle", X11, "/sys", "/proc", "/proc/sys/kernel", "/sys/fs/cgroup"),
    ),
    "unlink": (unlink, (X11, "/run/bulle", "/data", "/etc", "/usr/lib/bulle")),
    "writable-mounts": (writable_mounts, ("all",)),
    "mount-flags": (mount_flags, ("own",)),
    "empty": (empty, ("/data", "/home/researcher", "/project")),
    "absent": (
        absent,
        (
            "/var/run/docker.sock",
            "/run/containerd/containerd.sock",
            "/var/run/secrets/kubernetes.io",
            "/.dockerinit",
        )
        + (
            "/run/bulle/bridge",
            "/run/bulle/rfb",
            "/run/bulle/display",
            "/dev/fuse",
            "/dev/kvm",
            "/dev/vsock",
        ),
    ),
    "open-for-writing": (
        open_for_writing,
        (
            "/proc/sys/kernel/core_pattern",
            "/proc/sys/vm/drop_caches",
            "/proc/sysrq-trigger",
            "/proc/sys/net/ipv4/ip_forward",
        )
        + ("/dev/mem", "/dev/port", "/dev/kmsg", "/sys/kernel/uevent_helper", "/sys/power/state"),
    ),
    "open-for-reading": (
        open_for_reading,
        ("/dev/mem", "/dev/kmsg", "/proc/kcore", "/proc/kmsg", "/etc/shadow"),
    ),
    "devices": (devices, ("all",)),
    "status": (
        status_line,
        ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Uid", "Gid", "Groups"),
    ),
    "become-root": (become_root, ("uid",)),
    "groups": (groups, ("gid",)),
    "unshare": (unshare, ("user", "mount", "network")),
    "mount": (mount, ("tmpfs", "remount")),
    "unmount": (unmount, ("/proc/kcore", "/run/bulle")),
    "chroot": (change_root, ("/tmp",)),
    "make-node": (make_node, ("disk", "memory")),
    "open-by-handle": (by_handle, ("/",)),
    "system-call": (
        dangerous_call,
        ("bpf", "perf_event_open", "add_key", "keyctl", "init_module", "io_uring_setup", "userfaultfd")
        + ("settimeofday", "swapoff"),
    ),
    "environment": (environment, ("/proc/self/environ", "/proc/1/environ")),
    "core-dumps": (core_dumps, ("limits",)),
    "processes": (others_processes, ("others",)),
    "shared-memory": (shared_memory, ("others",)),
}
NETWORK: dict[str, tuple[str, Attempt]] = {
    "tcp": ("tcp", tcp),
    "udp": ("udp", udp),
    "ping": ("ping", ping),
    "resolvers": ("dns", resolver),
    "names": ("name", name),
}


#: what takes the place of attempts that would find what a pod must have
LOCKED: dict[str, tuple[Attempt, tuple[str, ...]]] = {
    "locked-interfaces": (locked_interfaces, ("each",)),
    "locked-routes": (locked_routes, ("each",)),
    "locked-port": (locked_port, ("bridge",)),
}
UNLOCKED = ("interfaces", "routes")


def attempts(locked: bool) -> dict[str, tuple[Attempt, tuple[str, ...]]]:
    """What is tried without targets of a deployment: without a network, or with one that is locked."""
    if not locked:
        return ATTEMPTS
    return {**{label: each for label, each in ATTEMPTS.items() if label not in UNLOCKED}, **LOCKED}


def plan(targets: dict[str, list[str]], locked: bool = False) -> list[tuple[str, str]]:
    """Every (attempt, target) pair that a whole report holds, in order; the evaluation asks for exactly
    these."""
    pairs = [(attempt, target) for key, (attempt, _) in NETWORK.items() for target in targets[key]]
    pairs += [(attempt, target) for attempt, (_, wanted) in attempts(locked).items() for target in wanted]
    if not (given := targets["devices"]):
        return pairs
    # In the name of the attempt, so that no report of a looser one passes for it.
    return [("devices", f"all besides {' '.join(given)}") if pair[0] == "devices" else pair for pair in pairs]


def carry_out(attempt: str, target: str) -> tuple[str, str]:
    """(result, detail) of one attempt."""
    action = next((each for label, each in NETWORK.values() if label == attempt), None)
    action = action or {**ATTEMPTS, **LOCKED}[attempt][0]
    network = any(label == attempt for label, _ in NETWORK.values())
    try:
        detail = action(target)
    except Open as found:
        return "OPEN", str(found)
    except OSError as error:
        if error.errno in (NOT_SENT if network else FORBIDDEN | NOT_SENT):
            return "blocked", error.strerror or str(error)
        return "OPEN", f"not refused as it should be: {error}"
    except Exception as error:  # noqa: BLE001 - an attempt that nobody foresaw counts as open
        return "OPEN", f"unforeseen: {type(error).__name__}: {error}"
    if detail is None:
        return "OPEN", "no refusal"
    return "blocked", detail


def run(targets: dict[str, list[str]], locked: bool = False) -> list[dict[str, str]]:
    """Carry out the whole plan: what may wait at the same time, the rest one after the other."""
    pairs = plan(targets, locked)
    results = dict.fromkeys(pairs, ("OPEN", "no verdict in time"))
    waiting = []
    labels = {label for label, _ in NETWORK.values()}
    for pair in pairs:
        if pair[0] in labels:
            worker = threading.Thread(target=lambda each=pair: results.__setitem__(each, carry_out(*each)), daemon=True)
            waiting.append(worker)
        else:
            results[pair] = carry_out(*pair)
    for worker in waiting:
        worker.start()
    until = time.monotonic() + PATIENCE
    for worker in waiting:
        worker.join(max(0.0, until - time.monotonic()))
    return [
        {"attempt": attempt, "target": target, "result": result, "detail": detail[:200]}
        for (attempt, target), (result, detail) in list(results.items())
    ]


def checked_targets(given: Any) -> dict[str, list[str]]:
    """The targets, or the end."""
    if (
        not isinstance(given, dict)
        or set(given) != set(EMPTY_TARGETS)
        or not all(isinstance(row, list) and all(isinstance(each, str) for each in row) for row in given.values())
    ):
        sys.exit(f"targets must be lists of text for {', '.join(EMPTY_TARGETS)}")
    return given


def verdict(report: list[dict[str, str]]) -> list[str]:
    """What is open, a line each."""
    return [f"{row['attempt']} {row['target']}: {row['detail']}" for row in report if row["result"] != "blocked"]


def keep(path: str, report: list[dict[str, str]]) -> None:
    """Write the report, whole or not at all: who waits for it reads it as soon as its name is there."""
    handle = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(report, file)
    os.rename(f"{path}.new", path)


def become(program: list[str]) -> None:
    """Hand this process over to ``program``.

    Stops: what a researcher's program prints, in a file of kubelet's on a disk of the node.
    """
    nowhere = os.open("/dev/null", os.O_RDWR)
    for each in (0, 1, 2):
        os.dup2(nowhere, each)
    os.execv(program[0], program)  # noqa: S606 - what the container is for


def main(arguments: list[str]) -> None:
    """``[--locked] [--first REPORT TARGETS PROGRAM…]``: without the latter targets from standard input, the report to
    standard output."""
    locked = arguments[:1] == ["--locked"]
    rest = arguments[1:] if locked else arguments
    if rest[:1] == ["--first"] and len(rest) > 3:
        report = run(checked_targets(json.loads(rest[2])), locked)
        keep(rest[1], report)
        found = verdict(report)
        # Of whatever length: a cluster shows the end of it, so the number of findings is the last line.
        print(
            "\n".join([*found, f"isolation-probe: {len(found)} of {len(report)} attempts are open"]),
            file=sys.stderr,
            flush=True,
        )
        if found:
            os._exit(1)  # not waiting for a resolver that still hopes
        become(rest[3:])
    if rest:
        sys.exit("usage: probe.py [--locked] [--first REPORT TARGETS PROGRAM…]")
    json.dump(run(checked_targets(json.load(sys.stdin)), locked), sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # the same


if __name__ == "__main__":
    main(sys.argv[1:])

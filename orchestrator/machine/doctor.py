"""``bulle doctor``: each thing that must be so for a deployment to be safe and to run, looked at one by one.

A check is a small function that returns what it found; it never changes anything. ``FAULT`` means that the deployment
must not run like this, ``WARNING`` that an administrator should know.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import stat
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from cryptography import x509

from orchestrator.audit import open_for_verification
from orchestrator.config import FileCustodian, Settings, Signatures, Uid
from orchestrator.errors import BulleError
from orchestrator.governance.chain import ANCHORS, read_anchors
from orchestrator.governance.signatures import signing_of
from orchestrator.governance.store import SCHEMA, Store
from orchestrator.keys import open_custodian
from orchestrator.machine.deployment import engine
from orchestrator.machine.mountpoint import is_shared
from orchestrator.machine.state import folders
from orchestrator.node.closings import returned

DISK_WARNING_GB = 10
CERTIFICATE_WARNING_DAYS = 21


class Level(StrEnum):
    """How bad a finding is."""

    FINE = "fine"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True)
class Finding:
    """What one check found, and what to do about it."""

    check: str
    level: Level
    message: str
    hint: str = ""


Check = Callable[[Settings], Finding]


def check_engine(settings: Settings) -> Finding:
    """A Docker engine answers and is new enough."""
    try:
        version = engine().version()["Version"]
    except BulleError as error:
        return Finding("engine", Level.FAULT, error.message, error.hint or "")
    if int(version.split(".")[0]) < 20:
        return Finding("engine", Level.FAULT, f"Docker engine {version} is too old", "20.10 or newer is needed")
    return Finding("engine", Level.FINE, f"Docker engine {version}")


def check_swap(settings: Settings) -> Finding:
    """Plaintext in RAM must not reach a disk by way of swap (attack: reading the swap partition)."""
    lines = Path("/proc/swaps").read_text(encoding="utf-8").splitlines()[1:]
    open_swap = [line.split()[0] for line in lines if not line.split()[0].startswith(("/dev/dm-", "/dev/zram"))]
    if open_swap:
        return Finding(
            "swap",
            Level.WARNING,
            f"swap on {', '.join(open_swap)} may be unencrypted",
            "containers do not swap and views are noswap; still, switch it off (swapoff -a) or encrypt it",
        )
    return Finding("swap", Level.FINE, "no unencrypted swap")


def check_kernel(settings: Settings) -> Finding:
    """The kernel knows tmpfs ``noswap`` (6.4 or newer), so that views are in RAM and bounded in size."""
    release = os.uname().release
    major, minor = (int(part) for part in release.split(".")[:2])
    if (major, minor) < (6, 4):
        return Finding(
            "kernel",
            Level.WARNING,
            f"Linux {release} has no tmpfs 'noswap': views are on ramfs, which does not swap, with no limit of size",
            "6.4 or newer bounds a view to half of the RAM (Debian 12: linux-image-amd64 from backports)",
        )
    return Finding("kernel", Level.FINE, f"Linux {release}")


def check_core_dumps(settings: Settings) -> Finding:
    """A crash must not write memory to a disk (attack: reading the core files of a sandbox that crashed).

    Containers have a core limit of 0, which a program that is handed the dump (``|`` in core_pattern) may ignore.
    """
    pattern = Path("/proc/sys/kernel/core_pattern").read_text(encoding="utf-8").strip()
    if pattern.startswith("|"):
        return Finding(
            "core dumps",
            Level.WARNING,
            f"core dumps are handed to {pattern[1:].split()[0]}, which may keep what a workspace had in memory",
            "sysctl kernel.core_pattern=core, or make sure that it heeds a core limit of 0",
        )
    return Finding("core dumps", Level.FINE, "a workspace that crashes leaves none")


def check_owners(settings: Settings) -> Finding:
    """Each folder belongs to its one part (attack: one part reads another's secrets)."""
    wrong = []
    for folder in folders(settings.layout):
        try:
            found = folder.path.stat()
        except OSError:
            wrong.append(f"{folder.path} is missing")
            continue
        if (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) != (folder.uid, folder.gid, folder.mode):
            wrong.append(f"{folder.path} is {found.st_uid}:{found.st_gid} {stat.S_IMODE(found.st_mode):04o}")
    if wrong:
        return Finding("folders", Level.FAULT, "; ".join(wrong), "bulle up sets owners and modes again")
    return Finding("folders", Level.FINE, "owners and modes are as they must be")


def check_secrets(settings: Settings) -> Finding:
    """No secret file is readable by others."""
    named = [settings.oidc.client_secret_file]
    if settings.metrics is not None:
        named.append(settings.metrics.token_file)
    if settings.database_password_file is not None:
        named.append(settings.database_password_file)
    wrong = [
        str(path)
        for path in (*settings.layout.secrets.rglob("*"), *named)
        if path.is_file() and path.stat().st_mode & 0o077
    ]
    if not settings.oidc.client_secret_file.is_file():
        return Finding(
            "secrets",
            Level.FAULT,
            f"oidc.client_secret_file {settings.oidc.client_secret_file} is missing",
            "create it",
        )
    # The engine would make a folder in its place.
    if settings.metrics is not None and not settings.metrics.token_file.is_file():
        told = f"metrics.token_file {settings.metrics.token_file} is missing"
        return Finding("secrets", Level.FAULT, told, "create it: docs/monitoring.md")
    if wrong:
        return Finding("secrets", Level.FAULT, f"readable by others: {', '.join(wrong)}", "chmod 600 each")
    return Finding("secrets", Level.FINE, "only their owners can read them")


def check_custodian(settings: Settings) -> Finding:
    """The key custodian wraps and unwraps; the embedded one is for trials."""
    try:
        custodian = open_custodian(settings, settings.layout)
        if custodian.unwrap(custodian.wrap(b"\0" * 32, "doctor"), "doctor") != b"\0" * 32:
            return Finding("custodian", Level.FAULT, "the custodian does not return what it wrapped")
    except BulleError as error:
        return Finding("custodian", Level.FAULT, error.message, error.hint or "")
    if isinstance(settings.custodian, FileCustodian):
        return Finding(
            "custodian",
            Level.WARNING,
            "the key custodian is embedded: whoever takes this disk takes the key with it",
            "for more than a trial, keep the key on a PKCS#11 token (custodian.kind: pkcs11)",
        )
    return Finding("custodian", Level.FINE, custodian.description)


def check_destroyed(settings: Settings) -> Finding:
    """No key that was destroyed is there again (attack: an older backup of the key ring, put back)."""
    found = returned(settings.layout.folders, settings.layout.keyring)
    if found:
        return Finding(
            "destroyed",
            Level.FAULT,
            f"{len(found)} keys of closed projects are there that were destroyed, such as {found[0]}",
            "an older key ring was put back: remove these files, and the backup they came from",
        )
    return Finding("destroyed", Level.FINE, "no destroyed key is there again")


def check_disk(settings: Settings) -> Finding:
    """There is room for homes and project folders."""
    free = shutil.disk_usage(settings.state).free / 2**30
    if free < DISK_WARNING_GB:
        return Finding("disk", Level.WARNING, f"{free:.1f} GB are free below {settings.state}", "make room")
    return Finding("disk", Level.FINE, f"{free:.0f} GB free")


def check_mounts(settings: Settings) -> Finding:
    """The mounts folder propagates; without it no data can appear in a workspace."""
    if not is_shared(settings.layout.mounts):
        return Finding("mounts", Level.FAULT, f"{settings.layout.mounts} is not a shared mount", "run: bulle up")
    return Finding("mounts", Level.FINE, "mounts propagate into workspaces")


def check_images(settings: Settings) -> Finding:
    """Every image that may run is on the machine, by digest."""
    try:
        recorded: dict[str, str] = json.loads(settings.layout.images.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Finding("images", Level.FAULT, f"{settings.layout.images} is missing", "run: bulle images build")
    try:
        present = {image.id for image in engine().images.list(all=True)}
    except BulleError as error:
        return Finding("images", Level.FAULT, error.message)
    absent = [name for name, digest in recorded.items() if digest not in present]
    if absent:
        return Finding("images", Level.FAULT, f"not on this machine: {', '.join(absent)}", "run: bulle images build")
    return Finding("images", Level.FINE, f"{len(recorded)} images, by digest")


def check_provider(settings: Settings) -> Finding:
    """The OpenID provider answers, and says of itself what the settings say."""
    url = _discovery(settings)
    try:
        said = _said_by_provider(url)
    except (OSError, ValueError) as error:
        return Finding("provider", Level.FAULT, f"{url}: {error}", "is the provider up, and oidc.issuer right?")
    if str(said.get("issuer", "")).rstrip("/") != settings.oidc.issuer:
        return Finding(
            "provider",
            Level.FAULT,
            f"{url} says that its issuer is {said.get('issuer')!r}",
            "set oidc.issuer",
        )
    if not settings.oidc.require_mfa:
        return Finding("provider", Level.WARNING, "a second factor is not required", "set oidc.require_mfa: true")
    return Finding("provider", Level.FINE, f"{settings.oidc.issuer} answers; a second factor is required")


def _discovery(settings: Settings) -> str:
    return f"{settings.oidc.issuer}/.well-known/openid-configuration"


def _said_by_provider(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - https, or loopback (see config)
        said = json.load(answer)
    if not isinstance(said, dict):
        raise ValueError("not a JSON object")
    return said


def check_removal(settings: Settings) -> Finding:
    """The provider can be asked whether people are still there (attack: somebody dismissed there goes on here).

    Only a login shows whether it gives refresh tokens; the hub's log says so where it does not.
    """
    name, hint = "removal", "docs/login.md, Removed at the provider: out"
    if not settings.oidc.refresh_seconds:
        told = "the provider is never asked whether people are still there (oidc.refresh_seconds: 0)"
        return Finding(name, Level.WARNING, told, hint)
    try:
        said = _said_by_provider(_discovery(settings))
    except (OSError, ValueError) as error:
        return Finding(name, Level.WARNING, f"the provider cannot be asked: {error}", "see the finding on the provider")
    # Some that give refresh tokens list no grant types at all: only a list without them says something.
    grants = said.get("grant_types_supported")
    if isinstance(grants, list) and "refresh_token" not in grants:
        told = "the provider gives no refresh tokens: logins end after three intervals, and workspaces run on"
        return Finding(name, Level.WARNING, told, hint)
    offered = said.get("scopes_supported")
    if isinstance(offered, list) and "offline_access" in offered and "offline_access" not in settings.oidc.scopes:
        told = "oidc.scopes lacks offline_access: refresh tokens may not be given, or end with the provider's session"
        return Finding(name, Level.WARNING, told, hint)
    return Finding(name, Level.FINE, f"who is removed there is out within {settings.oidc.refresh_seconds} s")


def check_certificate(settings: Settings) -> Finding:
    """The TLS certificate belongs to its key and is in date."""
    if settings.tls is None:
        return Finding("tls", Level.WARNING, "no TLS: only good on loopback", "set tls and a listen address")
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings.tls.certificate_file, settings.tls.key_file)
        ends = x509.load_pem_x509_certificate(settings.tls.certificate_file.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        return Finding("tls", Level.FAULT, f"certificate and key do not load: {error}", "check both files")
    days = (ends - datetime.now(UTC)).days
    if days < 0:
        return Finding("tls", Level.FAULT, f"the certificate ended on {ends:%Y-%m-%d}", "renew it")
    if days < CERTIFICATE_WARNING_DAYS:
        return Finding("tls", Level.WARNING, f"the certificate ends in {days} days", "renew it")
    return Finding("tls", Level.FINE, f"the certificate is good until {ends:%Y-%m-%d}")


def check_audit(settings: Settings) -> Finding:
    """The audit log is whole."""
    try:
        report = open_for_verification(settings.layout).verify()
        report.raise_if_bad()
    except BulleError as error:
        return Finding(
            "audit",
            Level.FAULT,
            error.message,
            error.hint or "keep a copy of the log and find out who did this",
        )
    return Finding("audit", Level.FINE, f"{report.records} records, unbroken")


def check_database(settings: Settings) -> Finding:
    """The store of governance answers, and its tables are those of this program."""
    told = "PostgreSQL" if settings.database else "SQLite"
    if settings.database is None and not settings.layout.database.exists():
        return Finding("database", Level.FINE, f"{told}; it is made at the first start")
    password = settings.database_password_file
    if password is not None and (not password.is_file() or password.stat().st_uid != Uid.AUTHORITY):
        hint = f"create it, and: chown {Uid.AUTHORITY} {password}"
        return Finding("database", Level.FAULT, f"{password} is not a file of the authority's", hint)
    try:
        store = Store(settings.database_url, password)
        try:
            found = store.schema()
        finally:
            store.close()
    except BulleError as error:
        hint = "is the server up, its socket in database_socket, and the password right?" if settings.database else ""
        return Finding("database", Level.FAULT, error.message, error.hint or hint)
    if found is None or found < SCHEMA:
        hint = "bulle up brings it up to date: make a backup first"
        return Finding("database", Level.WARNING, f"{told}: tables of an older version", hint)
    if found > SCHEMA:
        hint = "run the version of Bulle that made it, or restore the backup of before the upgrade"
        return Finding("database", Level.FAULT, f"{told}: tables of a newer version ({found})", hint)
    return Finding("database", Level.FINE, f"{told}, schema {found}")


def check_port(settings: Settings) -> Finding:
    """The proxy's address is ours or free."""
    host, port = settings.listen.rsplit(":", 1)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.settimeout(2)
        answers = probe.connect_ex((host.strip("[]"), int(port))) == 0
    return Finding("listen", Level.FINE, f"{settings.listen} {'answers' if answers else 'is free'}")


def check_passkeys(settings: Settings) -> Finding:
    """Decisions can be signed where they must be: browsers bind a passkey to a host name, never to an address."""
    wanted = settings.governance.signatures
    try:
        signing_of(settings).check()
        anchors = read_anchors(settings.layout.public / ANCHORS, settings.deployment)
    except BulleError as error:
        level = Level.FINE if wanted is Signatures.OFF else Level.FAULT
        return Finding("passkeys", level, error.message, error.hint or "")
    if wanted is Signatures.REQUIRED and not anchors.passkeys:
        told = "decisions must be signed, and no custodian's passkey is an anchor: no workspace opens"
        return Finding("passkeys", Level.FAULT, told, "bulle passkey vouch PERSON PASSKEY")
    if wanted is Signatures.OFF:
        return Finding("passkeys", Level.FINE, "decisions are not signed (governance.signatures: off)")
    return Finding("passkeys", Level.FINE, f"decisions are signed ({wanted}); {len(anchors.passkeys)} anchors")


CHECKS: tuple[Check, ...] = (
    check_engine,
    check_kernel,
    check_swap,
    check_core_dumps,
    check_owners,
    check_secrets,
    check_custodian,
    check_destroyed,
    check_disk,
    check_mounts,
    check_images,
    check_provider,
    check_removal,
    check_certificate,
    check_audit,
    check_database,
    check_passkeys,
    check_port,
)


def examine(settings: Settings) -> list[Finding]:
    """Run every check; one that cannot be carried out is itself a fault."""
    found = []
    for check in CHECKS:
        try:
            found.append(check(settings))
        except OSError as error:
            found.append(Finding(check.__name__.removeprefix("check_"), Level.FAULT, str(error)))
    return found

"""Settings of a deployment: one YAML file, validated whole before anything runs.

Secrets never stand in the file: it names files that hold them (``*_file``). Unknown keys are errors, so a misspelt
control cannot be silently off.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterable
from decimal import Decimal
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlencode, urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from orchestrator.errors import SettingsError

Slug = Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?$")]
"""Names of deployments, projects and datasets: 1 to 40 of a-z, 0-9 and '-', not at either end."""


class Section(BaseModel):
    """A frozen part of the settings; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Uid:
    """Fixed user ids, so that files and sockets can be given to one part and to no other."""

    SANDBOX = 1000
    BRIDGE = 1001
    DISPLAY = 1002
    HUB = 1010
    PROXY = 1011
    PORTAL = 1012
    AUTHORITY = 1013
    DEMO_IDP = 1014
    METRICS = 1015
    DOOR = 1016
    NAMESPACES = 1017


class Gid:
    """Fixed groups for sockets that exactly two parts share."""

    RFB = 1003  # display and bridge


LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def _web_address(text: str, what: str) -> str:
    """``text`` without a slash at its end, if it is an https address, or an http one on this very machine.

    The host's name is compared, not the beginning of the text: ``http://localhost.example.org`` and
    ``http://127.0.0.1@example.org`` are elsewhere (attack: a login in clear on somebody's network; shown by
    tests/unit/test_config.py).
    """
    parts = urlsplit(text)
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"{what} holds no user name")
    if not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{what} must be an address such as https://login.example.org")
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise ValueError(f"{what} must be https:// (http:// only on loopback)")
    return text.rstrip("/")


_DRIVER = "postgresql+psycopg"
_NO_NETWORK = (
    "the authority has no network and reaches PostgreSQL by a unix socket in database_socket (for a server elsewhere,"
    " that of a pgbouncer on this machine; on a cluster, by its host)"
)
#: a name that a resolver is asked for; its last part is no number, which would be read as an address
_HOST = re.compile(
    r"(?=.{1,253}$)(?:[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?\.)*(?=[^.]*[a-z])[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
)


def _database_address(address: str) -> str:
    """``address`` with its driver, if it is PostgreSQL's, without a password or options.

    Stops: a password in a file that many read, or in a list of processes; an option that takes another certificate or
    none. Shown by tests/unit/test_config.py. Where a server may be is the settings' to judge, see _database_is_whole.
    """
    parts = urlsplit(address)
    try:
        port = parts.port
    except ValueError:
        raise ValueError("the port must be a number") from None
    if parts.scheme not in ("postgresql", _DRIVER):
        raise ValueError("it is postgresql://user@/name, or left away for SQLite in the state folder")
    if parts.password is not None:
        raise ValueError("no password in the address: name a file with database_password_file")
    if parts.query or parts.fragment:
        raise ValueError(f"no options: {_NO_NETWORK}")
    if not parts.username or not parts.path.strip("/") or "/" in parts.path.strip("/"):
        raise ValueError("it needs a user and a name: postgresql://user@/name")
    if parts.hostname and not _HOST.fullmatch(parts.hostname) and not _is_address(parts.hostname):
        raise ValueError("the host must be a name or an address")
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    return f"{_DRIVER}://{parts.username}@{host}{'' if port is None else f':{port}'}{parts.path}"


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text


class Tls(Section):
    """Certificate and key (PEM files) that the proxy serves."""

    certificate_file: Path
    key_file: Path


class Oidc(Section):
    """The OpenID Connect provider at which people log in."""

    issuer: str
    client_id: str
    client_secret_file: Path
    scopes: tuple[str, ...] = ("openid", "profile", "email")
    require_mfa: bool = False
    #: values in the ``amr`` claim (RFC 8176) of which one proves a second factor
    mfa_amr: tuple[str, ...] = ("mfa", "otp", "hwk", "swk", "fido", "webauthn")
    #: values of the ``acr`` claim that prove a second factor
    mfa_acr: tuple[str, ...] = ()
    #: claim of the ID token that lists a person's groups
    groups_claim: str = "groups"
    #: group at the provider → platform role that it gives; a person who leaves the group loses the role
    group_roles: dict[str, Literal["custodian", "reviewer", "auditor", "administrator"]] = {}
    #: seconds between two questions whether the provider still knows a person who is logged in; 0: never
    refresh_seconds: Annotated[int, Field(ge=0)] = 300

    @field_validator("issuer")
    @classmethod
    def _https_or_loopback(cls, issuer: str) -> str:
        return _web_address(issuer, "an issuer")


class FileCustodian(Section):
    """The embedded custodian: a key-encryption key in a file. For trials: whoever has the disk has everything."""

    kind: Literal["file"] = "file"


class Pkcs11Custodian(Section):
    """Key-encryption key on a PKCS#11 token; it never leaves the token."""

    kind: Literal["pkcs11"]
    module: Path
    token_label: str
    key_label: str
    pin_file: Path


class Limits(Section):
    """What one workspace may use."""

    cpus: Annotated[float, Field(gt=0)] = 2.0
    memory_mb: Annotated[int, Field(ge=512)] = 4096
    processes: Annotated[int, Field(ge=64)] = 1024
    tmp_mb: Annotated[int, Field(ge=16)] = 1024
    home_mb: Annotated[int, Field(ge=16)] = 5120
    project_mb: Annotated[int, Field(ge=16)] = 10240
    display_memory_mb: Annotated[int, Field(ge=64)] = 512


class PseudonymForm(StrEnum):
    """How a pseudonym appears in a view: 32 hexadecimal digits, or 16 raw bytes."""

    TEXT = "text"
    BYTES = "bytes"


class Workspace(Section):
    """How workspaces behave."""

    limits: Limits = Limits()
    paste_in: bool = True
    #: minutes without a connected browser after which a workspace is stopped; 0 is never
    idle_minutes: Annotated[int, Field(ge=0)] = 120
    #: seconds in which a workspace must be up
    start_timeout: Annotated[int, Field(ge=5)] = 120
    pseudonyms: PseudonymForm = PseudonymForm.TEXT


class Probe(Section):
    """What the isolation probe knocks at from a sandbox, besides the addresses of the control plane.

    The defaults are addresses reserved for documentation (RFC 5737, RFC 3849), multicast and the clouds' metadata
    address: the verdict is the kernel's refusal to send, so nobody outside needs to be there.
    """

    #: ``address:port``, IPv6 in brackets
    tcp: tuple[str, ...] = ("192.0.2.1:443", "169.254.169.254:80", "[2001:db8::1]:443", "[fd00:ec2::254]:80")
    udp: tuple[str, ...] = ("192.0.2.1:443", "224.0.0.251:5353", "255.255.255.255:67", "[2001:db8::1]:443")
    ping: tuple[str, ...] = ("192.0.2.1", "2001:db8::1")
    resolvers: tuple[str, ...] = ("192.0.2.53:53", "[2001:db8::53]:53")
    #: names to resolve as any program does
    names: tuple[str, ...] = ("probe.example.org",)


class TermsOfUse(Section):
    """The terms that everybody accepts before a workspace opens; a new version is accepted anew."""

    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$")] = "1"
    #: language → file with the text; where none is given, the text that Bulle brings
    files: dict[Literal["en", "fr"], Path] = {}


class Quotas(Section):
    """What a project may use in a calendar month (storage: at any time); None is no limit."""

    hours: Annotated[float, Field(ge=0)] | None = None
    cpu_hours: Annotated[float, Field(ge=0)] | None = None
    memory_gb_hours: Annotated[float, Field(ge=0)] | None = None
    storage_gb: Annotated[float, Field(ge=0)] | None = None


class Prices(Section):
    """Prices per unit; a unit without one costs nothing."""

    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "EUR"
    hour: Annotated[Decimal, Field(ge=0)] = Decimal(0)
    cpu_hour: Annotated[Decimal, Field(ge=0)] = Decimal(0)
    memory_gb_hour: Annotated[Decimal, Field(ge=0)] = Decimal(0)
    storage_gb_month: Annotated[Decimal, Field(ge=0)] = Decimal(0)


class Signatures(StrEnum):
    """Whether an approval is signed with the approver's passkey: never, where they have one, or always.

    ``required`` also makes the node agent refuse a grant without the whole chain of signatures.
    """

    OFF = "off"
    OPTIONAL = "optional"
    REQUIRED = "required"


class Policy(Section):
    """The rules of governance that a deployment may set; nothing here can make anybody approve for themselves."""

    terms: TermsOfUse = TermsOfUse()
    #: whether a workspace needs a training in force
    training_required: bool = True
    #: days for which a training counts
    training_days: Annotated[int, Field(ge=1, le=36500)] = 365
    #: days after which a lead must have confirmed a member again, or the membership lapses
    review_days: Annotated[int, Field(ge=1, le=36500)] = 180
    #: days before an end on which people are reminded
    reminder_days: tuple[Annotated[int, Field(ge=1)], ...] = (30, 7)
    #: days after a project's end in which its lead may still ask for a renewal, and after which it closes by itself
    closing_days: Annotated[int, Field(ge=0, le=36500)] = 30
    #: days after a project's closing on which its keys are destroyed
    retention_days: Annotated[int, Field(ge=0, le=36500)] = 3650
    #: actions that two different people must take, such as ``permit.approve``
    two_person: tuple[str, ...] = ()
    signatures: Signatures = Signatures.OFF
    quotas: Quotas = Quotas()
    prices: Prices = Prices()


class Smtp(Section):
    """The mail server that takes notifications."""

    host: str
    port: Annotated[int, Field(ge=1, le=65535)] = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    sender: str
    user: str | None = None
    password_file: Path | None = None

    @model_validator(mode="after")
    def _no_password_in_clear(self) -> Smtp:
        if self.security == "none" and self.host not in LOOPBACK:
            raise ValueError("security: none is for a mail server on this machine only")
        if (self.user is None) != (self.password_file is None):
            raise ValueError("user and password_file go together")
        return self


class Webhook(Section):
    """An address that is told of events; each call is signed (HMAC-SHA-256) with the secret."""

    url: str
    secret_file: Path

    @field_validator("url")
    @classmethod
    def _https_or_loopback(cls, url: str) -> str:
        return _web_address(url, "a webhook")


class Notifications(Section):
    """How people are told. A message names what waits, never anything of the data."""

    smtp: Smtp | None = None
    webhook: Webhook | None = None
    #: day of the week on which leads get their digest (0 is Monday); None: never
    digest_weekday: Annotated[int, Field(ge=0, le=6)] | None = 0

    @property
    def wanted(self) -> bool:
        """Whether there is any way to tell people."""
        return self.smtp is not None or self.webhook is not None

    @property
    def secret_files(self) -> tuple[Path, ...]:
        """The files that whoever sends must read."""
        found = [self.smtp.password_file if self.smtp else None, self.webhook.secret_file if self.webhook else None]
        return tuple(path for path in found if path is not None)


class Metrics(Section):
    """Where Prometheus reads how the deployment does, and the token that it must have."""

    #: host and port: loopback, and no path of the public proxy leads there; on a cluster any address of the pod
    listen: str = "127.0.0.1:9464"
    #: file with the token, owned by user 1015
    token_file: Path

    @field_validator("listen")
    @classmethod
    def _an_address(cls, address: str) -> str:
        host, _, port = address.rpartition(":")
        if not port.isdigit() or not (host == "localhost" or _is_address(host.strip("[]"))):
            raise ValueError(f"{address} is not a port of loopback, such as 127.0.0.1:9464")
        return address

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine, or this pod, can ask."""
        return self.listen.rpartition(":")[0].strip("[]") in LOOPBACK


def _host_and_port(text: str) -> tuple[str, int]:
    """The two halves of ``10.96.0.7:8081``, ``[fd00::7]:8081`` or ``bulle-hub.bulle.svc:8081``.

    Raises:
        ValueError: it is neither an address nor a name, or the port is none.
    """
    wrong = ValueError(f"{text} is not an address and a port, such as 10.96.0.7:8081, or a name and a port")
    host, _, port = text.rpartition(":")
    six = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if six else host
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise wrong
    if _is_address(bare):
        if six != (ip_address(bare).version == 6):
            raise wrong
    elif six or not _HOST.fullmatch(bare):
        raise wrong
    return bare, int(port)


def _hub_place(text: str) -> str:
    _host_and_port(text)
    return text


def _pinned(image: str) -> str:
    if re.fullmatch(r"(?:[a-z0-9][a-z0-9._/:-]*@)?sha256:[0-9a-f]{64}", image) is None:
        raise ValueError(f"{image[:200]} is not named by its content, such as registry.example.org/bulle@sha256:…")
    return image


_Label = Annotated[str, Field(pattern=r"^[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?$")]


class Toleration(Section):
    """Lets workspaces onto nodes with a taint, in the words of Kubernetes."""

    key: str | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class Tier(Section):
    """Where the workspaces of some projects run, when that is elsewhere than the others', and with what devices."""

    #: slugs of its projects; every other project is in no tier
    projects: Annotated[tuple[Slug, ...], Field(min_length=1)]
    #: labels of its nodes, besides ``kubernetes.node_selector``
    node_selector: dict[str, str] = {}
    #: taints that its workspaces tolerate, besides ``kubernetes.tolerations``
    tolerations: tuple[Toleration, ...] = ()
    #: container runtime of its workspaces; None: as for all
    runtime_class: _Label | None = None
    #: devices of each sandbox, as the nodes offer them: ``{"nvidia.com/gpu": 1}``
    devices: dict[
        Annotated[str, Field(pattern=r"^[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?/[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61})$")],
        Annotated[int, Field(ge=1, le=64)],
    ] = {}
    #: what may be in the sandbox's ``/dev`` for them, ``*`` for anything: ``/dev/nvidia*``. No block device ever may
    device_files: tuple[Annotated[str, Field(pattern=r"^/dev/[A-Za-z0-9_*][A-Za-z0-9_*/.-]{0,99}$")], ...] = ()


_Image = Annotated[str, AfterValidator(_pinned)]


class ClusterImages(Section):
    """The images of workspaces on a cluster, each named by its content."""

    gateway: _Image
    sandbox: _Image


class ProjectNamespaces(Section):
    """What the namespace of every project gets besides what makes it Bulle's."""

    #: what its pods may use together, in the words of a ResourceQuota's ``hard``; none: no ResourceQuota
    quota: dict[str, str] = {}
    #: limits of each container, in the words of a LimitRange: ``{"max": {"memory": "8Gi"}}``; none: no LimitRange
    limit_range: dict[Literal["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"], dict[str, str]] = {}
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    #: minutes for which a namespace without a workspace stays
    keep_minutes: Annotated[int, Field(ge=0)] = 60

    @field_validator("labels", "annotations")
    @classmethod
    def _not_ours(cls, given: dict[str, str]) -> dict[str, str]:
        # Stops: a label that makes a namespace look like another deployment's, or like none of ours.
        if ours := [key for key in given if key.startswith("bulle.")]:
            raise ValueError(f"{ours[0]} is Bulle's own to set")
        return given


class Kubernetes(Section):
    """How workspaces run on a cluster."""

    #: full name of the release, with which the names of its objects begin
    name: Annotated[str, Field(pattern=r"^[a-z](?:[-a-z0-9]{0,51}[a-z0-9])?$")] = "bulle"
    #: namespace of the control plane
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?$")] = "bulle"
    #: images of workspaces; None: those that were recorded in the state folder
    images: ClusterImages | None = None
    #: where node agents reach the authority; its server listens on 8443 of all addresses of its pod
    authority: str | None = None
    #: folder with ca.crt, tls.crt and tls.key of whoever reads this: the authority, or a node agent
    tls: Path = Path("/etc/bulle/tls")
    projects: ProjectNamespaces = ProjectNamespaces()
    #: kubelet's folder on the nodes, at the same path in the node agent
    kubelet: Path = Path("/var/lib/kubelet")
    #: a project's namespace is this, '-' and the project's id
    project_prefix: Annotated[str, Field(pattern=r"^[a-z0-9](?:[-a-z0-9]{0,22}[a-z0-9])?$")] = "bulle-project"
    #: addresses (or names, see :func:`resolved`) and ports of the hub, the only ones to which a bridge may connect;
    #: none: TCP to anywhere
    hub: tuple[Annotated[str, AfterValidator(_hub_place)], ...] = ()
    #: container runtime of workspaces (such as Kata's); None: the cluster's own
    runtime_class: _Label | None = None
    priority_class: _Label | None = None
    #: labels of the nodes on which workspaces run
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()
    #: pools of nodes, and devices such as GPUs, for some projects
    tiers: tuple[Tier, ...] = ()
    image_pull_secrets: tuple[_Label, ...] = ()

    @field_validator("tiers")
    @classmethod
    def _one_tier_each(cls, tiers: tuple[Tier, ...]) -> tuple[Tier, ...]:
        named = [project for tier in tiers for project in tier.projects]
        if twice := sorted({each for each in named if named.count(each) > 1}):
            raise ValueError(f"project {twice[0]} is in two tiers")
        return tiers

    def tier_of(self, project: str) -> Tier | None:
        """The tier of the project with this slug; None: it is where all others are."""
        return next((tier for tier in self.tiers if project in tier.projects), None)

    @field_validator("authority")
    @classmethod
    def _https(cls, address: str | None) -> str | None:
        # Loopback in clear would do for a login; for a node agent it never does: its certificate says who it is.
        if address is None:
            return None
        if not address.startswith("https://") or urlsplit(address).path.strip("/"):
            raise ValueError(f"{address} must be https:// and a host, such as https://bulle-authority.bulle.svc:8443")
        return _web_address(address, "authority")

    @property
    def named_hubs(self) -> tuple[str, ...]:
        """Those of ``hub`` that are names still."""
        return tuple(place for place in self.hub if not _is_address(_host_and_port(place)[0]))


class BackupStore(Section):
    """The S3-compatible store that keeps backups; which bucket is said by each command (``s3://bucket/prefix``)."""

    #: address of the store; None: Amazon's in the region
    endpoint: str | None = None
    region: Annotated[str, Field(pattern=r"^[a-z0-9](?:[-a-z0-9]{0,62}[a-z0-9])?$")] = "us-east-1"
    #: certificates (PEM) of which one must have signed the store's; None: those that the web trusts
    ca_file: Path | None = None
    #: file with ``aws_access_key_id`` and ``aws_secret_access_key``
    credentials_file: Path

    @field_validator("endpoint")
    @classmethod
    def _https_or_loopback(cls, address: str | None) -> str | None:
        return None if address is None else _web_address(address, "the store")


class Settings(Section):
    """Everything an administrator decides about one deployment."""

    deployment: Slug
    #: folder of everything that persists
    state: Path
    #: address at which people reach it, without a path
    public_url: str = "http://127.0.0.1:8000"
    #: where the proxy listens: host and port
    listen: str = "127.0.0.1:8000"
    #: first of four consecutive loopback ports for parts of the control plane
    internal_port: Annotated[int, Field(ge=1024, le=65530)] = 8081
    #: subnet of the network on which the hub's proxy reaches the bridges
    bridge_subnet: str = "172.31.250.0/24"
    tls: Tls | None = None
    oidc: Oidc
    custodian: Annotated[FileCustodian | Pkcs11Custodian, Field(discriminator="kind")] = FileCustodian()
    workspace: Workspace = Workspace()
    probe: Probe = Probe()
    governance: Policy = Policy()
    notifications: Notifications = Notifications()
    #: PostgreSQL that keeps governance: ``postgresql://user@/name``, on a cluster ``postgresql://user@host/name``;
    #: None: SQLite in the state folder
    database: str | None = None
    #: certificates (PEM) of which one must have signed that of a database with a host
    database_ca_file: Path | None = None
    #: file with its password, read at each connection
    database_password_file: Path | None = None
    #: folder of its unix socket, shown to the authority, which has no network
    database_socket: Path | None = None
    #: how workspaces run on a cluster; None: on this machine
    kubernetes: Kubernetes | None = None
    #: seconds between two comparisons of what runs with what is allowed
    reconcile_seconds: Annotated[float, Field(gt=0, le=5)] = 2.0
    #: None: nothing is told
    metrics: Metrics | None = None
    #: where backups may go besides folders
    backup: BackupStore | None = None
    #: form of the parts' logs: lines for people, or a JSON object a line
    logs: Literal["text", "json"] = "text"
    #: languages offered, the first is the default
    languages: tuple[Literal["en", "fr"], ...] = ("en", "fr")

    @field_validator("public_url")
    @classmethod
    def _public_address(cls, address: str) -> str:
        if urlsplit(address).path.strip("/"):
            raise ValueError("public_url has no path")
        return _web_address(address, "public_url")

    @field_validator("state")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        if not path.is_absolute():
            raise ValueError("must be an absolute path")
        return path

    @field_validator("database")
    @classmethod
    def _postgresql_on_a_socket(cls, address: str | None) -> str | None:
        return None if address is None else _database_address(address)

    @model_validator(mode="after")
    def _database_is_whole(self) -> Settings:
        if self.database is None:
            if (self.database_socket, self.database_password_file, self.database_ca_file) != (None, None, None):
                raise ValueError("database_socket, database_password_file and database_ca_file go with database")
        elif urlsplit(self.database).hostname:
            # Stops: a store, and its password, on somebody's network in clear or with a server that nobody knows.
            # On one machine whoever broke into the authority has no way out. Shown by tests/unit/test_config.py.
            if self.kubernetes is None:
                raise ValueError(f"database: no host: {_NO_NETWORK}")
            if self.database_ca_file is None or not self.database_ca_file.is_absolute():
                raise ValueError("database with a host needs database_ca_file (absolute): who signs its certificate")
            if self.database_socket is not None:
                raise ValueError("database has a host, and database_socket is for one without")
        elif self.database_ca_file is not None:
            raise ValueError("database_ca_file is for a database with a host")
        elif self.database_socket is None or not self.database_socket.is_absolute():
            raise ValueError("database needs database_socket: the (absolute) folder of the server's unix socket")
        return self

    @model_validator(mode="after")
    def _tls_away_from_loopback(self) -> Settings:
        host = self.listen.rsplit(":", 1)[0].strip("[]")
        # On a cluster the ingress, which speaks for the public address, may end TLS.
        if self.tls is None and host not in LOOPBACK and self.kubernetes is None:
            raise ValueError(f"listen: {self.listen} is not loopback, so tls must be set")
        # Cookies are marked Secure by the public address: where TLS is served it must say so.
        if self.tls is not None and not self.public_url.startswith("https://"):
            raise ValueError(f"public_url: {self.public_url} must be https:// where tls is set")
        return self

    @model_validator(mode="after")
    def _figures_on_loopback(self) -> Settings:
        # Elsewhere a port of the machine is a port of its network; a pod's is behind its NetworkPolicy and the token.
        if self.metrics is not None and not self.metrics.on_loopback and self.kubernetes is None:
            raise ValueError(f"metrics.listen: {self.metrics.listen} is not a port of loopback, such as 127.0.0.1:9464")
        return self

    @property
    def layout(self) -> Layout:
        """Where each thing lies below the state folder."""
        return Layout(self.state)

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the governance store; it holds no password."""
        if self.database is None:
            return f"sqlite:///{self.layout.database}"
        if self.database_ca_file is not None:
            options = {"sslmode": "verify-full", "sslrootcert": str(self.database_ca_file), "gssencmode": "disable"}
            return f"{self.database}?{urlencode(options)}"
        return f"{self.database}?{urlencode({'host': str(self.database_socket)})}"


class Layout:
    """Paths below the state folder. Persistent ones hold ciphertext, or no data at all; ``run`` is in RAM."""

    def __init__(self, state: Path) -> None:
        self.state = state
        #: encrypted Parquet and manifests, one folder a dataset
        self.datasets = state / "datasets"
        #: ciphertext of homes and project folders
        self.folders = state / "folders"
        #: wrapped data keys
        self.keyring = state / "keyring"
        #: key-encryption key of the embedded custodian: mounted into the node agent only
        self.custodian = state / "custodian"
        self.audit = state / "audit"
        self.database = state / "authority" / "governance.sqlite"
        #: private signing keys (grants, audit): mounted into the authority only
        self.authority = state / "authority"
        #: public halves, readable to all parts
        self.public = state / "public"
        self.hub = state / "hub"
        #: secrets of single parts, one folder a part
        self.secrets = state / "secrets"
        #: container images to use, by digest
        self.images = state / "public" / "images.json"
        #: mounts handed from the node agent to workspaces (shared propagation; tmpfs and FUSE below it)
        self.mounts = state / "mounts"
        #: unix sockets between parts, a folder a socket
        self.sockets = state / "sockets"

    def socket(self, name: Literal["hub", "portal", "node", "cluster", "door", "csi"]) -> Path:
        """The socket of the authority for hub, portal, node or the cluster's door; of the door; of the CSI service."""
        return self.sockets / name / f"{name}.sock"

    def metrics_socket(self, part: Literal["authority", "node", "portal"]) -> Path:
        """The socket on which a part tells what it measures."""
        return self.sockets / f"metrics-{part}" / "metrics.sock"


def load_settings(path: Path) -> Settings:
    """Read and validate a settings file.

    Raises:
        SettingsError: the file is absent, not YAML, or a key is unknown, missing or wrong; all faults are named.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}", hint="name the settings file with --settings") from error
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise SettingsError(f"{path} must be a mapping of settings")
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc']) or 'settings'}: {fault['msg']}" for fault in error.errors()
        )
        raise SettingsError(f"{path}: {faults}") from error


Lookup = Callable[[str], Iterable[str]]


def _look_up(name: str) -> list[str]:
    return [str(found[4][0]) for found in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]


def resolved(settings: Settings, look_up: Lookup = _look_up) -> Settings:
    """``settings`` with addresses in place of names in ``kubernetes.hub``, in an order that depends on nothing else.

    Whoever makes pods and whoever compares them calls this at its start, and both come to the same addresses. When a
    name comes to mean another one, those who asked before and after differ, and the pods of one are refused by the
    other: nothing starts until both have been started anew.

    Raises:
        SettingsError: a name has no address, or one that no other pod can have.
    """
    cluster = settings.kubernetes
    if cluster is None or not cluster.named_hubs:
        return settings
    places: list[str] = []
    for place in cluster.hub:
        host, port = _host_and_port(place)
        found = [ip_address(host)] if _is_address(host) else _addresses_of(host, look_up)
        places += [f"[{each}]:{port}" if each.version == 6 else f"{each}:{port}" for each in found]
    told = cluster.model_copy(update={"hub": tuple(dict.fromkeys(places))})
    return settings.model_copy(update={"kubernetes": told})


def resolved_in_time(settings: Settings, seconds: float = 60.0, look_up: Lookup = _look_up) -> Settings:
    """:func:`resolved`, asked again for ``seconds``: the Service and the cluster's resolver may be on their way up too.

    Raises:
        SettingsError: as there, at the end of that time.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            return resolved(settings, look_up)
        except SettingsError:
            if time.monotonic() >= until:
                raise
        time.sleep(0.5)


def _addresses_of(name: str, look_up: Lookup) -> list[IPv4Address | IPv6Address]:
    hint = "see that the Service exists and that this pod may ask the cluster's resolver"
    try:
        found = {ip_address(text) for text in look_up(name)}
    except (OSError, ValueError) as error:
        raise SettingsError(f"kubernetes.hub: {name} has no address: {error}", hint=hint) from error
    if not found:
        raise SettingsError(f"kubernetes.hub: {name} has no address", hint=hint)
    # Stops: an answer that lets bridges, and the workspace beside them, at the node or a cloud's metadata.
    for each in found:
        if each.is_loopback or each.is_unspecified or each.is_multicast or each.is_link_local:
            raise SettingsError(f"kubernetes.hub: {name} is {each}, which is no address of a Service", hint=hint)
    return sorted(found, key=lambda each: (each.version, int(each)))

"""Judges a report of the isolation probe. Pure; the probe itself is ``probe.py``, which runs in the
sandbox."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.config import Settings
from orchestrator.errors import IsolationError
from orchestrator.workspaces import probe

Targets = dict[str, list[str]]
TELL = "nothing was mounted; tell the administrator"
#: bytes of a report at most; a longer one is refused
MOST = 1 << 20


@dataclass(frozen=True)
class Finding:
    """One attempt that was not blocked, or did not take place as planned."""

    attempt: str
    target: str
    detail: str

    def __str__(self) -> str:
        return f"{self.attempt} {self.target}: {self.detail}"


def targets_of(settings: Settings, project: str) -> Targets:
    """What the probe knocks at: what the settings name, and the addresses of this deployment's control plane; and the
    devices that the tier of the project with this slug has, which are no way out."""
    chosen = settings.probe
    if settings.kubernetes is not None:
        tier = settings.kubernetes.tier_of(project)
        return {
            "tcp": _once([*chosen.tcp, *settings.kubernetes.hub]),
            "udp": _once([*chosen.udp, *settings.kubernetes.hub]),
            "ping": _once(list(chosen.ping)),
            "resolvers": _once(list(chosen.resolvers)),
            "names": _once(list(chosen.names)),
            "devices": _once(list(tier.device_files)) if tier is not None else [],
        }
    gateway = str(ipaddress.ip_network(settings.bridge_subnet)[1])
    ports = range(settings.internal_port, settings.internal_port + 4)
    control_plane = [f"{gateway}:{port}" for port in ports]
    host, _, port = settings.listen.rpartition(":")
    if host not in ("127.0.0.1", "[::1]", "localhost", "0.0.0.0", "[::]"):  # noqa: S104 - compared, not bound
        control_plane.append(f"{host}:{port}")
    return {
        "tcp": _once([*chosen.tcp, *control_plane]),
        "udp": _once([*chosen.udp, f"{gateway}:{settings.internal_port}"]),
        "ping": _once([*chosen.ping, gateway]),
        "resolvers": _once([*chosen.resolvers, f"{gateway}:53"]),
        "names": _once(list(chosen.names)),
        "devices": [],
    }


def _once(values: list[str]) -> list[str]:
    return list(dict.fromkeys(values))


def parse_report(status: int, output: bytes) -> list[dict[str, str]]:
    """The entries of a report.

    Raises:
        IsolationError: the probe failed, or what it printed is not a report. No report is no proof.
    """
    hint = "nothing was mounted; the sandbox image must hold the probe of this version"
    if status != 0:
        raise IsolationError(f"the isolation probe ended with status {status}", hint=hint)
    try:
        rows: Any = json.loads(output)
    except (ValueError, RecursionError) as error:
        raise IsolationError(f"the isolation probe's answer is not JSON: {error}", hint=hint) from error
    if not isinstance(rows, list) or not all(
        isinstance(row, dict)
        and row.keys() == {"attempt", "target", "result", "detail"}
        and all(isinstance(value, str) for value in row.values())
        for row in rows
    ):
        raise IsolationError("the isolation probe's answer is not a list of attempts", hint=hint)
    return rows


def evaluate(report: list[dict[str, str]], targets: Targets, *, locked: bool = False) -> list[Finding]:
    """What is wrong with the isolation that ``report`` describes; empty when every planned attempt was
    blocked. ``locked`` is the plan of a pod, whose network is there and locked.

    An attempt that is missing, doubled or not in the plan is a finding too: a probe that did not try proves
    nothing.
    """
    planned = probe.plan(targets, locked)
    findings = []
    seen: dict[tuple[str, str], int] = {}
    for row in report:
        pair = (row["attempt"], row["target"])
        seen[pair] = seen.get(pair, 0) + 1
        if row["result"] != "blocked":
            findings.append(Finding(*pair, row["detail"]))
    for pair in planned:
        if seen.get(pair, 0) != 1:
            findings.append(Finding(*pair, f"tried {seen.get(pair, 0)} times instead of once"))
    unknown = sorted(seen.keys() - set(planned))
    findings += [Finding(*pair, "is no attempt of this version") for pair in unknown]
    return findings


def refusal(findings: Sequence[Finding | str], most: int | None = None) -> IsolationError:
    """The error that says what was open, the first findings by name, in ``most`` characters."""
    named = "; ".join(str(finding) for finding in findings[:5])[:most]
    more = f"; and {len(findings) - 5} more" if len(findings) > 5 else ""
    return IsolationError(f"the sandbox is not isolated: {named}{more}", hint=TELL)

"""What the network lock sets, as text; what it does is shown on real networks elsewhere."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.workspaces.gateway import network_lock
from orchestrator.workspaces.gateway.network_lock import (
    LockError,
    hub_address,
    main,
    packet_filter,
    routing_commands,
    routing_rules,
)


def chain(name: str, hubs: tuple[str, ...] = ()) -> list[str]:
    text = packet_filter(1001, 8888, hubs)
    return [line.strip() for line in text.split(f"chain {name} {{")[1].split("}\n")[0].splitlines() if line.strip()]


@pytest.mark.parametrize("name", ["input", "forward", "output"])
def test_every_chain_drops_what_it_does_not_name(name: str) -> None:
    assert chain(name)[0] == f"type filter hook {name} priority filter; policy drop;"


def test_the_bridge_begins_tcp_to_the_hub_only() -> None:
    begun = [row for row in chain("output", ("10.96.0.7:8081", "[fd00::7]:8081")) if "ct direction original" in row]
    assert begun == [
        "meta skuid 1001 ct direction original ip daddr 10.96.0.7 tcp dport 8081 ct mark set 0x62756c6c accept",
        "meta skuid 1001 ct direction original ip6 daddr fd00::7 tcp dport 8081 ct mark set 0x62756c6c accept",
    ]
    (anywhere,) = [row for row in chain("output") if "ct direction original" in row]
    assert "meta l4proto tcp" in anywhere, "without an address to every one, but TCP only"


def test_a_mark_counts_only_after_whoever_owns_a_socket_was_judged() -> None:
    rows = chain("output")
    mark = next(at for at, row in enumerate(rows) if row.startswith("ct mark"))
    assert rows.index("meta skuid != 1001 drop") < mark and rows.index("meta skuid 1001 drop") < mark


def test_everybody_but_the_bridge_is_prohibited() -> None:
    rows = routing_rules(1001, 8888)
    numbers = [(row["uid_start"], row["uid_end"]) for row in rows if row.get("action") == "prohibit"]
    assert numbers == [(1, 1000), (1002, 4294967294)] * 2
    assert [row["priority"] for row in rows] == sorted(row["priority"] for row in rows)
    assert routing_commands(rows).splitlines()[:3] == [
        "rule add pref 10 ipproto tcp dport 8888 uidrange 1-1000 prohibit",
        "rule add pref 11 ipproto tcp dport 8888 uidrange 1002-4294967294 prohibit",
        "rule add pref 20 lookup local",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hub:8081",
        "10.96.0.7",
        "10.96.0.7:",
        "10.96.0.7:0",
        "10.96.0.7:65536",
        "10.96.0.7:²",
        "fd00::7:8081",
        "[1.2.3.4]:1",
    ],
)
def test_what_is_no_address_never_enters_the_filter(text: str) -> None:
    with pytest.raises(LockError, match="address"):
        hub_address(text)
    assert main(["1001", "8888", text]) == 1


@pytest.mark.parametrize("arguments", [[], ["1001"], ["0", "8888"], ["-1", "8888"], ["1001", "x"], ["1001 x", "8888"]])
def test_a_call_that_says_too_little_is_refused(arguments: list[str]) -> None:
    assert main(arguments) == 2


# -- it ends well only when the kernel says what was set ----------------------------------------------------
@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A kernel that keeps what it is told, as text."""
    said: dict[str, Any] = {"filter": "", "rules": [], "refused": 0}

    def run(*command: str, given: str = "") -> str:
        if command[0] == "nft" and given:
            said["filter"] = said.get("instead") or given.removeprefix("flush ruleset\n")
        if "-batch" in command:
            said["rules"] = said.get("others") or routing_rules(1001, 8888)
        return said["filter"] if command[0] == "nft" else json.dumps(said["rules"])

    def refused(_family: int) -> None:
        said["refused"] += 1

    monkeypatch.setattr(network_lock, "_run", run)
    monkeypatch.setattr(network_lock, "refused", refused)
    monkeypatch.setattr(network_lock, "families", lambda: ["-4", "-6"])
    return said


def test_it_asks_the_kernel_and_tries_both_families(kernel: dict[str, Any]) -> None:
    assert main(["1001", "8888"]) == 0
    assert kernel["refused"] == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("instead", packet_filter(1001, 8888, ()).replace("policy drop", "policy accept")),
        ("instead", packet_filter(1001, 8888, ()) + "\ntable ip another {\n}"),
        ("others", routing_rules(1001, 8888)[1:]),
        ("others", [*routing_rules(1001, 8888), {"priority": 32767, "src": "all", "table": "default"}]),
    ],
)
def test_a_kernel_that_says_anything_else_is_an_unlocked_network(kernel: dict[str, Any], name: str, value: Any) -> None:
    kernel[name] = value
    assert main(["1001", "8888"]) == 1

"""The bridges' network is taken only as closed as it would be made."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import NodeError
from orchestrator.machine.deployment import ICC, _check_network

SUBNET = "172.31.250.0/24"


def network(**changes: Any) -> dict[str, Any]:
    """What the engine says of a network that is as it must be."""
    return {"Internal": True, "Options": {ICC: "false"}, "IPAM": {"Config": [{"Subnet": SUBNET}]}, **changes}


def test_the_closed_one_is_taken() -> None:
    _check_network(network(), "n", SUBNET)


@pytest.mark.parametrize(
    "changes",
    [
        {"Internal": False},
        {"Options": {}},
        {"Options": None},
        {"Options": {ICC: "true"}},
        {"IPAM": {"Config": [{"Subnet": "10.0.0.0/8"}]}},
        {"IPAM": {"Config": [{"Subnet": SUBNET}, {"Subnet": "10.0.0.0/8"}]}},
        {"IPAM": {}},
    ],
)
def test_an_open_one_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(NodeError, match="not as it must be"):
        _check_network(network(**changes), "n", SUBNET)

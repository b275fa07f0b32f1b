"""Addresses of the control plane's parts, derived from a few settings: the first port, and the bridges' subnet or, on a
cluster, the hub's Service.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from orchestrator.config import Settings


@dataclass(frozen=True)
class Addresses:
    """Where the parts of one deployment listen."""

    #: where parts of the control plane reach the hub: this machine's address on the bridges' network, where alone the
    #: hub listens; on a cluster, loopback of the one pod in which they all are
    hub_host: str
    #: the hub's Service on a cluster, ``address:port``; None where there is none, or where its name is to be resolved
    hub_service: str | None
    on_cluster: bool
    hub_port: int
    proxy_api_port: int
    portal_port: int
    demo_idp_port: int
    #: where people come in: host and port
    public_host: str
    public_port: int

    @property
    def hub_url(self) -> str:
        """The hub, for the proxy, the portal and, on one machine, the bridges."""
        return f"http://{self.hub_host}:{self.hub_port}"

    @property
    def hub_bind_url(self) -> str:
        """Where the hub listens: on a cluster at all addresses of its pod, whose own is known to nobody beforehand."""
        return f"http://:{self.hub_port}" if self.on_cluster else self.hub_url

    @property
    def hub_url_of_bridges(self) -> str | None:
        """The hub, for the bridges, which can ask no resolver; None where it is not known."""
        if not self.on_cluster:
            return self.hub_url
        return None if self.hub_service is None else f"http://{self.hub_service}"

    @property
    def proxy_api_url(self) -> str:
        """The proxy's own interface: loopback only, and it asks for a token."""
        return f"http://127.0.0.1:{self.proxy_api_port}"

    @property
    def portal_url(self) -> str:
        """The portal, for the proxy."""
        return f"http://127.0.0.1:{self.portal_port}"


def addresses(settings: Settings) -> Addresses:
    """The addresses that ``settings`` imply."""
    host, _, port = settings.listen.rpartition(":")
    first = settings.internal_port
    cluster = settings.kubernetes
    service = None if cluster is None or not cluster.hub or cluster.named_hubs else cluster.hub[0]
    return Addresses(
        hub_host=str(ipaddress.ip_network(settings.bridge_subnet)[1]) if cluster is None else "127.0.0.1",
        hub_service=service,
        on_cluster=cluster is not None,
        hub_port=first,
        proxy_api_port=first + 1,
        portal_port=first + 2,
        demo_idp_port=first + 3,
        public_host=host.strip("[]"),
        public_port=int(port),
    )

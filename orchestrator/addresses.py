"""Addresses of the control plane's parts, all derived from two settings: the bridges' subnet and the first
port.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from orchestrator.config import Settings


@dataclass(frozen=True)
class Addresses:
    """Where the parts of one deployment listen."""

    #: address of this machine on the bridges' network; the hub listens here and nowhere else
    gateway: str
    hub_port: int
    proxy_api_port: int
    portal_port: int
    demo_idp_port: int
    #: where people come in: host and port
    public_host: str
    public_port: int

    @property
    def hub_url(self) -> str:
        """The hub, for the proxy, the portal and the bridges."""
        return f"http://{self.gateway}:{self.hub_port}"

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
    return Addresses(
        gateway=str(ipaddress.ip_network(settings.bridge_subnet)[1]),
        hub_port=first,
        proxy_api_port=first + 1,
        portal_port=first + 2,
        demo_idp_port=first + 3,
        public_host=host.strip("[]"),
        public_port=int(port),
    )

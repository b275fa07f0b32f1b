"""Runs the portal: behind the proxy, on loopback."""

from __future__ import annotations

import uvicorn

from orchestrator import logs
from orchestrator.addresses import addresses
from orchestrator.governance.client import AsyncAuthorityClient
from orchestrator.metrics.exposed import expose
from orchestrator.portal.application import Portal
from orchestrator.portal.hub import Hub
from orchestrator.process import own_settings
from orchestrator.secretfile import read_secret


def main() -> None:
    """Serve until stopped."""
    settings = own_settings()
    logs.configure("portal", settings.logs)
    expose("portal", settings)
    where = addresses(settings)
    hub = Hub(where.hub_url, read_secret(settings.layout.secrets / "portal" / "api-token"))
    portal = Portal(settings, hub, AsyncAuthorityClient(settings.layout.socket("portal")))
    uvicorn.run(
        portal.application(),
        host="127.0.0.1",
        port=where.portal_port,
        # Nothing here rests on a client's address, so what a proxy says of it is not believed.
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        log_level="warning",
        timeout_graceful_shutdown=2,
    )


if __name__ == "__main__":
    main()

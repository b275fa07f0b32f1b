"""The proxy in front of the hub: npm's configurable-http-proxy, with everything it is told in one place."""

from __future__ import annotations

import os

from orchestrator.addresses import addresses
from orchestrator.config import Settings
from orchestrator.process import own_settings
from orchestrator.secretfile import read_secret

PROGRAM = "/usr/lib/bulle/node_modules/configurable-http-proxy/bin/configurable-http-proxy"


def arguments(settings: Settings, program: str = PROGRAM) -> list[str]:
    """The proxy's command line for ``settings``. It holds no secret: the token goes by the process's own
    environment.

    X-Forwarded headers are added, and nothing trusts them for more than the scheme of a link: the hub knows
    its public address from the settings, and no decision rests on a client's address.
    """
    where = addresses(settings)
    words = [
        "node",
        program,
        f"--ip={where.public_host}",
        f"--port={where.public_port}",
        # Only this machine's processes that hold the token may add a route.
        "--api-ip=127.0.0.1",
        f"--api-port={where.proxy_api_port}",
        f"--default-target={where.hub_url}",
        f"--error-target={where.hub_url}/hub/error",
        "--log-level=warn",
    ]
    if settings.tls is not None:
        words += [f"--ssl-cert={settings.tls.certificate_file}", f"--ssl-key={settings.tls.key_file}"]
    return words


def main() -> None:
    """Become the proxy."""
    settings = own_settings()
    token = read_secret(settings.layout.secrets / "proxy" / "proxy-token")
    program = os.environ.get("BULLE_PROXY_PROGRAM", PROGRAM)
    # The proxy takes its token from nowhere else. This environment can be read by its own user and root
    # alone.
    os.execvpe("node", arguments(settings, program), {**os.environ, "CONFIGPROXY_AUTH_TOKEN": token})  # noqa: S606

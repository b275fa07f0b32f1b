"""What the demo's OpenID provider is told: derived from the settings of the deployment that it serves."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from orchestrator.config import Settings
from orchestrator.errors import SettingsError
from orchestrator.secretfile import read_secret


def configuration(settings: Settings) -> str:
    """JSON for the demo's provider, with the client secret and where the accounts are: in ``secrets/demo-idp``.

    ``accounts.json`` maps a name to ``{"password", "name", "email", "groups"}`` and, where a second factor is to be
    asked for, ``"totp"`` (a base32 secret, RFC 6238). The provider reads it anew at each question.

    Raises:
        SettingsError: the issuer is not on loopback: this provider is for trials, and none but this machine
            may see it.
    """
    issuer = urlsplit(settings.oidc.issuer)
    if issuer.scheme != "http" or issuer.hostname not in ("127.0.0.1", "localhost") or issuer.port is None:
        raise SettingsError(f"the demo's provider needs a loopback issuer with a port, not {settings.oidc.issuer}")
    own = settings.layout.secrets / "demo-idp"
    accounts = own / "accounts.json"
    json.loads(read_secret(accounts))  # refused now where the provider could not read it, or everybody can
    return json.dumps(
        {
            "issuer": settings.oidc.issuer,
            "host": "127.0.0.1",
            "port": issuer.port,
            "client_id": settings.oidc.client_id,
            "client_secret": read_secret(own / "client-secret"),
            "public_url": settings.public_url.rstrip("/"),
            "accounts_file": str(accounts),
        }
    )

"""JupyterHub's configuration for one deployment: everything set in one place, from the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator import pages
from orchestrator.addresses import addresses
from orchestrator.config import Settings
from orchestrator.errors import SettingsError
from orchestrator.hub.authenticator import BulleAuthenticator
from orchestrator.hub.spawner import BulleSpawner
from orchestrator.hub.words import page_words
from orchestrator.secretfile import read_secret

PORTAL = "portal"
PORTAL_PREFIX = f"/services/{PORTAL}/"

#: What anybody may do with their own session, and all that the portal may do for them: see, start and stop
#: their own workspaces. No tokens of their own making, no sharing, no groups, nobody else's.
OWN_SERVERS = ["read:servers!user", "start:servers!user", "delete:servers!user"]
PORTAL_SCOPES = [f"access:services!service={PORTAL}", *OWN_SERVERS]
#: ... besides those to say who they are, and (a bridge, for them) that a workspace is in use.
USER_SCOPES = [
    *PORTAL_SCOPES,
    "access:servers!user",
    "read:users:name!user",
    "read:users:groups!user",
    "users:activity!user",
]

#: Nothing from elsewhere, no script or style in the page itself, no frame around it. An injected value stays
#: text.
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
#: seconds after which a proxy that was started anew knows every way again
PROXY_LOOK_SECONDS = 5
#: days after which a login ends: within one working day
LOGIN_DAYS = 0.5


def configure(c: Any, settings: Settings) -> None:
    """Set JupyterHub's configuration object ``c`` for ``settings``.

    Raises:
        SettingsError: a secret is absent or open to everybody, or ``kubernetes.hub`` is not resolved.
    """
    secrets = settings.layout.secrets / "hub"
    _addresses(c, settings)
    _storage(c, settings, secrets)
    _login(c, settings)
    _workspaces(c, settings)
    _rights(c, settings, secrets)
    _pages(c, settings)
    _watching(c, settings, secrets)


def _addresses(c: Any, settings: Settings) -> None:
    where = addresses(settings)
    c.JupyterHub.bind_url = settings.public_url
    c.JupyterHub.public_url = settings.public_url
    # The bridges' network is the only place besides loopback from which the hub may be asked.
    c.JupyterHub.hub_bind_url = where.hub_bind_url
    c.JupyterHub.hub_connect_url = where.hub_url
    # Behind the proxy only. The scheme that it reports decides nothing but the look of links and the cookie's
    # flag, which is set below from the settings.
    c.JupyterHub.trusted_downstream_ips = ["127.0.0.1", where.hub_host]
    if where.on_cluster:
        if where.hub_url_of_bridges is None:
            raise SettingsError(
                "kubernetes.hub: names no address of the hub's Service, so that no bridge finds the hub"
            )
        c.BulleSpawner.hub_connect_url = where.hub_url_of_bridges
        # There it listens on the network of all pods.
        c.BulleHub.others_are_bridges = True
    c.ConfigurableHTTPProxy.should_start = False
    c.ConfigurableHTTPProxy.api_url = where.proxy_api_url
    c.ConfigurableHTTPProxy.auth_token = read_secret(settings.layout.secrets / "hub" / "proxy-token")
    # Restarting the hub or the proxy must not end anybody's work.
    c.JupyterHub.cleanup_servers = False
    c.JupyterHub.cleanup_proxy = False
    # A proxy that was started anew knows no way to portal and desktops. The hub looks for that when it asks for last
    # activity, by default every five minutes, for which nobody would get to their work.
    c.JupyterHub.last_activity_interval = PROXY_LOOK_SECONDS


def _storage(c: Any, settings: Settings, secrets: Path) -> None:
    c.JupyterHub.db_url = f"sqlite:///{settings.layout.hub / 'hub.sqlite'}"
    c.JupyterHub.cookie_secret = bytes.fromhex(read_secret(secrets / "cookie-secret"))
    c.CryptKeeper.keys = [bytes.fromhex(read_secret(secrets / "crypt-key"))]
    c.JupyterHub.cookie_max_age_days = LOGIN_DAYS
    c.JupyterHub.oauth_token_expires_in = int(LOGIN_DAYS * 86400)


def _login(c: Any, settings: Settings) -> None:
    c.JupyterHub.authenticator_class = BulleAuthenticator
    login = c.BulleAuthenticator
    login.oidc = settings.oidc
    login.authority_socket = str(settings.layout.socket("hub"))
    login.client_id = settings.oidc.client_id
    login.client_secret = read_secret(settings.oidc.client_secret_file)
    login.scope = list(settings.oidc.scopes)
    login.oauth_callback_url = f"{settings.public_url.rstrip('/')}/hub/oauth_callback"
    login.enable_pkce = True
    login.enable_auth_state = True
    login.auto_login = False
    # A start asks the provider again; between starts the authenticator's own watch does.
    login.refresh_pre_spawn = settings.oidc.refresh_seconds > 0
    login.auth_refresh_age = settings.oidc.refresh_seconds
    login.auth_refresh_strict = True
    # Anybody whom the provider knows may log in and sees nothing: data is governance's to allow.
    login.allow_all = True
    # No one is an administrator of the hub, so nobody's session can be used to enter somebody else's
    # workspace.
    login.admin_users = set()
    c.JupyterHub.admin_access = False


def _workspaces(c: Any, settings: Settings) -> None:
    c.JupyterHub.spawner_class = BulleSpawner
    spawner = c.BulleSpawner
    spawner.authority_socket = str(settings.layout.socket("hub"))
    spawner.door_socket = str(settings.layout.socket("door"))
    spawner.start_timeout = settings.workspace.start_timeout
    spawner.http_timeout = 30
    spawner.poll_interval = 3
    spawner.consecutive_failure_limit = 0
    # A bridge's token is good for this one server and for saying that it is in use.
    spawner.server_token_scopes = ["users:activity!user", "access:servers!server"]
    spawner.oauth_client_allowed_scopes = []
    c.JupyterHub.allow_named_servers = True
    c.JupyterHub.named_server_limit_per_user = 100
    c.JupyterHub.concurrent_spawn_limit = 8
    c.JupyterHub.redirect_to_server = False
    c.JupyterHub.implicit_spawn_seconds = 0


def _rights(c: Any, settings: Settings, secrets: Path) -> None:
    c.JupyterHub.load_roles = [
        {"name": "user", "description": "See, start and stop one's own workspaces", "scopes": USER_SCOPES},
    ]
    c.JupyterHub.services = [
        {
            "name": PORTAL,
            "url": addresses(settings).portal_url,
            "api_token": read_secret(secrets / "portal-token"),
            "oauth_client_id": f"service-{PORTAL}",
            "oauth_redirect_uri": f"{PORTAL_PREFIX}oauth_callback",
            "oauth_client_allowed_scopes": OWN_SERVERS,
            # It is a part of the product: people are not asked to agree to the page that they are on.
            "oauth_no_confirm": True,
            "display": False,
        }
    ]


def _watching(c: Any, settings: Settings, secrets: Path) -> None:
    # Stops: somebody who reads how much is worked from /hub/metrics, which is on the public address: nobody holds
    # the scope that it needs but a service, whose token two parts have. Shown by tests/unit/hub/test_configuration.py.
    c.JupyterHub.authenticate_prometheus = True
    if settings.metrics is not None:
        c.JupyterHub.services = [
            *c.JupyterHub.services,
            {"name": "metrics", "api_token": read_secret(secrets / "metrics-token"), "display": False},
        ]
        c.JupyterHub.load_roles = [
            *c.JupyterHub.load_roles,
            {
                "name": "metrics",
                "description": "Read how the hub does, and nothing else",
                "scopes": ["read:metrics"],
                "services": ["metrics"],
            },
        ]
    c.JupyterHub.logging_config = {
        "formatters": {"console": {"()": "orchestrator.logs.formatter", "part": "hub", "form": settings.logs}}
    }


def _pages(c: Any, settings: Settings) -> None:
    secure = settings.public_url.startswith("https://")
    c.JupyterHub.default_url = PORTAL_PREFIX
    # Our pages only: of JupyterHub's own none is served, nor a script of theirs.
    c.JupyterHub.data_files_path = str(pages.FOLDER)
    c.JupyterHub.template_paths = [str(Path(__file__).parent / "templates"), str(pages.FOLDER / "templates")]
    c.JupyterHub.logo_file = str(pages.FOLDER / "static" / "logo.svg")
    c.JupyterHub.template_vars = page_words(settings)
    c.JupyterHub.tornado_settings = {
        "headers": HEADERS,
        # A cookie never travels in clear where TLS is served, is never sent along from other sites, nor read
        # by scripts.
        "cookie_options": {"httponly": True, "samesite": "Lax", "secure": secure},
        "xsrf_cookie_kwargs": {"samesite": "Lax", "secure": secure},
        # The answer to a request for a start says how it failed, if it does so soon; the portal need not wait for it.
        "slow_spawn_timeout": 10,
    }

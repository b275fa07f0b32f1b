"""The hub's configuration as a value: what it opens, what it keeps shut, where its secrets come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from traitlets.config import Config

from orchestrator.config import Settings
from orchestrator.errors import SettingsError
from orchestrator.hub import demo_idp, proxy
from orchestrator.hub.configuration import OWN_SERVERS, USER_SCOPES, configure
from orchestrator.secretfile import read_secret

SECRETS = {
    "hub/cookie-secret": "11" * 32,
    "hub/crypt-key": "22" * 32,
    "hub/proxy-token": "33" * 32,
    "hub/portal-token": "44" * 32,
    "hub/client-secret": "55" * 32,
    "demo-idp/client-secret": "55" * 32,
    "demo-idp/accounts.json": '{"lead": {"password": "a password"}}',
}


def settings(folder: Path, **change: Any) -> Settings:
    for name, text in SECRETS.items():
        path = folder / "secrets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)
    return Settings.model_validate(
        {
            "deployment": "clinic",
            "state": str(folder),
            "public_url": "http://127.0.0.1:8000",
            "oidc": {
                "issuer": "http://127.0.0.1:8084",
                "client_id": "bulle",
                "client_secret_file": str(folder / "secrets/hub/client-secret"),
            },
            **change,
        }
    )


def configured(folder: Path, **change: Any) -> Config:
    c = Config()
    configure(c, settings(folder, **change))
    return c


def test_the_hub_listens_to_the_bridges_network_and_people_come_through_the_proxy(tmp_path: Path) -> None:
    c = configured(tmp_path)
    assert c.JupyterHub.hub_bind_url == "http://172.31.250.1:8081"
    assert c.ConfigurableHTTPProxy.api_url == "http://127.0.0.1:8082"
    assert c.ConfigurableHTTPProxy.should_start is False
    assert c.JupyterHub.services[0]["url"] == "http://127.0.0.1:8083"


ON_A_CLUSTER = {
    "public_url": "https://bulle.example.org",
    "listen": "0.0.0.0:8000",
    "kubernetes": {"hub": ["[fd00::7]:8081", "10.96.0.7:8081"]},
}


def test_on_a_cluster_bridges_come_by_the_service_and_all_others_by_loopback(tmp_path: Path) -> None:
    c = configured(tmp_path, **ON_A_CLUSTER)
    assert c.JupyterHub.hub_bind_url == "http://:8081"
    assert c.JupyterHub.hub_connect_url == "http://127.0.0.1:8081"
    assert c.BulleSpawner.hub_connect_url == "http://[fd00::7]:8081"
    assert set(c.JupyterHub.trusted_downstream_ips) == {"127.0.0.1"}
    assert c.BulleHub.others_are_bridges is True
    assert c.JupyterHub.tornado_settings["cookie_options"]["secure"] is True
    words = proxy.arguments(settings(tmp_path, **ON_A_CLUSTER))
    assert "--ip=0.0.0.0" in words and "--port=8000" in words and "--api-ip=127.0.0.1" in words
    assert "--default-target=http://127.0.0.1:8081" in words
    assert "BulleHub" not in configured(tmp_path)


@pytest.mark.parametrize("hub", [[], ["hub.bulle.svc:8081"]])
def test_a_hub_whose_service_is_not_known_does_not_start(tmp_path: Path, hub: list[str]) -> None:
    with pytest.raises(SettingsError, match=r"kubernetes\.hub"):
        configured(tmp_path, **{**ON_A_CLUSTER, "kubernetes": {"hub": hub}})


def test_nobody_is_an_administrator_and_nothing_is_shared(tmp_path: Path) -> None:
    c = configured(tmp_path)
    assert c.BulleAuthenticator.admin_users == set()
    assert c.JupyterHub.admin_access is False
    assert [role["name"] for role in c.JupyterHub.load_roles] == ["user"]
    for scope in USER_SCOPES:
        assert scope.endswith(("!user", "!service=portal")), scope
        assert not scope.startswith(("admin", "tokens", "shares", "proxy", "groups", "list", "self", "inherit"))
    assert c.JupyterHub.services[0]["oauth_client_allowed_scopes"] == OWN_SERVERS
    assert "admin" not in c.JupyterHub.services[0]


def test_pages_carry_a_strict_policy(tmp_path: Path) -> None:
    policy = configured(tmp_path).JupyterHub.tornado_settings["headers"]["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy and "http" not in policy and "*" not in policy


@pytest.mark.parametrize(("url", "secure"), [("http://127.0.0.1:8000", False), ("https://bulle.example.org", True)])
def test_cookies_are_for_this_site_and_for_tls_where_there_is(tmp_path: Path, url: str, secure: bool) -> None:
    options = configured(tmp_path, public_url=url).JupyterHub.tornado_settings["cookie_options"]
    assert options == {"httponly": True, "samesite": "Lax", "secure": secure}


def test_a_restart_ends_nobodys_work(tmp_path: Path) -> None:
    c = configured(tmp_path)
    assert c.JupyterHub.cleanup_servers is False and c.JupyterHub.cleanup_proxy is False
    # It is in this that JupyterHub tells a proxy that was started anew the ways to portal and desktops.
    assert 0 < c.JupyterHub.last_activity_interval <= 10


def test_a_secret_that_is_missing_or_open_stops_the_hub(tmp_path: Path) -> None:
    given = settings(tmp_path)
    token = tmp_path / "secrets/hub/proxy-token"
    token.chmod(0o644)
    with pytest.raises(SettingsError, match="everybody"):
        configure(Config(), given)
    token.chmod(0o600)
    token.write_text("\n")
    with pytest.raises(SettingsError, match="empty"):
        configure(Config(), given)
    token.unlink()
    with pytest.raises(SettingsError, match="cannot be read"):
        configure(Config(), given)


def test_the_proxys_command_line_holds_no_secret(tmp_path: Path) -> None:
    given = settings(
        tmp_path,
        listen="10.1.2.3:443",
        public_url="https://bulle.example.org",
        tls={"certificate_file": "/tls/cert.pem", "key_file": "/tls/key.pem"},
    )
    words = proxy.arguments(given)
    assert "--ip=10.1.2.3" in words and "--port=443" in words
    assert "--api-ip=127.0.0.1" in words and "--ssl-key=/tls/key.pem" in words
    assert not any(secret in " ".join(words) for secret in SECRETS.values())


def test_an_ipv6_address_is_listened_on(tmp_path: Path) -> None:
    assert "--ip=::1" in proxy.arguments(settings(tmp_path, listen="[::1]:8000"))


def test_the_demos_provider_serves_its_one_deployment(tmp_path: Path) -> None:
    told = json.loads(demo_idp.configuration(settings(tmp_path)))
    assert told["port"] == 8084 and told["host"] == "127.0.0.1"
    assert told["accounts_file"] == str(tmp_path / "secrets/demo-idp/accounts.json")
    assert "a password" not in json.dumps(told)


@pytest.mark.parametrize("issuer", ["https://login.example.org", "http://127.0.0.1"])
def test_the_demos_provider_is_on_loopback_or_not_at_all(tmp_path: Path, issuer: str) -> None:
    oidc = {"issuer": issuer, "client_id": "bulle", "client_secret_file": "/x"}
    with pytest.raises(SettingsError, match="loopback"):
        demo_idp.configuration(settings(tmp_path, oidc=oidc))


def test_a_secret_is_read_without_its_last_line_break(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("value\n")
    path.chmod(0o640)
    assert read_secret(path) == "value"


# -- watching -----------------------------------------------------------------------------------------------
def test_nobody_reads_the_hubs_metrics_where_none_are_wanted(tmp_path: Path) -> None:
    c = configured(tmp_path)
    assert c.JupyterHub.authenticate_prometheus is True
    assert "read:metrics" not in json.dumps(c.JupyterHub.load_roles)
    assert [service["name"] for service in c.JupyterHub.services] == ["portal"]


def test_the_hubs_metrics_are_for_one_service_that_can_do_nothing_else(tmp_path: Path) -> None:
    wanted = settings(tmp_path, metrics={"token_file": "/x"})
    with pytest.raises(SettingsError, match="metrics-token"):
        configure(Config(), wanted)
    token = tmp_path / "secrets" / "hub" / "metrics-token"
    token.write_text("66" * 32)
    token.chmod(0o600)
    c = Config()
    configure(c, wanted)
    roles = [role for role in c.JupyterHub.load_roles if "read:metrics" in role["scopes"]]
    assert [(role["scopes"], role.get("services"), role.get("users")) for role in roles] == [
        (["read:metrics"], ["metrics"], None)
    ]
    assert [role["name"] for role in c.JupyterHub.load_roles if "metrics" in role.get("services", ())] == ["metrics"]
    (service,) = [each for each in c.JupyterHub.services if each["name"] == "metrics"]
    assert service["api_token"] == "66" * 32 and "url" not in service and "oauth_client_id" not in service


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_hub_writes_its_log_in_the_form_of_the_settings(tmp_path: Path, form: str) -> None:
    told = configured(tmp_path, logs=form).JupyterHub.logging_config["formatters"]["console"]
    assert (told["()"], told["part"], told["form"]) == ("orchestrator.logs.formatter", "hub", form)

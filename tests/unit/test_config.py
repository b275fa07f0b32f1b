"""Settings are validated whole, and every fault is named."""

from pathlib import Path

import pytest
import yaml

from orchestrator.config import load_settings
from orchestrator.errors import SettingsError

GOOD = {
    "deployment": "hospital",
    "state": "/srv/bulle",
    "oidc": {
        "issuer": "https://login.example.org/",
        "client_id": "bulle",
        "client_secret_file": "/srv/secret",
    },
}


def write(tmp_path: Path, value: object) -> Path:
    path = tmp_path / "bulle.yaml"
    path.write_text(value if isinstance(value, str) else yaml.safe_dump(value))
    return path


def test_good_settings(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, GOOD))
    assert settings.oidc.issuer == "https://login.example.org"
    assert settings.database_url == "sqlite:////srv/bulle/authority/governance.sqlite"
    assert settings.layout.socket("door") == Path("/srv/bulle/sockets/door/door.sock")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"deployment": "Hospital!"}, "deployment"),
        ({"state": "relative"}, "state"),
        ({"oidc": {**GOOD["oidc"], "issuer": "http://login.example.org"}}, "oidc.issuer"),  # type: ignore[dict-item]
        ({"oidc": {**GOOD["oidc"], "issuer": "http://localhost.example.org"}}, "oidc.issuer"),  # type: ignore[dict-item]
        ({"oidc": {**GOOD["oidc"], "issuer": "http://127.0.0.1@example.org"}}, "oidc.issuer"),  # type: ignore[dict-item]
        ({"oidc": {**GOOD["oidc"], "issuer": "http://127.0.0.1.example.org"}}, "oidc.issuer"),  # type: ignore[dict-item]
        ({"public_url": "http://bulle.example.org"}, "public_url"),
        ({"public_url": "https://bulle.example.org/path"}, "public_url"),
        ({"tls": {"certificate_file": "/c", "key_file": "/k"}}, "public_url"),
        ({"oidc": {**GOOD["oidc"], "client_secret": "x"}}, "oidc.client_secret"),  # type: ignore[dict-item]
        ({"reqire_mfa": True}, "reqire_mfa"),
        ({"workspace": {"limits": {"memory_mb": 1}}}, "workspace.limits.memory_mb"),
        ({"listen": "0.0.0.0:443"}, "tls must be set"),
        ({"reconcile_seconds": 60}, "reconcile_seconds"),
        ({"custodian": {"kind": "cloud"}}, "custodian"),
        ({"database": "sqlite:////srv/elsewhere", "database_socket": "/run/pg"}, "database"),
        ({"database": "mysql://bulle@/bulle", "database_socket": "/run/pg"}, "database"),
        ({"database": "postgresql://bulle:secret@/bulle", "database_socket": "/run/pg"}, "no password in the address"),
        ({"database": "postgresql://bulle@db.example.org/bulle", "database_socket": "/run/pg"}, "has no network"),
        ({"database": "postgresql://bulle@/bulle?host=db", "database_socket": "/run/pg"}, "has no network"),
        ({"database": "postgresql://bulle@/bulle?passfile=/p", "database_socket": "/run/pg"}, "no options"),
        ({"database": "postgresql:///bulle", "database_socket": "/run/pg"}, "needs a user"),
        ({"database": "postgresql://bulle@:x/bulle", "database_socket": "/run/pg"}, "port"),
        ({"database": "postgresql://bulle@/bulle"}, "database_socket"),
        ({"database": "postgresql://bulle@/bulle", "database_socket": "run/pg"}, "absolute"),
        ({"database_password_file": "/srv/secret"}, "go with database"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(tmp_path: Path, change: dict[str, object], named: str) -> None:
    with pytest.raises(SettingsError, match=named.replace(".", r"\.")):
        load_settings(write(tmp_path, {**GOOD, **change}))


def test_a_password_in_the_settings_is_not_told_in_the_error(tmp_path: Path) -> None:
    wrong = {**GOOD, "database": "postgresql://bulle:hunter2@/bulle", "database_socket": "/run/pg"}
    with pytest.raises(SettingsError) as caught:
        load_settings(write(tmp_path, wrong))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("postgresql://bulle@/store", "postgresql+psycopg://bulle@/store?host=%2Frun%2Fpg"),
        ("postgresql+psycopg://bulle@:6432/store", "postgresql+psycopg://bulle@:6432/store?host=%2Frun%2Fpg"),
    ],
)
def test_a_database_behind_a_socket(tmp_path: Path, address: str, url: str) -> None:
    settings = load_settings(write(tmp_path, {**GOOD, "database": address, "database_socket": "/run/pg"}))
    assert settings.database_url == url


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "a: [", "{}"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError):
        load_settings(write(tmp_path, text))


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.yaml"):
        load_settings(tmp_path / "none.yaml")

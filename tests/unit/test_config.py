"""Settings are validated whole, and every fault is named."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from orchestrator.config import Settings, load_settings, resolved, resolved_in_time
from orchestrator.errors import SettingsError
from orchestrator.workspaces.spec import images_of

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
        ({"database": "postgresql://bulle@db.example.org/bulle", "database_ca_file": "/ca"}, "has no network"),
        ({"database": "postgresql://bulle@db.example.org/b", "kubernetes": {}}, "database_ca_file"),
        ({"database": "postgresql://b@db/b", "kubernetes": {}, "database_ca_file": "ca"}, "absolute"),
        ({"database": "postgresql://b:secret@db/b", "kubernetes": {}, "database_ca_file": "/ca"}, "no password"),
        (
            {"database": "postgresql://b@db/b?sslmode=disable", "kubernetes": {}, "database_ca_file": "/ca"},
            "no options",
        ),
        ({"database": "postgresql://b@db,evil/b", "kubernetes": {}, "database_ca_file": "/ca"}, "the host"),
        (
            {"database": "postgresql://b@db/b", "kubernetes": {}, "database_ca_file": "/c", "database_socket": "/r"},
            "has a host",
        ),
        ({"database": "postgresql://b@/b", "database_socket": "/r", "database_ca_file": "/c"}, "with a host"),
        ({"database_ca_file": "/c"}, "go with database"),
        ({"metrics": {"listen": "0.0.0.0:9464", "token_file": "/t"}}, "metrics.listen"),
        ({"metrics": {"listen": "metrics:9464", "token_file": "/t"}, "kubernetes": {}}, "metrics.listen"),
        ({"kubernetes": {"authority": "http://127.0.0.1:8443"}}, "kubernetes.authority"),
        ({"kubernetes": {"authority": "https://authority.bulle.svc:8443/x"}}, "kubernetes.authority"),
        ({"kubernetes": {"images": {"gateway": "bulle:latest", "sandbox": f"sha256:{'a' * 64}"}}}, "images.gateway"),
        ({"kubernetes": {"images": {"gateway": f"sha256:{'a' * 64}"}}}, "images.sandbox"),
        ({"kubernetes": {"projects": {"labels": {"bulle.deployment": "other"}}}}, "projects.labels"),
        ({"kubernetes": {"projects": {"limit_range": {"most": {}}}}}, "limit_range"),
        ({"kubernetes": {}, "public_url": "http://bulle.example.org"}, "public_url"),
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


ON_A_CLUSTER = {
    **GOOD,
    "listen": "0.0.0.0:8000",
    "public_url": "https://bulle.example.org",
    "metrics": {"listen": "0.0.0.0:9464", "token_file": "/t"},
    "database": "postgresql://bulle@db.example.org:5433/store",
    "database_ca_file": "/etc/bulle/database/ca.crt",
    "kubernetes": {
        "name": "trial-bulle",
        "namespace": "research",
        "hub": ["trial-bulle-hub.research.svc:8081", "10.96.0.9:8081"],
        "authority": "https://trial-bulle-authority.research.svc:8443",
        "images": {"gateway": f"registry.example.org/gateway@sha256:{'a' * 64}", "sandbox": f"sha256:{'b' * 64}"},
        "projects": {"quota": {"pods": "20"}, "limit_range": {"max": {"memory": "8Gi"}}, "labels": {"tier": "a"}},
    },
}


def test_what_a_cluster_allows(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, ON_A_CLUSTER))
    assert settings.database_url == (
        "postgresql+psycopg://bulle@db.example.org:5433/store"
        "?sslmode=verify-full&sslrootcert=%2Fetc%2Fbulle%2Fdatabase%2Fca.crt&gssencmode=disable"
    )
    assert settings.layout.socket("cluster") == Path("/srv/bulle/sockets/cluster/cluster.sock")
    assert images_of(settings).gateway.startswith("registry.example.org/gateway@sha256:")


@pytest.mark.parametrize("key", ["listen", "metrics", "database"])
def test_and_one_machine_does_not(tmp_path: Path, key: str) -> None:
    here = {**GOOD, key: ON_A_CLUSTER[key]}
    if key == "database":
        here["database_ca_file"] = "/ca"
    load_settings(write(tmp_path, {**here, "kubernetes": {}}))
    with pytest.raises(SettingsError):
        load_settings(write(tmp_path, here))


def test_images_are_those_recorded_where_the_settings_name_none(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, {**GOOD, "state": str(tmp_path)}))
    with pytest.raises(SettingsError, match=r"images\.json"):
        images_of(settings)
    settings.layout.public.mkdir()
    settings.layout.images.write_text('{"gateway": "sha256:1", "sandbox": "sha256:2"}')
    assert images_of(settings).sandbox == "sha256:2"


def cluster(*hub: str) -> Settings:
    return Settings.model_validate({**GOOD, "kubernetes": {"hub": hub}})


def hubs(settings: Settings) -> tuple[str, ...]:
    assert settings.kubernetes is not None
    return settings.kubernetes.hub


def test_names_of_the_hub_become_all_their_addresses_in_one_order() -> None:
    asked = []

    def look_up(name: str) -> list[str]:
        asked.append(name)
        return ["fd00::7", "10.96.0.12", "10.96.0.7", "10.96.0.7"]

    there = resolved(cluster("hub.bulle.svc:8081", "10.96.0.7:8081"), look_up)
    assert hubs(there) == ("10.96.0.7:8081", "10.96.0.12:8081", "[fd00::7]:8081")
    assert asked == ["hub.bulle.svc"]
    assert hubs(resolved(cluster("hub.bulle.svc:8081"), lambda name: reversed(look_up(name)))) == hubs(there)


def test_without_names_nobody_is_asked() -> None:
    def nobody(name: str) -> list[str]:
        raise AssertionError(name)

    for settings in (cluster("10.96.0.7:8081"), cluster(), Settings.model_validate(GOOD)):
        assert resolved(settings, nobody) is settings


@pytest.mark.parametrize(
    "answer",
    [[], ["127.0.0.1"], ["10.96.0.7", "169.254.169.254"], ["::1"], ["fe80::1%eth0"], ["0.0.0.0"], ["224.0.0.1"]],
)
def test_a_name_without_an_address_that_a_service_can_have_is_refused(answer: list[str]) -> None:
    with pytest.raises(SettingsError, match=r"hub\.bulle\.svc"):
        resolved(cluster("hub.bulle.svc:8081"), lambda name: answer)


def test_a_name_that_nobody_knows_is_refused() -> None:
    with pytest.raises(SettingsError, match="has no address"):
        resolved(cluster("nobody.invalid:8081"))


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "a: [", "{}"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError):
        load_settings(write(tmp_path, text))


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.yaml"):
        load_settings(tmp_path / "none.yaml")


def test_a_name_that_is_not_known_yet_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.config.time.sleep", lambda _: None)
    answers = iter([OSError("no such name"), OSError("no such name")])

    def look_up(name: str) -> list[str]:
        if (fault := next(answers, None)) is not None:
            raise fault
        return ["10.96.0.7"]

    settings = Settings.model_validate({**GOOD, "kubernetes": {"hub": ["bulle-hub.bulle.svc:8081"]}})
    found = resolved_in_time(settings, 5, look_up).kubernetes
    assert found is not None and found.hub == ("10.96.0.7:8081",)
    with pytest.raises(SettingsError, match="has no address"):
        resolved_in_time(settings, 0, lambda name: [])


def test_a_project_is_in_one_tier_at_most() -> None:
    def with_tiers(*tiers: dict[str, object]) -> Settings:
        return Settings.model_validate({**GOOD, "kubernetes": {"tiers": list(tiers)}})

    found = with_tiers({"projects": ["heart"], "devices": {"nvidia.com/gpu": 1}}, {"projects": ["lungs"]}).kubernetes
    assert found is not None
    assert found.tier_of("heart") is found.tiers[0] and found.tier_of("liver") is None
    for wrong in (
        ({"projects": ["heart"]}, {"projects": ["heart"]}),
        ({"projects": []},),
        ({"projects": ["heart"], "devices": {"memory": 1}},),
        ({"projects": ["heart"], "devices": {"nvidia.com/gpu": 0}},),
        ({"projects": ["heart"], "device_files": ["/etc/passwd"]},),
        ({"projects": ["heart"], "device_files": ["/dev/nvidia* /dev/*"]},),
    ):
        with pytest.raises(ValidationError):
            with_tiers(*wrong)

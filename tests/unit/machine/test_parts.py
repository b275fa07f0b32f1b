"""The control plane's containers hold what docs/architecture.md promises of them."""

from pathlib import Path

import pytest

from orchestrator.config import Oidc, Settings, Uid
from orchestrator.machine.parts import Part, control_plane

STATE = Path("/srv/bulle")


def settings() -> Settings:
    return Settings(
        deployment="unit",
        state=STATE,
        oidc=Oidc(
            issuer="https://login.example.org",
            client_id="bulle",
            client_secret_file=STATE / "secrets/hub/client-secret",
        ),
    )


PARTS = control_plane(settings(), Path("/etc/bulle/bulle.yaml"), demo_idp=True)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_every_part_is_locked_down(part: Part) -> None:
    found = part.container("unit", "sha256:0", "mark")
    assert found["user"].split(":")[0] not in ("0", "root")
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert "no-new-privileges" in found["security_opt"]
    assert "cap_add" not in found and "privileged" not in found and "devices" not in found


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_no_part_sees_the_engine_keys_data_mounts_or_the_whole_state(part: Part) -> None:
    layout = settings().layout
    never = (layout.keyring, layout.custodian, layout.folders, layout.mounts, Path("/var/run/docker.sock"))
    for bind in part.binds:
        for forbidden in never:
            assert forbidden != bind.path and forbidden not in bind.path.parents and bind.path not in forbidden.parents


def test_only_the_authority_holds_the_signing_keys_and_the_audit_log() -> None:
    layout = settings().layout
    for part in PARTS:
        sees = {bind.path for bind in part.binds}
        assert (layout.authority in sees) == (part.name == "authority")
        assert (layout.audit in sees) == (part.name == "authority")


def test_a_part_sees_no_other_parts_secrets_and_no_others_socket() -> None:
    layout = settings().layout
    uses = {"hub": {"hub", "door"}, "portal": {"portal"}, "authority": {"hub", "portal", "node"}}
    for part in PARTS:
        for bind in part.binds:
            if layout.secrets in bind.path.parents and bind.path.is_relative_to(layout.secrets):
                assert bind.path.relative_to(layout.secrets).parts[0] == part.name
            if layout.sockets in bind.path.parents:
                assert bind.path.name in uses[part.name]


def test_the_authority_has_no_network() -> None:
    assert next(part for part in PARTS if part.name == "authority").network == "none"


def test_each_part_has_a_user_of_its_own() -> None:
    assert len({part.uid for part in PARTS}) == len(PARTS)
    assert {part.uid for part in PARTS}.isdisjoint({Uid.SANDBOX, Uid.BRIDGE, Uid.DISPLAY, 0})


def test_no_secret_is_in_an_environment_or_an_argument() -> None:
    for part in PARTS:
        found = part.container("unit", "sha256:0", "mark")
        assert set(found["environment"]) == {"BULLE_SETTINGS", "HOME", "TMPDIR"}
        assert all("secret" not in word for word in found["command"])


def test_the_databases_socket_and_password_are_the_authoritys_alone() -> None:
    with_database = settings().model_copy(
        update={
            "database": "postgresql+psycopg://bulle@/bulle",
            "database_socket": Path("/run/postgresql"),
            "database_password_file": Path("/etc/bulle/database-password"),
        }
    )
    for part in control_plane(with_database, Path("/etc/bulle/bulle.yaml"), demo_idp=True):
        binds = {bind.path: bind.writable for bind in part.binds}
        for path in (Path("/run/postgresql"), Path("/etc/bulle/database-password")):
            assert (path in binds) == (part.name == "authority")
            assert not binds.get(path)
        assert "/etc/bulle/database-password" not in " ".join(part.command)

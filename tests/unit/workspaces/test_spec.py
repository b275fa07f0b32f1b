"""What a workspace is made of does not depend on what a caller hands in."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import Settings, Uid
from orchestrator.errors import SettingsError
from orchestrator.terms import ColumnPermit, Grant, PermitTerms, TablePermit
from orchestrator.workspaces.docker import create_arguments
from orchestrator.workspaces.spec import ContainerSpec, Images, PartName, WorkspacePaths, workspace_specs

NOW = datetime(2026, 1, 1, tzinfo=UTC)
IMAGES = Images(gateway="sha256:" + "a" * 64, sandbox="sha256:" + "b" * 64)
SETTINGS = Settings.model_validate(
    {
        "deployment": "trial",
        "state": "/var/lib/trial",
        "oidc": {"issuer": "https://idp.example", "client_id": "c", "client_secret_file": "/s"},
    }
)
names = st.text(min_size=1, max_size=40)
hexadecimal = st.text("0123456789abcdef", min_size=32, max_size=32)
slugs = st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,38}[a-z0-9])?", fullmatch=True)
columns = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.]{0,20}", fullmatch=True).map(lambda name: ColumnPermit(name=name))
grants = st.builds(
    Grant,
    person=names,
    display_name=names,
    project_id=hexadecimal,
    project=slugs,
    project_title=names,
    session=hexadecimal,
    permit=st.builds(
        PermitTerms,
        version=st.integers(1, 1000),
        tables=st.lists(st.builds(TablePermit, dataset=slugs, table=slugs, columns=st.tuples(columns)), max_size=3).map(
            tuple
        ),
        valid_from=st.just(NOW),
        valid_until=st.just(NOW + timedelta(days=1)),
    ),
    ends_at=st.just(NOW + timedelta(hours=1)),
)


def specs(grant: Grant) -> tuple[ContainerSpec, ContainerSpec, ContainerSpec]:
    return workspace_specs(grant, SETTINGS, IMAGES, WorkspacePaths.of(SETTINGS.layout.mounts, grant.session), "{}")


def a_grant(session: str = "0" * 32) -> Grant:
    permit = PermitTerms(version=1, tables=(), valid_from=NOW, valid_until=NOW + timedelta(days=1))
    return Grant(
        person="ann",
        display_name="Ann",
        project_id="1" * 32,
        project="heart",
        project_title="Hearts",
        session=session,
        permit=permit,
        ends_at=NOW,
    )


def assert_confined(spec: ContainerSpec, body: dict[str, Any]) -> None:
    host = body["HostConfig"]
    user, group = body["User"].split(":")
    assert int(user) >= 1000 and int(group) >= 1000 and "0" not in host["GroupAdd"]
    assert host["CapDrop"] == ["ALL"] and host["CapAdd"] == [] and host["Privileged"] is False
    assert host["SecurityOpt"] == ["no-new-privileges", "seccomp={}"]
    assert host["ReadonlyRootfs"] is True
    assert host["Memory"] == host["MemorySwap"] > 0 and host["MemorySwappiness"] == 0
    assert host["PidsLimit"] > 0 and host["NanoCpus"] > 0
    assert host["LogConfig"]["Type"] == "none"
    assert host["Devices"] == [] and host["DeviceCgroupRules"] == [] and host["PortBindings"] == {}
    assert {"Name": "core", "Soft": 0, "Hard": 0} in host["Ulimits"]
    (files,) = [each for each in host["Ulimits"] if each["Name"] == "nofile"]
    assert 0 < files["Soft"] == files["Hard"] <= 1 << 20, "open files"
    assert 0 < host["ShmSize"] <= host["Memory"], "shared memory"
    assert (host["IpcMode"], host["PidMode"], host["UTSMode"]) == ("private", "", "")
    assert host["CgroupnsMode"] == "private"
    for options in host["Tmpfs"].values():
        assert {"nosuid", "nodev"} <= set(options.split(",")) and "size=" in options and "mode=" in options


@given(grants)
def test_every_container_is_confined_whatever_the_grant_says(grant: Grant) -> None:
    for spec in specs(grant):
        assert_confined(spec, create_arguments(spec))


#: what a container is without one of the settings: the engine's default, or what somebody might ask for
HOLES: list[tuple[str, Any]] = [
    ("CapDrop", []),
    ("CapAdd", ["NET_RAW"]),
    ("Privileged", True),
    ("SecurityOpt", ["seccomp={}"]),
    ("SecurityOpt", ["no-new-privileges"]),
    ("ReadonlyRootfs", False),
    ("GroupAdd", ["0"]),
    ("Memory", 0),
    ("MemorySwap", 0),
    ("MemorySwap", -1),
    ("MemorySwap", 1 << 50),
    ("MemorySwappiness", None),
    ("MemorySwappiness", 60),
    ("NanoCpus", 0),
    ("PidsLimit", 0),
    ("PidsLimit", -1),
    ("ShmSize", 0),
    ("ShmSize", 1 << 50),
    ("Ulimits", [{"Name": "nofile", "Soft": 1024, "Hard": 1024}]),
    ("Ulimits", [{"Name": "core", "Soft": 0, "Hard": 0}]),
    ("Ulimits", [{"Name": "core", "Soft": 0, "Hard": 0}, {"Name": "nofile", "Soft": 1024, "Hard": 1 << 30}]),
    ("LogConfig", {"Type": "json-file", "Config": {}}),
    ("Devices", [{"PathOnHost": "/dev/fuse"}]),
    ("DeviceCgroupRules", ["a *:* rwm"]),
    ("PortBindings", {"80/tcp": [{}]}),
    ("IpcMode", "shareable"),
    ("IpcMode", "host"),
    ("PidMode", "host"),
    ("UTSMode", "host"),
    ("CgroupnsMode", "host"),
    ("Tmpfs", {"/tmp": "mode=1777,nosuid,nodev"}),
    ("Tmpfs", {"/tmp": "mode=1777,size=1m"}),
]


@pytest.mark.parametrize(("name", "value"), HOLES)
def test_negative_control_any_setting_taken_away_is_seen(name: str, value: Any) -> None:
    for spec in specs(a_grant()):
        body = create_arguments(spec)
        assert_confined(spec, body)
        body["HostConfig"][name] = value
        with pytest.raises((AssertionError, ValueError)):
            assert_confined(spec, body)


@pytest.mark.parametrize("user", ["0:0", "0:1002", "1002:0"])
def test_negative_control_root_is_seen(user: str) -> None:
    for spec in specs(a_grant()):
        with pytest.raises(AssertionError):
            assert_confined(spec, {**create_arguments(spec), "User": user})


@given(grants)
def test_no_value_of_a_grant_changes_an_image_command_user_network_or_mount(grant: Grant) -> None:
    same_whatever_the_grant_says(grant)


def same_whatever_the_grant_says(grant: Grant) -> None:
    """The check, also for ``test_negative_controls.py``."""
    plain = a_grant(grant.session)
    for spec, same in zip(specs(grant), specs(plain), strict=True):
        assert spec == same, "two grants with one session id make the same containers"
    for spec, other in zip(specs(grant), specs(a_grant("f" * 32)), strict=True):
        root = str(SETTINGS.layout.mounts / "ws" / grant.session)
        assert all(str(mount.source).startswith(root + "/") for mount in spec.mounts)
        moved = tuple(
            dataclasses.replace(mount, source=Path(str(mount.source).replace("f" * 32, grant.session)))
            for mount in other.mounts
        )
        assert spec == dataclasses.replace(other, mounts=moved, labels=spec.labels)


def test_who_is_on_a_network_and_who_sees_what() -> None:
    display, bridge, sandbox = specs(a_grant())
    assert (display.network, bridge.network, sandbox.network) == (None, "bulle-trial-bridges", None)
    assert (display.uid, bridge.uid, sandbox.uid) == (Uid.DISPLAY, Uid.BRIDGE, Uid.SANDBOX)
    seen = {
        spec.part: {mount.target: (mount.source.name, mount.read_only, mount.propagation) for mount in spec.mounts}
        for spec in (display, bridge, sandbox)
    }
    assert seen[PartName.SANDBOX] == {
        "/data": ("data", True, "rslave"),
        "/home/researcher": ("home", False, "rslave"),
        "/project": ("project", False, "rslave"),
        "/tmp/.X11-unix": ("x11", True, "rprivate"),
        "/run/bulle": ("sandbox", True, "rprivate"),
    }
    assert seen[PartName.DISPLAY] == {
        "/tmp/.X11-unix": ("x11", False, "rprivate"),
        "/run/bulle/rfb": ("rfb", False, "rprivate"),
        "/run/bulle/display": ("display", True, "rprivate"),
    }
    assert seen[PartName.BRIDGE] == {
        "/run/bulle/rfb": ("rfb", True, "rprivate"),
        "/run/bulle/bridge": ("bridge", True, "rprivate"),
    }
    shared = set(seen[PartName.BRIDGE]) & set(seen[PartName.SANDBOX])
    assert not shared, "bridge and sandbox share nothing"


@pytest.mark.parametrize("image", ["bulle/sandbox", "sandbox:latest", "sha256:abc", "", "sha256:" + "A" * 64])
def test_an_image_is_named_by_its_content_only(image: str) -> None:
    with pytest.raises(SettingsError, match="content id"):
        workspace_specs(a_grant(), SETTINGS, Images(IMAGES.gateway, image), WorkspacePaths.of(Path("/m"), "0" * 32))


def test_no_part_is_root() -> None:
    display, *_ = specs(a_grant())
    for change in ({"uid": 0}, {"groups": (0,)}):
        with pytest.raises(SettingsError, match="root"):
            dataclasses.replace(display, **change)


@pytest.mark.parametrize("session", ["", "..", "../../etc", "0" * 31, "0" * 33, "G" * 32, "0" * 32 + "\n"])
def test_a_session_id_never_becomes_another_path(session: str) -> None:
    with pytest.raises(ValueError, match="session id"):
        WorkspacePaths.of(Path("/m"), session)

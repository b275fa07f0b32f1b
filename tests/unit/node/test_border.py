"""What stands at the agent's borders: paths, environments, requests, mount tables, states."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import Settings
from orchestrator.errors import InputError
from orchestrator.node.container import CAPABILITIES, agent_container
from orchestrator.node.door import parse_start
from orchestrator.node.mounts import parse_mountinfo
from orchestrator.node.session_files import BRIDGE_ENVIRONMENT, checked_environment
from orchestrator.node.session_table import FOLLOWS, State
from orchestrator.node.volumes import checked_target
from tests.unit.workspaces.test_spec import SETTINGS, a_grant


@given(st.text(max_size=60) | st.lists(st.sampled_from(["..", ".", "", "a", "~", "\0"]), max_size=6).map("/".join))
def test_a_target_is_below_the_allowed_folder_or_refused(text: str) -> None:
    below_or_refused(text)


def below_or_refused(text: str) -> None:
    """The check, also for ``test_negative_controls.py``."""
    allowed = Path("/nowhere/mounts/ws")
    for tried in (text, f"{allowed}/{text}"):
        try:
            target = checked_target(tried, allowed)
        except InputError:
            continue
        assert allowed in target.parents and ".." not in target.parts and str(target) == tried


def test_a_target_behind_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    allowed, outside = tmp_path / "ws", tmp_path / "outside"
    for folder in (allowed / "s", outside):
        folder.mkdir(parents=True)
    assert checked_target(f"{allowed}/s/data", allowed) == allowed / "s" / "data"
    (allowed / "link").symlink_to(outside)
    (allowed / "s" / "data").symlink_to(outside)
    for text in (f"{allowed}/link", f"{allowed}/link/data", f"{allowed}/s/data", str(allowed), f"{allowed}x/data"):
        with pytest.raises(InputError):
            checked_target(text, allowed)


def environment(**changes: str) -> dict[str, str]:
    return {
        "JUPYTERHUB_API_TOKEN": "t",
        "JUPYTERHUB_API_URL": "http://hub/api",
        "JUPYTERHUB_CLIENT_ID": "c",
        "JUPYTERHUB_SERVICE_PREFIX": "/user/ann/heart/",
        "JUPYTERHUB_USER": "ann",
        "JUPYTERHUB_SERVER_NAME": "heart",
        **changes,
    }


def test_the_bridge_s_environment_is_taken_as_it_is_when_it_is_right() -> None:
    assert checked_environment(environment(), a_grant()) == environment()


@given(st.text(max_size=30).filter(lambda name: name not in BRIDGE_ENVIRONMENT))
def test_any_other_name_in_the_environment_is_refused(name: str) -> None:
    with pytest.raises(InputError):
        checked_environment({**environment(), name: "x"}, a_grant())


@pytest.mark.parametrize(
    "changes",
    [
        {"JUPYTERHUB_USER": "eve"},
        {"JUPYTERHUB_SERVER_NAME": "lung"},
        {"JUPYTERHUB_API_TOKEN": ""},
        {"JUPYTERHUB_API_URL": "x" * 5000},
        {"JUPYTERHUB_API_URL": "http://hub\nSECRET"},
    ],
)
def test_an_environment_for_somebody_else_or_malformed_is_refused(changes: dict[str, str]) -> None:
    with pytest.raises(InputError) as caught:
        checked_environment(environment(**changes), a_grant())
    assert all(value not in str(caught.value) for value in changes.values() if value)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"grant": "x"},
        {"grant": "", "bridge_environment": {}},
        {"grant": 1, "bridge_environment": {}},
        {"grant": "x", "bridge_environment": {"a": 1}},
        {"grant": "x", "bridge_environment": [], "image": "y"},
        {"grant": "x", "bridge_environment": {}, "mounts": []},
        {"grant": "x" * (1 << 20), "bridge_environment": {}},
        {"grant": "x", "bridge_environment": {f"n{n}": "" for n in range(100)}},
        [],
        None,
    ],
)
def test_a_request_is_taken_whole_or_refused_whole(body: Any) -> None:
    with pytest.raises(InputError):
        parse_start(json.dumps(body).encode())


@given(st.binary(max_size=200))
def test_no_bytes_get_past_the_request_s_parser(body: bytes) -> None:
    with pytest.raises(InputError):
        parse_start(body)


def test_a_right_request_is_taken() -> None:
    assert parse_start(b'{"grant": "g", "bridge_environment": {"A": "b"}}').grant == "g"


def test_the_mount_table_is_read_with_its_escapes() -> None:
    text = (
        "36 35 98:0 / /mnt/with\\040space rw,noatime shared:1 master:2 - ext3 /dev/root rw,errors=continue\n"
        "37 35 0:40 / /data ro,nosuid - tmpfs bulle ro,size=1k,noswap\n"
    )
    first, second = parse_mountinfo(text)
    assert (first.path, first.kind, first.source) == (Path("/mnt/with space"), "ext3", "/dev/root")
    assert second.path == Path("/data") and {"ro", "nosuid", "noswap"} <= set(second.options)


def test_every_state_can_be_stopped_and_none_follows_the_end() -> None:
    assert FOLLOWS.keys() == set(State)
    for state in set(State) - {State.STOPPING}:
        assert State.STOPPING in FOLLOWS[state]
    assert not FOLLOWS[State.STOPPING]
    # running only after the proof, and mounts only after it
    assert [state for state in State if State.MOUNTING in FOLLOWS[state]] == [State.PROVING]
    assert [state for state in State if State.RUNNING in FOLLOWS[state]] == [State.MOUNTING]


def test_the_agent_s_container_has_no_more_than_it_needs() -> None:
    arguments = agent_container(SETTINGS, Path("/etc/bulle.yaml"), "sha256:" + "c" * 64)
    assert arguments["network_mode"] == "none" and arguments["read_only"] is True
    assert arguments["cap_drop"] == ["ALL"] and arguments["cap_add"] == list(CAPABILITIES)
    assert "privileged" not in arguments and "pid_mode" not in arguments
    assert len(CAPABILITIES) == 10
    assert {device.split(":")[0] for device in arguments["devices"]} == {"/dev/fuse", "/dev/loop-control"}
    assert arguments["device_cgroup_rules"] == ["b 7:* rwm"], "loop devices, and no disk"
    assert not {"SYS_PTRACE", "SYS_MODULE", "NET_ADMIN", "SYS_RAWIO", "DAC_READ_SEARCH"} & set(CAPABILITIES)
    layout = SETTINGS.layout
    seen = [bind.split(":")[0] for bind in arguments["volumes"]]
    for hidden in (layout.authority, layout.audit, layout.hub, layout.secrets, layout.state):
        assert str(hidden) not in seen, "signing keys, the audit log and the hub's secrets are not the agent's"
    assert f"{layout.datasets}:{layout.datasets}:ro" in arguments["volumes"]
    assert f"{layout.mounts}:{layout.mounts}:rw,rshared" in arguments["volumes"]


def test_a_token_s_module_and_pin_are_shown_to_the_agent() -> None:
    raw = {**SETTINGS.model_dump(mode="json")}
    raw["custodian"] = {
        "kind": "pkcs11",
        "module": "/usr/lib/token.so",
        "token_label": "t",
        "key_label": "k",
        "pin_file": "/etc/pin",
    }
    arguments = agent_container(Settings.model_validate(raw), Path("/etc/bulle.yaml"), "sha256:" + "c" * 64)
    assert {"/usr/lib/token.so:/usr/lib/token.so:ro", "/etc/pin:/etc/pin:ro"} <= set(arguments["volumes"])

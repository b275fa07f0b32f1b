"""Networks and parts of a deployment; and for each control what its own test says when the control is taken away."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.machine import image_parts, image_roots
from orchestrator.machine.deployment import Deployment
from orchestrator.machine.parts import Bind, Part
from orchestrator.workspaces.spec import bridge_network
from tests.unit.machine import test_parts
from tests.unit.machine.test_parts import PARTS, STATE, settings

LAYOUT = settings().layout


def part(name: str) -> Part:
    return next(each for each in PARTS if each.name == name)


# -- the bridges' network --------------------------------------------------------------------------------
class Networks:
    """What an engine is asked about networks; it has none yet."""

    def __init__(self) -> None:
        self.made: list[tuple[str, dict[str, Any]]] = []

    def list(self, **_: Any) -> list[Any]:
        return []

    def create(self, name: str, **options: Any) -> None:
        self.made.append((name, options))


def asked_for() -> tuple[str, dict[str, Any]]:
    """The network that a deployment has its engine make."""
    networks = Networks()
    deployment = object.__new__(Deployment)
    deployment.settings = settings()
    deployment._engine = SimpleNamespace(networks=networks)  # type: ignore[assignment]
    deployment._network()
    (made,) = networks.made
    return made


def faults(name: str, options: dict[str, Any]) -> list[str]:
    """What is wrong with a network of bridges."""
    found = []
    if name != bridge_network("unit"):
        found.append("it is not the one that bridges join")
    if options.get("driver") != "bridge" or options.get("internal") is not True:
        found.append("it leads out of the machine")
    if (options.get("options") or {}).get("com.docker.network.bridge.enable_icc") != "false":
        found.append("bridges reach each other")
    if options.get("attachable"):
        found.append("others may join it")
    pools = (options.get("ipam") or {}).get("Config") or [{}]
    if [pool.get("Subnet") for pool in pools] != [str(settings().bridge_subnet)]:
        found.append("it has other addresses than the hub listens to")
    return found


def test_the_bridges_network_leads_nowhere_and_bridges_do_not_reach_each_other() -> None:
    assert faults(*asked_for()) == []


@pytest.mark.parametrize(
    "options", [{"internal": False}, {"internal": None}, {"driver": "host"}, {"driver": "macvlan"}]
)
def test_a_network_that_is_not_internal_is_seen(options: dict[str, Any]) -> None:
    name, asked = asked_for()
    assert faults(name, {**asked, **options}) == ["it leads out of the machine"]
    del asked["internal"]
    assert faults(name, asked) == ["it leads out of the machine"]


@pytest.mark.parametrize("options", [{}, None, {"com.docker.network.bridge.enable_icc": "true"}])
def test_a_network_on_which_bridges_reach_each_other_is_seen(options: dict[str, str] | None) -> None:
    name, asked = asked_for()
    assert faults(name, {**asked, "options": options}) == ["bridges reach each other"]


# -- the parts -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "change",
    [
        {"user": "0:0"},
        {"user": "root"},
        {"read_only": False},
        {"cap_drop": []},
        {"security_opt": ["seccomp=unconfined"]},
        {"cap_add": ["SYS_ADMIN"]},
        {"privileged": True},
        {"devices": ["/dev/sda"]},
    ],
    ids=str,
)
def test_a_part_that_is_not_locked_down_is_seen(monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]) -> None:
    usual = Part.container
    monkeypatch.setattr(Part, "container", lambda self, *given: {**usual(self, *given), **change})
    for each in PARTS:
        with pytest.raises(AssertionError):
            test_parts.test_every_part_is_locked_down(each)


@pytest.mark.parametrize(
    "path",
    [
        LAYOUT.keyring,
        LAYOUT.custodian,
        LAYOUT.folders / "one",
        LAYOUT.mounts / "ws",
        STATE,
        Path("/"),
        Path("/var/run/docker.sock"),
        Path("/var/run"),
    ],
    ids=str,
)
def test_a_part_that_is_shown_too_much_is_seen(path: Path) -> None:
    hub = part("hub")
    with pytest.raises(AssertionError):
        test_parts.test_no_part_sees_the_engine_keys_data_mounts_or_the_whole_state(
            dataclasses.replace(hub, binds=(*hub.binds, Bind(path)))
        )


@pytest.mark.parametrize(
    ("name", "path", "check"),
    [
        ("hub", LAYOUT.authority, test_parts.test_only_the_authority_holds_the_signing_keys_and_the_audit_log),
        ("portal", LAYOUT.audit, test_parts.test_only_the_authority_holds_the_signing_keys_and_the_audit_log),
        ("portal", LAYOUT.secrets / "hub", test_parts.test_a_part_sees_no_other_parts_secrets_and_no_others_socket),
        ("portal", LAYOUT.sockets / "door", test_parts.test_a_part_sees_no_other_parts_secrets_and_no_others_socket),
        ("portal", LAYOUT.sockets / "hub", test_parts.test_a_part_sees_no_other_parts_secrets_and_no_others_socket),
        ("hub", LAYOUT.sockets / "node", test_parts.test_a_part_sees_no_other_parts_secrets_and_no_others_socket),
    ],
    ids=lambda value: str(value) if isinstance(value, Path) else getattr(value, "__name__", value),
)
def test_a_part_that_is_shown_what_is_anothers_is_seen(
    monkeypatch: pytest.MonkeyPatch, name: str, path: Path, check: Callable[[], None]
) -> None:
    wider = tuple(
        dataclasses.replace(each, binds=(*each.binds, Bind(path))) if each.name == name else each for each in PARTS
    )
    monkeypatch.setattr(test_parts, "PARTS", wider)
    with pytest.raises(AssertionError):
        check()


@pytest.mark.parametrize("network", ["host", "bridge", "bulle-unit-bridges"])
def test_an_authority_with_a_network_is_seen(monkeypatch: pytest.MonkeyPatch, network: str) -> None:
    monkeypatch.setattr(test_parts, "PARTS", (dataclasses.replace(part("authority"), network=network),))
    with pytest.raises(AssertionError):
        test_parts.test_the_authority_has_no_network()


@pytest.mark.parametrize("where", ["environment", "command"])
def test_a_secret_that_others_could_read_is_seen(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    usual = Part.container

    def telling(self: Part, *given: str) -> dict[str, Any]:
        found = usual(self, *given)
        if where == "environment":
            return {**found, "environment": {**found["environment"], "CONFIGPROXY_AUTH_TOKEN": "x"}}
        return {**found, "command": [*found["command"], "--client-secret=x"]}

    monkeypatch.setattr(Part, "container", telling)
    with pytest.raises(AssertionError):
        test_parts.test_no_secret_is_in_an_environment_or_an_argument()


# -- where images come from ------------------------------------------------------------------------------
class Recorded:
    """Steps of a build that are written down and not run."""

    def __init__(self, change: Callable[[list[str]], list[str]] = list) -> None:
        self.commands: list[list[str]] = []
        self._change = change

    def run(self, what: str, argv: list[object], **_: Any) -> None:
        words = [str(word) for word in argv]
        if "--wheel-dir" in words:
            Path(words[words.index("--wheel-dir") + 1]).mkdir()
        # What stands in the file of options counts as said.
        files = [Path(word.removeprefix("--aptopt=")) for word in words if word.startswith("--aptopt=/")]
        words += [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
        self.commands.append(self._change(words))


def fetched(folder: Path, change: Callable[[list[str]], list[str]] = list) -> list[list[str]]:
    """The commands that fetch an image's packages: wheels, a package of sources, npm's."""
    steps = Recorded(change)
    lock = folder / "lock"
    lock.write_text(
        "".join(f"{name}==1 \\\n    --hash=sha256:{digit * 64}\n" for name, digit in (("a", "0"), ("b", "1")))
    )
    target = folder / "python"
    image_parts.fetch_python(steps, "unit", lock, ["b"], target, machine="x86_64")  # type: ignore[arg-type]
    for file in ("package.json", "package-lock.json"):
        (folder / file).write_text("{}")
    image_parts.fetch_npm(steps, "unit", folder, folder / "npm")  # type: ignore[arg-type]
    return steps.commands


def unpinned(commands: list[list[str]]) -> list[str]:
    """Those that take what no hash names, or run a script of what they fetch."""
    found = []
    for words in commands:
        if words[0] == "npm":
            fine = words[1] == "ci" and "--ignore-scripts" in words
        elif "--no-index" in words:
            fine = True  # what was built from sources that a hash named
        else:
            fine = {"--require-hashes", "--no-deps"} <= set(words) and (
                "wheel" in words or "--only-binary=:all:" in words
            )
        if not fine:
            found.append(" ".join(words[:5]))
    return found


def test_packages_are_fetched_by_hash_and_run_no_script(tmp_path: Path) -> None:
    commands = fetched(tmp_path)
    assert len(commands) == 4
    assert unpinned(commands) == []


@pytest.mark.parametrize(
    ("word", "seen"),
    [("--require-hashes", 2), ("--no-deps", 2), ("--only-binary=:all:", 1), ("--ignore-scripts", 1)],
)
def test_packages_without_hash_or_with_scripts_are_seen(tmp_path: Path, word: str, seen: int) -> None:
    commands = fetched(tmp_path, lambda words: [each for each in words if each != word])
    assert len(unpinned(commands)) == seen


MACHINES_APT = """Acquire::http::Proxy "http://proxy.example.org:3128";
Acquire::AllowInsecureRepositories "true";
Acquire::AllowWeakRepositories "true";
APT::Get::AllowUnauthenticated "true";
"""


def made_root(monkeypatch: pytest.MonkeyPatch, change: Callable[[list[str]], list[str]] = list) -> list[str]:
    """The command that makes a root file system, on a machine whose own apt is careless."""
    steps = Recorded(change)
    site = "http://deb.example.org/debian"
    dump = SimpleNamespace(run=lambda *_, **__: SimpleNamespace(stdout=MACHINES_APT))
    monkeypatch.setattr(image_roots, "machine_mirrors", lambda: (site, site))
    monkeypatch.setattr(image_roots, "subprocess", dump)
    image_roots.debian_root(steps, "unit", ["bash"], "tag", architecture="amd64", hook=None)  # type: ignore[arg-type]
    (command,) = steps.commands
    return command


def unsigned(words: list[str]) -> list[str]:
    """What of a command lets a package in whose archive nobody signed."""
    return [
        word for word in words if re.search(r"trusted=|allow-?(unauth|insecure|weak|downgrade)", word, re.IGNORECASE)
    ]


def test_debian_packages_come_from_signed_archives_also_where_the_machine_is_careless(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = made_root(monkeypatch)
    assert unsigned(words) == []
    assert any("proxy.example.org" in word for word in words), "the machine's options are read at all"
    assert len([word for word in words if word.startswith("deb ")]) == 3


def test_an_archive_without_a_signature_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    trusting = made_root(monkeypatch, lambda words: [word.replace("deb ", "deb [trusted=yes] ") for word in words])
    assert len(unsigned(trusting)) == 3
    monkeypatch.setattr(image_roots, "apt_settings", lambda dump: dump)
    assert len(unsigned(made_root(monkeypatch))) == 3, "the machine's own options, taken over as they are"

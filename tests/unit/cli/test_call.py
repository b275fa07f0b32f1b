"""``bulle call`` and ``bulle token`` on a real state folder, as a process would run them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.governance.operations import OPERATIONS
from tests.unit.conftest import CommandLine


@pytest.fixture(name="bulle")
def with_ada(command_line: CommandLine) -> CommandLine:
    command_line("call", "person.add", "subject=ada", "display_name=Ada", "email=ada@example.org")
    return command_line


def test_all_operations_are_listed(bulle: CommandLine) -> None:
    code, out, _ = bulle("call", "--list")
    assert code == 0
    assert all(name in out for name in OPERATIONS)


def test_an_answer_is_json_and_nothing_is_a_tick(bulle: CommandLine) -> None:
    code, out, _ = bulle("call", "person.read", "person=ada")
    assert (code, json.loads(out)["display_name"]) == (0, "Ada")
    code, out, _ = bulle("call", "person.disable", "person=ada")
    assert (code, out.strip()) == (0, "✓ person.disable")


def test_arguments_come_from_a_file_and_from_the_line(bulle: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "training.yaml"
    file.write_text("course: Working with health data\ncompleted: 2025-12-01\n")
    code, out, _ = bulle("call", "training.declare", "--as", "ada", "--data", str(file), "evidence=a certificate")
    assert code == 0, out
    made = json.loads(out)
    assert (made["course"], made["evidence"], made["completed"][:10]) == (
        "Working with health data",
        "a certificate",
        "2025-12-01",
    )
    code, out, _ = bulle("call", "token.create", "--as", "ada", "name=123", "scopes=[read, account]", "days=3")
    assert json.loads(out)["card"]["scopes"] == ["account", "read"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("no.such",), "no operation"),
        (("person.read",), "person: Field required"),
        (("person.read", "person"), "not KEY=VALUE"),
        (("person.read", "person=ada", "person=bob"), "given twice"),
        (("person.read", "person=ada", "by=operator"), "by: Extra inputs"),
        (("person.read", "person={"), "not YAML"),
        (("person.read", "--data", "none.yaml"), "cannot be read"),
        (("account.read", "--as", "hub"), "part of the platform"),
        (("account.read", "--as", "nobody"), "a-person"),
        (("audit.read", "--as", "ada"), "audit.read/who-may"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(bulle: CommandLine, arguments: tuple[str, ...], told: str) -> None:
    code, _, err = bulle("call", *arguments)
    assert code == 1
    assert told in err


def test_a_disabled_person_does_nothing_here_either(bulle: CommandLine) -> None:
    bulle("call", "person.disable", "person=ada")
    code, _, err = bulle("call", "account.read", "--as", "ada")
    assert code == 1 and "person-disabled" in err


def test_a_token_from_its_making_to_its_end(bulle: CommandLine) -> None:
    code, out, err = bulle("token", "create", "--as", "ada", "--name", "nightly", "--scope", "read", "--days", "30")
    assert code == 0 and out.strip().startswith("bulle_") and out.strip() not in err
    code, listed, _ = bulle("token", "list", "--as", "ada", "--json")
    (card,) = json.loads(listed)
    assert card["name"] == "nightly" and out.strip() not in listed
    assert bulle("token", "revoke", card["id"])[0] == 0
    assert "revoked" in bulle("token", "list", "--as", "ada")[1]
    assert bulle("token", "create", "--as", "ada", "--name", "x", "--scope", "root")[0] == 1

"""``bulle application`` and ``bulle project amend|renew|retain`` on a real state folder; application files."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli.application_file import parse_application
from orchestrator.data.catalogue import Catalogue
from orchestrator.errors import InputError


def day(days: int) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).date().isoformat()


FILE = {
    "title": "Sleep and visits",
    "lay_summary": "We look at how often people see a doctor.",
    "purpose": "To see.",
    "legal_basis": "The law on research.",
    "outputs": "One paper.",
    "lead": "lead",
    "team": ["researcher"],
    "starts": day(0),
    "ends": day(300),
    "tables": [
        {
            "dataset": "visits",
            "reason": "It holds the outcome.",
            "columns": [
                {"name": "age", "reason": "Confounder.", "transform": "band", "parameter": 5},
                {"name": "docvis", "reason": "Outcome."},
            ],
            "rows": [{"column": "year", "operator": ">=", "value": 1986}],
        }
    ],
}


@pytest.fixture
def bulle(command_line):
    """The command line of a deployment with people and no dataset."""
    for name in ("custodian", "lead", "researcher"):
        assert command_line("person", "add", name)[0] == 0
    assert command_line("person", "role", "add", "custodian", "custodian")[0] == 0
    return command_line


@pytest.fixture
def file(tmp_path, monkeypatch):
    """An application file for tables that are taken for there."""
    monkeypatch.setattr(Catalogue, "check", lambda *arguments: None)
    path = tmp_path / "application.yaml"
    path.write_text(yaml.safe_dump(FILE))
    return str(path)


def did(bulle, *arguments: str) -> str:
    code, out, err = bulle(*arguments)
    assert (code, err) == (0, ""), arguments
    return out


def test_from_an_application_to_a_renewal(bulle, file, tmp_path):
    out = did(bulle, "application", "begin", "sleep", "--as", "lead")
    assert "application 1 of sleep is a draft" in out
    assert "a title is missing" in out
    assert "missing" not in did(bulle, "application", "edit", "sleep", "1", file, "--as", "lead")
    assert "is submitted" in did(bulle, "application", "submit", "sleep", "1", "--as", "lead")
    out = did(bulle, "application", "return", "sleep", "1", "--note", "Say more.", "--as", "custodian")
    assert "is returned" in out
    did(bulle, "application", "submit", "sleep", "1", "--as", "lead")
    shown = yaml.safe_load(did(bulle, "application", "show", "sleep", "1", "--as", "custodian"))
    assert (shown["state"], shown["note"]) == ("submitted", "Say more.")
    did(bulle, "application", "check", "sleep", "1", "--seen", shown["digest"], "--as", "custodian")
    code, _, err = bulle("application", "approve", "sleep", "1", "--seen", "0" * 64, "--as", "custodian")
    assert (code, "was changed since" in err) == (1, True)
    assert "application.approve/who-may" in bulle("application", "approve", "sleep", "1", "--as", "lead")[2]
    out = did(bulle, "application", "approve", "sleep", "1", "--conditions", "A report.", "--as", "custodian")
    assert "is approved; permit version 1 is in force" in out
    project = yaml.safe_load(did(bulle, "project", "show", "sleep"))
    assert (project["state"], project["conditions"], project["applications"][0]["state"]) == (
        "active",
        "A report.",
        "approved",
    )
    # What is in force, as a file, is what was applied for.
    assert "an amendment" in did(bulle, "project", "amend", "sleep", "--as", "lead")
    again = tmp_path / "again.yaml"
    again.write_text(did(bulle, "application", "show", "sleep", "2", "--file", "--as", "lead"))
    assert parse_application(again.read_text()) == parse_application(yaml.safe_dump(FILE))
    did(bulle, "application", "withdraw", "sleep", "2", "--as", "lead")
    did(bulle, "project", "renew", "sleep", "--as", "lead")
    again.write_text(again.read_text().replace(yaml.safe_load(again.read_text())["ends"], day(500)))
    did(bulle, "application", "edit", "sleep", "3", str(again), "--as", "lead")
    did(bulle, "application", "submit", "sleep", "3", "--as", "lead")
    did(bulle, "application", "refuse", "sleep", "3", "--note", "Too long.", "--as", "custodian")
    lines = json.loads(did(bulle, "application", "list", "--json"))
    assert sorted((one["number"], one["state"]) for one in lines) == [(1, "approved"), (2, "withdrawn"), (3, "refused")]
    assert "renewal" in did(bulle, "application", "list", "--state", "refused", "--as", "lead")
    did(bulle, "project", "close", "sleep", "--as", "lead")
    assert "kept until" in did(bulle, "project", "retain", "sleep", "--until", day(30), "--as", "custodian")


def test_what_it_lacks_is_one_clear_line(bulle, file, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("BULLE_SETTINGS", file.replace("application.yaml", "bulle.yaml"))
    out = did(bulle, "application", "begin", "sleep", file, "--as", "lead")
    assert "there is no dataset 'visits'" in out
    code, _, err = bulle("application", "submit", "sleep", "1", "--as", "lead")
    assert (code, len(err.strip().splitlines())) == (1, 1)
    assert "is not complete" in err


def test_another_persons_project_is_not_shown(bulle, file):
    did(bulle, "application", "begin", "sleep", file, "--as", "lead")
    for words in (("project", "show", "sleep"), ("application", "show", "sleep", "1")):
        code, out, err = bulle(*words, "--as", "researcher")
        assert (code, out) == (1, "")
        assert "refused by rule" in err


def test_an_application_file():
    content = parse_application(yaml.safe_dump({**FILE, "tables": [{"dataset": "visits", "columns": ["age"]}]}))
    assert content.ends == datetime.fromisoformat(f"{day(301)}T00:00:00+00:00"), "until includes that day"
    assert (content.tables[0].table, content.tables[0].columns[0].name) == ("visits", "age")
    assert parse_application("title: Sleep\nteam:\n").title == "Sleep"
    assert parse_application(yaml.safe_dump(FILE)).tables[0].columns[0].parameter == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"titel": "x"}, "unknown key 'titel'"),
        ({"title": 3}, "title: Input should be a valid string"),
        ({"tables": 3}, "tables must be a list"),
        ({"tables": [3]}, "must be a mapping"),
        ({"tables": [{"dataset": "visits", "columns": [{"reason": "x"}]}]}, "Field required"),
        ({"team": "lead"}, "team"),
        ({"ends": "soon"}, "ends: 'soon' is not a date"),
        ({"title": "x" * 201}, "at most 200"),
        ({"tables": [{"dataset": "v", "columns": [{"name": "a", "parameter": float("nan")}]}]}, "finite"),
    ],
)
def test_wrong_files_say_what(changes, message):
    with pytest.raises(InputError, match=message):
        parse_application(yaml.safe_dump({**FILE, **changes}))


@given(
    st.dictionaries(
        st.sampled_from(["title", "lead", "team", "ends", "tables"]),
        st.integers() | st.text() | st.dates() | st.lists(st.dictionaries(st.text(), st.text())),
        min_size=1,
    )
)
def test_oddly_filled_files_are_read_or_an_input_error(told):
    try:
        parse_application(yaml.safe_dump(told))
    except InputError as error:
        assert error.message

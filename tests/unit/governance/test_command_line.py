"""``bulle person|project|member|permit|audit`` on a real state folder, as a process would run them."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.audit import open_for_verification
from orchestrator.cli import context
from orchestrator.cli.dates import moment
from orchestrator.cli.permit_file import parse_permit
from orchestrator.config import Uid
from orchestrator.errors import InputError, SettingsError

PERMIT = """
valid_from: 2026-01-01
valid_until: 2099-12-31
tables:
  - dataset: visits
    columns: [age, {name: docvis, transform: top, parameter: 20}]
    rows:
      - {column: year, operator: ">=", value: 1986}
      - {column: day, operator: in, value: [2020-01-31, 2020-02-29]}
"""


@pytest.fixture
def deployment_folder(folder):
    return folder


def people(bulle) -> None:
    for name in ("custodian", "lead", "researcher", "outsider"):
        assert bulle("person", "add", name, "--name", name.title())[0] == 0
    assert bulle("person", "role", "add", "custodian", "custodian")[0] == 0


def ready(bulle, person: str) -> None:
    """Terms accepted, and a training declared that nobody confirmed yet."""
    assert bulle("terms", "accept", "1", "--as", person)[0] == 0
    today = datetime.now(UTC).date().isoformat()
    assert bulle("training", "declare", "Health data", "--on", today, "--as", person)[0] == 0


def project(bulle, days: int = 300) -> None:
    until = (datetime.now(UTC) + timedelta(days=days)).date().isoformat()
    code, _, err = bulle(
        *("project", "create", "sleep", "--title", "Sleep", "--purpose", "To see", "--lead", "lead"),
        *("--until", until, "--as", "custodian"),
    )
    assert (code, err) == (0, "")
    assert bulle("project", "activate", "sleep", "--as", "custodian")[0] == 0


def test_from_people_to_members_and_back(bulle):
    people(bulle)
    project(bulle)
    code, _, err = bulle("member", "add", "sleep", "researcher", "--as", "lead")
    assert (code, "terms-not-accepted" in err) == (1, True)
    ready(bulle, "researcher")
    assert bulle("member", "approve", "sleep", "researcher", "--as", "lead")[0] == 0
    assert bulle("member", "request", "sleep", "outsider", "--as", "outsider")[0] == 0
    ready(bulle, "outsider")
    code, _, err = bulle("member", "approve", "sleep", "outsider", "--as", "outsider")
    assert code == 1
    assert "error:" in err
    assert "refused by rule member.approve/" in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    assert bulle("member", "approve", "sleep", "outsider", "--as", "lead")[0] == 0
    assert bulle("member", "suspend", "sleep", "outsider", "--as", "lead")[0] == 0
    assert bulle("member", "remove", "sleep", "researcher", "--as", "lead")[0] == 0
    listed = json.loads(bulle("member", "list", "sleep", "--json")[1])
    assert {one["person"]: one["state"] for one in listed} == {
        "lead": "active",
        "outsider": "suspended",
        "researcher": "ended",
    }
    assert "Lead" in bulle("member", "list", "sleep")[1]
    assert yaml.safe_load(bulle("project", "show", "sleep")[1])["state"] == "active"
    assert json.loads(bulle("project", "list", "--json")[1])[0]["slug"] == "sleep"
    assert bulle("project", "suspend", "sleep", "--as", "custodian")[0] == 0
    assert bulle("person", "disable", "outsider")[0] == 0
    assert [one["id"] for one in json.loads(bulle("person", "list", "--json")[1]) if one["disabled"]] == ["outsider"]
    assert bulle("project", "close", "sleep", "--as", "custodian")[0] == 0


def test_an_invited_external_partner_from_the_invitation_to_leaving(bulle):
    people(bulle)
    project(bulle)
    assert bulle("person", "describe", "outsider", "--external", "--affiliation", "Another Hospital")[0] == 0
    assert bulle("member", "invite", "sleep", "outsider", "--as", "lead")[0] == 0
    assert bulle("member", "accept", "sleep", "--as", "researcher")[0] == 1, "not theirs"
    assert bulle("member", "accept", "sleep", "--as", "outsider")[0] == 0
    assert "# Terms of use" in bulle("terms", "show")[1]
    assert "version 1" in bulle("terms", "show", "--language", "fr")[1]
    assert bulle("terms", "show", "--language", "de")[0] == 1
    assert bulle("terms", "accept", "0", "--as", "outsider")[0] == 1
    ready(bulle, "outsider")
    assert bulle("training", "declare", "X", "--on", "yesterday", "--as", "outsider")[0] == 1
    number = str(json.loads(bulle("training", "list", "outsider", "--json")[1])[0]["id"])
    code, _, err = bulle("training", "confirm", "outsider", number, "--as", "outsider")
    assert (code, "refused by rule training.confirm/" in err) == (1, True)
    assert "consent" in bulle("member", "list", "sleep")[1]
    assert bulle("training", "confirm", "outsider", number)[0] == 0
    assert "Health data" in bulle("training", "list", "outsider")[1]
    assert bulle("member", "approve", "sleep", "outsider", "--as", "lead")[0] == 0
    assert bulle("member", "consent", "sleep", "outsider", "--as", "lead")[0] == 1
    assert bulle("member", "consent", "sleep", "outsider", "--as", "custodian")[0] == 0
    assert bulle("member", "confirm", "sleep", "outsider", "--as", "lead")[0] == 0
    assert bulle("member", "leave", "sleep", "--as", "lead")[0] == 1, "the last lead"
    assert bulle("member", "remove", "sleep", "outsider", "--as", "outsider")[0] == 0
    listed = {one["person"]: one for one in json.loads(bulle("member", "list", "sleep", "--json")[1])}
    assert (listed["outsider"]["state"], listed["outsider"]["consented_by"]) == ("ended", None)


def test_who_acts_may_come_from_the_environment(bulle, monkeypatch):
    people(bulle)
    monkeypatch.setenv("BULLE_AS", "lead")
    code, _, err = bulle("person", "add", "x")
    assert (code, "person.add/who-may" in err) == (1, True)


@pytest.mark.parametrize("by", ["hub", "authority", "node-agent"])
def test_nobody_acts_as_a_part_of_the_platform(bulle, by):
    code, _, err = bulle("person", "add", "x", "--as", by)
    assert code == 1
    assert "part of the platform" in err


def test_a_permit_for_what_does_not_exist_is_one_clear_line(bulle, folder):
    people(bulle)
    project(bulle)
    path = folder / "permit.yaml"
    path.write_text(PERMIT)
    code, _, err = bulle("permit", "draft", "sleep", str(path), "--as", "lead")
    assert code == 1
    assert "visits" in err
    assert json.loads(bulle("permit", "list", "sleep", "--json")[1]) == []
    code, _, err = bulle("permit", "draft", "sleep", str(folder / "none.yaml"), "--as", "lead")
    assert (code, "No such file" in err) == (1, True)
    code, _, err = bulle("permit", "show", "sleep")
    assert (code, "no permit" in err) == (1, True)


def test_the_log_is_checked_and_read(bulle, folder):
    people(bulle)
    code, out, _ = bulle("audit", "verify")
    assert (code, "unbroken" in out) == (0, True)
    _, head, _ = bulle("audit", "head")
    exported = folder / "head"
    exported.write_text(head)
    saved = {path: path.read_bytes() for path in bulle.settings.layout.audit.iterdir()}
    bulle("person", "disable", "outsider")
    _, later, _ = bulle("audit", "head")
    assert bulle("audit", "verify", "--head", str(exported))[0] == 0
    records = json.loads(bulle("audit", "show", "--person", "outsider", "--json")[1])
    assert [record["event"]["kind"] for record in records] == ["person.add"] * 2 + ["person.disable"] * 2
    assert len(bulle("audit", "show", "--kind", "role.*")[1].splitlines()) == 2
    assert bulle("audit", "show", "--since", "2099-01-01")[1] == ""
    assert json.loads(bulle("audit", "show", "--since", "2099-01-01", "--json")[1]) == []
    for path, data in saved.items():
        path.write_bytes(data)
    exported.write_text(later)
    assert bulle("audit", "verify")[0] == 0
    code, _, err = bulle("audit", "verify", "--head", str(exported))
    assert (code, "rolled back" in err) == (1, True)
    log = bulle.settings.layout.audit / "log.jsonl"
    log.write_bytes(log.read_bytes().replace(b"lead", b"lard", 1))
    code, _, err = bulle("audit", "verify")
    assert (code, "first bad record" in err) == (1, True)
    exported.write_text("nothing")
    assert bulle("audit", "verify", "--head", str(exported))[0] == 1


def test_the_auditors_terminal_is_not_written_by_others(bulle):
    people(bulle)
    from orchestrator.cli.context import open_audit
    from orchestrator.terms import Event, Outcome

    open_audit(bulle.settings).record(
        Event(kind="page.open", actor="portal", outcome=Outcome.DONE, detail={"reason": "\x1b[2J\r\nseq 1"})
    )
    out = bulle("audit", "show", "--kind", "page.open")[1]
    assert "\x1b" not in out
    assert len(out.splitlines()) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to another user")
def test_what_root_writes_belongs_to_the_authority(bulle):
    people(bulle)
    layout = bulle.settings.layout
    owned = [*layout.audit.iterdir(), *layout.authority.iterdir()]
    assert layout.database in owned
    assert {path.stat().st_uid for path in owned} == {Uid.AUTHORITY}
    assert {path.stat().st_mode & 0o077 for path in owned} == {0}


def test_root_is_not_led_elsewhere(bulle, folder):
    victim = folder / "victim"
    bulle.settings.layout.database.symlink_to(victim)
    code, _, err = bulle("person", "list")
    assert (code, "not a plain file" in err) == (1, True)
    assert not victim.exists()


def test_a_missing_key_is_one_clear_line(bulle):
    (bulle.settings.layout.authority / "audit.key.pem").unlink()
    code, _, err = bulle("person", "list")
    assert code == 1
    assert "audit.key.pem" in err


def test_settings_are_found(tmp_path, monkeypatch):
    monkeypatch.delenv("BULLE_SETTINGS", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(context, "PLACES", context.PLACES[:1])
    context.choose_settings(None)
    with pytest.raises(SettingsError, match="no settings file"):
        context.settings_file()
    (tmp_path / "bulle.yaml").write_text("")
    assert context.settings_file() == tmp_path / "bulle.yaml"
    monkeypatch.setenv("BULLE_SETTINGS", "/from/environment.yaml")
    assert str(context.settings_file()) == "/from/environment.yaml"
    context.choose_settings(tmp_path / "chosen.yaml")
    assert context.settings_file() == tmp_path / "chosen.yaml"
    context.choose_settings(None)


def test_a_permit_file():
    permit = parse_permit(PERMIT)
    assert permit.valid_until == datetime(2100, 1, 1, tzinfo=UTC), "until includes that day"
    table = permit.tables[0]
    assert table.table == "visits"
    assert [(one.name, one.transform, one.parameter) for one in table.columns] == [
        ("age", None, None),
        ("docvis", "top", 20.0),
    ]
    assert table.rows[1].value == ("2020-01-31", "2020-02-29")


BASE = {
    "valid_from": "2026-01-01",
    "valid_until": "2026-12-31",
    "tables": [{"dataset": "visits", "columns": ["age"]}],
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tables": None}, "'tables' is missing"),
        ({"valid": 1}, "unknown key 'valid'"),
        ({"tables": []}, "at least one table"),
        ({"tables": [3]}, "table 1: must be a mapping"),
        ({"tables": [{"dataset": "visits"}]}, "columns: Field required"),
        ({"tables": [{"dataset": "visits", "columns": []}]}, "columns"),
        ({"tables": [{"dataset": "Visits!", "columns": ["a"]}]}, "table 1: dataset"),
        ({"tables": [{"dataset": "visits", "columns": ["a b"]}]}, "columns 1 name"),
        ({"tables": [{"dataset": "visits", "columns": [{"name": "a", "transform": "blur"}]}]}, "transform"),
        ({"tables": [{"dataset": "visits", "columns": [{"name": "a", "transform": "band"}]}]}, "do not fit"),
        ({"tables": [{"dataset": "v", "columns": ["a"], "rows": [{"column": "a", "operator": "~"}]}]}, "operator"),
        ({"tables": [{"dataset": "v", "columns": ["a"], "rows": [{"column": "a", "operator": "in"}]}]}, "go with"),
        ({"tables": [{"dataset": "v", "columns": ["a"], "row": []}]}, "row"),
        ({"valid_from": "soon"}, "valid_from: 'soon' is not a date"),
        ({"valid_until": 2026}, "valid_until must be a date"),
    ],
)
def test_wrong_permit_files_say_what(changes, message):
    told = {name: value for name, value in {**BASE, **changes}.items() if value is not None}
    with pytest.raises(InputError, match=message):
        parse_permit(yaml.safe_dump(told))


@given(st.text(max_size=80) | st.recursive(st.text() | st.integers() | st.none(), st.lists).map(yaml.safe_dump))
def test_noise_is_an_input_error(text):
    with pytest.raises(InputError):
        parse_permit(text)


@given(
    st.dictionaries(
        st.sampled_from(["valid_from", "valid_until", "tables"]),
        st.none() | st.integers() | st.text() | st.dates() | st.lists(st.dictionaries(st.text(), st.text())),
        min_size=3,
    )
)
def test_oddly_filled_files_are_an_input_error(told):
    with pytest.raises(InputError):
        parse_permit(yaml.safe_dump(told))


def test_moments():
    assert moment("x", "2026-01-31") == datetime(2026, 1, 31, tzinfo=UTC)
    assert moment("x", "2026-01-31", end=True) == datetime(2026, 2, 1, tzinfo=UTC)
    assert moment("x", "2026-01-31T12:00:00+02:00", end=True) == datetime(2026, 1, 31, 10, tzinfo=UTC)
    assert moment("x", datetime(2026, 1, 31, 12)) == datetime(2026, 1, 31, 12, tzinfo=UTC)
    with pytest.raises(InputError):
        moment("x", "31/01/2026")


def test_the_log_is_opened_with_the_public_key(bulle):
    assert open_for_verification(bulle.settings.layout).verify().ok

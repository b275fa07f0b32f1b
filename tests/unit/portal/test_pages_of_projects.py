"""The pages of people who work in projects, on the real authority, as they use them: forms only, no script."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest

from orchestrator.errors import RefusedError
from orchestrator.governance.calls import arguments_of, operation_named
from orchestrator.governance.identity import OPERATOR
from orchestrator.portal.hub import PREFIX
from orchestrator.portal.pages import applications, projects
from orchestrator.portal.pages.account import written
from tests.unit.portal.test_pages_of_offices import Office, office, prepared

__all__ = ["office", "prepared"]

SECTIONS = ("", "/people", "/permit", "/applications", "/activity")


def form_of(page: str, form: str) -> dict[str, list[str]]:
    """What a form holds as it is shown, as a browser would send it: fields, choices and ticks."""
    found = re.search(rf'<form[^>]* id="{form}"[^>]*>(.*?)</form>', page, re.DOTALL)
    assert found is not None, f"no form {form}"
    fields: dict[str, list[str]] = {}
    for tag, inside in re.findall(r"<(input|textarea|select)\b([^>]*)>", found[1]):
        at = dict(re.findall(r'([\w-]+)="([^"]*)"', inside))
        if "name" not in at or (at.get("type") == "checkbox" and " checked" not in inside):
            continue
        value = at.get("value", "on" if at.get("type") == "checkbox" else "")
        if tag != "input":
            body = re.search(rf'id="{re.escape(at["id"])}"[^>]*>(.*?)</{tag}>', found[1], re.DOTALL)
            assert body is not None
            chosen = re.search(r'value="([^"]*)" selected', body[1]) or re.search(r'value="([^"]*)"', body[1])
            value = body[1].removeprefix("\n") if tag == "textarea" else chosen[1] if chosen else ""
        fields.setdefault(at["name"], []).append(html.unescape(value))
    return fields


def send(office: Office, path: str, form: str, operation: str, **change: Any) -> str:
    """Fill a form of a page in and send it; the page that follows."""
    fields: dict[str, Any] = {**form_of(office.get(path).text, form), **change}
    answer = office.client.post(f"{PREFIX}act/{operation}", data=fields)
    assert answer.status_code == 200, answer.text[-2000:]
    return answer.text


def asks(office: Office, by: str, name: str, **arguments: Any) -> Any:
    """An operation in a person's name, past the pages."""
    operation = operation_named(name)
    return operation.run(office.governance, by, arguments_of(operation, arguments))


def slug(office: Office) -> str:
    """The project that runs."""
    (card,) = office.governance.projects_of("researcher")
    return str(card.slug)


# -- whose pages they are --------------------------------------------------------------------------------
def test_a_project_that_one_is_not_in_is_not_there(office: Office) -> None:
    """The same answer as for one that does not exist, so that nobody learns which there are (IDOR)."""
    here = slug(office)
    office.log_in("outsider")
    for section in SECTIONS:
        answer = office.get(f"projects/{here}{section}")
        other = office.get(f"projects/nothing-here{section}")
        assert answer.status_code == other.status_code == 404, section
        assert answer.text == other.text.replace("nothing-here", here)
    assert office.get(f"applications/{here}/1").status_code == 404


def test_negative_control_an_authority_that_refuses_by_name_tells_that_there_is_one(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projects, "RefusedError", ZeroDivisionError)
    monkeypatch.setattr(applications, "RefusedError", ZeroDivisionError)
    call = office.authority.call

    async def by_name(name: str, by: str, /, **arguments: Any) -> Any:
        if name == "project.read" and arguments["project"] == slug(office):
            raise RefusedError("refused by rule project.read/who-may: only a member may do this")
        return await call(name, by, **arguments)

    monkeypatch.setattr(office.authority, "call", by_name)
    with pytest.raises(AssertionError):
        test_a_project_that_one_is_not_in_is_not_there(office)


def test_everybody_in_a_project_reads_its_pages_and_is_offered_what_they_may(office: Office) -> None:
    here = slug(office)
    for person in ("researcher", "lead", "custodian", "auditor", "admin"):
        office.log_in(person)
        for section in SECTIONS:
            assert office.get(f"projects/{here}{section}").status_code == 200, (person, section)
    people = f"projects/{here}/people"
    assert "member.end" not in office.get(people, "auditor").text
    assert "member.invite" not in office.get(people, "researcher").text
    assert "act/member.end" in office.get(people, "lead").text
    assert "act/project.suspend" in office.get(f"projects/{here}", "admin").text
    assert "act/project.suspend" not in office.get(f"projects/{here}", "lead").text


def test_a_member_is_not_told_what_they_may_not_read_of_others(office: Office) -> None:
    page = office.get(f"projects/{slug(office)}/people", "researcher").text
    assert page.count("<dt>Terms of use</dt>") == 1, "one's own"


# -- people ----------------------------------------------------------------------------------------------
def test_from_an_invitation_to_a_membership_and_its_end_by_forms_alone(office: Office) -> None:
    here = slug(office)
    people = f"projects/{here}/people"
    office.governance.add_person(OPERATOR, "newcomer", "Newcomer")
    office.log_in("lead")
    assert "Invited. It is theirs to accept now." in send(office, people, "invite", "member.invite", person="newcomer")
    office.log_in("newcomer")
    page = office.get("").text
    assert "You are invited, and have not accepted yet." in page and "You have not accepted the terms" in page
    assert "You are invited to join" in office.get("inbox").text
    assert "Accepted. The membership now waits" in send(office, "", f"accept-{here}", "member.accept")
    assert "Accepted." in send(office, "account", "accept", "terms.accept")
    declared = {"course": "Data protection", "completed": office.governance.now().date().isoformat()}
    send(office, "account", "declare", "training.declare", **declared, evidence="no. 7")
    office.log_in("lead")
    page = office.get(people).text
    assert "Declared training:" in page and "no. 7" in page
    assert "Approved." in send(office, people, "approve-newcomer", "member.approve")
    office.log_in("newcomer")
    assert "Open workspace" in office.get("").text
    office.log_in("lead")
    assert "The membership has ended." in send(office, people, "end-newcomer", "member.end")
    assert office.get(f"projects/{here}", "newcomer").status_code == 404


def test_a_person_who_is_not_there_is_said_beside_the_form_with_what_was_typed(office: Office) -> None:
    office.log_in("lead")
    page = send(office, f"projects/{slug(office)}/people", "invite", "member.invite", person="nobody-here")
    assert "no person" in page and 'value="nobody-here"' in page


def test_nobody_does_by_a_made_up_form_what_is_not_offered_to_them(office: Office) -> None:
    """IDOR: the form of another project, or of somebody else's membership."""
    here = slug(office)
    office.log_in("researcher")
    fields = form_of(office.get(f"projects/{here}/people").text, "leave")
    for operation, more in (
        ("member.end", {"project": here, "person": "lead"}),
        ("member.approve", {"project": here, "person": "researcher"}),
        ("project.close", {"project": here}),
        ("person.disable", {"person": "lead"}),
        ("role.add", {"person": "researcher", "role": "custodian"}),
    ):
        own = {name: value for name, value in fields.items() if name.startswith("_")}
        answer = office.client.post(f"{PREFIX}act/{operation}", data={**own, **more})
        assert "may do this" in answer.text or "cannot decide this for yourself" in answer.text, operation
    assert {card.role for card in office.governance.projects_of("researcher")} == {"member"}


# -- applications ----------------------------------------------------------------------------------------
def test_an_application_from_the_first_word_to_the_permit_without_a_script(office: Office) -> None:
    office.log_in("outsider")
    page = send(office, "applications/new", "begin", "application.begin", title="Sleep", project="naps", dataset="")
    assert "The draft is kept." in page and "a summary in plain language is missing" in page
    edit, read = "applications/naps/1/edit", "applications/naps/1"
    page = send(office, edit, "edit", "application.edit", add="yes")
    (table,) = asks(office, "outsider", "application.read", project="naps", number=1).content.tables
    name = f"{table.dataset}/{table.table}"
    columns = re.findall(r'name="table-0-columns" value="(\w+)"', page)
    assert f'value="{name}"' in page and columns
    year = office.governance.now().year + 1
    filled = {
        "lay_summary": "Who sleeps well?",
        "purpose": "Sleep and work.",
        "legal_basis": "Public interest.",
        "outputs": "A paper.",
        "lead": "outsider",
        "starts": office.governance.now().date().isoformat(),
        "ends": f"{year}-06-30",
        "table-0-columns": columns[:2],
        f"table-0-reason-{columns[0]}": "To follow a person.",
        f"table-0-reason-{columns[1]}": "The outcome.",
    }
    page = send(office, edit, "edit", "application.edit", **filled)
    assert "Saved." in page and "Still missing" not in page
    assert form_of(page, "edit")["table-0-columns"] == columns[:2]
    assert "Submitted. A data custodian checks it now." in send(office, read, "submit", "application.submit")
    office.log_in("custodian")
    assert "Check whether the application is complete" in office.get("inbox").text
    assert "To follow a person." in office.get(read).text
    assert "returned" in send(office, read, "return", "application.return", note="Which sleep?").lower()
    office.log_in("outsider")
    assert "Which sleep?" in office.get(edit).text and "Complete your application" in office.get("inbox").text
    send(office, read, "submit", "application.submit")
    office.log_in("custodian")
    send(office, read, "check", "application.check")
    page = send(office, read, "approve", "application.approve", conditions="No small counts.", retain_days="")
    assert "Approved. The permit is in force" in page
    office.log_in("outsider")
    assert "No small counts." in office.get("projects/naps").text
    assert f"30 June {year}" in office.get("projects/naps").text
    assert "in force" in office.get("projects/naps/permit").text
    page = send(office, "projects/naps/applications", "amend", "application.amend")
    assert "The draft begins with what is in force." in page
    send(office, "applications/naps/2/edit", "edit", "application.edit", **{"table-0-columns": columns[:1]})
    assert f"<del><code>{columns[1]}</code></del>" in office.get("applications/naps/2").text


def test_a_fault_in_a_draft_keeps_all_that_was_typed(office: Office) -> None:
    office.log_in("outsider")
    send(office, "applications/new", "begin", "application.begin", title="Sleep", project="naps", dataset="")
    send(office, "applications/naps/1/edit", "edit", "application.edit", add="yes")
    change = {"purpose": "Written for an hour", "table-0-rows": "age is large"}
    page = send(office, "applications/naps/1/edit", "edit", "application.edit", **change)
    assert 'href="#edit-table-0-rows"' in page and "Written for an hour" in page and "age is large" in page
    assert asks(office, "outsider", "application.read", project="naps", number=1).content.purpose == ""


def test_a_decision_on_what_changed_meanwhile_is_not_taken(office: Office) -> None:
    now = office.governance.now()
    (table,) = office.governance.catalogue("outsider")[0].tables
    column = {"name": table.columns[0].name, "reason": "To follow."}
    tables = [{"dataset": table.dataset, "table": table.table, "columns": [column]}]
    texts = dict.fromkeys(("title", "lay_summary", "purpose", "legal_basis", "outputs"), "Naps")
    content = {**texts, "lead": "outsider", "tables": tables}
    content |= {"starts": now.isoformat(), "ends": now.replace(year=now.year + 1).isoformat()}
    asks(office, "outsider", "application.begin", project="naps", content=content)
    asks(office, "outsider", "application.submit", project="naps", number=1)
    office.log_in("custodian")
    opened = form_of(office.get("applications/naps/1").text, "check")
    asks(office, "custodian", "application.return", project="naps", number=1, note="Which?")
    more = {**content, "purpose": "Something else"}
    asks(office, "outsider", "application.edit", project="naps", number=1, content=more)
    asks(office, "outsider", "application.submit", project="naps", number=1)
    page = office.client.post(f"{PREFIX}act/application.check", data=opened).text
    assert "changed since you opened it" in page
    assert asks(office, "custodian", "application.read", project="naps", number=1).state == "submitted"
    # negative control: what is open shows how it stands, and is taken
    assert "It is complete." in send(office, "applications/naps/1", "check", "application.check")


# -- texts of the deployment -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "[x](javascript:alert(1))",
        '<img src=x onerror="alert(1)">',
        "![x](data:text/html,1)",
    ],
)
def test_a_text_of_the_deployment_is_never_a_script(text: str) -> None:
    made = written(text)
    assert "<script" not in made and "<img src=x" not in made
    assert 'href="javascript' not in made and 'src="data:text/html' not in made


def test_headings_of_the_terms_stand_below_the_pages() -> None:
    assert written("# Terms\n\n## One") == "<h3>Terms</h3>\n<h4>One</h4>\n"


# -- after the end ---------------------------------------------------------------------------------------
def test_after_the_end_its_lead_asks_for_more_time_in_both_languages(office: Office) -> None:
    here = slug(office)
    ends = office.governance.project(here).ends
    office.here.clock.now = ends
    french = {"Accept-Language": "fr"}
    home = office.get("", "lead").text
    assert f'href="{PREFIX}projects/{here}/applications">Ask for more time</a>' in home
    assert "closes by itself on" in office.get(f"projects/{here}").text
    assert "sera clos de lui-même le" in office.get(f"projects/{here}", **french).text
    page = office.get(f"projects/{here}/applications").text
    assert 'value="renewal"' in page and 'value="amendment"' not in page
    assert "Demandez une prolongation, ou le projet sera clos" in office.get("inbox", **french).text
    assert "The draft begins with what is in force" in send(
        office, f"projects/{here}/applications", "renew", "application.amend"
    )
    assert office.get(f"projects/{here}", "researcher").status_code == 404
    assert "closes by itself on" in office.get(f"projects/{here}", "custodian").text
    office.here.clock.pass_(30)
    assert office.governance.close_lapsed() == 1
    assert office.get(f"projects/{here}", "lead").status_code == 404
    assert f"projects/{here}/applications" not in office.get("").text
    told = office.get(f"projects/{here}/activity", "custodian", **french).text
    assert "Projet clos, car sa durée était écoulée" in told


def test_what_the_authority_says_is_french_on_a_french_page(office: Office) -> None:
    """From the form to the page that follows; what was typed stays what it was, and stays text."""
    here = slug(office)
    office.log_in("lead")
    office.client.headers["Accept-Language"] = "fr"
    page = send(office, f"projects/{here}/people", "invite", "member.invite", person="nobody-here")
    assert "il n’y a pas de personne « nobody-here »" in page and "there is no person" not in page
    page = send(office, f"projects/{here}/people", "invite", "member.invite", person="<b>x</b>")
    assert "<b>x</b>" not in page
    page = send(office, f"projects/{here}/people", "invite", "member.invite", person="outsider", ends="2020-01-31")
    assert "une inscription doit se terminer dans l’avenir" in page

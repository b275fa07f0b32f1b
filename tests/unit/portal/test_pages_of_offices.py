"""The pages for people in office, on the real authority: who reads what, is offered what, and takes what away."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from orchestrator.audit import AuditLog
from orchestrator.config import Settings
from orchestrator.errors import AuditError
from orchestrator.governance.authority import authority_of, portal_app
from orchestrator.governance.cards import Machine, NodeReport, SessionUsage
from orchestrator.governance.client import AsyncAuthorityClient
from orchestrator.governance.identity import OPERATOR
from orchestrator.governance.service import Governance
from orchestrator.governance.states import PlatformRole
from orchestrator.governance.store import Store
from orchestrator.portal import spreadsheet
from orchestrator.portal.application import Portal
from orchestrator.portal.hub import PREFIX
from orchestrator.portal.pages import audit as audit_page
from orchestrator.portal.pages import people as people_page
from orchestrator.terms import Event, Outcome, SessionClaim
from tests.unit.governance.places import AUDIT_KEY, GRANT_KEY, Clock, Place, Shelf, place, running
from tests.unit.portal.test_application import Hub

FORMULA = "=HYPERLINK(0)"


class Office:
    """A portal on a real authority, and a browser that logs in as anybody."""

    def __init__(self, client: TestClient, here: Place, authority: AsyncAuthorityClient) -> None:
        self.client, self.here, self.authority = client, here, authority

    @property
    def governance(self) -> Governance:
        return self.here.governance

    def log_in(self, person: str) -> None:
        self.client.cookies.clear()
        first = self.client.get(PREFIX, follow_redirects=False)
        state = re.search(r"state=([\w-]+)", first.headers["location"])
        assert state is not None
        self.client.get(f"{PREFIX}oauth_callback?code={person}&state={state[1]}", follow_redirects=False)

    def get(self, path: str, person: str = "", **headers: str) -> httpx.Response:
        if person:
            self.log_in(person)
        return self.client.get(PREFIX + path, headers=headers)

    def act(self, operation: str, page: str, **fields: str) -> str:
        """Send the form that the page has for the operation; returns the page that follows."""
        text = self.get(page).text
        form = re.search(rf'<form[^>]*action="{PREFIX}act/{operation}"[^>]*>(.*?)</form>', text, re.DOTALL)
        assert form is not None, f"{page} has no form for {operation}"
        hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form[1]))
        return self.client.post(f"{PREFIX}act/{operation}", data={**hidden, **fields}).text


class _Hub(Hub):
    """Lets anybody in by name."""

    async def person_of(self, token: str) -> str | None:
        return token.removeprefix("token-of-")


@dataclass(frozen=True)
class Listed:
    """The table and its dataset at once, as the catalogue lists them."""

    name: str
    table: str
    title: dict[str, str]
    columns: tuple[Any, ...]
    description: str = "Visits to a doctor."
    version: int = 1
    rows: int = 100

    @property
    def tables(self) -> tuple[Listed, ...]:
        return (self,)


class Catalogue(Shelf):
    """The dataset of the other tests, as a list."""

    def datasets(self) -> list[Listed]:
        return [Listed(*names, table.title, table.columns) for names, table in self.tables.items()]


@pytest.fixture(scope="module")
def prepared() -> Iterator[Path]:
    """A deployment with people of every office and a project, made once and copied for each test."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        here = place(Path(name) / "first")
        running(here.governance)
        here.governance.add_person(OPERATOR, "reviewer", "Reviewer")
        here.governance.add_role(OPERATOR, "reviewer", PlatformRole.REVIEWER)
        here.store.close()
        yield Path(name) / "first"


def opened(folder: Path) -> Place:
    """The deployment in a folder, as a new process opens it."""
    clock = Clock()
    store = Store(f"sqlite:///{next(folder.glob('*.sqlite*'))}")
    audit = AuditLog(folder / "audit", AUDIT_KEY, clock=clock)
    return Place(Governance(store, audit, clock, Catalogue()), store, audit, clock)


@pytest.fixture
def office(prepared: Path) -> Iterator[Office]:
    folder = prepared.parent / uuid.uuid4().hex
    shutil.copytree(prepared, folder)
    here = opened(folder)
    settings = Settings.model_validate(
        {
            "deployment": "clinic",
            "state": str(folder),
            "public_url": "https://bulle.example.org",
            "oidc": {"issuer": "https://login.example.org", "client_id": "b", "client_secret_file": "/x"},
        }
    )
    client = AsyncAuthorityClient(folder / "no-socket")
    inside = httpx.ASGITransport(app=portal_app(authority_of(settings, here.governance, GRANT_KEY)))
    client._http = httpx.AsyncClient(transport=inside, base_url="http://authority")
    app = Portal(settings, _Hub(), client).application()  # type: ignore[arg-type]
    with TestClient(app, base_url="https://bulle.example.org", raise_server_exceptions=False) as browser:
        yield Office(browser, here, client)
    here.store.close()
    shutil.rmtree(folder)


def cells(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text.removeprefix(spreadsheet.BYTE_ORDER_MARK), newline="")))


# -- who reads what ------------------------------------------------------------------------------------------
READERS = {
    "projects": {"custodian", "reviewer", "auditor", "admin"},
    "people": {"custodian", "auditor", "admin"},
    "people/researcher": {"custodian", "auditor", "admin", "lead", "researcher"},
    "catalogue": {"custodian", "reviewer", "auditor", "admin", "lead", "researcher", "outsider"},
    "catalogue/visits": {"custodian", "reviewer", "auditor", "admin", "lead", "researcher", "outsider"},
    "audit": {"auditor"},
    "audit?since=2026-01-01": {"auditor"},
    "audit/records.csv": {"auditor"},
    "audit/records.jsonl": {"auditor"},
    "platform": {"auditor", "admin"},
    "usage": {"custodian", "reviewer", "auditor", "admin", "lead", "researcher", "outsider"},
    "usage/usage.csv": {"custodian", "reviewer", "auditor", "admin", "lead", "researcher", "outsider"},
}


@pytest.mark.parametrize("person", ["custodian", "reviewer", "auditor", "admin", "lead", "researcher", "outsider"])
def test_each_page_opens_to_who_may_read_it_and_to_nobody_else(office: Office, person: str) -> None:
    office.log_in(person)
    for path, readers in READERS.items():
        answer = office.get(path)
        assert answer.status_code == (200 if person in readers else 403), (path, person, answer.text[-600:])


@pytest.mark.parametrize("path", ["people/nobody-here", "catalogue/nothing", "catalogue/..%2f..", "audit/records.xls"])
def test_what_is_not_there_is_not_there(office: Office, path: str) -> None:
    assert office.get(path, "auditor").status_code == 404


# -- people --------------------------------------------------------------------------------------------------
def test_people_come_a_page_at_a_time(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people_page, "_PAGE", 3)
    page, seen = office.get("people", "admin").text, []
    for _ in range(10):
        seen += re.findall(rf'<th scope="row"><a href="{PREFIX}people/([\w-]+)"', page)
        more = re.search(rf'href="{PREFIX}(people\?after=[\w-]+)"', page)
        if more is None:
            break
        page = office.get(more[1]).text
    everybody = [person.id for person in office.governance.people("admin")]
    assert seen == everybody and len(seen) > 6


def test_people_are_found_by_a_word(office: Office) -> None:
    page = office.get("people?search=RESEARCH", "admin").text
    assert f"{PREFIX}people/researcher" in page and f"{PREFIX}people/custodian" not in page
    assert "Nobody fits." in office.get("people?search=zzz").text


def test_a_search_from_outside_stays_text(office: Office) -> None:
    page = office.get('people?search="><script>alert(1)</script>', "admin").text
    assert "<script>alert" not in page and "&#34;&gt;&lt;script&gt;" in page


OFFERED = {
    # who reads → operations that a person's page has a form for
    "admin": {"person.describe", "role.add", "training.confirm", "person.disable"},
    "custodian": {"person.describe", "training.confirm"},
    "auditor": set(),
    "lead": {"training.confirm"},
    "researcher": set(),
}


def offered(page: str) -> set[str]:
    return set(re.findall(rf'action="{PREFIX}act/([a-z.]+)"', page))


@pytest.mark.parametrize("person", OFFERED)
def test_a_persons_page_offers_what_the_rules_allow(office: Office, person: str) -> None:
    office.governance.declare_training("researcher", "A further course", office.here.clock.now.date())
    assert offered(office.get("people/researcher", person).text) == OFFERED[person]


def test_an_administrator_is_not_offered_roles_for_themselves(office: Office) -> None:
    assert "role.add" not in offered(office.get("people/admin", "admin").text)
    refused = office.client.post(
        f"{PREFIX}act/role.add", data={**carried(office, "people/admin"), "person": "admin", "role": "reviewer"}
    )
    assert "You cannot decide this for yourself." in refused.text
    assert PlatformRole.REVIEWER not in office.governance.person("admin").roles


def carried(office: Office, page: str) -> dict[str, str]:
    """What every form of a session carries."""
    text = office.get(page).text
    token = re.search(r'name="_token" value="([\w-]+)"', text)
    assert token is not None
    return {"_token": token[1], "_form": "x", "_from": PREFIX + page, "_next": PREFIX + page}


def test_roles_are_given_and_taken(office: Office) -> None:
    office.log_in("admin")
    page = office.act("role.add", "people/outsider", role="reviewer")
    assert "The role was given." in page and office.governance.person("outsider").roles == (PlatformRole.REVIEWER,)
    page = office.act("role.remove", "people/outsider")
    assert "The role was taken away." in page and office.governance.person("outsider").roles == ()


def test_roles_that_do_not_go_together_are_refused_in_words(office: Office) -> None:
    office.log_in("admin")
    office.act("role.add", "people/custodian2", role="auditor")
    assert office.governance.person("custodian2").roles == (PlatformRole.CUSTODIAN,)


def test_an_account_is_disabled_and_enabled(office: Office) -> None:
    office.log_in("admin")
    assert "The account is disabled." in office.act("person.disable", "people/researcher")
    assert office.governance.person("researcher").disabled
    assert "The account is enabled." in office.act("person.enable", "people/researcher")
    assert not office.governance.person("researcher").disabled


def test_an_external_partner_is_described_and_shown(office: Office) -> None:
    office.log_in("custodian")
    office.act("person.describe", "people/researcher", external="yes", affiliation="University of the North")
    card = office.governance.person("researcher")
    assert (card.external, card.affiliation) == (True, "University of the North")
    assert "University of the North" in office.get("people").text
    office.act("person.describe", "people/researcher", external="no", affiliation="")
    assert not office.governance.person("researcher").external


def test_a_training_is_confirmed_by_somebody_else(office: Office) -> None:
    office.governance.declare_training("researcher", "A further course", office.here.clock.now.date())
    office.log_in("lead")
    assert "The training is confirmed." in office.act("training.confirm", "people/researcher")
    assert "training.confirm" not in offered(office.get("people/researcher").text)
    office.governance.declare_training("lead", "A further course", office.here.clock.now.date())
    assert "training.confirm" not in offered(office.get("people/lead").text)


def test_a_person_is_added_before_their_first_login(office: Office) -> None:
    office.log_in("admin")
    page = office.act("person.add", "people", subject="newcomer", display_name="Newcomer", email="")
    assert "The person was added." in page and office.governance.person("newcomer").display_name == "Newcomer"


# -- projects and catalogue ----------------------------------------------------------------------------------
def test_all_projects_are_listed_by_state_and_word(office: Office) -> None:
    assert ">Sleep</a>" in office.get("projects", "auditor").text
    assert ">Sleep</a>" in office.get("projects?search=sle&state=active").text
    for query in ("search=nothing", "state=closed"):
        page = office.get(f"projects?{query}").text
        assert ">Sleep</a>" not in page and "No project fits." in page
    assert ">Sleep</a>" in office.get("projects?state=no-such-state").text


def test_the_catalogue_shows_columns_and_no_row(office: Office) -> None:
    page = office.get("catalogue/visits", "researcher").text
    assert "<code>docvis</code>" in page and "Meaning" in page and f"{PREFIX}projects/sleep" in page
    assert f"{PREFIX}applications/new?dataset=visits" in page
    assert "Signification" in office.get("catalogue/visits", **{"Accept-Language": "fr"}).text
    assert f"{PREFIX}projects/sleep" not in office.get("catalogue/visits", "outsider").text


# -- the audit log -------------------------------------------------------------------------------------------
def numbers(page: str) -> list[int]:
    return [int(found) for found in re.findall(r'<th scope="row" class="figure">(\d+)</th>', page)]


def test_the_log_is_read_newest_first_and_page_by_page(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_page, "_PAGE", 7)
    page, seen = office.get("audit", "auditor").text, []
    for _ in range(20):
        seen += numbers(page)
        more = re.search(rf'href="{PREFIX}(audit\?before=\d+)" rel="next"', page)
        if more is None:
            break
        page = office.get(more[1]).text
    assert seen == list(range(seen[0], 0, -1)) and len(seen) > audit_page._PAGE


def test_the_log_says_how_many_records_there_are(office: Office) -> None:
    page = office.get("audit", "auditor").text
    head = office.here.audit.head().seq
    assert f"The log holds {head} records." in page and numbers(page)[0] == head


@pytest.mark.parametrize(
    ("query", "kinds"),
    [
        ("kind=permit.approve", {"permit.approve"}),
        ("kind=permit.", {"permit.draft", "permit.approve"}),
        ("person=researcher&kind=member.", {"member.request", "member.approve"}),
        ("project=sleep&kind=project.&outcome=done", {"project.create", "project.activate"}),
        ("since=2026-01-01&until=2026-01-01&kind=permit.draft", {"permit.draft"}),
        ("until=2025-12-31", set()),
        ("since=2026-01-02&kind=permit.", set()),
    ],
)
def test_filters_narrow(office: Office, query: str, kinds: set[str]) -> None:
    page = office.get(f"audit?{query}", "auditor").text
    assert set(re.findall(r'<td data-name="Kind"><code>([\w.-]+)</code>', page)) == kinds


@pytest.mark.parametrize("query", ["since=yesterday", "until=2026-02-30", "outcome=perhaps", "kind=" + "x" * 90])
def test_a_filter_that_is_not_understood_shows_nothing_and_says_so(office: Office, query: str) -> None:
    """Left out in silence, it would show more than was asked for."""
    answer = office.get(f"audit?{query}", "auditor")
    assert answer.status_code == 422 and numbers(answer.text) == [] and 'role="alert"' in answer.text
    for form in ("csv", "jsonl"):
        assert office.get(f"audit/records.{form}?{query}").status_code == 422


def test_to_whom_the_log_is_closed_it_says_nothing_of_days(office: Office) -> None:
    assert office.get("audit?since=yesterday", "admin").status_code == 403


def many_records(office: Office, count: int) -> None:
    for number in range(count):
        office.here.audit.record(
            Event(
                kind="workspace.start",
                actor="node-agent",
                outcome=Outcome.DONE,
                person=FORMULA,
                detail={"title": FORMULA, "number": number},
            )
        )


def test_an_export_holds_every_record_that_fits_and_runs_nothing(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_page, "_PIECE", 20)
    many_records(office, 45)
    answer = office.get("audit/records.csv?kind=workspace.", "auditor")
    assert (
        answer.headers["content-type"].startswith("text/csv") and "attachment" in answer.headers["content-disposition"]
    )
    lines = cells(answer.text)
    assert len(lines) == 45 and len({line["seq"] for line in lines}) == 45
    assert {line["person"] for line in lines} == {"'" + FORMULA}
    assert sorted(json.loads(line["detail"])["number"] for line in lines) == list(range(45))
    objects = [json.loads(line) for line in office.get("audit/records.jsonl?kind=workspace.").text.splitlines()]
    assert len(objects) == 45 and {found["person"] for found in objects} == {FORMULA}


def test_negative_control_without_the_apostrophe_a_formula_leaves(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spreadsheet, "_FORMULA", ("\0",))
    with pytest.raises(AssertionError):
        test_an_export_holds_every_record_that_fits_and_runs_nothing(office, monkeypatch)


def test_taking_the_log_away_is_in_the_log_first(office: Office) -> None:
    text = office.get("audit/records.jsonl?kind=permit.", "auditor").text
    assert text
    told = [record.event for record in office.here.audit.read() if record.event.kind == "page.export"]
    assert [(event.actor, event.detail) for event in told] == [
        ("portal:auditor", {"what": "audit", "as": "jsonl", "kind": "permit."})
    ]


def test_without_its_record_nothing_is_taken_away(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(event: Event) -> int:
        raise AuditError("the disk is full")

    monkeypatch.setattr(office.authority, "record", full)
    answer = office.get("audit/records.jsonl", "auditor")
    assert answer.status_code >= 500 and "permit.approve" not in answer.text


def test_an_export_that_breaks_off_does_not_look_whole(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_page, "_PIECE", 20)
    office.log_in("auditor")
    call = AsyncAuthorityClient.call

    async def breaks(self: AsyncAuthorityClient, name: str, by: str, **arguments: Any) -> Any:
        if arguments.get("before") is not None:
            raise AuditError("a line is not a record")
        return await call(self, name, by, **arguments)

    monkeypatch.setattr(AsyncAuthorityClient, "call", breaks)
    client = TestClient(office.client.app, base_url="https://bulle.example.org", cookies=office.client.cookies)
    with pytest.raises((AuditError, RuntimeError)):
        client.get(f"{PREFIX}audit/records.jsonl")


# -- usage and health ----------------------------------------------------------------------------------------
def used(office: Office, title: str = "Sleep") -> None:
    now = office.here.clock.now
    (project,) = [each for each in office.governance.projects() if each.slug == "sleep"]
    machine = Machine(cpus=8, load=2, memory_total_gb=64, memory_free_gb=32, storage_total_gb=900, storage_free_gb=90)
    session = SessionUsage(
        session="a" * 32,
        month=f"{now:%Y-%m}",
        project_id=project.id,
        person="researcher",
        began=now - timedelta(hours=2),
        seen=now,
        seconds=7200,
        cpu_seconds=3600,
        memory_gb_seconds=7200,
    )
    claim = SessionClaim(session="a" * 32, person="researcher", project_id=project.id, permit_version=1)
    office.governance.heard([claim])
    office.governance.record_usage(NodeReport(machine=machine, sessions=(session,)))


def test_usage_is_shown_and_taken_away_by_line(office: Office) -> None:
    used(office)
    month = f"{office.here.clock.now:%Y-%m}"
    page = office.get(f"usage?month={month}", "admin").text
    assert "Researcher" in page and "Total" in page
    (line,) = cells(office.get(f"usage/usage.csv?month={month}").text)
    assert (line["month"], line["project"], line["person"], float(line["hours"])) == (month, "sleep", "researcher", 2.0)


def test_one_sees_ones_own_usage_and_not_that_of_others(office: Office) -> None:
    used(office)
    month = f"{office.here.clock.now:%Y-%m}"
    assert len(cells(office.get(f"usage/usage.csv?month={month}", "researcher").text)) == 1
    assert cells(office.get(f"usage/usage.csv?month={month}", "outsider").text) == []


@pytest.mark.parametrize("project", ["nothing", '"; filename=x.exe', "é", "../x"])
@pytest.mark.parametrize("page", ["usage", "usage/usage.csv"])
def test_usage_of_what_is_not_ones_own_or_not_there_is_refused(office: Office, page: str, project: str) -> None:
    office.log_in("outsider")
    answer = office.client.get(f"{PREFIX}{page}", params={"project": project})
    assert answer.status_code in (403, 404, 422) and "content-disposition" not in answer.headers
    assert office.client.get(f"{PREFIX}{page}", params={"project": "sleep"}).status_code in (403, 404)


def test_a_quota_is_set_by_who_may_and_shown_as_text_and_bar(office: Office) -> None:
    used(office)
    month = f"{office.here.clock.now:%Y-%m}"
    office.log_in("custodian")
    text = office.get(f"usage?month={month}&project=sleep").text
    form = re.search(r'<form[^>]*id="quota-hours"[^>]*>(.*?)</form>', text, re.DOTALL)
    assert form is not None
    hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form[1].replace("&amp;", "&")))
    page = office.client.post(f"{PREFIX}act/quota.set", data={**hidden, "most": "4"}).text
    assert "Set. It holds from now on." in page and "2 of 4" in page and '<meter aria-labelledby="meter-hours"' in page
    assert "quota.set" not in offered(office.get(f"usage?month={month}&project=sleep", "lead").text)


@pytest.mark.parametrize("month", ["2026-13", "yesterday", "0000-01"])
def test_a_month_that_is_none_is_said_so(office: Office, month: str) -> None:
    assert office.get(f"usage?month={month}", "admin").status_code in (422, 404)


def test_health_says_what_runs_and_since_when_the_machine_is_silent(office: Office) -> None:
    assert "has not been heard" in office.get("platform", "admin").text
    used(office)
    page = office.get("platform").text
    assert "The node agent is silent." in page, "the clock of this test stands still"
    office.here.clock.now = datetime.now(UTC)
    used(office)
    page = office.get("platform").text
    assert "answers" in page and f"{PREFIX}people/researcher" in page and "32 of 64" in page

"""The portal's routes: who gets in, what a form needs, what a page shows and what it never does."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from orchestrator.config import Settings
from orchestrator.errors import IsolationError, NotFoundError, RefusedError, UnavailableError
from orchestrator.governance.cards import (
    Account,
    ColumnCard,
    DeploymentCard,
    PermitCard,
    PersonCard,
    ProjectCard,
    TableCard,
    WhyNot,
)
from orchestrator.governance.states import MemberRole, MembershipState, PlatformRole, ProjectState
from orchestrator.portal.application import OPEN, SESSION_COOKIE, Portal
from orchestrator.portal.hub import PREFIX, Server

UNTIL = datetime(2027, 3, 3, tzinfo=UTC)
#: what stands in the addresses of routes
PLACES = {
    "slug": "doctor-visits",
    "code": "fr",
    "operation": "member.accept",
    "number": "1",
    "version": "1",
    "person": "bob",
    "dataset": "rwm5yr",
}
DANGEROUS = "<script>alert(1)</script>"


def project(slug: str = "doctor-visits", **change: Any) -> ProjectCard:
    columns = (
        ColumnCard(
            name="id", role="identifier", type="integer", description={"en": "Person", "fr": "Personne"}, transform=None
        ),
        ColumnCard(name="age", role="quasi-identifier", type="integer", description="Age", transform="band 5"),
        ColumnCard(name="visit", role="date", type="date", description="", transform="year"),
    )
    table = TableCard(
        dataset="rwm5yr",
        table="rwm5yr",
        title={"en": "Visits", "fr": "Visites"},
        rows_filter=("age >= 40", "sex in f, m"),
        columns=columns,
    )
    values: dict[str, Any] = {
        "slug": slug,
        "title": f"Study of {slug}",
        "purpose": DANGEROUS,
        "role": MemberRole.MEMBER,
        "project_state": ProjectState.ACTIVE,
        "membership_state": MembershipState.ACTIVE,
        "membership_ends": UNTIL,
        "permit": PermitCard(version=3, valid_from=UNTIL, valid_until=UNTIL, tables=(table,)),
        "may_open": True,
        "why_not": None,
    }
    return ProjectCard(**{**values, **change})


def account(**change: Any) -> Account:
    values: dict[str, Any] = {
        "person": PersonCard(id="ada", subject="ada", display_name="Dr ada", email="", disabled=False, roles=()),
        "terms_version": "1",
        "terms": {"en": "Be careful.", "fr": "Soyez prudents."},
        "terms_accepted_at": UNTIL,
        "training_required": True,
        "trainings": (),
        "training_until": UNTIL,
    }
    return Account(**{**values, **change})


class Authority:
    """The authority's answers."""

    def __init__(self) -> None:
        self.cards = [project()]
        self.roles: tuple[PlatformRole, ...] = ()
        self.embedded = True
        self.down = False
        #: what each operation answers, or raises; and what was called
        self.answers: dict[str, Any] = {"inbox.read": [], "account.read": account()}
        self.called: list[tuple[str, str, dict[str, Any]]] = []
        self.signatures: list[Any] = []
        self.prepared: Any = None

    async def perform(
        self, name: str, arguments: dict[str, Any], *, by: str | None = None, signature: Any = None
    ) -> Any:
        assert by is not None
        self.signatures.append(signature)
        return await self.call(name, by, **arguments)

    async def prepare(self, by: str, operation: str, arguments: dict[str, Any]) -> Any:
        if isinstance(self.prepared, Exception):
            raise self.prepared
        return self.prepared

    async def call(self, name: str, by: str, /, **arguments: Any) -> Any:
        if self.down:
            raise UnavailableError("the authority does not answer")
        self.called.append((name, by, arguments))
        answer = self.answers.get(name, NotFoundError(f"nothing answers {name}"))
        if isinstance(answer, Exception):
            raise answer
        return answer(**arguments) if callable(answer) else answer

    async def person(self, person: str) -> PersonCard:
        if self.down:
            raise UnavailableError("the authority does not answer")
        return PersonCard(
            id=person, subject=person, display_name=f"Dr {person} & co", email="", disabled=False, roles=self.roles
        )

    async def projects(self, person: str) -> list[ProjectCard]:
        return self.cards

    async def deployment(self) -> DeploymentCard:
        return DeploymentCard(deployment="clinic", embedded_custodian=self.embedded)

    async def close(self) -> None:
        pass


class Hub:
    """The hub's answers."""

    def __init__(self) -> None:
        self.tokens = {"token-of-ada": "ada", "token-of-bob": "bob"}
        self.running: dict[str, Server] = {}
        self.asked: list[tuple[str, ...]] = []
        self.events: list[dict[str, Any]] = []
        self.fault: Exception | None = None

    def new_verifier(self) -> tuple[str, str]:
        return "verifier", "challenge"

    def login_url(self, state: str, challenge: str) -> str:
        return f"/hub/api/oauth2/authorize?state={state}&code_challenge={challenge}"

    async def token_for(self, code: str, verifier: str) -> str:
        assert verifier == "verifier"
        return f"token-of-{code}"

    async def person_of(self, token: str) -> str | None:
        return self.tokens.get(token)

    async def servers(self, token: str, person: str) -> dict[str, Server]:
        return self.running

    async def start(self, token: str, person: str, slug: str) -> None:
        self.asked.append(("start", token, person, slug))
        await asyncio.sleep(0)
        if self.fault is not None:
            raise self.fault

    async def stop(self, token: str, person: str, slug: str) -> None:
        self.asked.append(("stop", token, person, slug))

    async def progress(self, token: str, person: str, slug: str) -> AsyncGenerator[dict[str, Any]]:
        if not self.events:
            raise NotFoundError("nothing is starting")
        for event in self.events:
            yield event

    async def close(self) -> None:
        pass


class World:
    """A portal, what stands behind it, and a browser in front."""

    def __init__(self, client: TestClient, hub: Hub, authority: Authority, app: Starlette) -> None:
        self.client, self.hub, self.authority, self.app = client, hub, authority, app

    def log_in(self, code: str = "ada") -> None:
        first = self.client.get(PREFIX, follow_redirects=False)
        state = re.search(r"state=([\w-]+)", first.headers["location"])
        assert state is not None
        back = self.client.get(f"{PREFIX}oauth_callback?code={code}&state={state[1]}", follow_redirects=False)
        assert (back.status_code, back.headers["location"]) == (302, PREFIX)

    def form_token(self) -> str:
        found = re.search(r'name="_token" value="([\w-]+)"', self.client.get(PREFIX).text)
        assert found is not None
        return found[1]

    def post(self, path: str, **fields: str) -> Any:
        return self.client.post(PREFIX + path, data=fields, follow_redirects=False)

    def heard(self, slug: str = "doctor-visits") -> list[dict[str, Any]]:
        text = self.client.get(f"{PREFIX}start/{slug}/events").text
        return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


@contextmanager
def a_world(tmp_path: Path) -> Iterator[World]:
    settings = Settings.model_validate(
        {
            "deployment": "clinic",
            "state": str(tmp_path),
            "public_url": "https://bulle.example.org",
            "oidc": {"issuer": "https://login.example.org", "client_id": "b", "client_secret_file": "/x"},
        }
    )
    hub, authority = Hub(), Authority()
    app = Portal(settings, hub, authority).application()  # type: ignore[arg-type]
    with TestClient(app, base_url="https://bulle.example.org", raise_server_exceptions=False) as client:
        yield World(client, hub, authority, app)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path) as made:
        yield made


def routes(app: Starlette) -> list[tuple[str, str, str]]:
    """Name, method and an address of every route."""
    (mount,) = app.routes
    assert isinstance(mount, Mount)
    found = []
    for route in mount.routes or ():
        if isinstance(route, Route):
            path = mount.path + re.sub(r"{(\w+)(?::\w+)?}", lambda found: PLACES[found[1]], route.path)
            found += [(str(route.name), method, path) for method in sorted(route.methods or ())]
        elif isinstance(route, Mount):
            found.append((str(route.name), "GET", f"{mount.path}{route.path}/bulle.css"))
    return found


# -- who gets in -----------------------------------------------------------------------------------------
def test_every_route_that_is_not_open_sends_a_stranger_away(world: World) -> None:
    closed = [route for route in routes(world.app) if route[0] not in OPEN]
    assert len(closed) >= 9
    for name, method, path in closed:
        answer = world.client.request(method, path, follow_redirects=False)
        assert answer.status_code in (302, 403), (name, method)
        if answer.status_code == 302:
            assert answer.headers["location"].startswith("/hub/api/oauth2/authorize?"), name
    assert world.hub.asked == []


def test_a_made_up_session_is_a_stranger(world: World) -> None:
    world.client.cookies.set(SESSION_COOKIE, "guessed", path=PREFIX)
    assert world.client.get(PREFIX, follow_redirects=False).status_code == 302


def test_a_session_that_was_planted_before_the_login_is_not_the_one_after_it(world: World) -> None:
    """Session fixation: who knows the id that a browser had before must not share the login."""
    world.log_in("bob")
    planted = world.client.cookies[SESSION_COOKIE]
    world.client.cookies.clear()
    world.client.cookies.set(SESSION_COOKIE, "planted", path=PREFIX)
    world.log_in("ada")
    ids = {cookie.value for cookie in world.client.cookies.jar if cookie.name == SESSION_COOKIE} - {"planted"}
    assert len(ids) == 1 and planted not in ids
    world.client.cookies.clear()
    world.client.cookies.set(SESSION_COOKIE, "planted", path=PREFIX)
    assert world.client.get(PREFIX, follow_redirects=False).status_code == 302
    world.client.cookies.set(SESSION_COOKIE, planted, path=PREFIX)
    assert "Dr bob" in world.client.get(PREFIX).text, "another login is another person's still"


def test_a_login_leads_back_to_where_it_began(world: World) -> None:
    first = world.client.get(f"{PREFIX}about", follow_redirects=False)
    state = re.search(r"state=([\w-]+)", first.headers["location"])
    assert state is not None
    back = world.client.get(f"{PREFIX}oauth_callback?code=ada&state={state[1]}", follow_redirects=False)
    assert back.headers["location"] == f"{PREFIX}about"
    cookie = next(value for value in back.headers.get_list("set-cookie") if value.startswith(SESSION_COOKIE + "="))
    for word in ("HttpOnly", "Secure", "SameSite=lax", f"Path={PREFIX}"):
        assert word in cookie
    assert "token-of-ada" not in str(back.headers), "the hub's token never reaches a browser"


def test_a_login_that_another_browser_began_is_not_finished(world: World) -> None:
    """Otherwise a link could log a victim in as the attacker."""
    first = world.client.get(PREFIX, follow_redirects=False)
    state = re.search(r"state=([\w-]+)", first.headers["location"])
    assert state is not None
    world.client.cookies.clear()
    back = world.client.get(f"{PREFIX}oauth_callback?code=ada&state={state[1]}", follow_redirects=False)
    assert SESSION_COOKIE not in str(back.headers.get_list("set-cookie"))
    assert world.client.get(PREFIX, follow_redirects=False).status_code == 302


def test_a_token_that_the_hub_took_back_ends_the_session_at_once(world: World) -> None:
    world.log_in()
    assert world.client.get(PREFIX).status_code == 200
    del world.hub.tokens["token-of-ada"]
    assert world.client.get(PREFIX, follow_redirects=False).status_code == 302


def test_a_token_of_somebody_else_under_a_session_is_not_accepted(world: World) -> None:
    world.log_in()
    world.hub.tokens["token-of-ada"] = "mallory"
    assert world.client.get(PREFIX, follow_redirects=False).status_code == 302


# -- forms -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", ["open/doctor-visits", "stop/doctor-visits", "logout"])
def test_a_form_from_elsewhere_does_nothing(world: World, path: str) -> None:
    world.log_in()
    token = world.form_token()
    assert world.post(path).status_code == 403
    assert world.post(path, _token="guessed").status_code == 403
    headers = {"Sec-Fetch-Site": "cross-site"}
    refused = world.client.post(PREFIX + path, data={"_token": token}, headers=headers, follow_redirects=False)
    assert refused.status_code == 403
    assert world.client.get(PREFIX + path, follow_redirects=False).status_code == 405
    assert world.hub.asked == []
    # negative control: with the token, the same request is done
    assert world.post(path, _token=token).status_code in (200, 303)


def test_the_token_of_another_session_does_not_fit(world: World) -> None:
    world.log_in("bob")
    stolen = world.form_token()
    world.client.cookies.clear()
    world.log_in("ada")
    assert world.post("open/doctor-visits", _token=stolen).status_code == 403


def test_a_huge_form_is_refused(world: World) -> None:
    world.log_in()
    assert world.post("logout", _token=world.form_token(), more="x" * 10_000).status_code == 403


def test_logging_out_ends_the_session_here_and_at_the_hub(world: World) -> None:
    world.log_in()
    answer = world.post("logout", _token=world.form_token())
    assert "/hub/logout" in answer.text
    assert world.client.get(PREFIX, follow_redirects=False).status_code == 302


# -- starting and stopping -------------------------------------------------------------------------------
def test_open_starts_with_the_persons_own_token_and_shows_the_steps(world: World) -> None:
    world.log_in()
    world.hub.events = [
        {"progress": 2, "message": "checking", "step": "checking", "done": 0, "total": 0},
        {"progress": 50, "message": "view", "step": "view", "done": 500, "total": 12000},
        {"progress": 60, "message": "view", "step": "view", "done": 12000, "total": 12000},
        {"progress": 98, "message": "ready", "step": "ready", "done": 0, "total": 0},
        {"progress": 100, "ready": True, "url": "https://evil.example.org", "html_message": DANGEROUS},
    ]
    answer = world.post("open/doctor-visits", _token=world.form_token())
    assert (answer.status_code, answer.headers["location"]) == (303, f"{PREFIX}start/doctor-visits")
    heard = world.heard()
    assert world.hub.asked == [("start", "token-of-ada", "ada", "doctor-visits")]
    assert heard[-1] == {"ready": True, "url": "/user/ada/doctor-visits/"}
    assert {"step": "view", "done": 12000, "total": 12000, "text": "12,000 of 12,000 rows"} in heard
    assert world.heard() == heard[-len(world.heard()) :], "a page that comes later sees it too"
    assert DANGEROUS not in json.dumps(heard)


def test_two_clicks_are_one_start(world: World) -> None:
    world.log_in()
    token = world.form_token()
    world.post("open/doctor-visits", _token=token)
    world.hub.events = [{"step": "checking"}, {"ready": True}]
    assert world.post("open/doctor-visits", _token=token).status_code == 303


@pytest.mark.parametrize(
    ("fault", "title"),
    [
        (RefusedError("the membership has expired"), "This workspace may not be opened"),
        (IsolationError("tcp 192.0.2.1:443 answered"), "The isolation test failed, so no data was shown"),
        (UnavailableError("the node agent does not answer"), "A part that is needed does not answer"),
    ],
)
def test_a_start_that_fails_at_once_says_why(world: World, fault: Exception, title: str) -> None:
    world.log_in()
    world.hub.fault = fault
    world.post("open/doctor-visits", _token=world.form_token())
    failed = world.heard()[-1]["failed"]
    assert failed["title"] == title and failed["message"] and failed["advice"]


def test_a_start_that_fails_on_the_way_says_why_in_the_readers_language(world: World) -> None:
    world.log_in()
    world.client.headers["Accept-Language"] = "fr"
    told = {"code": "isolation", "message": "tcp 192.0.2.1:443 answered", "hint": None}
    world.hub.events = [{"step": "proving"}, {"progress": 100, "failure": told}]
    world.post("open/doctor-visits", _token=world.form_token())
    assert world.heard()[-1]["failed"]["title"].startswith("Le test d’isolement a échoué")


def test_nothing_starting_is_said(world: World) -> None:
    world.log_in()
    assert world.heard() == [{"gone": True}]


def test_the_page_of_a_start_leads_on_when_the_workspace_is_up(world: World) -> None:
    world.log_in()
    page = world.client.get(f"{PREFIX}start/doctor-visits")
    assert page.status_code == 200 and 'data-step="proving"' in page.text
    world.hub.running = {"doctor-visits": Server("doctor-visits", True, None)}
    on = world.client.get(f"{PREFIX}start/doctor-visits", follow_redirects=False)
    assert on.headers["location"] == "/user/ada/doctor-visits/"


@pytest.mark.parametrize("slug", ["somebody-elses", "..%2f..", "A", "a" * 60])
def test_a_project_that_is_not_ones_own_is_not_there(world: World, slug: str) -> None:
    world.log_in()
    assert world.client.get(f"{PREFIX}start/{slug}").status_code == 404


def test_stop(world: World) -> None:
    world.log_in()
    assert world.post("stop/doctor-visits", _token=world.form_token()).headers["location"] == PREFIX
    assert world.hub.asked == [("stop", "token-of-ada", "ada", "doctor-visits")]


# -- pages -----------------------------------------------------------------------------------------------
def test_a_project_says_what_it_may_see(world: World) -> None:
    world.log_in()
    page = world.client.get(PREFIX).text
    for text in ("Study of doctor-visits", "2 March 2027", "/data/rwm5yr/rwm5yr.parquet", "in steps of 5", "year only"):
        assert text in page
    assert "this project’s own pseudonym" in page and "≥ <strong>40</strong>" in page and "is one of" in page
    assert "Open workspace" in page


def test_the_same_in_french(world: World) -> None:
    world.log_in()
    world.client.headers["Accept-Language"] = "fr-FR,fr;q=0.9"
    page = world.client.get(PREFIX)
    assert page.headers["content-language"] == "fr" and '<html lang="fr">' in page.text
    for text in ("Mes projets", "2 mars 2027", "Personne", "Visites", "par pas de 5", "année seulement", "parmi"):
        assert text in page.text
    assert "Open workspace" not in page.text


def test_a_project_that_is_closed_to_a_person_says_why(world: World) -> None:
    world.log_in()
    why = WhyNot(code="permit-expired", message="the project's permit has expired")
    world.authority.cards = [project(may_open=False, why_not=why)]
    page = world.client.get(PREFIX).text
    assert "The project’s permit has run out." in page and "/open/doctor-visits" not in page
    world.authority.cards = [project(may_open=False, why_not=WhyNot(code="a-new-rule", message="a rule of tomorrow"))]
    assert "a rule of tomorrow" in world.client.get(PREFIX).text


def test_a_dataset_that_went_away_hides_nothing(world: World) -> None:
    world.log_in()
    table = TableCard(
        dataset="d",
        table="t",
        title="t",
        rows_filter=(),
        columns=(ColumnCard(name="x", role="", type="", description="", transform=None),),
    )
    world.authority.cards = [
        project(permit=PermitCard(version=1, valid_from=UNTIL, valid_until=UNTIL, tables=(table,)))
    ]
    assert "All rows." in world.client.get(PREFIX).text


def test_running_and_starting_workspaces_show(world: World) -> None:
    world.log_in()
    world.hub.running = {"doctor-visits": Server("doctor-visits", True, None)}
    page = world.client.get(PREFIX).text
    assert 'href="/user/ada/doctor-visits/"' in page and "/stop/doctor-visits" in page
    world.hub.running = {"doctor-visits": Server("doctor-visits", False, "spawn")}
    assert "See it start" in world.client.get(PREFIX).text


def test_nobodys_projects(world: World) -> None:
    world.log_in()
    world.authority.cards = []
    assert "You are in no project yet" in world.client.get(PREFIX).text


def test_texts_from_outside_stay_texts(world: World) -> None:
    world.log_in()
    page = world.client.get(PREFIX).text
    assert DANGEROUS not in page and "&lt;script&gt;" in page and "Dr ada &amp; co" in page


def test_administrators_are_warned_of_the_embedded_custodian_on_every_page(world: World) -> None:
    world.log_in()
    warning = "Keys are kept in a file on this machine."
    assert warning not in world.client.get(PREFIX).text
    world.authority.roles = (PlatformRole.ADMINISTRATOR,)
    for path in ("", "about", "start/doctor-visits"):
        assert warning in world.client.get(PREFIX + path).text, path
    world.authority.embedded = False
    assert warning not in world.client.get(PREFIX).text


def test_every_answer_carries_the_policy(world: World) -> None:
    world.log_in()
    for _, method, path in routes(world.app):
        answer = world.client.request(method, path, follow_redirects=False)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy, path
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "static" in path or answer.headers["cache-control"] == "no-store", path


@pytest.mark.parametrize("path", ["nothing", "static/../application.py", "static/%2e%2e/words.py", "start/"])
def test_what_is_not_there_is_said_so(world: World, path: str) -> None:
    world.log_in()
    assert world.client.get(PREFIX + path).status_code == 404


def test_an_authority_that_is_down_is_said_so(world: World) -> None:
    world.log_in()
    world.authority.down = True
    answer = world.client.get(PREFIX)
    assert answer.status_code == 503 and "does not answer" in answer.text


# -- the language ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("referer", "to"),
    [
        (None, PREFIX),
        ("https://bulle.example.org/services/portal/about", "/services/portal/about"),
        ("https://bulle.example.org/hub/login?next=%2Fx", "/hub/login?next=%2Fx"),
        ("https://evil.example.org/services/portal/about", PREFIX),
        ("https://bulle.example.org//evil.example.org/", PREFIX),
        ("https://bulle.example.org/\\evil.example.org/", PREFIX),
        ("https://bulle.example.org/services/portal/open/x", PREFIX),
        ("https://bulle.example.org/hub/oauth_callback?code=1", PREFIX),
        ("javascript:alert(1)", PREFIX),
    ],
)
def test_a_language_is_kept_and_leads_back(world: World, referer: str | None, to: str) -> None:
    headers = {"referer": referer} if referer else {}
    answer = world.client.get(f"{PREFIX}language/fr", headers=headers, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, to)
    world.log_in()
    assert "Mes projets" in world.client.get(PREFIX).text


def test_a_language_that_is_not_offered_is_not_there(world: World) -> None:
    assert world.client.get(f"{PREFIX}language/xx").status_code == 404

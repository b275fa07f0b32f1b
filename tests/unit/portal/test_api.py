"""The REST API: its document says all that it answers, a token is all that counts, and nothing rides along."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from orchestrator.audit import AuditLog
from orchestrator.errors import (
    AuditError,
    BulleError,
    ConflictError,
    InputError,
    LoginError,
    NotFoundError,
    RefusedError,
    SecondPersonError,
    SettingsError,
    SignatureError,
    UnavailableError,
)
from orchestrator.governance.authority import MAX_BODY, Authority, BodyLimit, portal_app
from orchestrator.governance.client import AsyncAuthorityClient
from orchestrator.governance.identity import OPERATOR
from orchestrator.governance.operations import OPERATIONS, Operation, Scope
from orchestrator.governance.rules import DECISIONS
from orchestrator.governance.service import Governance
from orchestrator.governance.states import PlatformRole
from orchestrator.governance.store import Store
from orchestrator.portal import api as api_module
from orchestrator.portal.api import MOUNT, api, parts, statuses
from orchestrator.portal.hub import PREFIX
from orchestrator.portal.look import SafeHeaders
from orchestrator.terms import Value
from tests.unit.governance.places import AUDIT_KEY, GRANT_KEY, Clock, Shelf, place, running

BASE = PREFIX.rstrip("/") + MOUNT
PEOPLE = ("admin", "custodian", "custodian2", "reviewer", "auditor", "lead", "researcher", "invited", "outsider")
RAM = Path("/dev/shm")


class InProcess(AsyncAuthorityClient):
    """The portal's client, and behind it the authority in the same process."""

    def __init__(self, governance: Governance) -> None:
        super().__init__(Path("/nowhere"))
        app = portal_app(Authority(governance, GRANT_KEY, "trial", True))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://authority")


def mounted(authority: Any, **more: Any) -> Starlette:
    """The API where the portal has it."""
    app = Starlette(routes=[Mount(BASE, api(authority, **more))])
    app.add_middleware(SafeHeaders)
    return app


class Switch:
    """An authority that can be another from one test to the next, so that the document is made once."""

    behind: Any = None

    async def perform(self, name: str, arguments: Any, *, token: str | None = None) -> Any:
        """As the client has it."""
        return await self.behind.perform(name, arguments, token=token)


SWITCH = Switch()


@cache
def switched() -> Starlette:
    """The API before the switch."""
    return mounted(SWITCH)


@cache
def document() -> Any:
    """What the API says of itself, read once: schemathesis makes its cases of it."""
    return schemathesis.openapi.from_asgi(f"{BASE}/openapi.json", switched())


@dataclass
class World:
    """A deployment with a token of each of its people."""

    governance: Governance
    tokens: dict[str, str]
    app: Starlette

    def client(self, person: str | None) -> TestClient:
        """A client with the token of ``person``."""
        headers = {"Authorization": f"Bearer {self.tokens[person]}"} if person else {}
        return TestClient(self.app, base_url=f"http://portal{BASE}", headers=headers, raise_server_exceptions=False)


@pytest.fixture(name="template", scope="module")
def made_template() -> Iterator[tuple[Path, dict[str, str]]]:
    """A peopled deployment on disk, to be copied; and its tokens."""
    with tempfile.TemporaryDirectory(dir=RAM if RAM.is_dir() else None) as name:
        folder = Path(name) / "template"
        folder.mkdir()
        made = place(folder)
        running(made.governance)
        for person in ("reviewer", "invited"):
            made.governance.add_person(OPERATOR, person, person.title())
        made.governance.add_role(OPERATOR, "reviewer", PlatformRole.REVIEWER)
        made.governance.invite_member("lead", "sleep", "invited")
        tokens = {person: made.governance.create_token(person, "all", tuple(Scope), 300).secret for person in PEOPLE}
        made.store.close()
        yield folder, tokens


@pytest.fixture(name="fresh")
def copies(template: tuple[Path, dict[str, str]]) -> Iterator[Callable[[], World]]:
    """Makes worlds that are all the same at their beginning."""
    folder, tokens = template
    with tempfile.TemporaryDirectory(dir=RAM if RAM.is_dir() else None) as name:
        stores: list[Store] = []

        def fresh() -> World:
            copy = Path(name) / str(len(stores))
            shutil.copytree(folder, copy)
            store = Store(f"sqlite:///{copy / 'governance.sqlite'}")
            stores.append(store)
            clock = Clock()
            governance = Governance(store, AuditLog(copy / "audit", AUDIT_KEY, clock=clock), clock, Shelf())
            SWITCH.behind = InProcess(governance)
            return World(governance, tokens, switched())

        yield fresh
        for store in stores:
            store.close()


@pytest.fixture(name="world")
def one(fresh: Callable[[], World]) -> World:
    return fresh()


# -- the document ---------------------------------------------------------------------------------------------
NAMES = tuple(name for name, operation in OPERATIONS.items() if operation.scope is not None)
KNOWN: dict[str, st.SearchStrategy[Any]] = {
    "project": st.sampled_from(["sleep", "other"]),
    "person": st.sampled_from(PEOPLE),
    "number": st.integers(1, 2),
    "version": st.integers(1, 3),
    "training": st.integers(1, 10),
    "dataset": st.sampled_from(["visits", "none"]),
    "passkey": st.just("AAAA"),
}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


def examine(world: World, name: str, mode: str, examples: int) -> None:
    """Ask for one operation in many ways, by everybody, and hold what is answered against the document."""
    operation = document().find_operation_by_id(name)
    kind = schemathesis.GenerationMode(mode)

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=kind), person=st.sampled_from(PEOPLE), data=st.data())
    def holds(case: Any, person: str, data: Any) -> None:
        # Names made by chance are names of nothing: most cases are about what is there.
        if mode == "positive" and data.draw(st.integers(0, 4)):
            for place_ in (case.path_parameters, case.body, case.query):
                if isinstance(place_, dict):
                    place_.update({key: data.draw(KNOWN[key]) for key in place_.keys() & KNOWN.keys()})
        # An address with a line in it reaches no application at all: Starlette's Mount does not match it.
        assume(not any("\n" in str(value) for value in (case.path_parameters or {}).values()))
        response = case.call(headers={"Authorization": f"Bearer {world.tokens[person]}"})
        checks = CHECKS if mode == "positive" else [*CHECKS, negative_data_rejection]
        case.validate_response(response, checks=checks)

    holds()


@pytest.mark.parametrize("name", NAMES)
def test_no_server_error_and_nothing_undocumented(fresh: Callable[[], World], name: str) -> None:
    world = fresh()
    examine(world, name, "positive", 8)
    if parts(OPERATIONS[name])[0] or parts(OPERATIONS[name])[1]:
        examine(world, name, "negative", 4)


class Fails:
    """An authority that answers with an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def perform(self, name: str, arguments: Any, *, token: str | None = None) -> Any:
        """Raises it."""
        raise self.error


@pytest.mark.parametrize(
    ("error", "seen"),
    [(ZeroDivisionError("x"), "x"), (UnavailableError("x"), "Server error"), (SecondPersonError("x"), "Undocumented")],
)
def test_negative_controls_an_answer_that_the_document_does_not_tell_of_is_seen(
    world: World, error: Exception, seen: str
) -> None:
    SWITCH.behind = Fails(error)
    with pytest.raises(BaseException, match=seen):  # a group of failures is none of Exception
        examine(world, "catalogue.search", "positive", 2)


def test_the_document_tells_of_each_operation_and_of_no_other(world: World) -> None:
    told = world.client(None).get("/openapi.json").json()
    ways = [
        (way["operationId"], method.upper(), path)
        for path, ways in told["paths"].items()
        for method, way in ways.items()
    ]
    scoped = [operation for operation in OPERATIONS.values() if operation.scope is not None]
    assert sorted(ways) == sorted((one.name, one.method, one.path) for one in scoped)
    assert told["servers"] == [{"url": BASE}]
    assert told["components"]["securitySchemes"] == {"token": {"type": "http", "scheme": "bearer"}}
    for ways_ in told["paths"].values():
        for way in ways_.values():
            operation = OPERATIONS[way["operationId"]]
            assert way["security"] == [{"token": []}]
            success = 204 if operation.answer is None else 200
            assert set(way["responses"]) == {str(status) for status in (success, *statuses(operation))}
            assert str(operation.scope) in way["description"]


def test_a_decision_may_wait_for_a_second_person_and_a_reading_meets_no_conflict() -> None:
    waiting = {name for name, operation in OPERATIONS.items() if 202 in statuses(operation)}
    assert waiting == {str(action) for action in DECISIONS} & set(OPERATIONS)
    assert {name for name, operation in OPERATIONS.items() if 409 not in statuses(operation)} == {
        name for name, operation in OPERATIONS.items() if operation.reads
    }


# -- who may ask ------------------------------------------------------------------------------------------------
def request(client: TestClient, operation: Operation, **more: Any) -> httpx.Response:
    """A request of the operation, about something that has a name."""
    values = {"number": "1", "version": "1", "training": "1", "role": "auditor", "kind": "hours"}
    path = re.sub(r"\{(\w+)\}", lambda found: values.get(found.group(1), "sleep"), operation.path)
    return client.request(operation.method, path, **more)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_answered_without_a_token(world: World, name: str) -> None:
    wrong: list[dict[str, Any]] = [
        {},
        {"headers": {"Authorization": ""}},
        {"headers": {"Authorization": world.tokens["admin"]}},
        {"headers": {"Authorization": f"Basic {world.tokens['admin']}"}},
        {"headers": {"Authorization": f"Bearer {world.tokens['admin']} x"}},
        {"headers": [("Authorization", f"Bearer {world.tokens['admin']}")] * 2},
        {"params": {"token": world.tokens["admin"], "access_token": world.tokens["admin"]}},
        # Stops: a page elsewhere that has the browser of somebody who is logged in ask (CSRF).
        {"cookies": {"bulle-portal": "x", "Authorization": f"Bearer {world.tokens['admin']}"}},
    ]
    for how in wrong:
        client = world.client(None)
        client.cookies.update(how.pop("cookies", {}))
        answer = request(client, OPERATIONS[name], **how)
        assert answer.status_code == 401
        assert answer.json()["code"] == "login"
        assert answer.headers["www-authenticate"].startswith('Bearer realm="bulle"')
    guess = request(world.client(None), OPERATIONS[name], headers={"Authorization": f"Bearer bulle_{'A' * 43}"})
    assert guess.status_code in (401, 422), "what is malformed may be told before whose it is"


def test_negative_control_were_a_cookie_believed_a_page_elsewhere_could_ask(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_module, "_token", lambda request: request.cookies.get("bulle-portal", "none"))
    client = world.client(None)
    client.cookies.set("bulle-portal", world.tokens["admin"])
    assert client.get("/account").status_code == 200


def test_a_wrong_token_is_said_to_be_one(world: World) -> None:
    client = world.client(None)
    missing = client.get("/account").headers["www-authenticate"]
    wrong = client.get("/account", headers={"Authorization": "Bearer bulle_x"}).headers["www-authenticate"]
    assert ("invalid_token" in missing, "invalid_token" in wrong) == (False, True)


def test_a_token_answers_for_its_person_and_its_scopes(world: World) -> None:
    assert world.client("lead").get("/account").json()["person"]["id"] == "lead"
    assert world.client("researcher").get("/audit").status_code == 403
    assert world.client("auditor").get("/audit").json()["records"][0]["actor"] == "auditor"
    narrow = world.governance.create_token("lead", "x", (Scope.READ,), 1).secret
    answer = world.client(None).post(
        "/projects/sleep/members/researcher/end", headers={"Authorization": f"Bearer {narrow}"}
    )
    assert answer.status_code == 403 and "token-scope" in answer.json()["message"]
    assert world.client("lead").post("/projects/sleep/members/researcher/end").status_code == 204
    world.governance.disable_person(OPERATOR, "lead")
    assert world.client("lead").get("/account").status_code == 401


def test_tokens_and_passkeys_are_not_made_here(world: World) -> None:
    client = world.client("admin")
    for name, operation in OPERATIONS.items():
        if operation.scope is None:
            assert request(client, operation, json={}).status_code in (404, 405), name


def test_another_address_or_method_is_told_in_json(world: World) -> None:
    client = world.client("admin")
    for method, path, status in (
        ("GET", "/", 404),
        ("GET", "/docs", 404),
        ("GET", "/redoc", 404),
        ("GET", "/account/", 404),
        ("GET", "/people/a%2Fb", 404),
        ("DELETE", "/account", 405),
        ("HEAD", "/account", 405),
        ("OPTIONS", "/account", 405),
    ):
        answer = client.request(method, path)
        assert answer.status_code == status, path
        assert method == "HEAD" or set(answer.json()) == {"code", "message", "hint"}
        assert (status == 405) == ("allow" in answer.headers)


def test_no_page_elsewhere_may_read_an_answer(world: World) -> None:
    answer = world.client("lead").get("/account", headers={"Origin": "https://elsewhere.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_words_come_before_names(world: World) -> None:
    mine = [name for name, operation in OPERATIONS.items() if operation.path == "/projects/mine"]
    if mine:
        assert world.client("lead").get("/projects/mine").json()[0]["slug"] == "sleep"


# -- what it may hold --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_nothing_rides_along(world: World, name: str) -> None:
    operation = OPERATIONS[name]
    client = world.client("admin")
    for extra in ({"by": "custodian"}, {"person_": "x"}, {"approved_by": "custodian"}, {"state": "approved", "x": "y"}):
        if set(extra) & set(operation.arguments.model_fields):
            continue
        assert request(client, operation, params=extra).status_code == 422
        assert request(client, operation, json=extra).status_code == 422


@pytest.mark.parametrize("path", ["/people/%00", "/people/a%20b", "/people/%C3%A9", "/projects/x%0A/activity"])
def test_a_name_in_a_path_is_a_name(world: World, path: str) -> None:
    assert world.client("admin").get(path).status_code in (404, 422)


def test_a_body_has_its_bounds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    client = world.client("lead")
    answer = client.post("/applications", content=b" " * (MAX_BODY + 1))
    assert answer.status_code == 422 and "larger than" in answer.json()["message"]
    begin = BodyLimit.__init__
    monkeypatch.setattr(BodyLimit, "__init__", lambda self, app, limit: begin(self, app, 1 << 40))
    wide = TestClient(mounted(SWITCH), base_url=f"http://portal{BASE}", headers=client.headers)
    assert "larger than" not in wide.post("/applications", content=b" " * (MAX_BODY + 1)).text, "negative control"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b'{"a": NaN}', b'{"completed": 1e999}'])
def test_a_malformed_body_is_told_so_without_repeating_it(world: World, body: bytes) -> None:
    answer = world.client("lead").post("/account/trainings", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["code"] == "input"


def test_a_body_may_be_left_out_where_nothing_in_it_is_needed(world: World) -> None:
    world.governance.request_membership("outsider", "sleep", "outsider")
    lead = world.client("lead")
    assert lead.post("/projects/sleep/members/outsider/approve").status_code == 204
    assert lead.post("/projects/sleep/members/researcher/suspend", json={}).status_code == 204


# -- errors ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("told", hint="do"), 422),
        (LoginError("told"), 401),
        (RefusedError("told"), 403),
        (SignatureError("told"), 403),
        (NotFoundError("told"), 404),
        (ConflictError("told"), 409),
        (SecondPersonError("told"), 202),
        (UnavailableError("told"), 503),
        (AuditError("told"), 503),
        (SettingsError("told"), 503),
        (BulleError("told"), 503),
    ],
)
def test_an_error_is_told_with_its_code(world: World, error: BulleError, status: int) -> None:
    SWITCH.behind = Fails(error)
    answer = world.client("lead").get("/account")
    assert answer.status_code == status
    assert answer.json() == {"code": error.code, "message": "told", "hint": error.hint}


def test_a_fault_of_ours_says_nothing_of_itself(world: World) -> None:
    SWITCH.behind = Fails(ZeroDivisionError("somebody's secret"))
    answer = world.client("lead").get("/account")
    assert answer.status_code == 500
    assert "secret" not in answer.text


def test_what_an_operation_takes_is_what_its_address_takes(world: World) -> None:
    class Odd(Value):
        project: str
        many: tuple[int, ...] = ()
        text: str | None = None

    odd = Operation("odd.thing", "PUT", "/odd/{project}", "Odd", Scope.ADMIN, Odd, Odd, lambda *_: None)
    seen = []

    class Sees:
        async def perform(self, name: str, arguments: Any, *, token: str | None = None) -> Any:
            seen.append((name, arguments, token))
            return Odd(**arguments)

    app = mounted(Sees(), operations=MappingProxyType({"odd.thing": odd}))
    client = TestClient(app, base_url=f"http://portal{BASE}", headers={"Authorization": "bearer abc"})
    answer = client.put("/odd/sleep", json={"many": [1, 2]})
    assert answer.json() == {"project": "sleep", "many": [1, 2], "text": None}
    assert seen == [("odd.thing", {"project": "sleep", "many": [1, 2]}, "abc")]
    assert client.put("/odd/sleep", json={"project": "other"}).status_code == 422
    assert client.put("/odd/sleep?many=1").status_code == 422

"""Operations by name: who can be whom, what arguments may hold, and that each is declared once."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import datetime
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError
from starlette.testclient import TestClient

from orchestrator.errors import BulleError, InputError, LoginError, NotFoundError, RefusedError, SecondPersonError
from orchestrator.governance import calls, tokens
from orchestrator.governance.authority import Authority, portal_app
from orchestrator.governance.calls import LARGEST_NUMBER, Asked, arguments_of, perform
from orchestrator.governance.client import AsyncAuthorityClient, operation_call
from orchestrator.governance.identity import OPERATOR, RESERVED
from orchestrator.governance.operations import OPERATIONS, gathered, printed_operations
from orchestrator.governance.operations.declared import Nothing, Operation, Scope
from orchestrator.governance.presented import presented
from orchestrator.governance.rules import Action
from orchestrator.governance.store import PersonRow
from orchestrator.terms import Value
from tests.unit.governance.places import GRANT_KEY, START


class Odd(Value):
    text: str = ""
    number: int = 0
    share: float = 0.0
    when: datetime | None = None
    many: tuple[str, ...] = ()
    deep: dict[str, object] = {}  # noqa: RUF012 - pydantic copies it


def operation(run, *, name="odd.thing", arguments=Odd, answer=None):
    return Operation(name, "POST", "/odd", "Odd", Scope.ADMIN, arguments, answer, run)


ODD = operation(lambda *_: None)


@pytest.fixture(name="declared")
def one_more(monkeypatch):
    """Declares an operation for a test."""

    def declare(added):
        monkeypatch.setattr("orchestrator.governance.operations.OPERATIONS", {**OPERATIONS, added.name: added})
        return added

    return declare


# -- how they are declared ------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_whole(name):
    found = OPERATIONS[name]
    assert re.fullmatch(r"[a-z]+(\.[a-z]+)+", name)
    assert found.arguments.model_config["extra"] == "forbid"
    assert found.arguments.model_config["frozen"] is True
    fields = re.findall(r"\{(\w+)\}", found.path)
    assert set(fields) <= set(found.arguments.model_fields), "what stands in the path is an argument"
    assert re.fullmatch(r"(/([a-z]+|\{\w+\}))+", found.path)
    assert found.summary and "{" not in found.summary
    assert not {"by", "actor", "token_secret"} & set(found.arguments.model_fields), "who acts is no argument"
    if found.reads:
        assert found.answer is not None


def test_no_operation_is_declared_twice_nor_two_at_one_place():
    with pytest.raises(ValueError, match="two operations"):
        gathered((ODD,), (ODD,))
    with pytest.raises(ValueError, match="two operations"):
        gathered((ODD,), (operation(lambda *_: None, name="odd.other"),))
    assert set(gathered((ODD,))) == {"odd.thing"}


def test_what_an_operation_is_called_after_is_an_action_or_a_reading():
    """A name that is nearly an action's would be looked for in the audit log in vain."""
    actions = {str(action) for action in Action}
    changes = {name for name, found in OPERATIONS.items() if not found.reads and found.answer is not NotImplemented}
    prepares = {"passkey.begin"}
    assert changes - actions - prepares == set()


# -- who acts -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["catalogue.search", "person.disable", "no.such"])
def test_no_part_of_the_platform_acts_through_the_portal(sleep, name):
    for part in sorted(RESERVED):
        with pytest.raises((RefusedError, NotFoundError), match=r"a-person|no operation"):
            perform(sleep.governance, name, Asked(by=part, arguments={"person": "lead"}))
    assert not sleep.governance.person("lead").disabled


def test_negative_control_without_the_check_the_portal_is_the_operator(sleep, monkeypatch):
    monkeypatch.setattr(tokens.Tokens, "acting", lambda self, by: by)
    perform(sleep.governance, "person.disable", Asked(by=OPERATOR, arguments={"person": "lead"}))
    assert sleep.governance.person("lead").disabled


def test_only_who_is_known_and_may_act_acts(sleep):
    read = "catalogue.search"
    perform(sleep.governance, read, Asked(by="lead"))
    for by in ("nobody", "", "Lead", "lead ", "hub:lead"):
        with pytest.raises(RefusedError, match="a-person"):
            perform(sleep.governance, read, Asked(by=by))
    sleep.governance.disable_person("admin", "lead")
    with pytest.raises(RefusedError, match="person-disabled"):
        perform(sleep.governance, read, Asked(by="lead"))
    sleep.governance.enable_person("admin", "lead")
    with sleep.store.write() as session:
        session.get(PersonRow, "lead").gone_at = START
        session.commit()
    with pytest.raises(RefusedError, match="removed-at-provider"):
        perform(sleep.governance, read, Asked(by="lead"))


def test_exactly_one_stands_behind_a_call(sleep):
    with pytest.raises(LoginError):
        perform(sleep.governance, "catalogue.search", Asked())
    secret = sleep.governance.create_token("lead", "x", ("read",), 1).secret
    with pytest.raises(InputError, match="not both"):
        perform(sleep.governance, "catalogue.search", Asked(by="lead", token=secret))
    perform(sleep.governance, "catalogue.search", Asked(token=secret))


# -- arguments ------------------------------------------------------------------------------------------------
def nested(depth):
    return {"a": nested(depth - 1)} if depth else {}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"text": "a\0b"}, "character"),
        ({"text": "\ud800"}, "character"),
        ({"many": ["a", "\0"]}, "character"),
        ({"deep": {"\0": 1}}, "character"),
        ({"number": 2**31}, "too large"),
        ({"number": -(2**31)}, "too large"),
        ({"number": 10**40}, "too large"),
        ({"deep": {"a": [2**60]}}, "too large"),
        ({"share": float("nan")}, "number that is none"),
        ({"deep": {"a": float("inf")}}, "number that is none"),
        ({"deep": nested(40)}, "too deeply"),
        ({"when": "2026-01-01"}, "time zone"),
        ({"when": "2026-01-01T10:00:00"}, "time zone"),
        ({"number": "x"}, "number: "),
        ({"by": "operator"}, "by: Extra inputs"),
        ({"text": 5}, "text: "),
    ],
)
def test_arguments_hold_what_every_database_keeps(given, told):
    with pytest.raises(InputError, match=told) as caught:
        arguments_of(ODD, given)
    assert "\0" not in str(caught.value)


def test_what_is_fine_is_left_alone():
    given = {"text": "Éé 😀\n", "number": LARGEST_NUMBER, "share": 1e300, "when": "2026-01-01T00:00:00+01:00"}
    made = arguments_of(ODD, given)
    assert (made.text, made.number, made.share) == ("Éé 😀\n", LARGEST_NUMBER, 1e300)


@pytest.mark.parametrize("given", [{"text": "a\0b"}, {"deep": {"a": float("nan")}}])
def test_negative_control_without_the_check_such_arguments_arrive(given, monkeypatch):
    monkeypatch.setattr(calls, "_check", lambda *_: None)
    arguments_of(ODD, given)


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_operation_takes_an_argument_that_it_does_not_know(name):
    for extra in ("by", "role_", "state", "approved_by", "operator"):
        if extra not in OPERATIONS[name].arguments.model_fields:
            with pytest.raises(ValidationError) as caught:
                OPERATIONS[name].arguments.model_validate({extra: "x"})
            assert ("extra_forbidden", (extra,)) in [(fault["type"], fault["loc"]) for fault in caught.value.errors()]


def test_an_answer_to_malformed_arguments_repeats_none_of_them():
    with pytest.raises(InputError) as caught:
        arguments_of(ODD, {"number": "somebody's secret", "when": "another"})
    assert "secret" not in str(caught.value) and "another" not in str(caught.value)


# -- what comes with a call -------------------------------------------------------------------------------------
def test_a_signature_and_a_token_reach_what_decides_and_no_other_call(sleep, declared):
    seen = []
    declared(operation(lambda governance, by, arguments: seen.append((by, presented()))))
    secret = sleep.governance.create_token("admin", "x", tuple(Scope), 1)
    perform(sleep.governance, "odd.thing", Asked(by="lead", signature={"id": "x"}))
    perform(sleep.governance, "odd.thing", Asked(token=secret.secret))
    assert [(by, with_.signature, with_.token) for by, with_ in seen] == [
        ("lead", {"id": "x"}, None),
        ("admin", None, secret.card.id),
    ]
    assert (presented().signature, presented().token) == (None, None)


def test_what_came_with_a_call_that_failed_is_gone(sleep, declared):
    def fail(*_):
        raise InputError("no")

    declared(operation(fail))
    with pytest.raises(InputError):
        perform(sleep.governance, "odd.thing", Asked(by="lead", signature={"id": "x"}))
    assert presented().signature is None


# -- over the socket ----------------------------------------------------------------------------------------------
class InProcess(AsyncAuthorityClient):
    """The portal's client, and behind it the authority in the same process."""

    def __init__(self, governance) -> None:
        super().__init__(Path("/nowhere"))
        app = portal_app(Authority(governance, GRANT_KEY, "trial", True))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://authority")


def ask(sleep, name, by="lead", /, **arguments):
    return asyncio.run(InProcess(sleep.governance).call(name, by, **arguments))


def test_an_answer_is_of_the_operations_type(sleep, declared):
    declared(operation(lambda *_: ("a", START), answer=tuple[str, datetime]))
    assert ask(sleep, "odd.thing") == ("a", START)
    declared(operation(lambda *_: None))
    assert ask(sleep, "odd.thing") is None
    assert ask(sleep, "token.create", name="x", scopes=["read"], days=3).card.name == "x"
    assert [card.name for card in ask(sleep, "token.list")] == ["x"]


def test_arguments_travel_as_they_are(sleep, declared):
    seen = []
    declared(operation(lambda governance, by, arguments: seen.append(arguments)))
    given = {"text": "é", "when": START, "many": ("a",), "deep": {"a": [1, None]}}
    ask(sleep, "odd.thing", **given)
    assert seen == [Odd(**given)]
    with pytest.raises(InputError, match="number that is none"):
        ask(sleep, "odd.thing", share=float("nan"))


@pytest.mark.parametrize(
    "error", [SecondPersonError("noted"), RefusedError("no"), LoginError("who"), NotFoundError("where")]
)
def test_an_error_arrives_as_itself(sleep, declared, error):
    def fail(*_):
        raise error

    declared(operation(fail))
    with pytest.raises(type(error), match=error.message):
        ask(sleep, "odd.thing")


def test_an_error_that_nobody_meant_says_nothing_of_itself(sleep, declared):
    def fail(*_):
        raise ZeroDivisionError("somebody's secret")

    declared(operation(fail))
    with pytest.raises(BulleError, match="the authority failed"):
        ask(sleep, "odd.thing")


def test_the_socket_takes_nothing_else(sleep):
    client = TestClient(portal_app(Authority(sleep.governance, GRANT_KEY, "trial", True)))
    for body in (
        {"by": "lead", "arguments": {}, "role": "auditor"},
        {"by": ["lead"], "arguments": {}},
        {"by": "x" * 65, "arguments": {}},
        {"by": None, "token": "x" * 201, "arguments": {}},
        {"by": "lead", "arguments": []},
        [],
    ):
        assert client.post("/v1/operations/catalogue.search", json=body).status_code == 422
    assert client.post("/v1/operations/catalogue.search", json={}).status_code == 401
    assert client.get("/v1/operations/catalogue.search").status_code == 404
    for name in ("none.such", "__class__", "catalogue.search%00"):
        assert client.post(f"/v1/operations/{name}", json={"by": "lead"}).status_code == 404
    fine = client.post("/v1/operations/catalogue.search", json={"by": "lead"})
    assert (fine.status_code, fine.headers["content-type"]) == (200, "application/json")


def test_a_call_names_an_operation_that_there_is():
    with pytest.raises(NotFoundError, match="no operation"):
        operation_call("../grants", {}, by="lead")
    call = operation_call("catalogue.search", {"search": "a"}, by="lead")
    assert (call.method, call.path) == ("POST", "/v1/operations/catalogue.search")
    assert json.loads(call.body) == {"by": "lead", "token": None, "arguments": {"search": "a"}, "signature": None}


def test_nothing_is_argued():
    assert arguments_of(operation(lambda *_: None, arguments=Nothing), {}) == Nothing()


def test_the_page_of_documentation_holds_this_very_table():
    page = (Path(__file__).parents[3] / "docs" / "api.md").read_text(encoding="utf-8")
    assert printed_operations() in page
    assert all(f"`{scope}`" in page for scope in Scope)
    assert printed_operations({**OPERATIONS, "odd.thing": ODD}) not in page

"""Forms that act: what is done, what is refused before anything is asked, and what a page says afterwards."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import Field, create_model

from orchestrator.errors import (
    ConflictError,
    InputError,
    NotFoundError,
    RefusedError,
    SecondPersonError,
    SignatureError,
    UnavailableError,
)
from orchestrator.governance.cards import NewToken, PreparedDecision, TokenCard
from orchestrator.governance.states import MemberRole
from orchestrator.portal import acting
from orchestrator.portal.acting import Act, FormFault, arguments_of, gathered
from orchestrator.portal.application import PAGES
from orchestrator.portal.hub import PREFIX
from orchestrator.portal.paths import local_path
from orchestrator.portal.sessions import TOLD, Session, Sessions, Told
from orchestrator.terms import Value
from tests.unit.portal.test_application import DANGEROUS, UNTIL, World, a_world

ACCOUNT = f"{PREFIX}account"
DECLARE = {"course": "Data protection", "completed": "2026-11-02", "evidence": "no. 7"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with a_world(tmp_path) as made:
        made.authority.answers |= {
            "training.declare": None,
            "member.end": None,
            "token.list": [],
            "passkey.list": [],
        }
        made.log_in()
        token = made.form_token()
        made.form_token = lambda: token  # type: ignore[method-assign]
        yield made


def send(world: World, operation: str, fields: dict[str, Any], **own: Any) -> Any:
    """Send a form as the account page would."""
    carried = {"_token": world.form_token(), "_form": "declare", "_from": ACCOUNT, "_next": ACCOUNT, **own}
    carried = {name: value for name, value in carried.items() if value is not None}
    world.authority.called.clear()
    headers = carried.pop("headers", {})
    data = {**carried, **fields}
    return world.client.post(f"{PREFIX}act/{operation}", data=data, headers=headers, follow_redirects=False)


def done(world: World) -> list[tuple[str, dict[str, Any]]]:
    """What was asked of the authority that changes something."""
    reads = {"inbox.read", "account.read", "token.list", "passkey.list"}
    return [(name, arguments) for name, _, arguments in world.authority.called if name not in reads]


# -- what is done ----------------------------------------------------------------------------------------
def test_a_form_is_done_once_in_the_persons_name_and_said_once(world: World) -> None:
    answer = send(world, "training.declare", DECLARE)
    assert (answer.status_code, answer.headers["location"]) == (303, ACCOUNT)
    assert done(world) == [("training.declare", DECLARE)]
    assert {by for _, by, _ in world.authority.called} == {"ada"}
    said = "Declared. It counts once somebody has confirmed it."
    assert said in world.client.get(ACCOUNT).text
    assert said not in world.client.get(ACCOUNT).text, "once"


def test_what_is_said_is_said_on_its_page_only(world: World) -> None:
    send(world, "training.declare", DECLARE)
    assert "Declared." not in world.client.get(PREFIX).text
    assert "Declared." in world.client.get(ACCOUNT).text


def test_nothing_of_it_is_in_the_address(world: World) -> None:
    world.authority.answers["training.declare"] = InputError("a course must have 1 to 200 characters")
    answer = send(world, "training.declare", DECLARE)
    assert "protection" not in answer.headers["location"] and "?" not in answer.headers["location"]


# -- what is refused before anything is asked ------------------------------------------------------------
FOREIGN: list[dict[str, Any]] = [
    {"_token": None},
    {"_token": "guessed"},
    {"headers": {"Sec-Fetch-Site": "cross-site"}},
    {"headers": {"Sec-Fetch-Site": "same-site"}},
]


@pytest.mark.parametrize("own", FOREIGN)
def test_a_form_from_elsewhere_is_not_done(world: World, own: dict[str, Any]) -> None:
    assert send(world, "training.declare", DECLARE, **own).status_code == 403
    assert done(world) == []


def test_a_stranger_does_nothing(world: World) -> None:
    token = world.form_token()
    world.client.cookies.clear()
    world.authority.called.clear()
    fields = {**DECLARE, "_token": token, "_from": ACCOUNT, "_next": ACCOUNT}
    assert world.client.post(f"{PREFIX}act/training.declare", data=fields).status_code == 403
    assert world.authority.called == []


def test_an_address_does_nothing(world: World) -> None:
    world.authority.called.clear()
    assert world.client.get(f"{PREFIX}act/training.declare").status_code == 405
    assert done(world) == []


def test_only_what_a_page_has_a_form_for_is_done(world: World) -> None:
    for operation in ("people.list", "audit.read", "account.read", "nothing.at.all", "permit.draft"):
        assert send(world, operation, {}).status_code == 404, operation
        assert operation not in [name for name, _, _ in world.authority.called]


def test_what_has_no_form_is_said_in_the_documentation() -> None:
    without = {name for name, operation in acting.OPERATIONS.items() if not operation.reads}
    without -= set(gathered(*(page.ACTS for page in PAGES)))
    text = (Path(__file__).parents[3] / "docs" / "portal.md").read_text(encoding="utf-8")
    part = text.split("## What has no form")[1].split("## ")[0]
    assert without == set(re.findall(r"`([a-z]+\.[a-z]+)`", part))


def test_no_page_has_a_form_that_reads_and_no_two_have_the_same() -> None:
    acts = gathered(*(page.ACTS for page in PAGES))
    known = {name: operation for name, operation in acting.OPERATIONS.items() if name in acts}
    assert set(known) == set(acts), "an act without its operation"
    assert [name for name, operation in known.items() if operation.reads] == []
    with pytest.raises(ValueError, match="two pages"):
        gathered([Act("member.end")], [Act("member.end")])


def test_a_field_that_is_not_the_operations_is_refused_and_nothing_done(world: World) -> None:
    """Mass assignment: a training that one confirms oneself, a form in somebody else's name."""
    for field in ("person", "by", "confirmed_by", "expires", "token", "__class__"):
        answer = send(world, "training.declare", {**DECLARE, field: "bob"})
        assert answer.status_code == 303 and done(world) == [], field
        assert "a field that does not belong to it" in world.client.get(ACCOUNT).text


def test_too_large_a_form_is_refused_whole(world: World) -> None:
    assert send(world, "training.declare", {**DECLARE, "evidence": "x" * acting.LARGEST}).status_code == 403
    assert done(world) == []


def test_a_form_that_does_not_tell_its_length_is_bounded_too(world: World) -> None:
    token = world.form_token()

    def body() -> Iterator[bytes]:
        yield f"_token={token}&evidence=".encode()
        for _ in range(acting.LARGEST // 4096 + 1):
            yield b"x" * 4096

    kind = {"content-type": "application/x-www-form-urlencoded"}
    answer = world.client.post(f"{PREFIX}act/training.declare", content=body(), headers=kind)
    assert answer.status_code == 403 and done(world) == []


# -- where it leads --------------------------------------------------------------------------------------
ELSEWHERE = [
    "",
    "https://evil.example.org/",
    "//evil.example.org/services/portal/",
    "/services/portal",
    "/hub/logout",
    "services/portal/",
    "/services/portal//evil.example.org",
    "/services/portal/../../hub/token",
    "/services/portal/%2e%2e/%2e%2e/hub/token",
    "/services/portal/..",
    "/services/portal/\\evil.example.org",
    "/services/portal/%5cevil.example.org",
    "/services/portal/a b",
    "/services/portal/\r\nSet-Cookie: a=b",
    "/services/portal/\tx",
    "/services/portal/é",
    "/services/portal/#x",
    "/services/portal/logout",
    "/services/portal/act/member.end",
    "/services/portal/" + "x" * 1000,
]


@pytest.mark.parametrize("field", ["_next", "_from"])
def test_a_form_that_leads_elsewhere_is_not_done(world: World, field: str) -> None:
    for path in ELSEWHERE:
        answer = send(world, "training.declare", DECLARE, **{field: path})
        assert answer.status_code == 403 and "location" not in answer.headers, path
        assert done(world) == []


@pytest.mark.parametrize("path", ["", "account", "projects/a/people?search=b%20c", "projects/a/permit?version=1"])
def test_a_page_of_ours_is_led_to(path: str) -> None:
    assert local_path(PREFIX + path) == PREFIX + path


@settings(deadline=None)
@example("#")
@given(st.text(max_size=60))
def test_no_text_leads_out(text: str) -> None:
    for tried in (text, PREFIX + text):
        found = local_path(tried)
        assert found is None or re.match(r"/services/portal/(?!/)[^\\#\s]*$", found)


def test_negative_control_without_the_check_it_leads_elsewhere(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acting, "local_path", lambda text: text)
    answer = send(world, "training.declare", DECLARE, _next="https://evil.example.org/")
    assert answer.headers["location"] == "https://evil.example.org/"


@pytest.mark.parametrize("own", FOREIGN[:2])
def test_negative_control_without_the_token_a_form_from_elsewhere_is_done(
    world: World, monkeypatch: pytest.MonkeyPatch, own: dict[str, Any]
) -> None:
    monkeypatch.setattr(Sessions, "form_fits", staticmethod(lambda session, given: True))
    with pytest.raises(AssertionError):
        test_a_form_from_elsewhere_is_not_done(world, own)


def test_negative_control_a_list_that_lets_everything_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acting, "gathered", lambda *areas: {name: Act(name) for name in acting.OPERATIONS})
    with a_world(tmp_path) as world:
        world.log_in()
        with pytest.raises(AssertionError):
            test_only_what_a_page_has_a_form_for_is_done(world)


def test_negative_control_a_model_that_drops_what_it_does_not_know(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = acting.OPERATIONS["training.declare"]

    lax = create_model("Lax", __base__=operation.arguments, __config__=None)
    lax.model_config["extra"] = "ignore"
    lax.model_rebuild(force=True)
    monkeypatch.setattr(acting, "OPERATIONS", {"training.declare": _Named(lax)})
    with pytest.raises(AssertionError):
        test_a_field_that_is_not_the_operations_is_refused_and_nothing_done(world)


class _Named:
    def __init__(self, arguments: type[Value]) -> None:
        self.arguments = arguments


# -- what is wrong comes back ----------------------------------------------------------------------------
def test_faults_come_back_beside_their_fields_with_what_was_typed(world: World) -> None:
    typed = {"course": "", "completed": "yesterday", "evidence": DANGEROUS}
    answer = send(world, "training.declare", typed)
    assert answer.headers["location"] == f"{ACCOUNT}#declare" and done(world) == []
    page = world.client.get(ACCOUNT).text
    assert "Nothing was saved." in page and 'href="#declare-completed"' in page
    assert re.search(r'id="declare-completed-fault">Write a date as 2027-12-31\.', page)
    assert re.search(
        r'<input type="date" id="declare-completed"[^>]* aria-describedby=" declare-completed-fault"', page
    )
    assert 'aria-invalid="true"' in page and 'value="yesterday"' in page
    assert DANGEROUS not in page and "&lt;script&gt;" in page
    assert 'value="yesterday"' not in world.client.get(ACCOUNT).text, "once"


def test_faults_are_told_in_the_readers_language(world: World) -> None:
    world.client.headers["Accept-Language"] = "fr"
    send(world, "training.declare", {"course": "", "completed": "2026-11-02"})
    assert "C’est nécessaire." in world.client.get(ACCOUNT).text


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (RefusedError("refused by rule permit.approve/not-drafter: x"), "You drafted this, so somebody else must"),
        (
            RefusedError("refused by rule member.end/who-may: only x may do this"),
            "Only a data custodian or the project",
        ),
        (RefusedError("a rule without words"), "a rule without words"),
        (ConflictError("it was decided"), "Somebody else changed the same just now"),
        (InputError("the end is in the past"), "the end is in the past"),
        (NotFoundError("there is no person 'x'"), "there is no person"),
        (SecondPersonError("noted"), "It takes effect when a second person decides the same."),
    ],
)
def test_what_was_not_done_is_said_where_the_person_came_from(world: World, fault: Exception, said: str) -> None:
    world.authority.answers["training.declare"] = fault
    answer = send(world, "training.declare", DECLARE, _next=PREFIX)
    assert (answer.status_code, answer.headers["location"]) == (303, ACCOUNT)
    page = world.client.get(ACCOUNT).text
    assert said in page
    assert ("Data protection" in page) != isinstance(fault, SecondPersonError), "what was typed stays, or is done"


def test_an_authority_that_does_not_answer_is_a_page(world: World) -> None:
    world.authority.answers["training.declare"] = UnavailableError("the authority does not answer")
    assert send(world, "training.declare", DECLARE).status_code == 503


def test_a_session_keeps_little_to_say() -> None:
    session = Session("id", "ada", "token", 0.0)
    for number in range(TOLD + 5):
        session.tell(f"/{number}", Told("good", str(number)))
    assert session.told("/0") is None and session.told(f"/{TOLD + 4}") is not None
    assert "Told" not in repr(session)


# -- a decision that a passkey signs ---------------------------------------------------------------------
RECORD = json.dumps({"action": "member.approve", "by": "ada", "content": {"role": "member"}, "nonce": "0" * 32})
OPTIONS = {"challenge": "AAAA", "allowCredentials": [{"id": "AAAA", "type": "public-key"}], "rpId": "bulle.example.org"}
SIGNED = {"record": RECORD, "credential": {"id": "AAAA", "response": {}}}


def test_a_decision_that_needs_a_passkey_is_signed_on_a_page_of_its_own(world: World) -> None:
    world.authority.answers["member.end"] = SignatureError("refused by rule signature: signed with your passkey")
    world.authority.prepared = PreparedDecision(record=RECORD, options=OPTIONS)
    answer = send(world, "member.end", {"project": "a", "person": DANGEROUS})
    assert answer.status_code == 200 and "sign.js" in answer.text
    for text in ("Sign the decision", "content.role", "&lt;script&gt;", 'name="_signature" value=""', "AAAA"):
        assert text in answer.text, text
    assert DANGEROUS not in answer.text
    world.authority.answers["member.end"] = None
    signed = send(world, "member.end", {"project": "a", "person": "bob"}, _signature=json.dumps(SIGNED))
    assert signed.status_code == 303 and world.authority.signatures[-1] == SIGNED


def test_a_wrong_signature_is_said_and_not_asked_for_again(world: World) -> None:
    world.authority.answers["member.end"] = SignatureError("refused by rule signature/once: it was used before")
    for text in (json.dumps(SIGNED), "[]", "{"):
        answer = send(world, "member.end", {"project": "a", "person": "bob"}, _signature=text)
        assert (answer.status_code, answer.headers["location"]) == (303, ACCOUNT)
        world.client.get(ACCOUNT)


def test_who_has_no_passkey_is_told_so(world: World) -> None:
    world.authority.answers["member.end"] = SignatureError("refused by rule signature: x")
    world.authority.prepared = SignatureError("you have none that counts", hint="add one in your account")
    send(world, "member.end", {"project": "a", "person": "bob"})
    assert "add one in your account" in world.client.get(ACCOUNT).text


# -- what is shown once ----------------------------------------------------------------------------------
def test_the_secret_of_a_token_is_in_one_answer_and_nowhere_else(world: World) -> None:
    card = TokenCard(
        id="t1", name="Script", scopes=("read",), created_at=UNTIL, expires=UNTIL, used_at=None, revoked_at=None
    )
    world.authority.answers["token.create"] = NewToken(card=card, secret="the-secret-itself")
    fields = {"name": "Script", "scopes": ["read", "members"], "days": "30"}
    answer = send(world, "token.create", fields)
    assert answer.status_code == 200 and "the-secret-itself" in answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert done(world)[0] == ("token.create", {"name": "Script", "scopes": ["read", "members"], "days": 30})
    world.authority.answers["token.list"] = [card]
    assert "the-secret-itself" not in world.client.get(ACCOUNT).text


# -- fields to arguments ---------------------------------------------------------------------------------
class Many(Value):
    project: str
    note: str = "as it was"
    ends: datetime | None = None
    starts: datetime | None = None
    count: Annotated[int, Field(ge=1)] | None = None
    external: bool = False
    role: MemberRole = MemberRole.MEMBER
    tables: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("fields", "given_"),
    [
        ({"project": [" a\r\nb "]}, {"project": "a\nb"}),
        ({"project": [""], "note": [""]}, {"project": "", "note": ""}),
        ({"ends": ["2027-12-31"]}, {"ends": "2028-01-01T00:00:00+00:00"}),
        ({"starts": ["2027-12-31"]}, {"starts": "2027-12-31T00:00:00+00:00"}),
        ({"ends": [""], "count": [""], "role": [""]}, {}),
        ({"count": ["3"], "role": ["lead"]}, {"count": "3", "role": "lead"}),
        ({"external": ["no"]}, {"external": False}),
        ({"external": ["no", "yes"]}, {"external": True}),
        ({"tables": ["a", "", "b"]}, {"tables": ["a", "b"]}),
        ({"other": ["x"]}, {"other": "x"}),
    ],
)
def test_fields_become_arguments(fields: dict[str, list[str]], given_: dict[str, Any]) -> None:
    assert arguments_of(Many, fields) == given_


@pytest.mark.parametrize(
    "fields", [{"ends": ["31/12/2027"]}, {"ends": ["9999-12-31"]}, {"ends": ["2027-02-30"]}, {"project": ["a", "b"]}]
)
def test_a_field_that_cannot_be_read_is_named(fields: dict[str, list[str]]) -> None:
    with pytest.raises(FormFault) as found:
        arguments_of(Many, fields)
    assert set(found.value.faults) == set(fields)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=12), st.lists(st.text(max_size=30), max_size=3), max_size=6))
def test_no_form_breaks_the_reading(fields: dict[str, list[str]]) -> None:
    with contextlib.suppress(FormFault):
        arguments_of(Many, fields)

"""Every operation by everybody, through the authority's socket: allowed or refused exactly as the rules' table says.

What holds of whom on this stage is written down here by hand, and not asked of the code that is tested. An operation
that has no case here fails a test, so none is forgotten.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from httpx import Response
from starlette.testclient import TestClient

from orchestrator.audit import AuditLog
from orchestrator.governance.authority import Authority, portal_app
from orchestrator.governance.cards import ApplicationContent, RequestedColumn, RequestedTable
from orchestrator.governance.identity import OPERATOR, RESERVED
from orchestrator.governance.operations import OPERATIONS
from orchestrator.governance.rules import TABLE, Action, Fact, judge
from orchestrator.governance.service import Governance
from orchestrator.governance.signatures import Signing
from orchestrator.governance.states import MemberRole, PlatformRole
from orchestrator.governance.store import PasskeyRow, Store
from tests.unit.governance.places import AUDIT_KEY, DAY, GRANT_KEY, START, Clock, Shelf, place, ready, running

RAM = Path("/dev/shm")
KEY = "a2V5IG9mIGEgcmVzZWFyY2hlcg"
SIGNING = Signing("trial", "https://bulle.example")
END = (START + 90 * DAY).isoformat()

#: what holds of each person everywhere; "researcher" is the member of 'sleep', "lead" its one lead
FACTS: Mapping[str, frozenset[Fact]] = {
    "admin": frozenset({Fact.PERSON, Fact.ADMINISTRATOR}),
    "custodian": frozenset({Fact.PERSON, Fact.CUSTODIAN}),
    "custodian2": frozenset({Fact.PERSON, Fact.CUSTODIAN}),
    # A custodian who is a member of 'sleep', and had no part in its permit.
    "custodian3": frozenset({Fact.PERSON, Fact.CUSTODIAN}),
    "reviewer": frozenset({Fact.PERSON, Fact.REVIEWER}),
    "auditor": frozenset({Fact.PERSON, Fact.AUDITOR}),
    "lead": frozenset({Fact.PERSON}),
    "researcher": frozenset({Fact.PERSON}),
    "invited": frozenset({Fact.PERSON}),
    "asked": frozenset({Fact.PERSON}),
    "external": frozenset({Fact.PERSON}),
    "applicant": frozenset({Fact.PERSON}),
    "outsider": frozenset({Fact.PERSON}),
    # Was custodian, administrator's opposite and member before: nothing of it counts.
    "disabled": frozenset({Fact.PERSON, Fact.CUSTODIAN, Fact.DISABLED}),
}
PROJECTS: Mapping[str, Mapping[str, frozenset[Fact]]] = {
    "sleep": {
        "lead": frozenset({Fact.LEAD, Fact.LAST_LEAD, Fact.INVOLVED}),
        "researcher": frozenset({Fact.MEMBER, Fact.INVOLVED}),
        "custodian3": frozenset({Fact.MEMBER, Fact.INVOLVED}),
        "external": frozenset({Fact.INVOLVED}),
        "asked": frozenset({Fact.INVOLVED}),
        "second": frozenset({Fact.INVOLVED}),
        "disabled": frozenset({Fact.MEMBER, Fact.INVOLVED}),
    },
    # A draft whose proposed lead is "applicant", and an application for it that is still written.
    "written": {"applicant": frozenset({Fact.INVOLVED}), "lead": frozenset()},
    "sent": {},
    "checked": {},
    "proposed": {"outsider": frozenset({Fact.INVOLVED})},
    "stopped": {"lead": frozenset({Fact.LEAD, Fact.LAST_LEAD, Fact.INVOLVED})},
    "closed": {"lead": frozenset({Fact.LEAD, Fact.LAST_LEAD, Fact.INVOLVED})},
}
#: whose lead the lead of 'sleep' is: all who are in it, or asked to be
IN_SLEEP = frozenset({"lead", "researcher", "custodian3", "external", "asked", "second", "disabled"})
#: who approved a permit of the project, and who appointed a lead of it
APPROVERS = {"sleep": {"custodian"}}
APPOINTERS = {"sleep": {"custodian"}, "stopped": {"custodian"}, "closed": {"custodian"}}


@dataclass(frozen=True)
class Case:
    """A call, and what the rules' table is asked about it."""

    operation: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    #: None: one's own, which anybody with an account reads
    action: Action | None = None
    project: str | None = None
    #: whom it is about; "…" is who acts
    about: str | None = None
    #: facts by person, from what it is about
    more: Mapping[str, frozenset[Fact]] = field(default_factory=dict)
    #: who is seen to succeed, so that the case is about something that can be done; empty: see ``why``
    does: str = ""
    why: str = ""

    def facts(self, by: str) -> frozenset[Fact]:
        """What holds of ``by`` in this case."""
        facts = set(FACTS[by]) | set(self.more.get(by, ()))
        about = by if self.about == "…" else self.about
        if self.project is not None:
            facts |= PROJECTS[self.project].get(by, frozenset())
        if about is not None:
            facts |= {Fact.SELF} if about == by else set()
            facts |= {Fact.FOR_DISABLED} if about == "disabled" else set()
            facts |= {Fact.MEMBERS_LEAD} if by == "lead" and about in IN_SLEEP else set()
            facts |= {Fact.FOR_PERMIT_APPROVER} if about in APPROVERS.get(str(self.project), ()) else set()
            facts |= {Fact.FOR_LEAD_APPOINTER} if about in APPOINTERS.get(str(self.project), ()) else set()
        return frozenset(facts)

    def allowed(self, by: str) -> bool:
        """Whether the table allows it."""
        if self.action is None:
            return Fact.DISABLED not in FACTS[by]
        return judge(self.action, self.facts(by)).allowed


def _about_application(drafter: str) -> Mapping[str, frozenset[Fact]]:
    return {drafter: frozenset({Fact.APPLICANT, Fact.DRAFTER})}


CONTENT = ApplicationContent(
    title="A study",
    lay_summary="We look at how often people see a doctor.",
    purpose="To see.",
    legal_basis="Public interest.",
    outputs="One paper.",
    lead="applicant",
    starts=START,
    ends=START + 300 * DAY,
    tables=(
        RequestedTable(
            dataset="visits", table="visits", columns=(RequestedColumn(name="age", reason="Why."),), reason="Why."
        ),
    ),
)
_TABLES = [{"dataset": "visits", "table": "visits", "columns": [{"name": "age"}]}]
_SLEEP = {"project": "sleep"}
_OTHERS = {"project": "other", "title": "T", "purpose": "P", "starts": START.isoformat(), "ends": END}
_WRITTEN, _SENT, _CHECKED = ({"project": slug, "number": 1} for slug in ("written", "sent", "checked"))
#: whoever is in a project reads their own lines of its usage
_THEIR_OWN_LINES = {person: frozenset({Fact.SELF}) for person in IN_SLEEP | {"invited"}}
_BY_APPLICANT = _about_application("applicant")


def _on_an_application(operation: str, project: str, does: str, about: str | None = None, **more: object) -> Case:
    """A case about the one application of ``project``, which the applicant wrote."""
    arguments = {"project": project, "number": 1, **more}
    return Case(operation, arguments, Action(operation), project, about, more=_BY_APPLICANT, does=does)


CASES: tuple[Case, ...] = (
    # One's own
    Case("account.read", does="outsider"),
    Case("inbox.read", does="outsider"),
    Case("projects.mine", does="lead"),
    Case("applications.list", does="applicant"),
    Case("usage.read", does="researcher"),
    Case("passkey.list", does="outsider"),
    Case("token.list", does="outsider"),
    Case("token.create", {"name": "x", "scopes": ["read"], "days": 3}, Action.TOKEN_CREATE, about="…", does="lead"),
    Case("terms.accept", {"version": "@terms"}, Action.TERMS_ACCEPT, about="…", does="outsider"),
    Case(
        "training.declare",
        {"course": "C", "completed": "2025-12-01"},
        Action.TRAINING_DECLARE,
        about="…",
        does="outsider",
    ),
    Case("passkey.begin", {}, Action.PASSKEY_ADD, about="…", does="outsider"),
    Case(
        "passkey.add",
        {"name": "x", "credential": "{}"},
        Action.PASSKEY_ADD,
        about="…",
        why="needs a browser's answer",
    ),
    # Others'
    Case("token.revoke", {"token": "@token"}, Action.TOKEN_REVOKE, about="researcher", does="admin"),
    Case("passkey.remove", {"passkey": KEY}, Action.PASSKEY_REMOVE, about="researcher", does="admin"),
    Case(
        "passkey.vouch",
        {"person": "researcher", "passkey": KEY},
        Action.PASSKEY_VOUCH,
        about="researcher",
        does="custodian",
    ),
    Case("people.list", {}, Action.PEOPLE_READ, does="auditor"),
    Case("person.read", {"person": "researcher"}, Action.PERSON_READ, about="researcher", does="lead"),
    Case("person.trainings", {"person": "researcher"}, Action.PERSON_READ, about="researcher", does="lead"),
    Case("person.passkeys", {"person": "researcher"}, Action.PERSON_READ, about="researcher", does="lead"),
    Case("person.projects", {"person": "researcher"}, Action.PERSON_READ, about="researcher", does="lead"),
    Case("person.add", {"subject": "new", "display_name": "New"}, Action.PERSON_ADD, does="admin"),
    Case(
        "person.describe",
        {"person": "custodian", "external": False, "affiliation": ""},
        Action.PERSON_DESCRIBE,
        about="custodian",
        does="custodian2",
    ),
    Case("person.disable", {"person": "researcher"}, Action.PERSON_DISABLE, about="researcher", does="admin"),
    Case("person.enable", {"person": "disabled"}, Action.PERSON_ENABLE, about="disabled", does="admin"),
    Case("role.add", {"person": "asked", "role": "reviewer"}, Action.ROLE_ADD, about="asked", does="admin"),
    Case("role.add", {"person": "admin", "role": "reviewer"}, Action.ROLE_ADD, about="admin", why="not themselves"),
    Case("role.add", {"person": "disabled", "role": "reviewer"}, Action.ROLE_ADD, about="disabled", why="disabled"),
    Case("role.remove", {"person": "reviewer", "role": "reviewer"}, Action.ROLE_REMOVE, about="reviewer", does="admin"),
    Case(
        "training.confirm",
        {"person": "asked", "training": "@training"},
        Action.TRAINING_CONFIRM,
        about="asked",
        does="lead",
    ),
    # Memberships
    Case("member.invite", {**_SLEEP, "person": "outsider"}, Action.MEMBER_INVITE, "sleep", "outsider", does="lead"),
    Case(
        "member.request", {**_SLEEP, "person": "outsider"}, Action.MEMBER_REQUEST, "sleep", "outsider", does="outsider"
    ),
    Case("member.accept", _SLEEP, Action.MEMBER_ACCEPT, "sleep", "…", does="invited"),
    Case("member.approve", {**_SLEEP, "person": "asked"}, Action.MEMBER_APPROVE, "sleep", "asked", does="lead"),
    Case("member.approve", {**_SLEEP, "person": "second"}, Action.LEAD_APPOINT, "sleep", "second", does="custodian2"),
    Case(
        "member.consent", {**_SLEEP, "person": "external"}, Action.MEMBER_CONSENT, "sleep", "external", does="custodian"
    ),
    Case(
        "member.confirm", {**_SLEEP, "person": "researcher"}, Action.MEMBER_CONFIRM, "sleep", "researcher", does="lead"
    ),
    Case("member.confirm", {**_SLEEP, "person": "lead"}, Action.LEAD_CONFIRM, "sleep", "lead", does="custodian"),
    Case(
        "member.suspend", {**_SLEEP, "person": "researcher"}, Action.MEMBER_SUSPEND, "sleep", "researcher", does="admin"
    ),
    Case("member.end", {**_SLEEP, "person": "researcher"}, Action.MEMBER_END, "sleep", "researcher", does="lead"),
    Case("member.leave", _SLEEP, Action.MEMBER_LEAVE, "sleep", "…", does="researcher"),
    # Applications
    Case("application.begin", {"project": "other"}, Action.APPLICATION_BEGIN, does="outsider"),
    Case("application.amend", {**_SLEEP, "kind": "amendment"}, Action.APPLICATION_AMEND, "sleep", does="lead"),
    _on_an_application("application.edit", "written", "applicant", content={"title": "X"}),
    _on_an_application("application.submit", "written", "applicant"),
    _on_an_application("application.withdraw", "written", "applicant"),
    _on_an_application("application.read", "written", "applicant"),
    _on_an_application("application.check", "sent", "custodian"),
    _on_an_application("application.return", "sent", "custodian", note="More."),
    _on_an_application("application.refuse", "sent", "custodian", note="No."),
    _on_an_application("application.approve", "checked", "custodian", "applicant"),
    # Projects
    Case("projects.list", {}, Action.PROJECTS_READ, does="reviewer"),
    Case("project.read", _SLEEP, Action.PROJECT_READ, "sleep", does="researcher"),
    Case("project.activity", _SLEEP, Action.PROJECT_READ, "sleep", does="researcher"),
    Case("project.create", {**_OTHERS, "lead": "lead"}, Action.PROJECT_CREATE, about="lead", does="admin"),
    Case("project.create", {**_OTHERS, "lead": "custodian"}, Action.PROJECT_CREATE, about="custodian", does="admin"),
    Case(
        "project.activate", {"project": "proposed"}, Action.PROJECT_ACTIVATE, "proposed", "outsider", does="custodian"
    ),
    Case("project.activate", {"project": "stopped"}, Action.PROJECT_RESUME, "stopped", does="custodian"),
    Case("project.suspend", _SLEEP, Action.PROJECT_SUSPEND, "sleep", does="admin"),
    Case("project.close", _SLEEP, Action.PROJECT_CLOSE, "sleep", does="lead"),
    Case(
        "project.export",
        {**_SLEEP, "recipient": "age1" + "q" * 58},
        Action.PROJECT_EXPORT,
        "sleep",
        does="custodian",
    ),
    Case(
        "project.retain",
        {"project": "closed", "until": "2040-01-01T00:00:00Z"},
        Action.PROJECT_RETAIN,
        "closed",
        does="custodian",
    ),
    Case(
        "permit.draft",
        {**_SLEEP, "valid_from": START.isoformat(), "valid_until": END, "tables": _TABLES},
        Action.PERMIT_DRAFT,
        "sleep",
        does="lead",
    ),
    Case(
        "permit.approve",
        {**_SLEEP, "version": 2},
        Action.PERMIT_APPROVE,
        "sleep",
        more={"custodian2": frozenset({Fact.DRAFTER})},
        does="custodian",
    ),
    Case("permit.revoke", {**_SLEEP, "version": 1}, Action.PERMIT_REVOKE, "sleep", does="lead"),
    Case("quota.set", {**_SLEEP, "kind": "hours", "most": 10}, Action.QUOTA_SET, "sleep", does="admin"),
    Case("usage.read", _SLEEP, Action.USAGE_READ, "sleep", more=_THEIR_OWN_LINES, does="lead"),
    # What is there
    Case("catalogue.search", {}, Action.CATALOGUE_READ, does="outsider"),
    Case("catalogue.read", {"dataset": "visits"}, Action.CATALOGUE_READ, does="outsider"),
    Case("audit.read", {}, Action.AUDIT_READ, does="auditor"),
    Case("health.read", {}, Action.HEALTH_READ, does="admin"),
)


def name_of(case: Case) -> str:
    """The case in the test's name."""
    return f"{case.operation}-{case.action.split('.')[1] if case.action else 'own'}-{case.about or case.project or ''}"


# -- the stage ---------------------------------------------------------------------------------------------------
def staged(governance: Governance, store: Store) -> dict[str, Any]:
    """The people and projects that FACTS and PROJECTS speak of; returns what only the store can name."""
    running(governance)
    for person in ("custodian3", "reviewer", "invited", "asked", "second", "external", "applicant", "disabled"):
        governance.add_person(OPERATOR, person, person.title())
        ready(governance, person)
    for person, role in (
        ("custodian3", PlatformRole.CUSTODIAN),
        ("disabled", PlatformRole.CUSTODIAN),
        ("reviewer", PlatformRole.REVIEWER),
    ):
        governance.add_role(OPERATOR, person, role)
    governance.describe_person("admin", "external", external=True, affiliation="Elsewhere")
    for person in ("custodian3", "disabled"):
        governance.request_membership(person, "sleep", person)
        governance.approve_membership("lead", "sleep", person)
    for person in ("asked", "external"):
        governance.request_membership(person, "sleep", person)
    governance.request_membership("second", "sleep", "second", MemberRole.LEAD)
    governance.invite_member("lead", "sleep", "invited")
    governance.draft_permit("custodian2", "sleep", _permit())
    for slug in ("written", "sent", "checked"):
        governance.begin_application("applicant", slug, CONTENT)
    for slug in ("sent", "checked"):
        governance.submit_application("applicant", slug, 1)
    governance.check_application("custodian2", "checked", 1)
    for slug, lead in (("proposed", "outsider"), ("stopped", "lead"), ("closed", "lead")):
        governance.create_project(
            "custodian", slug, title="T", purpose="P", lead=lead, starts=START, ends=START + 300 * DAY
        )
    for slug in ("stopped", "closed"):
        governance.activate_project("custodian", slug)
    governance.suspend_project("custodian", "stopped")
    governance.close_project("custodian", "closed")
    training = governance.declare_training("asked", "Another course", date(2025, 12, 1), "")
    token = governance.create_token("researcher", "x", ("read",), 30)
    with store.write() as session:
        for person, key in (("researcher", KEY), ("lead", KEY[::-1])):
            session.add(
                PasskeyRow(
                    id=key,
                    person_id=person,
                    name="Key",
                    public_key=b"x",
                    transports=[],
                    created_at=START,
                )
            )
        session.commit()
    governance.disable_person("admin", "disabled")
    return {"@training": training.id, "@token": token.card.id, "@terms": governance.terms_version}


def _permit() -> Any:
    from tests.unit.governance.places import draft

    return draft("age")


@dataclass
class World:
    """A copy of the stage, behind the portal's socket."""

    client: TestClient
    named: Mapping[str, Any]
    audit: AuditLog

    def ask(self, operation: str, by: str | None, arguments: Mapping[str, Any], **more: Any) -> Response:
        """The socket's answer."""
        given = {
            key: self.named.get(value, value) if isinstance(value, str) else value for key, value in arguments.items()
        }
        return self.client.post(f"/v1/operations/{operation}", json={"by": by, "arguments": given, **more})


@pytest.fixture(name="fresh", scope="module")
def stages() -> Iterator[Callable[[], World]]:
    """Makes copies of the stage."""
    with tempfile.TemporaryDirectory(dir=RAM if RAM.is_dir() else None) as name:
        template = Path(name) / "template"
        template.mkdir()
        made = place(template)
        named = staged(made.governance, made.store)
        made.store.close()
        stores: list[Store] = []

        def fresh() -> World:
            copy = Path(name) / str(len(stores))
            shutil.copytree(template, copy)
            stores.append(Store(f"sqlite:///{copy / 'governance.sqlite'}"))
            clock = Clock()
            audit = AuditLog(copy / "audit", AUDIT_KEY, clock=clock)
            governance = Governance(stores[-1], audit, clock, Shelf(), signing=SIGNING)
            app = portal_app(Authority(governance, GRANT_KEY, "trial", True))
            return World(TestClient(app, raise_server_exceptions=False), named, audit)

        yield fresh
        for store in stores:
            store.close()


def by_the_rules(answer: Response, case: Case) -> bool:
    """Whether the answer is a refusal by the rules' table: of this action, or of a disabled person altogether."""
    if answer.status_code != 403:
        return False
    told = answer.json()["message"]
    actions = "|".join(map(re.escape, {str(case.action), case.operation}))
    return (
        re.match(rf"refused by rule ({actions})/(who-may|not-[a-z-]+):|refused by rule person-disabled:", told)
        is not None
    )


def judged(fresh: Callable[[], World], case: Case) -> dict[str, bool]:
    """For each person whether the call got past the rules; refusals change nothing, so they share a stage."""
    found, world = {}, fresh()
    for by in sorted(FACTS, key=case.allowed):
        answer = world.ask(case.operation, by, case.arguments)
        assert answer.status_code < 500, answer.text
        found[by] = not by_the_rules(answer, case)
        if by == case.does:
            assert answer.is_success and answer.status_code != 202, answer.text
        if case.allowed(by) and not OPERATIONS[case.operation].reads:
            world = fresh()
    return found


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_an_operation_is_allowed_or_refused_as_the_table_says(fresh: Callable[[], World], case: Case) -> None:
    assert judged(fresh, case) == {by: case.allowed(by) for by in FACTS}
    assert bool(case.does) != bool(case.why)


def test_every_operation_has_a_case() -> None:
    assert {case.operation for case in CASES} == set(OPERATIONS)
    assert len({name_of(case) for case in CASES}) == len(CASES)


def test_every_rule_that_a_person_can_meet_has_a_case() -> None:
    parts = {Fact.OPERATOR, Fact.HUB, Fact.NODE, Fact.AUTHORITY}
    met = {case.action for case in CASES}
    assert {action for action, rule in TABLE.items() if rule.may - parts} - met == set()


def test_negative_control_another_table_is_seen(fresh: Callable[[], World], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is expected comes of the table, and what is done comes of it too: a code that asks another is caught."""
    case = next(case for case in CASES if case.operation == "member.end")
    monkeypatch.setattr(Governance, "_judge", lambda *_: None)
    assert judged(fresh, case) != {by: case.allowed(by) for by in FACTS}


# -- nobody, and parts of the platform ----------------------------------------------------------------------------
def canonical() -> list[Case]:
    """One case of each operation."""
    return list({case.operation: case for case in reversed(CASES)}.values())


def test_nobody_asks_for_anything(fresh: Callable[[], World]) -> None:
    world = fresh()
    before = len(list(world.audit.read()))
    for case in canonical():
        assert world.ask(case.operation, None, case.arguments).status_code == 401, case.operation
        assert world.ask(case.operation, None, case.arguments, token=f"bulle_{'A' * 43}").status_code == 401
    assert len(list(world.audit.read())) == before + 1, "all those guesses are one record"


def test_no_part_of_the_platform_asks_for_anything(fresh: Callable[[], World]) -> None:
    world = fresh()
    before = [record.line() for record in world.audit.read()]
    for case in canonical():
        for part in (*sorted(RESERVED), "nobody", "", "Lead", "hub:lead", "lead\0"):
            answer = world.ask(case.operation, part, case.arguments)
            assert answer.status_code == 403 and "a-person" in answer.json()["message"], (case.operation, part)
    assert [record.line() for record in world.audit.read()] == before


# -- what is another's --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", [case for case in CASES if not OPERATIONS[case.operation].reads], ids=name_of)
def test_nothing_rides_along(fresh: Callable[[], World], case: Case) -> None:
    world = fresh()
    before = [record.line() for record in world.audit.read()]
    for extra in (
        "by",
        "state",
        "approved_by",
        "confirmed_by",
        "vouched_by",
        "roles",
        "from_provider",
        "id",
        "token_id",
    ):
        assert extra not in OPERATIONS[case.operation].arguments.model_fields
        answer = world.ask(case.operation, case.does or "outsider", {**case.arguments, extra: "custodian"})
        assert answer.status_code == 422, extra
    assert [record.line() for record in world.audit.read()] == before, "and nothing was even begun"


def test_one_persons_thing_is_not_reached_by_naming_another(fresh: Callable[[], World]) -> None:
    world = fresh()
    crossed: list[tuple[str, str, dict[str, Any]]] = [
        # a training of one under the name of another, whom the reader leads too
        ("training.confirm", "lead", {"person": "researcher", "training": "@training"}),
        ("training.confirm", "custodian", {"person": "lead", "training": "@training"}),
        # a passkey of one vouched for as another's
        ("passkey.vouch", "custodian", {"person": "lead", "passkey": KEY}),
        # an application or a permit version by the number of another project's
        ("application.read", "applicant", {"project": "sleep", "number": 1}),
        ("application.edit", "applicant", {"project": "sleep", "number": 1, "content": {}}),
        ("application.read", "lead", {"project": "written", "number": 1}),
        ("permit.approve", "custodian", {"project": "stopped", "version": 2}),
        ("permit.revoke", "lead", {"project": "stopped", "version": 1}),
        # a token and a passkey of somebody else
        ("token.revoke", "outsider", {"token": "@token"}),
        ("passkey.remove", "outsider", {"passkey": KEY}),
        ("passkey.remove", "lead", {"passkey": KEY}),
    ]
    for operation, by, arguments in crossed:
        answer = world.ask(operation, by, arguments)
        assert answer.status_code in (403, 404), (operation, by, answer.text)


NAMED = ("project", "person", "token", "passkey", "training", "number", "version")


@pytest.mark.parametrize(
    "case", [case for case in CASES if set(NAMED) & set(case.arguments) and not case.allowed("outsider")], ids=name_of
)
def test_a_stranger_does_not_learn_by_the_answer_what_there_is(fresh: Callable[[], World], case: Case) -> None:
    """Stops: somebody who tries names, and learns of studies and of who is in them."""
    if case.about == "outsider":
        return
    world = fresh()
    there = world.ask(case.operation, "outsider", case.arguments)
    assert there.status_code == 403
    for name in {"project", "person"} & set(case.arguments):
        absent = world.ask(case.operation, "outsider", {**case.arguments, name: "none-such"})
        assert (absent.status_code, absent.json()["message"]) == (403, there.json()["message"]), name

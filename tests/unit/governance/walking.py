"""A walk through governance: what random people do, and what must hold of each change, judged without the rules.

What must hold is written from what happened (kept here) and from the store's rows as they were before.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import select

from orchestrator.config import Policy
from orchestrator.errors import BulleError, RefusedError
from orchestrator.governance.access import ACCESS_RULES
from orchestrator.governance.cards import ApplicationContent, RequestedColumn, RequestedTable
from orchestrator.governance.identity import AUTHORITY, HUB, NODE, OPERATOR
from orchestrator.governance.rules import TABLE, Action, Rule
from orchestrator.governance.service import Governance
from orchestrator.governance.states import INCOMPATIBLE_ROLES, ApplicationKind, MemberRole, PlatformRole
from orchestrator.governance.store import (
    AcceptanceRow,
    ApplicationRow,
    MembershipRow,
    PasskeyRow,
    PermitRow,
    PersonRow,
    ProjectRow,
    QuotaRow,
    RoleRow,
    TokenRow,
    TrainingRow,
)
from orchestrator.terms import Outcome
from tests.unit.governance.databases import store_in_memory
from tests.unit.governance.places import DAY, START, Clock, Kept, Shelf, draft
from tests.unit.signed_stage import SIGNING
from tests.unit.softkey import SoftKey

PEOPLE = ("ada", "ben", "cleo", "dan", "eve")
PARTS = (OPERATOR, HUB, NODE, AUTHORITY)
SLUGS = ("one", "two", "three")
DAYS = 40
POLICY = Policy(training_days=60, review_days=20, retention_days=3, closing_days=4)
OFFICES = {"ada": PlatformRole.CUSTODIAN, "ben": PlatformRole.CUSTODIAN, "cleo": PlatformRole.ADMINISTRATOR}
OPEN = ("draft", "active", "suspended")


@dataclass(frozen=True)
class Person:
    disabled: bool
    gone: bool
    external: bool
    affiliation: str
    #: role → whether the login provider gives it
    roles: Mapping[str, bool]


@dataclass(frozen=True)
class Project:
    state: str
    starts: datetime
    ends: datetime
    retain_until: datetime | None
    archived: bool


@dataclass(frozen=True)
class Member:
    role: str
    state: str
    ends: datetime
    requested_by: str
    approved_by: str | None
    consented_by: str | None
    review_due: datetime | None


@dataclass(frozen=True)
class Application:
    state: str
    kind: str
    content: str
    drafted_by: str
    submitted_by: str | None

    @property
    def lead(self) -> str:
        return json.loads(self.content)["lead"]

    @property
    def named(self) -> set[str]:
        return {self.lead, *json.loads(self.content)["team"]}


@dataclass(frozen=True)
class Picture:
    """The store's rows as plain values."""

    persons: dict[str, Person]
    accepted: frozenset[tuple[str, str]]
    #: id → person, end, who confirmed it
    trainings: dict[int, tuple[str, datetime, str | None]]
    #: id → person, end or None
    tokens: dict[str, tuple[str, datetime | None]]
    #: id → person, who vouched, when removed
    passkeys: dict[str, tuple[str, str | None, datetime | None]]
    projects: dict[str, Project]
    members: dict[tuple[str, str], Member]
    #: (project, version) → state, who drafted it, who approved it
    permits: dict[tuple[str, int], tuple[str, str, str | None]]
    applications: dict[tuple[str, int], Application]
    quotas: dict[tuple[str, str], float]

    def trained_until(self, person: str) -> datetime | None:
        ends = [end for who, end, by in self.trainings.values() if who == person and by not in (None, person)]
        return max(ends, default=None)


ROWS = {
    name: select(*columns)
    for name, columns in {
        "persons": (
            *(PersonRow.id, PersonRow.disabled, PersonRow.gone_at),
            *(PersonRow.external, PersonRow.affiliation),
        ),
        "roles": (RoleRow.person_id, RoleRow.role, RoleRow.from_provider),
        "accepted": (AcceptanceRow.person_id, AcceptanceRow.version),
        "trainings": (TrainingRow.id, TrainingRow.person_id, TrainingRow.expires, TrainingRow.confirmed_by),
        "tokens": (TokenRow.id, TokenRow.person_id, TokenRow.revoked_at),
        "passkeys": (PasskeyRow.id, PasskeyRow.person_id, PasskeyRow.vouched_by, PasskeyRow.removed_at),
        "projects": (
            *(ProjectRow.id, ProjectRow.slug, ProjectRow.state, ProjectRow.starts, ProjectRow.ends),
            *(ProjectRow.retain_until, ProjectRow.archived_at),
        ),
        "members": (
            *(MembershipRow.project_id, MembershipRow.person_id, MembershipRow.role, MembershipRow.state),
            *(MembershipRow.ends, MembershipRow.requested_by, MembershipRow.approved_by),
            *(MembershipRow.consented_by, MembershipRow.review_due),
        ),
        "permits": (
            *(PermitRow.project_id, PermitRow.version, PermitRow.state),
            *(PermitRow.drafted_by, PermitRow.approved_by),
        ),
        "applications": (
            *(ApplicationRow.project_id, ApplicationRow.number, ApplicationRow.state, ApplicationRow.kind),
            *(ApplicationRow.content, ApplicationRow.drafted_by, ApplicationRow.submitted_by),
        ),
        "quotas": (QuotaRow.project_id, QuotaRow.kind, QuotaRow.most),
    }.items()
}


def content(lead: str, team: tuple[str, ...] = (), days: int = DAYS) -> ApplicationContent:
    column = RequestedColumn(name="age", reason="It is the outcome.")
    return ApplicationContent(
        **dict.fromkeys(("title", "lay_summary", "purpose", "legal_basis", "outputs"), "T"),
        lead=lead,
        team=team,
        starts=START,
        ends=START + days * DAY,
        tables=(RequestedTable(dataset="visits", table="visits", columns=(column,)),),
    )


people = st.sampled_from(PEOPLE)
actors = st.sampled_from((*PEOPLE, *PEOPLE, *PEOPLE, *PARTS))
# Who mostly may: else nearly every action of a walk would be refused.
custodians = st.sampled_from(("ada", "ben", "ada", "ben", "ada", "ben", *PEOPLE, OPERATOR))
leads = st.sampled_from(("dan", "dan", "dan", "dan", "dan", *PEOPLE, OPERATOR))
runners = st.sampled_from(("cleo", OPERATOR, "cleo", OPERATOR, *PEOPLE, HUB))
slugs = st.sampled_from(("one", "one", "one", "two", "three"))
members = st.integers(0, 7)
numbers = st.sampled_from((1, 1, 2, 3))
roles = st.sampled_from(PlatformRole)
member_roles = st.sampled_from(MemberRole)
ends = st.none() | st.integers(-5, DAYS + 5).map(lambda days: START + days * DAY)


#: how a walk begins, once made: whole databases, who appointed a lead, and the moment
STAGES: dict[object, tuple[bytes, set[tuple[str, str]], datetime]] = {}


class Walk(RuleBasedStateMachine):
    table: Mapping[Action, Rule] = TABLE
    access = ACCESS_RULES
    #: changes governance itself, for a control that stands elsewhere than in a table
    amended: Callable[[Governance], None] = staticmethod(lambda governance: None)
    #: for measuring: actions that changed something, and all
    done: dict[str, list[int]] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.audit = Clock(), Kept()
        self.store = store_in_memory()
        self.governance = Governance(
            self.store,
            self.audit,
            self.clock,
            Shelf(),
            POLICY,
            signing=SIGNING,
            rules=self.table,
            access_rules=self.access,
        )
        self.amended(self.governance)
        self.appointers: set[tuple[str, str]] = set()
        #: application → when it was last returned
        self.returned: dict[tuple[str, int], datetime] = {}
        self.keys: dict[str, SoftKey] = {}
        self.before = self.picture()
        self.bytes = self.whole()
        self.judged: tuple[bytes, datetime] | None = None

    def teardown(self) -> None:
        self.store.close()

    @initialize(stage=st.sampled_from(("busy", "busy", "ended", "running", "ended", "empty")))
    def begin(self, stage: str = "empty") -> None:
        if stage not in STAGES:
            self.set_stage(stage)
            STAGES[stage] = (self.whole(), set(self.appointers), self.clock.now)
        self.return_to(*STAGES[stage])

    def set_stage(self, stage: str) -> None:
        """People with their offices; then project "one", led by dan, with a permit by ben; then more to decide on."""
        for person in PEOPLE:
            self.act(OPERATOR, "add_person", person, person)
        for person, role in OFFICES.items():
            self.act(OPERATOR, "add_role", person, role)
        if stage == "empty":
            return
        for person in PEOPLE:
            self.is_ready(person)
        self.create("ada", "one", "dan")
        self.activate("ada", "one")
        self.draft("dan", "one", 30)
        self.approve_permit("ben", "one", 1)
        if stage == "ended":
            self.time_passes(DAYS)
        if stage in ("running", "ended"):
            return
        self.create("ben", "two", "eve")
        self.apply("eve", "three", "eve", {"dan"})
        self.hand_in("eve", "three", 1)
        self.act(OPERATOR, "describe_person", "eve", True, "Another Hospital")
        self.request("dan", "one", "eve", invite=True)
        self.accept("eve", "one")
        self.ask("cleo", "one")

    def return_to(self, whole: bytes, appointers: set[tuple[str, str]], now: datetime) -> None:
        self.clock.now = now
        with self.store._engine.connect() as connection:
            raw = connection.connection.driver_connection
            assert isinstance(raw, sqlite3.Connection)
            raw.deserialize(whole)
            raw.execute("PRAGMA foreign_keys = ON")
        self.appointers = set(appointers)
        self.audit.events.clear()
        self.before, self.bytes = self.picture(), self.whole()

    def is_ready(self, person: str) -> None:
        self.accept_terms(person, "1")
        self.declare(person, 0)
        self.confirm_training(OPERATOR, person, 0)

    # What happens.

    def act(self, by: str, action: str, *arguments: Any, **named: Any) -> Any:
        """One action; if it changed something, what it changed must have been this person's to change."""
        written, answer, refused = len(self.audit.events), None, False
        try:
            answer = getattr(self.governance, action)(by, *arguments, **named)
        except BulleError:
            refused = True
        events = [event for event in self.audit.events[written:] if event.outcome is not Outcome.REFUSED]
        if self.done is not None:
            count = self.done.setdefault(action, [0, 0])
            count[0] += bool(events)
            count[1] += 1
        if not events or (refused and action != "follow_roles"):
            assert self.whole() == self.bytes, "a failed action changed something, or a change is not in the audit log"
            return answer
        outcomes = [(event.outcome, event.actor) for event in events]
        # Following the provider takes first and gives then: two changes, of which the second may be refused.
        changes = len(outcomes) // 2 if action == "follow_roles" else 1
        assert outcomes == [(Outcome.STARTED, by), (Outcome.DONE, by)] * changes, "a change is not in the audit log"
        old, new = self.before, self.picture()
        self.before, self.bytes = new, self.whole()
        Judge(self, by, action, old, new).changed()
        return answer

    def kept(self, change: Callable[[Any], None]) -> None:
        """Something in the store as it would be if another rule had failed before."""
        with self.store.write() as session:
            change(session)
            session.commit()
        self.before, self.bytes = self.picture(), self.whole()

    @rule(by=runners, person=people, role=roles, give=st.booleans())
    def role(self, by, person, role, give):
        self.act(by, "add_role" if give else "remove_role", person, role)

    @rule(by=st.sampled_from((HUB, HUB, "cleo")), person=people, given=st.frozensets(roles, max_size=2))
    def follow(self, by, person, given):
        self.act(by, "follow_roles", person, given)

    @rule(by=st.sampled_from((HUB, HUB, "cleo")), person=people, gone=st.booleans())
    def gone(self, by, person, gone):
        self.act(by, "gone_person", person, gone)

    @rule(by=runners, person=people, back=st.integers(0, 3))
    def disable(self, by, person, back):
        self.act(by, "enable_person" if back else "disable_person", person)

    @rule(by=runners, name=st.sampled_from(("fay", "gus")))
    def add_person(self, by, name):
        self.act(by, "add_person", name, name)

    @rule(by=runners, person=people, where=st.sampled_from(("", "A", "B")))
    def describe(self, by, person, where):
        self.act(by, "describe_person", person, bool(where), where)

    @rule(by=actors, version=st.sampled_from("112"))
    def accept_terms(self, by, version):
        self.act(by, "accept_terms", version)

    @rule(by=actors, ago=st.integers(-1, 65))
    def declare(self, by, ago):
        self.act(by, "declare_training", "Health data", (self.clock.now - timedelta(days=ago)).date())

    @rule(by=actors, person=people, which=st.integers(0, 2))
    def confirm_training(self, by, person, which):
        """``which`` of the person's, from the latest."""
        theirs = sorted((number for number, row in self.before.trainings.items() if row[0] == person), reverse=True)
        self.act(by, "confirm_training", person, theirs[which] if which < len(theirs) else 99)

    @rule(by=actors)
    def make_token(self, by):
        self.act(by, "create_token", "for a script", ["read"], 9)

    @rule(by=runners, person=people)
    def revoke_token(self, by, person):
        theirs = [token for token, row in self.before.tokens.items() if row[0] == person]
        self.act(by, "revoke_token", min(theirs, default="none"))

    @rule(by=people)
    def add_passkey(self, by):
        key = SoftKey()
        try:
            made = key.create(self.governance.begin_passkey(by))
        except BulleError:
            return
        if self.act(by, "add_passkey", "key", made) is not None:
            self.keys[by] = key

    @rule(by=runners, person=people)
    def remove_passkey(self, by, person):
        self.act(by, "remove_passkey", self.keys[person].name if person in self.keys else "none")

    @rule(by=custodians, person=people)
    def vouch(self, by, person):
        self.act(by, "vouch_passkey", person, self.keys[person].name if person in self.keys else "none")

    @rule(by=leads, slug=slugs, lead=people, team=st.sets(people, max_size=2), days=st.integers(5, DAYS))
    def apply(self, by, slug, lead, team=(), days=DAYS):
        self.act(by, "begin_application", slug, content(lead, tuple(sorted(team)), days))

    @rule(by=leads, slug=slugs, kind=st.sampled_from(ApplicationKind))
    def amend(self, by, slug, kind=ApplicationKind.AMENDMENT):
        self.act(by, "amend_application", slug, kind)

    @rule(by=leads, slug=slugs, number=numbers, lead=people, days=st.integers(5, DAYS + 9))
    def edit(self, by, slug, number, lead, days=DAYS):
        self.act(by, "edit_application", slug, number, content(lead, (), days))

    @rule(by=leads, slug=slugs, number=numbers, step=st.sampled_from(("submit", "submit", "withdraw")))
    def hand_in(self, by, slug, number, step="submit"):
        self.act(by, f"{step}_application", slug, number)

    @rule(by=custodians, slug=slugs, number=numbers)
    def check(self, by, slug, number):
        self.act(by, "check_application", slug, number)

    @rule(by=custodians, slug=slugs, number=numbers, step=st.sampled_from(("return", "refuse")))
    def send_back(self, by, slug, number, step):
        if self.act(by, f"{step}_application", slug, number, "Not yet.") is not None and step == "return":
            self.returned[slug, number] = self.clock.now

    @rule(by=custodians, slug=slugs, number=numbers)
    def approve_application(self, by, slug, number):
        self.act(by, "approve_application", slug, number)

    @rule(by=custodians, slug=slugs, lead=people)
    def create(self, by, slug, lead):
        self.act(by, "create_project", slug, title="T", purpose="P", lead=lead, starts=START, ends=START + DAYS * DAY)

    @rule(by=custodians, slug=slugs)
    def activate(self, by, slug):
        self.act(by, "activate_project", slug)

    @rule(by=custodians, slug=slugs)
    def suspend(self, by, slug):
        self.act(by, "suspend_project", slug)

    @rule(by=leads, slug=slugs, sure=st.integers(0, 3))
    def close(self, by, slug, sure=0):
        if sure == 0:
            self.act(by, "close_project", slug)

    @rule(by=st.sampled_from((AUTHORITY, AUTHORITY, AUTHORITY, "ada")), slug=slugs)
    def lapse(self, by, slug):
        self.act(by, "lapse_project", slug)

    @rule(by=custodians, slug=slugs, days=st.integers(0, 9))
    def retain(self, by, slug, days):
        self.act(by, "retain_project", slug, self.clock.now + days * DAY)

    @rule(by=st.sampled_from((NODE, NODE, NODE, "ada")), slug=slugs)
    def archive(self, by, slug):
        self.act(by, "archived", self.project_id(slug))

    @rule(by=st.sampled_from((NODE, NODE, NODE, "ada")), slug=slugs)
    def destroy(self, by, slug):
        self.act(by, "deleted", self.project_id(slug), [], [], lambda claims: "a certificate")

    def project_id(self, slug: str) -> str:
        with self.store.read() as session:
            return session.scalar(select(ProjectRow.id).where(ProjectRow.slug == slug)) or "none"

    exported = False

    @rule(by=custodians, slug=slugs)
    def export(self, by, slug):
        self.act(by, "decide_export", slug, "age1somebody")
        # The one decision that changes nothing here: the log alone says that it was taken.
        last = [(event.kind, event.outcome) for event in self.audit.events[-1:]]
        self.exported = last == [(Action.PROJECT_EXPORT, Outcome.DONE)]

    def take_in(self, by, slug):
        """Import a project of nobody, made of the rows of another."""
        moved, _ = self.governance.leaving("one")
        project = {**moved.project, "slug": slug, "id": uuid.uuid4().hex}
        nobody = moved.model_copy(
            update={"project": project, "persons": (), "memberships": (), "appointments": (), "permits": (),
                    "applications": ()}
        )  # fmt: skip
        self.act(by, "take_in", nobody, same_people=False, arrived=(), told={})

    @rule(by=custodians, slug=slugs, most=st.none() | st.integers(0, 9))
    def quota(self, by, slug, most):
        self.act(by, "set_quota", slug, "hours", most)

    @rule(by=leads, slug=slugs, person=people, role=member_roles, until=ends, invite=st.booleans())
    def request(self, by, slug, person, role=MemberRole.MEMBER, until=None, invite=False):
        self.act(by, "invite_member" if invite else "request_membership", slug, person, role, until)

    @rule(person=people, slug=slugs, until=ends)
    def ask(self, person, slug="one", role=MemberRole.MEMBER, until=None):
        self.act(person, "request_membership", slug, person, role, until)

    @rule(by=people, slug=slugs)
    def accept(self, by, slug):
        self.act(by, "accept_invitation", slug)

    def approve(self, by, slug, person, until=None):
        self.act(by, "approve_membership", slug, person, until)

    @rule(by=leads, slug=slugs, which=members, until=ends)
    def some_approve(self, by, slug, which, until):
        self.approve(by, slug, self.one_of(slug, which), until)

    def consent(self, by, slug, person):
        self.act(by, "consent_external", slug, person)

    @rule(by=custodians, slug=slugs, which=members)
    def some_consent(self, by, slug, which):
        self.consent(by, slug, self.one_of(slug, which))

    def confirm(self, by, slug, person):
        self.act(by, "confirm_membership", slug, person)

    @rule(by=custodians, slug=slugs, which=members)
    def some_confirm(self, by, slug, which):
        self.confirm(by, slug, self.one_of(slug, which))

    def remove(self, by, slug, person, end):
        self.act(by, "end_membership" if end else "suspend_membership", slug, person)

    @rule(by=leads, slug=slugs, which=members, end=st.booleans())
    def some_remove(self, by, slug, which, end):
        self.remove(by, slug, self.one_of(slug, which), end)

    @rule(by=leads, slug=slugs)
    def leave(self, by, slug):
        self.act(by, "leave_project", slug)

    @rule(by=leads, slug=slugs, days=st.integers(1, 50), after=st.integers(0, 9))
    def draft(self, by, slug, days, after=0):
        self.act(by, "draft_permit", slug, draft("age", start=START + after * DAY, days=days))

    @rule(by=custodians, slug=slugs, version=numbers)
    def approve_permit(self, by, slug, version):
        self.act(by, "approve_permit", slug, version)

    @rule(by=leads, slug=slugs, version=numbers)
    def revoke(self, by, slug, version):
        self.act(by, "revoke_permit", slug, version)

    def one_of(self, slug: str, which: int) -> str:
        """Mostly somebody in the project, sometimes anybody."""
        there = sorted(person for of, person in self.before.members if of == slug)
        return there[which % len(there)] if there and which < 6 else PEOPLE[which % len(PEOPLE)]

    # What mostly comes next: without it, a random walk seldom gets far.

    @rule(slug=slugs, which=st.integers(0, 4), custodian=st.sampled_from(("ada", "ben")), again=st.booleans())
    def application_goes_on(self, slug, which, custodian, again):
        there = sorted(key for key in self.before.applications if key[0] == slug)
        if not there:
            return self.amend("dan", slug) if again else self.apply("eve", slug, "dan", {"eve"})
        key = there[which % len(there)]
        row = self.before.applications[key]
        if row.state in ("draft", "returned"):
            self.hand_in(row.drafted_by, *key)
        elif row.state == "submitted":
            self.check(custodian, *key)
        elif row.state == "complete":
            self.approve_application(custodian, *key)
        elif again:
            self.amend("dan", slug)

    @rule(slug=slugs, which=st.integers(0, 4), custodian=st.sampled_from(("ada", "ben")), again=st.booleans())
    def membership_goes_on(self, slug, which, custodian, again):
        there = sorted(key for key in self.before.members if key[0] == slug)
        if not there:
            return self.ask("eve", slug)
        _, person = there[which % len(there)]
        row = self.before.members[slug, person]
        decides = custodian if row.role == "lead" else "dan"
        if row.state == "invited":
            self.accept(person, slug)
        elif row.state in ("requested", "suspended"):
            self.approve(decides, slug, person)
        elif row.state == "ended":
            self.request("dan", slug, person, MemberRole.MEMBER, None, again)
        elif self.before.persons[person].external and row.consented_by is None:
            self.consent(custodian, slug, person)
        elif again:
            self.confirm(decides, slug, person)

    @rule(renews=st.booleans(), days=st.integers(2, 6), which=st.integers(0, 1))
    def end_goes_on(self, renews, days, which):
        """Once the time of "one" is over: more of it is asked for, or days pass until the project closes by itself."""
        project = self.before.projects.get("one")
        if project is None or self.clock.now < project.ends:
            return
        if renews:
            self.amend("dan", "one", ApplicationKind.RENEWAL)
            number = max((number for of, number in self.before.applications if of == "one"), default=1)
            self.edit("dan", "one", number, "dan", DAYS + 9 + 9 * which)
            self.hand_in("dan", "one", number)
        else:
            self.time_passes(days)
            self.lapse(AUTHORITY, "one")

    @rule(days=st.integers(1, 6))
    def time_passes(self, days):
        self.clock.pass_(days)

    # How things stand.

    def whole(self) -> bytes:
        """The whole database: nothing can change in it unseen."""
        with self.store._engine.connect() as connection:
            raw = connection.connection.driver_connection
            assert isinstance(raw, sqlite3.Connection)
            return raw.serialize()

    def picture(self) -> Picture:
        with self.store.read() as session:
            rows = {name: session.execute(wanted).all() for name, wanted in ROWS.items()}
        given: dict[str, dict[str, bool]] = {}
        for person, role, provided in rows["roles"]:
            given.setdefault(person, {})[str(role)] = provided
        ids = {row[0]: row[1] for row in rows["projects"]}
        return Picture(
            persons={
                one: Person(disabled, gone is not None, external, affiliation, given.get(one, {}))
                for one, disabled, gone, external, affiliation in rows["persons"]
            },
            accepted=frozenset(map(tuple, rows["accepted"])),
            trainings={number: tuple(rest) for number, *rest in rows["trainings"]},
            tokens={one: tuple(rest) for one, *rest in rows["tokens"]},
            passkeys={one: tuple(rest) for one, *rest in rows["passkeys"]},
            projects={
                slug: Project(str(state), starts, until, retain, archived is not None)
                for _, slug, state, starts, until, retain, archived in rows["projects"]
            },
            members={
                (ids[project], person): Member(str(role), str(state), *rest)
                for project, person, role, state, *rest in rows["members"]
            },
            permits={
                (ids[project], version): (str(state), drafted, approved)
                for project, version, state, drafted, approved in rows["permits"]
            },
            applications={
                (ids[project], number): Application(
                    str(state), str(kind), json.dumps(said, sort_keys=True), drafted, submitted
                )
                for project, number, state, kind, said, drafted, submitted in rows["applications"]
            },
            quotas={(ids[project], kind): most for project, kind, most in rows["quotas"]},
        )

    # What must hold at any time.

    @invariant()
    def hold(self) -> None:
        """All of it; where nothing changed and no time passed, it holds as before."""
        if self.judged == (self.bytes, self.clock.now):
            return
        self.judged = (self.bytes, self.clock.now)
        for slug in SLUGS:
            states = [row[0] for (of, _), row in self.before.permits.items() if of == slug]
            assert states.count("approved") <= 1, "two permits are in force"
        for (slug, _), member in self.before.members.items():
            assert member.ends <= self.before.projects[slug].ends, "a membership outlives its project"
        for person in self.before.persons.values():
            assert not any(pair <= set(person.roles) for pair in INCOMPATIBLE_ROLES), "roles that exclude each other"
        for slug in self.before.projects:
            for person in self.before.persons:
                self.a_grant_needs_everything(person, slug)
        started = sum(event.outcome is Outcome.STARTED for event in self.audit.events)
        done = sum(event.outcome is Outcome.DONE for event in self.audit.events)
        assert started == done, "a change that the log began, it did not end"

    def a_grant_needs_everything(self, person: str, slug: str) -> None:
        try:
            grant = self.governance.may_open(person, slug)
        except RefusedError:
            return
        now, before = self.clock.now, self.before
        who, member, project = before.persons[person], before.members[slug, person], before.projects[slug]
        assert not who.disabled, "a session of a disabled person"
        assert not who.gone, "a session of somebody whom the provider does not know"
        assert member.state == "active", "a session without a membership"
        assert member.approved_by not in (None, person), "a session by one's own approval"
        assert project.state == "active", "a session in a project that is not active"
        assert project.starts <= now < project.ends, "a session out of the project's time"
        assert (person, "1") in before.accepted, "a session without the terms"
        trained = before.trained_until(person)
        assert trained is not None, "a session without a training"
        assert now < trained, "a session after the training expired"
        assert member.review_due is not None, "a session without a review"
        assert now < member.review_due, "a session after the review was due"
        if who.external:
            assert member.consented_by not in (None, person), "an external partner without a custodian's consent"
        approved = [
            (version, row[2]) for (of, version), row in before.permits.items() if of == slug and row[0] == "approved"
        ]
        assert [version for version, _ in approved] == [grant.permit.version], "a session without a permit"
        assert approved[0][1] != person, "a session under a permit of one's own approval"
        assert grant.permit.valid_from <= now < grant.ends_at, "a session out of the permit's time"
        bounds = (member.ends, project.ends, grant.permit.valid_until, trained, member.review_due)
        assert grant.ends_at == min(bounds), "a session that does not end when it must"


@dataclass
class Judge:
    """Whether what somebody changed was theirs to change, judged by how things stood before."""

    walk: Walk
    by: str
    doing: str
    old: Picture
    new: Picture

    def changed(self) -> None:
        me = self.old.persons.get(self.by)
        self.office = set() if me is None else set(me.roles)
        self.now = self.walk.clock.now
        self.runs = self.by == OPERATOR or "administrator" in self.office
        self.custodian = "custodian" in self.office
        self.approvers = {(slug, row[2]) for (slug, _), row in self.old.permits.items() if row[2]}
        assert me is None or not me.disabled, "a disabled person changed something"
        self.persons()
        self.accounts()
        self.projects()
        self.members()
        self.permits()
        self.applications()
        if self.doing == "decide_export":
            assert self.custodian, "who may let a project leave"
            assert not self.involved(str(self.walk.audit.events[-1].project)), "somebody's own project leaves"
        for key in {*self.old.quotas, *self.new.quotas}:
            if self.old.quotas.get(key) != self.new.quotas.get(key):
                assert self.office & {"custodian", "administrator"}, "who may set a quota"
                assert not self.involved(key[0]), "a quota for a project of one's own"

    def member(self, slug: str, person: str) -> Member | None:
        return self.old.members.get((slug, person))

    def leads(self, slug: str, person: str | None = None) -> bool:
        mine = self.member(slug, person or self.by)
        return mine is not None and (mine.role, mine.state) == ("lead", "active") and self.now < mine.ends

    def closes(self, slug: str) -> tuple[bool, datetime | None]:
        """Whether the project is over and not closed, and when it closes by itself where nobody holds it."""
        project = self.old.projects[slug]
        ended = project.state in ("active", "suspended") and project.ends <= self.now
        begins = project.ends
        for (of, number), row in self.old.applications.items():
            if of == slug and row.kind == "renewal":
                if row.state in ("submitted", "complete"):
                    return ended, None
                if row.state == "returned":
                    begins = max(begins, self.walk.returned[of, number])
        return ended, begins + POLICY.closing_days * DAY

    def led(self, slug: str) -> bool:
        """Whether who acts led the project until its end, and can still ask for more time."""
        if slug not in self.old.projects:
            return False
        ended, closing = self.closes(slug)
        mine = self.member(slug, self.by)
        if not ended or mine is None or (closing is not None and self.now >= closing):
            return False
        return (mine.role, mine.state) == ("lead", "active") and mine.ends == self.old.projects[slug].ends

    def lapsed(self, slug: str) -> bool:
        """Whether the authority may close the project now."""
        ended, closing = self.closes(slug)
        return self.by == AUTHORITY and ended and closing is not None and closing <= self.now

    def involved(self, slug: str, person: str | None = None) -> bool:
        person = person or self.by
        mine = self.member(slug, person)
        if mine is None:
            return False
        return mine.state in ("active", "suspended") or (mine.state == "requested" and mine.requested_by == person)

    def leads_member(self, person: str) -> bool:
        running = [slug for slug, project in self.old.projects.items() if project.state in ("active", "suspended")]
        return any(self.leads(slug) and self.involved(slug, person) for slug in running)

    def disabled(self, person: str) -> bool:
        known = self.old.persons.get(person)
        return known is not None and known.disabled

    def persons(self) -> None:
        for person, now in self.new.persons.items():
            was = self.old.persons.get(person)
            if was is None:
                assert self.runs or self.by == HUB, "who may add people"
                was = Person(False, False, False, "", {})
            if now.disabled != was.disabled:
                assert self.runs, "only operator and administrator shut people out"
            if now.gone != was.gone:
                assert self.by == HUB, "only the hub says who is gone"
            if (now.external, now.affiliation) != (was.external, was.affiliation):
                assert self.runs or self.custodian, "who may say who is external"
                assert person != self.by, "somebody described themselves"
                agreed = [row.consented_by for (_, of), row in self.new.members.items() if of == person]
                assert not any(agreed), "a consent to a partner of one organisation is carried to another"
            won = {role: provided for role, provided in now.roles.items() if role not in was.roles}
            lost = {role: provided for role, provided in was.roles.items() if role not in now.roles}
            if won:
                assert person != self.by, "somebody gave themselves a role"
                assert not was.disabled, "a disabled person was given a role"
            if self.by == HUB:
                assert all(won.values()), "the hub gave a role that is not the provider's"
                assert all(lost.values()), "the hub took a role that is not the provider's"
            elif won or lost:
                assert self.runs, "only operator and administrator manage roles"
                assert not any(won.values()), "a role that the provider is said to have given"

    def accounts(self) -> None:
        assert self.new.accepted >= self.old.accepted
        for person, version in self.new.accepted - self.old.accepted:
            assert (person, version) == (self.by, "1"), "terms accepted for somebody else, or not those in force"
        for number, (person, until, confirmed_by) in self.new.trainings.items():
            was = self.old.trainings.get(number)
            if was is None:
                assert person == self.by, "a training declared for somebody else"
                assert confirmed_by is None
            elif was[2] != confirmed_by:
                assert confirmed_by == self.by != person, "somebody confirmed their own training"
                assert self.now < until, "a training confirmed after it expired"
                if self.doing == "approve_membership":
                    admitted = [key for key, row in self.new.members.items() if self.old.members.get(key) != row]
                    assert [who for _, who in admitted] == [person], "a training confirmed beside an approval"
                else:
                    assert self.runs or self.custodian or self.leads_member(person), "who may confirm a training"
        for token, row in self.new.tokens.items():
            if token not in self.old.tokens:
                assert row[0] == self.by, "a token made for somebody else"
            elif row != self.old.tokens[token]:
                assert row[0] == self.by or self.runs, "who may revoke a token"
        for key, (person, vouched_by, removed) in self.new.passkeys.items():
            was_key = self.old.passkeys.get(key)
            if was_key is None:
                assert person == self.by, "a passkey added for somebody else"
                assert vouched_by is None
                continue
            if removed != was_key[2]:
                assert person == self.by or self.runs, "who may remove a passkey"
            if vouched_by != was_key[1]:
                assert vouched_by == self.by != person, "somebody vouched for their own passkey"
                assert self.by == OPERATOR or self.custodian, "who may vouch"
                assert not self.disabled(person), "a disabled person's passkey is vouched for"

    def projects(self) -> None:
        for slug, project in self.new.projects.items():
            was = self.old.projects.get(slug)
            if was is None:
                if self.doing == "take_in":
                    assert self.by == OPERATOR, "who may import"
                    assert project.state == "suspended", "what was imported runs by itself"
                    continue
                assert project.state == "draft"
                if self.doing == "begin_application":
                    assert self.by in self.old.persons, "who may apply"
                    assert not [key for key in self.new.members if key[0] == slug]
                    continue
                assert self.office & {"custodian", "administrator"}, "who may create a project"
                lead = next(person for (of, person) in self.new.members if of == slug)
                assert lead != self.by, "somebody created a project to lead"
                assert not self.disabled(lead), "a project was created for a disabled lead"
                continue
            applied = [row for (of, _), row in self.old.applications.items() if of == slug]
            if project.state != was.state:
                if project.state == "active":
                    assert self.custodian, "only a custodian puts a project into effect"
                    assert not self.involved(slug), "a custodian put their own project into effect"
                elif project.state == "suspended":
                    assert self.office & {"custodian", "administrator"}, "who may suspend"
                elif project.state == "closed":
                    mine = was.state == "draft" and any(row.drafted_by == self.by for row in applied)
                    decided = self.custodian or self.leads(slug) or self.led(slug)
                    assert decided or mine or self.lapsed(slug), "who may close"
                else:
                    assert self.by == NODE, "only the node agent says that keys are destroyed"
                    assert was.retain_until is not None and was.retain_until <= self.now, "keys destroyed too early"
            elif project.retain_until != was.retain_until:
                assert was.state == "closed"
                assert self.custodian, "who may move the end of retention"
                assert not self.involved(slug), "retention of one's own project"
            if project.archived != was.archived:
                assert self.by == NODE, "only the node agent says that a project is archived"
            if (project.starts, project.ends) != (was.starts, was.ends):
                if was.state == "draft" and project.state == "draft":
                    mine = any(row.drafted_by == self.by for row in applied)
                    assert mine or self.leads(slug), "who may change a draft"
                else:
                    assert self.doing == "approve_application", "only a decision moves a project's dates"

    def members(self) -> None:
        for (slug, person), row in self.new.members.items():
            was = self.member(slug, person)
            if row == was or slug not in self.old.projects:
                continue
            became = row.state if was is None or was.state != row.state else None
            shortened = was is not None and self.doing == "approve_application" and row.approved_by == was.approved_by
            if became in ("invited", "requested"):
                accepted = was is not None and was.state == "invited"
                assert self.by == person or ((self.leads(slug) or self.custodian) and not accepted), "who may ask"
                assert became == "requested" or self.by != person, "somebody invited themselves"
                assert not self.disabled(person), "a disabled person was proposed"
                assert row.approved_by is None
                assert row.consented_by is None or accepted, "a consent from before counts again"
            elif became == "suspended":
                assert self.leads(slug) or self.office & {"custodian", "administrator"}, "who may suspend a member"
                assert person != self.by, "somebody suspended themselves"
            elif became == "ended":
                self.ended(slug, person)
            elif row.state == "active" and (
                became or (row.role, row.approved_by) != (was.role, was.approved_by) or row.ends != was.ends
            ):
                if not (shortened and row.ends < was.ends):
                    self.admitted(slug, person, row, was)
            elif row.consented_by is not None and row.consented_by != was.consented_by:
                assert row.consented_by == self.by != person, "somebody agreed to themselves"
                assert self.custodian, "only a custodian agrees to an external partner"
                assert not self.involved(slug), "a custodian agreed to a partner of their own project"
                assert self.old.persons[person].external
                assert not self.disabled(person), "a disabled partner was agreed to"
            elif row.review_due != was.review_due:
                assert person != self.by, "somebody confirmed themselves"
                assert (slug, person) not in self.approvers, "who approved a permit was confirmed"
                assert not self.disabled(person), "a disabled person was confirmed"
                assert row.state == "active" and self.now < row.ends
                if row.role == "lead":
                    assert self.custodian and not self.involved(slug), "who may confirm a lead"
                else:
                    assert self.leads(slug), "who may confirm a member"

    def ended(self, slug: str, person: str) -> None:
        if person != self.by:
            assert self.leads(slug) or self.custodian, "who may end a membership"
            return
        assert self.doing == "leave_project", "somebody removed themselves"
        if self.leads(slug):
            others = [of for (at, of) in self.old.members if at == slug and of != person and self.leads(slug, of)]
            assert others, "the last lead left"

    def admitted(self, slug: str, person: str, row: Member, was: Member | None) -> None:
        applied = self.doing == "approve_application"
        assert person != self.by, "somebody admitted themselves"
        assert row.approved_by == self.by
        assert (slug, person) not in self.approvers, "who approved a permit was admitted"
        assert not self.disabled(person), "a disabled person was admitted"
        if not applied:
            assert was is not None and was.state != "invited", "an invitation was approved over the person's head"
        if row.role == "lead":
            assert self.custodian, "only a custodian appoints a lead"
            assert not self.involved(slug), "a custodian appointed a lead of their own project"
            assert (slug, person) not in self.walk.appointers, "who appointed a lead became one"
            self.walk.appointers.add((slug, self.by))
        else:
            assert self.leads(slug), "only the lead admits members"
        if self.doing == "approve_membership" and was is not None and was.state != "active":
            assert (person, "1") in self.old.accepted, "somebody was admitted without the terms"
            trained = self.new.trained_until(person)
            assert trained is not None and self.now < trained, "somebody was admitted without a training"

    def permits(self) -> None:
        for (slug, version), row in self.new.permits.items():
            was = self.old.permits.get((slug, version))
            if row == was:
                continue
            state, drafted_by, approved_by = row
            if was is None and state == "draft":
                assert self.leads(slug) or self.custodian, "who may draft a permit"
                assert (drafted_by, approved_by) == (self.by, None)
            elif state == "approved":
                assert was is not None or self.doing == "approve_application"
                assert self.custodian, "only a custodian approves a permit"
                assert approved_by == self.by != drafted_by, "somebody approved what they drafted"
                assert not self.involved(slug), "a custodian approved a permit of their own project"
            elif state == "revoked":
                assert self.custodian or self.leads(slug), "who may revoke a permit"
            else:
                assert state == "superseded"
                now = [other[0] for (of, _), other in self.new.permits.items() if of == slug]
                assert "approved" in now, "a permit was superseded by nothing"

    def applications(self) -> None:
        for (slug, number), row in self.new.applications.items():
            was = self.old.applications.get((slug, number))
            if row == was:
                continue
            if was is None:
                assert row.drafted_by == self.by
                renews = self.led(slug) and row.kind == "renewal"
                assert self.leads(slug) or renews or (number == 1 and slug not in self.old.projects), "who may amend"
                assert self.doing != "begin_application" or not self.disabled(row.lead), "for a disabled lead"
                continue
            mine = self.leads(slug) or self.led(slug) or (was.drafted_by == self.by and was.kind == "new")
            if row.content != was.content:
                assert mine, "who may edit an application"
                assert was.state in ("draft", "returned"), "an application was edited under the eyes of who decides"
                assert not self.disabled(row.lead), "for a disabled lead"
            if row.state == was.state:
                continue
            if row.state in ("submitted", "withdrawn"):
                closing = (self.doing == "close_project" and self.custodian) or self.lapsed(slug)
                assert mine or closing, "who may hand an application in, or take it back"
                continue
            assert self.custodian, "only a custodian decides on an application"
            assert self.by not in (was.drafted_by, was.submitted_by), "somebody decided on their own application"
            assert not self.involved(slug), "a custodian decided on an application of their own project"
            if row.state in ("complete", "approved"):
                assert self.by not in was.named, "a custodian let through what names them"
            if row.state == "approved":
                assert was.state == "complete", "what was not checked was approved"
                assert not self.disabled(was.lead), "a disabled lead was appointed"

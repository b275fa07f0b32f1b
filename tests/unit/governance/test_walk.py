"""Random people do random things; what must always hold, holds. With any one rule taken away, it does not.

The invariants are written from what happened (kept here) and from the store's rows, not from the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import select

from orchestrator.errors import BulleError, RefusedError
from orchestrator.governance.access import ACCESS_RULES
from orchestrator.governance.identity import OPERATOR
from orchestrator.governance.rules import TABLE, Action, Fact, Rule
from orchestrator.governance.service import Governance
from orchestrator.governance.states import MemberRole, PlatformRole
from orchestrator.governance.store import MembershipRow, PermitRow, PersonRow, ProjectRow, Store
from orchestrator.terms import Outcome
from tests.unit.governance.places import DAY, START, Clock, Kept, Shelf, draft

PEOPLE = ("ada", "ben", "cleo", "dan")
SLUGS = ("one", "two")

people = st.sampled_from(PEOPLE)
actors = st.sampled_from((*PEOPLE, *PEOPLE, OPERATOR))
slugs = st.sampled_from(SLUGS)
versions = st.integers(1, 3)
roles = st.sampled_from(PlatformRole)
member_roles = st.sampled_from(MemberRole)
ends = st.none() | st.integers(-5, 45).map(lambda days: START + days * DAY)


class Walk(RuleBasedStateMachine):
    table: Mapping[Action, Rule] = TABLE
    access = ACCESS_RULES

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.audit = Clock(), Kept()
        self.store = Store("sqlite://")
        self.store.prepare()
        self.governance = Governance(
            self.store, self.audit, self.clock, Shelf(), rules=self.table, access_rules=self.access
        )
        self.before: dict[str, object] = {}

    def teardown(self) -> None:
        self.store.close()

    @initialize()
    def begin(self) -> None:
        for person in PEOPLE:
            self.governance.add_person(OPERATOR, person, person)
        for person, role in (("ada", "custodian"), ("ben", "custodian"), ("cleo", "administrator")):
            self.governance.add_role(OPERATOR, person, PlatformRole(role))
        self.before = self.picture()

    # What happens.

    def act(self, by: str, action, *arguments, **named) -> None:
        """One action; if it changed something, what it changed must have been this person's to change."""
        written = len(self.audit.events)
        try:
            getattr(self.governance, action)(by, *arguments, **named)
        except BulleError:
            assert self.picture() == self.before, "a failed action changed something"
            return
        now = self.picture()
        kinds = [(event.outcome, event.actor) for event in self.audit.events[written:]]
        assert kinds == [(Outcome.STARTED, by), (Outcome.DONE, by)], "a change is not in the audit log"
        self.changed(by, self.before, now)
        self.before = now

    @rule(by=actors, person=people, role=roles)
    def add_role(self, by, person, role):
        self.act(by, "add_role", person, role)

    @rule(by=actors, person=people, role=roles)
    def remove_role(self, by, person, role):
        self.act(by, "remove_role", person, role)

    @rule(by=actors, person=people, back=st.booleans())
    def disable(self, by, person, back):
        self.act(by, "enable_person" if back else "disable_person", person)

    @rule(by=actors, name=st.sampled_from(("eve", "fay")))
    def add_person(self, by, name):
        self.act(by, "add_person", name, name)

    @rule(by=actors, slug=slugs, lead=people)
    def create(self, by, slug, lead):
        self.act(by, "create_project", slug, title="T", purpose="P", lead=lead, starts=START, ends=START + 40 * DAY)

    @rule(by=actors, slug=slugs)
    def activate(self, by, slug):
        self.act(by, "activate_project", slug)

    @rule(by=actors, slug=slugs)
    def suspend(self, by, slug):
        self.act(by, "suspend_project", slug)

    @rule(by=actors, slug=slugs, sure=st.integers(0, 3))
    def close(self, by, slug, sure):
        if sure == 0:
            self.act(by, "close_project", slug)

    @rule(by=actors, slug=slugs, person=people, role=member_roles, ends=ends)
    def request(self, by, slug, person, role, ends):
        self.act(by, "request_membership", slug, person, role, ends)

    @rule(by=actors, slug=slugs, person=people, ends=ends)
    def approve(self, by, slug, person, ends):
        self.act(by, "approve_membership", slug, person, ends)

    @rule(by=actors, slug=slugs, person=people, end=st.booleans())
    def leave(self, by, slug, person, end):
        self.act(by, "end_membership" if end else "suspend_membership", slug, person)

    @rule(by=actors, slug=slugs, days=st.integers(1, 50))
    def draft(self, by, slug, days):
        self.act(by, "draft_permit", slug, draft("age", start=START, days=days))

    @rule(by=actors, slug=slugs, version=versions)
    def approve_permit(self, by, slug, version):
        self.act(by, "approve_permit", slug, version)

    @rule(by=actors, slug=slugs, version=versions)
    def revoke(self, by, slug, version):
        self.act(by, "revoke_permit", slug, version)

    @rule(days=st.integers(1, 8))
    def time_passes(self, days):
        self.clock.pass_(days)

    # What must hold.

    def picture(self) -> dict[str, object]:
        """The store's rows as plain values."""
        with self.store.read() as session:
            persons = {
                row.id: (row.disabled, frozenset(str(role.role) for role in row.roles))
                for row in session.scalars(select(PersonRow))
            }
            projects = {row.slug: str(row.state) for row in session.scalars(select(ProjectRow))}
            ids = {row.id: row.slug for row in session.scalars(select(ProjectRow))}
            members = {
                (ids[row.project_id], row.person_id): (str(row.role), str(row.state), row.ends, row.approved_by)
                for row in session.scalars(select(MembershipRow))
            }
            permits = {
                (ids[row.project_id], row.version): (str(row.state), row.drafted_by, row.approved_by)
                for row in session.scalars(select(PermitRow))
            }
        return {"persons": persons, "projects": projects, "members": members, "permits": permits}

    def changed(self, by: str, old: dict, new: dict) -> None:
        """What this person changed was theirs to change, judged by how things stood before."""
        disabled, office = old["persons"].get(by, (False, frozenset()))
        operator = by == OPERATOR
        assert not disabled, "a disabled person changed something"
        runs = operator or "administrator" in office

        def leads(slug):
            role, state, until, _ = old["members"].get((slug, by), ("", "", START, None))
            return role == "lead" and state == "active" and self.clock.now < until

        def involved(slug):
            return old["members"].get((slug, by), ("", "ended", START, None))[1] != "ended"

        for person, (now_disabled, now_office) in new["persons"].items():
            was_disabled, was_office = old["persons"].get(person, (None, frozenset()))
            if (now_disabled, now_office) != (was_disabled, was_office):
                assert runs, "only operator and administrator manage people"
            if now_office - was_office:
                assert person != by, "somebody gave themselves a role"
                assert not was_disabled, "a disabled person was given a role"
        for slug, state in new["projects"].items():
            was = old["projects"].get(slug)
            if state == was:
                continue
            if was is None:
                assert office & {"custodian", "administrator"}, "who may create a project"
                lead = next(person for (of, person) in new["members"] if of == slug)
                assert lead != by, "somebody created a project to lead"
                assert not old["persons"][lead][0], "a project was created for a disabled lead"
            elif state == "active":
                assert "custodian" in office, "only a custodian puts a project into effect"
                assert not involved(slug), "a custodian put their own project into effect"
            elif state == "suspended":
                assert office & {"custodian", "administrator"}, "who may suspend"
            else:
                assert "custodian" in office or leads(slug), "who may close"
        approvers = {(slug, row[2]) for (slug, _), row in old["permits"].items() if row[2]}
        for (slug, person), row in new["members"].items():
            role, state, _, approved_by = row
            was = old["members"].get((slug, person), ("", "", START, None))
            if row == was or slug not in old["projects"]:
                continue
            if state == "requested":
                assert by == person or leads(slug) or "custodian" in office, "who may ask for somebody"
                assert not old["persons"][person][0], "a disabled person was proposed"
            elif state == "active":
                assert person != by, "somebody admitted themselves"
                assert approved_by == by
                assert (slug, person) not in approvers, "who approved a permit was admitted"
                assert not old["persons"][person][0], "a disabled person was admitted"
                if role == "lead":
                    assert "custodian" in office, "only a custodian appoints a lead"
                    assert not involved(slug), "a custodian appointed a lead of their own project"
                    assert (slug, person) not in self.appointers, "who appointed a lead became one"
                    self.appointers.add((slug, by))
                else:
                    assert leads(slug), "only the lead admits members"
            elif state == "suspended":
                assert leads(slug) or office & {"custodian", "administrator"}, "who may suspend a member"
            else:
                assert by == person or leads(slug) or "custodian" in office, "who may end a membership"
        for (slug, version), row in new["permits"].items():
            was = old["permits"].get((slug, version))
            if row == was:
                continue
            state, drafted_by, approved_by = row
            if was is None:
                assert leads(slug) or "custodian" in office, "who may draft a permit"
                assert (state, drafted_by) == ("draft", by)
            elif state == "approved":
                assert "custodian" in office, "only a custodian approves a permit"
                assert approved_by == by != drafted_by, "somebody approved what they drafted"
                assert not involved(slug), "a custodian approved a permit of their own project"
            elif state == "revoked":
                assert "custodian" in office or leads(slug), "who may revoke a permit"

    @property
    def appointers(self) -> set:
        return self.__dict__.setdefault("_appointers", set())

    def hold(self) -> None:
        """All invariants, for a walk that hypothesis does not steer."""
        self.one_approved_permit()
        self.memberships_end_with_their_project()
        self.a_grant_needs_everything()
        self.the_log_is_complete()

    @invariant()
    def one_approved_permit(self):
        for slug in SLUGS:
            states = [row[0] for (of, _), row in self.before.get("permits", {}).items() if of == slug]
            assert states.count("approved") <= 1

    @invariant()
    def memberships_end_with_their_project(self):
        for _, _, until, _ in self.before.get("members", {}).values():
            assert until <= START + 40 * DAY

    @invariant()
    def a_grant_needs_everything(self):
        for slug in self.before.get("projects", {}):
            for person in self.before["persons"]:
                try:
                    grant = self.governance.may_open(person, slug)
                except RefusedError:
                    continue
                disabled, _ = self.before["persons"][person]
                _, state, until, approved_by = self.before["members"][slug, person]
                approved = [
                    version
                    for (of, version), row in self.before["permits"].items()
                    if of == slug and row[0] == "approved"
                ]
                now = self.clock.now
                assert not disabled
                assert state == "active"
                assert approved_by not in (None, person)
                assert self.before["projects"][slug] == "active"
                assert approved == [grant.permit.version]
                assert START <= now < START + 40 * DAY
                assert grant.permit.valid_from <= now < grant.ends_at
                assert grant.ends_at == min(until, START + 40 * DAY, grant.permit.valid_until)

    @invariant()
    def the_log_is_complete(self):
        """Each change that the log began, it ended."""
        started = sum(event.outcome is Outcome.STARTED for event in self.audit.events)
        done = sum(event.outcome is Outcome.DONE for event in self.audit.events)
        assert started == done


WALK = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


class TestWalk(Walk.TestCase):
    settings = WALK


# Negative controls: each entry of the table is taken away in turn, and a short deliberate walk then breaks an
# invariant that it does not break with the whole table.


def stage(walk: Walk) -> None:
    """Project "one", led by dan with a permit by ben; eve and fay are known, fay reviews; "two" is not there."""
    walk.begin()
    for name in ("eve", "fay"):
        walk.add_person(OPERATOR, name)
    walk.add_role(OPERATOR, "fay", PlatformRole.REVIEWER)
    walk.create("ada", "one", "dan")
    walk.activate("ada", "one")
    walk.draft("dan", "one", 30)
    walk.approve_permit("ben", "one", 1)


def nothing(walk: Walk) -> None:
    pass


@dataclass(frozen=True)
class Try:
    """An action by who may do it: what must come before, who acts, what they do, whom it is about."""

    by: str
    act: Callable[[Walk, str], None]
    before: Callable[[Walk], None] = nothing
    about: str | None = None


def eve_asks(walk: Walk, role: MemberRole = MemberRole.MEMBER) -> None:
    walk.request("eve", "one", "eve", role, None)


def eve_is_in(walk: Walk) -> None:
    eve_asks(walk)
    walk.approve("dan", "one", "eve", None)


RIGHT = {
    Action.PERSON_ADD: Try("cleo", lambda w, by: w.add_person(by, "gus")),
    Action.PERSON_DISABLE: Try("cleo", lambda w, by: w.disable(by, "eve", False)),
    Action.PERSON_ENABLE: Try(
        "cleo", lambda w, by: w.disable(by, "eve", True), lambda w: w.disable("cleo", "eve", False)
    ),
    Action.ROLE_ADD: Try("cleo", lambda w, by: w.add_role(by, "eve", PlatformRole.REVIEWER), about="eve"),
    Action.ROLE_REMOVE: Try("cleo", lambda w, by: w.remove_role(by, "ben", PlatformRole.CUSTODIAN)),
    Action.PROJECT_CREATE: Try("ada", lambda w, by: w.create(by, "two", "dan"), about="dan"),
    Action.PROJECT_ACTIVATE: Try(
        "ada", lambda w, by: w.activate(by, "two"), lambda w: w.create("ada", "two", "dan"), about="dan"
    ),
    Action.PROJECT_SUSPEND: Try("ada", lambda w, by: w.suspend(by, "one")),
    Action.PROJECT_RESUME: Try("ada", lambda w, by: w.activate(by, "one"), lambda w: w.suspend("cleo", "one")),
    Action.PROJECT_CLOSE: Try("ada", lambda w, by: w.close(by, "one", 0)),
    Action.MEMBER_REQUEST: Try("dan", lambda w, by: w.request(by, "one", "eve", MemberRole.MEMBER, None), about="eve"),
    Action.MEMBER_APPROVE: Try("dan", lambda w, by: w.approve(by, "one", "eve", None), eve_asks, about="eve"),
    Action.MEMBER_SUSPEND: Try("dan", lambda w, by: w.leave(by, "one", "eve", False), eve_is_in),
    Action.MEMBER_END: Try("dan", lambda w, by: w.leave(by, "one", "eve", True), eve_is_in),
    Action.LEAD_APPOINT: Try(
        "ada",
        lambda w, by: w.approve(by, "one", "eve", None),
        lambda w: eve_asks(w, MemberRole.LEAD),
        about="eve",
    ),
    Action.PERMIT_DRAFT: Try("dan", lambda w, by: w.draft(by, "one", 20)),
    Action.PERMIT_APPROVE: Try(
        "ada", lambda w, by: w.approve_permit(by, "one", 2), lambda w: w.draft("dan", "one", 20)
    ),
    Action.PERMIT_REVOKE: Try("ada", lambda w, by: w.revoke(by, "one", 1)),
}


def ask(walk: Walk, person: str, slug: str = "one", role: MemberRole = MemberRole.MEMBER) -> None:
    walk.request(person, slug, person, role, None)


def ben_approved_and_asks_to_lead_a_draft(walk: Walk) -> None:
    walk.create("ada", "two", "dan")
    walk.draft("ada", "two", 30)
    walk.approve_permit("ben", "two", 1)
    walk.leave("dan", "two", "dan", True)
    ask(walk, "ben", "two", MemberRole.LEAD)


#: what breaks with one prohibition taken away, beside the general cases below
WRONG = {
    (Action.ROLE_ADD, Fact.SELF): Try("cleo", lambda w, by: w.add_role(by, by, PlatformRole.REVIEWER)),
    (Action.PROJECT_CREATE, Fact.SELF): Try("ada", lambda w, by: w.create(by, "two", by)),
    (Action.PROJECT_ACTIVATE, Fact.SELF): Try(
        "ada", lambda w, by: w.activate(by, "two"), lambda w: w.create("cleo", "two", "ada")
    ),
    (Action.PROJECT_ACTIVATE, Fact.INVOLVED): Try(
        "ada",
        lambda w, by: w.activate(by, "two"),
        lambda w: (w.create("ada", "two", "dan"), ask(w, "ada", "two")),
    ),
    (Action.PROJECT_ACTIVATE, Fact.FOR_PERMIT_APPROVER): Try(
        "ada", lambda w, by: w.activate(by, "two"), ben_approved_and_asks_to_lead_a_draft
    ),
    (Action.PROJECT_RESUME, Fact.INVOLVED): Try(
        "ada", lambda w, by: w.activate(by, "one"), lambda w: (ask(w, "ada"), w.suspend("cleo", "one"))
    ),
    (Action.MEMBER_APPROVE, Fact.SELF): Try("eve", lambda w, by: w.approve(by, "one", by, None), eve_asks),
    (Action.MEMBER_APPROVE, Fact.FOR_PERMIT_APPROVER): Try(
        "dan", lambda w, by: w.approve(by, "one", "ben", None), lambda w: ask(w, "ben")
    ),
    (Action.LEAD_APPOINT, Fact.SELF): Try(
        "ben",
        lambda w, by: w.approve(by, "one", by, None),
        lambda w: (w.create("cleo", "two", "dan"), ask(w, "ben", role=MemberRole.LEAD)),
    ),
    (Action.LEAD_APPOINT, Fact.INVOLVED): Try(
        "ada",
        lambda w, by: w.approve(by, "one", "eve", None),
        lambda w: (ask(w, "ada"), eve_asks(w, MemberRole.LEAD)),
    ),
    (Action.LEAD_APPOINT, Fact.FOR_PERMIT_APPROVER): Try(
        "ada", lambda w, by: w.approve(by, "one", "ben", None), lambda w: ask(w, "ben", role=MemberRole.LEAD)
    ),
    (Action.LEAD_APPOINT, Fact.FOR_LEAD_APPOINTER): Try(
        "ben", lambda w, by: w.approve(by, "one", "ada", None), lambda w: ask(w, "ada", role=MemberRole.LEAD)
    ),
    (Action.PERMIT_APPROVE, Fact.DRAFTER): Try(
        "ada", lambda w, by: w.approve_permit(by, "one", 2), lambda w: w.draft("ada", "one", 20)
    ),
    (Action.PERMIT_APPROVE, Fact.INVOLVED): Try(
        "ada", lambda w, by: w.approve_permit(by, "one", 2), lambda w: (w.draft("dan", "one", 20), ask(w, "ada"))
    ),
}

#: entries that another one covers as things are kept: that one is away in both halves of their control
COVERED: Mapping[tuple[Action, Fact], Callable[[Rule], Rule]] = {
    (Action.MEMBER_APPROVE, Fact.SELF): lambda rule_: replace(rule_, may=frozenset(Fact)),
    (Action.PROJECT_ACTIVATE, Fact.SELF): lambda rule_: replace(rule_, may_not=rule_.may_not - {Fact.INVOLVED}),
    (Action.LEAD_APPOINT, Fact.SELF): lambda rule_: replace(
        rule_, may_not=rule_.may_not - {Fact.INVOLVED, Fact.FOR_PERMIT_APPROVER}
    ),
}

PROHIBITIONS = [(action, fact) for action, rule_ in TABLE.items() for fact in sorted(rule_.may_not)]


def wrong(action: Action, fact: Fact) -> Try:
    """The deliberate walk against one prohibition."""
    right = RIGHT[action]
    if fact is Fact.DISABLED:
        return replace(right, before=lambda w: (right.before(w), w.disable(OPERATOR, right.by, False)))
    if fact is Fact.FOR_DISABLED:
        return replace(right, before=lambda w: (right.before(w), w.disable(OPERATOR, right.about, False)))
    return WRONG[action, fact]


def walked(attempt: Try, by: str | None = None, **changed: object) -> bool:
    """Walk; whether the attempt changed anything. Raises AssertionError where an invariant breaks."""
    walk = type("Lax", (Walk,), changed)()
    try:
        stage(walk)
        attempt.before(walk)
        before = walk.before
        attempt.act(walk, by or attempt.by)
        walk.hold()
        return walk.before != before
    finally:
        walk.teardown()


def with_row(action: Action, row: Rule) -> Mapping[Action, Rule]:
    return MappingProxyType({**TABLE, action: row})


@pytest.mark.parametrize("action", Action)
def test_who_may_may(action):
    assert walked(RIGHT[action])


@pytest.mark.parametrize("action", Action)
def test_negative_control_with_an_action_open_to_all(action):
    assert not walked(RIGHT[action], by="fay")
    with pytest.raises(AssertionError):
        walked(RIGHT[action], by="fay", table=with_row(action, replace(TABLE[action], may=frozenset(Fact))))


@pytest.mark.parametrize(("action", "fact"), PROHIBITIONS, ids=lambda one: one.name.lower())
def test_negative_control_without_one_prohibition(action, fact):
    attempt = wrong(action, fact)
    row = COVERED.get((action, fact), lambda rule_: rule_)(TABLE[action])
    assert not walked(attempt, table=with_row(action, row)), "with the entry, nothing happens"
    with pytest.raises(AssertionError):
        walked(attempt, table=with_row(action, replace(row, may_not=row.may_not - {fact})))


def in_time(days: float) -> Callable[[Walk, str], None]:
    return lambda walk, by: walk.clock.pass_(days)


#: without this access rule, after this, somebody has a grant that they must not have
STRAY = {
    "person-disabled": Try("cleo", lambda w, by: w.disable(by, "dan", False)),
    "membership-requested": Try("eve", lambda w, by: eve_asks(w)),
    "membership-suspended": Try("ada", lambda w, by: w.leave(by, "one", "dan", False)),
    "membership-ended": Try("ada", lambda w, by: w.leave(by, "one", "dan", True)),
    "membership-expired": Try("ada", in_time(6), lambda w: w.approve("ada", "one", "dan", START + 5 * DAY)),
    "project-suspended": Try("ada", lambda w, by: w.suspend(by, "one")),
    "project-closed": Try("ada", lambda w, by: w.close(by, "one", 0)),
    "permit-expired": Try("ada", in_time(31)),
}


@pytest.mark.parametrize("code", STRAY)
def test_negative_control_without_one_access_rule(code):
    walked(STRAY[code])
    with pytest.raises(AssertionError):
        walked(STRAY[code], access=tuple(rule_ for rule_ in ACCESS_RULES if rule_.code != code))


def test_negative_control_without_the_log_a_change_is_seen():
    class Deaf(Kept):
        def record(self, event):
            return 1

    walk = Walk()
    try:
        stage(walk)
        walk.governance._audit = Deaf()
        with pytest.raises(AssertionError, match="not in the audit log"):
            walk.suspend("cleo", "one")
    finally:
        walk.teardown()

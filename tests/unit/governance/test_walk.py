"""Random people do random things; what must always hold, holds. With any one rule taken away, it does not.

The walk and what must hold of it are in ``walking.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import delete, select, update

from orchestrator.governance.access import ACCESS_RULES
from orchestrator.governance.identity import AUTHORITY, HUB, NODE, OPERATOR
from orchestrator.governance.rules import TABLE, Action, Fact, Rule
from orchestrator.governance.service import Governance
from orchestrator.governance.states import ApplicationKind, MemberRole, PlatformRole
from orchestrator.governance.store import AcceptanceRow, MembershipRow, ProjectRow, TrainingRow
from tests.unit.governance.places import DAY, START, Kept
from tests.unit.governance.walking import DAYS, Walk

WALK = settings(
    max_examples=60,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
"""Some thousands of actions; what fails is told as the shortest walk that fails."""


class TestWalk(Walk.TestCase):
    settings = WALK


# Negative controls: each entry of the table is taken away in turn, and a short deliberate walk then breaks something
# that must hold, which it does not break with the whole table.

LEAD = MemberRole.LEAD
#: reading changes nothing: test_rules.py has what each role may read
CHANGES = [action for action in Action if not action.name.endswith("_READ")]


def stage(walk: Walk) -> None:
    """Project "one", led by dan with a permit by ben; eve and fay are known, fay reviews; "two" is not there."""
    walk.begin("running")
    walk.add_person(OPERATOR, "fay")
    walk.role(OPERATOR, "fay", PlatformRole.REVIEWER, True)


def nothing(walk: Walk) -> None:
    pass


def everything_as_it_is(governance: Governance) -> None:
    pass


@dataclass(frozen=True)
class Try:
    """An action by who may do it: what must come before, who acts, what they do, whom it is about."""

    by: str
    act: Callable[[Walk, str], None]
    before: Callable[[Walk], None] = nothing
    about: str | None = None
    #: a control that stands elsewhere than in the table and covers this one: away in both halves
    amended: Callable[[Governance], None] = everything_as_it_is


def eve_asks(walk: Walk, role: MemberRole = MemberRole.MEMBER) -> None:
    walk.ask("eve", "one", role)


def eve_is_in(walk: Walk) -> None:
    eve_asks(walk)
    walk.approve("dan", "one", "eve")


def eve_is_external(walk: Walk) -> None:
    walk.describe("cleo", "eve", "Another Hospital")
    eve_asks(walk)


def eve_has_a_key(walk: Walk) -> None:
    walk.add_passkey("eve")


def dan_applied(walk: Walk) -> None:
    """For "two", to be led by dan; submitted."""
    walk.apply("dan", "two", "dan")
    walk.hand_in("dan", "two", 1)


def checked(walk: Walk) -> None:
    dan_applied(walk)
    walk.check("ben", "two", 1)


def amended(walk: Walk, lead: str, checks: str) -> None:
    """An amendment of "one" by dan that names another lead; checked."""
    walk.amend("dan", "one")
    walk.edit("dan", "one", 1, lead)
    walk.hand_in("dan", "one", 1)
    walk.check(checks, "one", 1)


def closed(walk: Walk) -> None:
    walk.close("dan", "one")


def over(walk: Walk) -> None:
    closed(walk)
    walk.time_passes(4)


def ended(walk: Walk) -> None:
    walk.time_passes(45)


def ask(walk: Walk, person: str, slug: str = "one", role: MemberRole = MemberRole.MEMBER) -> None:
    walk.ask(person, slug, role)


RIGHT = {
    Action.PERSON_ADD: Try("cleo", lambda w, by: w.add_person(by, "gus")),
    Action.PERSON_DESCRIBE: Try("cleo", lambda w, by: w.describe(by, "eve", "Another Hospital"), about="eve"),
    Action.PERSON_DISABLE: Try("cleo", lambda w, by: w.disable(by, "eve", 0)),
    Action.PERSON_ENABLE: Try("cleo", lambda w, by: w.disable(by, "eve", 1), lambda w: w.disable("cleo", "eve", 0)),
    Action.PERSON_GONE: Try(HUB, lambda w, by: w.gone(by, "eve", True)),
    Action.ROLE_ADD: Try("cleo", lambda w, by: w.role(by, "eve", PlatformRole.REVIEWER, True), about="eve"),
    Action.ROLE_REMOVE: Try("cleo", lambda w, by: w.role(by, "ben", PlatformRole.CUSTODIAN, False)),
    Action.ROLE_FOLLOW: Try(HUB, lambda w, by: w.follow(by, "eve", {PlatformRole.REVIEWER}), about="eve"),
    Action.TERMS_ACCEPT: Try("gus", lambda w, by: w.accept_terms(by, "1"), lambda w: w.add_person("cleo", "gus")),
    Action.TRAINING_DECLARE: Try("eve", lambda w, by: w.declare(by, 3)),
    Action.TRAINING_CONFIRM: Try("ada", lambda w, by: w.confirm_training(by, "eve", 0), lambda w: w.declare("eve", 3)),
    Action.PASSKEY_ADD: Try("eve", lambda w, by: w.add_passkey(by)),
    Action.PASSKEY_REMOVE: Try("cleo", lambda w, by: w.remove_passkey(by, "eve"), eve_has_a_key),
    Action.PASSKEY_VOUCH: Try("ada", lambda w, by: w.vouch(by, "eve"), eve_has_a_key, about="eve"),
    Action.TOKEN_CREATE: Try("eve", lambda w, by: w.make_token(by)),
    Action.TOKEN_REVOKE: Try("cleo", lambda w, by: w.revoke_token(by, "eve"), lambda w: w.make_token("eve")),
    Action.APPLICATION_BEGIN: Try("dan", lambda w, by: w.apply(by, "two", "eve"), about="eve"),
    Action.APPLICATION_AMEND: Try("dan", lambda w, by: w.amend(by, "one")),
    Action.APPLICATION_EDIT: Try(
        "dan", lambda w, by: w.edit(by, "two", 1, "eve"), lambda w: w.apply("dan", "two", "dan"), about="eve"
    ),
    Action.APPLICATION_SUBMIT: Try(
        "dan", lambda w, by: w.hand_in(by, "two", 1), lambda w: w.apply("dan", "two", "eve")
    ),
    Action.APPLICATION_WITHDRAW: Try("dan", lambda w, by: w.hand_in(by, "two", 1, "withdraw"), dan_applied),
    Action.APPLICATION_RETURN: Try("ada", lambda w, by: w.send_back(by, "two", 1, "return"), dan_applied),
    Action.APPLICATION_CHECK: Try("ada", lambda w, by: w.check(by, "two", 1), dan_applied),
    Action.APPLICATION_APPROVE: Try("ada", lambda w, by: w.approve_application(by, "two", 1), checked, about="dan"),
    Action.APPLICATION_REFUSE: Try("ada", lambda w, by: w.send_back(by, "two", 1, "refuse"), dan_applied),
    Action.PROJECT_CREATE: Try("ada", lambda w, by: w.create(by, "two", "dan"), about="dan"),
    Action.PROJECT_ACTIVATE: Try(
        "ada", lambda w, by: w.activate(by, "two"), lambda w: w.create("ada", "two", "dan"), about="dan"
    ),
    Action.PROJECT_SUSPEND: Try("ada", lambda w, by: w.suspend(by, "one")),
    Action.PROJECT_RESUME: Try("ada", lambda w, by: w.activate(by, "one"), lambda w: w.suspend("cleo", "one")),
    Action.PROJECT_CLOSE: Try("ada", lambda w, by: w.close(by, "one")),
    Action.PROJECT_LAPSE: Try(AUTHORITY, lambda w, by: w.lapse(by, "one"), ended),
    Action.PROJECT_RETAIN: Try("ada", lambda w, by: w.retain(by, "one", 9), closed),
    Action.PROJECT_ARCHIVE: Try(NODE, lambda w, by: w.archive(by, "one"), closed),
    Action.PROJECT_DELETE: Try(NODE, lambda w, by: w.destroy(by, "one"), over),
    Action.PROJECT_EXPORT: Try("ada", lambda w, by: w.export(by, "one")),
    Action.PROJECT_IMPORT: Try(OPERATOR, lambda w, by: w.take_in(by, "six")),
    Action.QUOTA_SET: Try("ada", lambda w, by: w.quota(by, "one", 5)),
    Action.MEMBER_INVITE: Try("dan", lambda w, by: w.request(by, "one", "eve", invite=True), about="eve"),
    Action.MEMBER_ACCEPT: Try(
        "eve", lambda w, by: w.accept(by, "one"), lambda w: w.request("dan", "one", "eve", invite=True)
    ),
    Action.MEMBER_REQUEST: Try("dan", lambda w, by: w.request(by, "one", "eve"), about="eve"),
    Action.MEMBER_APPROVE: Try("dan", lambda w, by: w.approve(by, "one", "eve"), eve_asks, about="eve"),
    Action.MEMBER_CONSENT: Try("ada", lambda w, by: w.consent(by, "one", "eve"), eve_is_external, about="eve"),
    Action.MEMBER_CONFIRM: Try(
        "dan",
        lambda w, by: w.confirm(by, "one", "eve"),
        lambda w: (eve_is_in(w), w.time_passes(1)),
        about="eve",
    ),
    Action.MEMBER_SUSPEND: Try("dan", lambda w, by: w.remove(by, "one", "eve", False), eve_is_in),
    Action.MEMBER_LEAVE: Try("eve", lambda w, by: w.leave(by, "one"), eve_is_in),
    Action.MEMBER_END: Try("dan", lambda w, by: w.remove(by, "one", "eve", True), eve_is_in),
    Action.LEAD_APPOINT: Try(
        "ada", lambda w, by: w.approve(by, "one", "eve"), lambda w: eve_asks(w, LEAD), about="eve"
    ),
    Action.LEAD_CONFIRM: Try("ada", lambda w, by: w.confirm(by, "one", "dan"), lambda w: w.time_passes(1), about="dan"),
    Action.PERMIT_DRAFT: Try("dan", lambda w, by: w.draft(by, "one", 20)),
    Action.PERMIT_APPROVE: Try(
        "ada", lambda w, by: w.approve_permit(by, "one", 2), lambda w: w.draft("dan", "one", 20)
    ),
    Action.PERMIT_REVOKE: Try("ada", lambda w, by: w.revoke(by, "one", 1)),
}

#: what is done to oneself only: there is no argument by which it could be done to another
TO_ONESELF = {
    Action.TERMS_ACCEPT,
    Action.TRAINING_DECLARE,
    Action.PASSKEY_ADD,
    Action.TOKEN_CREATE,
    Action.MEMBER_ACCEPT,
    Action.MEMBER_LEAVE,
    # Anybody's, and in nobody's name but one's own.
    Action.APPLICATION_BEGIN,
}


def ben_approved_and_asks_to_lead_a_draft(walk: Walk) -> None:
    walk.create("ada", "two", "dan")
    walk.draft("ada", "two", 30)
    walk.approve_permit("ben", "two", 1)
    walk.leave("dan", "two")
    ask(walk, "ben", "two", LEAD)


def is_in(person: str, role: MemberRole = MemberRole.MEMBER) -> Callable[[Walk], None]:
    """Somebody as an active member, whom other rules would not have let in; they lapsed, and can be confirmed."""

    def change(walk: Walk) -> None:
        ask(walk, person)
        with_row = select(MembershipRow.id).where(MembershipRow.person_id == person)
        values = {"role": role, "state": "active", "approved_by": "dan", "review_due": START}
        walk.kept(
            lambda session: session.execute(update(MembershipRow).where(MembershipRow.id.in_(with_row)).values(values))
        )
        walk.time_passes(1)

    return change


def everybody_is_able(governance: Governance) -> None:
    """Completeness does not look at who is disabled."""
    real = governance._circumstances
    governance._circumstances = lambda *told: replace(real(*told), able=frozenset({"dan", "eve"}))


def anybody_led_until_the_end(governance: Governance) -> None:
    """After the end, whoever asks for a renewal is taken for the lead."""
    governance._led_until_the_end = lambda session, project, by, now: project.ends <= now


def it_lapses_at_any_time(governance: Governance) -> None:
    """The authority closes a project whatever the day is."""
    governance._lapses = lambda session, project, now: True


def no_custodians_keys(governance: Governance) -> None:
    """A custodian's passkey is like anybody's."""
    governance._is_custodian = lambda session, person: False


def ada_applied(walk: Walk) -> None:
    """For "two", to be led by dan; submitted."""
    walk.apply("ada", "two", "dan")
    walk.hand_in("ada", "two", 1)


#: what breaks with one prohibition taken away, beside the general cases below
WRONG = {
    (Action.PERSON_DESCRIBE, Fact.SELF): Try("ada", lambda w, by: w.describe(by, by, "Elsewhere")),
    (Action.ROLE_ADD, Fact.SELF): Try("cleo", lambda w, by: w.role(by, by, PlatformRole.REVIEWER, True)),
    (Action.TRAINING_CONFIRM, Fact.SELF): Try(
        "ada", lambda w, by: w.confirm_training(by, by, 0), lambda w: w.declare("ada", 3)
    ),
    (Action.PASSKEY_VOUCH, Fact.SELF): Try(
        "ada", lambda w, by: w.vouch(by, by), lambda w: w.add_passkey("ada"), amended=no_custodians_keys
    ),
    **{
        (action, Fact.DRAFTER): Try("ada", RIGHT[action].act, ada_applied)
        for action in (Action.APPLICATION_RETURN, Action.APPLICATION_CHECK, Action.APPLICATION_REFUSE)
    },
    (Action.APPLICATION_APPROVE, Fact.DRAFTER): Try(
        "ada",
        lambda w, by: w.approve_application(by, "two", 1),
        lambda w: (ada_applied(w), w.check("ben", "two", 1)),
    ),
    **{
        (action, Fact.INVOLVED): Try("ada", RIGHT[action].act, lambda w: (dan_applied(w), ask(w, "ada", "two")))
        for action in (Action.APPLICATION_RETURN, Action.APPLICATION_CHECK, Action.APPLICATION_REFUSE)
    },
    (Action.APPLICATION_APPROVE, Fact.INVOLVED): Try(
        "ada", lambda w, by: w.approve_application(by, "two", 1), lambda w: (checked(w), ask(w, "ada", "two"))
    ),
    (Action.APPLICATION_APPROVE, Fact.SELF): Try(
        "ada",
        lambda w, by: w.approve_application(by, "two", 1),
        lambda w: (w.apply("dan", "two", "ada"), w.hand_in("dan", "two", 1), w.check("ben", "two", 1)),
    ),
    (Action.APPLICATION_APPROVE, Fact.FOR_PERMIT_APPROVER): Try(
        "ada", lambda w, by: w.approve_application(by, "one", 1), lambda w: amended(w, "ben", "ada")
    ),
    (Action.APPLICATION_APPROVE, Fact.FOR_LEAD_APPOINTER): Try(
        "ben", lambda w, by: w.approve_application(by, "one", 1), lambda w: amended(w, "ada", "ben")
    ),
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
    (Action.PROJECT_RETAIN, Fact.INVOLVED): Try(
        "ada", lambda w, by: w.retain(by, "one", 9), lambda w: (ask(w, "ada"), closed(w))
    ),
    (Action.PROJECT_EXPORT, Fact.INVOLVED): Try("ada", lambda w, by: w.export(by, "one"), lambda w: ask(w, "ada")),
    (Action.QUOTA_SET, Fact.INVOLVED): Try("ada", lambda w, by: w.quota(by, "one", 5), lambda w: ask(w, "ada")),
    (Action.MEMBER_INVITE, Fact.SELF): Try("ada", lambda w, by: w.request(by, "one", by, invite=True)),
    (Action.MEMBER_APPROVE, Fact.SELF): Try("eve", lambda w, by: w.approve(by, "one", by), eve_asks),
    (Action.MEMBER_APPROVE, Fact.FOR_PERMIT_APPROVER): Try(
        "dan", lambda w, by: w.approve(by, "one", "ben"), lambda w: ask(w, "ben")
    ),
    (Action.MEMBER_CONSENT, Fact.SELF): Try(
        "ada",
        lambda w, by: w.consent(by, "one", by),
        lambda w: (w.describe("cleo", "ada", "Another Hospital"), w.request("dan", "one", "ada")),
    ),
    (Action.MEMBER_CONSENT, Fact.INVOLVED): Try(
        "ada", lambda w, by: w.consent(by, "one", "eve"), lambda w: (eve_is_external(w), ask(w, "ada"))
    ),
    (Action.MEMBER_CONFIRM, Fact.SELF): Try(
        "eve", lambda w, by: w.confirm(by, "one", by), lambda w: (eve_is_in(w), w.time_passes(1))
    ),
    (Action.MEMBER_CONFIRM, Fact.FOR_PERMIT_APPROVER): Try(
        "dan", lambda w, by: w.confirm(by, "one", "ben"), is_in("ben")
    ),
    (Action.MEMBER_SUSPEND, Fact.SELF): Try("dan", lambda w, by: w.remove(by, "one", by, False)),
    (Action.MEMBER_LEAVE, Fact.LAST_LEAD): Try("dan", lambda w, by: w.leave(by, "one")),
    (Action.MEMBER_END, Fact.SELF): Try("dan", lambda w, by: w.remove(by, "one", by, True)),
    (Action.LEAD_APPOINT, Fact.SELF): Try(
        "ben", lambda w, by: w.approve(by, "one", by), lambda w: ask(w, "ben", role=LEAD)
    ),
    (Action.LEAD_APPOINT, Fact.INVOLVED): Try(
        "ada",
        lambda w, by: w.approve(by, "one", "eve"),
        lambda w: (ask(w, "ada"), eve_asks(w, LEAD)),
    ),
    (Action.LEAD_APPOINT, Fact.FOR_PERMIT_APPROVER): Try(
        "ada", lambda w, by: w.approve(by, "one", "ben"), lambda w: ask(w, "ben", role=LEAD)
    ),
    (Action.LEAD_APPOINT, Fact.FOR_LEAD_APPOINTER): Try(
        "ben", lambda w, by: w.approve(by, "one", "ada"), lambda w: ask(w, "ada", role=LEAD)
    ),
    (Action.LEAD_CONFIRM, Fact.SELF): Try("ada", lambda w, by: w.confirm(by, "one", by), is_in("ada", LEAD)),
    (Action.LEAD_CONFIRM, Fact.INVOLVED): Try(
        "ada", lambda w, by: w.confirm(by, "one", "dan"), lambda w: (ask(w, "ada"), w.time_passes(1))
    ),
    (Action.LEAD_CONFIRM, Fact.FOR_PERMIT_APPROVER): Try(
        "ada", lambda w, by: w.confirm(by, "one", "ben"), is_in("ben", LEAD)
    ),
    (Action.PERMIT_APPROVE, Fact.DRAFTER): Try(
        "ada", lambda w, by: w.approve_permit(by, "one", 2), lambda w: w.draft("ada", "one", 20)
    ),
    (Action.PERMIT_APPROVE, Fact.INVOLVED): Try(
        "ada", lambda w, by: w.approve_permit(by, "one", 2), lambda w: (w.draft("dan", "one", 20), ask(w, "ada"))
    ),
}


def without(*facts: Fact) -> Callable[[Rule], Rule]:
    return lambda rule_: replace(rule_, may_not=rule_.may_not - set(facts))


def by_anybody(rule_: Rule) -> Rule:
    return replace(rule_, may=frozenset(Fact))


#: entries that another one of the row covers as things are kept: that one is away in both halves of their control
COVERED: Mapping[tuple[Action, Fact], Callable[[Rule], Rule]] = {
    (Action.APPLICATION_APPROVE, Fact.SELF): without(Fact.INVOLVED),
    (Action.MEMBER_APPROVE, Fact.SELF): by_anybody,
    (Action.MEMBER_CONFIRM, Fact.SELF): by_anybody,
    (Action.PROJECT_ACTIVATE, Fact.SELF): without(Fact.INVOLVED),
    (Action.LEAD_APPOINT, Fact.SELF): without(Fact.INVOLVED, Fact.FOR_PERMIT_APPROVER),
    (Action.LEAD_CONFIRM, Fact.SELF): without(Fact.INVOLVED),
}

#: entries that one of another row covers: there, who may not even read the project is judged by another action first
COVERED_ELSEWHERE: Mapping[tuple[Action, Fact], tuple[Action, Fact]] = {
    (action, Fact.DISABLED): (Action.PROJECT_READ, Fact.DISABLED)
    for action in (Action.PROJECT_RESUME, Action.LEAD_APPOINT, Action.LEAD_CONFIRM)
}

PARTS = {Fact.HUB, Fact.NODE, Fact.OPERATOR, Fact.AUTHORITY}
#: a part of the platform is no person, and nobody shuts it out: there the prohibition can never meet anybody
PROHIBITIONS = [
    (action, fact)
    for action in CHANGES
    for fact in sorted(TABLE[action].may_not)
    if fact is not Fact.DISABLED or not TABLE[action].may <= PARTS
]


def wrong(action: Action, fact: Fact) -> Try:
    """The deliberate walk against one prohibition."""
    right = RIGHT[action]
    if fact is Fact.DISABLED:
        return replace(right, before=lambda w: (right.before(w), w.disable(OPERATOR, right.by, 0)))
    if fact is Fact.FOR_DISABLED:
        covers = everybody_is_able if action is Action.APPLICATION_APPROVE else right.amended
        return replace(right, before=lambda w: (right.before(w), w.disable(OPERATOR, right.about, 0)), amended=covers)
    return WRONG[action, fact]


def walked(attempt: Try, by: str | None = None, **changed: object) -> bool:
    """Walk; whether the attempt changed anything. Raises AssertionError where what must hold does not."""
    walk = type("Lax", (Walk,), {"amended": staticmethod(attempt.amended), **changed})()
    try:
        stage(walk)
        attempt.before(walk)
        before = walk.before
        attempt.act(walk, by or attempt.by)
        walk.hold()
        return walk.before != before or walk.exported
    finally:
        walk.teardown()


def with_row(action: Action, row: Rule, table: Mapping[Action, Rule] = TABLE) -> Mapping[Action, Rule]:
    return MappingProxyType({**table, action: row})


@pytest.mark.parametrize("action", CHANGES)
def test_who_may_may(action):
    assert walked(RIGHT[action])


@pytest.mark.parametrize("action", CHANGES)
def test_negative_control_with_an_action_open_to_all(action):
    if action in TO_ONESELF:
        # Open to all it is open to no more than it was; with nobody who may, the row is seen to count.
        assert not walked(RIGHT[action], table=with_row(action, replace(TABLE[action], may=frozenset())))
        return
    assert not walked(RIGHT[action], by="fay")
    with pytest.raises(AssertionError):
        walked(RIGHT[action], by="fay", table=with_row(action, by_anybody(TABLE[action])))


@pytest.mark.parametrize(("action", "fact"), PROHIBITIONS, ids=lambda one: one.name.lower())
def test_negative_control_without_one_prohibition(action, fact):
    attempt = wrong(action, fact)
    row = COVERED.get((action, fact), lambda rule_: rule_)(TABLE[action])
    table = TABLE
    if (action, fact) in COVERED_ELSEWHERE:
        other, covering = COVERED_ELSEWHERE[action, fact]
        table = with_row(other, without(covering)(TABLE[other]))
    assert not walked(attempt, table=with_row(action, row, table)), "with the entry, nothing happens"
    with pytest.raises(AssertionError):
        walked(attempt, table=with_row(action, without(fact)(row), table))


def in_time(days: float) -> Callable[[Walk, str], None]:
    return lambda walk, by: walk.clock.pass_(days)


def stored(statement: object) -> Callable[[Walk, str], None]:
    """Something in the store that no action leads to."""
    return lambda walk, by: walk.kept(lambda session: session.execute(statement))


def all_but_the_project_goes_on(walk: Walk) -> None:
    """A permit, a review and a training that count beyond the project's end."""
    walk.draft("dan", "one", 50)
    walk.approve_permit("ben", "one", 2)
    stored(update(MembershipRow).values(review_due=START + 60 * DAY))(walk, "")


def a_later_permit(walk: Walk, by: str) -> None:
    walk.draft("dan", "one", 20, 5)
    walk.approve_permit("ben", "one", 2)


def keys_destroyed(walk: Walk, by: str) -> None:
    over(walk)
    walk.destroy(NODE, "one")


#: without this access rule, after this, somebody has a grant that they must not have
STRAY = {
    "person-disabled": Try("cleo", lambda w, by: w.disable(by, "dan", 0)),
    "removed-at-provider": Try(HUB, lambda w, by: w.gone(by, "dan", True)),
    "membership-invited": Try("dan", lambda w, by: w.request(by, "one", "eve", invite=True)),
    "membership-requested": Try("eve", lambda w, by: eve_asks(w)),
    "membership-suspended": Try("ada", lambda w, by: w.remove(by, "one", "dan", False)),
    "membership-ended": Try("ada", lambda w, by: w.remove(by, "one", "dan", True)),
    "membership-expired": Try(
        "ada",
        in_time(6),
        lambda w: (
            w.approve("ada", "one", "dan", START + 5 * DAY),
            stored(update(MembershipRow).values(review_due=START + 9 * DAY))(w, ""),
        ),
    ),
    "membership-not-reviewed": Try("ada", in_time(21)),
    "external-not-agreed": Try("cleo", lambda w, by: w.describe(by, "dan", "Another Hospital")),
    "terms-not-accepted": Try("dan", stored(delete(AcceptanceRow).where(AcceptanceRow.person_id == "dan"))),
    "no-training": Try("dan", stored(delete(TrainingRow).where(TrainingRow.person_id == "dan"))),
    "training-expired": Try(
        "dan", in_time(6), lambda w: stored(update(TrainingRow).values(expires=START + 5 * DAY))(w, "")
    ),
    "project-draft": Try("ada", stored(update(ProjectRow).values(state="draft"))),
    "project-suspended": Try("ada", lambda w, by: w.suspend(by, "one")),
    "project-closed": Try("ada", lambda w, by: w.close(by, "one")),
    "project-deleted": Try(NODE, keys_destroyed),
    "project-not-started": Try("ada", stored(update(ProjectRow).values(starts=START + DAY))),
    "project-over": Try("ada", in_time(41), all_but_the_project_goes_on),
    "permit-not-yet-valid": Try("ben", a_later_permit),
    "permit-expired": Try(
        "ada", in_time(31), lambda w: stored(update(MembershipRow).values(review_due=START + 40 * DAY))(w, "")
    ),
}

#: without membership or permit there is nothing that a grant could be made of, whatever the rules say
IMPOSSIBLE = {
    "not-a-member": Try("eve", lambda w, by: None),
    "no-permit": Try("ada", lambda w, by: w.revoke(by, "one", 1)),
}


def test_every_access_rule_has_its_case():
    assert {rule_.code for rule_ in ACCESS_RULES} == STRAY.keys() | IMPOSSIBLE.keys()


def but(*codes: str) -> tuple:
    return tuple(rule_ for rule_ in ACCESS_RULES if rule_.code not in codes)


#: another access rule that covers it as things are kept: that one is away in both halves
ALSO = {"project-over": "membership-expired"}  # no membership ends later than its project


@pytest.mark.parametrize("code", STRAY)
def test_negative_control_without_one_access_rule(code):
    walked(STRAY[code], access=but(ALSO.get(code, "")))
    with pytest.raises(AssertionError):
        walked(STRAY[code], access=but(code, ALSO.get(code, "")))


@pytest.mark.parametrize("code", IMPOSSIBLE)
def test_there_is_no_grant_without_a_membership_or_a_permit(code):
    walked(IMPOSSIBLE[code], access=but(code))


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


def test_negative_control_a_change_that_a_failed_action_leaves_is_seen(monkeypatch):
    """Anything in any table, also what no invariant names."""
    walk = Walk()
    try:
        stage(walk)

        def half(by, slug):
            with walk.store.write() as session:
                session.execute(update(ProjectRow).values(conditions="none"))
                session.commit()
            walk.governance.revoke_permit(by, slug, 9)

        monkeypatch.setattr(walk.governance, "suspend_project", half)
        with pytest.raises(AssertionError, match="a failed action changed something"):
            walk.suspend("ada", "one")
    finally:
        walk.teardown()


def renews(walk: Walk) -> None:
    """Dan asks for more time after the end of "one"."""
    walk.amend("dan", "one", ApplicationKind.RENEWAL)
    walk.edit("dan", "one", 1, "dan", DAYS + 20)
    walk.hand_in("dan", "one", 1)


def renewed_late(walk: Walk, by: str) -> None:
    walk.time_passes(1)
    renews(walk)
    walk.check(by, "one", 1)
    walk.approve_application("ben" if by == "ada" else "ada", "one", 1)


@pytest.mark.parametrize("role", [MemberRole.LEAD, MemberRole.MEMBER])
def test_after_the_end_the_lead_renews_and_nobody_else(role):
    def eve_is_there(walk: Walk) -> None:
        ask(walk, "eve", role=role)
        walk.approve("ada" if role is MemberRole.LEAD else "dan", "one", "eve", START + 20 * DAY)
        walk.time_passes(DAYS)

    asks = Try("dan", lambda w, by: w.amend(by, "one", ApplicationKind.RENEWAL), eve_is_there)
    assert walked(asks)
    assert not walked(asks, by="eve")
    with pytest.raises(AssertionError, match="who may amend"):
        walked(replace(asks, amended=anybody_led_until_the_end), by="eve")


def test_after_the_end_only_a_renewal_is_begun():
    begins = Try("dan", lambda w, by: w.amend(by, "one", ApplicationKind.AMENDMENT), lambda w: w.time_passes(DAYS))
    assert not walked(begins)


def test_a_late_renewal_lets_people_in_again():
    assert walked(Try("ada", renewed_late, lambda w: w.time_passes(DAYS)))
    walk = Walk()
    try:
        stage(walk)
        walk.time_passes(DAYS)
        renewed_late(walk, "ada")
        assert walk.governance.may_open("dan", "one").permit.version == 2
    finally:
        walk.teardown()


#: what must come before the authority closes by itself; away, a project is closed that must not be
LAPSES = {
    "in its time": Try(AUTHORITY, RIGHT[Action.PROJECT_LAPSE].act, lambda w: w.time_passes(DAYS - 1)),
    "within the days": Try(AUTHORITY, RIGHT[Action.PROJECT_LAPSE].act, lambda w: w.time_passes(DAYS + 3)),
    "while a renewal waits": Try(
        AUTHORITY,
        RIGHT[Action.PROJECT_LAPSE].act,
        lambda w: (w.time_passes(DAYS), renews(w), w.time_passes(9)),
    ),
    "within the days of one that was returned": Try(
        AUTHORITY,
        RIGHT[Action.PROJECT_LAPSE].act,
        lambda w: (
            w.time_passes(DAYS),
            renews(w),
            w.time_passes(9),
            w.send_back("ada", "one", 1, "return"),
            w.time_passes(3),
        ),
    ),
}


@pytest.mark.parametrize("when", LAPSES)
def test_negative_control_a_project_that_closes_by_itself_too_early_is_seen(when):
    assert not walked(LAPSES[when])
    with pytest.raises(AssertionError, match="who may close"):
        walked(replace(LAPSES[when], amended=it_lapses_at_any_time))


def test_negative_control_without_looking_at_terms_and_training_somebody_is_admitted(monkeypatch):
    def gus_is_admitted() -> None:
        walk = Walk()
        try:
            stage(walk)
            walk.add_person("cleo", "gus")
            walk.request("dan", "one", "gus")
            walk.approve("dan", "one", "gus")
        finally:
            walk.teardown()

    gus_is_admitted()
    monkeypatch.setattr(Governance, "_check_ready", lambda self, change, person: None)
    with pytest.raises(AssertionError, match="admitted without the terms"):
        gus_is_admitted()

"""Applications: who may do what with them, what they need, and what approving one puts into effect."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from datetime import timedelta
from types import MappingProxyType

import pytest
from sqlalchemy import select

from orchestrator.config import Policy
from orchestrator.errors import (
    BulleError,
    ConflictError,
    InputError,
    NotFoundError,
    RefusedError,
    SecondPersonError,
    UnavailableError,
)
from orchestrator.governance.applications import EDITABLE, MOST_NEW
from orchestrator.governance.cards import ApplicationContent, RequestedColumn, RequestedTable
from orchestrator.governance.identity import OPERATOR
from orchestrator.governance.rules import TABLE, Action, Fact, Rule
from orchestrator.governance.service import Governance
from orchestrator.governance.signatures import terms_digest
from orchestrator.governance.states import (
    TRANSITIONS,
    ApplicationKind,
    ApplicationState,
    MemberRole,
    MembershipState,
    PermitState,
    PlatformRole,
    ProjectState,
)
from orchestrator.governance.store import ApplicationRow, AppointmentRow, PermitRow
from orchestrator.terms import Operator, RowCondition
from tests.unit.governance.places import DAY, START, Kept, Shelf, peopled, ready
from tests.unit.governance.test_audited import at_once

AMENDMENT, RENEWAL = ApplicationKind.AMENDMENT, ApplicationKind.RENEWAL


def table(*columns: str, reason: str = "It is the outcome.") -> RequestedTable:
    return RequestedTable(
        dataset="visits",
        table="visits",
        columns=tuple(RequestedColumn(name=name, reason=reason) for name in columns or ("age", "docvis")),
    )


def content(**changed) -> ApplicationContent:
    """A complete application, led by "lead" with "researcher" in the team."""
    values = {
        "title": "Sleep and visits",
        "lay_summary": "We look at how often people see a doctor.",
        "purpose": "To see whether sleep matters.",
        "legal_basis": "Public interest, by the law on research.",
        "outputs": "One paper and its tables.",
        "lead": "lead",
        "team": ("researcher",),
        "starts": START,
        "ends": START + 300 * DAY,
        "tables": (table(),),
    }
    return ApplicationContent(**{**values, **changed})


def begun(governance: Governance, by: str = "lead", slug: str = "sleep", **changed):
    return governance.begin_application(by, slug, content(**changed))


def submitted(governance: Governance, by: str = "lead", slug: str = "sleep", **changed):
    number = begun(governance, by, slug, **changed).number
    return governance.submit_application(by, slug, number)


def complete(governance: Governance, by: str = "lead", slug: str = "sleep", **changed):
    number = submitted(governance, by, slug, **changed).number
    return governance.check_application("custodian2", slug, number)


def approved(governance: Governance, by: str = "lead", slug: str = "sleep", **changed):
    number = complete(governance, by, slug, **changed).number
    return governance.approve_application("custodian", slug, number)


def amended(governance: Governance, kind: ApplicationKind = AMENDMENT, by: str = "lead", **changed):
    """An amendment of "sleep", complete, with these parts changed."""
    record = governance.amend_application(by, "sleep", kind)
    number = record.number
    governance.edit_application(by, "sleep", number, record.content.model_copy(update=changed))
    governance.submit_application(by, "sleep", number)
    return governance.check_application("custodian2", "sleep", number)


def members(governance: Governance) -> dict[str, tuple[str, str]]:
    return {one.person: (str(one.role), str(one.state)) for one in governance.members("sleep")}


@pytest.fixture
def people(here):
    peopled(here.governance)
    return here.governance


@pytest.fixture
def study(people):
    """The project "sleep", in effect by an application."""
    approved(people)
    return people


def test_the_whole_life(here):
    """From an application to data, an amendment, a renewal, and the end."""
    governance = here.governance
    peopled(governance)
    draft = governance.begin_application("lead", "sleep", ApplicationContent(title="Sleep"))
    assert (draft.state, draft.number, draft.kind) == ("draft", 1, "new")
    assert "the purpose is missing" in draft.missing
    assert governance.project("sleep").state is ProjectState.DRAFT
    assert governance.project("sleep").title == "Sleep"
    with pytest.raises(InputError, match="the purpose is missing"):
        governance.submit_application("lead", "sleep", 1)
    filled = governance.edit_application("lead", "sleep", 1, content())
    assert (filled.missing, filled.may) == ((), ("application.edit", "application.submit", "application.withdraw"))
    governance.submit_application("lead", "sleep", 1)
    returned = governance.return_application("custodian", "sleep", 1, "Say\r\nmore.")
    assert (returned.state, returned.note) == ("returned", "Say\nmore.")
    governance.edit_application("lead", "sleep", 1, content(outputs="Two papers."))
    governance.submit_application("lead", "sleep", 1)
    governance.check_application("custodian", "sleep", 1)
    with pytest.raises(RefusedError, match="not-a-member"):
        governance.may_open("lead", "sleep")
    decided = governance.approve_application("custodian", "sleep", 1, "Yearly report.", retain_days=10)
    assert (decided.state, decided.permit_version, decided.decided_by) == ("approved", 1, "custodian")
    assert (decided.may, decided.missing) == ((), ())
    project = governance.project("sleep")
    assert (project.state, project.outputs, project.conditions) == (
        ProjectState.ACTIVE,
        "Two papers.",
        "Yearly report.",
    )
    assert (project.starts, project.ends, project.retain_days) == (START, START + 300 * DAY, 10)
    assert members(governance) == {"lead": ("lead", "active"), "researcher": ("member", "invited")}
    grant = governance.may_open("lead", "sleep")
    assert grant.ends_at == START + 180 * DAY  # until when the lead is to be confirmed again
    assert [column.name for column in grant.permit.tables[0].columns] == ["age", "docvis"]
    permit = governance.permit("sleep", 1)
    assert (permit.state, permit.drafted_by, permit.approved_by) == ("approved", "lead", "custodian")
    governance.accept_invitation("researcher", "sleep")
    governance.approve_membership("lead", "sleep", "researcher")
    assert governance.may_open("researcher", "sleep")
    # An amendment: what is in force, and one column more.
    draft = governance.amend_application("lead", "sleep", AMENDMENT)
    assert (draft.number, draft.content.lead, draft.content.team) == (2, "lead", ("researcher",))
    assert draft.content == content(outputs="Two papers.")
    assert draft.missing == ()
    more = draft.content.model_copy(update={"tables": (table("age", "docvis", "sex"),)})
    governance.edit_application("lead", "sleep", 2, more)
    governance.submit_application("lead", "sleep", 2)
    governance.check_application("custodian2", "sleep", 2)
    assert governance.approve_application("custodian2", "sleep", 2).permit_version == 2
    assert {one.version: str(one.state) for one in governance.permits("sleep")} == {1: "superseded", 2: "approved"}
    assert len(governance.may_open("researcher", "sleep").permit.tables[0].columns) == 3
    assert governance.project("sleep").conditions == "Yearly report."
    # A renewal: the lead until the new end, members until the lead moves theirs.
    amended(governance, RENEWAL, ends=START + 600 * DAY)
    governance.approve_application("custodian", "sleep", 3)
    assert governance.project("sleep").ends == START + 600 * DAY
    assert {one.person: one.ends for one in governance.members("sleep")} == {
        "lead": START + 600 * DAY,
        "researcher": START + 300 * DAY,
    }
    governance.close_project("lead", "sleep")
    assert governance.project("sleep").retain_until == here.clock.now + 10 * DAY
    assert {kind for kind, _ in here.events()} >= {f"application.{what}" for what in ("begin", "edit", "approve")}


# -- what may become what -----------------------------------------------------------------------------------
NOTE = "Because."
ACTS = {
    ApplicationState.SUBMITTED: lambda g, n: g.submit_application("lead", "sleep", n),
    ApplicationState.RETURNED: lambda g, n: g.return_application("custodian", "sleep", n, NOTE),
    ApplicationState.COMPLETE: lambda g, n: g.check_application("custodian", "sleep", n),
    ApplicationState.APPROVED: lambda g, n: g.approve_application("custodian", "sleep", n),
    ApplicationState.REFUSED: lambda g, n: g.refuse_application("custodian", "sleep", n, NOTE),
    ApplicationState.WITHDRAWN: lambda g, n: g.withdraw_application("lead", "sleep", n),
}
WAYS = {
    ApplicationState.DRAFT: (),
    ApplicationState.SUBMITTED: (ApplicationState.SUBMITTED,),
    ApplicationState.RETURNED: (ApplicationState.SUBMITTED, ApplicationState.RETURNED),
    ApplicationState.COMPLETE: (ApplicationState.SUBMITTED, ApplicationState.COMPLETE),
    ApplicationState.APPROVED: (ApplicationState.SUBMITTED, ApplicationState.COMPLETE, ApplicationState.APPROVED),
    ApplicationState.REFUSED: (ApplicationState.SUBMITTED, ApplicationState.REFUSED),
    ApplicationState.WITHDRAWN: (ApplicationState.WITHDRAWN,),
}


@pytest.mark.parametrize("state", ApplicationState)
def test_only_what_the_table_says_happens_to_an_amendment(study, state):
    """Of an amendment, which closes no project when it ends: each state, and each way out of it tried."""
    possible = TRANSITIONS[ApplicationState][state]
    for wanted, act in ACTS.items():
        number = study.amend_application("lead", "sleep", AMENDMENT).number
        for way in WAYS[state]:
            ACTS[way](study, number)
        if wanted in possible:
            assert act(study, number).state is wanted
        else:
            with pytest.raises(RefusedError, match=f"'{state}' and cannot become '{wanted}'"):
                act(study, number)
        finished = study.read_application("lead", "sleep", number)
        if finished.state not in (ApplicationState.APPROVED, ApplicationState.REFUSED, ApplicationState.WITHDRAWN):
            study.withdraw_application("lead", "sleep", number)
    assert study.project("sleep").state is ProjectState.ACTIVE


@pytest.mark.parametrize("state", ApplicationState)
def test_what_was_submitted_is_not_edited(study, state):
    number = study.amend_application("lead", "sleep", AMENDMENT).number
    for way in WAYS[state]:
        ACTS[way](study, number)
    before = study.read_application("lead", "sleep", number).content
    assert (Action.APPLICATION_EDIT in study.read_application("lead", "sleep", number).may) == (state in EDITABLE)
    if state in EDITABLE:
        study.edit_application("lead", "sleep", number, content(title="Other"))
        assert study.read_application("lead", "sleep", number).content.title == "Other"
    else:
        with pytest.raises(RefusedError, match="cannot be edited"):
            study.edit_application("lead", "sleep", number, content(title="Other"))
        assert study.read_application("lead", "sleep", number).content == before


def test_negative_control_what_was_submitted_could_be_edited(people, monkeypatch):
    submitted(people)
    monkeypatch.setattr("orchestrator.governance.applications.EDITABLE", frozenset(ApplicationState))
    people.edit_application("lead", "sleep", 1, content(title="Other"))
    assert people.read_application("lead", "sleep", 1).state is ApplicationState.SUBMITTED


def test_content_that_changed_after_the_check_is_checked_again(people):
    complete(people)
    people.return_application("custodian", "sleep", 1, NOTE)
    people.edit_application("lead", "sleep", 1, content(tables=(table("sex"),)))
    again = people.submit_application("lead", "sleep", 1)
    assert (again.state, again.checked_by, again.decided_by) == (ApplicationState.SUBMITTED, None, None)
    with pytest.raises(RefusedError, match="'submitted' and cannot become 'approved'"):
        people.approve_application("custodian", "sleep", 1)


def test_nobody_decides_what_they_did_not_see(people):
    """A page that was opened before the application was returned, changed and checked anew."""
    old = complete(people).digest
    people.return_application("custodian2", "sleep", 1, NOTE)
    people.edit_application("lead", "sleep", 1, content(tables=(table("sex"),)))
    new = people.submit_application("lead", "sleep", 1).digest
    assert old != new
    for act in (
        lambda seen: people.check_application("custodian", "sleep", 1, seen=seen),
        lambda seen: people.return_application("custodian", "sleep", 1, NOTE, seen=seen),
        lambda seen: people.refuse_application("custodian", "sleep", 1, NOTE, seen=seen),
    ):
        with pytest.raises(ConflictError, match="was changed since"):
            act(old)
    people.check_application("custodian2", "sleep", 1, seen=new)
    with pytest.raises(ConflictError, match="was changed since"):
        people.approve_application("custodian", "sleep", 1, seen=old)
    assert people.approve_application("custodian", "sleep", 1, seen=new).state is ApplicationState.APPROVED


def test_negative_control_without_comparing_it_falls_on_what_nobody_saw(people, monkeypatch):
    old = complete(people).digest
    people.return_application("custodian2", "sleep", 1, NOTE)
    people.edit_application("lead", "sleep", 1, content(tables=(table("sex"),)))
    people.submit_application("lead", "sleep", 1)
    people.check_application("custodian2", "sleep", 1)
    monkeypatch.setattr("orchestrator.governance.applications._check_seen", lambda row, seen: None)
    assert people.approve_application("custodian", "sleep", 1, seen=old).state is ApplicationState.APPROVED


# -- who may ------------------------------------------------------------------------------------------------
def test_anybody_with_an_account_applies_also_to_lead(people):
    assert approved(people, by="outsider", lead="outsider").drafted_by == "outsider"
    assert members(people)["outsider"] == ("lead", "active")


def test_who_applies_may_name_another_lead(people):
    approved(people, by="outsider")
    assert "outsider" not in members(people)
    with pytest.raises(RefusedError, match="not-a-member"):
        people.may_open("outsider", "sleep")


@pytest.mark.parametrize("by", ["outsider", "researcher", "custodian2", "auditor", "admin", OPERATOR, "nobody"])
def test_who_may_not_touch_anothers(people, by):
    begun(people)
    for act in (
        lambda: people.edit_application(by, "sleep", 1, content(lead="outsider")),
        lambda: people.submit_application(by, "sleep", 1),
        lambda: people.withdraw_application(by, "sleep", 1),
    ):
        with pytest.raises(RefusedError):
            act()
    assert people.read_application("lead", "sleep", 1).state is ApplicationState.DRAFT


@pytest.mark.parametrize("by", ["lead", "outsider", "researcher", "auditor", "admin", OPERATOR, "nobody"])
def test_only_custodians_decide(people, by):
    submitted(people)
    for act in (
        lambda: people.check_application(by, "sleep", 1),
        lambda: people.return_application(by, "sleep", 1, NOTE),
        lambda: people.refuse_application(by, "sleep", 1, NOTE),
        lambda: people.approve_application(by, "sleep", 1),
    ):
        with pytest.raises(RefusedError):
            act()
    people.check_application("custodian", "sleep", 1)
    with pytest.raises(RefusedError):
        people.approve_application(by, "sleep", 1)


def test_a_custodian_decides_nothing_of_what_they_applied_for(people):
    submitted(people, by="custodian")
    for act in (
        lambda: people.check_application("custodian", "sleep", 1),
        lambda: people.return_application("custodian", "sleep", 1, NOTE),
        lambda: people.refuse_application("custodian", "sleep", 1, NOTE),
    ):
        with pytest.raises(RefusedError, match="not-drafter"):
            act()
    people.check_application("custodian2", "sleep", 1)
    with pytest.raises(RefusedError, match=r"application\.approve/not-drafter"):
        people.approve_application("custodian", "sleep", 1)
    assert people.read_application("custodian", "sleep", 1).may == ("application.withdraw",)
    people.approve_application("custodian2", "sleep", 1)


def test_the_lead_to_be_does_not_approve_themselves(people):
    complete(people, by="outsider", lead="custodian")
    with pytest.raises(RefusedError, match=r"application\.approve/not-(self|involved)"):
        people.approve_application("custodian", "sleep", 1)
    assert members(people) == {}


def test_who_is_named_in_it(people):
    """Who is in the team checks and approves nothing, and can still give it back: naming shuts nobody out of office."""
    submitted(people, team=("custodian",))
    with pytest.raises(RefusedError, match="not-involved"):
        people.check_application("custodian", "sleep", 1)
    people.check_application("custodian2", "sleep", 1)
    with pytest.raises(RefusedError, match="not-involved"):
        people.approve_application("custodian", "sleep", 1)
    assert "application.return" in people.read_application("custodian", "sleep", 1).may
    people.return_application("custodian", "sleep", 1, "Take me out of the team.")


def test_who_ever_led_the_project_decides_none_of_its_applications(study):
    """A lead may have edited what another submitted; later they are a custodian and not in the project."""
    study.request_membership("outsider", "sleep", "outsider", MemberRole.LEAD)
    study.approve_membership("custodian", "sleep", "outsider")
    study.amend_application("lead", "sleep", AMENDMENT)
    study.edit_application("outsider", "sleep", 2, content(tables=(table("sex"),)))
    study.submit_application("lead", "sleep", 2)
    study.leave_project("outsider", "sleep")
    study.add_role("admin", "outsider", PlatformRole.CUSTODIAN)
    with pytest.raises(RefusedError, match="not-drafter"):
        study.check_application("outsider", "sleep", 2)


def test_who_applied_first_has_no_hand_on_what_the_leads_ask_for(people):
    approved(people, by="outsider")
    people.amend_application("lead", "sleep", AMENDMENT)
    for act in (
        lambda: people.edit_application("outsider", "sleep", 2, content(lead="outsider")),
        lambda: people.submit_application("outsider", "sleep", 2),
        lambda: people.withdraw_application("outsider", "sleep", 2),
        lambda: people.read_application("outsider", "sleep", 2),
        lambda: people.amend_application("outsider", "sleep", AMENDMENT),
    ):
        with pytest.raises(RefusedError, match="who-may"):
            act()
    assert people.read_application("outsider", "sleep", 1).state is ApplicationState.APPROVED


def test_a_lead_who_was_removed_loses_what_they_began(study):
    study.request_membership("outsider", "sleep", "outsider", MemberRole.LEAD)
    study.approve_membership("custodian", "sleep", "outsider")
    study.amend_application("outsider", "sleep", AMENDMENT)
    study.end_membership("custodian", "sleep", "outsider")
    with pytest.raises(RefusedError, match="who-may"):
        study.edit_application("outsider", "sleep", 2, content())
    with pytest.raises(RefusedError, match="who-may"):
        study.submit_application("outsider", "sleep", 2)
    assert study.withdraw_application("lead", "sleep", 2).state is ApplicationState.WITHDRAWN


def test_only_leads_amend(study):
    study.accept_invitation("researcher", "sleep")
    study.approve_membership("lead", "sleep", "researcher")
    for by in ("researcher", "custodian", "admin", "outsider", OPERATOR):
        with pytest.raises(RefusedError, match=r"application\.amend"):
            study.amend_application(by, "sleep", AMENDMENT)
    with pytest.raises(InputError):
        study.amend_application("lead", "sleep", ApplicationKind.NEW)


def test_who_approved_a_permit_or_appointed_a_lead_is_not_appointed(study):
    """By an amendment neither: the rules about admission hold for whom it names as lead."""
    study.remove_role("admin", "custodian", PlatformRole.CUSTODIAN)
    amended(study, lead="custodian")
    with pytest.raises(RefusedError, match=r"application\.approve/not-for-(permit-approver|lead-appointer)"):
        study.approve_application("custodian2", "sleep", 2)


def test_an_amendment_may_appoint_another_lead(study):
    amended(study, lead="outsider")
    study.approve_application("custodian2", "sleep", 2)
    assert members(study) == {
        "lead": ("lead", "active"),
        "outsider": ("lead", "active"),
        "researcher": ("member", "invited"),
    }


@pytest.mark.parametrize("fact", [Fact.DRAFTER, Fact.INVOLVED, Fact.SELF, Fact.FOR_DISABLED])
def test_negative_control_of_the_prohibitions(here, fact):
    """With the entry taken away, what it forbids is done."""
    forbidden = {
        Fact.DRAFTER: approve_own,
        Fact.INVOLVED: lambda g: complete_and(g, "custodian", team=("custodian",)),
        Fact.SELF: lambda g: complete_and(g, "custodian", by="outsider", lead="custodian"),
        Fact.FOR_DISABLED: disabled_lead,
    }[fact]
    peopled(here.governance)
    row = TABLE[Action.APPLICATION_APPROVE]
    # Naming oneself as lead is forbidden twice, and a disabled lead is also told as missing.
    also = {Fact.SELF: {Fact.INVOLVED}}.get(fact, set())
    with_it = MappingProxyType({**TABLE, Action.APPLICATION_APPROVE: Rule(row.may, row.may_not - also)})
    without = MappingProxyType({**TABLE, Action.APPLICATION_APPROVE: Rule(row.may, row.may_not - also - {fact})})
    strict = Governance(here.store, here.audit, here.clock, Shelf(), rules=with_it)
    lax = Governance(here.store, here.audit, here.clock, Shelf(), rules=without)
    act = forbidden(here.governance)
    with pytest.raises(RefusedError, match=f"not-{fact.name.lower().replace('_', '-')}"):
        act(strict)
    if fact is Fact.FOR_DISABLED:
        with pytest.raises(InputError, match="no such active account"):
            act(lax)
    else:
        assert act(lax).state is ApplicationState.APPROVED


def approve_own(governance: Governance):
    submitted(governance, by="custodian")
    governance.check_application("custodian2", "sleep", 1)
    return lambda other: other.approve_application("custodian", "sleep", 1)


def complete_and(governance: Governance, approver: str, **named):
    complete(governance, **named)
    return lambda other: other.approve_application(approver, "sleep", 1)


def disabled_lead(governance: Governance):
    complete(governance, by="outsider")
    governance.disable_person("admin", "lead")
    return lambda other: other.approve_application("custodian", "sleep", 1)


# -- what it needs ------------------------------------------------------------------------------------------
def test_every_lack_is_told(people):
    nothing = people.begin_application("lead", "sleep", ApplicationContent())
    assert nothing.missing == (
        "a title is missing",
        "a summary in plain language is missing",
        "the purpose is missing",
        "the legal basis is missing",
        "the expected outputs are missing",
        "the lead is missing",
        "the first day is missing",
        "the last day is missing",
        "no table is asked for",
    )


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"lead": "ghost"}, "'ghost' cannot be the lead: there is no such active account"),
        ({"team": ("ghost",)}, "'ghost' cannot be in the team: there is no such active account"),
        ({"starts": START + 300 * DAY}, "the last day must come after the first"),
        ({"starts": START - 9 * DAY, "ends": START}, "the last day must be in the future"),
        ({"tables": (table(reason=" "),)}, "the reason for column 'age' of visits/visits is missing"),
        ({"tables": (table(), table())}, "visits/visits is asked for twice"),
        ({"tables": (table("age", "age"),)}, "column 'age' of visits/visits is asked for twice"),
        ({"tables": (table("height"),)}, "visits/visits: table visits has no column 'height'"),
        ({"tables": (RequestedTable(dataset="a", table="b"),)}, "no column of a/b is asked for"),
        ({"tables": (table().model_copy(update={"dataset": "No"}),)}, "No/visits: String should match pattern"),
    ],
)
def test_what_is_wrong_is_told_and_stops_it(people, changed, told):
    record = begun(people, **changed)
    assert any(one.startswith(told) for one in record.missing), record.missing
    with pytest.raises(InputError, match="is not complete"):
        people.submit_application("lead", "sleep", 1)


def test_who_is_disabled_is_told_like_who_is_not_there(people):
    people.disable_person("admin", "outsider")
    told = begun(people, team=("outsider", "ghost")).missing
    assert [one.replace("outsider", "X").replace("ghost", "X") for one in told] == [
        told[0].replace("outsider", "X")
    ] * 2


def test_it_is_complete_again_when_it_is_checked_and_when_it_is_approved(people):
    """Somebody of the team is disabled in between."""
    submitted(people)
    people.disable_person("admin", "researcher")
    with pytest.raises(InputError, match="'researcher' cannot be in the team"):
        people.check_application("custodian", "sleep", 1)
    people.enable_person("admin", "researcher")
    people.check_application("custodian", "sleep", 1)
    people.disable_person("admin", "researcher")
    with pytest.raises(InputError, match="'researcher' cannot be in the team"):
        people.approve_application("custodian", "sleep", 1)
    assert people.project("sleep").state is ProjectState.DRAFT
    assert people.permits("sleep") == []
    assert people.return_application("custodian", "sleep", 1, NOTE).state is ApplicationState.RETURNED


def test_a_dataset_that_went_away_before_the_approval(people, monkeypatch):
    complete(people)
    with monkeypatch.context() as patch:
        patch.setattr(Shelf, "tables", {})
        with pytest.raises(InputError, match="no table"):
            people.approve_application("custodian", "sleep", 1)
    assert people.permits("sleep") == []


def test_time_that_passed_before_the_approval(here):
    peopled(here.governance)
    complete(here.governance)
    here.clock.pass_(301)
    with pytest.raises(InputError, match="must be in the future"):
        here.governance.approve_application("custodian", "sleep", 1)


def test_renewals_are_longer_and_amendments_are_not(study):
    renewal = study.amend_application("lead", "sleep", RENEWAL)
    assert renewal.missing == ("a renewal must end later than the project does now (2026-10-28)",)
    longer = content(ends=START + 301 * DAY)
    assert study.edit_application("lead", "sleep", 2, longer).missing == ()
    study.withdraw_application("lead", "sleep", 2)
    study.amend_application("lead", "sleep", AMENDMENT)
    told = study.edit_application("lead", "sleep", 3, longer).missing
    assert told == ("an amendment must not end later than the project does now (2026-10-28): ask for a renewal",)


def test_a_shorter_project_shortens_its_memberships(study):
    amended(study, ends=START + 50 * DAY)
    study.approve_application("custodian2", "sleep", 2)
    assert {one.ends for one in study.members("sleep")} == {START + 50 * DAY}
    assert study.permit("sleep", 2).terms.valid_until == START + 50 * DAY


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"title": "a\x00b"}, "control characters"),
        ({"purpose": "\x1b[2J"}, "control characters"),
        ({"lead": "no body"}, "not the id of a person"),
        ({"team": ("a\x00",)}, "not the id of a person"),
        ({"ends": START.replace(year=9999)}, "must be in the years"),
        ({"tables": (table(reason="a\x00"),)}, "control characters"),
    ],
)
def test_what_cannot_be_kept_leaves_nothing(people, changed, message):
    with pytest.raises(InputError, match=message):
        begun(people, **changed)
    with pytest.raises(NotFoundError):
        people.project("sleep")


def test_what_is_kept_is_tidy(people):
    record = begun(
        people,
        title="  Sleep \t",
        purpose="one\r\ntwo",
        team=(" researcher ", "researcher", "lead", ""),
        starts=START.astimezone(tz=None),
    )
    assert (record.content.title, record.content.purpose) == ("Sleep", "one\ntwo")
    assert (record.content.team, record.content.starts) == (("researcher",), START)


def test_rows_and_transforms_come_into_the_permit(people):
    asked = RequestedTable(
        dataset="visits",
        table="visits",
        columns=(RequestedColumn(name="age", reason="Bands do.", transform="band", parameter=5),),
        rows=(RowCondition(column="age", operator=Operator.GE, value=40),),
        reason="Adults.",
    )
    approved(people, tables=(asked,))
    terms = people.permit("sleep", 1).terms
    assert (terms.tables[0].columns[0].transform, terms.tables[0].columns[0].parameter) == ("band", 5)
    assert terms.tables[0].rows == asked.rows
    assert people.amend_application("lead", "sleep", AMENDMENT).content.tables == (asked,)


def test_names_and_bounds(people):
    for slug in ("", "A", "a b", "mine", "a" * 31, "../a"):
        with pytest.raises(InputError):
            begun(people, slug=slug)
    for days in (-1, 40_000):
        with pytest.raises(InputError, match="retain_days"):
            people.approve_application("custodian", "sleep", 1, retain_days=days)
    begun(people)
    with pytest.raises(ConflictError, match="never used again"):
        begun(people, by="outsider")
    for note in ("", "  ", "x" * 5001):
        with pytest.raises(InputError, match="a note"):
            people.return_application("custodian", "sleep", 1, note)


def test_nobody_takes_all_names(here):
    peopled(here.governance)
    for number in range(MOST_NEW):
        here.governance.begin_application("outsider", f"a{number}", ApplicationContent())
        if number % 2:
            here.governance.withdraw_application("outsider", f"a{number}", 1)
    with pytest.raises(ConflictError, match="not decided"):
        here.governance.begin_application("outsider", "more", ApplicationContent())
    here.governance.begin_application("lead", "more", ApplicationContent())
    here.clock.pass_(2)
    here.governance.begin_application("outsider", "later", ApplicationContent())


def test_negative_control_without_a_bound_somebody_takes_all_names(people, monkeypatch):
    monkeypatch.setattr("orchestrator.governance.applications.MOST_NEW", 10**6)
    for number in range(MOST_NEW + 1):
        people.begin_application("outsider", f"a{number}", ApplicationContent())


# -- what approving puts into effect ------------------------------------------------------------------------
def test_one_application_at_a_time(study):
    study.amend_application("lead", "sleep", AMENDMENT)
    for kind in (AMENDMENT, RENEWAL):
        with pytest.raises(ConflictError, match="application 2 of 'sleep' is draft"):
            study.amend_application("lead", "sleep", kind)


def test_the_database_itself_allows_one_undecided_application(here):
    peopled(here.governance)
    begun(here.governance)
    with pytest.raises(ConflictError), here.store.write() as session:
        row = session.scalars(select(ApplicationRow)).one()
        values = {column.name: getattr(row, column.name) for column in ApplicationRow.__table__.columns}
        session.add(ApplicationRow(**{**values, "id": "other", "number": 2}))
        session.commit()


def test_a_project_of_an_application_that_ends_is_closed(people):
    submitted(people)
    people.refuse_application("custodian", "sleep", 1, NOTE)
    assert people.project("sleep").state is ProjectState.CLOSED
    begun(people, slug="other")
    people.withdraw_application("lead", "other", 1)
    assert people.project("other").state is ProjectState.CLOSED
    assert people.project("other").retain_until is None
    with pytest.raises(RefusedError, match="closed"):
        people.edit_application("lead", "other", 1, content())
    with pytest.raises(ConflictError, match="never used again"):
        begun(people, slug="other")


def test_closing_a_project_withdraws_what_is_asked_for_it(study):
    study.amend_application("lead", "sleep", AMENDMENT)
    study.close_project("custodian", "sleep")
    assert study.read_application("custodian", "sleep", 2).state is ApplicationState.WITHDRAWN
    with pytest.raises(RefusedError, match="closed"):
        study.amend_application("lead", "sleep", AMENDMENT)
    with pytest.raises(RefusedError, match="closed"):
        study.submit_application("lead", "sleep", 2)


def test_what_was_applied_for_is_not_activated_past_its_application(people):
    submitted(people)
    people.request_membership("outsider", "sleep", "outsider", MemberRole.LEAD)
    with pytest.raises(RefusedError, match="is applied for"):
        people.activate_project("custodian", "sleep")
    assert "project.activate" not in people.project_page("custodian", "sleep").may


@pytest.mark.parametrize("before", ["requested", "invited", "ended", "active"])
def test_a_lead_who_was_something_else_before(study, before):
    if before == "invited":
        study.invite_member("lead", "sleep", "outsider")
    else:
        study.request_membership("outsider", "sleep", "outsider")
    if before == "active":
        study.approve_membership("lead", "sleep", "outsider", START + 9 * DAY)
    if before == "ended":
        study.leave_project("outsider", "sleep")
    amended(study, lead="outsider")
    study.approve_application("custodian2", "sleep", 2)
    record = next(one for one in study.members("sleep") if one.person == "outsider")
    assert (record.role, record.state, record.ends) == (MemberRole.LEAD, MembershipState.ACTIVE, START + 300 * DAY)
    assert record.approved_by == "custodian2"


def test_a_suspended_lead_does_not_come_back_by_an_amendment(study):
    study.request_membership("outsider", "sleep", "outsider", MemberRole.LEAD)
    study.approve_membership("custodian", "sleep", "outsider")
    amended(study)
    study.suspend_membership("admin", "sleep", "lead")
    with pytest.raises(InputError, match="their membership is suspended"):
        study.approve_application("custodian2", "sleep", 2)


def test_team_members_who_left_are_invited_again_and_others_stay(study):
    study.accept_invitation("researcher", "sleep")
    study.approve_membership("lead", "sleep", "researcher", START + 30 * DAY)
    study.request_membership("outsider", "sleep", "outsider")
    study.leave_project("outsider", "sleep")
    amended(study, team=("researcher", "outsider"))
    study.approve_application("custodian2", "sleep", 2)
    assert members(study)["outsider"] == ("member", "invited")
    assert members(study)["researcher"] == ("member", "active")
    with pytest.raises(RefusedError, match="membership-invited"):
        study.may_open("outsider", "sleep")


def test_an_external_lead_still_needs_consent(people):
    people.describe_person("admin", "lead", external=True, affiliation="Elsewhere")
    approved(people)
    with pytest.raises(RefusedError, match="external-not-agreed"):
        people.may_open("lead", "sleep")
    people.consent_external("custodian2", "sleep", "lead")
    assert people.may_open("lead", "sleep")


def test_a_suspended_project_stays_so(study):
    amended(study)
    study.suspend_project("admin", "sleep")
    study.approve_application("custodian2", "sleep", 2)
    assert study.project("sleep").state is ProjectState.SUSPENDED


def test_a_renewal_of_a_project_that_ran_out_while_it_waited(here):
    governance = here.governance
    peopled(governance)
    approved(governance)
    amended(governance, RENEWAL, ends=START + 600 * DAY)
    here.clock.pass_(301)
    with pytest.raises(RefusedError):
        governance.may_open("lead", "sleep")
    governance.approve_application("custodian", "sleep", 2)
    assert governance.may_open("lead", "sleep")


# -- twice, at once, and by two people ----------------------------------------------------------------------
def test_approving_twice_at_once_happens_once(here):
    governance = here.governance
    peopled(governance)
    complete(governance)
    results = at_once(
        lambda: governance.approve_application("custodian", "sleep", 1),
        lambda: governance.approve_application("custodian2", "sleep", 1),
        lambda: governance.approve_application("custodian", "sleep", 1),
        lambda: governance.refuse_application("custodian2", "sleep", 1, NOTE),
        lambda: governance.withdraw_application("lead", "sleep", 1),
    )
    assert sum(one is None for one in results) == 1, results
    assert {type(one) for one in results if one is not None} <= {RefusedError, ConflictError}
    with here.store.read() as session:
        permits = list(session.scalars(select(PermitRow)))
        appointments = list(session.scalars(select(AppointmentRow)))
    done = governance.read_application("custodian", "sleep", 1).state is ApplicationState.APPROVED
    assert (len(permits), len(appointments)) == ((1, 1) if done else (0, 0))


def test_every_other_click_twice_at_once_happens_once(here):
    governance = here.governance
    peopled(governance)
    assert winners(*[lambda: begun(governance)] * 3) == 1
    assert winners(*[lambda: governance.submit_application("lead", "sleep", 1)] * 3) == 1
    assert winners(*[lambda: governance.check_application("custodian", "sleep", 1)] * 3) == 1
    governance.approve_application("custodian", "sleep", 1)
    assert winners(*[lambda: governance.amend_application("lead", "sleep", AMENDMENT)] * 3) == 1
    assert governance.read_application("lead", "sleep", 2).number == 2
    assert winners(*[lambda: governance.withdraw_application("lead", "sleep", 2)] * 3) == 1


def winners(*acts) -> int:
    results = Counter(type(one).__name__ for one in at_once(*acts))
    assert set(results) <= {"NoneType", "ConflictError", "RefusedError"}
    return results["NoneType"]


def test_an_edit_and_a_submission_at_once_leave_one_of_both(here):
    """Never: submitted with one content, kept with another that lacks something."""
    governance = here.governance
    peopled(governance)
    begun(governance)
    at_once(
        lambda: governance.submit_application("lead", "sleep", 1),
        lambda: governance.edit_application("lead", "sleep", 1, ApplicationContent(title="Empty")),
    )
    record = governance.read_application("lead", "sleep", 1)
    assert (record.state is ApplicationState.SUBMITTED) == (record.missing == ())


def test_two_custodians_where_the_deployment_wants_two(here):
    policy = Policy(two_person=("permit.approve",))
    governance = Governance(here.store, here.audit, here.clock, Shelf(), policy)
    peopled(governance)
    complete(governance)
    with pytest.raises(SecondPersonError):
        governance.approve_application("custodian", "sleep", 1, "A condition.")
    with pytest.raises(BulleError):
        governance.approve_application("custodian", "sleep", 1, "A condition.")
    # Another condition is another decision.
    with pytest.raises(SecondPersonError):
        governance.approve_application("custodian2", "sleep", 1, "None.")
    assert governance.project("sleep").state is ProjectState.DRAFT
    done = governance.approve_application("custodian2", "sleep", 1, "A condition.")
    assert done.state is ApplicationState.APPROVED


def test_who_agreed_to_a_submission_that_was_returned_is_not_the_first_of_two(here):
    governance = Governance(here.store, here.audit, here.clock, Shelf(), Policy(two_person=("application.approve",)))
    peopled(governance)
    complete(governance)
    with pytest.raises(SecondPersonError):
        governance.approve_application("custodian", "sleep", 1)
    governance.return_application("custodian", "sleep", 1, "I was wrong.")
    here.clock.pass_(1)
    governance.submit_application("lead", "sleep", 1)
    governance.check_application("custodian2", "sleep", 1)
    with pytest.raises(SecondPersonError):
        governance.approve_application("custodian2", "sleep", 1)
    assert governance.project("sleep").state is ProjectState.DRAFT


def test_what_is_decided_has_what_the_chain_of_signatures_looks_for(people, monkeypatch):
    """Under its names: the permit's terms, whom it makes the lead, until when."""
    decided = []
    real = Governance._decide

    def keep(governance, change, project=None, **told):
        decided.append((change.action, change.person, told))
        real(governance, change, project, **told)

    monkeypatch.setattr(Governance, "_decide", keep)
    record = approved(people)
    ((action, person, told),) = decided
    assert (action, person) == (Action.APPLICATION_APPROVE, "lead")
    assert told["permit"] == terms_digest(people.permit("sleep", 1).terms)
    assert (told["lead"], told["ends"]) == ("lead", (START + 300 * DAY).isoformat())
    assert told["content"] == record.digest


@pytest.mark.parametrize("value", ["a\x00", ("b", "a\x00")])
def test_what_a_database_cannot_read_again_is_no_condition(value):
    operator = Operator.IN if isinstance(value, tuple) else Operator.EQ
    with pytest.raises(ValueError, match="NUL"):
        RowCondition(column="age", operator=operator, value=value)


def test_negative_control_it_would_break_every_list(here):
    """On PostgreSQL, which keeps such a text and cannot read a title out of what holds it."""
    peopled(here.governance)
    begun(here.governance)
    with here.store.write() as session:
        row = session.scalars(select(ApplicationRow)).one()
        row.content = {**row.content, "purpose": "a\x00"}
        session.commit()
    breaks = here.store._engine.dialect.name == "postgresql"
    with pytest.raises(UnavailableError) if breaks else nullcontext():
        here.governance.list_applications("custodian")


def test_if_the_log_is_silent_nothing_happened(here):
    """An approval changes many rows: all or none of them."""
    governance = here.governance
    peopled(governance)
    complete(governance)

    class Full(Kept):
        def record(self, event):
            raise ConflictError("the disk is full")

    mute = Governance(here.store, Full(), here.clock, Shelf())
    with pytest.raises(ConflictError):
        mute.approve_application("custodian", "sleep", 1)
    assert governance.project("sleep").state is ProjectState.DRAFT
    assert (governance.permits("sleep"), governance.members("sleep")) == ([], [])
    assert governance.read_application("custodian", "sleep", 1).state is ApplicationState.COMPLETE


# -- whose it is --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("by", ["outsider", "researcher", "admin"])
def test_what_is_not_there_is_refused_like_what_is_not_ones_own(study, by):
    study.amend_application("lead", "sleep", AMENDMENT)
    acts = (
        lambda slug, number: study.read_application(by, slug, number),
        lambda slug, number: study.edit_application(by, slug, number, content()),
        lambda slug, number: study.submit_application(by, slug, number),
        lambda slug, number: study.withdraw_application(by, slug, number),
        lambda slug, number: study.approve_application(by, slug, number),
        lambda slug, number: study.amend_application(by, slug, AMENDMENT),
    )
    for act in acts:
        told = set()
        for slug, number in (("sleep", 2), ("sleep", 9), ("never", 1)):
            with pytest.raises(RefusedError) as caught:
                act(slug, number)
            told.add(caught.value.message)
        assert len(told) == 1


def test_a_custodian_is_told_what_is_not_there(study):
    for slug, number in (("sleep", 9), ("never", 1)):
        with pytest.raises(NotFoundError):
            study.approve_application("custodian2", slug, number)


def test_who_is_new_finds_their_way(here):
    """Somebody of the team who has yet to accept the terms and to show a training."""
    governance = here.governance
    peopled(governance)
    governance.add_person(OPERATOR, "newcomer", "Newcomer")
    approved(governance, team=("newcomer",))
    ready(governance, "newcomer")
    governance.accept_invitation("newcomer", "sleep")
    governance.approve_membership("lead", "sleep", "newcomer")
    here.clock.pass_(1)
    assert governance.may_open("newcomer", "sleep").ends_at - here.clock.now > timedelta(days=100)


def test_permits_of_applications_follow_those_of_before(study):
    from tests.unit.governance.places import draft

    study.draft_permit("lead", "sleep", draft("sex"))
    amended(study)
    study.approve_application("custodian2", "sleep", 2)
    assert {one.version: one.state for one in study.permits("sleep")} == {
        1: PermitState.SUPERSEDED,
        2: PermitState.DRAFT,
        3: PermitState.APPROVED,
    }

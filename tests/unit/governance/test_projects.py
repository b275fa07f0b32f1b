from __future__ import annotations

from datetime import timedelta

import pytest

from orchestrator.config import Policy
from orchestrator.errors import ConflictError, InputError, NotFoundError, RefusedError, SecondPersonError
from orchestrator.governance.identity import OPERATOR
from orchestrator.governance.service import Governance
from orchestrator.governance.states import MemberRole, MembershipState, ProjectState
from tests.unit.governance.places import DAY, START, Shelf, create, draft, peopled


@pytest.fixture
def people(here):
    peopled(here.governance)
    return here.governance


@pytest.mark.parametrize("by", ["custodian", "admin"])
def test_a_project_begins_as_a_draft_that_does_nothing(people, by):
    project = create(people, by=by)
    assert project.state is ProjectState.DRAFT
    assert [(one.person, one.role, one.state) for one in people.members("sleep")] == [("lead", "lead", "requested")]
    with pytest.raises(RefusedError, match="membership-requested"):
        people.may_open("lead", "sleep")
    with pytest.raises(RefusedError):
        people.draft_permit("lead", "sleep", draft())


@pytest.mark.parametrize("by", ["lead", "outsider", "auditor", OPERATOR, "nobody"])
def test_who_may_not_create(people, by):
    with pytest.raises(RefusedError):
        create(people, by=by)
    with pytest.raises(NotFoundError):
        people.project("sleep")


def test_nobody_creates_a_project_to_lead(people):
    with pytest.raises(RefusedError, match="not-self"):
        create(people, by="custodian", lead="custodian")


@pytest.mark.parametrize("slug", ["mine", "", "-a", "a-", "A", "a b", "a" * 41, "a/b", "../a", "é"])
def test_bad_slugs(people, slug):
    with pytest.raises(InputError):
        create(people, slug)


def test_a_slug_is_never_used_again(people):
    create(people)
    with pytest.raises(ConflictError, match="never used again"):
        create(people)
    people.close_project("custodian", "sleep")
    with pytest.raises(ConflictError, match="never used again"):
        create(people)


def test_bad_dates(people):
    with pytest.raises(InputError, match="end after it starts"):
        create(people, days=0)
    with pytest.raises(InputError, match="in the future"):
        people.create_project(
            "custodian", "old", title="Old", purpose="P", lead="lead", starts=START - 9 * DAY, ends=START - DAY
        )


@pytest.mark.parametrize("when", [START.replace(tzinfo=None), START.replace(year=9999), START.replace(year=1)])
def test_dates_that_no_calendar_of_ours_has(people, when):
    for dates in ({"starts": when, "ends": START + DAY}, {"starts": START, "ends": when}):
        with pytest.raises(InputError, match=r"time zone|must be in the years"):
            people.create_project("custodian", "sleep", title="T", purpose="P", lead="lead", **dates)
    with pytest.raises(NotFoundError):
        people.project("sleep")


@pytest.mark.parametrize("by", ["lead", "admin", "outsider", OPERATOR])
def test_who_may_not_activate_learns_nothing_of_a_draft(people, by):
    """Not even that it has no proposed lead."""
    create(people)
    people.leave_project("lead", "sleep")
    with pytest.raises(RefusedError, match="who-may"):
        people.activate_project(by, "sleep")


def test_closing_and_activating_where_two_must_agree(here):
    peopled(here.governance)
    policy = Policy(two_person=("project.activate",))
    governance = Governance(here.store, here.audit, here.clock, Shelf(), policy)
    create(governance)
    with pytest.raises(SecondPersonError):
        governance.activate_project("custodian", "sleep")
    assert governance.project("sleep").state is ProjectState.DRAFT
    governance.activate_project("custodian2", "sleep")
    assert governance.project("sleep").state is ProjectState.ACTIVE
    governance.close_project("custodian", "sleep")
    assert governance.project("sleep").state is ProjectState.CLOSED


@pytest.mark.parametrize("by", ["lead", "admin", "outsider", OPERATOR])
def test_only_a_custodian_activates(people, by):
    create(people)
    with pytest.raises(RefusedError, match=r"project\.activate"):
        people.activate_project(by, "sleep")


def test_a_custodian_does_not_appoint_themselves(people):
    create(people, by="custodian2", lead="custodian")
    with pytest.raises(RefusedError, match="not-self"):
        people.activate_project("custodian", "sleep")
    people.activate_project("custodian2", "sleep")
    assert people.members("sleep")[0].approved_by == "custodian2"


def test_who_appointed_a_lead_never_leads(people):
    create(people)
    people.activate_project("custodian", "sleep")
    people.request_membership("custodian", "sleep", "custodian", MemberRole.LEAD)
    with pytest.raises(RefusedError, match="not-for-lead-appointer"):
        people.approve_membership("custodian2", "sleep", "custodian")


def test_a_draft_whose_lead_withdrew_needs_another(people):
    create(people)
    people.leave_project("lead", "sleep")
    with pytest.raises(RefusedError, match="no proposed lead"):
        people.activate_project("custodian", "sleep")
    people.request_membership("researcher", "sleep", "researcher", MemberRole.LEAD)
    people.activate_project("custodian", "sleep")
    assert {one.person: one.state for one in people.members("sleep")} == {
        "lead": MembershipState.ENDED,
        "researcher": MembershipState.ACTIVE,
    }


def test_the_emergency_stop_and_its_end(sleep):
    governance = sleep.governance
    for by in ("lead", "researcher", "auditor", OPERATOR):
        with pytest.raises(RefusedError):
            governance.suspend_project(by, "sleep")
    governance.suspend_project("admin", "sleep")
    for by in ("admin", "lead"):
        with pytest.raises(RefusedError, match=r"project\.resume"):
            governance.activate_project(by, "sleep")
    governance.activate_project("custodian", "sleep")
    assert governance.may_open("researcher", "sleep")


def test_closed_is_for_good(sleep):
    governance = sleep.governance
    governance.close_project("lead", "sleep")
    for act in (governance.close_project, governance.suspend_project, governance.activate_project):
        with pytest.raises(RefusedError):
            act("custodian", "sleep")
    with pytest.raises(RefusedError, match="closed"):
        governance.request_membership("outsider", "sleep", "outsider")
    with pytest.raises(RefusedError, match="closed"):
        governance.draft_permit("lead", "sleep", draft())


class TestMembers:
    def test_only_the_lead_admits(self, sleep):
        governance = sleep.governance
        governance.request_membership("outsider", "sleep", "outsider")
        for by in ("outsider", "researcher", "custodian", "admin", OPERATOR):
            with pytest.raises(RefusedError, match=r"member\.approve"):
                governance.approve_membership(by, "sleep", "outsider")
        governance.approve_membership("lead", "sleep", "outsider")
        assert governance.may_open("outsider", "sleep")

    def test_a_lead_of_another_project_is_nobody_here(self, sleep):
        create(sleep.governance, "other", lead="outsider")
        sleep.governance.activate_project("custodian", "other")
        sleep.governance.request_membership("auditor", "sleep", "auditor")
        with pytest.raises(RefusedError, match="who-may"):
            sleep.governance.approve_membership("outsider", "sleep", "auditor")

    def test_a_lead_whose_time_is_over_admits_nobody(self, sleep):
        sleep.governance.approve_membership("custodian", "sleep", "lead", START + 2 * DAY)
        sleep.governance.request_membership("outsider", "sleep", "outsider")
        sleep.clock.pass_(2)
        with pytest.raises(RefusedError, match="who-may"):
            sleep.governance.approve_membership("lead", "sleep", "outsider")

    def test_strangers_do_not_propose_others(self, sleep):
        with pytest.raises(RefusedError, match=r"member\.request"):
            sleep.governance.request_membership("researcher", "sleep", "outsider")

    def test_who_approved_the_permit_does_not_come_in(self, sleep):
        sleep.governance.request_membership("custodian", "sleep", "custodian")
        with pytest.raises(RefusedError, match="not-for-permit-approver"):
            sleep.governance.approve_membership("lead", "sleep", "custodian")

    def test_leads_are_appointed_by_a_custodian_outside_the_project(self, sleep):
        governance = sleep.governance
        governance.request_membership("outsider", "sleep", "outsider", MemberRole.LEAD)
        with pytest.raises(RefusedError, match=r"lead\.appoint/not-involved"):
            governance.approve_membership("lead", "sleep", "outsider")
        governance.request_membership("custodian2", "sleep", "custodian2")
        with pytest.raises(RefusedError, match=r"lead\.appoint/not-involved"):
            governance.approve_membership("custodian2", "sleep", "outsider")
        governance.approve_membership("custodian", "sleep", "outsider")

    def test_an_end_is_within_the_project(self, sleep):
        governance = sleep.governance
        with pytest.raises(InputError, match="ends by"):
            governance.request_membership("outsider", "sleep", "outsider", ends=START + 366 * DAY)
        governance.request_membership("outsider", "sleep", "outsider")
        with pytest.raises(InputError, match="ends by"):
            governance.approve_membership("lead", "sleep", "outsider", START + timedelta(days=365, seconds=1))
        with pytest.raises(InputError, match="in the future"):
            governance.approve_membership("lead", "sleep", "outsider", START)
        governance.approve_membership("lead", "sleep", "outsider", START + 365 * DAY)

    def test_an_end_is_moved_by_who_admits(self, sleep):
        governance = sleep.governance
        with pytest.raises(RefusedError, match="cannot become 'active'"):
            governance.approve_membership("lead", "sleep", "researcher")
        with pytest.raises(RefusedError, match="not-self"):
            governance.approve_membership("researcher", "sleep", "researcher", START + 300 * DAY)
        sleep.clock.pass_(101)
        with pytest.raises(RefusedError, match="membership-expired"):
            governance.may_open("researcher", "sleep")
        governance.approve_membership("lead", "sleep", "researcher", START + 150 * DAY)
        assert governance.may_open("researcher", "sleep").ends_at == START + 150 * DAY

    def test_suspended_members_return_by_approval_only(self, sleep):
        governance = sleep.governance
        governance.suspend_membership("custodian", "sleep", "researcher")
        with pytest.raises(ConflictError):
            governance.request_membership("researcher", "sleep", "researcher")
        with pytest.raises(RefusedError):
            governance.approve_membership("researcher", "sleep", "researcher")
        governance.approve_membership("lead", "sleep", "researcher")
        assert governance.may_open("researcher", "sleep")

    def test_who_left_asks_again(self, sleep):
        governance = sleep.governance
        governance.leave_project("researcher", "sleep")
        governance.request_membership("researcher", "sleep", "researcher")
        with pytest.raises(RefusedError, match="membership-requested"):
            governance.may_open("researcher", "sleep")
        assert governance.members("sleep")[-1].approved_by is None

    def test_twice_is_a_conflict(self, sleep):
        with pytest.raises(ConflictError, match="already"):
            sleep.governance.request_membership("researcher", "sleep", "researcher")

    def test_disabled_people_are_not_admitted(self, sleep):
        sleep.governance.request_membership("outsider", "sleep", "outsider")
        sleep.governance.disable_person("admin", "outsider")
        with pytest.raises(RefusedError, match="not-for-disabled"):
            sleep.governance.approve_membership("lead", "sleep", "outsider")

    def test_names_that_are_not_there(self, sleep):
        with pytest.raises(NotFoundError, match="no person"):
            sleep.governance.request_membership("lead", "sleep", "nobody")
        with pytest.raises(NotFoundError, match="no project"):
            sleep.governance.request_membership("custodian", "never", "outsider")
        with pytest.raises(NotFoundError, match="no membership"):
            sleep.governance.approve_membership("lead", "sleep", "outsider")

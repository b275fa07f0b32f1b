"""After a project's end: a renewal for some days, then it closes by itself; who is told; what must not be done."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import MappingProxyType

import pytest

from orchestrator.config import Policy
from orchestrator.errors import AuditError, RefusedError
from orchestrator.governance import closing, lapsing
from orchestrator.governance.authority import Clockwork
from orchestrator.governance.desk import Desk
from orchestrator.governance.identity import AUTHORITY, HUB, NODE, OPERATOR
from orchestrator.governance.rules import TABLE, Action, Fact
from orchestrator.governance.service import Governance
from orchestrator.governance.states import ApplicationKind, ApplicationState, MemberRole, PlatformRole, ProjectState
from tests.unit.governance.places import DAY, START, Shelf, ready
from tests.unit.governance.test_applications import complete

END = START + 365 * DAY
LATER = END + 200 * DAY
RENEWAL = ApplicationKind.RENEWAL


@pytest.fixture
def ended(sleep):
    """The project "sleep" one day after its end; everybody's training counts on."""
    sleep.clock.pass_(300)
    for person in ("lead", "researcher", "outsider"):
        ready(sleep.governance, person)
    sleep.clock.pass_(66)
    return sleep


def renewal(governance, by="lead", number=1):
    """A renewal of "sleep" until LATER, as far as who asks for it brings it."""
    begun = governance.amend_application(by, "sleep", RENEWAL)
    content = begun.content
    tables = tuple(
        table.model_copy(
            update={"columns": tuple(one.model_copy(update={"reason": "It is needed."}) for one in table.columns)}
        )
        for table in content.tables
    )
    said = dict.fromkeys(("title", "lay_summary", "purpose", "legal_basis", "outputs"), "Sleep.")
    governance.edit_application(
        by, "sleep", number, content.model_copy(update={**said, "ends": LATER, "tables": tables})
    )
    return governance.submit_application(by, "sleep", number)


def approved(governance) -> None:
    governance.check_application("custodian", "sleep", 1)
    governance.approve_application("custodian2", "sleep", 1)


def state(here) -> ProjectState:
    return here.governance.project("sleep").state


class TestRenewing:
    def test_a_renewal_after_the_end_lets_people_in_again(self, ended):
        governance = ended.governance
        with pytest.raises(RefusedError, match="project-over"):
            governance.may_open("lead", "sleep")
        renewal(governance)
        approved(governance)
        assert governance.may_open("lead", "sleep").permit.version == 2
        assert governance.project("sleep").ends == LATER
        # As with any renewal, the lead says who of the team goes on.
        governance.approve_membership("lead", "sleep", "researcher", LATER)
        governance.confirm_membership("lead", "sleep", "researcher")
        assert governance.may_open("researcher", "sleep").permit.version == 2
        assert governance.close_lapsed() == 0

    def test_nothing_but_a_renewal_is_begun(self, ended):
        with pytest.raises(RefusedError, match="is over"):
            ended.governance.amend_application("lead", "sleep", ApplicationKind.AMENDMENT)

    def test_what_was_under_way_is_finished_or_withdrawn_first(self, sleep):
        governance = sleep.governance
        governance.amend_application("lead", "sleep", ApplicationKind.AMENDMENT)
        sleep.clock.pass_(366)
        governance.withdraw_application("lead", "sleep", 1)
        assert renewal(governance, number=2).state is ApplicationState.SUBMITTED

    def test_before_the_end_nobody_is_a_past_lead(self, sleep):
        governance = sleep.governance
        with governance._store.read() as session:
            row = closing.project_named(session, "sleep")
            assert Fact.PAST_LEAD not in governance._facts(session, "lead", sleep.clock.now, project=row)

    @pytest.mark.parametrize("by", ["researcher", "outsider", "custodian", "admin", "auditor", OPERATOR, AUTHORITY])
    def test_nobody_else_asks(self, ended, by):
        with pytest.raises(RefusedError, match=r"application\.amend/who-may"):
            ended.governance.amend_application(by, "sleep", RENEWAL)

    def test_who_was_not_the_lead_to_the_end_is_nobody(self, sleep):
        """A lead for half of the time, and one who was suspended: the end brings neither back."""
        governance = sleep.governance
        governance.request_membership("outsider", "sleep", "outsider", MemberRole.LEAD, START + 100 * DAY)
        governance.approve_membership("custodian2", "sleep", "outsider")
        sleep.clock.pass_(364)
        governance.suspend_membership("custodian", "sleep", "lead")
        sleep.clock.pass_(2)
        for person in ("outsider", "lead"):
            with pytest.raises(RefusedError, match=r"application\.amend/who-may"):
                governance.amend_application(person, "sleep", RENEWAL)

    def test_a_past_lead_reads_the_project_and_decides_nothing_in_it(self, ended):
        governance = ended.governance
        page = governance.project_page("lead", "sleep")
        assert (page.ended, page.closes_at) == (True, END + 30 * DAY)
        assert set(page.may) == {"project.close", "application.amend", "member.leave"}
        for act in (
            lambda: governance.invite_member("lead", "sleep", "outsider"),
            lambda: governance.approve_membership("lead", "sleep", "researcher", LATER),
            lambda: governance.end_membership("lead", "sleep", "researcher"),
            lambda: governance.revoke_permit("lead", "sleep", 1),
            lambda: governance.suspend_project("lead", "sleep"),
        ):
            with pytest.raises(RefusedError, match="/who-may"):
                act()

    def test_what_waits_for_the_lead_says_until_when(self, ended):
        def waiting():
            return [(one.kind, one.due) for one in ended.governance.inbox("lead") if one.project == "sleep"]

        assert waiting() == [("renewal", END + 30 * DAY)]
        renewal(ended.governance)
        assert waiting() == []
        assert [one for one in ended.governance.inbox("researcher") if one.kind == "renewal"] == []

    def test_after_the_days_nobody_asks_any_more(self, ended):
        ended.clock.pass_(29)
        with pytest.raises(RefusedError, match=r"application\.amend/who-may"):
            ended.governance.amend_application("lead", "sleep", RENEWAL)

    def test_negative_control_without_the_rows_fact_nobody_renews(self, ended):
        row = TABLE[Action.APPLICATION_AMEND]
        ended.governance._rules = MappingProxyType(
            {**TABLE, Action.APPLICATION_AMEND: replace(row, may=row.may - {Fact.PAST_LEAD})}
        )
        with pytest.raises(RefusedError):
            ended.governance.amend_application("lead", "sleep", RENEWAL)

    def test_negative_control_without_the_bound_somebody_asks_too_late(self, ended, monkeypatch):
        monkeypatch.setattr("orchestrator.governance.desk.can_be_renewed", lambda *told: True)
        with pytest.raises(pytest.fail.Exception):
            self.test_after_the_days_nobody_asks_any_more(ended)

    def test_negative_control_without_a_look_at_the_membership_anybody_asks(self, ended, monkeypatch):
        monkeypatch.setattr(Desk, "_led_until_the_end", lambda self, session, project, by, now: True)
        with pytest.raises(pytest.fail.Exception):
            self.test_nobody_else_asks(ended, "outsider")


class TestClosing:
    def test_after_the_days_it_closes_by_itself(self, ended):
        ended.clock.pass_(28.9)
        assert ended.governance.close_lapsed() == 0
        assert state(ended) is ProjectState.ACTIVE
        ended.clock.pass_(0.1)
        assert ended.governance.close_lapsed() == 1
        project = ended.governance.project("sleep")
        assert (project.state, project.closed_at) == (ProjectState.CLOSED, END + 30 * DAY)
        assert project.retain_until == END + (30 + 3650) * DAY
        assert [one.action for one in ended.governance.closings_due()] == ["archive"]
        assert ended.governance.close_lapsed() == 0

    def test_it_is_the_authoritys_act_in_the_log(self, ended):
        ended.clock.pass_(40)
        ended.governance.close_lapsed()
        events = [one.event for one in ended.audit.read()][-2:]
        assert [(one.kind, one.actor, str(one.outcome)) for one in events] == [
            ("project.lapse", AUTHORITY, "started"),
            ("project.lapse", AUTHORITY, "done"),
        ]
        assert events[-1].detail["ended"] == END.isoformat()
        assert events[-1].project == "sleep"

    def test_what_is_not_in_the_log_does_not_happen(self, ended, monkeypatch):
        ended.clock.pass_(40)

        def fail(event):
            raise AuditError("no")

        with monkeypatch.context() as patch:
            patch.setattr(ended.audit, "record", fail)
            assert ended.governance.close_lapsed() == 0
        assert state(ended) is ProjectState.ACTIVE
        assert ended.governance.close_lapsed() == 1

    def test_the_deployment_says_after_how_many_days(self, ended):
        for days, closes in ((2, 0), (1, 1)):
            policy = Policy(closing_days=days, retention_days=7)
            governance = Governance(ended.store, ended.audit, ended.clock, Shelf(), policy)
            assert governance.close_lapsed() == closes
        assert governance.project("sleep").retain_until == ended.clock.now + 7 * DAY

    def test_a_suspended_one_closes_and_a_draft_does_not(self, sleep):
        complete(sleep.governance, by="outsider", slug="other")
        sleep.governance.suspend_project("custodian", "sleep")
        sleep.clock.pass_(999)
        assert sleep.governance.close_lapsed() == 1
        assert state(sleep) is ProjectState.CLOSED
        assert sleep.governance.project("other").state is ProjectState.DRAFT

    def test_what_was_begun_and_never_handed_in_is_withdrawn(self, ended):
        ended.governance.amend_application("lead", "sleep", RENEWAL)
        ended.clock.pass_(40)
        assert ended.governance.close_lapsed() == 1
        assert ended.governance.read_application("custodian", "sleep", 1).state is ApplicationState.WITHDRAWN

    def test_a_renewal_that_waits_for_a_custodian_holds_it_open(self, ended):
        governance = ended.governance
        renewal(governance)
        ended.clock.pass_(50)
        assert governance.close_lapsed() == 0
        assert governance.project_page("custodian", "sleep").closes_at is None
        governance.check_application("custodian", "sleep", 1)
        ended.clock.pass_(50)
        assert governance.close_lapsed() == 0
        governance.approve_application("custodian2", "sleep", 1)
        assert governance.project("sleep").ends == LATER
        assert governance.close_lapsed() == 0

    def test_one_that_was_returned_has_the_days_again(self, ended):
        governance = ended.governance
        renewal(governance)
        ended.clock.pass_(50)
        governance.return_application("custodian", "sleep", 1, "Why so long?")
        ended.clock.pass_(29)
        assert governance.close_lapsed() == 0
        governance.submit_application("lead", "sleep", 1)
        governance.return_application("custodian", "sleep", 1, "Still: why?")
        ended.clock.pass_(30)
        with pytest.raises(RefusedError):
            governance.submit_application("lead", "sleep", 1)
        assert governance.close_lapsed() == 1

    def test_one_that_was_refused_or_withdrawn_holds_nothing(self, ended):
        renewal(ended.governance)
        ended.clock.pass_(50)
        ended.governance.refuse_application("custodian", "sleep", 1, "No.")
        assert ended.governance.close_lapsed() == 1

    def test_an_amendment_holds_nothing(self, sleep):
        """Whatever it says, it lets nobody in again."""
        governance = sleep.governance
        begun = governance.amend_application("lead", "sleep", ApplicationKind.AMENDMENT)
        said = dict.fromkeys(("title", "lay_summary", "purpose", "legal_basis", "outputs"), "Sleep.")
        columns = tuple(one.model_copy(update={"reason": "Needed."}) for one in begun.content.tables[0].columns)
        tables = (begun.content.tables[0].model_copy(update={"columns": columns}),)
        governance.edit_application("lead", "sleep", 1, begun.content.model_copy(update={**said, "tables": tables}))
        governance.submit_application("lead", "sleep", 1)
        sleep.clock.pass_(396)
        assert governance.close_lapsed() == 1

    @pytest.mark.parametrize("by", ["lead", "custodian", "admin", "outsider", OPERATOR, HUB, NODE])
    def test_nobody_closes_in_the_platforms_name(self, ended, by):
        ended.clock.pass_(40)
        with pytest.raises(RefusedError, match=r"project\.lapse/who-may"):
            ended.governance.lapse_project(by, "sleep")
        assert state(ended) is ProjectState.ACTIVE

    def test_the_platform_closes_nothing_before_its_time(self, ended):
        with pytest.raises(RefusedError, match="rule lapse"):
            ended.governance.lapse_project(AUTHORITY, "sleep")
        ended.governance.close_project("lead", "sleep")
        with pytest.raises(RefusedError, match="rule lapse"):
            ended.governance.lapse_project(AUTHORITY, "sleep")

    def test_at_once_by_several_it_closes_once(self, ended):
        ended.clock.pass_(40)
        threads = [threading.Thread(target=ended.governance.close_lapsed) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ended.events().count(("project.lapse", "done")) == 1
        assert ("project.lapse", "failed") not in ended.events()

    def test_the_clock_of_the_authority_does_it(self, ended):
        ended.clock.pass_(40)
        clockwork = Clockwork(ended.governance, None, seconds=60)
        clockwork.start()
        clockwork.stop()
        assert state(ended) is ProjectState.CLOSED

    def test_negative_control_without_a_look_at_the_time_it_closes_too_early(self, ended, monkeypatch):
        monkeypatch.setattr(closing, "closes_at", lambda session, project, days: project.ends)
        with pytest.raises(pytest.fail.Exception):
            self.test_the_platform_closes_nothing_before_its_time(ended)

    def test_negative_control_without_a_look_at_what_waits_a_renewal_is_lost(self, ended, monkeypatch):
        monkeypatch.setattr(lapsing, "_WITH_CUSTODIANS", ())
        with pytest.raises(AssertionError):
            self.test_a_renewal_that_waits_for_a_custodian_holds_it_open(ended)


class TestTelling:
    @pytest.fixture
    def telling(self, ended):
        ended.governance._tells = True
        return ended

    @staticmethod
    def told(here, kind) -> list[str]:
        return [one.person for one in here.governance.unsent() if one.kind == kind]

    def test_lead_and_custodians_are_told_before_and_at_the_closing(self, telling):
        telling.governance.remind()
        assert self.told(telling, "ending.closing") == ["custodian", "custodian2", "lead"]
        telling.clock.pass_(15)
        assert telling.governance.remind() == 0
        telling.clock.pass_(8)
        assert telling.governance.remind() == 3
        assert self.told(telling, "project.lapse") == []
        telling.clock.pass_(7)
        telling.governance.close_lapsed()
        assert self.told(telling, "project.lapse") == ["custodian", "custodian2", "lead"]
        assert telling.governance.remind() == 0

    def test_while_a_renewal_waits_nobody_is_told_of_a_closing(self, telling):
        renewal(telling.governance)
        telling.governance.remind()
        assert self.told(telling, "ending.closing") == []

    def test_who_is_no_custodian_any_more_is_not_told(self, telling):
        telling.governance.remove_role(OPERATOR, "custodian2", PlatformRole.CUSTODIAN)
        telling.governance.disable_person("admin", "custodian")
        telling.governance.remind()
        assert self.told(telling, "ending.closing") == ["lead"]

    def test_without_a_channel_it_closes_all_the_same(self, ended):
        ended.governance.remind()
        ended.clock.pass_(40)
        assert ended.governance.close_lapsed() == 1
        assert ended.governance.unsent() == []

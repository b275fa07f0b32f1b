"""The life of a membership, from an invitation or a request to its end."""

from __future__ import annotations

import pytest
from sqlalchemy import event

from orchestrator.config import Policy
from orchestrator.errors import ConflictError, InputError, NotFoundError, RefusedError
from orchestrator.governance import desk, people
from orchestrator.governance.cards import MemberRecord
from orchestrator.governance.identity import OPERATOR
from orchestrator.governance.service import Governance
from orchestrator.governance.states import MemberRole, MembershipState
from orchestrator.governance.store import MembershipRow
from tests.unit.governance.places import DAY, START, Shelf, create, draft, ready

INVITED, REQUESTED, ENDED = MembershipState.INVITED, MembershipState.REQUESTED, MembershipState.ENDED


def member(governance, person: str) -> MemberRecord:
    return next(one for one in governance.members("sleep") if one.person == person)


@pytest.fixture
def partner(sleep):
    """An external partner who asked to be in the project and whom the lead approved."""
    sleep.governance.describe_person("admin", "outsider", True, "Another Hospital")
    sleep.governance.request_membership("outsider", "sleep", "outsider")
    sleep.governance.approve_membership("lead", "sleep", "outsider")
    return sleep


class TestInvitations:
    def test_from_the_invitation_to_the_workspace(self, sleep):
        governance = sleep.governance
        governance.invite_member("lead", "sleep", "outsider", ends=START + 50 * DAY)
        assert (member(governance, "outsider").state, member(governance, "outsider").requested_by) == (INVITED, "lead")
        with pytest.raises(RefusedError, match="membership-invited"):
            governance.may_open("outsider", "sleep")
        governance.accept_invitation("outsider", "sleep")
        assert member(governance, "outsider").requested_by == "outsider"
        with pytest.raises(RefusedError, match="membership-requested"):
            governance.may_open("outsider", "sleep")
        governance.approve_membership("lead", "sleep", "outsider")
        assert governance.may_open("outsider", "sleep").ends_at == START + 50 * DAY

    @pytest.mark.parametrize("by", ["researcher", "outsider", "admin", "auditor", OPERATOR])
    def test_who_does_not_invite(self, sleep, by):
        with pytest.raises(RefusedError, match=r"member\.invite"):
            sleep.governance.invite_member(by, "sleep", "auditor" if by != "auditor" else "outsider")

    def test_nobody_invites_themselves(self, sleep):
        with pytest.raises(RefusedError, match=r"member\.invite/not-self"):
            sleep.governance.invite_member("custodian", "sleep", "custodian")

    def test_an_invitation_is_not_approved_over_the_persons_head(self, sleep):
        sleep.governance.invite_member("lead", "sleep", "outsider")
        with pytest.raises(RefusedError, match="is 'invited' and cannot become 'active'"):
            sleep.governance.approve_membership("lead", "sleep", "outsider")
        with pytest.raises(ConflictError, match="already"):
            sleep.governance.request_membership("lead", "sleep", "outsider")

    def test_one_is_accepted_by_the_invited_and_once(self, sleep):
        governance = sleep.governance
        governance.invite_member("lead", "sleep", "outsider")
        with pytest.raises(NotFoundError, match="no part in a project 'sleep'"):
            governance.accept_invitation("auditor", "sleep")
        governance.accept_invitation("outsider", "sleep")
        with pytest.raises(ConflictError, match="no invitation to accept"):
            governance.accept_invitation("outsider", "sleep")
        with pytest.raises(ConflictError, match="no invitation to accept"):
            governance.accept_invitation("researcher", "sleep")

    def test_a_stranger_is_not_told_which_projects_there_are(self, sleep):
        told = []
        for act in (sleep.governance.accept_invitation, sleep.governance.leave_project):
            for slug in ("sleep", "never"):
                with pytest.raises(NotFoundError) as caught:
                    act("outsider", slug)
                told.append(str(caught.value).replace(slug, "…"))
        assert len(set(told)) == 1

    def test_declined_and_invited_again(self, sleep):
        governance = sleep.governance
        governance.invite_member("lead", "sleep", "outsider")
        governance.leave_project("outsider", "sleep")
        assert member(governance, "outsider").state is ENDED
        governance.invite_member("custodian", "sleep", "outsider")
        governance.accept_invitation("outsider", "sleep")

    def test_one_whose_end_has_passed_is_not_accepted(self, sleep):
        sleep.governance.invite_member("lead", "sleep", "outsider", ends=START + DAY)
        sleep.clock.pass_(2)
        with pytest.raises(InputError, match="in the future"):
            sleep.governance.accept_invitation("outsider", "sleep")

    def test_to_lead_needs_a_custodian_all_the_same(self, sleep):
        governance = sleep.governance
        governance.invite_member("lead", "sleep", "outsider", MemberRole.LEAD)
        governance.accept_invitation("outsider", "sleep")
        with pytest.raises(RefusedError, match=r"lead\.appoint"):
            governance.approve_membership("lead", "sleep", "outsider")
        governance.approve_membership("custodian", "sleep", "outsider")


class TestOffices:
    @staticmethod
    def custodian2_approves(governance) -> None:
        governance.draft_permit("lead", "sleep", draft("age"))
        governance.approve_permit("custodian2", "sleep", 2)

    @pytest.mark.parametrize("how", ["invite_member", "request_membership"])
    def test_a_lead_does_not_choose_the_custodian_by_proposing_the_others(self, sleep, how):
        getattr(sleep.governance, how)("lead", "sleep", "custodian2")
        self.custodian2_approves(sleep.governance)
        with pytest.raises(RefusedError, match=r"not-for-permit-approver|'invited'"):
            sleep.governance.approve_membership("lead", "sleep", "custodian2")

    def test_negative_control_where_being_proposed_counts_a_lead_chooses(self, sleep, monkeypatch):
        monkeypatch.setattr(desk, "_takes_part", lambda row: row.state is not ENDED)
        sleep.governance.request_membership("lead", "sleep", "custodian2")
        with pytest.raises(RefusedError, match="not-involved"):
            self.custodian2_approves(sleep.governance)

    def test_who_accepted_is_out_of_their_office(self, sleep):
        sleep.governance.invite_member("lead", "sleep", "custodian2")
        sleep.governance.accept_invitation("custodian2", "sleep")
        with pytest.raises(RefusedError, match="not-involved"):
            self.custodian2_approves(sleep.governance)

    def test_inviting_somebody_does_not_open_their_account(self, sleep):
        for act in (sleep.governance.invite_member, sleep.governance.request_membership):
            act("lead", "sleep", "outsider")
            with pytest.raises(RefusedError, match=r"person\.read"):
                sleep.governance.read_person("lead", "outsider")
            sleep.governance.leave_project("outsider", "sleep")


class TestApproval:
    @pytest.fixture
    def new(self, sleep):
        sleep.governance.add_person(OPERATOR, "new", "New")
        sleep.governance.request_membership("new", "sleep", "new")
        return sleep.governance

    def test_terms_then_training_then_in(self, new):
        with pytest.raises(RefusedError, match="terms-not-accepted: 'new' has not accepted"):
            new.approve_membership("lead", "sleep", "new")
        new.accept_terms("new", "1")
        with pytest.raises(RefusedError, match="no-training: 'new' has no training"):
            new.approve_membership("lead", "sleep", "new")
        training = new.declare_training("new", "Health data", START.date())
        new.approve_membership("lead", "sleep", "new")
        assert new.trainings_of("new", "new")[0].confirmed_by == "lead"
        assert new.may_open("new", "sleep")
        assert training.confirmed_by is None

    def test_the_log_names_the_training_that_was_confirmed(self, new, sleep):
        new.accept_terms("new", "1")
        training = new.declare_training("new", "Health data", START.date())
        new.approve_membership("lead", "sleep", "new")
        assert list(sleep.audit.read())[-1].event.detail["training"] == training.id

    def test_a_declared_training_is_left_alone_where_one_is_in_force(self, sleep):
        governance = sleep.governance
        governance.declare_training("outsider", "Another", START.date())
        governance.request_membership("outsider", "sleep", "outsider")
        governance.approve_membership("lead", "sleep", "outsider")
        assert governance.trainings_of("outsider", "outsider")[0].confirmed_by is None

    def test_a_refused_approval_confirms_nothing(self, new):
        new.accept_terms("new", "1")
        new.declare_training("new", "Health data", START.date())
        with pytest.raises(InputError, match="ends by"):
            new.approve_membership("lead", "sleep", "new", START + 400 * DAY)
        assert new.trainings_of("new", "new")[0].confirmed_by is None

    def test_one_that_ran_out_is_no_training(self, sleep):
        sleep.governance.suspend_membership("lead", "sleep", "researcher")
        sleep.clock.pass_(365)
        with pytest.raises(RefusedError):
            sleep.governance.approve_membership("lead", "sleep", "researcher")

    def test_after_a_suspension_the_same_is_looked_at_again(self, sleep):
        sleep.governance.suspend_membership("lead", "sleep", "researcher")
        later = Governance(sleep.store, sleep.audit, sleep.clock, Shelf(), Policy(terms={"version": "2"}))
        with pytest.raises(RefusedError, match="terms-not-accepted"):
            later.approve_membership("lead", "sleep", "researcher")


class TestExternalPartners:
    def test_two_are_needed_lead_and_custodian(self, partner):
        with pytest.raises(RefusedError, match="external-not-agreed"):
            partner.governance.may_open("outsider", "sleep")
        partner.governance.consent_external("custodian", "sleep", "outsider")
        assert member(partner.governance, "outsider").consented_by == "custodian"
        assert partner.governance.may_open("outsider", "sleep")

    def test_consent_may_come_first_and_opens_nothing_alone(self, sleep):
        governance = sleep.governance
        governance.describe_person("admin", "outsider", True, "Another Hospital")
        governance.request_membership("outsider", "sleep", "outsider")
        governance.consent_external("custodian", "sleep", "outsider")
        with pytest.raises(RefusedError, match="membership-requested"):
            governance.may_open("outsider", "sleep")

    @pytest.mark.parametrize("by", ["lead", "outsider", "researcher", "admin", "auditor", OPERATOR])
    def test_who_does_not_agree(self, partner, by):
        with pytest.raises(RefusedError, match=r"member\.consent"):
            partner.governance.consent_external(by, "sleep", "outsider")

    def test_a_custodian_in_the_project_does_not_agree(self, partner):
        partner.governance.request_membership("custodian2", "sleep", "custodian2")
        with pytest.raises(RefusedError, match=r"member\.consent/not-involved"):
            partner.governance.consent_external("custodian2", "sleep", "outsider")

    def test_only_for_external_ones_and_once(self, partner):
        with pytest.raises(ConflictError, match="not an external partner"):
            partner.governance.consent_external("custodian", "sleep", "researcher")
        partner.governance.consent_external("custodian", "sleep", "outsider")
        with pytest.raises(ConflictError, match="has agreed"):
            partner.governance.consent_external("custodian2", "sleep", "outsider")

    @pytest.mark.parametrize("how", ["end", "leave"])
    def test_it_does_not_outlive_the_membership(self, partner, how):
        governance = partner.governance
        governance.consent_external("custodian", "sleep", "outsider")
        if how == "end":
            governance.end_membership("lead", "sleep", "outsider")
        else:
            governance.leave_project("outsider", "sleep")
        with pytest.raises(ConflictError, match="has ended"):
            governance.consent_external("custodian", "sleep", "outsider")
        governance.request_membership("outsider", "sleep", "outsider")
        governance.approve_membership("lead", "sleep", "outsider")
        with pytest.raises(RefusedError, match="external-not-agreed"):
            governance.may_open("outsider", "sleep")

    def test_it_was_given_to_a_partner_of_that_organisation(self, partner):
        governance = partner.governance
        governance.consent_external("custodian", "sleep", "outsider")
        governance.describe_person("admin", "outsider", True, "Another Hospital")
        assert governance.may_open("outsider", "sleep"), "nothing changed"
        governance.describe_person("admin", "outsider", True, "A Company")
        with pytest.raises(RefusedError, match="external-not-agreed"):
            governance.may_open("outsider", "sleep")

    def test_negative_control_where_consents_are_kept_one_is_carried_to_another_organisation(
        self, partner, monkeypatch
    ):
        monkeypatch.setattr(people, "forget_consents", lambda session, person: None)
        with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
            self.test_it_was_given_to_a_partner_of_that_organisation(partner)

    def test_who_becomes_external_is_stopped_until_a_custodian_agrees(self, sleep):
        sleep.governance.describe_person("custodian", "researcher", True, "Another Hospital")
        with pytest.raises(RefusedError, match="external-not-agreed"):
            sleep.governance.may_open("researcher", "sleep")


class TestReview:
    def test_a_member_not_confirmed_lapses_and_nothing_is_lost(self, sleep):
        governance = sleep.governance
        governance.approve_membership("lead", "sleep", "researcher", START + 300 * DAY)
        governance.draft_permit("lead", "sleep", draft("age", days=365))
        governance.approve_permit("custodian", "sleep", 2)
        assert governance.may_open("researcher", "sleep").ends_at == START + 180 * DAY
        sleep.clock.pass_(180)
        with pytest.raises(RefusedError, match="membership-not-reviewed"):
            governance.may_open("researcher", "sleep")
        with pytest.raises(RefusedError, match="membership-not-reviewed"):
            governance.may_open("lead", "sleep")
        governance.confirm_membership("lead", "sleep", "researcher")
        assert member(governance, "researcher").review_due == START + 300 * DAY, "at most to its end"
        assert governance.may_open("researcher", "sleep").ends_at == START + 300 * DAY

    def test_a_lead_is_confirmed_by_a_custodian(self, sleep):
        with pytest.raises(RefusedError, match=r"\.confirm/not-self"):
            sleep.governance.confirm_membership("lead", "sleep", "lead")
        sleep.clock.pass_(10)
        sleep.governance.confirm_membership("custodian", "sleep", "lead")
        assert member(sleep.governance, "lead").review_due == START + 190 * DAY

    @pytest.mark.parametrize("by", ["researcher", "outsider", "custodian", "admin", OPERATOR])
    def test_who_does_not_confirm_members(self, sleep, by):
        with pytest.raises(RefusedError, match=r"member\.confirm"):
            sleep.governance.confirm_membership(by, "sleep", "researcher")

    def test_only_what_is_active_and_not_over(self, sleep):
        governance = sleep.governance
        governance.request_membership("outsider", "sleep", "outsider")
        governance.invite_member("lead", "sleep", "auditor")
        governance.suspend_membership("lead", "sleep", "researcher")
        for person in ("outsider", "auditor", "researcher"):
            with pytest.raises(ConflictError, match="only an active membership"):
                governance.confirm_membership("lead", "sleep", person)
        governance.approve_membership("lead", "sleep", "researcher")
        sleep.clock.pass_(101)
        with pytest.raises(ConflictError, match="is over"):
            governance.confirm_membership("lead", "sleep", "researcher")

    def test_not_in_a_closed_project(self, sleep):
        sleep.governance.close_project("lead", "sleep")
        with pytest.raises(RefusedError, match="closed"):
            sleep.governance.confirm_membership("lead", "sleep", "researcher")


class TestLeaving:
    def test_the_last_lead_cannot_and_may_with_another(self, sleep):
        governance = sleep.governance
        with pytest.raises(RefusedError, match=r"member\.leave/not-last-lead"):
            governance.leave_project("lead", "sleep")
        with pytest.raises(RefusedError, match=r"member\.end/not-self"):
            governance.end_membership("lead", "sleep", "lead")
        governance.invite_member("lead", "sleep", "outsider", MemberRole.LEAD)
        governance.accept_invitation("outsider", "sleep")
        with pytest.raises(RefusedError, match="not-last-lead"):
            governance.leave_project("lead", "sleep")
        governance.approve_membership("custodian", "sleep", "outsider")
        governance.leave_project("lead", "sleep")
        with pytest.raises(RefusedError, match="not-last-lead"):
            governance.leave_project("outsider", "sleep")

    def test_two_leads_who_leave_at_once_leave_one(self, sleep):
        from tests.unit.governance.test_audited import at_once

        governance = sleep.governance
        governance.request_membership("outsider", "sleep", "outsider", MemberRole.LEAD)
        governance.approve_membership("custodian", "sleep", "outsider")
        at_once(
            lambda: governance.leave_project("lead", "sleep"), lambda: governance.leave_project("outsider", "sleep")
        )
        states = [member(governance, person).state for person in ("lead", "outsider")]
        assert states.count(MembershipState.ACTIVE) >= 1

    @pytest.mark.parametrize("by", ["lead", "custodian"])
    def test_removal_is_at_once(self, sleep, by):
        sleep.governance.end_membership(by, "sleep", "researcher")
        with pytest.raises(RefusedError, match="membership-ended"):
            sleep.governance.may_open("researcher", "sleep")

    @pytest.mark.parametrize("by", ["outsider", "admin", "auditor", OPERATOR])
    def test_who_does_not_remove(self, sleep, by):
        with pytest.raises(RefusedError, match=r"member\.end"):
            sleep.governance.end_membership(by, "sleep", "researcher")

    def test_what_ended_counts_for_nothing_in_what_follows(self, sleep):
        sleep.governance.leave_project("researcher", "sleep")
        sleep.governance.invite_member("lead", "sleep", "researcher")
        with sleep.store.read() as session:
            row = session.query(MembershipRow).filter_by(person_id="researcher").one()
            assert (row.approved_by, row.consented_by, row.confirmed_by, row.review_due) == (None,) * 4


class TestWhatIsTold:
    def told(self, sleep, by: str) -> dict[str, MemberRecord]:
        with sleep.store.read() as session:
            project = desk.project_named(session, "sleep")
            return {one.person: one for one in sleep.governance._members_for(session, project, by)}

    @pytest.fixture
    def full(self, sleep):
        governance = sleep.governance
        governance.add_person(OPERATOR, "new", "New")
        governance.request_membership("new", "sleep", "new")
        governance.accept_terms("new", "1")
        governance.declare_training("new", "Health data", START.date(), "certificate")
        governance.describe_person("admin", "outsider", True, "Another Hospital")
        governance.invite_member("lead", "sleep", "outsider")
        governance.request_membership("auditor", "sleep", "auditor")
        governance.end_membership("lead", "sleep", "auditor")
        return sleep

    def test_the_lead_sees_what_to_decide_on(self, full):
        told = self.told(full, "lead")
        assert told["new"].training_declared.evidence == "certificate"
        assert told["new"].terms_accepted
        assert told["researcher"].training_until == START + 365 * DAY
        assert {person: one.may for person, one in told.items()} == {
            "auditor": (),
            "lead": (),
            "new": ("member.approve", "training.confirm", "member.end"),
            "outsider": ("member.end",),
            "researcher": ("member.approve", "member.confirm", "member.suspend", "member.end"),
        }

    def test_others_may_what_the_rules_say(self, full):
        custodian = self.told(full, "custodian")
        assert custodian["lead"].may == ("member.approve", "member.confirm", "member.suspend", "member.end")
        assert custodian["outsider"].may == ("member.consent", "member.end")
        assert self.told(full, "outsider")["outsider"].may == ("member.accept", "member.leave")
        assert self.told(full, "researcher")["researcher"].may == ("member.leave",)
        assert {one.may for one in self.told(full, "auditor").values()} == {()}

    def test_what_may_be_done_can_be_done(self, full):
        """Each offer, taken, is not refused by a rule or state."""
        acts = {
            "member.accept": lambda g, by, person: g.accept_invitation(by, "sleep"),
            "member.approve": lambda g, by, person: g.approve_membership(by, "sleep", person, START + 90 * DAY),
            "member.consent": lambda g, by, person: g.consent_external(by, "sleep", person),
            "member.confirm": lambda g, by, person: g.confirm_membership(by, "sleep", person),
            "member.suspend": lambda g, by, person: g.suspend_membership(by, "sleep", person),
            "member.leave": lambda g, by, person: g.leave_project(by, "sleep"),
            "training.confirm": lambda g, by, person: g.confirm_training(
                by, person, g.trainings_of(OPERATOR, person)[0].id
            ),
            "member.end": lambda g, by, person: g.end_membership(by, "sleep", person),
        }
        taken = set()
        for by in ("outsider", "custodian", "lead", "researcher"):
            for name, act in acts.items():
                offered = [person for person, one in self.told(full, by).items() if name in one.may]
                # Endings last, and by one person only: nobody would be left to try the others on.
                if offered and (name not in ("member.leave", "member.end") or by == "researcher"):
                    act(full.governance, by, offered[0])
                    taken.add(name)
        assert taken == set(acts) - {"member.end"}

    def test_members_do_not_see_each_others_terms_and_training_nor_who_left(self, full):
        told = self.told(full, "researcher")
        assert set(told) == {"lead", "new", "outsider", "researcher"}
        assert (told["new"].training_declared, told["new"].training_until, told["new"].terms_accepted) == (
            None,
            None,
            False,
        )
        assert told["researcher"].training_until is not None, "one's own"

    def test_as_many_queries_for_many_members_as_for_few(self, full):
        def count() -> int:
            asked = []

            def tell(*_):
                asked.append(1)

            event.listen(full.store._engine, "before_cursor_execute", tell)
            try:
                self.told(full, "lead")
            finally:
                event.remove(full.store._engine, "before_cursor_execute", tell)
            return len(asked)

        few = count()
        for number in range(8):
            full.governance.add_person(OPERATOR, f"p{number}", "P")
            ready(full.governance, f"p{number}")
            full.governance.request_membership("lead", "sleep", f"p{number}")
        assert count() == few

    def test_a_suspended_or_closed_project_offers_what_it_can(self, full):
        full.governance.close_project("lead", "sleep")
        assert self.told(full, "lead")["researcher"].may == ("member.suspend", "member.end")


def test_a_draft_has_members_to_come_and_no_approval(sleep):
    create(sleep.governance, "draft")
    sleep.governance.invite_member("custodian", "draft", "researcher")
    sleep.governance.accept_invitation("researcher", "draft")
    with pytest.raises(RefusedError):
        sleep.governance.approve_membership("lead", "draft", "researcher")
    assert REQUESTED in {one.state for one in sleep.governance.members("draft")}

"""What waits for a person, computed from how things stand."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import event, select

from orchestrator.errors import NotFoundError
from orchestrator.governance.states import MemberRole, MembershipState
from orchestrator.governance.store import AcceptanceRow, EndorsementRow, MembershipRow, PersonRow, TrainingRow
from tests.unit.governance.places import DAY, START, create, draft, peopled


def kinds(governance, person: str) -> list[str]:
    return [one.kind for one in governance.inbox(person)]


def change(here, row_of, **values) -> None:
    with here.store.write() as session:
        row = session.scalars(row_of).one()
        for name, value in values.items():
            setattr(row, name, value)
        session.commit()


def member(person: str):
    return select(MembershipRow).where(MembershipRow.person_id == person)


def test_nothing_waits_when_all_is_in_order(sleep):
    for person in ("lead", "researcher", "custodian", "custodian2", "admin", "auditor", "outsider"):
        assert kinds(sleep.governance, person) == []


def test_a_request_waits_for_the_lead_and_for_nobody_else(sleep):
    sleep.governance.request_membership("outsider", "sleep", "outsider")
    (waiting,) = sleep.governance.inbox("lead")
    assert (waiting.kind, waiting.project, waiting.person) == ("member-approve", "sleep", "outsider")
    for person in ("researcher", "custodian", "outsider", "admin"):
        assert kinds(sleep.governance, person) == []


def test_a_lead_to_be_waits_for_the_custodians(sleep):
    sleep.governance.request_membership("outsider", "sleep", "outsider", MemberRole.LEAD)
    assert kinds(sleep.governance, "custodian2") == ["lead-appoint"]
    assert kinds(sleep.governance, "lead") == []


def test_a_custodian_who_is_in_the_project_is_not_asked_about_it(sleep):
    sleep.governance.draft_permit("lead", "sleep", draft("age"))
    assert kinds(sleep.governance, "custodian2") == ["permit-approve"]
    sleep.governance.request_membership("custodian2", "sleep", "custodian2")
    assert "permit-approve" not in kinds(sleep.governance, "custodian2")
    assert kinds(sleep.governance, "custodian") == ["permit-approve"]


def test_a_custodian_whom_others_proposed_is_still_asked(sleep):
    # Else a lead could propose custodians out of their office.
    sleep.governance.draft_permit("lead", "sleep", draft("age"))
    sleep.governance.request_membership("lead", "sleep", "custodian2")
    assert "permit-approve" in kinds(sleep.governance, "custodian2")


def test_a_draft_does_not_wait_for_who_drafted_it(sleep):
    sleep.governance.draft_permit("custodian", "sleep", draft("age"))
    assert kinds(sleep.governance, "custodian") == []
    assert kinds(sleep.governance, "custodian2") == ["permit-approve"]


def test_a_proposed_project_waits_for_a_custodian(here):
    peopled(here.governance)
    create(here.governance, by="admin")
    assert kinds(here.governance, "custodian") == ["project-activate"]


def test_an_invitation_and_what_it_needs_wait_for_the_person(sleep):
    sleep.governance.request_membership("outsider", "sleep", "outsider")
    change(sleep, member("outsider"), state=MembershipState.INVITED)
    with sleep.store.write() as session:
        for row in session.scalars(select(AcceptanceRow).where(AcceptanceRow.person_id == "outsider")):
            session.delete(row)
        for training in session.scalars(select(TrainingRow).where(TrainingRow.person_id == "outsider")):
            session.delete(training)
        session.commit()
    assert set(kinds(sleep.governance, "outsider")) == {"invitation", "terms", "training"}
    assert kinds(sleep.governance, "lead") == [], "an invitation that was not accepted waits for nobody else"


def test_a_training_waits_when_it_soon_runs_out(sleep):
    sleep.clock.pass_(340)
    change(sleep, member("researcher"), ends=START + 365 * DAY, review_due=None)
    assert kinds(sleep.governance, "researcher") == ["training"]


def test_a_declared_training_of_a_member_waits_for_the_lead(sleep):
    training = sleep.governance.declare_training("researcher", "Again", sleep.clock().date(), "")
    (waiting,) = sleep.governance.inbox("lead")
    assert (waiting.kind, waiting.person, waiting.number) == ("training-confirm", "researcher", training.id)


def test_a_review_waits_for_the_lead_and_the_leads_own_for_a_custodian(sleep):
    for person in ("researcher", "lead"):
        change(sleep, member(person), review_due=START + 20 * DAY, ends=START + 100 * DAY)
    assert [(one.kind, one.person) for one in sleep.governance.inbox("lead")] == [("member-review", "researcher")]
    assert [(one.kind, one.person) for one in sleep.governance.inbox("custodian")] == [("lead-review", "lead")]


def test_an_external_partner_waits_for_a_custodian(sleep):
    change(sleep, select(PersonRow).where(PersonRow.id == "researcher"), external=True)
    assert kinds(sleep.governance, "custodian2") == ["member-consent"]


def test_a_decision_begun_by_one_waits_for_another_who_may_take_it(sleep):
    with sleep.store.write() as session:
        project = session.scalars(member("lead")).one().project_id
        row = EndorsementRow(subject="0" * 64, action="permit.approve", project_id=project, by="custodian", at=START)
        session.add(row)
        session.commit()
    assert kinds(sleep.governance, "custodian2") == ["second-person"]
    for person in ("custodian", "lead", "researcher", "admin"):
        assert kinds(sleep.governance, person) == []


def test_what_is_due_first_is_told_first(sleep):
    for person, days in (("researcher", 25), ("outsider", 10)):
        if person == "outsider":
            sleep.governance.request_membership(person, "sleep", person)
            sleep.governance.approve_membership("lead", "sleep", person)
        change(sleep, member(person), review_due=START + days * DAY, ends=START + 100 * DAY)
    assert [one.person for one in sleep.governance.inbox("lead")] == ["outsider", "researcher"]


def test_a_disabled_person_has_nothing_and_an_unknown_one_is_not_there(sleep):
    sleep.governance.request_membership("outsider", "sleep", "outsider")
    sleep.governance.disable_person("admin", "lead")
    assert kinds(sleep.governance, "lead") == []
    with pytest.raises(NotFoundError):
        sleep.governance.inbox("nobody")


def test_the_queries_do_not_grow_with_what_waits(sleep):
    def count() -> int:
        seen: list[str] = []
        listen = lambda *args: seen.append(args[2])  # noqa: E731
        event.listen(sleep.store._engine, "before_cursor_execute", listen)
        try:
            sleep.governance.inbox("custodian2")
            sleep.governance.inbox("lead")
        finally:
            event.remove(sleep.store._engine, "before_cursor_execute", listen)
        return len(seen)

    before = count()
    for number in range(5):
        name = f"person{number}"
        sleep.governance.add_person("operator", name, name)
        sleep.governance.request_membership(name, "sleep", name)
    assert len(sleep.governance.inbox("lead")) == 5
    assert count() == before


def test_negative_control_the_inbox_follows_the_decision(sleep):
    sleep.governance.request_membership("outsider", "sleep", "outsider")
    assert kinds(sleep.governance, "lead") == ["member-approve"]
    sleep.governance.approve_membership("lead", "sleep", "outsider", START + timedelta(days=50))
    assert kinds(sleep.governance, "lead") == []

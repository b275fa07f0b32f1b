"""Notices: news with the change itself, reminders once each, a digest a week."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from orchestrator.errors import AuditError, RefusedError
from orchestrator.governance.notices import MOST_ATTEMPTS
from orchestrator.governance.store import MembershipRow, NoticeRow
from tests.unit.governance.places import DAY, START, draft
from tests.unit.governance.test_applications import complete


@pytest.fixture
def telling(sleep):
    sleep.governance._tells = True
    return sleep


def told(here) -> list[tuple[str, str]]:
    return [(one.person, one.kind) for one in here.governance.unsent()]


def test_a_decision_is_told_to_whom_it_is_about(telling):
    telling.governance.request_membership("outsider", "sleep", "outsider")
    assert told(telling) == [("lead", "member.request")]
    telling.governance.approve_membership("lead", "sleep", "outsider")
    assert told(telling)[1:] == [("outsider", "member.approve")]


def test_whom_an_application_invites_is_told(telling):
    """As by an invitation of its own; the lead of a decision, its applicant of each step."""
    complete(telling.governance, by="outsider", slug="other")
    telling.governance.approve_application("custodian", "other", 1)
    assert told(telling) == [
        ("outsider", "application.check"),
        ("lead", "application.approve"),
        ("outsider", "application.approve"),
        ("researcher", "member.invite"),
    ]


def test_who_decides_is_not_told_what_they_decided(telling):
    telling.governance.revoke_permit("lead", "sleep", 1)
    assert told(telling) == []


def test_what_was_refused_or_not_audited_is_not_told(telling, monkeypatch):
    telling.governance.request_membership("outsider", "sleep", "outsider")
    before = told(telling)
    with pytest.raises(RefusedError):
        telling.governance.approve_membership("outsider", "sleep", "outsider")

    def fail(event):
        raise AuditError("no")

    monkeypatch.setattr(telling.audit, "record", fail)
    with pytest.raises(AuditError):
        telling.governance.approve_membership("lead", "sleep", "outsider")
    assert told(telling) == before


def test_without_a_channel_nothing_is_kept(sleep):
    sleep.governance.request_membership("outsider", "sleep", "outsider")
    assert told(sleep) == []


def test_an_end_is_told_once_for_each_of_the_days_before(telling):
    telling.clock.pass_(65)  # the membership ends on day 100
    assert telling.governance.remind() == 0
    telling.clock.pass_(10)
    assert telling.governance.remind() == 1
    assert telling.governance.remind() == 0
    telling.clock.pass_(10)
    assert telling.governance.remind() == 0
    telling.clock.pass_(9)
    assert telling.governance.remind() == 1
    assert told(telling) == [("researcher", "ending.membership")] * 2


def test_a_moved_end_is_another_end(telling):
    telling.clock.pass_(75)
    telling.governance.remind()
    telling.governance.approve_membership("lead", "sleep", "researcher", START + 101 * DAY)
    assert telling.governance.remind() == 1


def test_a_review_a_training_and_a_permit_are_reminded_of(telling):
    with telling.store.write() as session:
        row = session.scalars(select(MembershipRow).where(MembershipRow.person_id == "researcher")).one()
        row.review_due = START + 20 * DAY
        session.commit()
    telling.governance.draft_permit("lead", "sleep", draft(days=28))
    telling.governance.approve_permit("custodian", "sleep", 2)
    telling.governance.remind()
    assert ("lead", "ending.review") in told(telling)
    assert ("lead", "ending.permit") in told(telling)
    telling.clock.pass_(340)
    telling.governance.remind()
    assert ("researcher", "ending.training") in told(telling)
    assert ("lead", "ending.project") in told(telling)


def test_a_lead_gets_one_digest_a_week_with_counts_and_no_names(telling):
    telling.governance.request_membership("outsider", "sleep", "outsider")
    weekday = telling.clock().weekday()
    assert telling.governance.remind((weekday + 1) % 7) == 0
    assert telling.governance.remind(weekday) == 1
    assert telling.governance.remind(weekday) == 0
    (digest,) = [one for one in telling.governance.unsent() if one.kind == "digest"]
    assert digest.person == "lead"
    assert digest.detail == {"projects": [{"project": "sleep", "title": "Sleep", "members": 2, "waiting": 1}]}
    telling.clock.pass_(7)
    assert telling.governance.remind(weekday) == 1


def test_a_notice_is_handed_out_until_it_was_sent_and_given_up_in_the_end(telling):
    telling.governance.request_membership("outsider", "sleep", "outsider")
    (notice,) = telling.governance.unsent()
    for _ in range(MOST_ATTEMPTS - 1):
        telling.governance.told(notice.id, sent=False)
    assert telling.governance.unsent() == [notice]
    telling.governance.told(notice.id, sent=True)
    assert telling.governance.unsent() == []
    telling.governance.told(notice.id, sent=False)
    assert telling.governance.unsent_count() == 0
    telling.governance.suspend_project("custodian", "sleep")
    (notice,) = telling.governance.unsent()
    for _ in range(MOST_ATTEMPTS):
        telling.governance.told(notice.id, sent=False)
    assert telling.governance.unsent() == []
    assert telling.governance.unsent_count() == 1


def test_who_was_shut_out_is_sent_no_mail(telling):
    telling.governance.suspend_membership("lead", "sleep", "researcher")
    assert telling.governance.unsent()[0].email == "researcher@example.org"
    telling.governance.disable_person("admin", "researcher")
    assert telling.governance.unsent()[0].email == ""


def test_a_notice_holds_kinds_names_and_moments_only(telling):
    telling.governance.request_membership("outsider", "sleep", "outsider")
    telling.clock.pass_(75)
    telling.governance.remind(telling.clock().weekday())
    with telling.store.read() as session:
        details = [row.detail for row in session.scalars(select(NoticeRow))]
    assert details
    assert {key for detail in details for key in detail} <= {"about", "ends", "projects"}

"""Terms of use and trainings: accepted and declared by oneself, confirmed by somebody else, in force for a time."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from orchestrator.config import Policy, TermsOfUse
from orchestrator.errors import ConflictError, InputError, NotFoundError, RefusedError, UnavailableError
from orchestrator.governance import accounts
from orchestrator.governance.identity import HUB, OPERATOR
from orchestrator.governance.service import Governance
from orchestrator.governance.store import TrainingRow
from orchestrator.governance.terms_of_use import LONGEST, terms_digest, terms_texts
from tests.unit.governance.places import DAY, START, Shelf, draft

TODAY = START.date()


@pytest.fixture
def new(sleep):
    """Somebody who accepted nothing and declared nothing, and asks to be in the project."""
    sleep.governance.add_person(OPERATOR, "new", "New")
    sleep.governance.request_membership("new", "sleep", "new")
    return sleep.governance


def with_policy(here, **settings) -> Governance:
    return Governance(here.store, here.audit, here.clock, Shelf(), Policy(**settings))


class TestTerms:
    def test_an_account_shows_the_terms_and_whether_they_are_accepted(self, new):
        before = new.account("new")
        assert (before.terms_version, before.terms_accepted_at, set(before.terms)) == ("1", None, {"en", "fr"})
        new.accept_terms("new", "1")
        assert new.account("new").terms_accepted_at == START

    def test_the_log_says_which_text_was_accepted(self, new, sleep):
        new.accept_terms("new", "1")
        event = list(sleep.audit.read())[-1].event
        assert event.detail == {"version": "1", "text": terms_digest(new.account("new").terms)}

    def test_accepting_twice_is_no_second_record(self, new, sleep):
        new.accept_terms("new", "1")
        before = sleep.events()
        new.accept_terms("new", "1")
        assert sleep.events() == before

    def test_only_the_version_in_force_is_accepted(self, new):
        with pytest.raises(ConflictError, match="version 1, not 2"):
            new.accept_terms("new", "2")

    @pytest.mark.parametrize("by", [OPERATOR, HUB, "nobody"])
    def test_parts_of_the_platform_accept_nothing(self, new, by):
        with pytest.raises(NotFoundError):
            new.accept_terms(by, "1")

    def test_a_disabled_person_accepts_nothing(self, new):
        new.disable_person("admin", "new")
        with pytest.raises(RefusedError, match="not-disabled"):
            new.accept_terms("new", "1")

    def test_a_new_version_stops_everybody_until_they_accept_it(self, sleep):
        assert sleep.governance.may_open("researcher", "sleep")
        later = with_policy(sleep, terms={"version": "2"})
        with pytest.raises(RefusedError, match="terms-not-accepted"):
            later.may_open("researcher", "sleep")
        later.accept_terms("researcher", "2")
        assert later.may_open("researcher", "sleep")

    def test_a_text_of_ones_own_stands_alone(self, tmp_path):
        path = tmp_path / "terms.md"
        path.write_text("Be careful.\n")
        assert terms_texts(TermsOfUse(files={"fr": path})) == {"fr": "Be careful."}

    @pytest.mark.parametrize("content", [None, b"", b"  \n", b"\xff\xfe", b"x" * (LONGEST + 1)])
    def test_what_cannot_be_read_cannot_be_accepted(self, new, sleep, tmp_path, content):
        path = tmp_path / "terms.md"
        if content is not None:
            path.write_bytes(content)
        unreadable = with_policy(sleep, terms={"files": {"en": path}})
        with pytest.raises(UnavailableError, match="terms of use"):
            unreadable.accept_terms("new", "1")
        with pytest.raises(UnavailableError):
            unreadable.account("new")

    def test_both_languages_have_the_same_sections(self):
        texts = terms_texts(TermsOfUse())
        counts = {
            language: [line.split()[1] for line in text.splitlines() if line.startswith("## ")]
            for language, text in texts.items()
        }
        assert counts["en"] == counts["fr"] == [f"{number}." for number in range(1, 8)]


class TestTrainings:
    def test_it_counts_once_confirmed_until_it_expires(self, new, sleep):
        new.accept_terms("new", "1")
        card = new.declare_training("new", " Health data ", TODAY - timedelta(days=100), "certificate 7")
        assert (card.course, card.completed, card.expires) == ("Health data", START - 100 * DAY, START + 265 * DAY)
        assert new.account("new").training_until is None
        new.approve_membership("lead", "sleep", "new")
        assert new.account("new").training_until == START + 265 * DAY
        new.draft_permit("lead", "sleep", draft("age", days=300))
        new.approve_permit("custodian", "sleep", 2)
        for _ in range(2):
            sleep.clock.pass_(130)
            new.confirm_membership("lead", "sleep", "new")
        assert new.may_open("new", "sleep").ends_at == START + 265 * DAY
        sleep.clock.pass_(5)
        with pytest.raises(RefusedError, match="training-expired"):
            new.may_open("new", "sleep")

    def test_nobody_confirms_their_own(self, new):
        for person in ("new", "custodian", "admin", "lead"):
            training = new.declare_training(person, "Health data", TODAY)
            with pytest.raises(RefusedError, match=r"training\.confirm/(not-self|who-may)"):
                new.confirm_training(person, person, training.id)

    @pytest.mark.parametrize("by", ["lead", "custodian", "admin", OPERATOR])
    def test_who_confirms(self, new, by):
        training = new.declare_training("new", "Health data", TODAY)
        new.confirm_training(by, "new", training.id)
        assert new.trainings_of("new", "new")[0].confirmed_by == by

    @pytest.mark.parametrize("by", ["researcher", "outsider", "auditor", HUB])
    def test_who_does_not(self, new, by):
        training = new.declare_training("new", "Health data", TODAY)
        with pytest.raises(RefusedError, match="who-may"):
            new.confirm_training(by, "new", training.id)

    def test_a_lead_does_not_confirm_for_whom_they_invited_or_proposed_only(self, sleep):
        governance = sleep.governance
        governance.add_person(OPERATOR, "new", "New")
        training = governance.declare_training("new", "Health data", TODAY)
        governance.invite_member("lead", "sleep", "new")
        with pytest.raises(RefusedError, match="who-may"):
            governance.confirm_training("lead", "new", training.id)
        governance.accept_invitation("new", "sleep")
        governance.confirm_training("lead", "new", training.id)

    def test_not_under_another_persons_name(self, new):
        training = new.declare_training("new", "Health data", TODAY)
        for person in ("researcher", "outsider"):
            with pytest.raises(NotFoundError, match=f"declared no training {training.id}"):
                new.confirm_training("custodian", person, training.id)
        with pytest.raises(NotFoundError):
            new.confirm_training("custodian", "new", 999)

    def test_negative_control_without_looking_whose_it_is_a_lead_confirms_their_own(self, new, monkeypatch):
        training = new.declare_training("lead", "Health data", TODAY)
        with pytest.raises(NotFoundError):
            new.confirm_training("lead", "new", training.id)
        monkeypatch.setattr(accounts, "declared", lambda session, person, number: session.get(TrainingRow, number))
        new.confirm_training("lead", "new", training.id)
        assert new.trainings_of("lead", "lead")[0].confirmed_by == "lead"

    def test_once_and_in_time(self, new, sleep):
        first = new.declare_training("new", "Health data", TODAY)
        second = new.declare_training("new", "Health data again", TODAY)
        new.confirm_training("lead", "new", first.id)
        with pytest.raises(ConflictError, match="confirmed already"):
            new.confirm_training("custodian", "new", first.id)
        sleep.clock.pass_(365)
        with pytest.raises(ConflictError, match="has expired"):
            new.confirm_training("custodian", "new", second.id)

    @pytest.mark.parametrize(
        ("course", "completed", "message"),
        [
            ("", TODAY, "1 to 200"),
            ("x" * 201, TODAY, "1 to 200"),
            ("a\x1b[31m", TODAY, "control characters"),
            ("A", TODAY + timedelta(days=1), "lies behind"),
            ("A", TODAY - timedelta(days=365), "has expired"),
            ("A", date(1, 1, 1), "has expired"),
            ("A", date(9999, 12, 31), "lies behind"),
        ],
    )
    def test_wrong_ones_leave_nothing(self, new, course, completed, message):
        with pytest.raises(InputError, match=message):
            new.declare_training("new", course, completed)
        assert new.trainings_of("new", "new") == []

    def test_nobody_fills_the_disk_with_trainings(self, new, monkeypatch):
        monkeypatch.setattr(accounts, "MOST_WAITING", 2)
        for number in range(2):
            new.declare_training("new", f"Course {number}", TODAY)
        with pytest.raises(ConflictError, match="wait to be confirmed"):
            new.declare_training("new", "One more", TODAY)

    def test_a_deployment_may_go_without(self, new, sleep):
        free = with_policy(sleep, training_required=False)
        free.accept_terms("new", "1")
        free.approve_membership("lead", "sleep", "new")
        assert free.may_open("new", "sleep")
        with pytest.raises(RefusedError, match="no-training"):
            new.may_open("new", "sleep")

    @pytest.mark.parametrize("by", ["new", "lead", "custodian", "admin", "auditor", OPERATOR])
    def test_who_reads_them(self, new, by):
        assert new.trainings_of(by, "new") == []

    @pytest.mark.parametrize("by", ["researcher", "outsider"])
    def test_who_does_not_read_them(self, new, by):
        for person in ("new", "nobody"):
            with pytest.raises(RefusedError, match=r"person\.read"):
                new.trainings_of(by, person)

"""A grant starts one session, once; audit that cannot be written holds things back."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from orchestrator.errors import AuditError, GrantError, UnavailableError
from orchestrator.governance.grants import issuer_of, sign_grant
from orchestrator.node import grants as room
from orchestrator.node.grants import GrantDesk
from orchestrator.node.journal import Journal
from orchestrator.terms import Event, Grant, Outcome, PermitTerms, SessionClaim, SessionVerdict

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ISSUER = issuer_of("trial")


class Bench:
    def __init__(self) -> None:
        self.now = NOW
        self.key = Ed25519PrivateKey.generate()
        self.desk = GrantDesk(self.key.public_key(), ISSUER, lambda: self.now)

    def token(self, session: str) -> str:
        permit = PermitTerms(version=1, tables=(), valid_from=NOW, valid_until=NOW + timedelta(days=1))
        grant = Grant(
            person="ann",
            display_name="Ann",
            project_id="1" * 32,
            project="heart",
            project_title="Hearts",
            session=session * 32,
            permit=permit,
            ends_at=NOW + timedelta(hours=1),
        )
        return sign_grant(grant, self.key, self.now, ISSUER)


def test_a_grant_starts_once() -> None:
    bench = Bench()
    token = bench.token("a")
    assert bench.desk.use_for_start(token).grant.session == "a" * 32
    for again in (token, bench.token("a")):
        with pytest.raises(GrantError, match="used before"):
            bench.desk.use_for_start(again)
    bench.desk.use_for_start(bench.token("b"))


def test_volumes_of_a_session_ride_on_its_grant() -> None:
    bench = Bench()
    token = bench.token("a")
    for _ in range(3):
        assert bench.desk.use_for_volume(token).grant.session == "a" * 32
    with pytest.raises(GrantError, match="used before"):
        bench.desk.use_for_start(token)


def test_a_used_grant_is_remembered_for_longer_than_it_is_valid() -> None:
    bench = Bench()
    token = bench.token("a")
    bench.desk.use_for_start(token)
    for minutes in (0.5, 2, 11, 60):
        bench.now = NOW + timedelta(minutes=minutes)
        with pytest.raises(GrantError):
            bench.desk.use_for_start(token)


class Moody:
    def __init__(self) -> None:
        self.mood: Exception | None = None
        self.written: list[Event] = []

    def record(self, event: Event) -> int:
        if self.mood is not None:
            raise self.mood
        self.written.append(event)
        return len(self.written)

    def check_sessions(self, claims: Iterable[SessionClaim]) -> list[SessionVerdict]:
        return []


@pytest.mark.parametrize("mood", [AuditError("full"), UnavailableError("gone")])
def test_what_cannot_be_written_before_is_not_done(mood: Exception) -> None:
    authority = Moody()
    authority.mood = mood
    with pytest.raises(type(mood)):
        Journal(authority).before("workspace.start")


def test_what_could_not_be_held_back_is_written_later_in_order() -> None:
    authority = Moody()
    journal = Journal(authority)
    authority.mood = UnavailableError("gone")
    journal.after("workspace.stop", Outcome.DONE, reason="one")
    journal.after("workspace.stop", Outcome.DONE, reason="two")
    assert not authority.written
    authority.mood = None
    journal.catch_up()
    assert [event.detail["reason"] for event in authority.written] == ["one", "two"]


def test_an_event_that_is_never_taken_does_not_stop_those_behind_it() -> None:
    authority = Moody()
    journal = Journal(authority)
    authority.mood = AuditError("not this one")
    journal.after("workspace.stop", Outcome.DONE)
    authority.mood = None
    journal.after("workspace.stop", Outcome.DONE, reason="next")
    assert [event.detail for event in authority.written] == [{"reason": "next"}]


def a_clock_set_back_replays_nothing(bench: Bench) -> None:
    token = bench.token("a")
    bench.now = NOW + timedelta(seconds=50)
    bench.desk.use_for_start(token)
    bench.now = NOW + timedelta(minutes=5)
    bench.desk.use_for_start(bench.token("b"))  # what is too old is forgotten now
    bench.now = NOW + timedelta(seconds=55)
    with pytest.raises(GrantError, match="used before"):
        bench.desk.use_for_start(token)


def test_a_clock_that_is_set_back_replays_nothing() -> None:
    a_clock_set_back_replays_nothing(Bench())


def test_negative_control_forgotten_when_it_expires_a_grant_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_KEEP", timedelta(0))
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        a_clock_set_back_replays_nothing(Bench())


def test_negative_control_without_a_memory_a_grant_starts_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget_all(desk: GrantDesk) -> None:
        desk._used.clear()
        desk._started.clear()

    monkeypatch.setattr(GrantDesk, "_forget", forget_all)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_a_grant_starts_once()

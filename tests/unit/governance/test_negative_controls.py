"""Each control of governance taken away, and the attack that it stops seen to succeed."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from orchestrator.cli import audit as audit_commands
from orchestrator.cli import context
from orchestrator.errors import GrantError, SettingsError
from orchestrator.governance import access, grants, sessions
from orchestrator.governance import keys as signing_keys
from orchestrator.governance.authority import MAX_BODY, BodyLimit
from orchestrator.governance.cards import WhyNot
from tests.unit.governance import test_access as accesses
from tests.unit.governance import test_audited as audited
from tests.unit.governance import test_command_line as commands
from tests.unit.governance import test_keys as keys
from tests.unit.governance.test_grants import ISSUER, KEY, NOW, TOKEN, a_grant, check

layout = keys.layout
NOT_RAISED = pytest.fail.Exception


# -- G4: sixty seconds --------------------------------------------------------------------------------------
def a_grant_kept_for_later_is_refused() -> None:
    with pytest.raises(GrantError, match="expired"):
        check(TOKEN, NOW + timedelta(hours=1))


def test_negative_control_without_its_times_a_grant_is_kept_for_later(monkeypatch):
    a_grant_kept_for_later_is_refused()
    monkeypatch.setattr(grants, "_check_times", lambda claims, now: datetime.fromtimestamp(claims["exp"], UTC))
    with pytest.raises(NOT_RAISED, match="DID NOT RAISE"):
        a_grant_kept_for_later_is_refused()


def test_negative_control_without_a_longest_life_a_grant_for_an_hour_is_signed_and_holds(monkeypatch):
    monkeypatch.setattr(grants, "MAX_LIFETIME", timedelta(days=1))
    assert check(grants.sign_grant(a_grant(), KEY, NOW, ISSUER, timedelta(hours=1)), NOW + timedelta(minutes=59))


# -- P6: one approved permit --------------------------------------------------------------------------------
def test_negative_control_without_its_index_the_database_takes_two_approved_versions(sleep):
    with sleep.store.write() as session:
        session.execute(text("DROP INDEX permit_one_approved"))
        session.commit()
    with pytest.raises(NOT_RAISED, match="DID NOT RAISE"):
        audited.test_the_database_itself_allows_one_approved_version(sleep)
    assert [one.state for one in sleep.governance.permits("sleep")].count("approved") == 2


# -- P7: which projects there are ---------------------------------------------------------------------------
def test_negative_control_with_words_of_its_own_an_absent_project_is_told_from_a_foreign_one(sleep, monkeypatch):
    monkeypatch.setattr(sessions, "UNKNOWN", WhyNot(code="not-there", message="there is no such project"))
    with pytest.raises(AssertionError):
        accesses.TestInTheStore().test_a_project_that_is_not_there_is_refused_in_the_same_words(sleep)


# -- R2: a new version --------------------------------------------------------------------------------------
def test_negative_control_without_comparing_versions_a_session_goes_on_under_the_old(sleep, monkeypatch):
    def judged_like_a_start(standing, permit_version, now, rules):
        return access.why_not(standing, now, rules)

    monkeypatch.setattr(sessions, "why_stop", judged_like_a_start)
    with pytest.raises(AssertionError):
        accesses.TestInTheStore().test_a_new_permit_version_stops_sessions_under_the_old(sleep)


# -- A9: the auditor's terminal -----------------------------------------------------------------------------
def test_negative_control_printed_as_it_is_a_name_rewrites_the_terminal(bulle, monkeypatch):
    monkeypatch.setattr(audit_commands, "_printable", lambda told: told)
    with pytest.raises(AssertionError):
        commands.test_the_auditors_terminal_is_not_written_by_others(bulle)


# -- A10: root follows no link ------------------------------------------------------------------------------
def test_negative_control_without_looking_root_writes_where_a_link_leads(bulle, folder, monkeypatch):
    monkeypatch.setattr(context, "_check_store", lambda settings: None)
    with pytest.raises(AssertionError):
        commands.test_root_is_not_led_elsewhere(bulle, folder)
    assert (folder / "victim").exists()


# -- A11: keys for their owner ------------------------------------------------------------------------------
def test_negative_control_without_looking_at_its_mode_an_open_signing_key_is_used(layout, monkeypatch):
    real = os.fstat

    class Closed:
        def __init__(self, found):
            self.found = found

        def __getattr__(self, name):
            value = getattr(self.found, name)
            return value & ~0o077 if name == "st_mode" else value

    monkeypatch.setattr(os, "fstat", lambda handle: Closed(real(handle)))
    with pytest.raises(NOT_RAISED, match="DID NOT RAISE"):
        keys.test_a_key_that_others_can_read_is_refused(layout)


def test_negative_control_a_key_written_with_a_wider_mode_is_seen(layout, monkeypatch):
    def wide(path, data, mode):
        path.write_bytes(data)
        path.chmod(0o644)

    monkeypatch.setattr(signing_keys, "_write", wide)
    with pytest.raises((AssertionError, SettingsError)):
        keys.test_made_once_with_narrow_modes(layout)


# -- X5: a request has an end -------------------------------------------------------------------------------
def an_endless_body_is_refused(limit: int) -> None:
    """The application behind the limit, sent twice as much as the limit of the authority is."""
    reached: list[str] = []
    answers: list[int] = []
    pieces = [b" " * 65536] * (2 * MAX_BODY // 65536)

    async def application(scope, receive, send):
        reached.append("application")

    async def receive():
        return {"type": "http.request", "body": pieces.pop(), "more_body": bool(pieces)}

    async def send(message):
        answers.extend([message["status"]] if "status" in message else [])

    asyncio.run(BodyLimit(application, limit)({"type": "http"}, receive, send))
    assert (reached, answers) == ([], [422])
    assert pieces, "it was not even read to its end"


def test_negative_control_without_its_bound_a_request_of_any_size_is_held_in_memory():
    an_endless_body_is_refused(MAX_BODY)
    with pytest.raises(AssertionError):
        an_endless_body_is_refused(1 << 40)

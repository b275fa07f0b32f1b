"""Controls of the log's files taken away, and the attack that they stop seen to succeed."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from orchestrator.audit import AuditLog
from orchestrator.audit import log as room
from orchestrator.errors import AuditError
from tests.unit.audit import test_details as details
from tests.unit.audit import test_recovery as recovery
from tests.unit.audit import test_tampering as tampering
from tests.unit.audit.logs import opened


@pytest.fixture
def log(tmp_path):
    return opened(tmp_path / "audit", 3)


# -- A5: a log that is gone ---------------------------------------------------------------------------------
def test_negative_control_a_log_that_begins_again_by_itself_hides_that_it_is_gone(log, monkeypatch):
    real = AuditLog._load_head

    def begin_again(self):
        try:
            return real(self)
        except AuditError:
            (self.folder / "log.jsonl").touch()
            return self._write_head(0, room.GENESIS, 0)

    monkeypatch.setattr(AuditLog, "_load_head", begin_again)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        tampering.TestOnDisk().test_missing_both_is_found_and_does_not_begin_again(log)
    assert log.verify().ok, "and nobody would see it"


# -- A10: a link in the log's place -------------------------------------------------------------------------
def test_negative_control_where_links_are_followed_root_writes_elsewhere(log, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "os", SimpleNamespace(**{**vars(os), "O_NOFOLLOW": 0}))
    before = (log.folder / "log.jsonl").stat().st_size
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        recovery.test_a_symbolic_link_is_not_followed(log, tmp_path)
    assert (tmp_path / "elsewhere").stat().st_size > before


# -- X5: a line has an end ----------------------------------------------------------------------------------
def test_negative_control_without_its_bound_an_event_fills_the_log(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "MAX_LINE", 1 << 20)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        details.test_an_event_as_long_as_a_line_is_refused(tmp_path)

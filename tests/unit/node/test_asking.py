"""The one question to the authority behind every watch."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace

import pytest

from orchestrator.errors import UnavailableError
from orchestrator.node import asking
from orchestrator.node.asking import PATIENCE, Asking, claim_of
from orchestrator.terms import SessionClaim, SessionVerdict
from tests.unit.workspaces.test_spec import a_grant

CLAIMS = [claim_of(a_grant(each * 32)) for each in "abcd"]


class Authority:
    """Says what it is set to say."""

    def __init__(self) -> None:
        self.verdicts: list[SessionVerdict] | None = None

    def check_sessions(self, claims: Iterable[SessionClaim]) -> list[SessionVerdict]:
        if self.verdicts is None:
            raise UnavailableError("away")
        return self.verdicts


def test_what_is_not_allowed_or_not_spoken_of_is_refused_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [100.0]
    monkeypatch.setattr(asking, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
    authority = Authority()
    question = Asking(authority)
    authority.verdicts = [
        SessionVerdict(session="a" * 32, allowed=True),
        SessionVerdict(session="b" * 32, allowed=False, reason="left"),
        SessionVerdict(session="c" * 32, allowed=False),
        SessionVerdict(session="e" * 32, allowed=True),
    ]
    assert question.refused(iter(CLAIMS)) == {"b" * 32: "left", "c" * 32: "refused", "d" * 32: "no verdict"}
    authority.verdicts = None
    seconds[0] += PATIENCE
    assert question.refused(CLAIMS) == {} and question.silence == PATIENCE
    seconds[0] += 1
    assert set(question.refused(iter(CLAIMS)).values()) == {"the authority cannot be asked"}
    assert len(question.refused(CLAIMS)) == 4 and question.age == PATIENCE + 1
    question.compared()
    assert question.age == 0 and question.silence == PATIENCE + 1

"""Nothing that the authority says in a code is left without words."""

from __future__ import annotations

import ast
import inspect
from datetime import UTC, datetime

import pytest

from orchestrator.config import Settings
from orchestrator.errors import RefusedError
from orchestrator.governance import completeness, inbox
from orchestrator.governance.access import ACCESS_RULES
from orchestrator.governance.cards import ApplicationContent
from orchestrator.governance.operations import Scope
from orchestrator.governance.rules import TABLE, Action, Fact, judge
from orchestrator.governance.states import (
    ApplicationKind,
    ApplicationState,
    MemberRole,
    MembershipState,
    PermitState,
    PlatformRole,
    ProjectState,
)
from orchestrator.governance.usage import QUOTA_USED
from orchestrator.pages.languages import language
from orchestrator.portal import words
from orchestrator.terms import Transform

EN, FR = language("en"), language("fr")


@pytest.mark.parametrize(
    ("said", "codes"),
    [
        (words.WHY_NOT, {rule.code for rule in ACCESS_RULES} | {QUOTA_USED, "permit-replaced"}),
        (words.LACKS, set(completeness.LACKS.values())),
        (words.ROLES, set(MemberRole)),
        (words.STATES, set(MembershipState) | set(ProjectState)),
        (words.PROJECT_STATES, set(ProjectState)),
        (words.APPLICATION_STATES, set(ApplicationState)),
        (words.APPLICATION_KINDS, set(ApplicationKind)),
        (words.PERMIT_STATES, set(PermitState)),
        (words.PLATFORM_ROLES, set(PlatformRole)),
        (words.SCOPES, set(Scope)),
        (words.TRANSFORMS, set(Transform) | {""}),
        (words.PARTS, set(ApplicationContent.model_fields)),
    ],
)
def test_every_code_has_words(said: object, codes: set[str]) -> None:
    assert set(map(str, codes)) == set(said)  # type: ignore[call-overload]


def test_every_kind_that_waits_has_words() -> None:
    """Kinds are strings in the source of the inbox: the ones that it can yield are read from there."""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(inbox))):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            if name in ("_about", "_requests", "_reviews") and isinstance(node.args[0], ast.Constant):
                found.add(node.args[0].value)
            if name == "Waiting":
                found |= {word.value.value for word in node.keywords if isinstance(word.value, ast.Constant)}
    assert len(found) > 10 and found <= set(words.WAITING)


def test_what_an_application_lacks_is_said_in_french() -> None:
    values = {"person": "bob", "table": "a/b", "column": "age", "ends": "2027-01-01", "fault": "no column 'x'"}
    for code, sentence in completeness.LACKS.items():
        told = words.missing(FR, sentence % values)
        assert told != sentence % values, code
        assert all(value in told for name, value in values.items() if f"%({name})s" in sentence)


def test_a_sentence_that_nobody_knows_stays() -> None:
    assert words.missing(FR, "something new") == "something new"


@pytest.mark.parametrize("action", TABLE)
def test_every_refusal_is_said_in_french(action: Action) -> None:
    """Of people: what parts of the platform may do concerns no page."""
    rule = TABLE[action]
    people = rule.may - {Fact.HUB, Fact.NODE, Fact.OPERATOR, Fact.AUTHORITY}
    for facts in [set(), *({fact, *people} for fact in rule.may_not)]:
        verdict = judge(action, facts)
        told = words.refusal(FR, RefusedError(f"refused by rule {verdict.rule}: {verdict.message}"))
        assert "refused by rule" not in told or not people, (verdict.rule, told)


def test_an_end_at_midnight_does_not_include_the_day_that_begins() -> None:
    assert words.last_day(datetime(2028, 1, 1, tzinfo=UTC)) == datetime(2027, 12, 31, tzinfo=UTC)
    assert words.last_day(datetime(2028, 1, 1, 12, tzinfo=UTC)).day == 1


def test_settings_offer_both_languages() -> None:
    assert set(Settings.model_fields["languages"].default) == {"en", "fr"}

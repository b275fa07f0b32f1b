"""Messages of the authority in French: none that a person can meet is left out, and values stay what they are."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import orchestrator
from orchestrator import errors
from orchestrator.errors import BulleError, ConflictError, InputError, NotFoundError, RefusedError
from orchestrator.governance.access import ACCESS_RULES
from orchestrator.governance.states import (
    TRANSITIONS,
    MembershipState,
    PlatformRole,
    check_transition,
)
from orchestrator.pages.languages import language
from orchestrator.portal import sentences, words

EN, FR = language("en"), language("fr")
ROOT = Path(orchestrator.__file__).parent
NAMES = {name for name in vars(errors) if name.endswith("Error")}

#: whole modules whose messages no page shows, and why
NOT_MET = {
    "authority": "the sockets' own: a portal that calls wrongly, not a person",
    "certificates": "read on the command line",
    "chain": "the node agent's check, and files of root",
    "database": "settings, when the authority starts",
    "grants": "between authority and node agent",
    "keys": "files of root",
    "mutual_tls": "between parts of the platform",
    "rows": "a backup that is restored",
    "secured": "between parts of the platform",
    "serving": "when the authority starts",
}
#: functions, where only some of a module are not met
NOT_MET_IN = {
    ("client", "over_tls"): "settings",
    ("closing", "_check_names"): "the node agent's",
    ("closing", "_closed"): "the node agent's",
    ("closing", "_project"): "the node agent's",
    ("closing", "deleted"): "the node agent's",
    ("closing", "lapse_project"): "the authority's own act",
    ("decisions", "public_key_of"): "the command line's",
    ("desk", "__init__"): "settings",
    ("moving", "_check"): "the command line's",
    ("moving", "_check_people"): "the command line's",
    ("moving", "_insert"): "the command line's",
    ("moving", "approved"): "the command line's",
    ("moving", "take_in"): "the command line's",
    ("people", "login"): "the hub's",
    ("signatures", "check"): "settings",
    ("signatures", "two_people"): "settings",
    ("tokens", "bearer"): "of the REST API, which is English",
}
#: made of what another place says: looked at there
MADE_ELSEWHERE = {
    ("completeness", "permitted"): "of orchestrator.terms, read below",
    ("decisions", "add_passkey"): "passkey.add/verify has words of its own",
    ("signatures", "verify"): "signature/verify has words of its own",
    ("rules", "raise_if_refused"): "test_words.py::test_every_refusal_is_said_in_french",
    ("sessions", "_refused"): "rules of access: test_every_rule_of_access_is_said_in_french",
    ("tokens", "acting"): "test_who_may_not_act_is_told_why",
    ("catalogue", "check"): "of the same module, read here",
    ("calls", "arguments_of"): "pydantic's own words, which stay in brackets",
}
#: where else what a person reads is made
ALSO = ("terms.py", "data/catalogue.py", "portal/hub.py", "portal/acting.py")
#: of those, what is told with its own words
NOT_MET_ALSO = {
    ("acting", "gathered"): "when the portal starts",
    ("acting", "act"): "a page of its own says that there is no such page",
    ("hub", "progress"): "looked at by the portal itself",
    ("hub", "_word"): "a page of its own says that there is no such page",
    ("catalogue", "column"): "the same is said by the check of a permit",
}


def templates(node: ast.expr, within: dict[str, list[ast.expr]]) -> list[str] | None:
    """What a message can be, a NUL for each value; None where it is not written where it is raised."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        found = [""]
        written = "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
        # After a rule's name, what is told is put together before; elsewhere it is a value like any other.
        whole = sentences._BY_RULE.fullmatch(written) is not None
        for part in node.values:
            if isinstance(part, ast.Constant):
                found = [one + str(part.value) for one in found]
            elif isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Name) and part.value.id == "where":
                found = [f"{one}table '\0'" for one in found]  # data/catalogue.py: the table that it is about
            else:
                known = templates(part.value, within) if whole and isinstance(part, ast.FormattedValue) else None
                found = [one + more for one in found for more in (known or ["\0"])]
        return found
    if isinstance(node, ast.Name) and node.id in within:
        told = [templates(one, {}) for one in within[node.id]]
        return None if None in told else [one for some in told for one in some or ()]
    if isinstance(node, ast.IfExp):
        both = [templates(node.body, within), templates(node.orelse, within)]
        return None if None in both else [one for some in both for one in some or ()]
    return None


class Raised:
    """One place where an error is raised."""

    def __init__(
        self, module: str, function: str, kind: str, call: ast.Call, within: dict[str, list[ast.expr]]
    ) -> None:
        self.place = (module, function)
        self.kind = kind
        self.messages = templates(call.args[0], within)
        hints = [word.value for word in call.keywords if word.arg == "hint"]
        self.hints = [one for hint in hints for one in templates(hint, within) or ()]


def raised(path: Path, names: frozenset[str] = frozenset(NAMES)) -> Iterator[Raised]:
    for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        within: dict[str, list[ast.expr]] = defaultdict(list)
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                within[node.targets[0].id].append(node.value)
        texts = {
            name: values for name, values in within.items() if all(isinstance(one, ast.JoinedStr) for one in values)
        }
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names and node.args:
                yield Raised(path.stem, function.name, node.func.id, node, texts)


def met() -> list[Raised]:
    """All that a person can meet in the portal."""
    paths = [path for path in (ROOT / "governance").rglob("*.py") if "migrations" not in path.parts]
    found = [one for path in paths for one in raised(path) if one.place[0] not in NOT_MET]
    found = [one for one in found if one.place not in NOT_MET_IN]
    # A permit's own terms say it with pydantic's words for it.
    also = [one for name in ALSO for one in raised(ROOT / name, frozenset(NAMES | {"ValueError"}))]
    return found + [one for one in also if one.place not in NOT_MET_ALSO]


def bare(text: str) -> str:
    return sentences.without_rule(text)


def has_words(template: str) -> bool:
    """Whether a message of this shape is said in French, its values as they are."""
    count = template.count("\0")
    values = [f"v.v{number}x" for number in range(count)]
    # What begins a sentence is one of a few things (sentences._ONLY), which are translated themselves.
    for first in (*values[:1], "a title", "project 'v.v0x'") if count else ("",):
        used = [first, *values[1:]] if count else []
        text = template.replace("\0", "{}").format(*used) if "{" not in template else template
        ruled = re.match(r"refused by rule ([a-z.]+)/([a-z-]+): ", text)
        if ruled is not None and ruled[2] in words._FORBIDS:
            return True
        told = words.SENTENCES.message(FR, text)
        if told is None:
            continue
        taken = next(sentence for pattern, sentence in sentences._MESSAGES if pattern.fullmatch(bare(text)))
        assert re.sub(r"%\(\w+\)s", "\0", taken) == bare(template), "taken for another message"
        assert all(value in told for value in used if value != "a title" and value.startswith("v")), (text, told)
        return True
    return False


def is_written(template: str) -> bool:
    """Whether there is more in it than values."""
    return re.search(r"[a-z]", template.removeprefix("refused by rule ")) is not None


MET = met()


def test_every_message_that_a_person_can_meet_is_said_in_french() -> None:
    left: list[tuple[tuple[str, str], object]] = []
    for one in MET:
        if one.messages is None:
            left += [] if one.place in MADE_ELSEWHERE else [(one.place, "is not written where it is raised")]
            continue
        told = [text for text in one.messages if one.place not in MADE_ELSEWHERE or is_written(text)]
        left += [(one.place, text) for text in told if not has_words(text)]
    assert left == []
    assert len(MET) > 100


def test_every_hint_is_said_in_french_or_is_a_command_line() -> None:
    left = []
    for one in MET:
        for hint in one.hints:
            text = hint.replace("\0", "'active' or 'closed'")
            if sentences._COMMAND.match(text) or text == "2027-12-31T00:00:00Z":
                continue
            left += [(one.place, hint)] if words.SENTENCES.hint(FR, text) is None else []
    assert left == []


def test_nothing_is_said_that_nobody_says() -> None:
    """So that no sentence stays when the authority's own has changed."""
    said = {re.sub("\0", "‹›", bare(text)) for one in MET for text in one.messages or ()}
    kept = {re.sub(r"%\(\w+\)s", "‹›", sentence) for sentence in sentences.MESSAGES}
    assert kept - said <= {
        "this person is disabled",
        "this is not a person known here",
        "the login service no longer knows this person",
    }
    hints = {re.sub("\0", "‹›", hint) for one in MET for hint in one.hints}
    assert {re.sub(r"%\(\w+\)s", "‹›", sentence) for sentence in sentences.HINTS} <= hints


def test_what_is_left_out_is_there() -> None:
    """An exception for what does not exist hides the next one."""
    modules = {path.stem for path in (ROOT / "governance").rglob("*.py")}
    assert set(NOT_MET) <= modules
    every = {one.place for path in (ROOT / "governance").rglob("*.py") for one in raised(path)}
    names = frozenset(NAMES | {"ValueError"})
    also = {one.place for name in ALSO for one in raised(ROOT / name, names)}
    assert set(NOT_MET_IN) <= every
    assert set(MADE_ELSEWHERE) <= every | also
    assert set(NOT_MET_ALSO) <= also


def test_what_a_text_or_a_moment_is_for_is_said_in_french() -> None:
    """The first argument of the checks that name it."""
    found = set()
    for path in (ROOT / "governance").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or not node.args:
                continue
            first = node.args[0]
            if node.func.id in ("checked_text", "checked_moment", "_text") and isinstance(first, ast.Constant):
                found.add(first.value)
    assert len(found) > 15
    assert found <= set(sentences.PHRASES)
    assert all(FR.text(phrase) != phrase for phrase in sentences.PHRASES)


@pytest.mark.parametrize("kind", errors._every(BulleError), ids=lambda kind: kind.__name__)
def test_every_kind_of_error_is_said_in_french(kind: type[BulleError]) -> None:
    """Also with a message that nobody knows: the kind in French, the message as it is."""
    told = words.refusal(FR, kind("something quite new", hint="and this"))
    assert "something quite new" in told
    assert told != words.refusal(EN, kind("something quite new", hint="and this"))


@pytest.mark.parametrize("rule", ACCESS_RULES, ids=lambda rule: rule.code)
def test_every_rule_of_access_is_said_in_french(rule: object) -> None:
    text = f"refused by rule {rule.code}: {rule.message}"  # type: ignore[attr-defined]
    french = FR.text(words.WHY_NOT[rule.code])  # type: ignore[attr-defined]
    assert words.refusal(FR, RefusedError(text)) == words.exactly(FR, text) == french


def test_who_may_not_act_is_told_why() -> None:
    for code, message in (
        ("a-person", "this is not a person known here"),
        ("person-disabled", "this person is disabled"),
    ):
        told = words.refusal(FR, RefusedError(f"refused by rule {code}: {message}"))
        assert "rule" not in told and message not in told


@pytest.mark.parametrize("kind", TRANSITIONS, ids=lambda kind: kind.__name__)
def test_what_may_not_become_what_is_said_with_its_states(kind: type) -> None:
    name = {"ProjectState": "project 'sleep'", "ApplicationState": "application 3 of 'sleep'"}
    what = name.get(kind.__name__, "membership of 'ada'" if kind is MembershipState else "permit version 2")
    for state, possible in TRANSITIONS[kind].items():
        for wanted in set(kind) - set(possible):  # type: ignore[call-overload]
            with pytest.raises(RefusedError) as refused:
                check_transition(what, state, wanted)
            told = words.refusal(FR, refused.value)
            assert "cannot become" not in told and "it can become" not in told
            assert all(value in told for value in re.findall(r"'(\w+)'|\b(\d)\b", what)[0] if value)


def test_values_stay() -> None:
    error = NotFoundError("there is no project 'dr-who'")
    assert words.refusal(FR, error) == "il n’y a pas de projet « dr-who »"
    assert words.refusal(EN, error) == "there is no project 'dr-who'"
    told = words.refusal(FR, InputError("a title must have 1 to 200 characters; got 412"))
    assert told == "un titre doit avoir de 1 à 200 caractères ; il y en a 412"
    told = words.refusal(
        FR, InputError("application 3 of 'a' is not complete: a title is missing; no table is asked for")
    )
    assert "il manque" in told and "missing" not in told and "asked" not in told
    told = words.refusal(FR, ConflictError("you have 20 tokens in force already", hint="revoke one"))
    assert "20 jetons" in told


def test_the_command_of_a_hint_concerns_no_page() -> None:
    error = RefusedError("project 'sleep' is a draft", hint="bulle project activate sleep")
    assert "bulle" not in words.refusal(FR, error) + words.refusal(EN, error)


def test_a_role_that_excludes_another_is_named_in_french() -> None:
    text = f"refused by rule separate-roles: 'ada' is {PlatformRole.CUSTODIAN}, which excludes {PlatformRole.AUDITOR}"
    told = words.refusal(FR, RefusedError(text))
    assert FR.text(words.PLATFORM_ROLES["custodian"]) in told and "excludes" not in told


INJECTED = (
    "x' is 'draft' and cannot become 'active",
    "%(project)s",
    "%s%s%n",
    "<script>alert(1)</script>",
    "a title is missing; x",
    "refused by rule no-permit: x",
    "{project}",
)


@pytest.mark.parametrize("value", INJECTED)
def test_a_value_that_looks_like_a_sentence_stays_a_value(value: str) -> None:
    for text in (f"there is no project '{value}'", f"'{value}' is not a month"):
        told = words.SENTENCES.message(FR, text)
        assert told is not None and value in told


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_value_makes_it_fail(first: str, second: str) -> None:
    for sentence in ("project '%s' has no application %s", "'%s' is in '%s' already: lead, active"):
        told = words.SENTENCES.message(FR, sentence % (first, second))
        assert told is not None
    words.refusal(FR, RefusedError(first))
    words.exactly(FR, first + second)


def test_a_page_shows_it_as_text() -> None:
    """What is said goes into a page as any other text: Jinja's escaping stands behind it."""
    source = ROOT / "portal" / "templates"
    shown = (
        (source / "portal.html").read_text() + (source / "fault.html").read_text() + (source / "parts.html").read_text()
    )
    assert not re.search(r"(message|detail|fault)\s*\|\s*safe", shown)


def test_negative_control_a_message_without_words_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    without = tuple(one for one in sentences._MESSAGES if not one[1].startswith("there is no person"))
    monkeypatch.setattr(sentences, "_MESSAGES", without)
    with pytest.raises(AssertionError, match="there is no"):
        test_every_message_that_a_person_can_meet_is_said_in_french()


def test_negative_control_a_sentence_that_nobody_says_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentences, "MESSAGES", (*sentences.MESSAGES, "there is no bread"))
    with pytest.raises(AssertionError):
        test_nothing_is_said_that_nobody_says()

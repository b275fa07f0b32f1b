"""What the parts write to their logs: one form, and nobody's name, address, token or data."""

from __future__ import annotations

import ast
import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator import logs
from orchestrator.errors import NodeError, UnavailableError
from orchestrator.logs import SECRETS, JsonFormatter, TextFormatter, configure, formatter, scrubbed

ROOT = Path(__file__).parents[2]
LEVELS = ("debug", "info", "warning", "error", "exception", "critical")
#: in a call of a logger, these say more of a person or a study than an id does, or are a secret
TELLING = re.compile(
    r"display_name|e?mail\b|\bsubject\b|title\b|lay_summary|purpose|password|secret|token\b|claims|userinfo|cookie|body"
)
#: each kind of secret that a log could be handed, by the filter that takes it out
SECRET = {
    "e-mail": "ada.lovelace+x@hospital.example",
    "jws": "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl",
    "bearer": "Authorization: Bearer abcdefghijkl",
    "named": "GET /hub/oauth_callback?code=q1w2e3&state=r4t5",
    "address": "postgresql://bulle:hunter2@/bulle",
    "cookie": "Setting new xsrf cookie for b'107190ad:fa37de6b'",
    "random": "0123456789abcdef" * 4,
    "data": "/var/lib/bulle/x/mounts/views/doctor/visits.parquet",
}
#: what of each must not be left
LEFT = {
    "e-mail": "lovelace",
    "jws": "eyJ",
    "bearer": "abcdefghijkl",
    "named": "q1w2e3",
    "address": "hunter2",
    "cookie": "fa37de6b",
    "random": "0123456789abcdef0123",
    "data": "visits.parquet",
}


@dataclass(frozen=True)
class Call:
    """A place in the program that writes to a log."""

    place: str
    level: str
    format: str
    arguments: tuple[str, ...]

    @property
    def id(self) -> str:
        return f"{self.place}-{self.level}"


def _is_logger(node: ast.expr) -> bool:
    said = ast.unparse(node)
    return bool(
        re.fullmatch(r"_?log(ger)?|self\.log|self\._log|(app|gen|access)_log|logging(\.getLogger\(.*\))?", said)
    )


def calls_in(source: str, place: str) -> Iterator[Call]:
    """Every call of a logger in a module."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        # ``_say`` is a logger's method that was handed on
        if node.func.attr != "_say" and not (node.func.attr in (*LEVELS, "log") and _is_logger(node.func.value)):
            continue
        given = node.args[1:] if node.func.attr == "log" else node.args
        first = given[0]
        words = first.value if isinstance(first, ast.Constant) else ast.unparse(first)
        assert isinstance(words, str)
        yield Call(f"{place}:{node.lineno}", node.func.attr, words, tuple(ast.unparse(each) for each in given[1:]))


def every() -> list[Call]:
    found: list[Call] = []
    for path in sorted((ROOT / "orchestrator").rglob("*.py")):
        found += calls_in(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix())
    return found


CALLS = every()


def test_the_calls_are_found() -> None:
    assert len(CALLS) > 20
    assert len({call.place.split(":")[0] for call in CALLS}) > 10
    told = "_log.warning('a %s', x)\nself.log.error(f'{x}')\nlogging.getLogger('x').info('b')\nconsole.log('c')\n"
    assert [call.level for call in calls_in(told, "x.py")] == ["warning", "error", "info"]


def test_nobody_prints_or_logs_in_another_way() -> None:
    """``warnings``, ``syslog`` and loggers under other names would pass by these tests."""
    other = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "orchestrator").rglob("*.py")
        if not path.name.endswith("_pb2_grpc.py")  # made by protoc
        and re.search(r"^\s*(import|from) (syslog|warnings|structlog|loguru)\b", path.read_text(), re.MULTILINE)
    ]
    assert other == []
    named = re.compile(r"^(\w+)\s*=\s*logging\.getLogger", re.MULTILINE)
    names = {
        name
        for path in (ROOT / "orchestrator").rglob("*.py")
        for name in named.findall(path.read_text(encoding="utf-8"))
    }
    assert names <= {"_log"}


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.id)
def test_no_call_takes_a_name_an_address_or_a_secret(call: Call) -> None:
    assert [each for each in call.arguments if TELLING.search(each)] == []
    if call.format.startswith(("f'", 'f"')):
        assert not TELLING.search(call.format), call.format


@pytest.mark.parametrize(
    "line",
    [
        "_log.warning('%s', person.display_name)",
        "_log.info('login of %s', told.email)",
        "self.log.error('%s %s', user.name, grant.project_title)",
        "_log.error('%s', self._token)",
        "_log.info('%s', auth_state['userinfo'])",
    ],
)
def test_a_call_that_takes_one_is_seen(line: str) -> None:
    (call,) = calls_in(line, "x.py")
    assert any(TELLING.search(each) for each in call.arguments)


def said(form: logs.Form, message: str, *arguments: object, fault: BaseException | None = None) -> str:
    """A line as a part writes it."""
    exc_info = None if fault is None else (type(fault), fault, fault.__traceback__)
    record = logging.LogRecord("orchestrator.x", logging.WARNING, "x.py", 1, message, arguments, exc_info)
    return formatter(part="node", form=form).format(record)


def _arguments(call: Call, secret: str) -> tuple[object, ...]:
    """As many arguments as the call has, of the kinds that its format wants."""
    wanted = re.findall(r"%(?:\.\d+)?([sdfr])", call.format)
    return tuple(
        NodeError(secret) if kind == "s" and number % 2 else secret if kind in "sr" else 3
        for number, kind in enumerate(wanted)
    )


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.id)
def test_secrets_that_come_through_a_call_do_not_come_out(call: Call, form: logs.Form) -> None:
    for kind, secret in SECRET.items():
        if call.arguments and not re.search("%", call.format):
            continue
        told = said(
            form,
            call.format if call.arguments else f"{call.format} {secret}",
            *_arguments(call, secret) if call.arguments else (),
        )
        assert LEFT[kind] not in told, kind


@pytest.mark.parametrize("kind", SECRET)
def test_each_filter_is_needed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: each filter is taken away, and the secret that it is for comes out."""
    assert LEFT[kind] not in scrubbed(SECRET[kind])
    monkeypatch.setattr(logs, "SECRETS", tuple(each for each in SECRETS if each[0] != kind))
    assert LEFT[kind] in scrubbed(SECRET[kind])


def test_there_is_a_secret_for_each_filter() -> None:
    assert set(SECRET) == {name for name, _, _ in SECRETS} == set(LEFT)


@pytest.mark.parametrize(
    "text",
    [
        "session 0123456789abcdef0123456789abcdef did not end: the engine is gone",
        "sub~0123456789abcdef0123456789abcdef in doctor-visits: refused by rule no-training: no confirmed training",
        "the authority was not heard for 12 s: the authority does not answer on /var/lib/bulle/sockets/node/node.sock",
        "/var/lib/bulle/x/mounts/views/0123-1-abcd was not made read-only: Device or resource busy",
        "/usr/lib/python3.13/site-packages/orchestrator/node/watch.py:86 in _run",
        "state=running is what it was",
    ],
)
def test_what_is_no_secret_is_told(text: str) -> None:
    assert scrubbed(text) == text or text.startswith("state=")


# -- faults -----------------------------------------------------------------------------------------------
def _fault() -> BaseException:
    try:
        try:
            raise ValueError("invalid literal for int(): '1 51 02 75 120 005 02'")
        except ValueError as inner:
            raise UnavailableError("the answer cannot be understood") from inner
    except UnavailableError as error:
        return error


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_fault_is_told_by_its_places_and_not_by_the_words_of_other_programs(form: logs.Form) -> None:
    told = said(form, "a round stumbled", fault=_fault())
    assert "UnavailableError: the answer cannot be understood" in told
    assert "ValueError" in told and "test_logs.py" in told and "_fault" in told
    assert "75 120" not in told and "raise " not in told, "neither what it says, nor the line of the program"


def test_pythons_own_formatter_would_tell_them() -> None:
    """The negative control."""
    error = _fault()
    assert "75 120" in logging.Formatter().formatException((type(error), error, error.__traceback__))


# -- forms ------------------------------------------------------------------------------------------------
def test_a_line_of_json_is_one_object() -> None:
    told = said("json", "line one\nline two %s", "x", fault=_fault())
    assert "\n" not in told
    found: dict[str, Any] = json.loads(told)
    assert set(found) == {"time", "level", "part", "logger", "message", "fault"}
    assert (found["level"], found["part"], found["logger"]) == ("warning", "node", "orchestrator.x")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", found["time"])


def test_what_is_given_besides_the_message_is_not_told() -> None:
    record = logging.LogRecord("x", logging.INFO, "x.py", 1, "m", (), None)
    record.display_name = "Ada"
    assert "Ada" not in JsonFormatter("hub").format(record)


@pytest.mark.parametrize(("form", "kind"), [("json", JsonFormatter), ("text", TextFormatter)])
def test_a_part_has_one_handler_for_everything(
    form: logs.Form, kind: type[logging.Formatter], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    try:
        configure("portal", form)
        assert [type(each.formatter) for each in root.handlers] == [kind]
        logging.getLogger("uvicorn.error").warning("mail to %s", SECRET["e-mail"])
        logging.getLogger("httpx").info("HTTP Request: GET http://x")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    assert len(stream.getvalue().splitlines()) == 1 and "[e-mail]" in stream.getvalue()


def test_every_part_that_serves_writes_its_log_in_this_form() -> None:
    """... and no server of a library puts handlers of its own in place."""
    sources = {path: path.read_text() for path in (ROOT / "orchestrator").rglob("*.py")}
    for part in ("authority", "node", "portal", "metrics"):
        assert any(f'logs.configure("{part}"' in source for source in sources.values()), part
    for path, source in sources.items():
        for start in (found.start() for found in re.finditer(r"uvicorn\.(run|Config)\(", source)):
            assert "log_config=None" in source[start : start + 600], path


# -- what nobody caught -----------------------------------------------------------------------------------
_PROGRAM = """
import threading
from orchestrator import logs
{configure}

def fails():
    raise ValueError("1 51 02 75 120 005 02")

class Object:
    def __del__(self):
        fails()

Object()
thread = threading.Thread(target=fails)
thread.start()
thread.join()
fails()
"""


def _ended(configure_it: str) -> list[str]:
    words = [sys.executable, "-c", _PROGRAM.format(configure=configure_it)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout == ""
    return done.stderr.splitlines()


def test_what_nobody_caught_is_told_in_the_same_form_without_its_words() -> None:
    told = [json.loads(line) for line in _ended("logs.configure('node', 'json')")]
    assert [each["level"] for each in told] == ["warning", "error", "critical"]
    assert all(any("fails" in line for line in each["fault"]) for each in told)
    assert "75 120" not in json.dumps(told)


def test_the_interpreter_would_tell_the_words() -> None:
    """The negative control."""
    assert "\n".join(_ended("")).count("75 120") >= 3


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "piece", ["a", "a-", "a+", "/a", "/-", "eyJaaaaa-", "token", "token=", "a@", "a.", "a://", ":", " ", "é", "/data"]
)
def test_what_a_stranger_sends_holds_nothing_up(piece: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patterns that go over a text again and again would take minutes here; also without the cut."""
    scrubbed(piece * 200_000)
    monkeypatch.setattr(logs, "LONGEST", 30_000)
    scrubbed(piece * (30_000 // len(piece)))


@pytest.mark.parametrize("kind", SECRET)
def test_a_cut_leaves_no_half_of_a_secret(kind: str) -> None:
    for before in range(logs.LONGEST - 60, logs.LONGEST, 7):
        told = scrubbed("x " * (before // 2) + SECRET[kind])
        assert LEFT[kind] not in told
    assert scrubbed("f" * 9000).strip() == "[cut]"

"""How the parts write their logs: one form for all, as text or as JSON, without anybody's secrets.

A log tells of persons by their id at most. Callers take care of that (tests/unit/test_logs.py reads every call), and
what looks like an e-mail address, a token or a place of data is taken out here besides: texts of other programs'
errors come through here too.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal

from orchestrator.errors import BulleError

Form = Literal["text", "json"]

#: the most of a message, or of a line of a fault, that is written
LONGEST = 8000

#: Stops: a password, token or address that gets into a log, which is kept longer and read by more people than what it
#: came from. Shown by tests/unit/test_logs.py, which takes each away in turn. None of them goes back over a text again
#: and again: what a stranger sends is logged too, and must not hold a part up.
SECRETS: tuple[tuple[str, re.Pattern[str], str], ...] = (
    # a signed statement (grant, login): three parts in base64url
    ("jws", re.compile(r"(?<![\w-])eyJ[\w-]{5,}+\.[\w-]++\.[\w-]*+"), "[token]"),
    ("bearer", re.compile(r"(?i)\b(bearer|token|basic)\s++[\w+/=.~-]{12,}+"), r"\1 [token]"),
    (
        "named",
        re.compile(
            r"(?i)\b([\w-]{0,40}(?:token|secret|password|passwd|pin|cookie|code|state|key|challenge|verifier))=[^\s&;,\"']++"
        ),
        r"\1=[secret]",
    ),
    # a password in an address
    ("address", re.compile(r"(?i)\b([a-z][a-z0-9+]{0,20}://)[^\s/@:]{0,200}:[^\s/@]{1,200}@"), r"\1[secret]@"),
    ("e-mail", re.compile(r"[^\s@<>\"'(),;:]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){0,8}\.[A-Za-z]{2,63}"), "[e-mail]"),
    ("cookie", re.compile(r"(?i)\b(cookie for) \S++"), r"\1 [secret]"),
    # longer than any id of ours (32 hexadecimal digits)
    ("random", re.compile(r"(?<![\w/.+-])[A-Za-z0-9_+-]{40,}+={0,2}(?![\w/.-])"), "[secret]"),
    # what lies in a view, a home or a project's folder: names of files are the researcher's, and may say anything
    (
        "data",
        re.compile(
            r"(?<![\w.])((?:/[\w.~-]{1,80}){0,12}?/(?:data|home/researcher|project|mounts/(?:ws|views|plain|cipher)/[\w.~-]{1,120}))"
            r"/[^\s\"':,;]++"
        ),
        r"\1/[path]",
    ),
)


def scrubbed(text: str) -> str:
    """``text`` without what looks like a secret, and without the end of one that is very long."""
    if len(text) > LONGEST:
        # At a gap: half a secret looks like none.
        text = f"{text[:LONGEST].rpartition(' ')[0]} [cut]"
    for _, pattern, instead in SECRETS:
        text = pattern.sub(instead, text)
    return text


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _fault(error: BaseException | None) -> list[str]:
    """Where an exception came from, without what it says unless it is one of ours: others may repeat values."""
    told: list[str] = []
    for each in _chain(error):
        said = f": {each.message}" if isinstance(each, BulleError) else ""
        told.append(f"{type(each).__name__}{said}")
        frames = traceback.extract_tb(each.__traceback__)
        told += [f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
    return told


class TextFormatter(logging.Formatter):
    """One line for people: level, logger, message; below it, where a fault came from."""

    def __init__(self, part: str) -> None:
        super().__init__(f"%(levelname)s {part} %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The line, without secrets."""
        return scrubbed(super().format(record))

    def formatException(  # noqa: N802 - the library's name
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        """Where it came from."""
        return "\n".join(_fault(ei[1]))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 - the library's name
        """As it is: places in programs."""
        return stack_info


class JsonFormatter(TextFormatter):
    """One JSON object on a line: ``time``, ``level``, ``part``, ``logger``, ``message`` and, of a fault, ``fault``."""

    def __init__(self, part: str) -> None:
        super().__init__(part)
        self._part = part

    def format(self, record: logging.LogRecord) -> str:
        """The object. Nothing of a record's ``extra`` is in it: what is told is the message."""
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "part": self._part,
            "logger": record.name,
            "message": scrubbed(record.getMessage()),
        }
        if record.exc_info and record.exc_info[1] is not None:
            told["fault"] = [scrubbed(line) for line in _fault(record.exc_info[1])]
        return json.dumps(told, ensure_ascii=False)


def formatter(*, part: str, form: Form, **_: object) -> logging.Formatter:
    """The formatter of a part's log; other arguments are those of a logging configuration, and count for nothing."""
    return JsonFormatter(part) if form == "json" else TextFormatter(part)


def configure(part: str, form: Form, level: int = logging.INFO) -> None:
    """Have this process write its whole log to standard error in that form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(part=part, form=form))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Each request of theirs is a line, with an address in it.
    for noisy in ("httpx", "httpcore", "docker", "urllib3", "asyncio", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    catch(root)


def catch(logger: logging.Logger) -> None:
    """Tell ``logger`` what nobody caught: the interpreter's own words would repeat values, and are no JSON."""

    def ended(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            return
        logger.critical("nobody caught what ended this program", exc_info=(kind, error, trace))

    def ended_thread(told: threading.ExceptHookArgs) -> None:
        if told.exc_value is not None and not issubclass(told.exc_type, SystemExit):
            logger.error(
                "nobody caught what ended a thread", exc_info=(told.exc_type, told.exc_value, told.exc_traceback)
            )

    def ignored(told: sys.UnraisableHookArgs) -> None:
        # While an object is taken away: there is nobody whom it could be told.
        if told.exc_value is not None:
            logger.warning("an object did not go cleanly", exc_info=(told.exc_type, told.exc_value, told.exc_traceback))

    sys.excepthook, threading.excepthook, sys.unraisablehook = ended, ended_thread, ignored

"""The pages of the audit log: reading with filters, and taking what was found away as a file."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from orchestrator.errors import InputError
from orchestrator.governance.cards import AuditLine, AuditPage, Health
from orchestrator.governance.rules import Action, judge
from orchestrator.portal import spreadsheet, words
from orchestrator.portal.acting import Act
from orchestrator.portal.pages.lists import ANY, local, word
from orchestrator.portal.sessions import Session
from orchestrator.terms import Event, Outcome

if TYPE_CHECKING:
    from orchestrator.portal.application import Portal

ACTS: tuple[Act, ...] = ()
#: records on a page, and in one piece of an export
_PAGE, _PIECE = 50, 500
#: kinds that are offered besides governance's own; any other can be typed
_KINDS = (
    "audit.",
    "grant.issue",
    "grant.refused",
    "key.release",
    "login.",
    "node.",
    "page.export",
    "probe.passed",
    "probe.refused",
    "session.login",
    "session.logout",
    "volume.",
    "workspace.",
    "workspace.refused",
    "workspace.start",
    "workspace.stop",
)
_COLUMNS = ("seq", "time", "kind", "actor", "outcome", "person", "project", "session", "detail")
_FIELDS = ("kind", "person", "project", "outcome", "since", "until")


def routes(portal: Portal) -> list[Route]:
    """Their routes."""
    pages = Audit(portal)
    return [
        Route("/audit", portal.own(pages.read), name="audit"),
        Route("/audit/records.csv", portal.own(pages.as_csv), name="audit-csv"),
        Route("/audit/records.jsonl", portal.own(pages.as_json_lines), name="audit-jsonl"),
    ]


def _marked(text: str) -> str:
    """Mark ``text`` for the catalogues of the languages."""
    return text


_NO_DAY = _marked("“%(text)s” is not a day such as 2026-03-31.")


@dataclass(frozen=True)
class File:
    """A form in which records are taken away."""

    ending: str
    kind: str
    begin: str
    lines: Callable[[Iterable[AuditLine]], str]


def _csv(records: Iterable[AuditLine]) -> str:
    return spreadsheet.rows(
        (
            *(getattr(record, name) for name in _COLUMNS[:-1]),
            json.dumps(record.detail, ensure_ascii=False, sort_keys=True),
        )
        for record in records
    )


def _json_lines(records: Iterable[AuditLine]) -> str:
    return "".join(record.model_dump_json() + "\n" for record in records)


CSV = File(
    "csv",
    "text/csv; charset=utf-8; header=present",
    spreadsheet.BYTE_ORDER_MARK + spreadsheet.rows([_COLUMNS]),
    _csv,
)
JSON_LINES = File("jsonl", "application/jsonl", "", _json_lines)


@dataclass(frozen=True)
class Asked:
    """What the reader asks for, as it was typed."""

    kind: str
    person: str
    project: str
    outcome: str
    since: str
    until: str

    @classmethod
    def of(cls, request: Request) -> Asked:
        """From the address."""
        return cls(**{name: word(request, name) for name in _FIELDS})

    @property
    def query(self) -> dict[str, str]:
        """For another address that asks for the same."""
        return {name: getattr(self, name) for name in _FIELDS if getattr(self, name)}

    @property
    def odd_day(self) -> str:
        """What was typed as a day and is none."""
        for text in (self.since, self.until):
            try:
                _moment(text, 1)
            except InputError:
                return text
        return ""

    def arguments(self) -> dict[str, Any]:
        """For ``audit.read``. The day of ``until`` belongs to it.

        Raises:
            InputError: a day is none. It must not be left out: the page would show more than was asked for.
        """
        given: dict[str, Any] = {name: getattr(self, name) or None for name in ("kind", "person", "project", "outcome")}
        given["since"] = _moment(self.since, 0)
        given["until"] = _moment(self.until, 1)
        return given


def _moment(text: str, days: int) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.combine(date.fromisoformat(text), time(), UTC) + timedelta(days=days)
    except (ValueError, OverflowError) as error:
        raise InputError(f"'{text}' is not a day such as 2026-03-31") from error


class Audit:
    """Pages that read the audit log."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal

    async def read(self, request: Request, session: Session) -> Response:
        """Records that fit, newest first, a page at a time."""
        asked, reader = Asked.of(request), self._portal.language(request)
        visitor = await self._portal.visitor(session)
        # Before what was typed is looked at: to whom the page is closed, it says nothing about days.
        judge(Action.AUDIT_READ, visitor.facts).raise_if_refused()
        page, odd = AuditPage(records=(), before=None), asked.odd_day
        fault = reader.text(_NO_DAY, text=odd) if odd else ""
        before = _number(word(request, "before"))
        try:
            if not fault:
                page = await self._portal.call(session, "audit.read", **asked.arguments(), before=before, limit=_PAGE)
        except InputError as error:
            fault = words.refusal(reader, error)
        # How many there are: what an auditor compares with what the machine's own check says. Not from the log's
        # reading: to read it without a filter would be a record of its own.
        health: Health = await self._portal.call(session, "health.read")
        return await self._portal.page(
            request,
            session,
            "audit.html",
            here="audit",
            visitor=visitor,
            status=422 if fault else 200,
            asked=asked,
            fault=fault,
            records=page.records,
            head=health.audit_records,
            kinds=sorted({*map(str, Action), *_KINDS}),
            outcomes=[("", reader.text(ANY)), *((each, reader.text(words.OUTCOMES[each])) for each in Outcome)],
            detail=_readable,
            csv=local("audit/records.csv", **asked.query),
            jsonl=local("audit/records.jsonl", **asked.query),
            first=local("audit", **asked.query) if before else None,
            next=local("audit", **asked.query, before=page.before) if page.before else None,
        )

    async def as_csv(self, request: Request, session: Session) -> Response:
        """All records that fit, for a spreadsheet."""
        return await self._export(request, session, CSV)

    async def as_json_lines(self, request: Request, session: Session) -> Response:
        """All records that fit, one JSON object in a line."""
        return await self._export(request, session, JSON_LINES)

    async def _export(self, request: Request, session: Session, file: File) -> Response:
        """A file, read and sent piece by piece: the log may be larger than memory."""
        asked = Asked.of(request)
        arguments = asked.arguments()
        # The rules are asked first, so that a refusal is a page and not a broken file.
        page: AuditPage = await self._portal.call(session, "audit.read", **arguments, limit=_PIECE)
        # Taking the log away is itself in it, before the first byte leaves.
        await self._portal.authority.record(_exported(session.person, file, asked.query))

        async def pieces() -> AsyncIterator[str]:
            yield file.begin + file.lines(page.records)
            before = page.before
            while before is not None:
                # A fault here ends the transfer without its last chunk: no browser takes it for the whole file.
                more: AuditPage = await self._portal.call(
                    session, "audit.read", **arguments, before=before, limit=_PIECE
                )
                yield file.lines(more.records)
                before = more.before

        name = f"audit-{datetime.now(UTC):%Y-%m-%d-%H%M}.{file.ending}"
        return StreamingResponse(
            pieces(), media_type=file.kind, headers={"Content-Disposition": f'attachment; filename="{name}"'}
        )


def _exported(person: str, file: File, filters: Mapping[str, str]) -> Event:
    return Event(
        kind="page.export", actor=person, outcome=Outcome.DONE, detail={"what": "audit", "as": file.ending, **filters}
    )


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _readable(value: Any) -> str:
    """A detail as text: words as they are, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)

"""Applications: the list, writing one without any script, reading one, and deciding on it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from orchestrator.errors import NotFoundError, RefusedError
from orchestrator.governance.cards import (
    ApplicationRecord,
    CatalogueEntry,
    ProjectPage,
    RequestedTable,
)
from orchestrator.governance.rules import Action
from orchestrator.governance.states import ApplicationKind, ApplicationState, PermitState
from orchestrator.portal import words
from orchestrator.portal.acting import Act, Fields, FormFault, day
from orchestrator.portal.changes import Change, changes
from orchestrator.portal.conditions import read_condition, written_condition
from orchestrator.portal.dictionary import readable_table
from orchestrator.portal.hub import PREFIX
from orchestrator.portal.pages.lists import ANY, local, word
from orchestrator.portal.paths import slug_of
from orchestrator.portal.sessions import Session

if TYPE_CHECKING:
    from orchestrator.portal.application import Portal


def _marked(text: str) -> str:
    """Mark ``text`` for the catalogues of the languages."""
    return text


#: parts of an application that are a text
_TEXTS = ("title", "lay_summary", "purpose", "legal_basis", "outputs")
_TABLE = _marked("%(title)s (%(dataset)s)")
#: coarsenings that fit a column, by its type
_COARSENINGS = {
    "date": ("", "year", "month"),
    "datetime": ("", "year", "month"),
    "integer": ("", "band", "top"),
    "number": ("", "band", "top"),
}
#: fields of the draft's form, besides those of its tables
_FIELDS = {"project", "number", "lead", "team", "starts", "ends", "starts-was", "ends-was", "new-table", "add", "drop"}
_FIELDS |= set(_TEXTS)
_LINES = re.compile(r"[\s,;]+")
_OF_TABLE = re.compile(r"table-\d+(?:$|-(?:columns|rows|reason|transform|parameter)(?:$|-))")
_ADDRESS = re.compile(r"[1-9][0-9]{0,5}")


# -- from the form's fields to what an application says ------------------------------------------------------
def content_of(fields: Fields) -> dict[str, Any]:
    """What the form says. Tables are numbered as the form shows them; ``add`` and ``drop`` are its buttons.

    Raises:
        FormFault: a date, a number or a condition cannot be read.
    """
    faults: dict[str, str] = {}
    content: dict[str, Any] = {name: _text(fields, name) for name in (*_TEXTS, "lead")}
    content["team"] = [name for name in _LINES.split(_text(fields, "team")) if name]
    for name in ("starts", "ends"):
        try:
            content[name] = _moment(fields, name)
        except FormFault as fault:
            faults.update(fault.faults)
    tables = []
    for at in _table_numbers(fields):
        if str(at) not in fields.get("drop", []):
            tables.append(_table(fields, at, faults))
    if "add" in fields and (new := _text(fields, "new-table")):
        dataset, _, table = new.partition("/")
        tables.append({"dataset": dataset, "table": table, "columns": []})
    content["tables"] = tables
    if faults:
        raise FormFault(faults)
    return content


def _moment(fields: Fields, name: str) -> str | None:
    """The moment of a day that was typed; the very one that was there, where the day is the same as was shown."""
    text = _text(fields, name)
    if not text:
        return None
    with suppress(ValueError):
        was = datetime.fromisoformat(_text(fields, f"{name}-was"))
        shown = words.last_day(was) if name == "ends" else was
        if was.tzinfo is not None and shown.date().isoformat() == text:
            return was.isoformat()
    return day(name, text)


def _table_numbers(fields: Fields) -> Iterator[int]:
    at = 0
    while f"table-{at}" in fields:
        yield at
        at += 1


def _table(fields: Fields, at: int, faults: dict[str, str]) -> dict[str, Any]:
    dataset, _, table = _text(fields, f"table-{at}").partition("/")
    columns = []
    for name in dict.fromkeys(fields.get(f"table-{at}-columns", [])):
        transform = _text(fields, f"table-{at}-transform-{name}") or None
        column: dict[str, Any] = {"name": name, "reason": _text(fields, f"table-{at}-reason-{name}")}
        if transform is not None:
            column["transform"] = transform
        if transform in ("band", "top"):
            place = f"table-{at}-parameter-{name}"
            try:
                column["parameter"] = float(_text(fields, place).replace(",", "."))
            except ValueError:
                faults[place] = "float_parsing"
        columns.append(column)
    rows = []
    for line in filter(None, map(str.strip, _text(fields, f"table-{at}-rows").splitlines())):
        try:
            rows.append(read_condition(line).model_dump(mode="json"))
        except ValueError:
            faults[f"table-{at}-rows"] = "condition"
    return {
        "dataset": dataset,
        "table": table,
        "columns": columns,
        "rows": rows,
        "reason": _text(fields, f"table-{at}-reason"),
    }


def _text(fields: Fields, name: str) -> str:
    return fields.get(name, [""])[0].replace("\r\n", "\n").strip()


def _begun(act: Act, fields: Fields) -> dict[str, Any]:
    _known(fields, {"project", "title", "dataset"})
    content: dict[str, Any] = {"title": _text(fields, "title")}
    dataset, _, table = _text(fields, "dataset").partition("/")
    if dataset:
        content["tables"] = [{"dataset": dataset, "table": table or dataset, "columns": []}]
    return {"project": _text(fields, "project"), "content": content}


def _edited(act: Act, fields: Fields) -> dict[str, Any]:
    _known(fields, _FIELDS)
    return {"project": _text(fields, "project"), "number": _text(fields, "number"), "content": content_of(fields)}


def _known(fields: Fields, names: set[str]) -> None:
    # Stops: mass assignment, here where no model sees the fields' own names.
    for name in fields:
        if name not in names and not re.match(
            r"table-\d+(?:$|-(?:columns|rows|reason|transform|parameter)(?:$|-))", name
        ):
            raise FormFault({name: "extra_forbidden"})


def _place(place: tuple[int | str, ...], fields: Fields) -> str:
    """The field of the form for a place in ``{project, number, content}``."""
    if place[:1] != ("content",):
        return str(place[0])
    match place[1:]:
        case ("tables", int(at), "columns", int(column), str(what)):
            chosen = fields.get(f"table-{at}-columns", [])
            name = chosen[column] if column < len(chosen) else ""
            return f"table-{at}-columns" if what == "name" else f"table-{at}-{what}-{name}"
        case ("tables", int(at), str(what), *_):
            return f"table-{at}-{what}"
        case (str(name), *_):
            return name
    return "title"


def _reading(record: ApplicationRecord) -> str:
    return f"applications/{record.project}/{record.number}"


def _editing(record: ApplicationRecord) -> str:
    return f"{_reading(record)}/edit"


ACTS = (
    Act(
        "application.begin",
        _marked("The draft is kept. Nobody decides on it until you submit it."),
        arguments=_begun,
        place=lambda place, fields: "dataset" if "tables" in place else str(place[-1]),
        leads=_editing,
    ),
    Act(
        "application.amend",
        _marked("The draft begins with what is in force. Change what is to change."),
        leads=_editing,
    ),
    Act("application.edit", _marked("Saved."), arguments=_edited, place=_place),
    Act("application.submit", _marked("Submitted. A data custodian checks it now."), leads=_reading),
    Act("application.withdraw", _marked("Withdrawn."), leads=_reading),
    Act("application.check", _marked("It is complete. It waits for the decision now."), leads=_reading),
    Act("application.return", _marked("Returned to who applied."), leads=_reading),
    Act("application.refuse", _marked("Refused."), leads=_reading),
    Act("application.approve", _marked("Approved. The permit is in force, and the team is invited."), leads=_reading),
)


def routes(portal: Portal) -> list[Route]:
    """Their routes."""
    pages = Applications(portal)
    return [
        Route("/applications", portal.own(pages.list), name="applications"),
        Route("/applications/new", portal.own(pages.new), name="application-new"),
        Route("/applications/{slug}/{number}", portal.own(pages.read), name="application"),
        Route("/applications/{slug}/{number}/edit", portal.own(pages.edit), name="application-edit"),
    ]


class Applications:
    """Pages that read applications."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal

    async def list(self, request: Request, session: Session) -> Response:
        """The applications that the reader may read."""
        state = word(request, "state")
        state = state if state in set(ApplicationState) else ""
        lines = await self._portal.call(session, "applications.list", **({"state": state} if state else {}))
        reader = self._portal.language(request)
        states = [(each, reader.text(words.APPLICATION_STATES[each])) for each in ApplicationState]
        return await self._portal.page(
            request,
            session,
            "applications.html",
            here="applications",
            lines=lines,
            state=state,
            states=[("", reader.text(ANY)), *states],
        )

    async def new(self, request: Request, session: Session) -> Response:
        """The beginning of a new one: a name and a title. All else follows in the draft."""
        dataset, reader = word(request, "dataset"), self._portal.language(request)
        entries: list[CatalogueEntry] = await self._portal.call(session, "catalogue.search")
        return await self._portal.page(
            request,
            session,
            "application_new.html",
            here="applications",
            tables=[
                (f"{entry.dataset}/{card.table}", words.own_text(reader, card.title))
                for entry in entries
                for card in entry.tables
            ],
            dataset=next(
                (f"{entry.dataset}/{entry.tables[0].table}" for entry in entries if entry.dataset == dataset), ""
            ),
        )

    async def read(self, request: Request, session: Session) -> Response:
        """One application: what it says, how it stands, and what the reader may do with it."""
        record, entries = await asyncio.gather(
            self._record(request, session), self._portal.call(session, "catalogue.search")
        )
        page = await self._project(session, record)
        known = {entry.dataset: entry for entry in entries}
        return await self._portal.page(
            request,
            session,
            "application.html",
            here="applications",
            record=record,
            content=record.content,
            tables=[readable_table(table, known.get(table.dataset)) for table in record.content.tables],
            reasons=_reasons(record.content.tables),
            changed=_changed(record, page),
            project_known=page is not None,
            base=local(_reading(record)),
            missing=[words.missing(self._portal.language(request), code) for code in record.missing],
        )

    async def edit(self, request: Request, session: Session) -> Response:
        """The form of a draft, all of it on one page."""
        record, entries = await asyncio.gather(
            self._record(request, session), self._portal.call(session, "catalogue.search")
        )
        if Action.APPLICATION_EDIT not in record.may:
            return RedirectResponse(PREFIX + _reading(record), 302)
        reader = self._portal.language(request)
        known = {f"{entry.dataset}/{card.table}": card for entry in entries for card in entry.tables}
        taken = {f"{table.dataset}/{table.table}" for table in record.content.tables}
        return await self._portal.page(
            request,
            session,
            "application_edit.html",
            here="applications",
            record=record,
            content=record.content,
            known=known,
            offered=[
                (value, reader.text(_TABLE, title=words.own_text(reader, card.title), dataset=value))
                for value, card in known.items()
                if value not in taken
            ],
            coarsenings=lambda kind: [(each, reader.text(words.TRANSFORMS[each])) for each in _COARSENINGS[kind]],
            chosen=lambda table: {column.name: column for column in table.columns},
            conditions=lambda table: "\n".join(map(written_condition, table.rows)),
            base=local(_reading(record)),
            missing=[words.missing(self._portal.language(request), code) for code in record.missing],
        )

    async def _record(self, request: Request, session: Session) -> ApplicationRecord:
        slug, number = slug_of(request), str(request.path_params["number"])
        if not _ADDRESS.fullmatch(number):
            raise NotFoundError("no such application")
        try:
            record: ApplicationRecord = await self._portal.call(
                session, "application.read", project=slug, number=int(number)
            )
        except RefusedError as error:
            # Stops: somebody who learns from the answer what others apply for. Shown by test_applications.py.
            raise NotFoundError("no such application") from error
        return record

    async def _project(self, session: Session, record: ApplicationRecord) -> ProjectPage | None:
        """The project as it stands, where there is one and the reader may see it."""
        try:
            page: ProjectPage = await self._portal.call(session, "project.read", project=record.project)
        except (RefusedError, NotFoundError):
            return None
        return page


def _reasons(tables: tuple[RequestedTable, ...]) -> Mapping[str, Mapping[str, str]]:
    """Dataset and table → column → why it is asked for; under "" why the table is."""
    return {
        f"{table.dataset}/{table.table}": {"": table.reason, **{one.name: one.reason for one in table.columns}}
        for table in tables
    }


def _changed(record: ApplicationRecord, page: ProjectPage | None) -> list[Change] | None:
    """What an amendment or renewal that is not decided yet would change of what is in force."""
    decided = (ApplicationState.APPROVED, ApplicationState.REFUSED, ApplicationState.WITHDRAWN)
    if record.kind is ApplicationKind.NEW or page is None or record.state in decided:
        return None
    permit = next((one for one in page.permits if one.state is PermitState.APPROVED), None)
    return changes(record.content, page.project, permit.terms if permit else None)

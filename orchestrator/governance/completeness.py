"""What an application must say before anybody decides it: pure. What it lacks is told in plain words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import ValidationError

from orchestrator.errors import InputError
from orchestrator.governance.cards import ApplicationContent, RequestedTable
from orchestrator.governance.projects import checked_moment
from orchestrator.governance.states import ApplicationKind
from orchestrator.terms import ColumnPermit, TablePermit

#: what can be lacking, as it is told; the portal has these sentences in its languages
LACKS = {
    "title": "a title is missing",
    "lay_summary": "a summary in plain language is missing",
    "purpose": "the purpose is missing",
    "legal_basis": "the legal basis is missing",
    "outputs": "the expected outputs are missing",
    "lead": "the lead is missing",
    "lead-unable": "'%(person)s' cannot be the lead: there is no such active account",
    "lead-suspended": "'%(person)s' cannot be the lead: their membership is suspended",
    "team-unable": "'%(person)s' cannot be in the team: there is no such active account",
    "starts": "the first day is missing",
    "ends": "the last day is missing",
    "order": "the last day must come after the first",
    "over": "the last day must be in the future",
    "not-longer": "a renewal must end later than the project does now (%(ends)s)",
    "longer": "an amendment must not end later than the project does now (%(ends)s): ask for a renewal",
    "tables": "no table is asked for",
    "columns": "no column of %(table)s is asked for",
    "reason": "the reason for column '%(column)s' of %(table)s is missing",
    "twice": "%(table)s is asked for twice",
    "column-twice": "column '%(column)s' of %(table)s is asked for twice",
    "wrong": "%(table)s: %(fault)s",
}

_TEXTS = ("title", "lay_summary", "purpose", "legal_basis", "outputs")
_PERSON = re.compile(r"[a-z0-9._~-]{1,64}")
_UNSEEN = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class Circumstances:
    """What completeness depends on besides the content."""

    kind: ApplicationKind
    now: datetime
    #: when the project ends now; None where it is not in effect yet
    project_ends: datetime | None
    #: of the people named, those with an account that is not disabled
    able: frozenset[str]
    #: of the people named, those whose membership is suspended
    suspended: frozenset[str]
    #: raises InputError where a table does not exist or fit
    check: Callable[[Sequence[TablePermit]], None]


def named(content: ApplicationContent) -> frozenset[str]:
    """The people that an application names."""
    return frozenset({content.lead, *content.team} - {""})


def checked_content(content: ApplicationContent) -> ApplicationContent:
    """``content`` as it is kept: trimmed texts, moments in UTC, nobody twice.

    Raises:
        InputError: a text holds control characters, or a moment or person is none.
    """
    texts = {name: _text(name, getattr(content, name)) for name in _TEXTS}
    tables = tuple(_table(table) for table in content.tables)
    lead = _person(content.lead) if content.lead.strip() else ""
    team = dict.fromkeys(_person(person) for person in content.team if person.strip())
    team.pop(lead, None)
    return ApplicationContent(
        **texts,
        lead=lead,
        team=tuple(team),
        starts=None if content.starts is None else checked_moment("the first day", content.starts),
        ends=None if content.ends is None else checked_moment("the last day", content.ends),
        tables=tables,
    )


def _text(what: str, text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\t", " ").strip()
    if _UNSEEN.search(text):
        raise InputError(f"{what} must not have control characters")
    return text


def _table(table: RequestedTable) -> RequestedTable:
    columns = tuple(
        column.model_copy(
            update={
                "name": _text("a column's name", column.name),
                "reason": _text("a reason", column.reason),
                "transform": None if column.transform is None else _text("a transform", column.transform) or None,
            }
        )
        for column in table.columns
    )
    return table.model_copy(
        update={
            "dataset": _text("a dataset's name", table.dataset),
            "table": _text("a table's name", table.table),
            "reason": _text("a reason", table.reason),
            "columns": columns,
        }
    )


def _person(person: str) -> str:
    person = person.strip()
    if not _PERSON.fullmatch(person):
        raise InputError(f"'{person[:64]}' is not the id of a person")
    return person


def missing(content: ApplicationContent, among: Circumstances) -> tuple[str, ...]:
    """What the application lacks, in plain words and the order of the form; nothing where it is complete."""
    return tuple(
        LACKS[code] % values
        for found in (_texts(content), _people(content, among), _dates(content, among), _tables(content, among))
        for code, values in found
    )


_Lack = tuple[str, dict[str, str]]


def _texts(content: ApplicationContent) -> Iterator[_Lack]:
    for name in _TEXTS:
        if not getattr(content, name):
            yield name, {}


def _people(content: ApplicationContent, among: Circumstances) -> Iterator[_Lack]:
    # One sentence for who is not there and who is shut out: an applicant learns neither.
    if not content.lead:
        yield "lead", {}
    elif content.lead not in among.able:
        yield "lead-unable", {"person": content.lead}
    elif content.lead in among.suspended:
        yield "lead-suspended", {"person": content.lead}
    for person in content.team:
        if person not in among.able:
            yield "team-unable", {"person": person}


def _dates(content: ApplicationContent, among: Circumstances) -> Iterator[_Lack]:
    starts, ends = content.starts, content.ends
    if starts is None:
        yield "starts", {}
    if ends is None:
        yield "ends", {}
        return
    if starts is not None and starts >= ends:
        yield "order", {}
    if ends <= among.now:
        yield "over", {}
    if among.project_ends is not None:
        told = {"ends": f"{among.project_ends:%Y-%m-%d}"}
        if among.kind is ApplicationKind.RENEWAL and ends <= among.project_ends:
            yield "not-longer", told
        if among.kind is ApplicationKind.AMENDMENT and ends > among.project_ends:
            yield "longer", told


def _tables(content: ApplicationContent, among: Circumstances) -> Iterator[_Lack]:
    if not content.tables:
        yield "tables", {}
    seen: set[tuple[str, str]] = set()
    for table in content.tables:
        name = f"{table.dataset}/{table.table}"
        if (table.dataset, table.table) in seen:
            yield "twice", {"table": name}
        seen.add((table.dataset, table.table))
        if not table.columns:
            yield "columns", {"table": name}
            continue
        columns: set[str] = set()
        for column in table.columns:
            if column.name in columns:
                yield "column-twice", {"table": name, "column": column.name}
            columns.add(column.name)
            if not column.reason:
                yield "reason", {"table": name, "column": column.name}
        try:
            among.check((permitted(table),))
        except InputError as error:
            yield "wrong", {"table": name, "fault": error.message}


def permitted(table: RequestedTable) -> TablePermit:
    """What a permit would say of a table that is asked for. Raises InputError where no permit can say it."""
    try:
        return TablePermit(
            dataset=table.dataset,
            table=table.table,
            columns=tuple(
                ColumnPermit.model_validate(column.model_dump(include={"name", "transform", "parameter"}))
                for column in table.columns
            ),
            rows=table.rows,
        )
    except ValidationError as error:
        raise InputError("; ".join(sorted({str(fault["msg"]) for fault in error.errors()}))) from error

"""``bulle audit``: check and read the audit log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.audit import AuditLog, Filters, open_for_verification
from orchestrator.audit.chain import Record
from orchestrator.cli.context import as_authority, open_settings
from orchestrator.cli.dates import moment
from orchestrator.errors import AuditError, InputError

app = typer.Typer(no_args_is_help=True, help="Check and read the audit log.")
console = Console(highlight=False)


def _log() -> AuditLog:
    return open_for_verification(open_settings().layout)


@app.command()
def verify(
    head: Annotated[
        Path | None,
        typer.Option("--head", metavar="FILE", help="A head exported before: also finds a log rolled back."),
    ] = None,
) -> None:
    """Find any changed, cut, inserted or reordered record; exit code 1 if there is one."""
    log = _log()
    anchor = None
    if head is not None:
        try:
            anchor = log.parse_head(head.read_bytes())
        except OSError as error:
            raise InputError(f"{head}: {error.strerror}") from error
        except AuditError as error:
            raise InputError(f"{head} is not a head of this log: {error.message}") from error
    with as_authority():
        report = log.verify(anchor)
    report.raise_if_bad()
    against = "" if anchor is None else f", and follows the head of {anchor.time}"
    console.print(f"[green]✓[/] {report.records} records, unbroken{against}", soft_wrap=True)
    if report.unfinished:
        console.print(f"  a writer was stopped: {report.unfinished}; the next one settles it", soft_wrap=True)


@app.command()
def head() -> None:
    """Print the signed head; keep it outside this machine and verify against it later."""
    log = _log()
    with as_authority():
        typer.echo(log.head().line())


@app.command()
def show(  # noqa: PLR0917 - options of a command
    project: Annotated[str | None, typer.Option("--project")] = None,
    person: Annotated[str | None, typer.Option("--person", help="Who acted, or whom it was about.")] = None,
    session: Annotated[str | None, typer.Option("--session")] = None,
    kind: Annotated[
        str | None, typer.Option("--kind", help="Such as grant.issue, or grant.* for all.")
    ] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="DATE")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="DATE", help="Last day.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, as in the log.")] = False,
) -> None:
    """Print the records that match, oldest first."""
    log = _log()
    filters = Filters(
        project=project,
        person=person,
        session=session,
        kind=kind,
        since=None if since is None else moment("--since", since),
        until=None if until is None else moment("--until", until, end=True),
    )
    with as_authority():
        records = log.read(filters)
        if as_json:
            for record in records:
                typer.echo(record.line())
            return
        table = Table("seq", "time (UTC)", "kind", "outcome", "by", "person", "project", "session", "detail")
        for record in records:
            table.add_row(*(escape(_printable(cell)) for cell in _cells(record)))
    console.print(table)


def _cells(record: Record) -> tuple[str, ...]:
    event = record.event
    detail = ", ".join(f"{name}={value}" for name, value in event.detail.items())
    return (
        str(record.seq),
        record.time.strftime("%Y-%m-%d %H:%M:%S"),
        event.kind,
        str(event.outcome),
        event.actor,
        event.person or "",
        event.project or "",
        (event.session or "")[:8],
        detail,
    )


def _printable(text: str) -> str:
    # Stops: a name or reason with escape sequences that rewrites the auditor's terminal.
    return "".join(char if char.isprintable() else "?" for char in text)

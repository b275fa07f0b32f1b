"""``bulle audit``: check and read the audit log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from orchestrator.audit import AuditLog, Filters, Head, open_for_verification
from orchestrator.audit.chain import Record
from orchestrator.cli.context import open_settings
from orchestrator.cli.dates import moment
from orchestrator.errors import AuditError, InputError

app = typer.Typer(no_args_is_help=True, help="Check and read the audit log.")
console = Console(highlight=False)


def _opened() -> AuditLog:
    return open_for_verification(open_settings().layout)


@app.command()
def verify(
    head: Annotated[
        Path | None,
        typer.Option("--head", metavar="FILE", help="A head exported before: also finds a log rolled back."),
    ] = None,
) -> None:
    """Find any changed, cut, inserted or reordered record; exit code 1 if there is one."""
    try:
        exported = None if head is None else head.read_bytes()
    except OSError as error:
        raise InputError(f"{head}: {error.strerror}") from error
    log = _opened()
    anchor = None if exported is None else _anchor(log, exported)
    report = log.verify(anchor)
    report.raise_if_bad()
    against = "" if anchor is None else f", and follows the head of {anchor.time}"
    console.print(f"[green]✓[/] {report.records} records, unbroken{against}", soft_wrap=True)
    if report.unfinished:
        console.print(f"  a writer was stopped: {report.unfinished}; the next one settles it", soft_wrap=True)


def _anchor(log: AuditLog, exported: bytes) -> Head:
    try:
        return log.parse_head(exported)
    except AuditError as error:
        raise InputError(f"this is not a head of this log: {error.message}") from error


@app.command()
def head() -> None:
    """Print the signed head; keep it outside this machine and verify against it later."""
    log = _opened()
    typer.echo(log.head().line())


@app.command()
def show(  # noqa: PLR0917 - options of a command
    project: Annotated[str | None, typer.Option("--project")] = None,
    person: Annotated[str | None, typer.Option("--person", help="Who acted, or whom it was about.")] = None,
    session: Annotated[str | None, typer.Option("--session")] = None,
    kind: Annotated[str | None, typer.Option("--kind", help="Such as grant.issue, or grant.* for all.")] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="DATE")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="DATE", help="Last day.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON array, one record a line as in the log.")] = False,
) -> None:
    """Print the records that match, oldest first."""
    filters = Filters(
        project=project,
        person=person,
        session=session,
        kind=kind,
        since=None if since is None else moment("--since", since),
        until=None if until is None else moment("--until", until, end=True),
    )
    log = _opened()
    if as_json:
        lines = ",\n".join(record.line().decode() for record in log.read(filters))
        typer.echo(f"[\n{lines}\n]" if lines else "[]")
        return
    for record in log.read(filters):
        typer.echo(_printable(readable(record)))


def readable(record: Record) -> str:
    """A record in one line for people."""
    event = record.event
    parts = [f"{record.seq:>6}", record.time.strftime("%Y-%m-%d %H:%M:%S"), event.kind, str(event.outcome)]
    parts.append(f"by={event.actor}")
    parts += [f"{name}={told}" for name in ("person", "project", "session") if (told := getattr(event, name))]
    parts += [f"{name}={told}" for name, told in event.detail.items()]
    return "  ".join(parts)


def _printable(text: str) -> str:
    # Stops: a name or reason with escape sequences that rewrites the auditor's terminal.
    return "".join(char if char.isprintable() else "?" for char in text)

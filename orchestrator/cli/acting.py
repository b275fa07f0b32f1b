"""What commands have in common that act for somebody: who, how it is told, and how tables and records are printed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.cli.call import As, actor
from orchestrator.cli.context import open_governance, open_settings
from orchestrator.cli.dates import moment
from orchestrator.errors import SecondPersonError

if TYPE_CHECKING:
    from orchestrator.governance.service import Governance

__all__ = [
    "As",
    "AsJson",
    "Until",
    "actor",
    "console",
    "day",
    "do",
    "governed",
    "last_day",
    "print_json",
    "print_table",
    "print_yaml",
    "said",
]

console = Console(highlight=False)

AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]
Until = Annotated[str | None, typer.Option("--until", metavar="DATE", help="Last day, such as 2027-12-31.")]


def governed() -> Governance:
    """Governance of the deployment whose settings are in use."""
    return open_governance(open_settings())


def said(told: str) -> None:
    """Say that something was done."""
    console.print(f"[green]✓[/] {escape(told)}", soft_wrap=True)


def do(by: str, act: Callable[[Governance, str], Any], told: str | Callable[[Any], str]) -> None:
    """Act for ``by`` and say what was done; where a second person must agree, say that instead."""
    governance = governed()
    try:
        answer = act(governance, actor(by))
    except SecondPersonError as noted:
        console.print(f"[yellow]…[/] {escape(noted.message)}", soft_wrap=True)
        return
    said(told if isinstance(told, str) else told(answer))


def day(when: datetime) -> str:
    """A moment in UTC, to the minute."""
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def last_day(until: str | None) -> datetime | None:
    """The end of the day that ``--until`` names."""
    return None if until is None else moment("--until", until, end=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; brackets in it are text."""
    table = Table(*columns)
    for row in rows:
        table.add_row(*(cell.replace("[", r"\[") for cell in row))
    console.print(table)


def print_json(records: Sequence[Any]) -> None:
    """Print models as a JSON array."""
    inner = ",\n  ".join(record.model_dump_json() for record in records)
    typer.echo(f"[\n  {inner}\n]" if records else "[]")


def print_yaml(told: Any) -> None:
    """Print plain values as YAML, in their order."""
    typer.echo(yaml.safe_dump(told, sort_keys=False, allow_unicode=True), nl=False)

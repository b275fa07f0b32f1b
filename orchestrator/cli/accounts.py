"""``bulle terms|training``: a person's own account."""

from __future__ import annotations

from datetime import date
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.cli.call import As, Whose, actor
from orchestrator.cli.context import open_governance, open_settings
from orchestrator.errors import InputError
from orchestrator.governance.identity import OPERATOR

console = Console(highlight=False)
terms_app = typer.Typer(no_args_is_help=True, help="The terms of use.")
training_app = typer.Typer(no_args_is_help=True, help="Trainings: declared by oneself, confirmed by somebody else.")


@terms_app.command("show")
def terms_show(
    language: Annotated[str, typer.Option("--language", help="Such as fr; the first there is.")] = "",
) -> None:
    """The terms of use in force; their version is on the last line."""
    from orchestrator.governance.terms_of_use import terms_texts  # noqa: PLC0415

    terms = open_settings().governance.terms
    texts = terms_texts(terms)
    if language and language not in texts:
        raise InputError(f"the terms of use are not there in '{language}', but in {', '.join(texts)}")
    typer.echo(texts[language or next(iter(texts))])
    typer.echo(f"\nversion {terms.version}")


@terms_app.command("accept")
def terms_accept(version: Annotated[str, typer.Argument(help="The version that you read.")], by: Whose) -> None:
    """Accept the terms of use in force. Nobody accepts for somebody else."""
    open_governance(open_settings()).accept_terms(actor(by), version)
    console.print(f"[green]✓[/] {escape(by)} has accepted the terms of use, version {escape(version)}", soft_wrap=True)


@training_app.command("declare")
def training_declare(
    course: Annotated[str, typer.Argument(help="What the training is called.")],
    completed: Annotated[str, typer.Option("--on", metavar="DATE", help="The day it was completed.")],
    by: Whose,
    evidence: Annotated[str, typer.Option("--evidence", help="Where the proof is, such as a number.")] = "",
) -> None:
    """Say that one completed a training; it counts once somebody else confirmed it."""
    try:
        day = date.fromisoformat(completed)
    except ValueError as error:
        raise InputError(f"--on {completed}: not a date such as 2026-11-30") from error
    card = open_governance(open_settings()).declare_training(actor(by), course, day, evidence)
    told = f"training {card.id} of {by} waits to be confirmed; it would count until {card.expires:%Y-%m-%d}"
    console.print(f"[green]✓[/] {escape(told)}", soft_wrap=True)


@training_app.command("confirm")
def training_confirm(person: str, training: int, by: As = OPERATOR) -> None:
    """Say that one has seen the proof (a lead of the person's, a custodian, an administrator)."""
    open_governance(open_settings()).confirm_training(actor(by), person, training)
    console.print(f"[green]✓[/] training {training} of {escape(person)} is confirmed", soft_wrap=True)


@training_app.command("list")
def training_list(
    person: str, by: As = OPERATOR, as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False
) -> None:
    """A person's trainings, the latest first."""
    cards = open_governance(open_settings()).trainings_of(actor(by), person)
    if as_json:
        typer.echo("[" + ",\n ".join(card.model_dump_json() for card in cards) + "]")
        return
    table = Table("training", "course", "completed", "until", "evidence", "confirmed by")
    for card in cards:
        table.add_row(
            str(card.id),
            escape(card.course),
            f"{card.completed:%Y-%m-%d}",
            f"{card.expires:%Y-%m-%d}",
            escape(card.evidence),
            card.confirmed_by or "",
        )
    console.print(table)

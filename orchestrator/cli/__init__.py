"""The command line."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from orchestrator.cli.context import choose_settings
from orchestrator.errors import BulleError
from orchestrator.process import VARIABLE

#: sub-command → module and the typer application or the one command in it
_PARTS = (
    ("dataset", "orchestrator.cli.dataset", "app"),
    ("person", "orchestrator.cli.governance", "person_app"),
    ("project", "orchestrator.cli.projects", "project_app"),
    ("application", "orchestrator.cli.projects", "application_app"),
    ("member", "orchestrator.cli.governance", "member_app"),
    ("permit", "orchestrator.cli.projects", "permit_app"),
    ("terms", "orchestrator.cli.accounts", "terms_app"),
    ("training", "orchestrator.cli.accounts", "training_app"),
    ("usage", "orchestrator.cli.usage", "usage"),
    ("audit", "orchestrator.cli.audit", "app"),
    ("token", "orchestrator.cli.call", "token_app"),
    ("passkey", "orchestrator.cli.passkey", "app"),
    ("call", "orchestrator.cli.call", "call"),
    ("custodian", "orchestrator.cli.custodian", "app"),
    ("backup", "orchestrator.cli.moving", "backup_app"),
    ("transfer", "orchestrator.cli.moving", "transfer_app"),
    ("serve", "orchestrator.cli.serve", "app"),
)
_MACHINE = "orchestrator.cli.machine"


def build(arguments: list[str]) -> typer.Typer:
    """The command line, with the parts that ``arguments`` ask for.

    Where they name a sub-command, only its module is imported: a service in a small image starts without
    what the others need.
    """
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help="Bulle: a secure research workspace.",
    )

    @app.callback()
    def options(
        settings: Annotated[Path | None, typer.Option("--settings", envvar=VARIABLE, help="The settings file.")] = None,
    ) -> None:
        choose_settings(settings)

    wanted = [part for part in _PARTS if part[0] in _words(arguments)][:1]
    for name, module, attribute in wanted or _PARTS:
        part = getattr(importlib.import_module(module), attribute)
        if isinstance(part, typer.Typer):
            app.add_typer(part, name=name)
        else:
            app.command(name)(part)
    if not wanted:
        importlib.import_module(_MACHINE).register(app)
    return app


def _words(arguments: list[str]) -> list[str]:
    """The first argument that is a command."""
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == "--settings":
            skip = True
        elif not argument.startswith("-"):
            return [argument]
    return []


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; an error that Bulle means is one clear line and exit code 1."""
    told = sys.argv[1:] if arguments is None else arguments
    try:
        build(told)(told)
    except BulleError as error:
        console = Console(stderr=True, highlight=False)
        console.print(f"[bold red]error:[/] [red]{escape(error.message)}[/]", soft_wrap=True)
        if error.hint:
            console.print(f"       {escape(error.hint)}", soft_wrap=True)
        raise SystemExit(1) from None

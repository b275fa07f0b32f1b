"""``bulle call`` and ``bulle token``: every operation of the portal and the REST API, from the command line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from orchestrator.cli.context import open_governance, open_settings
from orchestrator.errors import InputError, SecondPersonError
from orchestrator.governance.identity import OPERATOR, RESERVED

if TYPE_CHECKING:
    from orchestrator.governance.service import Governance

console = Console(highlight=False)
token_app = typer.Typer(no_args_is_help=True, help="Tokens for the REST API.")
_LARGEST_FILE = 512 * 1024

As = Annotated[
    str,
    typer.Option(
        "--as", envvar="BULLE_AS", metavar="PERSON", help="Who does this; without it, the machine's operator."
    ),
]
Whose = Annotated[str, typer.Option("--as", envvar="BULLE_AS", metavar="PERSON", help="Whose token.")]


def call(
    name: Annotated[str, typer.Argument(metavar="OPERATION", help="Such as project.read.")] = "",
    pairs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Arguments; a VALUE in [] or {} is read as YAML."),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="FILE.yaml", help="More arguments, in YAML or JSON; - reads them.")
    ] = None,
    by: As = OPERATOR,
    listed: Annotated[bool, typer.Option("--list", help="Print all operations with their arguments.")] = False,
) -> None:
    """Do or read anything that the portal can, by the name of the operation; the answer is JSON."""
    from orchestrator.governance.calls import arguments_of, operation_named  # noqa: PLC0415

    if listed or not name:
        _print_operations()
        return
    operation = operation_named(name)
    given = _given(pairs or (), data)
    arguments = arguments_of(operation, given)
    governance = open_governance(open_settings())
    who = actor(by) if by == OPERATOR else governance.acting(actor(by))
    try:
        answer = operation.run(governance, who, arguments)
    except SecondPersonError as noted:
        console.print(f"[yellow]…[/] {noted.message}", soft_wrap=True)
        return
    if operation.answer is None:
        console.print(f"[green]✓[/] {operation.name}", soft_wrap=True)
    else:
        typer.echo(operation.adapter.dump_json(answer, indent=2))


def actor(by: str) -> str:
    """The person who acts, or the operator. Raises InputError for another part of the platform."""
    if by != OPERATOR and by in RESERVED:
        raise InputError(f"--as {by}: this is a part of the platform, not a person")
    return by


def _given(pairs: list[str] | tuple[str, ...], data: str | None) -> dict[str, Any]:
    given = {} if data is None else _read(data)
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InputError(f"'{pair[:40]}' is not KEY=VALUE")
        if key in given:
            raise InputError(f"'{key}' is given twice")
        given[key] = _parsed(f"{key}=", value) if value[:1] in ("[", "{") else value
    return given


def _read(data: str) -> dict[str, Any]:
    try:
        text = sys.stdin.read(_LARGEST_FILE + 1) if data == "-" else Path(data).read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise InputError(f"--data {data}: cannot be read ({error})") from error
    if len(text) > _LARGEST_FILE:
        raise InputError(f"--data {data}: longer than {_LARGEST_FILE} characters")
    found = _parsed(f"--data {data}", text)
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise InputError(f"--data {data}: must be a mapping of arguments")
    return found


class _Plain(yaml.SafeLoader):
    """YAML without dates: they stay text, as in JSON, so that an operation reads them the same from everywhere."""


_Plain.yaml_implicit_resolvers = {
    first: [one for one in resolvers if one[0] != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _parsed(what: str, text: str) -> Any:
    try:
        return yaml.load(text, _Plain)  # noqa: S506 - a safe loader, narrowed
    except yaml.YAMLError as error:
        raise InputError(f"{what}: not YAML") from error


def _print_operations() -> None:
    from orchestrator.governance.operations import OPERATIONS  # noqa: PLC0415

    table = Table("operation", "arguments", "what it does")
    for name, operation in sorted(OPERATIONS.items()):
        arguments = [
            field if about.is_required() else f"[{field}]" for field, about in operation.arguments.model_fields.items()
        ]
        table.add_row(name, " ".join(arguments).replace("[", r"\["), operation.summary)
    console.print(table)


def _governance() -> Governance:
    return open_governance(open_settings())


@token_app.command("create")
def token_create(
    by: Whose,
    name: Annotated[str, typer.Option("--name", help="What it is for.")],
    scopes: Annotated[list[str], typer.Option("--scope", help="What it is good for; once for each.")],
    days: Annotated[int, typer.Option("--days", help="How long it is good for.")] = 90,
) -> None:
    """Make a token; its secret is printed this once, alone on the last line."""
    from orchestrator.governance.calls import arguments_of, operation_named  # noqa: PLC0415

    operation = operation_named("token.create")
    given = arguments_of(operation, {"name": name, "scopes": scopes, "days": days})
    made = operation.run(_governance(), actor(by), given)
    Console(stderr=True, highlight=False).print(
        f"[green]✓[/] token {made.card.id} of {by}, good until {made.card.expires:%Y-%m-%d}", soft_wrap=True
    )
    typer.echo(made.secret)


@token_app.command("list")
def token_list(by: Whose, as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """A person's tokens, without their secrets."""
    cards = _governance().tokens(actor(by))
    if as_json:
        typer.echo("[" + ",\n ".join(card.model_dump_json() for card in cards) + "]")
        return
    table = Table("token", "name", "scopes", "until", "last used", "")
    for card in cards:
        table.add_row(
            card.id,
            card.name.replace("[", r"\["),
            ", ".join(card.scopes),
            f"{card.expires:%Y-%m-%d}",
            f"{card.used_at:%Y-%m-%d}" if card.used_at else "",
            "revoked" if card.revoked_at else "",
        )
    console.print(table)


@token_app.command("revoke")
def token_revoke(token: str, by: As = OPERATOR) -> None:
    """Make a token worth nothing, at once."""
    _governance().revoke_token(actor(by), token)
    console.print(f"[green]✓[/] token {token} is worth nothing", soft_wrap=True)

"""``bulle passkey``: the passkeys with which people sign decisions, and the anchors of the chain of signatures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.cli.call import As, actor
from orchestrator.cli.context import open_governance, open_settings
from orchestrator.config import Settings
from orchestrator.errors import InputError
from orchestrator.governance.identity import OPERATOR

if TYPE_CHECKING:
    from orchestrator.governance.chain import Anchors

console = Console(highlight=False)
app = typer.Typer(no_args_is_help=True, help="Passkeys that sign decisions, and whose they are.")

Passkey = Annotated[str, typer.Argument(help="Its id, or how that begins.")]


@app.command("list")
def list_(
    person: str, by: As = OPERATOR, as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False
) -> None:
    """A person's passkeys, with the fingerprints by which they are told apart."""
    cards = open_governance(open_settings()).passkeys(actor(by), person)
    if as_json:
        typer.echo("[" + ",\n ".join(card.model_dump_json() for card in cards) + "]")
        return
    table = Table("passkey", "name", "fingerprint", "registered", "vouched for by", "signs")
    for card in cards:
        signs = "removed" if card.removed_at else ("yes" if card.usable else "no")
        table.add_row(
            card.id[:16],
            escape(card.name),
            card.fingerprint,
            f"{card.created_at:%Y-%m-%d}",
            escape(card.vouched_by or ""),
            signs,
        )
    console.print(table)


@app.command()
def vouch(
    person: str,
    passkey: Passkey,
    by: As = OPERATOR,
    told: Annotated[
        str, typer.Option("--fingerprint", metavar="TEXT", help="What its owner read out; asked for where not given.")
    ] = "",
) -> None:
    """Vouch that a passkey is this person's: as root for a custodian's, which becomes an anchor.

    Compare the fingerprint with its owner first, face to face or on the telephone: what a broken-in portal or database
    put there is found out here, and nowhere later.
    """
    from orchestrator.governance.chain import ANCHORS, write_anchors  # noqa: PLC0415
    from orchestrator.governance.signatures import fingerprint  # noqa: PLC0415

    settings = open_settings()
    governance = open_governance(settings)
    # Read once: what is compared is what becomes the anchor, whatever the database says a moment later.
    passkey, public_key = governance.public_key_of(person, passkey)
    shown = fingerprint(public_key)
    if not told:
        console.print(f"fingerprint of the passkey of {escape(person)}: [bold]{shown}[/]")
        typer.confirm("Is this what its owner reads on their own device?", abort=True)
    elif "".join(told.split()).lower() != shown.replace(" ", ""):
        raise InputError(f"the fingerprint is {shown}, not {told}", hint="do not vouch for it; find out why")
    by = actor(by)
    if by == OPERATOR:
        anchors = _read(settings)
        governance.vouch_passkey(by, person, passkey)
        write_anchors(settings.layout.public / ANCHORS, anchors.with_passkey(person, passkey, public_key))
    else:
        governance.vouch_passkey(by, person, passkey)
    console.print(f"[green]✓[/] passkey {passkey[:16]} signs decisions in the name of {escape(person)}", soft_wrap=True)


@app.command()
def remove(
    person: str,
    passkey: Passkey,
    by: As = OPERATOR,
    void: Annotated[
        bool, typer.Option("--void", help="It was stolen: what it signed does not count any more, either.")
    ] = False,
) -> None:
    """Take a passkey away: it signs nothing any more. What it signed stays signed, unless with --void."""
    from orchestrator.governance.chain import ANCHORS, write_anchors  # noqa: PLC0415

    settings = open_settings()
    governance = open_governance(settings)
    by = actor(by)
    if void and by != OPERATOR:
        raise InputError("--void is the operator's", hint="as root, without --as")
    passkey, _ = governance.public_key_of(person, passkey)
    # The anchor first: if the rest fails, less is believed and not more.
    if void:
        write_anchors(settings.layout.public / ANCHORS, _read(settings).without(passkey))
    governance.remove_passkey(by, passkey)
    console.print(f"[green]✓[/] passkey {passkey[:16]} of {escape(person)} is removed", soft_wrap=True)


@app.command()
def anchors() -> None:
    """The passkeys with which every chain of signatures begins, as the node agent reads them."""
    from orchestrator.governance.signatures import decoded, fingerprint  # noqa: PLC0415

    table = Table("person", "passkey", "fingerprint")
    for one in _read(open_settings()).passkeys:
        table.add_row(escape(one.person), one.passkey[:16], fingerprint(decoded(one.public_key)))
    console.print(table)


def _read(settings: Settings) -> Anchors:
    from orchestrator.governance.chain import ANCHORS, read_anchors  # noqa: PLC0415

    return read_anchors(settings.layout.public / ANCHORS, settings.deployment)

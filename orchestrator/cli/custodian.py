"""``bulle custodian``: the key-encryption key."""

from __future__ import annotations

import typer

from orchestrator.cli.context import open_audit, open_settings
from orchestrator.config import Pkcs11Custodian as TokenSettings
from orchestrator.errors import BulleError
from orchestrator.governance.identity import OPERATOR
from orchestrator.keys import Pkcs11Custodian, open_custodian
from orchestrator.terms import Event, Outcome

app = typer.Typer(no_args_is_help=True, help="The key custodian.")


@app.command("create-key")
def create_key() -> None:
    """Make the key-encryption key: on the PKCS#11 token of the settings, or the embedded key file."""
    settings = open_settings()
    told = settings.custodian
    event = Event(kind="custodian.create", actor=OPERATOR, outcome=Outcome.STARTED, detail={"custodian": told.kind})
    audit = open_audit(settings)
    audit.record(event)
    try:
        if isinstance(told, TokenSettings):
            Pkcs11Custodian.create(
                module=told.module, token_label=told.token_label, key_label=told.key_label, pin_file=told.pin_file
            )
        description = open_custodian(settings, settings.layout).description
    except BulleError as error:
        audit.record(
            event.model_copy(update={"outcome": Outcome.FAILED, "detail": {**event.detail, "why": error.code}})
        )
        raise
    audit.record(event.model_copy(update={"outcome": Outcome.DONE}))
    typer.echo(f"key-encryption key made: {description}")


@app.command("show")
def show() -> None:
    """Say which custodian holds the key, and try it."""
    settings = open_settings()
    custodian = open_custodian(settings, settings.layout)
    custodian.unwrap(custodian.wrap(b"\0" * 32, "trial"), "trial")
    typer.echo(custodian.description)

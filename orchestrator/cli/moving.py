"""``bulle backup``, ``bulle transfer``, and the export and import of projects (docs/moving.md)."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from orchestrator.cli.call import As, actor
from orchestrator.cli.context import open_audit, open_governance, open_settings, settings_file
from orchestrator.config import Settings, load_settings
from orchestrator.errors import InputError, SecondPersonError
from orchestrator.governance.identity import OPERATOR
from orchestrator.terms import Event, Outcome

if TYPE_CHECKING:
    from orchestrator.keys import KeyRing
    from orchestrator.moving.places import Place
    from orchestrator.moving.restore import Report as Restored

backup_app = typer.Typer(no_args_is_help=True, help="The whole state in one encrypted file, and back.")
transfer_app = typer.Typer(no_args_is_help=True, help="What other deployments must know to send projects here.")

_console = Console(highlight=False)


def _now() -> datetime:
    return datetime.now(UTC)


def _said(told: str) -> None:
    _console.print(f"[green]✓[/] {escape(told)}", soft_wrap=True)


def _warned(told: str) -> None:
    _console.print(f"[yellow]![/] {escape(told)}", soft_wrap=True)


def _ring(settings: Settings) -> KeyRing:
    from orchestrator.keys import KeyRing, open_custodian  # noqa: PLC0415 - a command imports only what it needs

    return KeyRing(settings.layout.keyring, open_custodian(settings, settings.layout))


def _place(settings: Settings, where: str) -> Path | Place:
    """The file, or the object in the store of the settings, that somebody names."""
    from orchestrator.moving import s3  # noqa: PLC0415

    return s3.object_at(settings, where) if s3.is_address(where) else Path(where)


@backup_app.command("create")
def backup_create(
    target: Annotated[
        str,
        typer.Argument(
            metavar="FILE|FOLDER|s3://BUCKET/PREFIX", help="File to write, or the folder or the part of a store for it."
        ),
    ],
    recipients: Annotated[list[str], typer.Option("--for", metavar="RECIPIENT", help="Who may open it (age1…).")],
    secrets: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Put the private keys into this file, for another place.")
    ] = None,
) -> None:
    """Back up the whole state, encrypted, while everything runs."""
    from orchestrator.governance.store import Store  # noqa: PLC0415
    from orchestrator.moving import backup, s3  # noqa: PLC0415

    settings = open_settings()
    where = s3.Folder(settings, target) if s3.is_address(target) else Path(target)
    store = Store(settings.database_url, settings.database_password_file)
    report = backup.create(
        settings, settings_file(), store, open_audit(settings), recipients, where, secrets=secrets, clock=_now
    )
    store.close()
    _said(f"backup {report.id} of {report.parts} parts is in {report.file}")
    for name, copied in report.in_use.items():
        _warned(f"{name} was in use: {copied}")
    if report.secrets is None:
        _warned("the signing keys and an embedded custodian's key are not in it: back them up too, with --secrets")
    else:
        _said(f"the private keys are in {report.secrets}: keep it in another place")


@backup_app.command("list")
def backup_list(
    target: Annotated[str, typer.Argument(metavar="s3://BUCKET/PREFIX", help="Part of a store.")],
) -> None:
    """What lies in a part of a store, oldest first."""
    from orchestrator.moving.s3 import Folder  # noqa: PLC0415

    for found in Folder(open_settings(), target).listed():
        typer.echo(f"{found.modified:%Y-%m-%d %H:%M}  {found.size:>15}  {found.address}")


@backup_app.command("restore")
def backup_restore(  # noqa: PLR0917 - options of a command
    file: Annotated[str, typer.Argument(metavar="FILE|s3://BUCKET/NAME", help="The backup.")],
    identity: Annotated[Path, typer.Option(metavar="FILE", help="File with the age identity that opens it.")],
    state: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where it goes: absent or empty.", show_default=False)
    ] = None,
    volumes: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="On a cluster, in place of --state: the folder of its empty volumes."),
    ] = None,
    signer: Annotated[
        str | None, typer.Option("--from", metavar="FINGERPRINT", help="Deployment that must have made it.")
    ] = None,
    secrets: Annotated[Path | None, typer.Option(metavar="FILE", help="The file with its private keys.")] = None,
    with_settings: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings of the new place, such as another database.")
    ] = None,
) -> None:
    """Restore a backup into an empty folder, or, where a cluster's tools run, into its new deployment."""
    from orchestrator.moving import s3  # noqa: PLC0415
    from orchestrator.moving.envelope import read_identity  # noqa: PLC0415
    from orchestrator.moving.restore import restore, restore_here, restore_volumes  # noqa: PLC0415

    if state is not None and volumes is not None:
        raise InputError("name either --state or, on a cluster, --volumes")
    if state is None:
        given = with_settings or settings_file()
        settings = load_settings(given)
        if settings.kubernetes is None:
            raise InputError("name the empty folder for it with --state")
        if secrets is None:
            raise InputError("on a cluster name --secrets too: without its keys it does not come up")
        told: dict[str, Any] = {"signer": signer, "secrets": secrets, "clock": _now}
        place, key = _place(settings, file), read_identity(identity)
        if volumes is not None:
            put = restore_volumes(place, key, volumes, given, **told)
        else:
            put = restore_here(place, key, given, **told)
        if put is None:
            _said("a deployment is in the volumes already: nothing was restored")
            return
        _said(f"backup {put.id} of {put.deployment} is in the volumes: {put.records} records, {put.rows} rows")
        _told(put, signer)
        if volumes is not None:
            _warned("the custodian's Secret is not restored: it must hold the key of the backup's deployment")
        return
    # The settings of the new place say where the store is; those in the backup come out of it.
    source = _place(load_settings(with_settings or settings_file()), file) if s3.is_address(file) else Path(file)
    report = restore(
        source,
        read_identity(identity),
        state,
        signer=signer,
        secrets=secrets,
        settings_file=with_settings,
        clock=_now,
    )
    _said(f"backup {report.id} of {report.deployment}, made {report.made:%Y-%m-%d %H:%M} UTC, is in {state}")
    _said(f"the audit log verifies: {report.records} records; {report.rows} rows of governance")
    _told(report, signer)
    for path in report.elsewhere:
        _warned(f"{path} is named by the settings and is in no backup")
    if not report.secrets:
        _warned("without its private keys it does not come up: restore again with --secrets")
    typer.echo(f"next: bulle --settings {report.settings} up")


def _told(report: Restored, signer: str | None) -> None:
    if signer is None:
        _warned(f"it is signed by {report.signer}: compare this with what you know of your deployment")
    for name in report.changed:
        _warned(f"{name} was written to while it was copied: e2fsck it before somebody works in it")


@transfer_app.command("key")
def transfer_key() -> None:
    """Print what the other side needs: the key to encrypt for, and the fingerprint under which this side signs."""
    from orchestrator.audit import load_public_key  # noqa: PLC0415
    from orchestrator.audit.chain import fingerprint  # noqa: PLC0415
    from orchestrator.governance.keys import GRANT_PUBLIC  # noqa: PLC0415
    from orchestrator.moving.transfer import transfer_file, transfer_identity  # noqa: PLC0415

    settings = open_settings()
    custodian = _ring(settings).custodian
    if not transfer_file(settings.layout).exists():
        open_audit(settings).record(Event(kind="transfer.create", actor=OPERATOR, outcome=Outcome.STARTED))
    identity = transfer_identity(settings.layout, custodian, make=True)
    typer.echo(f"to send projects here:    --for {identity.to_public()}")
    signer = fingerprint(load_public_key(settings.layout.public / GRANT_PUBLIC))
    typer.echo(f"to take projects from here: --from {signer}")


def project_export(
    slug: str,
    recipient: Annotated[str, typer.Option("--for", metavar="KEY", help="The destination's transfer key (age1…).")],
    out: Annotated[str, typer.Option(metavar="FILE|s3://BUCKET/NAME", help="File to write, or object of a store.")],
    by: As = OPERATOR,
) -> None:
    """Write a project for another deployment: a custodian who is not in it decides it here, or did in the portal."""
    from orchestrator.moving.leaving import export  # noqa: PLC0415

    settings = open_settings()
    try:
        report = export(
            settings,
            open_governance(settings),
            _ring(settings),
            open_audit(settings),
            by=actor(by),
            slug=slug,
            recipient=recipient,
            out=_place(settings, out),
            clock=_now,
        )
    except SecondPersonError as noted:
        _console.print(f"[yellow]…[/] {escape(noted.message)}", soft_wrap=True)
        return
    _said(f"project {slug} is in {out}: {len(report.tables)} tables, {report.folders} folders")
    for name, copied in report.in_use.items():
        _warned(f"{name} was in use: {copied}")


def project_import(
    file: Annotated[str, typer.Argument(metavar="FILE|s3://BUCKET/NAME", help="The project.")],
    signer: Annotated[str, typer.Option("--from", metavar="FINGERPRINT", help="Deployment that must have sent it.")],
    same_people: Annotated[
        bool, typer.Option(help="You made sure that people with equal ids are the same people.")
    ] = False,
) -> None:
    """Take in a project from another deployment, suspended, until a custodian resumes it (the operator)."""
    from orchestrator.moving.arriving import take_in  # noqa: PLC0415

    settings = open_settings()
    report = take_in(
        settings,
        open_governance(settings),
        _ring(settings),
        open_audit(settings),
        _place(settings, file),
        signer=signer,
        same_people=same_people,
    )
    _said(f"project {report.slug} of {report.deployment} is here, suspended: {len(report.tables)} tables, "
          f"{report.folders} folders, {report.records} audit records")  # fmt: skip
    for name in report.shared:
        _said(f"dataset {name} is here already, the same to the last row")
    typer.echo(f"its people: {', '.join(report.people)}")
    for name in report.changed:
        _warned(f"{name} was written to while it was copied: e2fsck it before somebody works in it")
    typer.echo(f"a custodian looks at it and resumes it: bulle project activate {report.slug} --as CUSTODIAN")

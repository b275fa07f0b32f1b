"""``bulle usage``: what was used in a month and what it costs; ``bulle project certificate``: proof of deletion."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.table import Table

from orchestrator.cli.call import actor
from orchestrator.cli.context import open_governance, open_settings
from orchestrator.errors import InputError
from orchestrator.governance.identity import OPERATOR

console = Console(highlight=False)

As = Annotated[
    str,
    typer.Option(
        "--as", envvar="BULLE_AS", metavar="PERSON", help="Who reads this; without it, the machine's operator."
    ),
]


def usage(
    month: Annotated[str | None, typer.Option("--month", metavar="MONTH", help="Such as 2026-11; this one.")] = None,
    project: Annotated[str | None, typer.Option("--project", metavar="PROJECT", help="Of one project.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="As CSV (RFC 4180), safe to open in a spreadsheet.")] = False,
    by: As = OPERATOR,
) -> None:
    """What workspaces used in a month, by project and person, and what it costs."""
    from orchestrator.governance.costs import csv_rows  # noqa: PLC0415 - a command imports only what it needs
    from orchestrator.portal.spreadsheet import rows  # noqa: PLC0415

    page = open_governance(open_settings()).usage(actor(by), month, project)
    if as_csv:
        # No end of line is added or changed: RFC 4180 wants CRLF.
        typer.get_binary_stream("stdout").write(rows(csv_rows(page)).encode())
        return
    table = Table("project", "person")
    for name in ("hours", "CPU hours", "memory GB hours", "storage GB", page.currency):
        table.add_column(name, justify="right")
    for line in page.lines:
        amounts = (line.hours, line.cpu_hours, line.memory_gb_hours, line.storage_gb)
        who = line.person.replace("[", r"\[") or "(project folder)"
        table.add_row(line.project, who, *(f"{amount:.2f}" for amount in amounts), str(line.cost))
    table.add_section()
    table.add_row(f"total of {page.month}", "", "", "", "", "", str(sum(line.cost for line in page.lines)))
    console.print(table)
    for kind, most in page.quotas.items():
        if most is not None:
            console.print(f"{kind}: {page.used[kind]:.2f} of {most:g}")


def certificate(
    project: Annotated[str, typer.Argument(metavar="SLUG", help="The project, whose keys are destroyed.")],
    file: Annotated[Path | None, typer.Option("--file", metavar="FILE", help="Verify one that was kept.")] = None,
    as_jws: Annotated[bool, typer.Option("--jws", help="The signed certificate itself, to be kept.")] = False,
    by: As = OPERATOR,
) -> None:
    """Print and verify the certificate that a project's keys are destroyed."""
    from orchestrator.governance.certificates import verify_certificate  # noqa: PLC0415
    from orchestrator.governance.grants import issuer_of  # noqa: PLC0415
    from orchestrator.governance.keys import GRANT_PUBLIC, load_public_key  # noqa: PLC0415

    settings = open_settings()
    if file is None:
        kept = open_governance(settings).project_page(actor(by), project).certificate
        if kept is None:
            raise InputError(f"project '{project}' has no certificate", hint="its keys are not destroyed yet")
    else:
        kept = _read(file)
    public = load_public_key(settings.layout.public / GRANT_PUBLIC)
    claims = verify_certificate(kept, public, issuer_of(settings.deployment))
    if claims.get("project") != project:
        raise InputError(f"the certificate is that of project '{claims.get('project')}'")
    if as_jws:
        typer.echo(kept)
        return
    typer.echo(yaml.safe_dump(claims, sort_keys=False, allow_unicode=True, width=110), nl=False)
    console.print(f"[green]✓[/] signed by the authority of {settings.deployment}", soft_wrap=True)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read as a certificate: {error}") from error

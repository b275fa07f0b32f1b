"""``bulle up|down|status|doctor``, ``images``, ``demo``, ``workspace``: a deployment on one machine."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console
from rich.table import Table

from orchestrator.cli import demo as demo_machine
from orchestrator.cli.context import open_settings, settings_file
from orchestrator.cli.demo.content import create_content
from orchestrator.errors import SettingsError, UnavailableError, from_wire
from orchestrator.machine import images as machine_images
from orchestrator.machine.deployment import Deployment
from orchestrator.machine.doctor import Level, examine

console = Console(highlight=False)
images_app = typer.Typer(no_args_is_help=True, help="Container images of this deployment.")
demo_app = typer.Typer(no_args_is_help=True, help="A demo on loopback, with two real data sets.")
workspace_app = typer.Typer(no_args_is_help=True, help="Workspaces that run now.")

MARKS = {Level.FINE: "[green]✓[/]", Level.WARNING: "[yellow]![/]", Level.FAULT: "[red]✗[/]"}


def say(message: str) -> None:
    """One line of progress."""
    console.print(f"[bold]==>[/] {message}")


def _deployment() -> Deployment:
    settings = open_settings()
    try:
        recorded = json.loads(settings.layout.images.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{settings.layout.images} is missing", hint="build the images: bulle images build"
        ) from error
    return Deployment(settings, settings_file(), recorded)


def up() -> None:
    """Bring the deployment of the settings file up; a second time changes nothing it need not."""
    _deployment().up(say)
    say(f"Bulle answers at {open_settings().public_url}")


def down() -> None:
    """Stop the deployment; nothing is left running or mounted, all that persists is kept."""
    _deployment().down(say)


def status(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """What of the deployment runs."""
    found = _deployment().status()
    if as_json:
        typer.echo(json.dumps([part.__dict__ for part in found], indent=2))
        return
    table = Table("part", "state", "since")
    for part in found:
        table.add_row(part.name, part.state, part.started[:19])
    console.print(table)


def doctor(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Check settings, machine and deployment; exit code 1 if anything is at fault."""
    findings = examine(open_settings())
    if as_json:
        typer.echo(json.dumps([finding.__dict__ for finding in findings], indent=2))
    else:
        for finding in findings:
            console.print(f"{MARKS[finding.level]} {finding.check:<10} {finding.message}", soft_wrap=True, markup=True)
            if finding.hint and finding.level is not Level.FINE:
                console.print(f"             {finding.hint}", style="dim", soft_wrap=True)
    if any(finding.level is Level.FAULT for finding in findings):
        raise typer.Exit(1)


@images_app.command("build")
def images_build(
    names: Annotated[list[str] | None, typer.Argument(help="Some of them; default all.")] = None,
    base_image: Annotated[
        str | None, typer.Option("--base-image", help="Build on this Debian image instead of the mirror.")
    ] = None,
) -> None:
    """Build the images that are not built yet, and record their digests for this deployment."""
    settings = open_settings()
    built = machine_images.build_images(names, progress=say, base_image=base_image)
    machine_images.write_images_json(settings.layout.images, built)


@demo_app.command("up")
def demo_up(port: Annotated[int, typer.Option(help="Loopback port of the login page.")] = 8000) -> None:
    """Build, ingest, create two projects, start everything; print the address and the people."""
    found = demo_machine.up(say, demo_machine.Place(port=port))
    table = Table("person", "password", "what they are", title=f"Bulle answers at {found.url}", title_justify="left")
    for person in found.people:
        table.add_row(person.name, person.password, person.what)
    console.print(table)
    console.print(f"Log in at {found.url} as researcher and open a workspace. Stop it with: make down")


@demo_app.command("content")
def demo_content(
    sources: Annotated[Path, typer.Option(help="Folder with rwm5yr.csv and colon.csv, or the package of them.")],
) -> None:
    """Put the demo's people, data sets and projects into the deployment of the settings; what is there stays."""
    people = {person.name: person.platform_role for person in demo_machine.PEOPLE}
    until = datetime.now(UTC) + timedelta(days=365)
    create_content(open_settings(), people_roles=people, until=until, say=say, sources=sources)


@demo_app.command("down")
def demo_down() -> None:
    """Stop the demo; nothing is left running or mounted. Its data stays for the next time."""
    demo_machine.down(say)


def _door() -> httpx.Client:
    socket = open_settings().layout.socket("door")
    return httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://door", timeout=60)


def _ask(method: str, path: str) -> httpx.Response:
    try:
        with _door() as door:
            answer = door.request(method, path)
    except httpx.TransportError as error:
        raise UnavailableError(
            "the node agent does not answer", hint="is the deployment up? see: bulle status"
        ) from error
    if answer.is_error:
        raise from_wire(**answer.json())
    return answer


@workspace_app.command("list")
def workspace_list(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """The workspaces that run on this machine."""
    found = _ask("GET", "/v1/workspaces").json()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    table = Table("session", "person", "project", "state")
    for each in found:
        table.add_row(each["session"], each["person"], each["project"], each["state"])
    console.print(table)


@workspace_app.command("stop")
def workspace_stop(session: str) -> None:
    """Stop one workspace at once and unmount what it saw."""
    _ask("DELETE", f"/v1/workspaces/{session}")


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    for command in (up, down, status, doctor):
        app.command()(command)
    app.add_typer(images_app, name="images")
    app.add_typer(demo_app, name="demo")
    app.add_typer(workspace_app, name="workspace")

"""``bulle dataset``: ingest, list, show and delete datasets."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated, Protocol

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from orchestrator.config import Settings
from orchestrator.data.catalogue import Catalogue, TableInfo
from orchestrator.data.ingest import ingest as ingest_file
from orchestrator.data.schema import Column, Translated, load_schema
from orchestrator.data.store import DatasetStore
from orchestrator.errors import BulleError
from orchestrator.governance.identity import OPERATOR
from orchestrator.keys import KeyRing, open_custodian
from orchestrator.terms import Event, Outcome

app = typer.Typer(help="Datasets: ingest, list, show, delete.", no_args_is_help=True)

Person = Annotated[str | None, typer.Option("--as", help="Who does this; the default is the login name.")]


def _login_name() -> str:
    """Who is logged in; in a container, whose user has no name, the operator."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return OPERATOR


class _Audit(Protocol):
    def record(self, event: Event) -> object: ...


def _settings() -> Settings:
    from orchestrator.cli.context import open_settings  # noqa: PLC0415 - only where it is needed

    settings: Settings = open_settings()
    return settings


def _audit(settings: Settings) -> _Audit:
    from orchestrator.cli.context import open_audit  # noqa: PLC0415 - only where it is needed

    return open_audit(settings)


def _ring(settings: Settings) -> KeyRing:
    return KeyRing(settings.layout.keyring, open_custodian(settings, settings.layout))


@app.command()
def ingest(
    name: Annotated[str, typer.Argument(help="Name of the dataset.")],
    file: Annotated[Path, typer.Argument(help="CSV or Parquet file.")],
    schema: Annotated[Path, typer.Option(help="Schema of the table, in YAML.")],
    table: Annotated[str | None, typer.Option(help="Name of the table; the default is the dataset's.")] = None,
    person: Person = None,
) -> None:
    """Check, pseudonymise and encrypt FILE as the next version of a table."""
    settings = _settings()
    described = load_schema(schema)
    ring = _ring(settings)
    audit = _audit(settings)
    actor = person or _login_name()
    detail = {"dataset": name, "table": table or name, "file": file.name}

    def before_keys(key_ids: tuple[str, ...]) -> None:
        audit.record(Event(kind="key.create", actor=actor, outcome=Outcome.STARTED, detail={"key_ids": list(key_ids)}))

    audit.record(Event(kind="dataset.ingest", actor=actor, outcome=Outcome.STARTED, detail=detail))
    try:
        with _shown_progress(f"Ingesting {file.name}") as shown:
            info = ingest_file(
                file,
                described,
                dataset=name,
                table=table,
                folder=settings.layout.datasets,
                ring=ring,
                progress=shown.update,
                before_keys=before_keys,
            )
    except BaseException as error:
        reason = error.code if isinstance(error, BulleError) else type(error).__name__
        failed = {**detail, "reason": reason}
        audit.record(Event(kind="dataset.ingest", actor=actor, outcome=Outcome.FAILED, detail=failed))
        raise
    done = {**detail, "version": info.version, "rows": info.rows}
    audit.record(Event(kind="dataset.ingest", actor=actor, outcome=Outcome.DONE, detail=done))
    typer.echo(f"{info.dataset}/{info.table}, version {info.version}: {info.rows:,} rows")


@app.command("list")
def list_datasets() -> None:
    """Show every dataset and table."""
    shown = Table("dataset", "table", "version", "rows", "title")
    for dataset in Catalogue(_settings().layout.datasets).datasets():
        for info in dataset.tables:
            shown.add_row(dataset.name, info.table, str(info.version), f"{info.rows:,}", info.title.en)
    Console().print(shown)


@app.command()
def show(name: Annotated[str, typer.Argument(help="Name of the dataset.")]) -> None:
    """Show the columns of a dataset."""
    console = Console()
    for info in Catalogue(_settings().layout.datasets).dataset(name).tables:
        console.print(_columns(info))


@app.command()
def delete(
    name: Annotated[str, typer.Argument(help="Name of the dataset.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    person: Person = None,
) -> None:
    """Destroy a dataset's keys and files. Nothing brings them back, not even a backup of the files."""
    settings = _settings()
    Catalogue(settings.layout.datasets).dataset(name)
    if not yes:
        typer.confirm(f"Destroy dataset '{name}' with its keys, for good?", abort=True)
    actor = person or _login_name()
    audit = _audit(settings)
    event = Event(kind="dataset.delete", actor=actor, outcome=Outcome.STARTED, detail={"dataset": name})
    audit.record(event)
    try:
        DatasetStore(settings.layout.datasets, _ring(settings)).delete(name)
    except BaseException:
        audit.record(event.model_copy(update={"outcome": Outcome.FAILED}))
        raise
    audit.record(event.model_copy(update={"outcome": Outcome.DONE}))
    typer.echo(f"dataset '{name}' is destroyed")


class _shown_progress:  # noqa: N801 - used as a function
    """A line that shows the rows done while an ingest runs."""

    def __init__(self, title: str) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[rows]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task(title, total=None, rows="")

    def __enter__(self) -> _shown_progress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, done: int, total: int | None) -> None:
        """Show ``done`` rows."""
        rows = f"{done:,} rows" if total is None else f"{done:,} of {total:,} rows"
        self._progress.update(self._task, completed=done, total=total, rows=rows)


def _columns(info: TableInfo) -> Table:
    title = f"{info.dataset}/{info.table}, version {info.version}: {info.title.en} ({info.rows:,} rows)"
    shown = Table("column", "type", "role", "description", title=title)
    for column in info.columns:
        shown.add_row(column.name, column.type, column.role, _described(column))
    return shown


def _described(column: Column) -> str:
    labels = {code: label.en if isinstance(label, Translated) else label for code, label in column.codes.items()}
    codes = ", ".join(f"{code}: {label}" for code, label in labels.items())
    text = column.description.en if isinstance(column.description, Translated) else column.description
    return f"{text} ({codes})" if codes else text

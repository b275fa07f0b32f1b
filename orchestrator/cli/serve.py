"""``bulle serve``: the long-running parts, composed from the rooms. Containers start these; people seldom do."""

from __future__ import annotations

import typer

from orchestrator.cli.context import open_governance, open_settings

app = typer.Typer(no_args_is_help=True, help="Run one part of the control plane in the foreground.")


@app.command()
def authority() -> None:
    """The authority: governance, grants and the audit log, on three unix sockets."""
    from orchestrator.governance.authority import serve  # noqa: PLC0415 - each part imports only what it needs

    settings = open_settings()
    serve(settings, open_governance(settings))


@app.command()
def node() -> None:
    """The node agent: mounts and workspaces, on the door's and the CSI sockets."""
    from orchestrator.node.agent import serve  # noqa: PLC0415

    serve(open_settings())

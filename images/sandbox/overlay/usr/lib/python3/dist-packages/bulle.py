"""Reads the views of a workspace: ``bulle.read_view("name")`` is a data frame of what the permit allows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

DATA = Path(os.environ.get("BULLE_DATA", "/data"))

__all__ = ["read_view", "view_path", "views"]


def views() -> list[str]:
    """Names of what can be read: ``dataset`` where it has one table, else ``dataset/table``."""
    tables = {
        folder.name: sorted(table.stem for table in folder.glob("*.parquet"))
        for folder in sorted(DATA.iterdir())
        if folder.is_dir()
    }
    return [
        name if len(found) == 1 else f"{name}/{table}" for name, found in tables.items() for table in found
    ] + sorted(file.name for file in DATA.glob("*.parquet"))


def view_path(name: str | os.PathLike[str]) -> Path:
    """The Parquet file of a view, from its name (``dataset`` or ``dataset/table``) or a path.

    Raises:
        FileNotFoundError: there is no such view; the message names those that there are.
    """
    given = Path(name)
    for path in (given, DATA / given, DATA / f"{given}.parquet"):
        if path.is_file():
            return path
    folder = given if given.is_absolute() else DATA / given
    found = sorted(folder.glob("*.parquet")) if folder.is_dir() else []
    if len(found) == 1:
        return found[0]
    names = ", ".join(views()) if DATA.is_dir() else ""
    if found:
        raise FileNotFoundError(f"'{name}' has several tables; name one of: {names}")
    raise FileNotFoundError(f"There is no view '{name}'. Views are: {names or 'none'}")


def read_view(
    name: str | os.PathLike[str],
    columns: Sequence[str] | None = None,
    *,
    frame: Literal["pandas", "polars", "arrow"] = "pandas",
) -> Any:
    """Read a view into a data frame.

    Args:
        name: as :func:`views` lists it, or a path.
        columns: only these; all by default.
        frame: ``pandas`` (default), ``polars``, or ``arrow`` (a ``pyarrow.Table``).
    """
    path = view_path(name)
    wanted = list(columns) if columns is not None else None
    if frame == "polars":
        import polars  # noqa: PLC0415 - each takes a while to import

        return polars.read_parquet(path, columns=wanted)
    import pyarrow.parquet  # noqa: PLC0415

    table = pyarrow.parquet.ParquetFile(path).read(columns=wanted)
    if frame == "arrow":
        return table
    if frame != "pandas":
        raise ValueError(f"frame is 'pandas', 'polars' or 'arrow', not {frame!r}")
    return table.to_pandas(date_as_object=False, self_destruct=True, split_blocks=True)

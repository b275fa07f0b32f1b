"""The Python half of R's ``read_view``: hands a Parquet file over as an Arrow C stream of types that R has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def export(path: str, columns: Sequence[str] | str | None, address: str) -> dict[str, list[str]]:
    """Read a file and export it to the C stream at ``address`` (Arrow C stream interface).

    Returns:
        The levels of those columns that are categories: the stream carries them as text.

    Raises:
        ValueError: a column is not in the file; the message names those that are.
    """
    import pyarrow.parquet  # noqa: PLC0415 - takes a while to import

    file = pyarrow.parquet.ParquetFile(path)
    wanted = [columns] if isinstance(columns, str) else columns
    unknown = [name for name in wanted or () if name not in file.schema_arrow.names]
    if unknown:
        raise ValueError(f"no column {', '.join(unknown)}; columns are: {', '.join(file.schema_arrow.names)}")
    table, levels = for_r(file.read(columns=wanted))
    table.to_reader()._export_to_c(int(address))
    return levels


def for_r(table: Any) -> tuple[Any, dict[str, list[str]]]:
    """The same table with binary columns as hexadecimal text, decimals as doubles, nothing in dictionaries; levels."""
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import types  # noqa: PLC0415

    levels: dict[str, list[str]] = {}
    for position, column in enumerate(table.schema):
        kind = column.type
        values = table.column(position)
        if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
            texts = [[None if item is None else item.hex() for item in chunk.to_pylist()] for chunk in values.chunks]
            values = pa.chunked_array([pa.array(text, pa.string()) for text in texts], pa.string())
        elif types.is_decimal(kind):
            values = values.cast(pa.float64())
        elif types.is_dictionary(kind):
            if types.is_string(kind.value_type) or types.is_large_string(kind.value_type):
                unified = values.unify_dictionaries()
                levels[column.name] = unified.chunk(0).dictionary.to_pylist() if unified.num_chunks else []
            values = values.cast(kind.value_type)
        else:
            continue
        table = table.set_column(position, column.name, values)
    return table, levels

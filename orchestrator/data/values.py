"""From what a source holds to what a schema says: strict, and naming the first row that is wrong.

Messages name rows and columns but repeat no value, because they end up on screens and in logs.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.schema import Column, Type
from orchestrator.errors import InputError

ARROW_TYPES: dict[Type, pa.DataType] = {
    Type.STRING: pa.string(),
    Type.INTEGER: pa.int64(),
    Type.NUMBER: pa.float64(),
    Type.BOOLEAN: pa.bool_(),
    Type.DATE: pa.date32(),
    Type.DATETIME: pa.timestamp("us"),
}


def place(where: str, row: int, column: str) -> str:
    """How messages name a value. Rows of data count from 1; the header is none."""
    return f"{where}: row {row}, column '{column}'"


def convert(array: pa.Array, column: Column, first_row: int, where: str) -> pa.Array:
    """Make an array what its column's schema says.

    Args:
        array: text, or values of a type that fits without loss.
        column: the schema of the column.
        first_row: number of the array's first row in the source.
        where: name of the source, for messages.

    Raises:
        InputError: names the first row whose value does not fit, is missing, or is not finite.
    """
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type):
        array = array.cast(pa.string())
    cast = _cast_for(array.type, column)
    if cast is None:
        raise InputError(f"{where}: column '{column.name}' is {array.type}, which cannot become {column.type}")
    try:
        result = cast(array)
    except (pa.ArrowInvalid, ValueError) as error:
        row = first_row + first_refused(array, cast)
        written = f" written as '{column.format}'" if column.format else ""
        raise InputError(f"{place(where, row, column.name)}: not a {_MEANT[column.type]}{written}") from error
    if column.type is Type.NUMBER:
        _refuse_infinite(result, column, first_row, where)
    refuse_missing(result, column, first_row, where)
    return result


def refuse_missing(array: pa.Array, column: Column, first_row: int, where: str) -> None:
    """Raise :class:`InputError` for the first missing value of a column that must not miss any."""
    if not column.nullable and array.null_count:
        row = first_row + pc.index(array.is_null(), True).as_py()
        raise InputError(f"{place(where, row, column.name)}: a value is missing, and the column is not nullable")


def first_refused(array: pa.Array, cast: Callable[[pa.Array], object]) -> int:
    """Index of the first value that ``cast`` refuses, by halving."""
    start, length = 0, len(array)
    while length > 1:
        half = length // 2
        try:
            cast(array.slice(start, half))
        except (pa.ArrowInvalid, ValueError):
            length = half
        else:
            start, length = start + half, length - half
    return start


_MEANT = {
    Type.STRING: "text",
    Type.INTEGER: "whole number of 64 bits",
    Type.NUMBER: "number",
    Type.BOOLEAN: "truth value (true, false, 1, 0)",
    Type.DATE: "date",
    Type.DATETIME: "date and time without a zone",
}


def _refuse_infinite(array: pa.Array, column: Column, first_row: int, where: str) -> None:
    finite = pc.is_finite(array)
    if pc.all(finite, min_count=0).as_py() is False:
        row = first_row + pc.index(finite, False).as_py()
        raise InputError(
            f"{place(where, row, column.name)}: not a finite number",
            hint="where it stands for a missing value, list its spelling under 'nulls' or write a null",
        )


def _cast_for(found: pa.DataType, column: Column) -> Callable[[pa.Array], pa.Array] | None:
    """How to cast values of type ``found``, or None where that makes no sense for any value."""
    wanted = ARROW_TYPES[column.type]
    kinds = pa.types
    if found == wanted or kinds.is_null(found):
        return partial(pc.cast, target_type=wanted)
    number = kinds.is_integer(found) or kinds.is_floating(found) or kinds.is_decimal(found)
    moment = kinds.is_timestamp(found) or kinds.is_date(found)
    cast: Callable[[pa.Array], pa.Array] | None = None
    match column.type:
        case Type.DATE | Type.DATETIME if kinds.is_string(found) and column.format:
            cast = partial(_parse_dates, column=column)
        case Type.DATE | Type.DATETIME if moment:
            cast = partial(_moments, wanted=wanted)
        case Type.BOOLEAN if kinds.is_integer(found):
            cast = _bits
        case Type.INTEGER | Type.NUMBER if number:
            cast = partial(pc.cast, target_type=wanted)
        case Type.STRING if kinds.is_integer(found):
            cast = partial(pc.cast, target_type=wanted)
        case _ if kinds.is_string(found):
            cast = partial(pc.cast, target_type=wanted)
    return cast


def _bits(array: pa.Array) -> pa.Array:
    bits = pc.is_in(array.drop_null(), value_set=pa.array([0, 1], array.type))
    if not pc.all(bits, min_count=0).as_py():
        raise ValueError("neither 0 nor 1")
    return array.cast(pa.bool_())


def _moments(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Dates and times to each other, refusing what would lose a part; a zone is converted to UTC."""
    moments = array.cast(pa.timestamp("us", getattr(array.type, "tz", None))).cast(pa.timestamp("us"))
    if wanted == moments.type:
        return moments
    days = moments.cast(pa.date32(), safe=False)
    if not days.cast(moments.type).equals(moments):
        raise ValueError("a time of day would be lost")
    return days


def _parse_dates(array: pa.Array, column: Column) -> pa.Array:
    """Parse each distinct text with Python's ``strptime``: Arrow's takes 31 February for 2 March."""
    if array.null_count == len(array):
        return pa.nulls(len(array), ARROW_TYPES[column.type])
    encoded = array.dictionary_encode()
    parsed = [_parse_date(text, column) for text in encoded.dictionary.to_pylist()]
    return pa.array(parsed, ARROW_TYPES[column.type]).take(encoded.indices)


def _parse_date(text: str, column: Column) -> object:
    moment = datetime.strptime(text.strip(), column.format or "")
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    if column.type is Type.DATETIME:
        return moment
    if (moment.hour, moment.minute, moment.second, moment.microsecond) != (0, 0, 0, 0):
        raise ValueError("a time of day would be lost")
    return moment.date()

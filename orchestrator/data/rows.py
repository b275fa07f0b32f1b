"""Row filters and coarsening, a batch at a time. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.schema import Column, Type
from orchestrator.data.values import ARROW_TYPES
from orchestrator.terms import ColumnPermit, Operator, RowCondition, Scalar, Transform

_COMPARE: dict[Operator, Callable[[pa.ChunkedArray, pa.Scalar], pa.ChunkedArray]] = {
    Operator.EQ: pc.equal,
    Operator.NE: pc.not_equal,
    Operator.LT: pc.less,
    Operator.LE: pc.less_equal,
    Operator.GT: pc.greater,
    Operator.GE: pc.greater_equal,
}


def keep(table: pa.Table, conditions: tuple[RowCondition, ...], columns: Mapping[str, Column]) -> pa.Table:
    """The rows that meet all conditions.

    As in SQL, a missing value meets no comparison, ``!=`` and ``not-in`` included: a row whose value is
    unknown is not shown for it. Only ``is-null`` finds it.
    """
    if not conditions:
        return table
    met: pa.ChunkedArray | None = None
    for condition in conditions:
        this = _met(table[condition.column], condition, columns[condition.column])
        met = this if met is None else pc.and_(met, this)
    return table.filter(met, null_selection_behavior="drop")


def _met(values: pa.ChunkedArray, condition: RowCondition, column: Column) -> pa.ChunkedArray:
    if condition.operator is Operator.IS_NULL:
        return values.is_null()
    if condition.operator is Operator.NOT_NULL:
        return values.is_valid()
    kind = ARROW_TYPES[column.type]
    if condition.operator in (Operator.IN, Operator.NOT_IN):
        assert isinstance(condition.value, tuple)  # noqa: S101 - RowCondition holds it
        among = pc.is_in(values, value_set=pa.array([_read(value, column) for value in condition.value], kind))
        return among if condition.operator is Operator.IN else pc.and_not(values.is_valid(), among)
    return _COMPARE[condition.operator](values, pa.scalar(_read(condition.value, column), kind))


def _read(value: object, column: Column) -> Scalar | date | None:
    match column.type:
        case Type.DATE:
            return date.fromisoformat(str(value))
        case Type.DATETIME:
            return datetime.fromisoformat(str(value))
        case Type.NUMBER:
            assert isinstance(value, int | float)  # noqa: S101 - the catalogue checked it
            return float(value)
        case _:
            assert isinstance(value, int | str)  # noqa: S101 - the catalogue checked it
            return value


def coarsen(array: pa.Array, shown: ColumnPermit, column: Column) -> pa.Array:
    """Values as a transform makes them; missing ones stay missing."""
    if shown.transform is Transform.YEAR:
        return pc.floor_temporal(array, unit="year")
    if shown.transform is Transform.MONTH:
        return pc.floor_temporal(array, unit="month")
    assert shown.parameter is not None  # noqa: S101 - ColumnPermit holds it
    width: int | float = int(shown.parameter) if column.type is Type.INTEGER else shown.parameter
    if shown.transform is Transform.TOP:
        return pc.min_element_wise(array, pa.scalar(width, array.type), skip_nulls=False)
    values = array.fill_null(0).to_numpy(zero_copy_only=False)
    return pa.array(
        np.floor_divide(values, width) * width,
        array.type,
        mask=array.is_null().to_numpy(zero_copy_only=False),
    )

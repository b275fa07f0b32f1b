"""Conditions on rows as a person types them, one a line: ``age >= 40``, ``code in "007", S72.0``, ``died is-null``.

What is written reads back as the very same condition: else a draft that is saved once more would ask for other rows.
A text that could be taken for something else stands in quotation marks.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import ValidationError

from orchestrator.terms import Operator, RowCondition, Scalar

_CONDITION = re.compile(r"(?P<column>\S+)\s+(?P<operator>\S+)(?:\s+(?P<value>.*))?")
#: a value in quotation marks (a JSON string), or anything up to a comma
_VALUE = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[^",][^,]*|)\s*(,|$)')
_WHOLE = re.compile(r"-?(?:0|[1-9]\d{0,30})")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,30})(?:\.\d{1,40})?(?:e[+-]?\d{1,2})?")
_PLAIN = re.compile(r'[^\s",](?:[^",\n\r]*[^\s",])?')


def read_condition(line: str) -> RowCondition:
    """The condition that a line says.

    Raises:
        ValueError: it says none.
    """
    found = _CONDITION.fullmatch(line.strip())
    if found is None or found["operator"] not in set(Operator):
        raise ValueError("no condition")
    operator, text = Operator(found["operator"]), (found["value"] or "").strip()
    value: Any = None
    if operator in (Operator.IN, Operator.NOT_IN):
        value = tuple(_values(text))
    elif text:
        value = _value(text)
    try:
        return RowCondition(column=found["column"], operator=operator, value=value)
    except ValidationError as error:
        raise ValueError("no condition") from error


def written_condition(condition: RowCondition) -> str:
    """The line that says ``condition``."""
    said = f"{condition.column} {condition.operator}"
    if condition.value is None:
        return said
    values = condition.value if isinstance(condition.value, tuple) else (condition.value,)
    return f"{said} {', '.join(map(_written, values))}"


def _values(text: str) -> list[Scalar]:
    values: list[Scalar] = []
    at = 0
    while at < len(text):
        found = _VALUE.match(text, at)
        if found is None or not found[1]:
            raise ValueError("no list of values")
        values.append(_value(found[1].strip()))
        at = found.end()
    if not values:
        raise ValueError("no list of values")
    return values


def _value(text: str) -> Scalar:
    if text.startswith('"'):
        told = json.loads(text)
        if not isinstance(told, str):
            raise ValueError("no text")
        return told
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else text


def _written(value: Scalar) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    plain = _PLAIN.fullmatch(value) and _value(value) == value
    return value if plain else json.dumps(value, ensure_ascii=False)

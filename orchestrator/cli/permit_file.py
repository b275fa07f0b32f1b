"""Permit files: YAML that says what a project may see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from orchestrator.cli.dates import moment
from orchestrator.errors import InputError
from orchestrator.governance.permits import PermitDraft
from orchestrator.terms import TablePermit

MAX_BYTES = 1024 * 1024

_KEYS = ("valid_from", "valid_until", "tables")


def read_permit_file(path: Path) -> PermitDraft:
    """The draft in a permit file.

    Raises:
        InputError: names the file and every fault in it.
    """
    try:
        return parse_permit(text_of(path))
    except InputError as error:
        raise InputError(f"{path}: {error.message}", hint=error.hint) from error


def text_of(path: Path) -> str:
    """The text of a file. Raises InputError."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"larger than {MAX_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(str(error.strerror)) from error
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8 text") from error


def mapping_in(text: str, what: str, known: Sequence[str], needed: Sequence[str] = ()) -> dict[str, Any]:
    """The mapping in YAML ``text`` with these keys. Raises InputError naming every fault."""
    try:
        raw = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise InputError(f"{what} must be a mapping", hint=f"with {', '.join(known)}")
    unknown = sorted(str(key) for key in raw if key not in known)
    missing = [key for key in needed if key not in raw]
    if unknown or missing:
        faults = [f"unknown key '{key}'" for key in unknown] + [f"'{key}' is missing" for key in missing]
        raise InputError("; ".join(faults))
    return raw


def parse_permit(text: str) -> PermitDraft:
    """The draft in the text of a permit file. Raises InputError naming every fault."""
    raw = mapping_in(text, "a permit", _KEYS, _KEYS)
    if not isinstance(raw["tables"], list) or not raw["tables"]:
        raise InputError("tables must be a list of at least one table")
    faults = []
    tables = []
    for number, table in enumerate(raw["tables"], start=1):
        try:
            tables.append(TablePermit.model_validate(table_of(table)))
        except InputError as error:
            faults.append(f"table {number}: {error.message}")
        except ValidationError as error:
            faults += [f"table {number}: {place_of(fault)}{fault['msg']}" for fault in error.errors()]
    if faults:
        raise InputError("; ".join(faults))
    return PermitDraft(
        valid_from=moment("valid_from", raw["valid_from"]),
        valid_until=moment("valid_until", raw["valid_until"], end=True),
        tables=tuple(tables),
    )


def place_of(fault: Any) -> str:
    """Where a fault that pydantic found is, as people count."""
    # pydantic counts from 0, and names the arms of a union; people need neither.
    parts = [f"{part + 1}" if isinstance(part, int) else str(part) for part in fault["loc"][:3]]
    return f"{' '.join(parts)}: " if parts else ""


def table_of(raw: Any) -> dict[str, Any]:
    """A table of a file as its model takes it: short forms written out. Raises InputError."""
    if not isinstance(raw, dict):
        raise InputError("must be a mapping with dataset and columns")
    table = dict(raw)
    table.setdefault("table", table.get("dataset"))
    columns = table.get("columns")
    if isinstance(columns, list):
        table["columns"] = [{"name": column} if isinstance(column, str) else column for column in columns]
    rows = table.get("rows")
    if rows is None:
        table.pop("rows", None)
    elif isinstance(rows, list):
        table["rows"] = [_condition(row) for row in rows]
    return table


def _condition(raw: Any) -> Any:
    if not isinstance(raw, dict):
        return raw
    condition = dict(raw)
    value = condition.get("value")
    if isinstance(value, list):
        condition["value"] = tuple(_scalar(one) for one in value)
    elif value is not None:
        condition["value"] = _scalar(value)
    return condition


def _scalar(value: Any) -> Any:
    # YAML reads an unquoted 2020-01-31 as a date; conditions hold it as ISO 8601 text.
    return value.isoformat() if hasattr(value, "isoformat") else value

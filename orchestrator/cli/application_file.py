"""Application files: YAML that says what is applied for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.cli.dates import moment
from orchestrator.cli.permit_file import mapping_in, place_of, table_of, text_of
from orchestrator.errors import InputError
from orchestrator.governance.cards import ApplicationContent


def read_application_file(path: Path) -> ApplicationContent:
    """The content in an application file.

    Raises:
        InputError: names the file and every fault in it.
    """
    try:
        return parse_application(text_of(path))
    except InputError as error:
        raise InputError(f"{path}: {error.message}", hint=error.hint) from error


def parse_application(text: str) -> ApplicationContent:
    """The content in the text of an application file, which may lack anything. Raises InputError naming every fault."""
    raw = mapping_in(text, "an application", tuple(ApplicationContent.model_fields))
    content: dict[str, Any] = {name: value for name, value in raw.items() if value is not None}
    for name in ("starts", "ends"):
        if name in content:
            content[name] = moment(name, content[name], end=name == "ends")
    tables = content.get("tables", [])
    if not isinstance(tables, list):
        raise InputError("tables must be a list")
    content["tables"] = [table_of(table) for table in tables]
    if isinstance(content.get("team"), list):
        content["team"] = tuple(content["team"])
    try:
        return ApplicationContent.model_validate(content)
    except ValidationError as error:
        raise InputError("; ".join(f"{place_of(fault)}{fault['msg']}" for fault in error.errors())) from error

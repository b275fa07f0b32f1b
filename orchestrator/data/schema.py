"""What a table holds: its columns, their types and their roles. Written by hand, in YAML.

```yaml
title: Trial of adjuvant chemotherapy for colon cancer
source: Moertel and others, 1990
licence: public domain
nulls: ["", NA]
columns:
  - {name: id, type: integer, role: identifier, entity: patient, description: {en: Patient, fr: Patient}}
  - {name: sex, type: integer, role: quasi-identifier, codes: {0: female, 1: male}}
```
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import date, datetime
from enum import StrEnum
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from orchestrator.errors import InputError
from orchestrator.terms import ColumnName, Scalar


class Type(StrEnum):
    """What the values of a column are."""

    STRING = "string"
    INTEGER = "integer"  # 64 bits, signed
    NUMBER = "number"  # 64 bits, floating point, finite
    BOOLEAN = "boolean"
    DATE = "date"
    DATETIME = "datetime"  # microseconds, without a zone; a zone in the source is converted to UTC


class Role(StrEnum):
    """What a column says about a person, which decides how it is kept and shown."""

    IDENTIFIER = "identifier"  # stored and shown as a pseudonym only
    QUASI_IDENTIFIER = "quasi-identifier"
    DATE = "date"
    MEASURE = "measure"
    FREE_TEXT = "free-text"


class Part(BaseModel):
    """A frozen part of a schema; unknown keys are refused, so a misspelt one cannot be silently off."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Translated(Part):
    """A text in the languages of the portal."""

    en: str
    fr: str | None = None


def _in_english(text: str | Translated) -> Translated:
    return Translated(en=text) if isinstance(text, str) else text


Text = Annotated[str | Translated, AfterValidator(_in_english)]
"""A text, or one for each language: ``{en: …, fr: …}``. Read as :class:`Translated`."""

Encoding = Literal["utf-8", "iso-8859-1", "iso-8859-15", "windows-1252"]
_PYTHON_TYPES: dict[Type, tuple[type, ...]] = {
    Type.STRING: (str,),
    Type.INTEGER: (int,),
    Type.NUMBER: (int, float),
    Type.BOOLEAN: (bool,),
    Type.DATE: (str,),
    Type.DATETIME: (str,),
}

_FROM_TEXT: dict[str, Callable[[str], Scalar]] = {
    Type.INTEGER: int,
    Type.NUMBER: float,
    Type.BOOLEAN: {"true": True, "false": False}.__getitem__,
}


def fits(value: object, kind: Type) -> bool:
    """Whether a value written in YAML or in a permit is one of the type. Dates are written in ISO 8601."""
    if isinstance(value, bool) != (kind is Type.BOOLEAN):
        return False
    if not isinstance(value, _PYTHON_TYPES[kind]):
        return False
    if isinstance(value, int | float) and not (
        isfinite(value) and (kind is not Type.INTEGER or -(2**63) <= value < 2**63)
    ):
        return False
    if isinstance(value, str) and kind in (Type.DATE, Type.DATETIME):
        try:
            if kind is Type.DATE:
                date.fromisoformat(value)
            else:
                return datetime.fromisoformat(value).tzinfo is None
        except ValueError:
            return False
    return True


class Column(Part):
    """One column of a table."""

    name: ColumnName
    type: Type
    role: Role
    description: Text = Translated(en="")
    nullable: bool = True
    #: how a date is written in a source of text (``strptime``); None: ISO 8601
    format: str | None = None
    #: what the values stand for; values without a code are allowed
    codes: dict[Scalar, Text] = {}
    #: what an identifier identifies. Columns of one dataset with the same entity get the same pseudonyms, so
    #: their tables can be joined; others cannot. The default is the column's name.
    entity: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,62}$")] | None = None

    @model_validator(mode="before")
    @classmethod
    def _codes_from_json(cls, raw: Any) -> Any:
        """JSON has no keys but text: read ``"1"`` as 1 where the column's type says so."""
        if not isinstance(raw, dict) or not isinstance(raw.get("codes"), dict):
            return raw
        kind = raw.get("type", "")
        read = _FROM_TEXT.get(kind, str) if isinstance(kind, str) else str
        try:
            codes = {read(key) if isinstance(key, str) else key: label for key, label in raw["codes"].items()}
        except (KeyError, ValueError) as error:
            raise ValueError(f"a code does not fit the type {raw['type']}: {error}") from error
        return {**raw, "codes": codes}

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.format is not None and self.type not in (Type.DATE, Type.DATETIME):
            raise ValueError(f"a format goes with a date or datetime, not with {self.type}")
        if self.entity is not None and self.role is not Role.IDENTIFIER:
            raise ValueError(f"an entity goes with an identifier, not with {self.role}")
        if self.role is Role.IDENTIFIER and self.type not in (Type.STRING, Type.INTEGER):
            raise ValueError(f"an identifier is a string or an integer, not {self.type}")
        if self.role is Role.IDENTIFIER and self.codes:
            raise ValueError("codes would spell out identifiers in clear")
        if self.role is Role.FREE_TEXT and self.type is not Type.STRING:
            raise ValueError(f"free text is a string, not {self.type}")
        for code in self.codes:
            if not fits(code, self.type):
                raise ValueError(f"code {code!r} does not fit the type {self.type}")
        return self

    @property
    def identified(self) -> str:
        """What an identifier identifies; the domain of its pseudonyms."""
        return self.entity or self.name


class TableSchema(Part):
    """A table: where it comes from, how its file is written, and its columns."""

    title: Text
    description: Text = Translated(en="")
    source: str = ""
    licence: str = ""
    #: spellings of a missing value in a source of text
    nulls: tuple[str, ...] = ("",)
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    encoding: Encoding = "utf-8"
    #: columns of the file that are left out on purpose
    omit: tuple[str, ...] = ()
    columns: Annotated[tuple[Column, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        # by lower case, because analysis tools fold the case of names
        names = Counter(column.name.lower() for column in self.columns)
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            raise ValueError(f"columns named twice: {', '.join(twice)}")
        both = {column.name for column in self.columns} & set(self.omit)
        if both:
            raise ValueError(f"columns both kept and omitted: {', '.join(sorted(both))}")
        return self

    def column(self, name: str) -> Column | None:
        """The column of that name, if there is one."""
        return next((column for column in self.columns if column.name == name), None)

    def check_names(self, found: list[str], where: str) -> None:
        """Compare the names in a file with the schema: nothing is missing and nothing enters unseen.

        Raises:
            InputError: names every column that is there twice, missing, or not in the schema.
        """
        twice = [repr(name) for name, count in Counter(found).items() if count > 1]
        if twice:
            raise InputError(f"{where}: the header names a column twice: {', '.join(twice)}")
        wanted = [*(column.name for column in self.columns), *self.omit]
        missing = [repr(name) for name in wanted if name not in found]
        if missing:
            raise InputError(
                f"{where}: the schema names columns that the file does not have: {', '.join(missing)}",
                hint=f"the file has {', '.join(repr(name) for name in found)}",
            )
        unseen = [repr(name) for name in found if name not in wanted]
        if unseen:
            raise InputError(
                f"{where}: the file has columns that the schema does not name: {', '.join(unseen)}",
                hint="describe them in the schema, or list them under 'omit'",
            )


def parse_schema(raw: Any, where: str) -> TableSchema:
    """Validate a schema as read from YAML or JSON.

    Raises:
        InputError: names every fault, with the column it is in.
    """
    if not isinstance(raw, Mapping):
        raise InputError(f"{where} must be a mapping with 'title' and 'columns'")
    try:
        return TableSchema.model_validate(raw)
    except ValidationError as error:
        raise InputError(f"{where}: {'; '.join(_faults(error, raw))}") from error


def load_schema(path: Path) -> TableSchema:
    """Read a schema file.

    Raises:
        InputError: absent, not YAML, or wrong; all faults are named.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"schema {path}: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"schema {path} is not YAML in UTF-8: {error}") from error
    return parse_schema(raw, f"schema {path.name}")


def _faults(error: ValidationError, raw: Mapping[str, Any]) -> list[str]:
    faults: list[str] = []
    for fault in error.errors():
        place = [part for part in fault["loc"] if part not in _UNION_STEPS and "[" not in str(part)]
        message = fault["msg"].removeprefix("Value error, ")
        if len(place) >= 2 and place[0] == "columns" and isinstance(place[1], int):
            name = _column_name(raw, place[1])
            key = ".".join(str(part) for part in place[2:])
            if fault["type"] == "missing" and key == "role":
                roles = ", ".join(Role)
                faults.append(f"column {name} has no role (one of {roles})")
            else:
                faults.append(f"column {name}{f', {key}' if key else ''}: {message}")
        else:
            faults.append(f"{'.'.join(str(part) for part in place) or 'schema'}: {message}")
    return list(dict.fromkeys(faults))


_UNION_STEPS = frozenset({"str", "Translated", "bool", "int", "float", "[key]"})
"""Steps of a fault's place that name how we read, not what was written."""


def _column_name(raw: Mapping[str, Any], index: int) -> str:
    columns = raw.get("columns")
    entry = columns[index] if isinstance(columns, list | tuple) and index < len(columns) else None
    name = entry.get("name") if isinstance(entry, Mapping) else None
    return repr(name) if name is not None else f"number {index + 1}"

"""What lies in a folder of datasets: names, manifests, and the ids of keys. No data, and no secret.

```
datasets/<dataset>/current.json                which version of each table is current
datasets/<dataset>/<version>/manifest.json     schema and number of rows of the table in that version
datasets/<dataset>/<version>/keys.json         ids of its keys, written before the keys are made
datasets/<dataset>/<version>/<table>.parquet   encrypted
```
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, ValidationError

from orchestrator.data.schema import Part, TableSchema
from orchestrator.errors import InputError
from orchestrator.terms import TableName

MANIFEST = "manifest.json"
KEYS = "keys.json"
CURRENT = "current.json"
STAGING = ".staging-"
SCHEMA_METADATA = b"bulle.schema"
"""Key under which a file's footer holds its schema: authenticated, unlike the manifest."""

PartT = TypeVar("PartT", bound=Part)
Version = Annotated[int, Field(ge=1)]


_NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,38}[a-z0-9])?")


def check_name(what: str, name: str) -> None:
    """Refuse what is not a plain name, before it becomes part of a path or of a key id.

    Raises:
        InputError: it has other characters, or too many.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} cannot be the name of a {what}",
            hint="1 to 40 of a-z, 0-9, '-' and '_', with a letter or digit at both ends",
        )


class Manifest(Part):
    """One version of one table."""

    dataset: TableName
    table: TableName
    version: Version
    rows: Annotated[int, Field(ge=0)]
    description: TableSchema


class Keys(Part):
    """Ids of the keys of one version, so that they can be destroyed whatever happened to the rest."""

    key_ids: tuple[str, ...]


class Current(Part):
    """The versions of a dataset: all that were published, and the current one of each table."""

    published: tuple[Version, ...] = ()
    tables: dict[TableName, Version] = Field(default_factory=dict)


def identifiers_key(dataset: str) -> str:
    """Key id of the secret under which a dataset's identifiers become level-one pseudonyms."""
    return f"dataset/{dataset}/identifiers"


def footer_key(dataset: str, version: int, table: str) -> str:
    """Key id of a file's footer."""
    return f"dataset/{dataset}/{version}/{table}/footer"


def column_key(dataset: str, version: int, table: str, column: str) -> str:
    """Key id of one column of a file."""
    return f"dataset/{dataset}/{version}/{table}/column/{column}"


def read_part(kind: type[PartT], path: Path) -> PartT:
    """Read one of the JSON files above.

    Raises:
        InputError: absent or not what it should be.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        raise InputError(f"{path} is damaged: {error.errors()[0]['msg']}") from error


def read_current(dataset_folder: Path) -> Current:
    """The versions of a dataset; none if it was never published."""
    path = dataset_folder / CURRENT
    return read_part(Current, path) if path.exists() else Current()

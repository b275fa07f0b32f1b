from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.data.schema import Role, Type, fits, load_schema, parse_schema
from orchestrator.errors import InputError
from tests.unit.data.conftest import PEOPLE


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    raw = copy.deepcopy(PEOPLE)
    change(raw)
    return raw


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw["columns"][0].pop("role"), "column 'pid' has no role"),
        (lambda raw: raw["columns"][1].update(role="secret"), "column 'born', role"),
        (lambda raw: raw["columns"][1].update(typ="date"), "column 'born', typ"),
        (lambda raw: raw["columns"][0].update(type="number"), "column 'pid': an identifier is"),
        (lambda raw: raw["columns"][0].update(codes={"a": "b"}), "column 'pid': codes would spell out"),
        (lambda raw: raw["columns"][2].update(codes={"x": "b"}), "column 'sex': a code does not fit"),
        (lambda raw: raw["columns"][2].update(format="%Y"), "column 'sex': a format"),
        (lambda raw: raw["columns"][2].update(entity="person"), "column 'sex': an entity"),
        (lambda raw: raw["columns"][3].update(role="free-text"), "column 'weight': free text"),
        (lambda raw: raw["columns"][3].update(name="1 x"), "column '1 x', name"),
        (lambda raw: raw["columns"][3].update(name="PID"), "columns named twice: pid"),
        (lambda raw: raw.update(omit=["pid"]), "both kept and omitted: pid"),
        (lambda raw: raw.update(columns=[]), "columns"),
        (lambda raw: raw.pop("title"), "title"),
        (lambda raw: raw["columns"].append(3), "column number 7"),
    ],
)
def test_a_wrong_schema_is_refused_and_the_fault_named(change: Callable[[Any], object], said: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_schema(changed(change), "schema people.yaml")
    assert said in str(refused.value)
    assert "people.yaml" in str(refused.value)


def test_a_schema_survives_json() -> None:
    schema = parse_schema(PEOPLE, "schema")
    assert parse_schema(json.loads(schema.model_dump_json()), "again") == schema


@pytest.mark.parametrize("content", ["- a list", "{", "title: [", "\udcff"])
def test_a_file_that_is_no_schema_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=r"bad\.yaml"):
        load_schema(path)
    with pytest.raises(InputError, match="absent"):
        load_schema(tmp_path / "absent.yaml")


@example({"title": "T", "columns": [{"name": "a", "type": [], "codes": {}}]})
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["title", "columns", "name", "type", "role", "codes", "omit", "description"]), inner
            )
        ),
    )
)
def test_no_input_does_more_than_raise_an_input_error(raw: Any) -> None:
    with contextlib.suppress(InputError):
        parse_schema(raw, "schema")


@pytest.mark.parametrize(
    ("value", "kind", "fit"),
    [
        (1, Type.INTEGER, True),
        (True, Type.INTEGER, False),
        (1.0, Type.INTEGER, False),
        (2**63, Type.INTEGER, False),
        (1, Type.NUMBER, True),
        (float("inf"), Type.NUMBER, False),
        ("1", Type.INTEGER, False),
        (True, Type.BOOLEAN, True),
        (1, Type.BOOLEAN, False),
        ("2020-02-29", Type.DATE, True),
        ("2021-02-29", Type.DATE, False),
        ("2020-02-29T10:00:00", Type.DATETIME, True),
        ("2020-02-29T10:00:00Z", Type.DATETIME, False),
        ("x", Type.STRING, True),
    ],
)
def test_what_fits_a_type(value: object, kind: Type, fit: bool) -> None:
    assert fits(value, kind) is fit


@pytest.mark.parametrize("name", ["rwm5yr", "colon"])
def test_the_schemas_of_the_demo_are_right_and_in_two_languages(name: str) -> None:
    schema = load_schema(Path(str(files("orchestrator.cli") / "demo" / f"{name}.yaml")))
    assert schema.column("id").role is Role.IDENTIFIER  # type: ignore[union-attr]
    for column in schema.columns:
        for text in (column.description, *column.codes.values()):
            assert text.en, column.name  # type: ignore[union-attr]
            assert text.fr, column.name  # type: ignore[union-attr]

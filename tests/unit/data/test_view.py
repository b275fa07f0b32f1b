from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config import PseudonymForm
from orchestrator.data import ingest as ingest_room
from orchestrator.data import view as view_room
from orchestrator.data.rows import coarsen, keep
from orchestrator.data.schema import Column
from orchestrator.data.view import build_view, required_keys
from orchestrator.errors import CustodyError, InputError, RefusedError, UnavailableError
from orchestrator.terms import ColumnPermit, PermitTerms, RowCondition
from tests.unit.data.conftest import Data

Permit = Callable[..., PermitTerms]
KEY = bytes(range(32))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "view"
    path.mkdir()
    return path


def view(data: Data, terms: PermitTerms, target: Path, **options: Any) -> pa.Table:
    report = build_view(data.catalogue, terms, KEY, data.key, target, **options)
    (path,) = report.files
    table = pq.read_table(path)
    assert report.rows == table.num_rows
    return table


def test_a_view_has_the_permits_columns_in_order_and_rows(data: Data, permit: Permit, target: Path) -> None:
    data.ingest()
    terms = permit("town", "pid", "weight", rows=[{"column": "sex", "operator": "=", "value": 1}])
    seen: list[tuple[int, int]] = []
    table = view(data, terms, target, progress=lambda done, total: seen.append((done, total)))
    assert table.column_names == ["town", "pid", "weight"]
    assert table["town"].to_pylist() == ["Lyon-Planted", "Lyon-Planted"]
    assert table["weight"].to_pylist() == [71.25, 73.75]
    assert table.schema.field("town").type == pa.string()
    assert seen == [(4, 4)]
    first, second = table["pid"].to_pylist()
    assert first == second
    assert len(bytes.fromhex(first)) == 16
    assert (target / "people" / "people.parquet").stat().st_mode & 0o777 == 0o644


def test_no_key_outside_the_permit_is_asked_for(data: Data, permit: Permit, target: Path) -> None:
    info = data.ingest()
    terms = permit("weight", rows=[{"column": "sex", "operator": "=", "value": 1}])
    view(data, terms, target)
    expected = [info.footer_key, info.column_key("weight"), info.column_key("sex")]
    assert data.asked == expected == required_keys(data.catalogue, terms)


def test_a_refused_key_stops_the_view_and_leaves_no_file(data: Data, permit: Permit, target: Path) -> None:
    data.ingest()

    def refuse(key_id: str) -> bytes:
        if key_id.endswith("/weight"):
            raise RefusedError(f"key '{key_id}' is not for you")
        return data.ring.get(key_id)

    with pytest.raises(RefusedError, match="weight"):
        build_view(data.catalogue, permit("sex", "weight"), KEY, refuse, target)
    assert not list(target.rglob("*.parquet"))


def test_a_wrong_key_opens_nothing(data: Data, permit: Permit, target: Path) -> None:
    data.ingest()
    with pytest.raises(CustodyError):
        build_view(data.catalogue, permit("sex"), KEY, lambda _: bytes(32), target)
    footer = data.catalogue.table("people", "people").footer_key

    def only_footer(key_id: str) -> bytes:
        return data.ring.get(key_id) if key_id == footer else bytes(32)

    with pytest.raises(CustodyError):
        build_view(data.catalogue, permit("sex"), KEY, only_footer, target)
    assert not list(target.rglob("*.parquet"))


def test_an_edited_manifest_is_refused(data: Data, permit: Permit, target: Path) -> None:
    """The host of the disk turns the identifier into a measure, to have level-one pseudonyms shown."""
    info = data.ingest()
    terms = permit("pid")
    view(data, terms, target)  # negative control: unedited, it opens
    manifest = data.catalogue.path(info).parent / "manifest.json"
    text = manifest.read_text()
    edited = text.replace('"role": "identifier"', '"role": "measure"').replace('"entity": "person"', '"entity": null')
    assert edited != text
    manifest.write_text(edited)
    with pytest.raises(CustodyError, match="manifest"):
        view(data, terms, target)


def test_an_older_file_in_the_place_of_a_newer_is_refused(data: Data, permit: Permit, target: Path) -> None:
    old = data.catalogue.path(data.ingest())
    new = data.catalogue.path(data.ingest())
    new.write_bytes(old.read_bytes())
    with pytest.raises(CustodyError):
        view(data, permit("sex"), target)


def test_pseudonyms_differ_between_projects_and_agree_within(data: Data, permit: Permit, target: Path) -> None:
    data.ingest()
    build = {}
    for key in (KEY, bytes(32)):
        (path,) = build_view(data.catalogue, permit("pid"), key, data.key, target).files
        build[key] = pq.read_table(path)["pid"].to_pylist()
    assert not set(build[KEY]) & set(build[bytes(32)])
    raw = view(data, permit("pid"), target, form=PseudonymForm.BYTES)["pid"]
    assert raw.type == pa.binary(16)
    assert [value.hex() for value in raw.to_pylist()] == build[KEY]


def test_the_terms_are_checked_before_any_key_is_asked_for(data: Data, permit: Permit, target: Path) -> None:
    data.ingest()
    with pytest.raises(InputError, match="no column 'ssn'"):
        view(data, permit("ssn"), target)
    assert data.asked == []


def test_a_filter_that_nothing_meets_gives_an_empty_table(data: Data, permit: Permit, target: Path) -> None:
    data.ingest()
    table = view(data, permit("pid", "town", rows=[{"column": "sex", "operator": "=", "value": 9}]), target)
    assert (table.num_rows, table.column_names) == (0, ["pid", "town"])


def test_many_row_groups(data: Data, permit: Permit, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_room, "GROUP_ROWS", 1000)
    rows = [f"p{n % 700},,{n % 3},{n}.5,town{n % 11},\n" for n in range(12_345)]
    data.ingest("pid,born,sex,weight,town,note\n" + "".join(rows))
    seen: list[int] = []
    terms = permit("weight", "town", "pid", rows=[{"column": "sex", "operator": "!=", "value": 0}])
    table = view(data, terms, target, progress=lambda done, total: seen.append(done))
    kept = [n for n in range(12_345) if n % 3]
    assert table["weight"].to_pylist() == [n + 0.5 for n in kept]
    assert table["town"].to_pylist() == [f"town{n % 11}" for n in kept]
    assert len(set(table["pid"].to_pylist())) == 700
    assert seen[-1] == 12_345
    assert len(seen) == 13


def test_a_full_target_is_said_and_leaves_no_file(data: Data, permit: Permit, target: Path) -> None:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(target)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("mounting a tmpfs needs root with CAP_SYS_ADMIN")
    try:
        rows = [f"p{n},,1,{n}.5,,\n" for n in range(100_000)]
        data.ingest("pid,born,sex,weight,town,note\n" + "".join(rows))
        with pytest.raises(UnavailableError, match="memory for views is full"):
            view(data, permit("pid", "weight"), target)
        assert not list(target.rglob("*.parquet"))
    finally:
        subprocess.run(["umount", str(target)], check=True)


@pytest.mark.parametrize(
    ("column", "transform", "parameter", "values", "expected"),
    [
        ("date", "year", None, ["1950-03-17", None], ["1950-01-01", None]),
        ("date", "month", None, ["1950-03-17", None], ["1950-03-01", None]),
        ("datetime", "month", None, ["1950-03-17T10:11:12"], ["1950-03-01 00:00:00"]),
        ("integer", "band", 5, [0, 4, 5, -1, None, 2**60 + 3], [0, 0, 5, -5, None, 2**60 - 1]),
        ("integer", "top", 90, [89, 90, 104, None], [89, 90, 90, None]),
        ("number", "band", 2.5, [0.0, 2.4, 2.5, -0.1, None], [0.0, 0.0, 2.5, -2.5, None]),
        ("number", "top", 1.5, [1.0, 2.0, None], [1.0, 1.5, None]),
    ],
)
def test_coarsening(column: str, transform: str, parameter: float | None, values: Any, expected: Any) -> None:
    from orchestrator.data.schema import Type
    from orchestrator.data.values import ARROW_TYPES

    shown = ColumnPermit.model_validate({"name": "x", "transform": transform, "parameter": parameter})
    described = Column.model_validate({"name": "x", "type": column, "role": "measure"})
    array = pa.array(values).cast(ARROW_TYPES[Type(column)])
    result = coarsen(array, shown, described)
    assert result.type == array.type
    got = result.to_pylist()
    assert [str(value) for value in got] == [str(value) for value in expected]


@settings(max_examples=80, deadline=None)
@given(
    values=st.lists(st.none() | st.integers(-3, 3), max_size=30),
    conditions=st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), st.integers(-3, 3)),
            st.tuples(st.sampled_from(["in", "not-in"]), st.lists(st.integers(-3, 3), max_size=4).map(tuple)),
            st.tuples(st.sampled_from(["is-null", "not-null"]), st.none()),
        ),
        max_size=3,
    ),
)
def test_row_filters_mean_what_they_mean_in_sql(values: list[int | None], conditions: list[tuple[str, Any]]) -> None:
    table = pa.table({"x": pa.array(values, pa.int64()), "place": pa.array(range(len(values)), pa.int64())})
    column = Column.model_validate({"name": "x", "type": "integer", "role": "measure"})
    rows = tuple(RowCondition(column="x", operator=operator, value=value) for operator, value in conditions)
    words = ["true"]
    for operator, value in conditions:
        if operator in ("in", "not-in"):
            among = ", ".join(str(one) for one in value) or "select 1 where false"
            words.append(f"x {operator.replace('-', ' ')} ({among})" + (" and x is not null" if not value else ""))
        else:
            words.append({"is-null": "x is null", "not-null": "x is not null"}.get(operator, f"x {operator} {value}"))
    connection = duckdb.connect(config={"threads": 1})
    connection.register("t", table)
    expected = [
        at for (at,) in connection.execute(f"select place from t where {' and '.join(words)} order by place").fetchall()
    ]
    assert keep(table, rows, {"x": column})["place"].to_pylist() == expected


def test_the_view_reads_the_same_in_another_engine(data: Data, permit: Permit, target: Path) -> None:
    data.ingest()
    table = view(data, permit("pid", "born", "sex", "weight", "town", "note"), target)
    again = duckdb.connect().execute(f"select * from '{target}/people/people.parquet'").fetchall()
    assert again == [tuple(row.values()) for row in table.to_pylist()]


def test_no_text_of_a_dropped_row_is_in_the_view(
    data: Data, permit: Permit, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.ingest()
    terms = permit("pid", "town", rows=[{"column": "sex", "operator": "=", "value": 2}])
    assert view(data, terms, target)["town"].to_pylist() == ["Brest-Planted", None]
    path = target / "people" / "people.parquet"
    assert b"Brest-Planted" in path.read_bytes()
    assert b"Lyon-Planted" not in path.read_bytes()
    # the negative control: a filter alone leaves the dictionary as it was
    monkeypatch.setattr(view_room, "_without_unused", lambda array: array)
    view(data, terms, target)
    assert b"Lyon-Planted" in path.read_bytes()

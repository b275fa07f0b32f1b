from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.errors import InputError, NotFoundError
from orchestrator.terms import PermitTerms
from tests.unit.data.conftest import Data


def test_what_there_is(data: Data) -> None:
    assert data.catalogue.datasets() == ()
    data.ingest()
    (dataset,) = data.catalogue.datasets()
    info = data.catalogue.table("people", "people")
    assert dataset.tables == (info,)
    assert [column.name for column in info.columns] == ["pid", "born", "sex", "weight", "town", "note"]
    assert info.column("sex").codes[2].en == "female"  # type: ignore[union-attr]
    for wrong in (("peopel", "people"), ("people", "peopel"), ("../people", "people")):
        with pytest.raises(NotFoundError):
            data.catalogue.table(*wrong)


@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        (["pid", "note"], []),
        ([{"name": "born", "transform": "year"}], [{"column": "born", "operator": ">=", "value": "1950-01-01"}]),
        ([{"name": "sex", "transform": "top", "parameter": 1}], [{"column": "sex", "operator": "in", "value": (1, 2)}]),
        (["sex"], [{"column": "pid", "operator": "not-null"}]),
        (["sex"], [{"column": "weight", "operator": "<", "value": 80}]),
    ],
)
def test_a_fitting_permit(data: Data, permit: Callable[..., PermitTerms], columns: Any, rows: Any) -> None:
    data.ingest()
    data.catalogue.check(permit(*columns, rows=rows))


@pytest.mark.parametrize(
    ("columns", "rows", "said"),
    [
        (["ssn"], [], "no column 'ssn'"),
        (["pid", "pid"], [], "names column 'pid' twice"),
        ([{"name": "sex", "transform": "year"}], [], "'year' does not go with column 'sex'"),
        ([{"name": "town", "transform": "top", "parameter": 1}], [], "'top' does not go with column 'town'"),
        ([{"name": "pid", "transform": "month"}], [], "never transformed"),
        ([{"name": "sex", "transform": "band", "parameter": 1.5}], [], "whole numbers"),
        (["sex"], [{"column": "ssn", "operator": "=", "value": 1}], "no column 'ssn'"),
        (["sex"], [{"column": "sex", "operator": "=", "value": "1"}], "'sex', a integer, with '1'"),
        (["sex"], [{"column": "sex", "operator": "in", "value": (1, "2")}], "with '2'"),
        (["sex"], [{"column": "born", "operator": ">", "value": "1950-02-30"}], "with '1950-02-30'"),
        (["sex"], [{"column": "pid", "operator": "=", "value": "QX"}], "is an identifier"),
    ],
)
def test_a_permit_for_what_is_not_there(
    data: Data, permit: Callable[..., PermitTerms], columns: Any, rows: Any, said: str
) -> None:
    data.ingest()
    with pytest.raises(InputError) as refused:
        data.catalogue.check(permit(*columns, rows=rows))
    assert said in str(refused.value)


def test_a_permit_for_another_dataset_or_table(data: Data, permit: Callable[..., PermitTerms]) -> None:
    data.ingest()
    with pytest.raises(InputError, match="no dataset 'colon'"):
        data.catalogue.check(permit("x", dataset="colon"))
    with pytest.raises(InputError, match="no table 'visits'"):
        data.catalogue.check(permit("x", table="visits"))
    terms = permit("sex")
    with pytest.raises(InputError, match="'people/people' twice"):
        data.catalogue.check(terms.tables * 2)

"""Writing an application without any script, deciding on it, and seeing what it would change."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.governance.cards import ApplicationContent, ProjectRecord, RequestedColumn, RequestedTable
from orchestrator.governance.sessions import readable_condition
from orchestrator.governance.states import ProjectState
from orchestrator.portal import changes as changes_module
from orchestrator.portal.acting import FormFault
from orchestrator.portal.changes import Change, changes, pieces
from orchestrator.portal.conditions import read_condition, written_condition
from orchestrator.portal.pages.applications import _edited, _place, content_of
from orchestrator.terms import ColumnPermit, Operator, PermitTerms, RowCondition, TablePermit

FORM: dict[str, list[str]] = {
    "title": [" Hips "],
    "lay_summary": ["a\r\nb"],
    "purpose": [""],
    "legal_basis": [""],
    "outputs": [""],
    "lead": ["ada"],
    "team": ["bob, cyd\r\n dan"],
    "starts": ["2027-01-01"],
    "ends": ["2027-12-31"],
    "table-0": ["visits/visits"],
    "table-0-reason": ["The only one."],
    "table-0-columns": ["id", "age", "age"],
    "table-0-reason-id": ["To follow."],
    "table-0-reason-age": ["Confounder."],
    "table-0-transform-age": ["band"],
    "table-0-parameter-age": ["2,5"],
    "table-0-reason-sex": ["typed, but not ticked"],
    "table-0-rows": ["age >= 40\r\n\r\ncode in 007, 8"],
}


# -- from fields to what it says -------------------------------------------------------------------------
def test_a_form_says_what_was_typed() -> None:
    content = ApplicationContent.model_validate(content_of(FORM))
    assert (content.title, content.lay_summary, content.team) == ("Hips", "a\nb", ("bob", "cyd", "dan"))
    assert content.starts == datetime(2027, 1, 1, tzinfo=UTC)
    assert content.ends == datetime(2028, 1, 1, tzinfo=UTC), "the last day belongs to it"
    (table,) = content.tables
    assert [(one.name, one.reason, one.transform, one.parameter) for one in table.columns] == [
        ("id", "To follow.", None, None),
        ("age", "Confounder.", "band", 2.5),
    ]
    assert [written_condition(row) for row in table.rows] == ["age >= 40", "code in 007, 8"]
    assert table.rows[1].value == ("007", 8)


def test_a_day_that_was_not_changed_keeps_its_hour() -> None:
    """Else an amendment that changes a word would move the beginning and the end of the project."""
    was = {"starts-was": ["2027-01-01T15:30:00+00:00"], "ends-was": ["2027-12-31T12:00:00+00:00"]}
    kept = content_of({**FORM, **was})
    assert (kept["starts"], kept["ends"]) == (was["starts-was"][0], was["ends-was"][0])
    moved = content_of({**FORM, **was, "starts": ["2027-01-02"]})
    assert moved["starts"] == "2027-01-02T00:00:00+00:00"
    assert content_of({**FORM, "ends-was": ["2028-01-01T00:00:00+00:00"]})["ends"] == "2028-01-01T00:00:00+00:00"
    assert content_of({**FORM, "ends-was": ["never"]})["ends"] == "2028-01-01T00:00:00+00:00"


def test_a_table_is_added_and_taken_out_by_a_button() -> None:
    added = content_of({**FORM, "new-table": ["colon/colon"], "add": ["yes"]})
    assert [table["dataset"] for table in added["tables"]] == ["visits", "colon"]
    assert [table["dataset"] for table in content_of({**FORM, "new-table": ["colon/colon"]})["tables"]] == ["visits"]
    assert content_of({**FORM, "drop": ["0"]})["tables"] == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"starts": ["soon"]}, "starts"),
        ({"table-0-parameter-age": ["wide"]}, "table-0-parameter-age"),
        ({"table-0-rows": ["age"]}, "table-0-rows"),
        ({"table-0-rows": ["age ~ 4"]}, "table-0-rows"),
        ({"table-0-rows": ["age >="]}, "table-0-rows"),
    ],
)
def test_what_cannot_be_read_is_named_by_its_field(change: dict[str, list[str]], field: str) -> None:
    with pytest.raises(FormFault) as found:
        content_of({**FORM, **change})
    assert set(found.value.faults) == {field}


@pytest.mark.parametrize("name", ["state", "drafted_by", "table-0-approved", "content", "table-x", "number-0"])
def test_a_field_that_no_form_has_is_refused(name: str) -> None:
    with pytest.raises(FormFault):
        _edited(None, {**FORM, "project": ["hips"], "number": ["1"], name: ["x"]})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("place", "field"),
    [
        (("content", "title"), "title"),
        (("content", "team", 0), "team"),
        (("content", "tables", 0, "reason"), "table-0-reason"),
        (("content", "tables", 0, "columns", 1, "reason"), "table-0-reason-age"),
        (("content", "tables", 0, "columns", 1, "name"), "table-0-columns"),
        (("number",), "number"),
    ],
)
def test_a_fault_is_shown_at_its_field(place: tuple[int | str, ...], field: str) -> None:
    assert _place(place, FORM) == field


_columns = st.from_regex(r"[a-z_][a-z0-9_]{0,10}", fullmatch=True)
_texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
_floats = st.floats(-1e20, 1e20).filter(lambda number: number == 0 or abs(number) > 1e-90)
_scalars = st.one_of(_texts, st.integers(-(10**12), 10**12), st.booleans(), _floats)


@settings(deadline=None)
@given(_columns, st.sampled_from(Operator), st.lists(_scalars, min_size=1, max_size=4))
def test_a_condition_reads_back_as_the_same_one(column: str, operator: Operator, values: list[Any]) -> None:
    """Else a draft that is saved again would ask for other rows: ``true`` as a word, ``007`` as a number."""
    value: Any = values[0]
    if operator in (Operator.IN, Operator.NOT_IN):
        value = tuple(values)
    if operator in (Operator.IS_NULL, Operator.NOT_NULL):
        value = None
    condition = RowCondition(column=column, operator=operator, value=value)
    text = written_condition(condition)
    assert "\n" not in text and read_condition(text) == condition


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("code = S72.0", "S72.0"),
        ("code = 007", "007"),
        ('code = "7"', "7"),
        ("age >= 40", 40),
        ("income < 12.5", 12.5),
        ("female = true", True),
        ("sex in f, m", ("f", "m")),
        ('name in "a, b", c', ("a, b", "c")),
    ],
)
def test_a_condition_is_read_as_people_write_it(line: str, value: Any) -> None:
    assert read_condition(line).value == value


@pytest.mark.parametrize("line", ["", "age", "age ~ 4", "age >=", "age in", 'a in "x', "a in ,", "a in x,,y", "1a = 2"])
def test_what_is_no_condition_is_none(line: str) -> None:
    with pytest.raises(ValueError):
        read_condition(line)


# -- what it would change --------------------------------------------------------------------------------
PROJECT = ProjectRecord(
    id="1",
    slug="hips",
    title="Hips",
    purpose="Whether hips break",
    state=ProjectState.ACTIVE,
    starts=datetime(2027, 1, 1, tzinfo=UTC),
    ends=datetime(2028, 1, 1, tzinfo=UTC),
    created_by="ada",
)
PERMIT = PermitTerms(
    version=1,
    valid_from=PROJECT.starts,
    valid_until=PROJECT.ends,
    tables=(
        TablePermit(
            dataset="visits",
            table="visits",
            columns=(ColumnPermit(name="id"), ColumnPermit(name="age", transform="band", parameter=5)),
            rows=(RowCondition(column="age", operator=">=", value=40),),
        ),
    ),
)
SAME = ApplicationContent(
    title="Hips",
    purpose="Whether  hips break",
    starts=PROJECT.starts,
    ends=PROJECT.ends,
    tables=(
        RequestedTable(
            dataset="visits",
            table="visits",
            columns=(RequestedColumn(name="id"), RequestedColumn(name="age", transform="band", parameter=5)),
            rows=PERMIT.tables[0].rows,
        ),
    ),
)


def test_the_same_changes_nothing() -> None:
    assert changes(SAME, PROJECT, PERMIT) == []


def test_words_that_come_and_go_are_marked() -> None:
    (change,) = changes(SAME.model_copy(update={"purpose": "Whether old hips break"}), PROJECT, PERMIT)
    assert [(piece.kind, piece.text.strip()) for piece in change.pieces if piece.kind != "same"] == [("new", "old")]


@settings(deadline=None)
@given(st.text(max_size=80), st.text(max_size=80))
def test_pieces_make_both_texts_again(before: str, after: str) -> None:
    found = list(pieces(before, after))
    assert "".join(piece.text for piece in found if piece.kind != "new") == before
    assert "".join(piece.text for piece in found if piece.kind != "gone") == after


def test_every_change_of_the_data_shows() -> None:
    """What a custodian does not see, they approve unseen."""
    table = SAME.tables[0]
    wanted = table.model_copy(
        update={
            "columns": (RequestedColumn(name="age"), RequestedColumn(name="sex", transform="year")),
            "rows": (RowCondition(column="age", operator=">=", value=18),),
        }
    )
    more = RequestedTable(dataset="colon", table="colon", columns=(RequestedColumn(name="stage"),))
    found = changes(SAME.model_copy(update={"tables": (wanted, more)}), PROJECT, PERMIT)
    assert [(change.table, change.kind) for change in found] == [("visits/visits", "other"), ("colon/colon", "new")]
    columns = {one.name: (one.kind, one.before, one.after) for one in found[0].columns}
    assert columns == {"age": ("other", "band 5", None), "sex": ("new", None, "year"), "id": ("gone", None, None)}
    assert [(row.kind, row.text) for row in found[0].rows] == [("gone", "age >= 40"), ("new", "age >= 18")]
    gone = changes(SAME.model_copy(update={"tables": ()}), PROJECT, PERMIT)
    assert [(change.table, change.kind) for change in gone] == [("visits/visits", "gone")]


def test_conditions_that_read_alike_are_not_taken_for_the_same() -> None:
    one = RowCondition(column="age", operator="in", value=("a, b",))
    two = RowCondition(column="age", operator="in", value=("a", "b"))
    permit = PERMIT.model_copy(update={"tables": (PERMIT.tables[0].model_copy(update={"rows": (one,)}),)})
    table = SAME.tables[0].model_copy(update={"rows": (two,)})
    (change,) = changes(SAME.model_copy(update={"tables": (table,)}), PROJECT, permit)
    assert [(row.kind, row.text) for row in change.rows] == [("gone", 'age in "a, b"'), ("new", "age in a, b")]


def test_negative_control_conditions_compared_as_they_read_hide_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes_module, "written_condition", readable_condition)
    with pytest.raises(ValueError, match="unpack"):
        test_conditions_that_read_alike_are_not_taken_for_the_same()


def test_dates_that_move_show() -> None:
    later = datetime(2029, 1, 1, tzinfo=UTC)
    assert changes(SAME.model_copy(update={"ends": later}), PROJECT, PERMIT) == [
        Change("ends", before=PROJECT.ends, after=later)
    ]

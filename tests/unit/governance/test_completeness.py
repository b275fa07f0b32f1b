"""What an application lacks: each part of it counts, and what is complete can be put into effect."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import InputError
from orchestrator.governance.cards import ApplicationContent, RequestedColumn, RequestedTable
from orchestrator.governance.completeness import LACKS, Circumstances, checked_content, missing, named, permitted
from orchestrator.governance.permits import check_terms, made_terms
from orchestrator.governance.states import ApplicationKind
from tests.unit.governance.places import DAY, START, Shelf
from tests.unit.governance.test_applications import content, table

PEOPLE = frozenset({"lead", "researcher"})


def among(**changed) -> Circumstances:
    values = {
        "kind": ApplicationKind.NEW,
        "now": START,
        "project_ends": None,
        "able": PEOPLE,
        "suspended": frozenset(),
        "check": Shelf().check,
    }
    return Circumstances(**{**values, **changed})


def test_a_complete_one_lacks_nothing():
    assert missing(content(), among()) == ()


@pytest.mark.parametrize("part", [name for name in ApplicationContent.model_fields if name != "team"])
def test_negative_control_each_part_counts(part):
    """With any one part taken away it is not complete; the team alone may be empty."""
    empty = ApplicationContent.model_fields[part].default
    assert len(missing(content(**{part: empty}), among())) == 1
    assert missing(content(team=()), among()) == ()


names = st.sampled_from(["age", "sex", "docvis", "height", "No!", ""])
columns = st.builds(
    RequestedColumn,
    name=names,
    reason=st.sampled_from(["", " ", "why"]),
    transform=st.sampled_from([None, "", "band", "blur"]),
    parameter=st.sampled_from([None, 5.0, -1.0]),
)
tables = st.builds(
    RequestedTable,
    dataset=st.sampled_from(["visits", "other", "No"]),
    table=st.sampled_from(["visits", ""]),
    columns=st.lists(columns, max_size=2).map(tuple),
)
moments = st.none() | st.integers(-400, 400).map(lambda days: START + days * DAY)
texts = st.sampled_from(["", "  ", "text", "two\r\nlines"])
contents = st.builds(
    ApplicationContent,
    title=texts,
    lay_summary=texts,
    purpose=texts,
    legal_basis=texts,
    outputs=texts,
    lead=st.sampled_from(["", "lead", "ghost"]),
    team=st.lists(st.sampled_from(["lead", "researcher", "ghost", " "]), max_size=3).map(tuple),
    starts=moments,
    ends=moments,
    tables=st.lists(tables, max_size=2).map(tuple),
)
mostly = st.builds(
    lambda drawn, which: content(**{name: getattr(drawn, name) for name in which}),
    contents,
    st.sets(st.sampled_from(sorted(ApplicationContent.model_fields)), max_size=2),
)


@given(contents | mostly)
def test_what_is_complete_makes_a_permit_and_what_is_told_is_a_known_sentence(drawn):
    kept = checked_content(drawn)
    assert checked_content(kept) == kept
    lacks = missing(kept, among())
    beginnings = [sentence.split("%")[0] for sentence in LACKS.values()]
    assert all(any(one.startswith(beginning) for beginning in beginnings) for one in lacks)
    if lacks:
        return
    assert named(kept) <= PEOPLE
    assert kept.lead not in kept.team
    asked = [permitted(one) for one in kept.tables]
    terms = made_terms(1, asked, kept.starts, kept.ends)
    check_terms(terms.valid_from, terms.valid_until, terms.tables, START)
    Shelf().check(terms.tables)
    assert all(column.reason for one in kept.tables for column in one.columns)


def test_a_moment_without_a_zone_or_out_of_time_is_refused():
    with pytest.raises(ValueError, match="timezone"):
        content(ends=datetime(2027, 1, 1))
    west = datetime(9999, 12, 31, 23, tzinfo=UTC).replace(tzinfo=None).astimezone(UTC)
    for when in (west, datetime(1, 1, 1, tzinfo=UTC)):
        with pytest.raises(InputError, match="must be in the years"):
            checked_content(content(ends=when))


def test_the_last_moment_counts():
    now = START + 300 * DAY
    assert missing(content(), among(now=now)) == ("the last day must be in the future",)
    assert missing(content(), among(now=now - timedelta(microseconds=1))) == ()


def test_a_table_that_no_permit_can_hold_is_told_once():
    wrong = table().model_copy(update={"dataset": "No", "table": "No"})
    assert len(missing(content(tables=(wrong,)), among())) == 1

"""What people read of projects and applications: who, how much, and in how many queries."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from sqlalchemy import event

from orchestrator.errors import NotFoundError, RefusedError
from orchestrator.governance import reading
from orchestrator.governance.desk import project_named
from orchestrator.governance.identity import HUB, NODE, OPERATOR
from orchestrator.governance.rules import TABLE, Action, Fact, judge
from orchestrator.governance.states import ApplicationKind, ApplicationState, MemberRole, PlatformRole, ProjectState
from tests.unit.governance.places import DAY, START, create, draft, peopled, place
from tests.unit.governance.test_applications import approved, begun, complete, content, submitted

OFFICE = ("custodian", "admin", "auditor", "reviewer", OPERATOR)


@pytest.fixture
def study(sleep):
    """The project "sleep", in which "reviewer" has no part, and "other", of which only its lead knows."""
    sleep.governance.add_person(OPERATOR, "reviewer", "Reviewer")
    sleep.governance.add_role("admin", "reviewer", PlatformRole.REVIEWER)
    sleep.governance.add_person(OPERATOR, "stranger", "Stranger")
    create(sleep.governance, "other", lead="outsider")
    sleep.governance.activate_project("custodian", "other")
    return sleep.governance


def asked(governance) -> None:
    """An amendment of "sleep" that waits for its decision."""
    governance.amend_application("lead", "sleep", ApplicationKind.AMENDMENT)
    governance.edit_application("lead", "sleep", 1, content())
    governance.submit_application("lead", "sleep", 1)
    governance.check_application("custodian2", "sleep", 1)


@contextmanager
def queries(deployment):
    """Collects the statements that reach the database."""
    told: list[str] = []

    def keep(connection, cursor, statement, *more):
        told.append(statement)

    event.listen(deployment.store._engine, "before_cursor_execute", keep)
    try:
        yield told
    finally:
        event.remove(deployment.store._engine, "before_cursor_execute", keep)


# -- one project --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("by", ["lead", "researcher", *OFFICE])
def test_who_reads_a_project(study, by):
    page = study.project_page(by, "sleep")
    assert (page.project.slug, page.permit.version) == ("sleep", 1)
    assert (page.mine is None) == (by not in ("lead", "researcher"))
    assert {one.person for one in page.members} == {"lead", "researcher"}


@pytest.mark.parametrize("by", ["outsider", "stranger", HUB, NODE, "nobody"])
def test_to_all_others_it_is_as_if_it_were_not_there(study, by):
    told = set()
    for slug in ("sleep", "never"):
        with pytest.raises(RefusedError) as caught:
            study.project_page(by, slug)
        told.add(caught.value.message)
    assert len(told) == 1


def test_negative_control_without_asking_first_the_answer_tells_what_there_is(study, monkeypatch):
    monkeypatch.setattr(reading, "project_sought", project_named)
    told = set()
    for slug in ("sleep", "never"):
        with pytest.raises((RefusedError, NotFoundError)) as caught:
            study.project_page("stranger", slug)
        told.add(caught.value.message)
    assert len(told) == 2


@pytest.mark.parametrize("by", OFFICE)
def test_people_in_office_are_told_what_is_not_there(study, by):
    with pytest.raises(NotFoundError, match="no project 'never'"):
        study.project_page(by, "never")


def test_who_was_suspended_or_left_reads_nothing(study):
    study.suspend_membership("lead", "sleep", "researcher")
    with pytest.raises(RefusedError):
        study.project_page("researcher", "sleep")
    study.end_membership("lead", "sleep", "researcher")
    with pytest.raises(RefusedError):
        study.project_page("researcher", "sleep")


def test_who_is_disabled_reads_nothing(study):
    study.disable_person("admin", "researcher")
    for act in (
        lambda: study.project_page("researcher", "sleep"),
        lambda: study.list_applications("researcher"),
        lambda: study.list_projects("researcher"),
    ):
        with pytest.raises(RefusedError, match=r"not-disabled|who-may"):
            act()


MAY = {
    "lead": {"project.close", "application.amend", "member.invite", "member.request", "permit.draft", "permit.revoke"},
    "researcher": {"member.leave"},
    "custodian": {
        "project.suspend",
        "project.close",
        "project.export",
        "quota.set",
        "member.invite",
        "member.request",
        "permit.draft",
        "permit.revoke",
    },
    "admin": {"project.suspend", "quota.set", "member.request"},
    "auditor": {"member.request"},
    "reviewer": {"member.request"},
    OPERATOR: set(),
}


@pytest.mark.parametrize("by", MAY)
def test_what_may_be_done_is_told(study, by):
    may = set(study.project_page(by, "sleep").may)
    # Anybody who reads it and is not in it may ask to be.
    assert may - {"member.request"} == MAY[by] - {"member.request"}


def test_what_is_told_follows_the_state(study):
    study.suspend_project("admin", "sleep")
    assert {"project.resume"} <= set(study.project_page("custodian", "sleep").may)
    assert "project.suspend" not in study.project_page("custodian", "sleep").may
    study.draft_permit("lead", "sleep", draft("age"))
    page = study.project_page("custodian", "sleep")
    assert "permit.approve" in page.may
    assert [one.may for one in page.permits] == [("permit.revoke",), ("permit.approve", "permit.revoke")]
    study.draft_permit("custodian", "sleep", draft("sex"))
    assert study.project_page("custodian", "sleep").permits[2].may == ("permit.revoke",)
    assert study.project_page("researcher", "sleep").permits[1].may == ()
    create(study, "third", lead="stranger")
    assert "project.activate" in study.project_page("custodian", "third").may
    assert "project.activate" not in study.project_page("admin", "third").may
    study.close_project("custodian", "sleep")
    assert set(study.project_page("custodian", "sleep").may) == {"project.retain", "permit.revoke"}


def test_an_amendment_is_offered_while_none_is_under_way(study):
    assert "application.amend" in study.project_page("lead", "sleep").may
    study.amend_application("lead", "sleep", ApplicationKind.AMENDMENT)
    assert "application.amend" not in study.project_page("lead", "sleep").may


@pytest.mark.parametrize("by", ["lead", "researcher", "custodian", "admin", "auditor", "reviewer", OPERATOR])
def test_what_is_told_as_possible_is_not_refused_by_rule_and_the_reverse(study, by):
    """Each action that needs nothing else is tried, and told exactly where it works."""
    acts = {
        Action.PROJECT_SUSPEND: lambda: study.suspend_project(by, "sleep"),
        Action.APPLICATION_AMEND: lambda: study.amend_application(by, "sleep", ApplicationKind.AMENDMENT),
        Action.PERMIT_DRAFT: lambda: study.draft_permit(by, "sleep", draft("age")),
        Action.MEMBER_INVITE: lambda: study.invite_member(by, "sleep", "stranger"),
        Action.PROJECT_RESUME: lambda: study.activate_project(by, "sleep"),
        Action.PERMIT_REVOKE: lambda: study.revoke_permit(by, "sleep", 1),
        Action.MEMBER_LEAVE: lambda: study.leave_project(by, "sleep"),
        Action.PROJECT_CLOSE: lambda: study.close_project(by, "sleep"),
        Action.PROJECT_RETAIN: lambda: study.retain_project(by, "sleep", START + DAY),
    }
    for action, act in acts.items():
        if action is Action.PROJECT_RESUME:
            study.suspend_project("admin", "sleep") if study.project("sleep").state is ProjectState.ACTIVE else None
        if action is Action.PROJECT_RETAIN and study.project("sleep").state is not ProjectState.CLOSED:
            study.close_project("custodian", "sleep")
        try:
            told = action in study.project_page(by, "sleep").may
        except RefusedError:
            told = False
        try:
            act()
            done = True
        except (RefusedError, NotFoundError):
            done = False
        assert told == done, action


def test_members_see_no_applications_but_their_own(study):
    asked(study)
    assert [one.number for one in study.project_page("lead", "sleep").applications] == [1]
    assert [one.number for one in study.project_page("custodian", "sleep").applications] == [1]
    assert [one.number for one in study.project_page("auditor", "sleep").applications] == [1]
    for by in ("researcher", "admin", "reviewer"):
        assert study.project_page(by, "sleep").applications == ()
        with pytest.raises(RefusedError):
            study.read_application(by, "sleep", 1)


# -- lists --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("by", ["lead", "researcher", "outsider", "stranger", HUB, NODE])
def test_only_people_in_office_list_projects(study, by):
    with pytest.raises(RefusedError, match=r"projects\.read"):
        study.list_projects(by)


def test_projects_are_listed_by_pages(study):
    create(study, "zeta", lead="stranger")
    first = study.list_projects("auditor", limit=2)
    assert [one.slug for one in first] == ["other", "sleep"]
    assert [(one.leads, one.members) for one in first] == [(("Outsider",), 1), (("Lead",), 2)]
    rest = study.list_projects("auditor", limit=2, after="sleep")
    assert [(one.slug, one.state, one.leads, one.members) for one in rest] == [("zeta", ProjectState.DRAFT, (), 0)]
    assert [one.slug for one in study.list_projects("admin", state=ProjectState.DRAFT)] == ["zeta"]


@pytest.mark.parametrize(
    ("search", "found"),
    [("sLEE", ["other", "sleep", "zeta"]), ("oth", ["other"]), (" zeta ", ["zeta"]), ("%", []), ("_", []), ("", None)],
)
def test_projects_are_found_by_name_and_title(study, search, found):
    create(study, "zeta", lead="stranger")
    slugs = [one.slug for one in study.list_projects("auditor", search)]
    assert slugs == (["other", "sleep", "zeta"] if found is None else found)


def test_members_whose_time_is_over_do_not_count(sleep):
    sleep.clock.pass_(101)
    assert sleep.governance.list_projects("auditor")[0].members == 1


def test_whose_applications_one_lists(study):
    begun(study, by="stranger", slug="third")
    submitted(study, by="stranger", slug="fourth", lead="stranger")
    asked(study)
    names = {
        by: {(one.project, one.number) for one in study.list_applications(by)}
        for by in ("stranger", "lead", "researcher", "outsider", "custodian", "auditor", "admin", "reviewer", OPERATOR)
    }
    every = {("third", 1), ("fourth", 1), ("sleep", 1)}
    assert names == {
        "stranger": {("third", 1), ("fourth", 1)},
        "lead": {("sleep", 1)},
        "researcher": set(),
        "outsider": set(),
        "custodian": every,
        "auditor": every,
        "admin": set(),
        "reviewer": set(),
        OPERATOR: every,
    }
    assert [one.project for one in study.list_applications("custodian", ApplicationState.SUBMITTED)] == ["fourth"]
    assert [one.title for one in study.list_applications("stranger", ApplicationState.SUBMITTED)] == [
        "Sleep and visits"
    ]
    assert len(study.list_applications("custodian", limit=2)) == 2
    for by in (HUB, NODE):
        assert study.list_applications(by) == []
    with pytest.raises(RefusedError, match="not a person"):
        study.list_applications("nobody")


def test_every_line_of_a_list_can_be_opened_and_nothing_else(study):
    begun(study, by="stranger", slug="third")
    asked(study)
    for by in ("stranger", "lead", "researcher", "outsider", "custodian", "auditor", "admin", OPERATOR):
        listed = {(one.project, one.number) for one in study.list_applications(by)}
        for where in (("third", 1), ("sleep", 1)):
            try:
                study.read_application(by, *where)
                assert where in listed
            except RefusedError:
                assert where not in listed


# -- one application ----------------------------------------------------------------------------------------
def test_what_may_be_done_with_an_application_is_told(here):
    governance = here.governance
    peopled(governance)
    record = begun(governance, by="outsider")
    assert record.may == ("application.edit", "application.submit", "application.withdraw")
    assert governance.read_application("custodian", "sleep", 1).may == ()
    governance.submit_application("outsider", "sleep", 1)
    decide = {"application.return", "application.check", "application.refuse"}
    assert set(governance.read_application("custodian", "sleep", 1).may) == decide
    assert governance.read_application("auditor", "sleep", 1).may == ()
    assert governance.read_application("outsider", "sleep", 1).may == ("application.withdraw",)
    governance.check_application("custodian", "sleep", 1)
    may = {"application.return", "application.refuse", "application.approve"}
    assert set(governance.read_application("custodian", "sleep", 1).may) == may
    governance.approve_application("custodian", "sleep", 1)
    for by in ("custodian", "outsider", "lead"):
        assert governance.read_application(by, "sleep", 1).may == ()


def test_names_are_told_to_who_may_see_people(here):
    """Not to an applicant, who may have typed any id to learn whose it is."""
    governance = here.governance
    peopled(governance)
    assert begun(governance, by="outsider").names == {}
    assert governance.read_application("outsider", "sleep", 1).names == {}
    assert governance.read_application("custodian", "sleep", 1).names == {
        "lead": "Lead",
        "outsider": "Outsider",
        "researcher": "Researcher",
    }


def test_the_digest_names_the_content_and_nothing_else(here):
    governance = here.governance
    peopled(governance)
    before = begun(governance).digest
    assert governance.submit_application("lead", "sleep", 1).digest == before
    governance.return_application("custodian", "sleep", 1, "Why?")
    assert governance.edit_application("lead", "sleep", 1, content(title="Other")).digest != before
    assert governance.edit_application("lead", "sleep", 1, content()).digest == before


# -- how it grows -------------------------------------------------------------------------------------------
def test_no_read_takes_more_queries_with_more_projects(sleep):
    governance = sleep.governance
    asked(governance)

    def count(act) -> int:
        with queries(sleep) as told:
            act()
        return len(told)

    reads = {
        "page": lambda: governance.project_page("lead", "sleep"),
        "page of an office": lambda: governance.project_page("custodian", "sleep"),
        "projects": lambda: governance.list_projects("auditor"),
        "mine": lambda: governance.projects_of("lead"),
        "applications": lambda: governance.list_applications("lead"),
        "all applications": lambda: governance.list_applications("custodian"),
        "one": lambda: governance.read_application("lead", "sleep", 1),
        "due": governance.closings_due,
    }
    before = {name: count(act) for name, act in reads.items()}
    for number in range(4):
        complete(governance, by="outsider", slug=f"more{number}", lead="outsider")
        governance.approve_application("custodian", f"more{number}", 1)
        for person in ("auditor", "admin"):
            governance.request_membership(person, f"more{number}", person)
    governance.close_project("outsider", "more0")
    governance.close_project("outsider", "more1")
    assert {name: count(act) for name, act in reads.items()} == before


@pytest.fixture
def planned(folder):
    """A deployment on SQLite, which tells how it will run a query. PostgreSQL chooses by sizes, small here."""
    made = place(folder)
    yield made
    made.store.close()


def test_own_lists_do_not_walk_through_all_projects(planned):
    """What a person's own lists do, told by the database: searches by index, no scan of a table that grows."""
    governance = planned.governance
    peopled(governance)
    approved(governance)
    with queries(planned) as told:
        governance.list_applications("lead")
        governance.project_page("lead", "sleep")
        governance.projects_of("lead")
        governance.read_application("lead", "sleep", 1)
    assert len(told) > 30
    assert walks(planned, told) == set()


def walks(deployment, told: list[str]) -> set[str]:
    """The tables that grow and that these statements go through from end to end."""
    found = set()
    with deployment.store._engine.connect() as connection:
        for statement in told:
            if statement.startswith("SELECT"):
                values = tuple("x" for _ in range(statement.count("?")))
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
                found |= {table for row in plan for table in GROWING if row[3].startswith(f"SCAN {table}")}
    return found


GROWING = ("project", "membership", "permit", "application", "appointment", "person", "training", "deletion")


def test_negative_control_a_walk_is_seen(planned):
    peopled(planned.governance)
    with queries(planned) as told:
        planned.governance.projects()
    assert walks(planned, told) == {"project"}


def test_the_table_says_who_reads(study):
    """Reading by one fact alone agrees with the table, for each action here."""
    cases = {
        Action.PROJECTS_READ: study.list_projects,
        Action.PROJECT_READ: lambda by: study.project_page(by, "other"),
    }
    facts = {
        "custodian": Fact.CUSTODIAN,
        "admin": Fact.ADMINISTRATOR,
        "auditor": Fact.AUDITOR,
        "reviewer": Fact.REVIEWER,
        "stranger": Fact.PERSON,
        OPERATOR: Fact.OPERATOR,
    }
    for action, act in cases.items():
        for by, fact in facts.items():
            if judge(action, {fact}, TABLE).allowed:
                act(by)
            else:
                with pytest.raises(RefusedError):
                    act(by)


def test_a_lead_who_has_to_accept_an_invitation_is_told(study):
    study.invite_member("custodian", "sleep", "auditor", MemberRole.MEMBER)
    may = study.project_page("auditor", "sleep").may
    assert {"member.accept", "member.leave"} <= set(may)
    assert "member.request" not in may

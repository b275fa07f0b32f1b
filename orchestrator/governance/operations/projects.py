"""Operations: projects."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, Field

from orchestrator.governance.cards import ProjectCard, ProjectLine, ProjectPage, ProjectRecord
from orchestrator.governance.operations.declared import Nothing, Operation, Scope
from orchestrator.governance.operations.memberships import Slug
from orchestrator.governance.operations.people import PersonId
from orchestrator.governance.reading import MOST_LINES
from orchestrator.governance.states import ProjectState
from orchestrator.terms import Value


class OneProject(Value):
    """One project."""

    project: Slug


class NewProject(Value):
    """A project without an application; ``project`` is its name, never used again."""

    project: Slug
    title: Annotated[str, Field(min_length=1, max_length=200)]
    purpose: Annotated[str, Field(min_length=1, max_length=5000)]
    lead: PersonId
    starts: AwareDatetime
    ends: AwareDatetime


class Retaining(OneProject):
    """A closed project, and the day on which its keys are destroyed."""

    until: AwareDatetime


class Exporting(OneProject):
    """A project, and the deployment that it may go to, by its transfer key (``bulle transfer key`` there)."""

    recipient: Annotated[str, Field(pattern=r"^age1[02-9ac-hj-np-z]{58}$")]


class Finding(Value):
    """Which projects; ``after`` is the last name of the page before."""

    # No control character: one of them no database takes.
    search: Annotated[str, Field(max_length=100, pattern=r"^[^\x00-\x1f]*$")] = ""
    state: ProjectState | None = None
    limit: Annotated[int, Field(ge=1, le=MOST_LINES)] = 50
    after: Annotated[str, Field(max_length=40, pattern=r"^[a-z0-9-]*$")] = ""


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "projects.mine",
        "GET",
        "/projects/mine",
        "One's own projects",
        Scope.READ,
        Nothing,
        list[ProjectCard],
        lambda governance, by, asked: governance.projects_of(by),
    ),
    Operation(
        "projects.list",
        "GET",
        "/projects",
        "All projects, for people in office",
        Scope.READ,
        Finding,
        list[ProjectLine],
        lambda governance, by, asked: governance.list_projects(by, asked.search, asked.state, asked.limit, asked.after),
    ),
    Operation(
        "project.read",
        "GET",
        "/projects/{project}",
        "A project with its people, permits and applications",
        Scope.READ,
        OneProject,
        ProjectPage,
        lambda governance, by, asked: governance.project_page(by, asked.project),
    ),
    Operation(
        "project.create",
        "POST",
        "/projects",
        "Make a draft of a project without an application",
        Scope.PROJECTS,
        NewProject,
        ProjectRecord,
        lambda governance, by, asked: governance.create_project(
            by,
            asked.project,
            title=asked.title,
            purpose=asked.purpose,
            lead=asked.lead,
            starts=asked.starts,
            ends=asked.ends,
        ),
    ),
    Operation(
        "project.activate",
        "POST",
        "/projects/{project}/activate",
        "Put a draft into effect, or resume a suspended project",
        Scope.DECIDE,
        OneProject,
        None,
        lambda governance, by, asked: governance.activate_project(by, asked.project),
    ),
    Operation(
        "project.suspend",
        "POST",
        "/projects/{project}/suspend",
        "The emergency stop: what runs in the project ends",
        Scope.ADMIN,
        OneProject,
        None,
        lambda governance, by, asked: governance.suspend_project(by, asked.project),
    ),
    Operation(
        "project.close",
        "POST",
        "/projects/{project}/close",
        "End a project for good",
        Scope.PROJECTS,
        OneProject,
        None,
        lambda governance, by, asked: governance.close_project(by, asked.project),
    ),
    Operation(
        "project.retain",
        "POST",
        "/projects/{project}/retain",
        "Move the day on which a closed project's keys are destroyed",
        Scope.DECIDE,
        Retaining,
        ProjectRecord,
        lambda governance, by, asked: governance.retain_project(by, asked.project, asked.until),
    ),
    Operation(
        "project.export",
        "POST",
        "/projects/{project}/export",
        "Let a project leave for another deployment",
        Scope.DECIDE,
        Exporting,
        None,
        lambda governance, by, asked: governance.decide_export(by, asked.project, asked.recipient),
    ),
)

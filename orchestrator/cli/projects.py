"""``bulle project|application|permit``: projects, by the people whose decision they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from orchestrator.cli.acting import (
    As,
    AsJson,
    actor,
    console,
    day,
    do,
    governed,
    print_json,
    print_table,
    print_yaml,
    said,
)
from orchestrator.cli.application_file import read_application_file
from orchestrator.cli.dates import moment
from orchestrator.cli.moving import project_export, project_import
from orchestrator.cli.permit_file import read_permit_file
from orchestrator.cli.usage import certificate
from orchestrator.errors import InputError
from orchestrator.governance.cards import ApplicationContent
from orchestrator.governance.identity import OPERATOR
from orchestrator.governance.states import ApplicationKind, ApplicationState

if TYPE_CHECKING:
    from orchestrator.governance.cards import ApplicationRecord

project_app = typer.Typer(no_args_is_help=True, help="Projects.")
application_app = typer.Typer(no_args_is_help=True, help="Applications for projects, amendments and renewals.")
permit_app = typer.Typer(no_args_is_help=True, help="What a project may see.")


@project_app.command("create")
def project_create(  # noqa: PLR0917 - options of a command
    slug: Annotated[str, typer.Argument(help="Name in addresses; never used again.")],
    title: Annotated[str, typer.Option("--title")],
    purpose: Annotated[str, typer.Option("--purpose", help="What the study is for.")],
    lead: Annotated[str, typer.Option("--lead", metavar="PERSON", help="Proposed lead.")],
    until: Annotated[str, typer.Option("--until", metavar="DATE", help="Last day.")],
    since: Annotated[str | None, typer.Option("--from", metavar="DATE", help="First day; today.")] = None,
    by: As = OPERATOR,
) -> None:
    """Propose a project; a custodian activates it."""
    governance = governed()
    starts = governance.now() if since is None else moment("--from", since)
    governance.create_project(
        actor(by),
        slug,
        title=title,
        purpose=purpose,
        lead=lead,
        starts=starts,
        ends=moment("--until", until, end=True),
    )
    said(f"project {slug} is a draft; a custodian activates it")


@project_app.command("list")
def project_list(as_json: AsJson = False) -> None:
    """All projects."""
    governance = governed()
    records = governance.projects()
    if as_json:
        print_json(records)
        return
    rows = [[one.slug, one.title, str(one.state), day(one.starts), day(one.ends)] for one in records]
    print_table(["project", "title", "state", "from", "until"], rows)


@project_app.command("show")
def project_show(slug: str, by: As = OPERATOR) -> None:
    """One project with its members, permits and applications, as far as the reader may see them, as YAML."""
    page = governed().project_page(actor(by), slug)
    told = {
        **page.project.model_dump(mode="json"),
        "members": [one.model_dump(mode="json") for one in page.members],
        "permits": [one.model_dump(mode="json", exclude={"terms"}) for one in page.permits],
        "applications": [one.model_dump(mode="json", exclude={"project"}) for one in page.applications],
        "may": list(page.may),
    }
    print_yaml(told)


@project_app.command("activate")
def project_activate(slug: str, by: As = OPERATOR) -> None:
    """Put a draft into effect with its proposed lead, or resume a suspended project (a custodian)."""
    do(by, lambda governance, who: governance.activate_project(who, slug), f"project {slug} is active")


@project_app.command("suspend")
def project_suspend(slug: str, by: As = OPERATOR) -> None:
    """Emergency stop: every workspace of the project ends within seconds."""
    do(by, lambda governance, who: governance.suspend_project(who, slug), f"project {slug} is suspended")


@project_app.command("close")
def project_close(slug: str, by: As = OPERATOR) -> None:
    """End a project for good."""
    do(by, lambda governance, who: governance.close_project(who, slug), f"project {slug} is closed")


@project_app.command("amend")
def project_amend(slug: str, by: As = OPERATOR) -> None:
    """Begin an amendment, filled with what is in force (the lead)."""
    _begin(slug, by, ApplicationKind.AMENDMENT)


@project_app.command("renew")
def project_renew(slug: str, by: As = OPERATOR) -> None:
    """Begin a renewal, filled with what is in force (the lead)."""
    _begin(slug, by, ApplicationKind.RENEWAL)


def _begin(slug: str, by: str, kind: ApplicationKind) -> None:
    record = governed().amend_application(actor(by), slug, kind)
    said(f"application {record.number} of {slug}, {_article(kind)}, is a draft")


def _article(kind: ApplicationKind) -> str:
    return "an amendment" if kind is ApplicationKind.AMENDMENT else "a renewal"


@project_app.command("retain")
def project_retain(
    slug: str,
    until: Annotated[str, typer.Option("--until", metavar="DATE", help="Last day on which its keys are kept.")],
    by: As = OPERATOR,
) -> None:
    """Move the day on which the keys of a closed project are destroyed (a custodian)."""
    ends = moment("--until", until, end=True)
    do(
        by,
        lambda governance, who: governance.retain_project(who, slug, ends),
        f"the keys of {slug} are kept until {day(ends)}",
    )


project_app.command("certificate")(certificate)
project_app.command("export")(project_export)
project_app.command("import")(project_import)


Project = Annotated[str, typer.Argument(help="The project's name in addresses.")]
Number = Annotated[int, typer.Argument(min=1, help="The application's number.")]
File = Annotated[Path, typer.Argument(metavar="FILE.yaml", help="What is applied for.")]
Note = Annotated[str, typer.Option("--note", help="What its applicant is told.")]
Seen = Annotated[
    str | None, typer.Option("--seen", metavar="DIGEST", help="Only if it still says what you read (its digest).")
]


@application_app.command("begin")
def application_begin(
    project: Annotated[str, typer.Argument(help="Name of the new project; never used again.")],
    file: Annotated[Path | None, typer.Argument(metavar="FILE.yaml", help="What is applied for, so far.")] = None,
    by: As = OPERATOR,
) -> None:
    """Apply for a new project; the application is a draft until it is submitted."""
    content = ApplicationContent() if file is None else read_application_file(file)
    record = governed().begin_application(actor(by), project, content)
    said(f"application {record.number} of {project} is a draft")
    _print_missing(record)


@application_app.command("edit")
def application_edit(project: Project, number: Number, file: File, by: As = OPERATOR) -> None:
    """Replace what an application says, before it is submitted."""
    content = read_application_file(file)
    record = governed().edit_application(actor(by), project, number, content)
    said(f"application {number} of {project} is kept")
    _print_missing(record)


@application_app.command("submit")
def application_submit(project: Project, number: Number, by: As = OPERATOR) -> None:
    """Hand a complete application in; custodians check and decide it."""
    do(by, lambda governance, who: governance.submit_application(who, project, number), _stands)


@application_app.command("withdraw")
def application_withdraw(project: Project, number: Number, by: As = OPERATOR) -> None:
    """Take an application back for good."""
    do(by, lambda governance, who: governance.withdraw_application(who, project, number), _stands)


@application_app.command("check")
def application_check(project: Project, number: Number, seen: Seen = None, by: As = OPERATOR) -> None:
    """Say that an application is complete (a custodian)."""
    do(by, lambda governance, who: governance.check_application(who, project, number, seen=seen), _stands)


@application_app.command("return")
def application_return(project: Project, number: Number, note: Note, seen: Seen = None, by: As = OPERATOR) -> None:
    """Give an application back to be mended (a custodian)."""
    do(by, lambda governance, who: governance.return_application(who, project, number, note, seen=seen), _stands)


@application_app.command("refuse")
def application_refuse(project: Project, number: Number, note: Note, seen: Seen = None, by: As = OPERATOR) -> None:
    """Turn an application down for good (a custodian)."""
    do(by, lambda governance, who: governance.refuse_application(who, project, number, note, seen=seen), _stands)


@application_app.command("approve")
def application_approve(  # noqa: PLR0917 - options of a command
    project: Project,
    number: Number,
    conditions: Annotated[str, typer.Option("--conditions", help="What the decision demands.")] = "",
    retain_days: Annotated[
        int | None, typer.Option("--retain-days", min=0, help="Days that its keys are kept after closing.")
    ] = None,
    seen: Seen = None,
    by: As = OPERATOR,
) -> None:
    """Put a checked application into effect: permit, lead and project (a custodian)."""
    do(
        by,
        lambda governance, who: governance.approve_application(
            who, project, number, conditions, retain_days=retain_days, seen=seen
        ),
        lambda record: f"{_stands(record)}; permit version {record.permit_version} is in force",
    )


@application_app.command("show")
def application_show(
    project: Project,
    number: Number,
    as_file: Annotated[bool, typer.Option("--file", help="Only what it says, as a file for begin and edit.")] = False,
    by: As = OPERATOR,
) -> None:
    """One application, as YAML."""
    record = governed().read_application(actor(by), project, number)
    told = record.model_dump(mode="json")
    print_yaml(told["content"] if as_file else told)


@application_app.command("list")
def application_list(
    state: Annotated[ApplicationState | None, typer.Option("--state", help="Only in this state.")] = None,
    as_json: AsJson = False,
    by: As = OPERATOR,
) -> None:
    """The applications that one may read, newest first."""
    lines = governed().list_applications(actor(by), state)
    if as_json:
        print_json(lines)
        return
    rows = [
        [
            one.project,
            str(one.number),
            str(one.kind),
            str(one.state),
            one.title,
            one.drafted_by,
            "" if one.submitted_at is None else day(one.submitted_at),
        ]
        for one in lines
    ]
    print_table(["project", "number", "kind", "state", "title", "applied", "submitted"], rows)


def _stands(record: ApplicationRecord) -> str:
    return f"application {record.number} of {record.project} is {record.state}"


def _print_missing(record: ApplicationRecord) -> None:
    for lack in record.missing:
        console.print(f"  [yellow]·[/] {escape(lack)}", soft_wrap=True)


@permit_app.command("draft")
def permit_draft(
    project: str,
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="What the project may see.")],
    by: As = OPERATOR,
) -> None:
    """Propose what a project may see; a custodian who did not draft it approves it."""
    draft = read_permit_file(file)
    governance = governed()
    version = governance.draft_permit(actor(by), project, draft)
    said(f"permit version {version} of {project} is a draft")


@permit_app.command("approve")
def permit_approve(project: str, version: int, by: As = OPERATOR) -> None:
    """Put a draft into effect; the version before it is superseded."""
    do(
        by,
        lambda governance, who: governance.approve_permit(who, project, version),
        f"permit version {version} of {project} is approved",
    )


@permit_app.command("revoke")
def permit_revoke(project: str, version: int, by: As = OPERATOR) -> None:
    """Take a permit back; workspaces under it end within seconds."""
    do(
        by,
        lambda governance, who: governance.revoke_permit(who, project, version),
        f"permit version {version} of {project} is revoked",
    )


@permit_app.command("list")
def permit_list(project: str, as_json: AsJson = False) -> None:
    """All permit versions of a project."""
    governance = governed()
    records = governance.permits(project)
    if as_json:
        print_json(records)
        return
    rows = [
        [
            str(one.version),
            str(one.state),
            day(one.terms.valid_from),
            day(one.terms.valid_until),
            one.drafted_by,
            one.approved_by or "",
        ]
        for one in records
    ]
    print_table(["version", "state", "from", "until", "drafted by", "approved by"], rows)


@permit_app.command("show")
def permit_show(project: str, version: Annotated[int | None, typer.Argument()] = None) -> None:
    """One permit version (the latest), as YAML."""
    governance = governed()
    records = governance.permits(project)
    if version is None and not records:
        raise InputError(f"project '{project}' has no permit")
    record = records[-1] if version is None else governance.permit(project, version)
    print_yaml(record.model_dump(mode="json"))

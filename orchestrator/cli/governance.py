"""``bulle person|project|member|permit``: governance by the people whose decision it is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.cli.context import open_governance, open_settings
from orchestrator.cli.dates import moment
from orchestrator.cli.permit_file import read_permit_file
from orchestrator.cli.usage import certificate
from orchestrator.errors import InputError, SecondPersonError
from orchestrator.governance.identity import OPERATOR, RESERVED
from orchestrator.governance.states import MemberRole, MembershipState, PlatformRole

if TYPE_CHECKING:
    from orchestrator.governance.cards import MemberRecord, PersonCard
    from orchestrator.governance.service import Governance

console = Console(highlight=False)
person_app = typer.Typer(no_args_is_help=True, help="Persons and what they do for the platform.")
role_app = typer.Typer(no_args_is_help=True, help="Platform roles; nobody gives one to themselves.")
person_app.add_typer(role_app, name="role")
project_app = typer.Typer(no_args_is_help=True, help="Projects.")
member_app = typer.Typer(no_args_is_help=True, help="Who is in a project.")
permit_app = typer.Typer(no_args_is_help=True, help="What a project may see.")

As = Annotated[
    str,
    typer.Option(
        "--as", envvar="BULLE_AS", metavar="PERSON", help="Who does this; without it, the machine's operator."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]
Until = Annotated[str | None, typer.Option("--until", metavar="DATE", help="Last day, such as 2027-12-31.")]
Lead = Annotated[bool, typer.Option("--lead", help="As a lead; a custodian approves that.")]


def _governance() -> Governance:
    return open_governance(open_settings())


def _actor(by: str) -> str:
    if by != OPERATOR and by in RESERVED:
        raise InputError(f"--as {by}: this is a part of the platform, not a person")
    return by


def _do(by: str, act: Callable[[Governance, str], Any], told: str) -> None:
    governance = _governance()
    try:
        act(governance, _actor(by))
    except SecondPersonError as noted:
        console.print(f"[yellow]…[/] {escape(noted.message)}", soft_wrap=True)
        return
    console.print(f"[green]✓[/] {escape(told)}", soft_wrap=True)


def _day(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M")


def _print_table(columns: list[str], rows: list[list[str]]) -> None:
    table = Table(*columns)
    for row in rows:
        table.add_row(*(cell.replace("[", r"\[") for cell in row))
    console.print(table)


def _print_json(records: list[Any]) -> None:
    inner = ",\n  ".join(record.model_dump_json() for record in records)
    typer.echo(f"[\n  {inner}\n]" if records else "[]")


@person_app.command("add")
def person_add(
    subject: Annotated[str, typer.Argument(help="The person's subject at the login provider.")],
    name: Annotated[str, typer.Option("--name", help="Name to show.")] = "",
    email: Annotated[str, typer.Option("--email")] = "",
    by: As = OPERATOR,
) -> None:
    """Add a person before their first login."""
    governance = _governance()
    card = governance.add_person(_actor(by), subject, name or subject, email)
    console.print(f"[green]✓[/] person {card.id} is there", soft_wrap=True)


@person_app.command("list")
def person_list(as_json: AsJson = False) -> None:
    """Everybody who logged in or was added."""
    governance = _governance()
    cards = governance.persons()
    if as_json:
        _print_json(cards)
        return
    rows = [
        [card.id, card.display_name, card.email, card.affiliation, ", ".join(card.roles), _marks(card)]
        for card in cards
    ]
    _print_table(["person", "name", "e-mail", "organisation", "roles", ""], rows)


def _marks(card: PersonCard) -> str:
    marks = (("disabled", card.disabled), ("external", card.external), ("gone at the provider", card.gone))
    return ", ".join(mark for mark, holds in marks if holds)


@person_app.command("describe")
def person_describe(
    person: str,
    external: Annotated[bool, typer.Option("--external/--internal", help="Of another organisation, or of ours.")],
    affiliation: Annotated[str, typer.Option("--affiliation", metavar="NAME", help="The organisation.")] = "",
    by: As = OPERATOR,
) -> None:
    """Say where a person comes from: for an external partner a custodian must agree to each membership."""
    _do(
        by,
        lambda governance, who: governance.describe_person(who, person, external, affiliation),
        f"{person} is {'an external partner' if external else 'not an external partner'}",
    )


@person_app.command("disable")
def person_disable(person: str, by: As = OPERATOR) -> None:
    """Shut a person out everywhere; their workspaces stop within seconds."""
    _do(by, lambda governance, who: governance.disable_person(who, person), f"{person} is shut out")


@person_app.command("enable")
def person_enable(person: str, by: As = OPERATOR) -> None:
    """Let a disabled person in again."""
    _do(by, lambda governance, who: governance.enable_person(who, person), f"{person} may log in")


@role_app.command("add")
def role_add(person: str, role: PlatformRole, by: As = OPERATOR) -> None:
    """Give a platform role."""
    _do(by, lambda governance, who: governance.add_role(who, person, role), f"{person} is {role}")


@role_app.command("remove")
def role_remove(person: str, role: PlatformRole, by: As = OPERATOR) -> None:
    """Take a platform role away."""
    _do(by, lambda governance, who: governance.remove_role(who, person, role), f"{person} is not {role}")


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
    governance = _governance()
    starts = governance.now() if since is None else moment("--from", since)
    governance.create_project(
        _actor(by),
        slug,
        title=title,
        purpose=purpose,
        lead=lead,
        starts=starts,
        ends=moment("--until", until, end=True),
    )
    console.print(f"[green]✓[/] project {slug} is a draft; a custodian activates it", soft_wrap=True)


@project_app.command("list")
def project_list(as_json: AsJson = False) -> None:
    """All projects."""
    governance = _governance()
    records = governance.projects()
    if as_json:
        _print_json(records)
        return
    rows = [[one.slug, one.title, str(one.state), _day(one.starts), _day(one.ends)] for one in records]
    _print_table(["project", "title", "state", "from", "until"], rows)


@project_app.command("show")
def project_show(slug: str) -> None:
    """One project with its members and permits, as YAML."""
    governance = _governance()
    told = {
        **governance.project(slug).model_dump(mode="json"),
        "members": [one.model_dump(mode="json") for one in governance.members(slug)],
        "permits": [one.model_dump(mode="json", exclude={"terms"}) for one in governance.permits(slug)],
    }
    typer.echo(yaml.safe_dump(told, sort_keys=False, allow_unicode=True), nl=False)


@project_app.command("activate")
def project_activate(slug: str, by: As = OPERATOR) -> None:
    """Put a draft into effect with its proposed lead, or resume a suspended project (a custodian)."""
    _do(by, lambda governance, who: governance.activate_project(who, slug), f"project {slug} is active")


@project_app.command("suspend")
def project_suspend(slug: str, by: As = OPERATOR) -> None:
    """Emergency stop: every workspace of the project ends within seconds."""
    _do(by, lambda governance, who: governance.suspend_project(who, slug), f"project {slug} is suspended")


@project_app.command("close")
def project_close(slug: str, by: As = OPERATOR) -> None:
    """End a project for good."""
    _do(by, lambda governance, who: governance.close_project(who, slug), f"project {slug} is closed")


project_app.command("certificate")(certificate)


def _until(until: str | None) -> datetime | None:
    return None if until is None else moment("--until", until, end=True)


@member_app.command("request")
def member_request(project: str, person: str, until: Until = None, lead: Lead = False, by: As = OPERATOR) -> None:
    """Ask for a membership, for oneself or for somebody else."""
    role = MemberRole.LEAD if lead else MemberRole.MEMBER
    _do(
        by,
        lambda governance, who: governance.request_membership(who, project, person, role, _until(until)),
        f"{person} asked to be {role} of {project}",
    )


@member_app.command("invite")
def member_invite(project: str, person: str, until: Until = None, lead: Lead = False, by: As = OPERATOR) -> None:
    """Invite somebody; they accept, and an approval puts it into effect."""
    role = MemberRole.LEAD if lead else MemberRole.MEMBER
    _do(
        by,
        lambda governance, who: governance.invite_member(who, project, person, role, _until(until)),
        f"{person} is invited to be {role} of {project}",
    )


@member_app.command("accept")
def member_accept(project: str, by: As = OPERATOR) -> None:
    """Accept an invitation; an approval puts it into effect."""
    _do(by, lambda governance, who: governance.accept_invitation(who, project), f"{by} asked to be in {project}")


@member_app.command("leave")
def member_leave(project: str, by: As = OPERATOR) -> None:
    """Leave a project, or decline an invitation; the last lead asks a custodian."""
    _do(by, lambda governance, who: governance.leave_project(who, project), f"{by} has left {project}")


@member_app.command("consent")
def member_consent(project: str, person: str, by: As = OPERATOR) -> None:
    """Agree to an external partner (a custodian), beside the lead's approval."""
    _do(
        by,
        lambda governance, who: governance.consent_external(who, project, person),
        f"{person} may be in {project} as an external partner",
    )


@member_app.command("confirm")
def member_confirm(project: str, person: str, by: As = OPERATOR) -> None:
    """Periodic review: say that a member (the lead) or a lead (a custodian) is still needed."""
    _do(
        by,
        lambda governance, who: governance.confirm_membership(who, project, person),
        f"the membership of {person} in {project} is confirmed",
    )


@member_app.command("add")
def member_add(project: str, person: str, until: Until = None, by: As = OPERATOR) -> None:
    """Request a membership for somebody and approve it, both as the project's lead."""

    def add(governance: Governance, who: str) -> None:
        governance.request_membership(who, project, person, MemberRole.MEMBER, _until(until))
        governance.approve_membership(who, project, person)

    _do(by, add, f"{person} is a member of {project}")


@member_app.command("approve")
def member_approve(project: str, person: str, until: Until = None, by: As = OPERATOR) -> None:
    """Admit a member (the lead) or appoint a lead (a custodian); with --until, also move an end."""
    _do(
        by,
        lambda governance, who: governance.approve_membership(who, project, person, _until(until)),
        f"the membership of {person} in {project} is active",
    )


@member_app.command("suspend")
def member_suspend(project: str, person: str, by: As = OPERATOR) -> None:
    """Take access away until it is approved again."""
    _do(
        by,
        lambda governance, who: governance.suspend_membership(who, project, person),
        f"the membership of {person} in {project} is suspended",
    )


@member_app.command("remove")
def member_remove(project: str, person: str, by: As = OPERATOR) -> None:
    """End a membership at once, or turn a request down; one's own, leave."""

    def remove(governance: Governance, who: str) -> None:
        if who == person:
            governance.leave_project(who, project)
        else:
            governance.end_membership(who, project, person)

    _do(by, remove, f"the membership of {person} in {project} has ended")


@member_app.command("list")
def member_list(project: str, as_json: AsJson = False) -> None:
    """All memberships of a project."""
    governance = _governance()
    records = governance.members(project)
    if as_json:
        _print_json(records)
        return
    rows = [
        [
            one.person,
            one.display_name,
            str(one.role),
            str(one.state),
            _day(one.ends),
            "" if one.review_due is None else _day(one.review_due),
            one.approved_by or "",
            ", ".join(_lacks(one)),
        ]
        for one in records
    ]
    _print_table(["person", "name", "role", "state", "until", "review by", "approved by", "lacks"], rows)


def _lacks(one: MemberRecord) -> list[str]:
    """What keeps a workspace shut, from this person's side."""
    training = "training, declared" if one.training_declared else "training"
    lacks = (
        ("terms", not one.terms_accepted),
        (training, one.training_until is None),
        ("a custodian's consent", one.external and one.consented_by is None),
    )
    return [what for what, lacking in lacks if lacking and one.state is not MembershipState.ENDED]


@permit_app.command("draft")
def permit_draft(
    project: str,
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="What the project may see.")],
    by: As = OPERATOR,
) -> None:
    """Propose what a project may see; a custodian who did not draft it approves it."""
    draft = read_permit_file(file)
    governance = _governance()
    version = governance.draft_permit(_actor(by), project, draft)
    console.print(f"[green]✓[/] permit version {version} of {project} is a draft", soft_wrap=True)


@permit_app.command("approve")
def permit_approve(project: str, version: int, by: As = OPERATOR) -> None:
    """Put a draft into effect; the version before it is superseded."""
    _do(
        by,
        lambda governance, who: governance.approve_permit(who, project, version),
        f"permit version {version} of {project} is approved",
    )


@permit_app.command("revoke")
def permit_revoke(project: str, version: int, by: As = OPERATOR) -> None:
    """Take a permit back; workspaces under it end within seconds."""
    _do(
        by,
        lambda governance, who: governance.revoke_permit(who, project, version),
        f"permit version {version} of {project} is revoked",
    )


@permit_app.command("list")
def permit_list(project: str, as_json: AsJson = False) -> None:
    """All permit versions of a project."""
    governance = _governance()
    records = governance.permits(project)
    if as_json:
        _print_json(records)
        return
    rows = [
        [
            str(one.version),
            str(one.state),
            _day(one.terms.valid_from),
            _day(one.terms.valid_until),
            one.drafted_by,
            one.approved_by or "",
        ]
        for one in records
    ]
    _print_table(["version", "state", "from", "until", "drafted by", "approved by"], rows)


@permit_app.command("show")
def permit_show(project: str, version: Annotated[int | None, typer.Argument()] = None) -> None:
    """One permit version (the latest), as YAML."""
    governance = _governance()
    records = governance.permits(project)
    if version is None and not records:
        raise InputError(f"project '{project}' has no permit")
    record = records[-1] if version is None else governance.permit(project, version)
    typer.echo(yaml.safe_dump(record.model_dump(mode="json"), sort_keys=False, allow_unicode=True), nl=False)

"""``bulle person|member``: people, what they do for the platform, and who is in a project."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.acting import (
    As,
    AsJson,
    Until,
    actor,
    day,
    do,
    governed,
    last_day,
    print_json,
    print_table,
    said,
)
from orchestrator.governance.identity import OPERATOR
from orchestrator.governance.states import MemberRole, MembershipState, PlatformRole

if TYPE_CHECKING:
    from orchestrator.governance.cards import MemberRecord, PersonCard
    from orchestrator.governance.service import Governance

person_app = typer.Typer(no_args_is_help=True, help="Persons and what they do for the platform.")
role_app = typer.Typer(no_args_is_help=True, help="Platform roles; nobody gives one to themselves.")
person_app.add_typer(role_app, name="role")
member_app = typer.Typer(no_args_is_help=True, help="Who is in a project.")

Lead = Annotated[bool, typer.Option("--lead", help="As a lead; a custodian approves that.")]


@person_app.command("add")
def person_add(
    subject: Annotated[str, typer.Argument(help="The person's subject at the login provider.")],
    name: Annotated[str, typer.Option("--name", help="Name to show.")] = "",
    email: Annotated[str, typer.Option("--email")] = "",
    by: As = OPERATOR,
) -> None:
    """Add a person before their first login."""
    governance = governed()
    card = governance.add_person(actor(by), subject, name or subject, email)
    said(f"person {card.id} is there")


@person_app.command("list")
def person_list(as_json: AsJson = False) -> None:
    """Everybody who logged in or was added."""
    governance = governed()
    cards = governance.persons()
    if as_json:
        print_json(cards)
        return
    rows = [
        [card.id, card.display_name, card.email, card.affiliation, ", ".join(card.roles), _marks(card)]
        for card in cards
    ]
    print_table(["person", "name", "e-mail", "organisation", "roles", ""], rows)


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
    do(
        by,
        lambda governance, who: governance.describe_person(who, person, external, affiliation),
        f"{person} is {'an external partner' if external else 'not an external partner'}",
    )


@person_app.command("disable")
def person_disable(person: str, by: As = OPERATOR) -> None:
    """Shut a person out everywhere; their workspaces stop within seconds."""
    do(by, lambda governance, who: governance.disable_person(who, person), f"{person} is shut out")


@person_app.command("enable")
def person_enable(person: str, by: As = OPERATOR) -> None:
    """Let a disabled person in again."""
    do(by, lambda governance, who: governance.enable_person(who, person), f"{person} may log in")


@role_app.command("add")
def role_add(person: str, role: PlatformRole, by: As = OPERATOR) -> None:
    """Give a platform role."""
    do(by, lambda governance, who: governance.add_role(who, person, role), f"{person} is {role}")


@role_app.command("remove")
def role_remove(person: str, role: PlatformRole, by: As = OPERATOR) -> None:
    """Take a platform role away."""
    do(by, lambda governance, who: governance.remove_role(who, person, role), f"{person} is not {role}")


@member_app.command("request")
def member_request(project: str, person: str, until: Until = None, lead: Lead = False, by: As = OPERATOR) -> None:
    """Ask for a membership, for oneself or for somebody else."""
    role = MemberRole.LEAD if lead else MemberRole.MEMBER
    do(
        by,
        lambda governance, who: governance.request_membership(who, project, person, role, last_day(until)),
        f"{person} asked to be {role} of {project}",
    )


@member_app.command("invite")
def member_invite(project: str, person: str, until: Until = None, lead: Lead = False, by: As = OPERATOR) -> None:
    """Invite somebody; they accept, and an approval puts it into effect."""
    role = MemberRole.LEAD if lead else MemberRole.MEMBER
    do(
        by,
        lambda governance, who: governance.invite_member(who, project, person, role, last_day(until)),
        f"{person} is invited to be {role} of {project}",
    )


@member_app.command("accept")
def member_accept(project: str, by: As = OPERATOR) -> None:
    """Accept an invitation; an approval puts it into effect."""
    do(by, lambda governance, who: governance.accept_invitation(who, project), f"{by} asked to be in {project}")


@member_app.command("leave")
def member_leave(project: str, by: As = OPERATOR) -> None:
    """Leave a project, or decline an invitation; the last lead asks a custodian."""
    do(by, lambda governance, who: governance.leave_project(who, project), f"{by} has left {project}")


@member_app.command("consent")
def member_consent(project: str, person: str, by: As = OPERATOR) -> None:
    """Agree to an external partner (a custodian), beside the lead's approval."""
    do(
        by,
        lambda governance, who: governance.consent_external(who, project, person),
        f"{person} may be in {project} as an external partner",
    )


@member_app.command("confirm")
def member_confirm(project: str, person: str, by: As = OPERATOR) -> None:
    """Periodic review: say that a member (the lead) or a lead (a custodian) is still needed."""
    do(
        by,
        lambda governance, who: governance.confirm_membership(who, project, person),
        f"the membership of {person} in {project} is confirmed",
    )


@member_app.command("add")
def member_add(project: str, person: str, until: Until = None, by: As = OPERATOR) -> None:
    """Request a membership for somebody and approve it, both as the project's lead."""

    def add(governance: Governance, who: str) -> None:
        governance.request_membership(who, project, person, MemberRole.MEMBER, last_day(until))
        governance.approve_membership(who, project, person)

    do(by, add, f"{person} is a member of {project}")


@member_app.command("approve")
def member_approve(project: str, person: str, until: Until = None, by: As = OPERATOR) -> None:
    """Admit a member (the lead) or appoint a lead (a custodian); with --until, also move an end."""
    do(
        by,
        lambda governance, who: governance.approve_membership(who, project, person, last_day(until)),
        f"the membership of {person} in {project} is active",
    )


@member_app.command("suspend")
def member_suspend(project: str, person: str, by: As = OPERATOR) -> None:
    """Take access away until it is approved again."""
    do(
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

    do(by, remove, f"the membership of {person} in {project} has ended")


@member_app.command("list")
def member_list(project: str, as_json: AsJson = False) -> None:
    """All memberships of a project."""
    governance = governed()
    records = governance.members(project)
    if as_json:
        print_json(records)
        return
    rows = [
        [
            one.person,
            one.display_name,
            str(one.role),
            str(one.state),
            day(one.ends),
            "" if one.review_due is None else day(one.review_due),
            one.approved_by or "",
            ", ".join(_lacks(one)),
        ]
        for one in records
    ]
    print_table(["person", "name", "role", "state", "until", "review by", "approved by", "lacks"], rows)


def _lacks(one: MemberRecord) -> list[str]:
    """What keeps a workspace shut, from this person's side."""
    training = "training, declared" if one.training_declared else "training"
    lacks = (
        ("terms", not one.terms_accepted),
        (training, one.training_until is None),
        ("a custodian's consent", one.external and one.consented_by is None),
    )
    return [what for what, lacking in lacks if lacking and one.state is not MembershipState.ENDED]

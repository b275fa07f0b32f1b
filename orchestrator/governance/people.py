"""Persons and what they do for the platform."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from orchestrator.errors import ConflictError, InputError, RefusedError
from orchestrator.governance.cards import Person, PersonCard, PersonProject
from orchestrator.governance.desk import Desk, checked_text, person_named
from orchestrator.governance.identity import HUB, person_id
from orchestrator.governance.rules import Action
from orchestrator.governance.states import INCOMPATIBLE_ROLES, PlatformRole
from orchestrator.governance.store import MembershipRow, PersonRow, ProjectRow, RoleRow

#: most people told at once
MOST_PEOPLE = 200


def person_card(row: PersonRow) -> PersonCard:
    """What is told of a person."""
    return PersonCard(
        id=row.id,
        subject=row.subject,
        display_name=row.display_name,
        email=row.email,
        disabled=row.disabled,
        roles=tuple(sorted(role.role for role in row.roles)),
        external=row.external,
        affiliation=row.affiliation,
        gone=row.gone_at is not None,
    )


class People(Desk):
    """Part of Governance: persons and platform roles."""

    def person(self, person: str) -> PersonCard:
        """A person with platform roles, for the platform itself. Raises NotFoundError."""
        with self._store.read() as session:
            return person_card(person_named(session, person))

    def persons(self) -> list[PersonCard]:
        """Everybody, by id; for the machine's operator."""
        with self._store.read() as session:
            return [person_card(row) for row in session.scalars(select(PersonRow).order_by(PersonRow.id))]

    def read_person(self, by: str, person: str) -> PersonCard:
        """A person, as far as the rules let ``by`` read them: a stranger is refused whether there or not."""
        with self._store.read() as session:
            self._judge_read(session, by, Action.PERSON_READ, person=person)
            return person_card(person_named(session, person))

    def projects_of_person(self, by: str, person: str) -> list[PersonProject]:
        """The projects that a person is or was in, of those that ``by`` may read."""
        wanted = (
            select(MembershipRow, ProjectRow)
            .join(ProjectRow, ProjectRow.id == MembershipRow.project_id)
            .where(MembershipRow.person_id == person)
            .order_by(ProjectRow.slug)
            .limit(MOST_PEOPLE)
        )
        with self._store.read() as session:
            self._judge_read(session, by, Action.PERSON_READ, person=person)
            person_named(session, person)
            # Stops: a lead who learns from a member's page what else that member studies. Shown by test_people.py.
            return [
                PersonProject(
                    slug=project.slug,
                    title=project.title,
                    project_state=project.state,
                    role=membership.role,
                    membership_state=membership.state,
                    membership_ends=membership.ends,
                )
                for membership, project in session.execute(wanted)
                if self._may_read(session, by, Action.PROJECT_READ, project=project)
            ]

    def people(self, by: str, search: str = "", limit: int = 50, after: str = "") -> list[PersonCard]:
        """Everybody whose id, name, address or organisation has ``search`` in it, by id, from behind ``after``."""
        with self._store.read() as session:
            self._judge_read(session, by, Action.PEOPLE_READ)
            wanted = select(PersonRow).where(PersonRow.id > after).order_by(PersonRow.id)
            sought = search.strip()
            if sought:
                places = (PersonRow.id, PersonRow.display_name, PersonRow.email, PersonRow.affiliation)
                lower = (func.lower(one).contains(sought.lower(), autoescape=True) for one in places)
                # SQLite makes only a to z lower: with an accent, the name is found as it is written.
                exact = (one.contains(sought, autoescape=True) for one in places)
                wanted = wanted.where(or_(*lower, *exact))
            return [person_card(row) for row in session.scalars(wanted.limit(max(1, min(limit, MOST_PEOPLE))))]

    def login(self, person: str, told: Person) -> PersonCard:
        """What the hub tells at a login: adds the person, or follows a changed name or address.

        Raises:
            InputError: ``person`` is not the id of that subject.
            RefusedError: the person is disabled.
        """
        # Stops: a hub that tells one person's subject under another person's id. Shown by test_people.py.
        if person != person_id(told.subject):
            raise InputError("the person's id is not the id of this subject")
        card = self._put(HUB, told.subject, told.display_name, told.email, replace=True)
        if card.disabled:
            raise RefusedError("refused by rule person-disabled: this person is disabled")
        return card

    def add_person(self, by: str, subject: str, display_name: str, email: str = "") -> PersonCard:
        """Add a person before their first login. Raises ConflictError where they are there already."""
        return self._put(by, subject, display_name, email, replace=False)

    def _put(self, by: str, subject: str, display_name: str, email: str, *, replace: bool) -> PersonCard:
        person = person_id(subject)
        name = checked_text("a display name", display_name, 200)
        email = checked_text("an e-mail address", email, 254) if email else ""
        with self._store.read() as session:
            known = session.get(PersonRow, person)
            same = known is not None and (known.display_name, known.email, known.gone_at) == (name, email, None)
            if known is not None and replace and same:
                return person_card(known)
        with self._change(by, Action.PERSON_ADD, person=person) as change:
            self._judge(change)
            row = change.session.get(PersonRow, person)
            if row is None:
                row = PersonRow(id=person, subject=subject, display_name=name, email=email, disabled=False)
                change.session.add(row)
            elif not replace:
                raise ConflictError(f"person '{person}' is there already")
            row.display_name, row.email = name, email
            if row.gone_at is not None:  # whoever logs in is known to the provider
                change.detail = {"gone": False}
                row.gone_at = None
            change.session.flush()
            return person_card(row)

    def describe_person(self, by: str, person: str, external: bool, affiliation: str = "") -> PersonCard:
        """Say whether somebody is an external partner, and of which organisation.

        Where that changes, what custodians agreed to before counts no more: they agreed to somebody else.

        Raises:
            InputError: the organisation is too long, or missing for an external partner.
        """
        affiliation = checked_text("an affiliation", affiliation, 200) if affiliation.strip() else ""
        if external and not affiliation:
            raise InputError("an external partner has an affiliation: name the organisation")
        with self._change(by, Action.PERSON_DESCRIBE, person=person) as change:
            row = person_named(change.session, person)
            self._judge(change)
            change.detail = {"external": external, "affiliation": affiliation}
            if (row.external, row.affiliation) != (external, affiliation):
                forget_consents(change.session, person)
            row.external, row.affiliation = external, affiliation
            change.session.flush()
            return person_card(row)

    def gone_person(self, by: str, person: str, gone: bool) -> None:
        """Follow the login provider: whoever it no longer knows is shut out until it knows them again."""
        with self._store.read() as session:
            if (person_named(session, person).gone_at is not None) == gone:
                return
        with self._change(by, Action.PERSON_GONE, person=person, gone=gone) as change:
            row = person_named(change.session, person)
            self._judge(change)
            row.gone_at = change.now if gone else None

    def disable_person(self, by: str, person: str) -> None:
        """Shut a person out everywhere; their sessions end."""
        self._set_disabled(by, Action.PERSON_DISABLE, person, disabled=True)

    def enable_person(self, by: str, person: str) -> None:
        """Let a disabled person in again."""
        self._set_disabled(by, Action.PERSON_ENABLE, person, disabled=False)

    def _set_disabled(self, by: str, action: Action, person: str, *, disabled: bool) -> None:
        with self._change(by, action, person=person) as change:
            self._judge(change)
            person_named(change.session, person).disabled = disabled

    def add_role(self, by: str, person: str, role: PlatformRole) -> PersonCard:
        """Give a platform role; nobody gives one to themselves. Having it already is no error.

        A role that the login provider gave stays from then on, whatever the provider says.

        Raises:
            RefusedError: the rules forbid it, or the person holds a role that does not go with it.
        """
        with self._change(by, Action.ROLE_ADD, person=person, role=str(role)) as change:
            row = person_named(change.session, person)
            self._judge(change)
            _check_compatible(row, role)
            held = next((role_row for role_row in row.roles if role_row.role is role), None)
            if held is None:
                row.roles.append(RoleRow(person_id=person, role=role))
            else:
                held.from_provider = False
            change.session.flush()
            return person_card(row)

    def remove_role(self, by: str, person: str, role: PlatformRole) -> PersonCard:
        """Take a platform role away. Not having it is no error. The login provider may give its own again."""
        with self._change(by, Action.ROLE_REMOVE, person=person, role=str(role)) as change:
            row = person_named(change.session, person)
            self._judge(change)
            row.roles[:] = [role_row for role_row in row.roles if role_row.role is not role]
            change.session.flush()
            return person_card(row)

    def follow_roles(self, by: str, person: str, roles: Collection[PlatformRole]) -> PersonCard:
        """Give the roles that the person's groups at the login provider stand for, and take away those that the
        provider gave before and gives no more. Roles that somebody here gave are left as they are.

        Raises:
            RefusedError: a role does not go with one that the person holds. What was to go is gone even so.
        """
        wanted = frozenset(roles)
        with self._store.read() as session:
            row = person_named(session, person)
            held = {role_row.role: role_row.from_provider for role_row in row.roles}
            lost = {role for role, provided in held.items() if provided} - wanted
            won = wanted - set(held)
            card = person_card(row)
        # Two changes: a role that cannot be given must not keep one that was taken away.
        if lost:
            card = self._follow(by, person, sorted(lost), give=False)
        if won:
            card = self._follow(by, person, sorted(won), give=True)
        return card

    def _follow(self, by: str, person: str, roles: list[PlatformRole], *, give: bool) -> PersonCard:
        with self._change(by, Action.ROLE_FOLLOW, person=person) as change:
            change.detail = {"given" if give else "taken": [str(role) for role in roles]}
            row = person_named(change.session, person)
            self._judge(change)
            if give:
                for role in roles:
                    _check_compatible(row, role)
                    if all(role_row.role is not role for role_row in row.roles):
                        row.roles.append(RoleRow(person_id=person, role=role, from_provider=True))
            else:
                row.roles[:] = [
                    role_row for role_row in row.roles if role_row.role not in roles or not role_row.from_provider
                ]
            change.session.flush()
            return person_card(row)


def forget_consents(session: Session, person: str) -> None:
    """Let nothing count that custodians agreed to about a person, in any project."""
    # Stops: a custodian's consent to a partner of one organisation carried to another.
    # Shown by tests/unit/governance/test_memberships.py.
    session.execute(update(MembershipRow).where(MembershipRow.person_id == person).values(consented_by=None))


def _check_compatible(row: PersonRow, role: PlatformRole) -> None:
    held = {role_row.role for role_row in row.roles}
    for pair in INCOMPATIBLE_ROLES:
        if role in pair and held & (pair - {role}):
            other = next(iter(pair - {role}))
            raise RefusedError(f"refused by rule separate-roles: '{row.id}' is {other}, which excludes {role}")

"""Persons and what they do for the platform."""

from __future__ import annotations

from sqlalchemy import select

from orchestrator.errors import ConflictError, InputError, RefusedError
from orchestrator.governance.cards import Person, PersonCard
from orchestrator.governance.desk import Desk, checked_text, person_named
from orchestrator.governance.identity import HUB, person_id
from orchestrator.governance.rules import Action
from orchestrator.governance.states import INCOMPATIBLE_ROLES, PlatformRole
from orchestrator.governance.store import PersonRow, RoleRow


def _card(row: PersonRow) -> PersonCard:
    return PersonCard(
        id=row.id,
        subject=row.subject,
        display_name=row.display_name,
        email=row.email,
        disabled=row.disabled,
        roles=tuple(sorted(role.role for role in row.roles)),
    )


class People(Desk):
    """Part of Governance: persons and platform roles."""

    def person(self, person: str) -> PersonCard:
        """A person with platform roles. Raises NotFoundError."""
        with self._store.read() as session:
            return _card(person_named(session, person))

    def persons(self) -> list[PersonCard]:
        """Everybody, by id."""
        with self._store.read() as session:
            return [_card(row) for row in session.scalars(select(PersonRow).order_by(PersonRow.id))]

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
            if known is not None and replace and (known.display_name, known.email) == (name, email):
                return _card(known)
        with self._change(by, Action.PERSON_ADD, person=person) as change:
            self._judge(change)
            row = change.session.get(PersonRow, person)
            if row is None:
                row = PersonRow(id=person, subject=subject, display_name=name, email=email, disabled=False)
                change.session.add(row)
            elif not replace:
                raise ConflictError(f"person '{person}' is there already")
            row.display_name, row.email = name, email
            change.session.flush()
            return _card(row)

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

        Raises:
            RefusedError: the rules forbid it, or the person holds a role that does not go with it.
        """
        with self._change(by, Action.ROLE_ADD, person=person, role=str(role)) as change:
            row = person_named(change.session, person)
            self._judge(change)
            held = {role_row.role for role_row in row.roles}
            for pair in INCOMPATIBLE_ROLES:
                if role in pair and held & (pair - {role}):
                    other = next(iter(pair - {role}))
                    told = f"'{person}' is {other}, which excludes {role}"
                    raise RefusedError(f"refused by rule separate-roles: {told}")
            if role not in held:
                row.roles.append(RoleRow(person_id=person, role=role))
                change.session.flush()
            return _card(row)

    def remove_role(self, by: str, person: str, role: PlatformRole) -> PersonCard:
        """Take a platform role away. Not having it is no error."""
        with self._change(by, Action.ROLE_REMOVE, person=person, role=str(role)) as change:
            row = person_named(change.session, person)
            self._judge(change)
            row.roles[:] = [role_row for role_row in row.roles if role_row.role is not role]
            change.session.flush()
            return _card(row)

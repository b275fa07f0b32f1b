"""Projects that leave for another deployment, and those that come from one.

Leaving is a custodian's decision, which this room judges and logs; what then travels is the room ``moving``'s. What
arrives is another deployment's word: it is taken as history, suspended, and gives nobody anything of what was here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Table, select
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.orm import Session

from orchestrator.errors import ConflictError, InputError, RefusedError
from orchestrator.governance.cards import PermitRecord
from orchestrator.governance.desk import Desk, approved_permit, project_named
from orchestrator.governance.identity import person_id
from orchestrator.governance.permits import permit_record
from orchestrator.governance.projects import checked_slug, project_sought
from orchestrator.governance.rows import decoded, rows
from orchestrator.governance.rules import Action
from orchestrator.governance.states import PermitState, ProjectState
from orchestrator.governance.store import (
    ApplicationRow,
    AppointmentRow,
    MembershipRow,
    PermitRow,
    PersonRow,
    ProjectRow,
)
from orchestrator.terms import PermitTerms, Value

#: a project in one of these can leave; a draft has nothing yet, and what is closed is put away
MOVABLE = (ProjectState.ACTIVE, ProjectState.SUSPENDED)

Rows = tuple[dict[str, Any], ...]


class Moved(Value):
    """Everything that governance knows of one project, row by row as the store keeps it."""

    project: dict[str, Any]
    persons: Rows
    memberships: Rows
    appointments: Rows
    permits: Rows
    applications: Rows

    @property
    def slug(self) -> str:
        """The project's name."""
        return str(self.project.get("slug"))

    @property
    def project_id(self) -> str:
        """The project's id, which it keeps."""
        return str(self.project.get("id"))

    def approved(self) -> PermitTerms | None:
        """The terms of the permit in force. Raises InputError where there are two, or they are none."""
        found = [row for row in self.permits if row.get("state") == PermitState.APPROVED.value]
        if len(found) > 1:
            raise InputError("the project has two permits in force")
        try:
            return PermitTerms.model_validate(found[0]["terms"]) if found else None
        except (ValueError, KeyError) as error:
            raise InputError("the permit in force is none that this program knows") from error


class Moving(Desk):
    """Part of Governance: export and import of projects."""

    def decide_export(self, by: str, slug: str, recipient: str) -> None:
        """Decide that a project goes to the deployment whose transfer key ``recipient`` is. The log has it before
        anything is read.

        Raises:
            RefusedError: the rules forbid it, or the project is not in effect.
            SecondPersonError: it waits for a second person.
        """
        with self._change(by, Action.PROJECT_EXPORT, project=slug, recipient=recipient) as change:
            project = project_named(change.session, slug)
            self._judge(change, project)
            if project.state not in MOVABLE:
                raise RefusedError(f"project '{slug}' is {project.state}, and only one that is in effect can leave")
            self._decide(change, project, recipient=recipient)

    def leaving(self, slug: str) -> tuple[Moved, PermitRecord | None]:
        """What travels of a project, in one moment, and the permit in force. Raises NotFoundError."""
        with self._store.read() as session:
            project = project_named(session, slug)
            mine = {
                kind: tuple(rows(session, kind.__table__, kind.project_id == project.id))  # type: ignore[arg-type]
                for kind in (MembershipRow, AppointmentRow, PermitRow, ApplicationRow)
            }
            people = {
                *(row["person_id"] for row in mine[MembershipRow]),
                *(row["lead"] for row in mine[AppointmentRow]),
                *(row["drafted_by"] for row in mine[ApplicationRow]),
            }
            permit = approved_permit(session, project.id)
            moved = Moved(
                project=next(rows(session, _table(ProjectRow), ProjectRow.id == project.id)),
                persons=tuple(rows(session, _table(PersonRow), PersonRow.id.in_(people))),
                memberships=mine[MembershipRow],
                appointments=mine[AppointmentRow],
                permits=mine[PermitRow],
                applications=mine[ApplicationRow],
            )
            return moved, None if permit is None else permit_record(permit)

    def check_arrival(self, moved: Moved, *, same_people: bool) -> None:
        """Refuse a project that cannot be taken in, before anything of it is kept.

        Raises:
            InputError: a row is wrong in itself.
            ConflictError: its name or id is taken: also by the same project, imported before.
            RefusedError: it names people who may be others here.
        """
        with self._store.read() as session:
            _check(session, moved, same_people=same_people)

    def take_in(
        self, by: str, moved: Moved, *, same_people: bool, arrived: Collection[tuple[str, str]], told: Mapping[str, Any]
    ) -> None:
        """Keep a project that came from elsewhere, suspended. People who are known stay as they are known here.

        Args:
            by: who imports.
            moved: what came.
            same_people: whether somebody made sure that equal ids are equal people.
            arrived: dataset and table of what came with it: the permit in force reaches nothing else.
            told: what the log says of where it came from.

        Raises:
            RefusedError: the rules forbid it, or its permit names data that did not come with it.
            InputError, ConflictError: as :meth:`check_arrival`.
        """
        with self._change(by, Action.PROJECT_IMPORT, project=moved.slug, **told) as change:
            session = change.session
            self._judge(change)
            _check(session, moved, same_people=same_people)
            terms = moved.approved()
            # Stops: a project that is made up so that its permit, approved elsewhere, names data that is here. Shown
            # by tests/unit/moving/test_projects.py.
            strange = [f"{one.dataset}/{one.table}" for one in (terms.tables if terms else ())
                       if (one.dataset, one.table) not in arrived]  # fmt: skip
            if strange:
                raise RefusedError(f"the project's permit names {strange[0]}, which did not come with it")
            if terms is not None:
                self._catalogue.check(terms.tables)
            new = _insert(session, moved)
            change.detail.update({"project_id": moved.project_id, "people": len(moved.persons), "new_people": new})


def _table(kind: Any) -> Table:
    table: Table = kind.__table__
    return table


def _check(session: Session, moved: Moved, *, same_people: bool) -> None:
    project = decoded(_table(ProjectRow), moved.project)
    checked_slug(project["slug"])
    if project["state"] not in [state.value for state in MOVABLE]:
        raise InputError(f"the project is {project['state']}, and only one that is in effect can arrive")
    # Stops: the same archive a second time, or an older one over what was done since. Shown by
    # tests/unit/moving/test_projects.py.
    if session.get(ProjectRow, project["id"]) is not None:
        raise ConflictError(f"project '{project['slug']}' ({project['id']}) is, or was, here already")
    if project_sought(session, project["slug"]) is not None:
        raise ConflictError(f"project '{project['slug']}' exists already; names are never used again")
    people = [decoded(_table(PersonRow), row) for row in moved.persons]
    for kind, found in _of_project(moved):
        for row in found:
            if decoded(_table(kind), row)["project_id"] != project["id"]:
                raise InputError("a row belongs to another project")
    named = {row["person_id"] for row in moved.memberships} | {row["lead"] for row in moved.appointments}
    if not named <= {row["id"] for row in people}:
        raise InputError("somebody is in the project of whom nothing is said")
    _check_people(session, people, same_people=same_people)


def _check_people(session: Session, people: list[dict[str, Any]], *, same_people: bool) -> None:
    doubted = []
    for row in people:
        # Stops: a person's id that is bound to somebody else's login. Shown by tests/unit/moving/test_projects.py.
        if not isinstance(row["subject"], str) or person_id(row["subject"]) != row["id"]:
            raise InputError(f"'{row['id']}' is not the id of a person with that subject")
        known = session.get(PersonRow, row["id"])
        if known is not None and known.email.casefold() != str(row["email"]).casefold():
            doubted.append(row["id"])
    if doubted and not same_people:
        raise RefusedError(
            f"known here with another e-mail address: {', '.join(doubted)}",
            hint="make sure that they are the same people, and say so with --same-people",
        )


def _of_project(moved: Moved) -> list[tuple[Any, Rows]]:
    return [
        (MembershipRow, moved.memberships),
        (AppointmentRow, moved.appointments),
        (PermitRow, moved.permits),
        (ApplicationRow, moved.applications),
    ]


def _insert(session: Session, moved: Moved) -> int:
    """Insert what was checked; the number of people who are new here."""
    try:
        project = ProjectRow(**decoded(_table(ProjectRow), moved.project))
        project.state = ProjectState.SUSPENDED
        known = set(session.scalars(select(PersonRow.id)))
        new = [decoded(_table(PersonRow), row) for row in moved.persons if row["id"] not in known]
        session.add_all([project, *(PersonRow(**row) for row in new)])
        session.flush()
        for kind, found in _of_project(moved):
            for row in found:
                values = decoded(_table(kind), row)
                if kind is not ApplicationRow:
                    values.pop("id")  # a number that counts here
                session.add(kind(**values))
        session.flush()
    except (ValueError, TypeError, StatementError) as error:
        if isinstance(error, DBAPIError):
            raise  # the database's own fault, which the store tells
        raise InputError("a row of the project has a value that this program does not know") from error
    return len(new)

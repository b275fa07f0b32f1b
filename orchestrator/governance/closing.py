"""A closing that nobody decides, because the project's time is over; and what follows any closing.

The folders are archived, the keys kept until a date and then destroyed, and a certificate proves it. The node agent
does that; here is what is due, and that it was done.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime, time, timedelta
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from orchestrator.errors import BulleError, InputError, NotFoundError, RefusedError
from orchestrator.governance.cards import ClosingDue, ProjectRecord
from orchestrator.governance.desk import Change, Desk, project_named
from orchestrator.governance.identity import AUTHORITY
from orchestrator.governance.lapsing import IN_EFFECT, closes_at, is_over
from orchestrator.governance.projects import checked_moment, close, project_record, project_sought
from orchestrator.governance.rules import Action
from orchestrator.governance.signatures import digest
from orchestrator.governance.states import ProjectState, check_transition
from orchestrator.governance.store import DeletionRow, MembershipRow, ProjectRow

#: how many projects the node agent is told of at once
MOST_DUE = 100

#: stands in every certificate: a wrapped key opens from wherever it comes, as long as the custodian lives
NOTE = (
    "The wrapped keys named here were overwritten and removed from the key ring, and the encrypted folders removed."
    " A backup of the key ring from before still holds the keys: the deletion is complete when every such backup is"
    " destroyed too."
)

_log = logging.getLogger(__name__)

_FOLDER = re.compile(r"[A-Za-z0-9._~-]{1,200}")


class Closing(Desk):
    """Part of Governance: what a closed project leaves."""

    def retain_project(self, by: str, slug: str, until: datetime) -> ProjectRecord:
        """Move the day on which a closed project's keys are destroyed; today is the earliest, and means at once.

        Raises:
            InputError: the day is over.
            RefusedError: the rules forbid it, or the project is not closed.
        """
        until = checked_moment("the end of retention", until)
        with self._change(by, Action.PROJECT_RETAIN, project=slug, until=until.isoformat()) as change:
            project = project_sought(change.session, slug)
            self._judge(change, project)
            if project is None:
                raise NotFoundError(f"there is no project '{slug}'")
            if project.state is not ProjectState.CLOSED:
                raise RefusedError(f"project '{slug}' is {project.state}: only a closed one is kept until a day")
            today = datetime.combine(change.now.date(), time(), change.now.tzinfo)
            if until < today:
                raise InputError(f"the end of retention must not be before today; got {until:%Y-%m-%d}")
            if project.retain_until is not None:
                change.detail["before"] = project.retain_until.isoformat()
            self._decide(change, project, until=until.isoformat())
            project.retain_until = until
            return project_record(project)

    # -- a project whose time is over -------------------------------------------------------------------
    def close_lapsed(self) -> int:
        """Close every project whose end passed so long ago that nobody can ask for a renewal any more.

        Safe to call as often as one likes, by several at once. Returns how many were closed.
        """
        now = self._clock()
        ended = now - timedelta(days=self._policy.closing_days)
        wanted = select(ProjectRow).where(ProjectRow.state.in_(IN_EFFECT), ProjectRow.ends <= ended)
        with self._store.read() as session:
            there = session.scalars(wanted.order_by(ProjectRow.ends)).all()
            due = [row.slug for row in there if self._lapses(session, row, now)]
        closed = 0
        for slug in due:
            try:
                self.lapse_project(AUTHORITY, slug)
                closed += 1
            except BulleError as error:  # the others are closed all the same, and this one is tried again
                _log.warning("project '%s' was not closed: %s", slug, error)
        return closed

    def lapse_project(self, by: str, slug: str) -> None:
        """Close a project because its time is over and no renewal was asked for: the platform's own act.

        Raises:
            RefusedError: somebody else asks, it can still be renewed, or a renewal waits for its decision.
        """
        with self._change(by, Action.PROJECT_LAPSE, project=slug) as change:
            project = project_named(change.session, slug)
            self._judge(change, project)
            # Judged anew, in the transaction that closes it: a renewal may have been handed in since the list was made.
            # Shown by tests/unit/governance/test_lapsing.py.
            if not self._lapses(change.session, project, change.now):
                raise RefusedError(f"refused by rule lapse: project '{slug}' does not close by itself yet")
            change.detail["ended"] = project.ends.isoformat()
            close(change, project, self._policy.retention_days)

    def _lapses(self, session: Session, project: ProjectRow, now: datetime) -> bool:
        if not is_over(project, now):
            return False
        closing = closes_at(session, project, self._policy.closing_days)
        return closing is not None and closing <= now

    # -- the node agent's half --------------------------------------------------------------------------
    def closings_due(self, now: datetime | None = None) -> list[ClosingDue]:
        """What the node agent has to do now, what was closed first at the top.

        A draft that was closed is never among it: nobody had a workspace in it.
        """
        now = now or self._clock()
        wanted = select(ProjectRow).where(
            ProjectRow.state == ProjectState.CLOSED,
            ProjectRow.retain_until.is_not(None),
            or_(ProjectRow.archived_at.is_(None), ProjectRow.retain_until <= now),
        )
        with self._store.read() as session:
            rows = list(session.scalars(wanted.order_by(ProjectRow.closed_at, ProjectRow.id).limit(MOST_DUE)))
            members = select(MembershipRow.project_id, MembershipRow.person_id).where(
                MembershipRow.project_id.in_([row.id for row in rows])
            )
            persons: dict[str, list[str]] = {}
            for project_id, person in session.execute(members.order_by(MembershipRow.person_id)):
                persons.setdefault(project_id, []).append(person)
            return [
                ClosingDue(
                    project_id=row.id,
                    project=row.slug,
                    action="destroy" if row.retain_until is not None and row.retain_until <= now else "archive",
                    persons=tuple(persons.get(row.id, ())),
                )
                for row in rows
            ]

    def archived(self, by: str, project_id: str) -> None:
        """Note that a closed project's folders are read-only. Telling it again is no error."""
        with self._store.read() as session:
            if _project(session, project_id).archived_at is not None:
                return
        with self._change(by, Action.PROJECT_ARCHIVE) as change:
            project = self._closed(change, project_id)
            project.archived_at = change.now

    def deleted(
        self,
        by: str,
        project_id: str,
        keys: Sequence[str],
        folders: Sequence[str],
        sign: Callable[[dict[str, Any]], str],
    ) -> str:
        """Note that a closed project's keys are destroyed; returns the certificate, made and kept at this moment.

        ``keys`` and ``folders`` are the ids and names of those destroyed. ``sign`` makes a JWS of claims. Telling it
        again returns the same certificate: an agent that was stopped before it heard the answer asks again.

        Raises:
            InputError: a key is not this project's.
            RefusedError: the keys were to be kept for longer; there is no certificate for that.
        """
        with self._store.read() as session:
            kept = session.get(DeletionRow, _project(session, project_id).id)
            if kept is not None:
                return kept.certificate
        with self._change(by, Action.PROJECT_DELETE, keys=len(keys), folders=len(folders)) as change:
            project = self._closed(change, project_id)
            check_transition(f"project '{project.slug}'", project.state, ProjectState.DELETED)
            # Stops: an agent in an attacker's hands that destroys what must be kept, and has it certified as due.
            # Shown by tests/unit/governance/test_closing.py.
            if project.retain_until is None or project.retain_until > change.now:
                told = "is kept" if project.retain_until is None else f"is kept until {project.retain_until:%Y-%m-%d}"
                raise RefusedError(f"refused by rule retention: project '{project.slug}' {told}")
            _check_names(project, keys, folders)
            certificate = sign(_claims(project, keys, folders, change.now))
            change.session.add(DeletionRow(project_id=project.id, certificate=certificate, at=change.now))
            project.state = ProjectState.DELETED
            change.detail["certificate"] = digest(certificate)
            return certificate

    def _closed(self, change: Change, project_id: str) -> ProjectRow:
        """The closed project of that id, of which the node agent tells."""
        self._judge(change)
        project = _project(change.session, project_id)
        change.project = project.slug
        if project.state is not ProjectState.CLOSED:
            raise RefusedError(f"project '{project.slug}' is {project.state}, not closed")
        return project


def _project(session: Session, project_id: str) -> ProjectRow:
    project = session.get(ProjectRow, project_id)
    if project is None:
        raise NotFoundError(f"there is no project with the id '{project_id[:32]}'")
    return project


def _check_names(project: ProjectRow, keys: Sequence[str], folders: Sequence[str]) -> None:
    # Stops: a certificate that says of another project, or of a dataset, that its keys are gone.
    for key in keys:
        kind, _, rest = key.partition("/")
        if kind not in ("project", "home") or not rest.startswith(f"{project.id}/") or len(key) > 300:
            raise InputError(f"'{key[:100]}' is not a key of project '{project.slug}'")
    for folder in folders:
        if not _FOLDER.fullmatch(folder):
            raise InputError(f"'{folder[:100]}' is not the name of a folder")


def _claims(project: ProjectRow, keys: Sequence[str], folders: Sequence[str], now: datetime) -> dict[str, Any]:
    """What a certificate says; whoever signs adds who they are (``iss``)."""
    return {
        "jti": uuid.uuid4().hex,
        "iat": int(now.timestamp()),
        "project_id": project.id,
        "project": project.slug,
        "title": project.title,
        "closed_at": None if project.closed_at is None else project.closed_at.isoformat(),
        "retain_until": None if project.retain_until is None else project.retain_until.isoformat(),
        "deleted_at": now.isoformat(),
        "keys": sorted(keys),
        "folders": sorted(folders),
        "note": NOTE,
    }

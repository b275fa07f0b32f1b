"""The one question behind every decision about access, asked anew each time: nothing of it is kept.

Only the statements are made beforehand. To make one costs more than the database takes to answer it, and the node agent
asks for each running session every two seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, and_, bindparam, func, select, true
from sqlalchemy.orm import Session

from orchestrator.config import Policy
from orchestrator.governance.access import Standing
from orchestrator.governance.states import MemberRole, MembershipState, PermitState
from orchestrator.governance.store import (
    AcceptanceRow,
    MembershipRow,
    PermitRow,
    PersonRow,
    ProjectRow,
    TrainingRow,
)
from orchestrator.terms import PermitTerms

# Tables, not the mapped classes: rows of plain values, without the keeping of what was read.
_PERSON, _PROJECT, _MEMBERSHIP = PersonRow.__table__, ProjectRow.__table__, MembershipRow.__table__
_PERMIT, _ACCEPTANCE, _TRAINING = PermitRow.__table__, AcceptanceRow.__table__, TrainingRow.__table__


@dataclass(frozen=True)
class Found:
    """A person and a project, and how they stand to each other; without a membership, its part is None."""

    standing: Standing
    person: str
    display_name: str
    project_id: str
    slug: str
    title: str
    purpose: str
    role: MemberRole | None


def _statement(*, members_only: bool = False) -> Select[Any]:
    """One row for each person and project. ``members_only`` is for lists, which never look at other projects."""
    trained = (
        select(func.max(_TRAINING.c.expires))
        .where(_TRAINING.c.person_id == _PERSON.c.id, _TRAINING.c.confirmed_by.is_not(None))
        .correlate(_PERSON)
        .scalar_subquery()
    )
    accepted = and_(_ACCEPTANCE.c.person_id == _PERSON.c.id, _ACCEPTANCE.c.version == bindparam("terms"))
    mine = _MEMBERSHIP.c.person_id == _PERSON.c.id
    there = _MEMBERSHIP.c.project_id == _PROJECT.c.id
    permitted = and_(_PERMIT.c.project_id == _PROJECT.c.id, _PERMIT.c.state == PermitState.APPROVED)
    if members_only:
        both = _PERSON.join(_MEMBERSHIP, mine).join(_PROJECT, there)
    else:
        both = _PERSON.join(_PROJECT, true()).outerjoin(_MEMBERSHIP, and_(mine, there))
    return (
        select(
            _PERSON.c.id.label("person"),
            _PERSON.c.display_name,
            _PERSON.c.disabled,
            _PERSON.c.gone_at,
            _PERSON.c.external,
            _PROJECT.c.id.label("project_id"),
            _PROJECT.c.slug,
            _PROJECT.c.title,
            _PROJECT.c.purpose,
            _PROJECT.c.state.label("project_state"),
            _PROJECT.c.starts,
            _PROJECT.c.ends,
            _MEMBERSHIP.c.role,
            _MEMBERSHIP.c.state.label("membership"),
            _MEMBERSHIP.c.ends.label("membership_ends"),
            _MEMBERSHIP.c.review_due,
            _MEMBERSHIP.c.consented_by,
            _PERMIT.c.terms.label("permit"),
            _ACCEPTANCE.c.accepted_at,
            trained.label("trained"),
        )
        .select_from(both.outerjoin(_PERMIT, permitted).outerjoin(_ACCEPTANCE, accepted))
        .where(_PERSON.c.id == bindparam("person"))
    )


_BY_SLUG = _statement().where(_PROJECT.c.slug == bindparam("project"))
_BY_ID = _statement().where(_PROJECT.c.id == bindparam("project"))
_OF_PERSON = (
    _statement(members_only=True)
    .where(_MEMBERSHIP.c.state != MembershipState.ENDED)
    .order_by(_PROJECT.c.title, _PROJECT.c.slug)
)
_OF_PERSON_IN = _OF_PERSON.where(_PROJECT.c.slug == bindparam("project"))


def by_slug(session: Session, policy: Policy, person: str, slug: str) -> Found | None:
    """How a person stands to the project with this slug; None where one of them is not there."""
    return _first(session, policy, _BY_SLUG, {"person": person, "project": slug})


def by_id(session: Session, policy: Policy, person: str, project_id: str) -> Found | None:
    """The same, by the project's id."""
    return _first(session, policy, _BY_ID, {"person": person, "project": project_id})


def of_person(session: Session, policy: Policy, person: str, slug: str | None = None) -> list[Found]:
    """The projects that a person is in, by title, but those they left; with ``slug``, that one only."""
    named = {"person": person, "terms": policy.terms.version}
    if slug is None:
        rows = session.connection().execute(_OF_PERSON, named)
    else:
        rows = session.connection().execute(_OF_PERSON_IN, {**named, "project": slug})
    return [_found(row, policy) for row in rows]


def _first(session: Session, policy: Policy, wanted: Select[Any], named: Mapping[str, str]) -> Found | None:
    row = session.connection().execute(wanted, {**named, "terms": policy.terms.version}).first()
    return None if row is None else _found(row, policy)


def _found(row: Any, policy: Policy) -> Found:
    trained: datetime | None = row.trained
    return Found(
        standing=Standing(
            person_disabled=row.disabled,
            person_gone=row.gone_at is not None,
            terms_accepted=row.accepted_at is not None,
            training_until=trained,
            training_required=policy.training_required,
            consent_missing=row.external and row.consented_by is None,
            membership=row.membership,
            membership_ends=row.membership_ends,
            review_due=row.review_due,
            project=row.project_state,
            project_starts=row.starts,
            project_ends=row.ends,
            permit=None if row.permit is None else PermitTerms.model_validate(row.permit),
        ),
        person=row.person,
        display_name=row.display_name,
        project_id=row.project_id,
        slug=row.slug,
        title=row.title,
        purpose=row.purpose,
        role=row.role,
    )

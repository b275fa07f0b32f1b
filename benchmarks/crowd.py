"""A store as large as a region's: many projects and people, a few memberships each. For measurements and plans."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import insert, text

from orchestrator.config import Policy
from orchestrator.governance.states import (
    ApplicationKind,
    ApplicationState,
    MemberRole,
    MembershipState,
    PermitState,
    PlatformRole,
    ProjectState,
)
from orchestrator.governance.store import (
    AcceptanceRow,
    ApplicationRow,
    AppointmentRow,
    Base,
    MembershipRow,
    PermitRow,
    PersonRow,
    ProjectRow,
    RoleRow,
    StorageRow,
    Store,
    TrainingRow,
    UsageRow,
)

COLUMNS = ("id", "age", "sex", "region", "service", "diagnosis", "amount", "quantity")
_AT_ONCE = 2000


def project_id(number: int) -> str:
    """Id of a project."""
    return f"{number:032x}"


def slug(number: int) -> str:
    """Slug of a project."""
    return f"study-{number}"


def person(number: int) -> str:
    """Id of a person."""
    return f"person-{number}"


def fill(store: Store, projects: int, people: int, memberships: int) -> list[tuple[str, str, str]]:
    """Fill an empty store; each membership's person, slug and project id, in no order.

    Projects run and have a permit; members are active, trained and have accepted the terms, so that every decision
    about one of them looks at all there is.
    """
    chance = random.Random(4)
    now = datetime.now(UTC)
    pairs: set[tuple[int, int]] = {(number, number % people) for number in range(projects)}  # each has its lead
    while len(pairs) < memberships:
        pairs.add((chance.randrange(projects), chance.randrange(people)))
    rows = _rows(projects, people, sorted(pairs), now)
    with store.write() as session:
        for table, found in rows:
            for start in range(0, len(found), _AT_ONCE):
                session.execute(insert(table), found[start : start + _AT_ONCE])
        session.commit()
    with store._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))
    members = [(person(one), slug(project), project_id(project)) for project, one in pairs]
    members.sort()
    chance.shuffle(members)
    return members


def _rows(
    projects: int, people: int, pairs: list[tuple[int, int]], now: datetime
) -> Iterator[tuple[type[Base], list[dict[str, Any]]]]:
    began, over = now - timedelta(days=30), now + timedelta(days=300)
    yield (
        PersonRow,
        [
            {"id": person(one), "subject": person(one), "display_name": f"Person {one}", "email": f"{one}@example.org"}
            for one in range(people)
        ],
    )
    yield (
        AcceptanceRow,
        [{"person_id": person(one), "version": Policy().terms.version, "accepted_at": began} for one in range(people)],
    )
    yield (
        TrainingRow,
        [
            {
                "person_id": person(one),
                "course": "Working with health data",
                "completed": began,
                "expires": over,
                "declared_by": person(one),
                "declared_at": began,
                "confirmed_by": "custodian",
                "confirmed_at": began,
            }
            for one in range(people)
        ],
    )
    yield (
        RoleRow,
        [{"person_id": person(one), "role": PlatformRole.CUSTODIAN} for one in range(0, people, 100)],
    )
    yield (
        ProjectRow,
        [
            {
                "id": project_id(one),
                "slug": slug(one),
                "title": f"Study {one}",
                "purpose": "To learn what helps. " * 10,
                "state": ProjectState.ACTIVE,
                "starts": began,
                "ends": over,
                "created_by": "custodian",
                "created_at": began,
            }
            for one in range(projects)
        ],
    )
    yield MembershipRow, [_membership(project, one, people, began, over) for project, one in pairs]
    yield (
        AppointmentRow,
        [
            {
                "project_id": project_id(one),
                "lead": person(one % people),
                "appointed_by": "custodian",
                "appointed_at": began,
            }
            for one in range(projects)
        ],
    )
    yield PermitRow, [_permit(one, version, began, over) for one in range(projects) for version in (1, 2)]
    yield (
        ApplicationRow,
        [
            _application(one, 1, ApplicationKind.NEW, ApplicationState.APPROVED, people, began)
            for one in range(projects)
        ],
    )
    undecided = (ApplicationState.DRAFT, ApplicationState.SUBMITTED, ApplicationState.RETURNED)
    yield (
        ApplicationRow,
        [
            _application(one, 2, ApplicationKind.AMENDMENT, undecided[one % 3], people, began)
            for one in range(0, projects, 2)
        ],
    )
    yield (
        UsageRow,
        [
            {
                "session": f"{number:032x}",
                "month": f"{now:%Y-%m}",
                "project_id": project_id(project),
                "person_id": person(one),
                "began": began,
                "seen": now,
            }
            for number, (project, one) in enumerate(pairs)
            if number % 5 == 0
        ],
    )
    yield (
        StorageRow,
        [
            {"project_id": project_id(one), "person_id": "", "day": f"{now:%Y-%m}-0{day}", "bytes_used": 1e6}
            for one in range(projects)
            for day in (1, 2)
        ],
    )


def _application(
    project: int, number: int, kind: ApplicationKind, state: ApplicationState, people: int, began: datetime
) -> dict[str, Any]:
    return {
        "id": f"{number:016x}{project:016x}",
        "project_id": project_id(project),
        "number": number,
        "kind": kind,
        "state": state,
        "content": {"title": f"Study {project}"},
        "drafted_by": person(project % people),
        "drafted_at": began,
    }


def _membership(project: int, one: int, people: int, began: datetime, over: datetime) -> dict[str, Any]:
    return {
        "project_id": project_id(project),
        "person_id": person(one),
        "role": MemberRole.LEAD if project % people == one else MemberRole.MEMBER,
        "state": MembershipState.ACTIVE,
        "ends": over,
        "requested_by": person(one),
        "approved_by": "custodian",
        "changed_at": began,
        "review_due": over,
    }


def _permit(project: int, version: int, began: datetime, over: datetime) -> dict[str, Any]:
    return {
        "project_id": project_id(project),
        "version": version,
        "state": PermitState.APPROVED if version == 2 else PermitState.SUPERSEDED,
        "terms": {
            "version": version,
            "valid_from": began.isoformat(),
            "valid_until": over.isoformat(),
            "tables": [{"dataset": "visits", "table": "visits", "columns": [{"name": name} for name in COLUMNS]}],
        },
        "drafted_by": person(project),
        "drafted_at": began,
        "approved_by": "custodian",
        "approved_at": began,
    }

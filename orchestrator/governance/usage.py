"""What sessions use, what it costs, quotas, and how the deployment does.

The node agent alone tells of usage, on its own socket: neither a portal nor a hub in an attacker's hands can write
a line (tests/unit/governance/test_usage.py).
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from sqlalchemy import ColumnElement, and_, bindparam, func, or_, select, update
from sqlalchemy.orm import Session

from orchestrator.audit import AuditLog
from orchestrator.config import Policy
from orchestrator.errors import RefusedError
from orchestrator.governance.cards import (
    FolderSize,
    Health,
    Machine,
    NodeHealth,
    NodeReport,
    RunningSession,
    SessionUsage,
    UsagePage,
    WhyNot,
)
from orchestrator.governance.costs import (
    GB,
    KINDS,
    Limited,
    QuotaKind,
    Used,
    first_day,
    limits_of,
    line,
    month_of,
    next_month,
    storage_in,
)
from orchestrator.governance.desk import Desk, membership_of, project_named
from orchestrator.governance.rules import Action
from orchestrator.governance.states import MemberRole, MembershipState
from orchestrator.governance.store import (
    MembershipRow,
    NoticeRow,
    PersonRow,
    ProjectRow,
    QuotaRow,
    StorageRow,
    UsageRow,
)
from orchestrator.terms import SessionClaim

#: after this long without a word of it, a session counts as ended at the last one
VANISHED = timedelta(minutes=5)
#: on a cluster, after this long without being named by its node agent, a session no longer runs
SILENT = timedelta(seconds=15)
QUOTA_USED = "quota-used"
#: the part of a quota from which on a project's leads are told
NEAR = 0.9

_NOTHING = Machine(cpus=0, load=0, memory_total_gb=0, memory_free_gb=0, storage_total_gb=0, storage_free_gb=0)


@dataclass(frozen=True)
class _Checked:
    """The sessions of the node agent's last check, and since when each is known."""

    at: datetime
    since: Mapping[SessionClaim, datetime]
    #: when each was last named; on a cluster each node agent names its own only
    named: Mapping[SessionClaim, datetime]


@dataclass(frozen=True)
class _Reported:
    """A machine at its node agent's last report."""

    at: datetime
    machine: Machine


def quotas_used(session: Session, policy: Policy, projects: Collection[str], now: datetime) -> dict[str, WhyNot]:
    """Of the projects with these ids, those that used up a quota, and why no workspace opens there.

    One question by primary key where no quota is set; what was used is added up for projects that have one only.
    """
    month, refused = month_of(now), {}
    for project, found in _limited(session, policy, projects, month).items():
        kind = found.exceeded()
        if kind is not None:
            refused[project] = WhyNot(code=QUOTA_USED, message=found.message(kind, month))
    return refused


def quotas_near(session: Session, policy: Policy, projects: Collection[str], now: datetime) -> set[str]:
    """Of the projects with these ids, those that used :data:`NEAR` of a quota, or all of it."""
    limited = _limited(session, policy, projects, month_of(now))
    return {project for project, found in limited.items() if found.exceeded(NEAR) is not None}


def _limited(session: Session, policy: Policy, projects: Collection[str], month: str) -> dict[str, Limited]:
    """Use and limits of the projects that have any limit."""
    if not projects:
        return {}
    own = _own_quotas(session, projects)
    limits = {project: limits_of(policy.quotas, own[project]) for project in projects}
    limited = [project for project, most in limits.items() if any(limit is not None for limit in most.values())]
    if not limited:
        return {}
    used = _used_by_projects(session, limited, month)
    return {project: Limited(used[project], limits[project]) for project in limited}


#: made once: it is asked at every start, and to make it costs more than to answer it
_OWN_QUOTAS = select(QuotaRow.project_id, QuotaRow.kind, QuotaRow.most).where(
    QuotaRow.project_id.in_(bindparam("projects", expanding=True))
)


def _own_quotas(session: Session, projects: Collection[str]) -> defaultdict[str, list[tuple[str, float]]]:
    own: defaultdict[str, list[tuple[str, float]]] = defaultdict(list)
    for project, kind, most in session.execute(_OWN_QUOTAS, {"projects": list(projects)}):
        own[project].append((kind, most))
    return own


def _used_by_projects(session: Session, projects: Collection[str], month: str) -> dict[str, dict[QuotaKind, float]]:
    used: dict[str, dict[QuotaKind, float]] = {project: dict.fromkeys(KINDS, 0.0) for project in projects}
    sums = (
        select(
            UsageRow.project_id,
            func.sum(UsageRow.seconds),
            func.sum(UsageRow.cpu_seconds),
            func.sum(UsageRow.memory_gb_seconds),
        )
        .where(UsageRow.project_id.in_(projects), UsageRow.month == month)
        .group_by(UsageRow.project_id)
    )
    for project, seconds, cpu, memory in session.execute(sums):
        used[project] = {
            "hours": seconds / 3600,
            "cpu_hours": cpu / 3600,
            "memory_gb_hours": memory / 3600,
            "storage_gb": 0.0,
        }
    for (project, _), size in _sizes_now(session, StorageRow.project_id.in_(projects)).items():
        used[project]["storage_gb"] += size / GB
    return used


def _sizes_now(session: Session, which: ColumnElement[bool]) -> dict[tuple[str, str], float]:
    """The last size of each folder."""
    last = (
        select(StorageRow.project_id, StorageRow.person_id, func.max(StorageRow.day).label("day"))
        .where(which)
        .group_by(StorageRow.project_id, StorageRow.person_id)
        .subquery()
    )
    same = and_(
        StorageRow.project_id == last.c.project_id,
        StorageRow.person_id == last.c.person_id,
        StorageRow.day == last.c.day,
    )
    wanted = select(StorageRow.project_id, StorageRow.person_id, StorageRow.bytes_used).join(last, same)
    return {(project, person): size for project, person, size in session.execute(wanted)}


class Usage(Desk):
    """Part of Governance: see the module."""

    #: whether keys lie in a file on this machine; people in office are warned until it is known that they do not
    embedded_custodian = True
    #: the node agent's last words; each is put in place whole, so that threads need no lock
    _checked: _Checked | None = None
    _hearing = threading.Lock()
    #: by the node's name; one of which nothing was heard for VANISHED is left away
    _reported: Mapping[str, _Reported] = {}

    @property
    def node_heard_at(self) -> datetime | None:
        """When the node agent last asked about what runs; None before it did."""
        return None if self._checked is None else self._checked.at

    # -- what the node agent tells ---------------------------------------------------------------------------
    def heard(self, claims: Iterable[SessionClaim], *, one_of_many: bool = False) -> None:
        """The node agent asked about these sessions: they run, and it lives. Kept in memory.

        ``one_of_many``: there are others, whose sessions it knows nothing of.
        """
        with self._hearing:  # several ask at once, and none of them may forget what another said
            now, before = self._clock(), self._checked
            named = dict.fromkeys(claims, now)
            if one_of_many and before is not None:
                named = {claim: at for claim, at in before.named.items() if now - at < SILENT} | named
            known = {} if before is None else before.since
            self._checked = _Checked(now, {claim: known.get(claim, now) for claim in named}, named)

    def record_usage(self, report: NodeReport) -> None:
        """Keep what the node agent measured. Totals: told again, or late, they change nothing and take nothing away.

        A line of a person or project that is not there, or of a session known as somebody else's, is passed over.
        A session that was not heard of for :data:`VANISHED` is ended at its last report.
        """
        now = self._clock()
        with self._hearing:
            heard = {node: told for node, told in self._reported.items() if now - told.at < VANISHED}
            self._reported = heard | {report.node: _Reported(now, report.machine)}
        with self._store.write() as session:
            known = _known(session, [*report.sessions, *report.folders])
            rows = _rows_of(session, report.sessions)
            for told in report.sessions:
                if (told.project_id, told.person) in known:
                    _merge(session, rows, told)
            for folder in report.folders:
                if (folder.project_id, folder.person) in known:
                    session.merge(
                        StorageRow(
                            project_id=folder.project_id,
                            person_id=folder.person,
                            day=now.astimezone(UTC).date().isoformat(),
                            bytes_used=folder.bytes_used,
                        )
                    )
            session.flush()
            session.execute(
                update(UsageRow)
                .where(
                    # The last two months only, which an index finds: older ones were ended long ago.
                    UsageRow.month.in_((month_of(now), month_of(now - timedelta(days=31)))),
                    UsageRow.ended.is_(None),
                    UsageRow.seen < now - VANISHED,
                )
                .values(ended=UsageRow.seen)
            )
            session.commit()

    # -- quotas ----------------------------------------------------------------------------------------------
    def set_quota(self, by: str, project: str, kind: QuotaKind, most: float | None) -> None:
        """Give a project its own limit of ``kind``; None: the deployment's applies again.

        Raises:
            RefusedError: the rules forbid it, or the project is closed.
        """
        with self._change(by, Action.QUOTA_SET, project=project, kind=kind, most=most) as change:
            row = project_named(change.session, project, open_only=True)
            self._judge(change, row)
            there = change.session.get(QuotaRow, (row.id, kind))
            change.detail["before"] = None if there is None else there.most
            if most is None:
                if there is not None:
                    change.session.delete(there)
            else:
                change.session.merge(QuotaRow(project_id=row.id, kind=kind, most=most, set_by=by, set_at=change.now))

    # -- reading ---------------------------------------------------------------------------------------------
    def usage(self, by: str, month: str | None = None, project: str | None = None) -> UsagePage:
        """Usage in ``month`` (this one), of one project or of all: one's own lines, those of projects that one leads,
        and for people in office every line.

        Raises:
            RefusedError: the project is not the reader's, or is not there.
            InputError: ``month`` is none.
        """
        now = self._clock()
        month = month or month_of(now)
        first_day(month)
        with self._store.read() as session:
            whole = self._may_read(session, by, Action.USAGE_READ)
            one = self._readable_project(session, by, project, whole)
            sees = None if whole else _Sees(by, _ever_in(session, by), self._led(session, by, one))
            used = _lines(session, month, now, one, sees)
            projects = _names(session, ProjectRow.id, ProjectRow.slug, ProjectRow.title, {key[0] for key in used})
            people = _names(session, PersonRow.id, PersonRow.id, PersonRow.display_name, {key[1] for key in used})
            lines = [
                line(projects[key[0]], people.get(key[1], (key[1], "")), amount, self._policy.prices)
                for key, amount in used.items()
            ]
            quotas: dict[str, float | None] = {}
            spent: dict[str, float] = {}
            # Who left a project still sees their own lines, and no longer how it does.
            if one is not None and self._may_read(session, by, Action.PROJECT_READ, project=one):
                most = limits_of(self._policy.quotas, _own_quotas(session, [one.id])[one.id])
                quotas = {str(kind): limit for kind, limit in most.items()}
                spent = {
                    str(kind): amount for kind, amount in _used_by_projects(session, [one.id], month)[one.id].items()
                }
        return UsagePage(
            month=month,
            currency=self._policy.prices.currency,
            lines=tuple(sorted(lines, key=lambda each: (each.project, each.person))),
            quotas=quotas,
            used=spent,
        )

    def _readable_project(self, session: Session, by: str, slug: str | None, whole: bool) -> ProjectRow | None:
        """The project to read of; somebody who is nothing in it hears the same as if it were not there."""
        if slug is None:
            return None
        if whole:
            return project_named(session, slug)
        found = session.scalars(select(ProjectRow).where(ProjectRow.slug == slug)).first()
        # Stops: somebody who tries names and learns which studies there are. Shown by test_usage.py.
        if found is None or membership_of(session, found, by) is None:
            self._judge_read(session, by, Action.USAGE_READ)
            raise RefusedError("not allowed")  # only with rules taken away
        self._judge_read(session, by, Action.USAGE_READ, person=by, project=found)
        return found

    def _led(self, session: Session, by: str, one: ProjectRow | None) -> list[str]:
        """Ids of the projects of which ``by`` sees every line for leading them."""
        self._judge_read(session, by, Action.USAGE_READ, person=by)
        wanted = select(ProjectRow).join(MembershipRow, MembershipRow.project_id == ProjectRow.id)
        wanted = wanted.where(MembershipRow.person_id == by, MembershipRow.role == MemberRole.LEAD)
        wanted = wanted.where(MembershipRow.state == MembershipState.ACTIVE)
        if one is not None:
            wanted = wanted.where(ProjectRow.id == one.id)
        return [
            each.id for each in session.scalars(wanted) if self._may_read(session, by, Action.USAGE_READ, project=each)
        ]

    def health(self, by: str) -> Health:
        """How the machine and the deployment do, as the node agent last said it."""
        checked, machines = self._checked, self._reported
        with self._store.read() as session:
            self._judge_read(session, by, Action.HEALTH_READ)
            unsent = session.scalar(select(func.count()).select_from(NoticeRow).where(NoticeRow.sent_at.is_(None)))
            running = self._running(session, checked)
        heard = [] if checked is None else [checked.at]
        heard += [told.at for told in machines.values()]
        last = _together([told.machine for told in machines.values()])
        return Health(
            version=_version(),
            node=NodeHealth(heard_at=max(heard, default=None), sessions=len(running), **last.model_dump()),
            sessions=running,
            embedded_custodian=self.embedded_custodian,
            notices_unsent=unsent or 0,
            audit_records=self._audit.head().seq if isinstance(self._audit, AuditLog) else 0,
        )

    def _running(self, session: Session, checked: _Checked | None) -> tuple[RunningSession, ...]:
        """What the last check named. A process that hears no node agent (the command line) goes by its reports."""
        now = self._clock()
        wanted = select(UsageRow).where(
            UsageRow.month == month_of(now), UsageRow.ended.is_(None), UsageRow.seen >= now - VANISHED
        )
        rows = {row.session: row for row in session.scalars(wanted)}
        if checked is None:
            found = [(row.session, row.person_id, row.project_id, row.began) for row in rows.values()]
        else:
            found = [
                # The authority may have begun after the session did.
                (claim.session, claim.person, claim.project_id, min(since, _began(rows, claim.session, since)))
                for claim, since in checked.since.items()
            ]
        slugs = _names(session, ProjectRow.id, ProjectRow.slug, ProjectRow.title, {each[2] for each in found})
        return tuple(
            RunningSession(session=name, person=person, project=slugs.get(project, (project, ""))[0], since=since)
            for name, person, project, since in sorted(found, key=lambda each: (each[3], each[0]))
        )


def _together(machines: Sequence[Machine]) -> Machine:
    """What several nodes have: each its own processors and memory, all the same disks."""
    if not machines:
        return _NOTHING
    shared = max(machines, key=lambda each: each.storage_total_gb)
    return Machine(
        cpus=sum(each.cpus for each in machines),
        load=sum(each.load for each in machines),
        memory_total_gb=sum(each.memory_total_gb for each in machines),
        memory_free_gb=sum(each.memory_free_gb for each in machines),
        storage_total_gb=shared.storage_total_gb,
        storage_free_gb=shared.storage_free_gb,
    )


def _began(rows: Mapping[str, UsageRow], name: str, otherwise: datetime) -> datetime:
    row = rows.get(name)
    return otherwise if row is None else row.began


@dataclass(frozen=True)
class _Sees:
    """Which lines a reader sees who is not in office."""

    by: str
    projects: Sequence[str]
    led: Sequence[str]

    def condition(self, project: Any, person: Any) -> ColumnElement[bool]:
        """The same as a condition on a table's two columns. By project first: that is what the indices begin with, so
        it costs nothing what others use elsewhere.
        """
        return and_(project.in_(self.projects), or_(person == self.by, project.in_(self.led)))


def _ever_in(session: Session, person: str) -> list[str]:
    """Ids of the projects in which the person has, or had, a part."""
    return list(session.scalars(select(MembershipRow.project_id).where(MembershipRow.person_id == person)))


def _lines(
    session: Session, month: str, now: datetime, one: ProjectRow | None, sees: _Sees | None
) -> dict[tuple[str, str], Used]:
    wanted = (
        select(
            UsageRow.project_id,
            UsageRow.person_id,
            func.sum(UsageRow.seconds),
            func.sum(UsageRow.cpu_seconds),
            func.sum(UsageRow.memory_gb_seconds),
        )
        .where(UsageRow.month == month)
        .group_by(UsageRow.project_id, UsageRow.person_id)
    )
    stored = select(StorageRow).where(StorageRow.day < next_month(month).isoformat())
    if sees is not None:
        wanted = wanted.where(sees.condition(UsageRow.project_id, UsageRow.person_id))
        stored = stored.where(sees.condition(StorageRow.project_id, StorageRow.person_id))
    if one is not None:
        wanted = wanted.where(UsageRow.project_id == one.id)
        stored = stored.where(StorageRow.project_id == one.id)
    used = {
        (project, person): Used(seconds, cpu, memory)
        for project, person, seconds, cpu, memory in session.execute(wanted)
    }
    sizes: defaultdict[tuple[str, str], list[tuple[str, float]]] = defaultdict(list)
    for row in session.scalars(stored):
        sizes[row.project_id, row.person_id].append((row.day, row.bytes_used))
    today = now.astimezone(UTC).date()
    for key, days in sizes.items():
        gb, gb_months = storage_in(days, month, today)
        time = used.get(key, Used())
        if gb_months > 0 or key in used:
            used[key] = Used(time.seconds, time.cpu_seconds, time.memory_gb_seconds, gb, gb_months)
    return used


def _names(session: Session, key: Any, name: Any, title: Any, wanted: Collection[str]) -> dict[str, tuple[str, str]]:
    if not wanted:
        return {}
    rows = session.execute(select(key, name, title).where(key.in_(wanted)))
    return {each: (called, told) for each, called, told in rows}


def _known(session: Session, told: Iterable[SessionUsage | FolderSize]) -> set[tuple[str, str]]:
    """Of the pairs of project and person that are told of, those that are there."""
    pairs = {(each.project_id, each.person) for each in told}
    projects = set(session.scalars(select(ProjectRow.id).where(ProjectRow.id.in_({pair[0] for pair in pairs}))))
    people = set(session.scalars(select(PersonRow.id).where(PersonRow.id.in_({pair[1] for pair in pairs}))))
    return {pair for pair in pairs if pair[0] in projects and (pair[1] in people or not pair[1])}


def _rows_of(session: Session, told: Sequence[SessionUsage]) -> dict[tuple[str, str], UsageRow]:
    names = {each.session for each in told}
    if not names:
        return {}
    return {
        (row.session, row.month): row for row in session.scalars(select(UsageRow).where(UsageRow.session.in_(names)))
    }


def _merge(session: Session, rows: dict[tuple[str, str], UsageRow], told: SessionUsage) -> None:
    """Totals only grow, whoever tells what and how often."""
    # Stops: a session that is told of as another person's or project's, so that these pay for it.
    if not told.person or any(
        (row.project_id, row.person_id) != (told.project_id, told.person)
        for (name, _), row in rows.items()
        if name == told.session
    ):
        return
    row = rows.get((told.session, told.month))
    if row is None:
        row = UsageRow(
            session=told.session,
            month=told.month,
            project_id=told.project_id,
            person_id=told.person,
            began=told.began,
            seen=told.seen,
            ended=told.ended,
            seconds=told.seconds,
            cpu_seconds=told.cpu_seconds,
            memory_gb_seconds=told.memory_gb_seconds,
        )
        session.add(row)
        rows[told.session, told.month] = row
        return
    row.seconds = max(row.seconds, told.seconds)
    row.cpu_seconds = max(row.cpu_seconds, told.cpu_seconds)
    row.memory_gb_seconds = max(row.memory_gb_seconds, told.memory_gb_seconds)
    if told.seen >= row.seen:
        row.seen = told.seen
        row.ended = told.ended


def _version() -> str:
    try:
        return version("bulle")
    except PackageNotFoundError:
        return "0"

"""The pages of usage and cost: a month, by project and person, with what a project may use."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orchestrator.governance.cards import UsageLine, UsagePage
from orchestrator.governance.costs import csv_rows
from orchestrator.governance.rules import Action
from orchestrator.pages.languages import Language
from orchestrator.portal import spreadsheet
from orchestrator.portal.acting import Act
from orchestrator.portal.pages.lists import local, word
from orchestrator.portal.sessions import Session

if TYPE_CHECKING:
    from orchestrator.portal.application import Portal


def _marked(text: str) -> str:
    """Mark ``text`` for the catalogues of the languages."""
    return text


ACTS: tuple[Act, ...] = (Act("quota.set", _marked("Set. It holds from now on.")),)
#: kinds of quotas, in the order of :class:`orchestrator.config.Quotas`
KINDS = {
    "hours": _marked("Hours of open workspaces"),
    "cpu_hours": _marked("Processor hours"),
    "memory_gb_hours": _marked("Memory, GB hours"),
    "storage_gb": _marked("Storage, GB"),
}
_NO_LIMIT = _marked("%(used)s, no limit")
_OF = _marked("%(used)s of %(most)s")
#: months that are offered
_MONTHS = 24
_FIGURES = ("hours", "cpu_hours", "memory_gb_hours", "storage_gb", "cost")


def routes(portal: Portal) -> list[Route]:
    """Their routes."""
    pages = Usage(portal)
    return [
        Route("/usage", portal.own(pages.read), name="usage"),
        Route("/usage/usage.csv", portal.own(pages.as_csv), name="usage-csv"),
    ]


@dataclass(frozen=True)
class Total:
    """The sum of all lines."""

    hours: float
    cpu_hours: float
    memory_gb_hours: float
    storage_gb: float
    cost: Decimal

    @classmethod
    def of(cls, lines: Sequence[UsageLine]) -> Total:
        """Of these lines."""
        sums = {name: sum(getattr(line, name) for line in lines) for name in _FIGURES[:-1]}
        return cls(**sums, cost=sum((line.cost for line in lines), Decimal(0)))


@dataclass(frozen=True)
class Quota:
    """What a project used of one thing, and may use."""

    kind: str
    name: str
    used: float
    most: float | None
    text: str


class Usage:
    """Pages that read usage."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal

    async def read(self, request: Request, session: Session) -> Response:
        """A month, of all projects that the reader may see or of one."""
        (usage, project), visitor = await asyncio.gather(self._asked(request, session), self._portal.visitor(session))
        reader = self._portal.language(request)
        month = _first_of(usage.month)
        return await self._portal.page(
            request,
            session,
            "usage.html",
            here="usage",
            visitor=visitor,
            usage=usage,
            project=project,
            slugs=sorted({line.project for line in usage.lines}),
            months=[(f"{each:%Y-%m}", reader.month(each)) for each in _months(month)],
            month_name=reader.month(month),
            total=Total.of(usage.lines),
            quotas=_quotas(usage, reader),
            may_set=visitor.may(Action.QUOTA_SET),
            amount=reader.tenth,
            money=lambda value: reader.money(value, usage.currency),
            of_project=lambda slug: local("usage", month=usage.month, project=slug),
            csv=local("usage/usage.csv", month=usage.month, project=project),
        )

    async def as_csv(self, request: Request, session: Session) -> Response:
        """The same month for a spreadsheet."""
        usage, project = await self._asked(request, session)
        name = "-".join(["usage", usage.month, *([project] if project else [])])
        return Response(
            spreadsheet.BYTE_ORDER_MARK + spreadsheet.rows(csv_rows(usage)),
            media_type="text/csv; charset=utf-8; header=present",
            headers={"Content-Disposition": f'attachment; filename="{name}.csv"'},
        )

    async def _asked(self, request: Request, session: Session) -> tuple[UsagePage, str]:
        month, project = word(request, "month"), word(request, "project")
        usage = await self._portal.call(session, "usage.read", month=month or None, project=project or None)
        return usage, project


def _quotas(usage: UsagePage, reader: Language) -> list[Quota]:
    quotas = []
    for kind, name in KINDS.items():
        if kind in usage.quotas:
            used, most = usage.used.get(kind, 0.0), usage.quotas[kind]
            said = reader.number(round(used, 1))
            text = (
                reader.text(_NO_LIMIT, used=said)
                if most is None
                else reader.text(_OF, used=said, most=reader.number(most))
            )
            quotas.append(Quota(kind, name, used, most, text))
    return quotas


def _first_of(month: str) -> date:
    return date.fromisoformat(f"{month}-01")


def _months(shown: date) -> list[date]:
    """The months that are offered, newest first; the one that is shown is among them."""
    now = datetime.now(UTC)
    number = now.year * 12 + now.month - 1
    offered = {date((number - back) // 12, (number - back) % 12 + 1, 1) for back in range(_MONTHS)}
    return sorted(offered | {shown}, reverse=True)

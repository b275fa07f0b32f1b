"""The pages about people: the list, and a person with roles, trainings, passkeys and projects."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orchestrator.governance.cards import PersonCard
from orchestrator.governance.operations import OPERATIONS
from orchestrator.governance.rules import Action, Fact, judge
from orchestrator.governance.states import PlatformRole
from orchestrator.portal import words
from orchestrator.portal.acting import Act
from orchestrator.portal.pages.lists import cut, local, word
from orchestrator.portal.sessions import Session

if TYPE_CHECKING:
    from orchestrator.portal.application import Portal, Visitor


def _marked(text: str) -> str:
    """Mark ``text`` for the catalogues of the languages."""
    return text


ACTS: tuple[Act, ...] = (
    Act("person.add", _marked("The person was added."), leads=lambda card: f"people/{card.id}"),
    Act("person.describe", _marked("Saved.")),
    Act("person.disable", _marked("The account is disabled. What the person had open ends within seconds.")),
    Act("person.enable", _marked("The account is enabled.")),
    Act("role.add", _marked("The role was given.")),
    Act("role.remove", _marked("The role was taken away.")),
    Act("passkey.vouch", _marked("You vouched for the passkey.")),
    Act("training.confirm", _marked("The training is confirmed.")),
)
#: people on a page
_PAGE = 50


def routes(portal: Portal) -> list[Route]:
    """Their routes."""
    pages = People(portal)
    return [
        Route("/people", portal.own(pages.everybody), name="people"),
        Route("/people/{person}", portal.own(pages.person), name="person"),
    ]


class People:
    """Pages that read people."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal

    async def everybody(self, request: Request, session: Session) -> Response:
        """Everybody, a page at a time."""
        search, after = word(request, "search"), word(request, "after")
        found, visitor = await asyncio.gather(
            self._portal.call(session, "people.list", search=search, after=after, limit=_PAGE + 1),
            self._portal.visitor(session),
        )
        people, more = cut(found, _PAGE)
        return await self._portal.page(
            request,
            session,
            "people.html",
            here="people",
            visitor=visitor,
            people=people,
            search=search,
            may_add=visitor.may(Action.PERSON_ADD),
            first=local("people", search=search) if after else None,
            next=local("people", search=search, after=people[-1].id) if more else None,
        )

    async def person(self, request: Request, session: Session) -> Response:
        """One person, and what the reader may do about them."""
        name = str(request.path_params["person"])
        reads = ["person.read", "person.trainings"]
        reads += [each for each in ("person.projects", "person.passkeys") if each in OPERATIONS]
        answers, visitor = await asyncio.gather(
            asyncio.gather(*(self._portal.call(session, each, person=name) for each in reads)),
            self._portal.visitor(session),
        )
        found: dict[str, Any] = dict(zip(reads, answers, strict=True))
        card: PersonCard = found["person.read"]
        reader = self._portal.language(request)
        return await self._portal.page(
            request,
            session,
            "person.html",
            here="people",
            visitor=visitor,
            person=card,
            trainings=found["person.trainings"],
            projects=found.get("person.projects"),
            passkeys=found.get("person.passkeys"),
            may=_may(visitor, card),
            to_give=[
                (role, reader.text(words.PLATFORM_ROLES[role])) for role in PlatformRole if role not in card.roles
            ],
            now=datetime.now(UTC),
        )


def _may(visitor: Visitor, person: PersonCard) -> dict[str, bool]:
    """What the page offers to the reader; governance judges again what is done."""
    facts = set(visitor.facts)
    if person.id == visitor.card.id:
        facts.add(Fact.SELF)
    elif not visitor.may(Action.PERSON_READ):
        # Who reads somebody else's page without an office leads a project that the person is in.
        facts.add(Fact.MEMBERS_LEAD)
    if person.disabled:
        facts.add(Fact.FOR_DISABLED)

    def may(action: Action) -> bool:
        return judge(action, facts).allowed

    return {
        "list": may(Action.PEOPLE_READ),
        "describe": may(Action.PERSON_DESCRIBE),
        "give": may(Action.ROLE_ADD),
        "take": may(Action.ROLE_REMOVE),
        "confirm": may(Action.TRAINING_CONFIRM),
        "vouch": may(Action.PASSKEY_VOUCH),
        "remove_passkey": may(Action.PASSKEY_REMOVE),
        "disable": may(Action.PERSON_DISABLE),
        "audit": may(Action.AUDIT_READ),
    }

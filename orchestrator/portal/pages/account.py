"""A person's own account: terms of use, trainings, passkeys, API tokens."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orchestrator.governance.cards import NewToken
from orchestrator.governance.operations import Scope
from orchestrator.portal.acting import Act
from orchestrator.portal.sessions import Session

if TYPE_CHECKING:
    from orchestrator.portal.application import Portal


def _marked(text: str) -> str:
    """Mark ``text`` for the catalogues of the languages."""
    return text


#: days that a token may be good for, as the page offers them
DAYS = (7, 30, 90, 365)
#: no HTML of the text's own, and no link but to the web: a deployment's terms are a file that somebody wrote
_MARKDOWN = MarkdownIt("commonmark", {"html": False})
#: headings of the text stand below the one of their part of the page
_BELOW = 2


async def _new_token(portal: Portal, request: Request, session: Session, made: NewToken) -> Response:
    # The secret is in this one answer and nowhere else: not in the session, not in an address (SafeHeaders forbids
    # browsers to keep the page).
    return await portal.page(request, session, "token_made.html", here="account", made=made)


ACTS = (
    Act("terms.accept", _marked("Accepted.")),
    Act("training.declare", _marked("Declared. It counts once somebody has confirmed it.")),
    Act("token.create", shown=_new_token),
    Act("token.revoke", _marked("The token is worth nothing now.")),
)


def routes(portal: Portal) -> list[Route]:
    """Their routes."""
    return [Route("/account", portal.own(Account(portal).read), name="account")]


class Account:
    """The page that reads it."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal

    async def read(self, request: Request, session: Session) -> Response:
        """All of it on one page."""
        account, tokens, passkeys = await asyncio.gather(
            self._portal.call(session, "account.read"),
            self._portal.call(session, "token.list"),
            self._portal.call(session, "passkey.list"),
        )
        reader = self._portal.language(request)
        code = reader.code if reader.code in account.terms else next(iter(account.terms), "")
        return await self._portal.page(
            request,
            session,
            "account.html",
            here="account",
            account=account,
            terms=written(account.terms.get(code, "")),
            terms_language=code,
            tokens=[token for token in tokens if token.revoked_at is None],
            passkeys=passkeys,
            scopes=list(Scope),
            days=DAYS,
            now=datetime.now(UTC),
        )


def written(text: str) -> Markup:
    """Markdown as HTML, without any HTML of its own.

    Stops: a script in a text of the deployment. Shown by tests/unit/portal/test_account.py.
    """
    tokens: list[Token] = _MARKDOWN.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1]) + _BELOW, 6)}"
    return Markup(_MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {}))  # noqa: S704 - escaped by the renderer

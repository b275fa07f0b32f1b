"""A person's passkeys: adding one, taking one away. They are shown on the account's page."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from orchestrator.portal.acting import Act
from orchestrator.portal.hub import PREFIX
from orchestrator.portal.sessions import Session

if TYPE_CHECKING:
    from orchestrator.portal.application import Portal


def _marked(text: str) -> str:
    """Mark ``text`` for the catalogues of the languages."""
    return text


async def _new(portal: Portal, request: Request, session: Session, options: dict[str, Any]) -> Response:
    """The page on which the browser makes the passkey; it is an answer to a form, so no link leads here."""
    return await portal.page(
        request,
        session,
        "passkey_new.html",
        here="account",
        options=json.dumps(options),
        account_path=f"{PREFIX}account",
    )


ACTS = (
    Act("passkey.begin", shown=_new),
    Act("passkey.add", _marked("The passkey is registered. It signs decisions once somebody has vouched for it.")),
    Act("passkey.remove", _marked("The passkey is removed. What it signed stays signed.")),
)


def routes(portal: Portal) -> list[Route]:
    """None of its own."""
    return []

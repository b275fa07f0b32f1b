"""What the portal measures."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.metrics.measures import Count, Timing
from orchestrator.portal.hub import PREFIX

#: the first part of a page's address: what follows it may name a project or a person
PAGES = (
    "home",
    "about",
    "account",
    "act",
    "api",
    "applications",
    "audit",
    "catalogue",
    "health",
    "inbox",
    "language",
    "logout",
    "oauth_callback",
    "open",
    "people",
    "platform",
    "projects",
    "start",
    "static",
    "stop",
    "usage",
)
PAGE_SECONDS = Timing(
    "portal",
    "page_seconds",
    "Time until a page or an answer of the API begins.",
    page=PAGES,
    status=("2xx", "3xx", "4xx", "5xx"),
)
NOTICES_SENT = Count("portal", "notices_sent_total", "Notices sent by mail or webhook.", outcome=("done", "failed"))


class Timed:
    """Measures each answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, and measure until the answer begins: a stream of steps may go on for minutes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def measured(message: Message) -> None:
            if message["type"] == "http.response.start":
                page = page_of(scope["path"])
                PAGE_SECONDS.took(time.perf_counter() - began, page=page, status=f"{message['status'] // 100}xx")
            await send(message)

        await self._app(scope, receive, measured)


def page_of(path: str) -> str:
    """Which page a path is of, by its first part."""
    return path.removeprefix(PREFIX).split("/", 1)[0] or "home"

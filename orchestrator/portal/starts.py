"""Starts under way, as the portal follows them: every page that shows one sees all its steps, from the first.

The hub forgets why a start failed as soon as it has cleaned up, which can be before a browser has opened its
stream of events. So the portal asks for the start and listens at the same time, and keeps what it heard until
the next start.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from orchestrator.errors import BulleError, ConflictError, NotFoundError
from orchestrator.portal.hub import Hub
from orchestrator.portal.sessions import Session

#: seconds between two looks whether the hub has begun
_LOOK = 0.02
#: looks before a start that nobody asked for here counts as absent
_LOOKS = 5


class Start:
    """One start: what was heard of it. Rows are counted often, so a step keeps its last word only."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[int, dict[str, Any]]] = {}
        self._count = 0
        self._more = asyncio.Event()
        self.over = False
        self.task: asyncio.Task[None] | None = None

    def hear(self, event: dict[str, Any]) -> None:
        """Take one of the hub's events."""
        if self.over:
            return
        self._count += 1
        about = str(event.get("step") or "end")
        self._heard.pop(about, None)
        self._heard[about] = (self._count, event)
        if event.get("ready") or event.get("failed") or event.get("failure"):
            self.over = True
        self._wake()

    @property
    def silent(self) -> bool:
        """Whether nothing was heard."""
        return not self._heard

    def end(self) -> None:
        """Nothing more comes."""
        self.over = True
        self._wake()

    def _wake(self) -> None:
        waiting, self._more = self._more, asyncio.Event()
        waiting.set()

    async def events(self) -> AsyncGenerator[dict[str, Any]]:
        """What was heard so far, then what comes, until the start is over."""
        seen = 0
        while True:
            more = self._more
            for number, event in list(self._heard.values()):
                if number > seen:
                    seen = number
                    yield event
            if self.over and seen == self._count:
                return
            if not self.over:
                await more.wait()


class Starts:
    """The starts that this portal follows, the last one of each person and project."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._starts: dict[tuple[str, str], Start] = {}

    def begin(self, session: Session, slug: str) -> Start:
        """Ask the hub for a start and follow it. One that is under way already goes on, and is followed."""
        found = self._starts.get((session.person, slug))
        if found is not None and not found.over:
            return found
        return self._follow(session, slug, lambda: self._hub.start(session.token, session.person, slug))

    def find(self, session: Session, slug: str) -> Start:
        """The start of which to tell: the last one begun here, or one that the hub has under way."""
        found = self._starts.get((session.person, slug))
        return found or self._follow(session, slug, None)

    def forget(self, session: Session, slug: str) -> None:
        """Drop what was heard: the person stopped it."""
        found = self._starts.pop((session.person, slug), None)
        if found is not None:
            found.end()
            if found.task is not None:
                found.task.cancel()

    async def close(self) -> None:
        """Stop listening."""
        tasks = [start.task for start in self._starts.values() if start.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _follow(self, session: Session, slug: str, ask: Callable[[], Any] | None) -> Start:
        start = Start()
        self._starts[session.person, slug] = start
        start.task = asyncio.create_task(self._run(start, session, slug, ask))
        return start

    async def _run(self, start: Start, session: Session, slug: str, ask: Callable[[], Any] | None) -> None:
        asked = asyncio.ensure_future(ask()) if ask is not None else None
        try:
            await self._listen(start, session, slug, asked)
            if asked is not None:
                await asked
        except ConflictError:
            # It runs already, or is just stopping: the page of the start knows what to do with "gone".
            pass
        except BulleError as error:
            failure = {"code": error.code, "message": error.message, "hint": error.hint}
            start.hear({"progress": 100, "failure": failure})
        finally:
            if asked is not None:
                asked.cancel()
            start.end()
            if start.silent and self._starts.get((session.person, slug)) is start:
                del self._starts[session.person, slug]

    async def _listen(self, start: Start, session: Session, slug: str, asked: asyncio.Future[None] | None) -> None:
        looks = 0
        while not start.over:
            try:
                async with aclosing(self._hub.progress(session.token, session.person, slug)) as events:
                    async for event in events:
                        # The hub tells of the failure before this one until it has begun anew. A start of its own has
                        # a first word; one that failed without it is told of by the answer to the request.
                        if asked is not None and start.silent and event.get("failed"):
                            raise NotFoundError("not begun yet")
                        start.hear(event)
                return
            except NotFoundError:
                # Not begun yet, or over already: then the answer to the request says how.
                looks += 1
                if asked.done() if asked is not None else looks >= _LOOKS:
                    return
                await asyncio.sleep(_LOOK)

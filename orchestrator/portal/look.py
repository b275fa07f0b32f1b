"""Pages from templates: the reader's language, the frame, and headers that keep a page harmless."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator import pages
from orchestrator.config import Settings
from orchestrator.pages.languages import COOKIE, NAMES, Language, choose, language
from orchestrator.portal import words
from orchestrator.portal.hub import PREFIX

#: Attack: a value in a page that a browser runs (script injection), or a frame around it (clickjacking).
#: Nothing from elsewhere, nothing inline. tests/unit/portal/test_application.py reads it on every page.
HEADERS = {
    b"content-security-policy": (
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"permissions-policy": b"camera=(), microphone=(), geolocation=()",
}


class SafeHeaders:
    """Puts :data:`HEADERS` on every answer; none is kept by a browser or proxy unless it says so itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve with the headers added."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                added = dict(HEADERS)
                added[b"cache-control"] = b"no-store"
                message["headers"] = [
                    *message["headers"],
                    *((name, value) for name, value in added.items() if name not in present),
                ]
            await send(message)

        await self._app(scope, receive, send_with_headers)


class Look:
    """Renders the portal's templates for one deployment."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        folders = [str(Path(__file__).parent / "templates"), str(pages.FOLDER / "templates")]
        self._templates = Environment(
            loader=FileSystemLoader(folders),
            autoescape=select_autoescape(default=True),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def language(self, request: Request) -> Language:
        """The reader's language."""
        chosen, accepted = request.cookies.get(COOKIE), request.headers.get("accept-language")
        return language(choose(self._settings.languages, chosen, accepted))

    def page(self, request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        """A page."""
        reader = self.language(request)
        text = self._templates.get_template(template).render(
            {
                "_": reader.text,
                "lang": lambda: reader.code,
                "many": reader.many,
                "reader": reader,
                "words": words,
                "said": lambda table, code, otherwise=None: words.said(reader, table, code, otherwise),
                "own": lambda text: words.own_text(reader, text),
                "last_day": lambda end: reader.day(words.last_day(end)),
                "last_day_iso": lambda end: words.last_day(end).date().isoformat(),
                "field_name": lambda name: words.field_name(reader, name),
                "condition": lambda text: words.condition(reader, text),
                "pseudonym_type": "string" if self._settings.workspace.pseudonyms == "text" else "bytes",
                "transform": lambda text: words.transform(reader, text),
                "assets": f"{PREFIX}static/",
                "assets_version": pages.version(),
                "deployment": self._settings.deployment,
                "languages": {code: NAMES[code] for code in self._settings.languages},
                "prefix": PREFIX,
                "visitor": None,
                "here": "",
                "told": None,
                "path": "",
                **values,
            }
        )
        return HTMLResponse(text, status, headers={"Content-Language": reader.code, "Vary": "Accept-Language, Cookie"})

    def fault(self, request: Request, status: int, kind: str, detail: str = "", visitor: Any = None) -> HTMLResponse:
        """A page that says what did not work, and what to do."""
        code = HTTPStatus(status).value
        return self.page(request, "fault.html", status=status, kind=kind, detail=detail, code=code, visitor=visitor)

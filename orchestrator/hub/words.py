"""Gives the hub's templates their language. JupyterHub has one for all; here it follows the reader, as in
the portal.
"""

from __future__ import annotations

from typing import Any

from jinja2 import pass_context
from jinja2.runtime import Context

from orchestrator import pages
from orchestrator.config import Settings
from orchestrator.pages.languages import COOKIE, NAMES, Language, choose, language


def page_words(settings: Settings) -> dict[str, Any]:
    """Template variables: ``_`` (a text in the reader's language), ``lang``, and what the frame shows."""

    def reader(context: Context) -> Language:
        # `static_url` is a method of the handler of this very request. Without a request: the first language.
        request = getattr(getattr(context.get("static_url"), "__self__", None), "request", None)
        if request is None:
            return language(settings.languages[0])
        cookie = request.cookies.get(COOKIE)
        accepted = request.headers.get("Accept-Language")
        return language(choose(settings.languages, cookie.value if cookie else None, accepted))

    @pass_context
    def text(context: Context, message: str, **values: object) -> str:
        return reader(context).text(message, **values)

    @pass_context
    def lang(context: Context) -> str:
        return reader(context).code

    # JupyterHub calls a variable that can be called, with the user: hence the functions around these.
    return {
        "_": lambda user: text,
        "lang": lambda user: lang,
        "deployment": settings.deployment,
        "languages": {code: NAMES[code] for code in settings.languages},
        "assets": "/hub/static/",
        "assets_version": pages.version(),
        "mfa": settings.oidc.require_mfa,
    }

"""What notices say, in each language. A message names a project and a moment, never anything of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from orchestrator.governance.cards import Notice
from orchestrator.pages.languages import Language
from orchestrator.portal.hub import PREFIX


def _marked(text: str) -> str:
    """Mark ``text`` for the catalogues of the languages."""
    return text


#: kind → what it says; ``%(project)s`` is the project's title, ``%(ends)s`` a day
NEWS: Mapping[str, str] = {
    "member.invite": _marked("You are invited to the project “%(project)s”."),
    "member.approve": _marked("Your membership of the project “%(project)s” is approved."),
    "member.suspend": _marked("Your membership of the project “%(project)s” is suspended."),
    "member.end": _marked("Your membership of the project “%(project)s” has ended."),
    "lead.appoint": _marked("You lead the project “%(project)s” now."),
    "training.confirm": _marked("Your training is confirmed."),
    "role.add": _marked("You were given a role on the platform."),
    "role.remove": _marked("A role on the platform was taken from you."),
    "member.request": _marked("Somebody asks to join the project “%(project)s”."),
    "member.accept": _marked("Somebody accepted your invitation to the project “%(project)s”."),
    "member.leave": _marked("A member has left the project “%(project)s”."),
    "permit.approve": _marked("A permit of the project “%(project)s” is approved."),
    "permit.revoke": _marked("A permit of the project “%(project)s” was taken back."),
    "project.activate": _marked("The project “%(project)s” is active."),
    "project.resume": _marked("The project “%(project)s” is active again."),
    "project.suspend": _marked("The project “%(project)s” is suspended. Its workspaces have stopped."),
    "project.close": _marked("The project “%(project)s” is closed. Its workspaces have stopped."),
    "project.lapse": _marked("The project “%(project)s” is closed: its time was over, and it was not renewed."),
    "application.return": _marked("Something is missing in the application for “%(project)s”."),
    "application.check": _marked("The application for “%(project)s” is complete and waits for the decision."),
    "application.approve": _marked("The application for “%(project)s” is approved."),
    "application.refuse": _marked("The application for “%(project)s” is refused."),
    "ending.membership": _marked("Your membership of the project “%(project)s” ends on %(ends)s."),
    "ending.review": _marked("A membership of the project “%(project)s” lapses on %(ends)s unless you confirm it."),
    "ending.training": _marked("Your training counts until %(ends)s. Without a new one no workspace opens after that."),
    "ending.project": _marked("The project “%(project)s” ends on %(ends)s."),
    "ending.closing": _marked(
        "The time of the project “%(project)s” is over. "
        "It closes by itself on %(ends)s unless its lead asks for more time."
    ),
    "ending.permit": _marked("The permit of the project “%(project)s” ends on %(ends)s."),
    "digest": _marked("Your projects this week:"),
}
_OTHER = _marked("Something waits for you.")
_GREETING = _marked("Hello %(name)s,")
_LINK = _marked("Read more and decide here:")
_CLOSING = _marked("This message was sent by %(deployment)s. It never contains data.")
_SUBJECT = _marked("%(deployment)s: %(project)s")
_LINE = _marked("%(project)s: %(members)s, %(waiting)s")


@dataclass(frozen=True)
class Mail:
    """An e-mail as a person reads it: each language after the other, the first one first."""

    subject: str
    text: str


def mail_of(notice: Notice, languages: Sequence[Language], deployment: str, public_url: str) -> Mail:
    """The e-mail that tells ``notice``."""
    link = public_url.rstrip("/") + _path(notice)
    parts = [_body(notice, language, deployment, link) for language in languages]
    title = notice.project_title or languages[0].text(_marked("news for you"))
    subject = languages[0].text(_SUBJECT, deployment=deployment, project=_line(title))
    return Mail(subject, "\n\n————\n\n".join(parts) + "\n")


def _path(notice: Notice) -> str:
    if notice.project is not None and not notice.kind.startswith(("member.invite", "ending.review", "project.lapse")):
        return f"{PREFIX}projects/{notice.project}"
    return f"{PREFIX}inbox"


def _body(notice: Notice, language: Language, deployment: str, link: str) -> str:
    values: dict[str, Any] = {"project": _line(notice.project_title or "")}
    ends = notice.detail.get("ends")
    if isinstance(ends, str):
        values["ends"] = language.day(datetime.fromisoformat(ends))
    said = language.text(NEWS.get(notice.kind, _OTHER))
    lines = [language.text(_GREETING, name=_line(notice.name)), "", said % values if "%(" in said else said]
    for project in notice.detail.get("projects") or ():
        members = language.many("%(count)s member", "%(count)s members", int(project["members"]))
        waiting = language.many("%(count)s request waits", "%(count)s requests wait", int(project["waiting"]))
        line = language.text(_LINE, project=_line(str(project["title"])), members=members, waiting=waiting)
        lines.append(f"- {line}")
    lines += ["", language.text(_LINK), link, "", language.text(_CLOSING, deployment=deployment)]
    return "\n".join(lines)


def _line(text: str) -> str:
    # Stops: a title with line breaks that writes further lines, or headers, of its own.
    return " ".join(text.split())

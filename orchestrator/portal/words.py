"""Words for what the authority and the hub say in codes; the English is the source of every language."""

from __future__ import annotations

import re
from collections.abc import Mapping

from orchestrator.pages.languages import Language


def _marked(text: str) -> str:
    """Mark ``text`` for the catalogues of the languages."""
    return text


#: the steps of a start, in their order (docs/architecture.md): while it goes on
STEPS = {
    "checking": _marked("Checking your membership and the permit"),
    "starting": _marked("Starting the containers"),
    "proving": _marked("Proving that nothing can get out"),
    "keys": _marked("Releasing the keys for the permitted columns"),
    "view": _marked("Building your view of the data"),
    "folders": _marked("Unlocking your home and the project folder"),
    "desktop": _marked("Starting the desktop"),
    "ready": _marked("Ready"),
}

ROWS = _marked("%(done)s of %(total)s rows")

ROLES = {"lead": _marked("Lead"), "member": _marked("Member")}

#: rules of :mod:`orchestrator.governance.access` that keep a person out, in the person's words
WHY_NOT = {
    "person-disabled": _marked("Your account is disabled. Please ask the administrator."),
    "not-a-member": _marked("You are not a member of this project."),
    "membership-requested": _marked("The project’s lead has not approved your membership yet."),
    "membership-suspended": _marked("Your membership is suspended. Please ask the project’s lead."),
    "membership-ended": _marked("Your membership has ended."),
    "membership-expired": _marked("Your membership has run out. The project’s lead can extend it."),
    "project-draft": _marked("The project is not active yet."),
    "project-suspended": _marked("The project is suspended."),
    "project-closed": _marked("The project is closed."),
    "project-not-started": _marked("The project has not begun yet."),
    "project-over": _marked("The project’s time is over."),
    "no-permit": _marked("No data custodian has approved a permit for this project yet."),
    "permit-not-yet-valid": _marked("The project’s permit is not valid yet."),
    "permit-expired": _marked("The project’s permit has run out."),
}

STATES = {
    "requested": _marked("waiting for approval"),
    "suspended": _marked("suspended"),
    "ended": _marked("ended"),
    "draft": _marked("not active yet"),
    "closed": _marked("closed"),
}

COLUMN_ROLES = {
    "identifier": _marked("pseudonym"),
    "quasi-identifier": _marked("characteristic"),
    "date": _marked("date"),
    "measure": _marked("measure"),
    "free-text": _marked("free text"),
}

TYPES = {
    "string": _marked("text"),
    "integer": _marked("whole number"),
    "number": _marked("number"),
    "boolean": _marked("yes or no"),
    "date": _marked("date"),
    "datetime": _marked("date and time"),
    "bytes": _marked("16 bytes"),
}

#: what a person reads first when a start fails, by the error's code
FAILURES = {
    "refused": _marked("This workspace may not be opened"),
    "grant": _marked("This workspace may not be opened"),
    "not-found": _marked("There is no such project for you"),
    "isolation": _marked("The isolation test failed, so no data was shown"),
    "custody": _marked("The keys of the data could not be released"),
    "audit": _marked("The audit log could not be written, so nothing was opened"),
    "unavailable": _marked("A part that is needed does not answer"),
    "conflict": _marked("This workspace is busy"),
}
FAILED = _marked("The workspace could not be opened")

ADVICE = {
    "refused": _marked("Ask the project’s lead if you think that this is wrong."),
    "grant": _marked("Try again. If it happens again, tell your administrator."),
    "not-found": _marked("Go back to the list of your projects."),
    "isolation": _marked("Nothing was mounted. Your administrator must look at this before anybody can work here."),
    "custody": _marked("Tell your administrator: the key custodian must be reachable."),
    "audit": _marked("Tell your administrator."),
    "unavailable": _marked("Wait a minute and try again. Tell your administrator if it lasts."),
    "conflict": _marked("Wait a minute and try again."),
}
ADVISED = _marked("Try again. Tell your administrator if it lasts.")

_TRANSFORMS = (
    (re.compile(r"year"), _marked("year only")),
    (re.compile(r"month"), _marked("month only")),
    (re.compile(r"band (?P<value>\S+)"), _marked("in steps of %(value)s")),
    (re.compile(r"top (?P<value>\S+)"), _marked("at most %(value)s")),
)


#: comparisons of a row filter; signs are the same in every language
_COMPARISONS = {
    "=": "=",
    "!=": "≠",
    "<": "<",
    "<=": "≤",
    ">": ">",
    ">=": "≥",
    "in": _marked("is one of"),
    "not-in": _marked("is none of"),
    "is-null": _marked("is missing"),
    "not-null": _marked("is given"),
}
_CONDITION = re.compile(r"(?P<column>\S+) (?P<operator>\S+)(?: (?P<value>.*))?", re.DOTALL)


def transform(in_words: Language, text: str | None) -> str:
    """A column's coarsening in words; one that has no words is shown as it is."""
    for pattern, said in _TRANSFORMS:
        found = pattern.fullmatch(text or "")
        if found:
            values = {name: _number(in_words, value) for name, value in found.groupdict().items()}
            return in_words.text(said, **values)
    return text or ""


def condition(in_words: Language, text: str) -> tuple[str, str, str]:
    """A condition on rows: its column, the comparison in words, and the value."""
    found = _CONDITION.fullmatch(text)
    if found is None or found["operator"] not in _COMPARISONS:
        return "", text, ""
    return found["column"], in_words.text(_COMPARISONS[found["operator"]]), found["value"] or ""


def _number(in_words: Language, text: str) -> str:
    try:
        return in_words.number(float(text))
    except ValueError:
        return text


def said(in_words: Language, words: Mapping[str, str], code: str, otherwise: str | None = None) -> str:
    """The words for ``code``; else ``otherwise``, else the code itself."""
    found = words.get(code, otherwise)
    return in_words.text(found) if found is not None else code


def own_text(in_words: Language, text: str | Mapping[str, str]) -> str:
    """A text of the project's own, in the reader's language if it was written in it."""
    if isinstance(text, str):
        return text
    return text.get(in_words.code) or text.get("en") or next(iter(text.values()), "")

"""Words for what the authority and the hub say in codes; the English is the source of every language."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, time, timedelta

from orchestrator.errors import BulleError, ConflictError, RefusedError
from orchestrator.governance.access import ACCESS_RULES
from orchestrator.governance.rules import TABLE, Action, Fact
from orchestrator.governance.usage import QUOTA_USED
from orchestrator.pages.languages import Language
from orchestrator.portal.sentences import Sentences


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
    "removed-at-provider": _marked("The login service no longer knows you. Please ask the administrator."),
    "membership-invited": _marked("You are invited, and have not accepted yet."),
    "membership-not-reviewed": _marked("The project’s lead has not confirmed your membership in time."),
    "external-not-agreed": _marked("A data custodian has not agreed to you as an external partner yet."),
    "terms-not-accepted": _marked("You have not accepted the terms of use yet."),
    "no-training": _marked("You have no confirmed training on record yet."),
    "training-expired": _marked("Your training has run out."),
    "project-deleted": _marked("The project is closed and its keys are destroyed."),
    "quota-used": _marked("The project has used up what it may use or hold. Its usage says when that changes."),
    "permit-replaced": _marked("The permit was withdrawn or replaced while the session ran."),
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

#: states of a project or membership that keep it from counting, and those that do not
STATES = {
    "active": _marked("active"),
    "invited": _marked("invited"),
    "deleted": _marked("keys destroyed"),
    "requested": _marked("waiting for approval"),
    "suspended": _marked("suspended"),
    "ended": _marked("ended"),
    "draft": _marked("not active yet"),
    "closed": _marked("closed"),
}

_OVER = {"over": _marked("over")}
PROJECT_STATES = {
    "draft": _marked("draft"),
    "active": _marked("active"),
    "suspended": _marked("suspended"),
    "closed": _marked("closed"),
    "deleted": _marked("keys destroyed"),
}

APPLICATION_STATES = {
    "draft": _marked("draft"),
    "submitted": _marked("submitted"),
    "returned": _marked("returned"),
    "complete": _marked("complete, being decided"),
    "approved": _marked("approved"),
    "refused": _marked("refused"),
    "withdrawn": _marked("withdrawn"),
}
APPLICATION_KINDS = {
    "new": _marked("New project"),
    "amendment": _marked("Amendment"),
    "renewal": _marked("Renewal"),
}
PERMIT_STATES = {
    "draft": _marked("draft"),
    "approved": _marked("in force"),
    "revoked": _marked("revoked"),
    "superseded": _marked("replaced"),
}
#: how a state looks: what is well, what goes on, what needs somebody
TONES = {
    "active": "good",
    "approved": "good",
    "suspended": "warn",
    "returned": "warn",
    "refused": "warn",
    "requested": "warn",
    "invited": "warn",
}

#: parts of an application, by their name in its content
PARTS = {
    "title": _marked("Title"),
    "lay_summary": _marked("Summary in plain words"),
    "purpose": _marked("Purpose"),
    "legal_basis": _marked("Legal basis"),
    "outputs": _marked("Expected outputs"),
    "lead": _marked("Lead"),
    "team": _marked("Team"),
    "starts": _marked("Begins"),
    "ends": _marked("Ends"),
    "tables": _marked("Data"),
}

#: what an application can lack (orchestrator.governance.completeness): the same sentences
LACKS = (
    _marked("a title is missing"),
    _marked("a summary in plain language is missing"),
    _marked("the purpose is missing"),
    _marked("the legal basis is missing"),
    _marked("the expected outputs are missing"),
    _marked("the lead is missing"),
    _marked("'%(person)s' cannot be the lead: there is no such active account"),
    _marked("'%(person)s' cannot be the lead: their membership is suspended"),
    _marked("'%(person)s' cannot be in the team: there is no such active account"),
    _marked("the first day is missing"),
    _marked("the last day is missing"),
    _marked("the last day must come after the first"),
    _marked("the last day must be in the future"),
    _marked("a renewal must end later than the project does now (%(ends)s)"),
    _marked("an amendment must not end later than the project does now (%(ends)s): ask for a renewal"),
    _marked("no table is asked for"),
    _marked("no column of %(table)s is asked for"),
    _marked("the reason for column '%(column)s' of %(table)s is missing"),
    _marked("%(table)s is asked for twice"),
    _marked("column '%(column)s' of %(table)s is asked for twice"),
    _marked("%(table)s: %(fault)s"),
)

#: fields of forms, as a list of what is wrong names them
FIELD_NAMES = {
    **PARTS,
    "project": _marked("Short name"),
    "person": _marked("Name here"),
    "role": _marked("Role"),
    "note": _marked("What is missing"),
    "conditions": _marked("Conditions"),
    "retain_days": _marked("Days for which the keys are kept after the project’s end"),
    "until": _marked("Keep the keys until"),
    "course": _marked("Course"),
    "completed": _marked("Completed on"),
    "evidence": _marked("Evidence"),
    "name": _marked("Name"),
    "scopes": _marked("What it is good for"),
    "days": _marked("How long"),
    "most": _marked("Limit"),
    "subject": _marked("Subject at the login provider"),
    "display_name": _marked("Name"),
    "email": _marked("E-mail"),
    "affiliation": _marked("Name of the organisation"),
}
_OF_COLUMN = re.compile(r"table-\d+-(?:reason|transform|parameter)-(.+)")

#: what waits for a person, by its kind (orchestrator.governance.inbox)
WAITING = {
    "invitation": _marked("You are invited to join"),
    "terms": _marked("Read and accept the terms of use"),
    "training": _marked("Declare a training"),
    "training-confirm": _marked("Confirm the training of %(person)s"),
    "member-approve": _marked("Decide whether %(person)s becomes a member"),
    "member-consent": _marked("Agree to %(person)s as an external partner"),
    "member-review": _marked("Confirm that %(person)s is still a member"),
    "lead-review": _marked("Confirm that %(person)s is still the lead"),
    "lead-appoint": _marked("Decide whether %(person)s becomes a lead"),
    "application-check": _marked("Check whether the application is complete"),
    "application-decide": _marked("Decide on the application"),
    "application-returned": _marked("Complete your application"),
    "permit-approve": _marked("Decide on version %(number)s of the permit"),
    "project-activate": _marked("Decide whether the project begins"),
    "second-person": _marked("Another person decided something that needs you too"),
    "renewal": _marked("Ask for more time, or the project closes"),
    "quota": _marked("A limit of the project is nearly used up"),
}

#: kinds of events that a project's members read about (orchestrator.governance.auditing)
EVENTS = {
    "application.begin": _marked("Application begun"),
    "application.amend": _marked("Amendment begun"),
    "application.edit": _marked("Application changed"),
    "application.submit": _marked("Application submitted"),
    "application.withdraw": _marked("Application withdrawn"),
    "application.return": _marked("Application returned for completion"),
    "application.check": _marked("Application found complete"),
    "application.approve": _marked("Application approved"),
    "application.refuse": _marked("Application refused"),
    "project.create": _marked("Project created"),
    "project.activate": _marked("Project activated"),
    "project.suspend": _marked("Project suspended"),
    "project.resume": _marked("Project resumed"),
    "project.close": _marked("Project closed"),
    "project.lapse": _marked("Project closed because its time was over"),
    "project.retain": _marked("Retention changed"),
    "project.archive": _marked("Folders archived"),
    "project.delete": _marked("Keys destroyed"),
    "project.export": _marked("Export decided"),
    "project.import": _marked("Project imported"),
    "quota.set": _marked("Limit changed"),
    "member.invite": _marked("Invited"),
    "member.accept": _marked("Invitation accepted"),
    "member.request": _marked("Asked to join"),
    "member.approve": _marked("Membership approved"),
    "member.consent": _marked("External partner agreed to"),
    "member.confirm": _marked("Membership confirmed"),
    "member.suspend": _marked("Membership suspended"),
    "member.leave": _marked("Left the project"),
    "member.end": _marked("Membership ended"),
    "lead.appoint": _marked("Lead appointed"),
    "lead.confirm": _marked("Lead confirmed"),
    "permit.draft": _marked("Permit drafted"),
    "permit.approve": _marked("Permit approved"),
    "permit.revoke": _marked("Permit revoked"),
    "workspace.start": _marked("Workspace started"),
    "workspace.stop": _marked("Workspace stopped"),
    "workspace.refused": _marked("Workspace refused"),
    "grant.issue": _marked("Access granted to a workspace"),
    "grant.refused": _marked("Access refused to a workspace"),
    "decision.endorse": _marked("First of two decisions taken"),
    "passkey.add": _marked("Passkey registered"),
    "passkey.remove": _marked("Passkey removed"),
    "passkey.vouch": _marked("Passkey vouched for"),
}

SCOPES = {
    "read": _marked("Read whatever I may read"),
    "account": _marked("Accept terms and declare trainings"),
    "projects": _marked("Apply, amend, close, draft permits"),
    "members": _marked("Invite, approve, confirm and remove members"),
    "decide": _marked("Take a data custodian’s decisions"),
    "admin": _marked("People, roles, limits and stops"),
}

#: coarsenings that an application may ask for
TRANSFORMS = {
    "": _marked("as it is"),
    "year": _marked("year only"),
    "month": _marked("month only"),
    "band": _marked("in steps of …"),
    "top": _marked("at most …"),
}

PLATFORM_ROLES = {
    "custodian": _marked("Data custodian"),
    "reviewer": _marked("Reviewer"),
    "auditor": _marked("Auditor"),
    "administrator": _marked("Administrator"),
}
PLATFORM_ROLES_DO = {
    "custodian": _marked("decides on applications and permits"),
    "reviewer": _marked("checks what leaves"),
    "auditor": _marked("reads everything and changes nothing"),
    "administrator": _marked("adds people, gives roles, stops what must stop"),
}

#: how an audited action went
OUTCOMES = {
    "started": _marked("begun"),
    "done": _marked("done"),
    "refused": _marked("refused"),
    "failed": _marked("failed"),
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

#: what is wrong with a field: by pydantic's kind of error, and by our own words for one
FIELD_FAULTS = {
    "missing": _marked("This is needed."),
    "string_too_short": _marked("This is needed."),
    "string_too_long": _marked("This is too long."),
    "string_pattern_mismatch": _marked("This has a letter or sign that cannot be in it, or is too long."),
    "int_parsing": _marked("Write a whole number."),
    "float_parsing": _marked("Write a number."),
    "decimal_parsing": _marked("Write a number."),
    "greater_than": _marked("This number is too small."),
    "greater_than_equal": _marked("This number is too small."),
    "less_than": _marked("This number is too large."),
    "less_than_equal": _marked("This number is too large."),
    "finite_number": _marked("Write a number."),
    "too_short": _marked("Choose at least one."),
    "too_long": _marked("These are too many."),
    "enum": _marked("Choose one of the list."),
    "literal_error": _marked("Choose one of the list."),
    "extra_forbidden": _marked("This form has a field that does not belong to it."),
    "date": _marked("Write a date as 2027-12-31."),
    "date_from_datetime_parsing": _marked("Write a date as 2027-12-31."),
    "date_parsing": _marked("Write a date as 2027-12-31."),
    "datetime_parsing": _marked("Write a date as 2027-12-31."),
    "datetime_from_date_parsing": _marked("Write a date as 2027-12-31."),
    "one": _marked("Give one value only."),
    "condition": _marked("One condition a line: a column, a comparison and a value, such as age >= 40."),
}
FORM_FAULTS = _marked("Nothing was saved. Please look at what is marked.")
SECOND_PERSON = _marked("Noted. It takes effect when a second person decides the same.")
CONFLICT = _marked("Somebody else changed the same just now, or it is done already. This page shows how it stands.")

#: facts of :mod:`orchestrator.governance.rules` that allow an action: only such a person may
_WHO = {
    Fact.PERSON: _marked("anybody with an account"),
    Fact.ADMINISTRATOR: _marked("an administrator"),
    Fact.CUSTODIAN: _marked("a data custodian"),
    Fact.REVIEWER: _marked("a reviewer"),
    Fact.AUDITOR: _marked("an auditor"),
    Fact.LEAD: _marked("the project’s lead"),
    Fact.PAST_LEAD: _marked("who led it until its end"),
    Fact.MEMBER: _marked("a member of the project"),
    Fact.SELF: _marked("the person it is about"),
    Fact.APPLICANT: _marked("who applied"),
    Fact.MEMBERS_LEAD: _marked("the lead of a project of that person"),
}
#: facts that forbid an action, in the words of the person who tried it
_FORBIDS = {
    "not-self": _marked("You cannot decide this for yourself."),
    "not-disabled": _marked("Your account is disabled."),
    "not-drafter": _marked("You drafted this, so somebody else must decide it."),
    "not-involved": _marked("You are in this project, or asked to be, so somebody else must decide it."),
    "not-last-lead": _marked("You are the project’s last lead. Ask a data custodian to name another one first."),
    "not-for-disabled": _marked("This person’s account is disabled."),
    "not-for-permit-approver": _marked("This person approved a permit of the project and so can never be in it."),
    "not-for-lead-appointer": _marked("This person made somebody the project’s lead and so can never lead it."),
    # of passkeys and what they sign
    "none": _marked("This is signed with a passkey, and you have none that counts. Add one in your account."),
    "same": _marked("It has changed since you looked at it. Please look at it again, and sign it anew."),
    "fresh": _marked("Too much time went by. Please begin again."),
    "once": _marked("This signature was used before. Please sign anew."),
    "passkey": _marked("This passkey is none of yours that counts."),
    "verify": _marked("The passkey’s answer does not hold. Please try again."),
    "anchor": _marked("A data custodian’s passkey is vouched for by the machine’s operator."),
    "custodian": _marked("This person is no data custodian, so a data custodian vouches for the passkey."),
}
WHO_MAY = _marked("Only %(who)s may do this.")
_A_PART = _marked("a part of the platform")
_RULED = re.compile(r"refused by rule (?P<code>[a-z-]+): (?P<message>.*)", re.DOTALL)
#: rules of access as they are told of the person who asks; of somebody else, the message names them
_ACCESS = {rule.code: rule.message for rule in ACCESS_RULES}
_REFUSED = re.compile(r"refused by rule (?P<action>[a-z.-]+)/(?P<why>[a-z-]+): ")

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


def fault(in_words: Language, text: str) -> str:
    """What is wrong with a field, in words."""
    if text in FIELD_FAULTS:
        return in_words.text(FIELD_FAULTS[text])
    return SENTENCES.message(in_words, text) or text


def field_name(in_words: Language, name: str) -> str:
    """A field as a list of what is wrong names it: a column by its own name; empty for one without a name."""
    column = _OF_COLUMN.fullmatch(name)
    return column[1] if column else said(in_words, FIELD_NAMES, name, "") if name in FIELD_NAMES else ""


def refusal(in_words: Language, error: BulleError) -> str:
    """Why something was not done: the rule in the reader's words, where there are words for it."""
    found = _REFUSED.match(error.message) if isinstance(error, RefusedError) else None
    if found is not None and found["why"] in _FORBIDS:
        return in_words.text(_FORBIDS[found["why"]])
    if found is not None and found["why"] == "who-may" and found["action"] in set(Action):
        may = TABLE[Action(found["action"])].may
        who = listed(in_words, [in_words.text(_WHO[fact]) for fact in Fact if fact in may and fact in _WHO])
        return in_words.text(WHO_MAY, who=who or in_words.text(_A_PART))
    why = _why_not(in_words, error.message)
    if why is not None:
        return why
    if isinstance(error, ConflictError):
        return f"{in_words.text(CONFLICT)} ({SENTENCES.message(in_words, error.message) or error.message})"
    return SENTENCES.error(in_words, error)


def exactly(in_words: Language, message: str) -> str:
    """The message of a start that failed: in the reader's words where it is a rule's, else just as it was said."""
    return _why_not(in_words, message) or SENTENCES.message(in_words, message) or message


def _why_not(in_words: Language, message: str) -> str | None:
    found = _RULED.fullmatch(message)
    if found is None or (found["code"] != QUOTA_USED and _ACCESS.get(found["code"]) != found["message"]):
        return None
    return in_words.text(WHY_NOT[found["code"]])


def missing(in_words: Language, text: str) -> str:
    """What an application lacks, in the reader's words."""
    for pattern, sentence in _LACKS:
        found = pattern.fullmatch(text)
        if found:
            values = found.groupdict()
            if "fault" in values:  # what the catalogue says of a table, or a permit's own terms
                values["fault"] = "; ".join(_fault(in_words, one) for one in values["fault"].split("; "))
            return in_words.text(sentence, **values)
    return text


def _fault(in_words: Language, text: str) -> str:
    text = text.removeprefix("Value error, ")
    return SENTENCES.message(in_words, text) or text


def _pattern(sentence: str) -> re.Pattern[str]:
    parts = re.split(r"%\((\w+)\)s", sentence)
    return re.compile("".join(f"(?P<{part}>.+?)" if at % 2 else re.escape(part) for at, part in enumerate(parts)))


# The sentence that is nothing but values comes last, so it takes what no other one fits.
_LACKS = tuple((_pattern(sentence), sentence) for sentence in LACKS)

#: messages of the authority in the reader's language
SENTENCES = Sentences(
    {**STATES, **PERMIT_STATES, **APPLICATION_STATES, **PROJECT_STATES, **ROLES, **PLATFORM_ROLES, **_OVER}, missing
)


def listed(in_words: Language, words: list[str]) -> str:
    """Alternatives in a sentence: one, two or three."""
    if len(words) < 2:
        return "".join(words)
    return in_words.text(_marked("%(these)s or %(last)s"), these=", ".join(words[:-1]), last=words[-1])


def last_day(end: datetime) -> datetime:
    """The last day before an end: what ends at midnight does not include the day that begins then."""
    return end - timedelta(days=1) if end.timetz() == time(tzinfo=end.tzinfo) else end


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

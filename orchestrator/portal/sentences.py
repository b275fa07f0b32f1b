"""What the authority says in sentences, in the reader's language: a message is found by its shape, and says it anew.

Messages are English and made by governance, which knows no language. Each of those that a person can meet in the
portal stands here as the authority writes it, with names in place of its values; the values stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from orchestrator.errors import (
    AuditError,
    BulleError,
    ConflictError,
    InputError,
    LoginError,
    NotFoundError,
    RefusedError,
    SecondPersonError,
    SignatureError,
    UnavailableError,
)
from orchestrator.pages.languages import Language


def _marked(text: str) -> str:
    """Mark ``text`` for the catalogues of the languages."""
    return text


#: as the authority says them, without the rule in front
MESSAGES = (
    _marked("the terms of use in force are version %(force)s, not %(version)s"),
    _marked("training %(number)s has expired"),
    _marked("training %(number)s is confirmed already, by %(person)s"),
    _marked("'%(person)s' declared no training %(number)s"),
    _marked("%(most)s of your trainings wait to be confirmed"),
    _marked("a training lies behind; got %(day)s"),
    _marked("a training of %(day)s has expired: one counts for %(days)s days"),
    _marked("application %(number)s of '%(project)s' is not complete: %(lacks)s"),
    _marked("%(most)s applications of yours are not decided, or of today"),
    _marked("project '%(project)s' is closed"),
    _marked("the application was changed since you opened it"),
    _marked("project '%(project)s' has no application %(number)s"),
    _marked("there is no project '%(project)s'"),
    _marked("application %(number)s of '%(project)s' is %(state)s"),
    _marked("only an amendment or a renewal is asked for a project that is there"),
    _marked("project '%(project)s' is not in effect yet"),
    _marked("the time of project '%(project)s' is over"),
    _marked("retain_days must be 0 to %(most)s; got %(days)s"),
    _marked("application %(number)s of '%(project)s' is '%(state)s' and cannot be edited"),
    _marked("the audit log cannot be read from here"),
    _marked("the arguments are nested too deeply"),
    _marked("the arguments hold a character that no text may have"),
    _marked("the arguments hold a number that is none"),
    _marked("the arguments hold a number that is too large"),
    _marked("%(operation)s: %(name)s: a moment needs a time zone"),
    _marked("%(operation)s: %(name)s: the number is too large"),
    _marked("there is no operation '%(name)s'"),
    _marked("a call is made by a person or with a token, and not both"),
    _marked("nobody stands behind this call"),
    _marked("the end of retention must not be before today; got %(day)s"),
    _marked("project '%(project)s' is %(state)s: only a closed one is kept until a day"),
    _marked("'%(person)s' is not the id of a person"),
    _marked("'%(month)s' is not a month"),
    _marked("somebody decided the same at the same time"),
    _marked("there is no such passkey"),
    _marked("noted; it takes effect when a second person decides the same"),
    _marked("you decided this already; it waits for a second person"),
    _marked("this decision is signed with your passkey"),
    _marked("this is not a decision that is signed"),
    _marked("where passkeys are used is not known here"),
    _marked("this passkey is registered already"),
    _marked("you have too many passkeys already"),
    _marked("you have %(count)s passkeys already"),
    _marked("'%(operation)s' is not a decision that is signed"),
    _marked("'%(person)s' has no such passkey"),
    _marked("'%(person)s' is not a person known here"),
    _marked("this is not a person known here"),
    _marked("this person is disabled"),
    _marked("the login service no longer knows this person"),
    _marked("%(what)s must have 1 to %(longest)s characters; got %(count)s"),
    _marked("%(what)s must not have control characters"),
    _marked("there is no person '%(person)s'"),
    _marked("'%(subject)s' is a reserved name and cannot be a person"),
    _marked("a subject has 1 to 255 characters; got %(count)s"),
    _marked("a subject must be valid Unicode text"),
    _marked("the membership of '%(person)s' in '%(project)s' is suspended"),
    _marked("'%(person)s' is in '%(project)s' already: %(role)s, %(state)s"),
    _marked("'%(person)s' has not accepted the terms of use in force (version %(version)s)"),
    _marked("'%(person)s' has no training in force, and declared none"),
    _marked("'%(person)s' has no membership of '%(project)s'"),
    _marked("you have no part in a project '%(project)s'"),
    _marked("there is no invitation to accept: the membership is %(state)s"),
    _marked("project '%(project)s' is a draft"),
    _marked("a membership of '%(project)s' ends by %(bound)s; got %(ends)s"),
    _marked("a membership must end in the future; got %(ends)s"),
    _marked("only an active membership is confirmed; that of '%(person)s' is %(state)s"),
    _marked("'%(person)s' is not an external partner: the lead's approval is enough"),
    _marked("the membership of '%(person)s' in '%(project)s' has ended"),
    _marked("%(by)s has agreed to '%(person)s' already"),
    _marked("project '%(project)s' is %(state)s, and only one that is in effect can leave"),
    _marked("'%(person)s' is %(other)s, which excludes %(role)s"),
    _marked("person '%(person)s' is there already"),
    _marked("an external partner has an affiliation: name the organisation"),
    _marked("project '%(project)s' has no permit version %(version)s"),
    _marked("table %(table)s: column '%(column)s' stands twice"),
    _marked("a permit must name at least one table"),
    _marked("table %(table)s stands twice"),
    _marked("valid_until must be after valid_from; got %(begins)s to %(ends)s"),
    _marked("valid_until must be in the future; got %(ends)s"),
    _marked("the permit's terms are wrong: %(fault)s"),
    _marked("project '%(project)s' has no proposed lead"),
    _marked("project '%(project)s' is applied for"),
    _marked("project '%(project)s' exists already; names are never used again"),
    _marked("%(what)s must be in the years %(first)s to %(last)s; got %(year)s"),
    _marked("%(what)s must have a time zone; got %(moment)s"),
    _marked("project name '%(project)s' is taken by an address"),
    _marked("project name '%(project)s': 1 to 30 of a-z, 0-9 and single '-', beginning with a letter"),
    _marked("a project must end after it starts; got %(begins)s to %(ends)s"),
    _marked("a project must end in the future; got %(ends)s"),
    _marked("there is no application %(number)s of a project '%(project)s'"),
    _marked("there is no dataset '%(dataset)s'"),
    _marked("the signature is not what a passkey answers"),
    _marked("expected base64url"),
    _marked("the record is not in its one spelling"),
    _marked("what was signed is no record"),
    _marked("%(thing)s is '%(state)s' and cannot become '%(wanted)s'"),
    _marked("something else was changed at the same time"),
    _marked("the same was done at the same time by somebody else"),
    _marked("the governance store does not answer: %(why)s"),
    _marked("the governance store does not answer: another change takes too long"),
    _marked("the terms of use cannot be read: %(file)s: %(why)s"),
    _marked("the terms of use in %(file)s are empty, or longer than %(longest)s bytes"),
    _marked("there is no such token"),
    _marked("'%(person)s' is a part of the platform, not a person"),
    _marked("you have %(count)s tokens in force already"),
    _marked("a token is good for 1 to %(most)s days; got %(days)s"),
    _marked("a token needs at least one scope"),
    _marked("not allowed"),
    _marked("the authority does not answer on %(socket)s: %(why)s"),
    _marked("the authority's answer cannot be understood (%(why)s)"),
    _marked("'%(person)s' is not a person's id"),
    _marked("the hub does not accept the login: %(why)s"),
    _marked("the hub answered %(status)s"),
    _marked("the hub does not answer: %(why)s"),
    _marked("the decision can be taken without a signature"),
    _marked("the passkey's answer cannot be read"),
    _marked("table '%(table)s' has no column '%(column)s'"),
    _marked("the permit names table '%(table)s' twice"),
    _marked("dataset '%(dataset)s' has no table '%(table)s'"),
    _marked("table '%(table)s': the permit names column '%(column)s' twice"),
    _marked("table '%(table)s': column '%(column)s' is an identifier, which is never transformed"),
    _marked("table '%(table)s': transform '%(transform)s' does not go with column '%(column)s', a %(type)s"),
    _marked("table '%(table)s': column '%(column)s' holds whole numbers, not %(value)s"),
    _marked("table '%(table)s': column '%(column)s' is an identifier: a filter may only ask if it is there"),
    _marked("table '%(table)s': column '%(column)s' is true or false: '%(operator)s' orders nothing"),
    _marked("table '%(table)s': a filter compares column '%(column)s', a %(type)s, with %(value)s"),
    _marked("operator '%(operator)s' does not go with value %(value)s"),
    _marked("a value must not have a NUL character"),
    _marked("column '%(column)s': transform %(transform)s and parameter %(value)s do not fit"),
    _marked("column '%(column)s': a band must be wider than 0"),
    _marked("%(operation)s: %(faults)s"),
)

#: what to do about it; one that is a command line concerns no page
HINTS = (
    _marked("read them anew"),
    _marked("a newer one must be declared"),
    _marked("ask your lead"),
    _marked("finish or withdraw one, or wait"),
    _marked("begin a new project"),
    _marked("read it again"),
    _marked("finish that one"),
    _marked("ask for a renewal"),
    _marked("ask a custodian to return it"),
    _marked("write it like 2026-11"),
    _marked("decide once more"),
    _marked("add one in your account, and have it vouched for"),
    _marked("decide in the portal, in a browser that can reach your passkey"),
    _marked("sign it anew"),
    _marked("it changed since; look at it again and sign it anew"),
    _marked("remove one first"),
    _marked("they declare it in their account"),
    _marked("they accept them in their account"),
    _marked("request it first"),
    _marked("choose another"),
    _marked("it can become %(states)s"),
    _marked("try again"),
    _marked("revoke one"),
    _marked("try once more"),
    _marked("it has %(columns)s"),
    _marked("dates are written in ISO 8601, such as '1985-12-31'"),
)

#: what has a state
THINGS = (
    _marked("project '%(project)s'"),
    _marked("application %(number)s of '%(project)s'"),
    _marked("membership of '%(person)s'"),
    _marked("permit version %(version)s"),
)

#: what a text or a moment is for
PHRASES = (
    _marked("a course"),
    _marked("the evidence"),
    _marked("a token's name"),
    _marked("a note"),
    _marked("conditions"),
    _marked("a passkey's name"),
    _marked("a display name"),
    _marked("an e-mail address"),
    _marked("an affiliation"),
    _marked("a title"),
    _marked("a purpose"),
    _marked("the end of retention"),
    _marked("a start"),
    _marked("an end"),
    _marked("valid_from"),
    _marked("valid_until"),
    _marked("the first day"),
    _marked("the last day"),
    _marked("a column's name"),
    _marked("a reason"),
    _marked("a transform"),
    _marked("a dataset's name"),
    _marked("a table's name"),
    _marked("title"),
    _marked("lay_summary"),
    _marked("purpose"),
    _marked("legal_basis"),
    _marked("outputs"),
)


#: what kind of thing happened, where the message itself has no words; the nearest kind of error counts
KINDS: Mapping[type[BulleError], str] = {
    SignatureError: _marked("The signature was not accepted."),
    RefusedError: _marked("This is not allowed."),
    InputError: _marked("What was sent is not as it must be."),
    NotFoundError: _marked("There is nothing of that name, or it is not yours to see."),
    ConflictError: _marked("It is done already, or does not go with how it stands now."),
    LoginError: _marked("Nobody is logged in behind this."),
    SecondPersonError: _marked("It waits for a second person."),
    UnavailableError: _marked("A part that is needed does not answer."),
    AuditError: _marked("The audit log could not be written, so nothing was done."),
    BulleError: _marked("This did not work."),
}
_ALONE = _marked("%(kind)s (%(message)s)")
_WITH_HINT = _marked("%(message)s (%(hint)s)")
_OR = _marked("%(these)s or %(last)s")
_NOTHING = _marked("nothing else")

_BY_RULE = re.compile(r"refused by rule [a-z0-9./-]+: ")
#: what is typed on a command line, which no page needs to tell
_COMMAND = re.compile(r"(?:as root: |decide it: |see )?bulle ")
_QUOTED = re.compile(r"'([a-z-]+)'")

Shape = tuple[re.Pattern[str], str]
#: how the value of a name is said; of any other it stays as it is
Values = Mapping[str, Callable[[Language, str], str]]


def _shapes(sentences: Iterable[str]) -> tuple[Shape, ...]:
    # What says more comes first: a message is never taken for a shorter one with the rest of it as a value.
    said = sorted(sentences, key=lambda sentence: -len(re.sub(r"%\(\w+\)s", "", sentence)))
    return tuple((shape(sentence), sentence) for sentence in said)


def _alternatives(sentences: Iterable[str]) -> str:
    return "|".join(re.sub(r"%\\\((\w+)\\\)s", ".*?", re.escape(one)) for one in sentences)


#: values that begin a sentence are never anything: else a name in another sentence could be taken for its middle
_ONLY = {
    # One word: what only happens to have a colon in it is no fault of arguments.
    "operation": r"[a-z]+\.[a-z0-9]+",
    "thing": _alternatives(THINGS),
    "what": _alternatives(PHRASES),
}


def shape(sentence: str) -> re.Pattern[str]:
    """What finds a message that was made of ``sentence`` and its values."""
    parts = re.split(r"%\((\w+)\)s", sentence)
    found = (f"(?P<{part}>{_ONLY.get(part, '.*?')})" if at % 2 else re.escape(part) for at, part in enumerate(parts))
    return re.compile("".join(found), re.DOTALL)


_MESSAGES, _HINTS, _THINGS = _shapes(MESSAGES), _shapes(HINTS), _shapes(THINGS)


def _told(in_words: Language, text: str, shapes: tuple[Shape, ...], values: Values) -> str | None:
    for pattern, sentence in shapes:
        found = pattern.fullmatch(text)
        if found is not None:
            # Stops: a name that was chosen to look like a part of a sentence, or like a place for a value: what was
            # found in the message is put in once, as text, and never read again as a sentence. Shown by
            # tests/unit/portal/test_sentences.py.
            said = {
                name: values[name](in_words, one) if name in values else one for name, one in found.groupdict().items()
            }
            return in_words.text(sentence, **said)
    return None


def without_rule(text: str) -> str:
    """A refusal's message without the rule's name in front."""
    found = _BY_RULE.match(text)
    return text if found is None else text[found.end() :]


def _thing(in_words: Language, text: str) -> str:
    return _told(in_words, text, _THINGS, {}) or text


def _phrase(in_words: Language, text: str) -> str:
    return in_words.text(text) if text in PHRASES else text


class Sentences:
    """Says messages in a reader's language, with the words for states and for what an application lacks."""

    def __init__(self, states: Mapping[str, str], lacks: Callable[[Language, str], str]) -> None:
        self._states = states
        self._lacks = lacks
        state = self._state
        self._values: Values = {
            **dict.fromkeys(("state", "wanted", "role", "other"), state),
            "thing": _thing,
            "what": _phrase,
            "lacks": lambda in_words, text: "; ".join(lacks(in_words, one) for one in text.split("; ")),
            "states": self._possible,
        }

    def _state(self, in_words: Language, text: str) -> str:
        return in_words.text(self._states[text]) if text in self._states else text

    def _possible(self, in_words: Language, text: str) -> str:
        states = [self._state(in_words, one) for one in _QUOTED.findall(text)]
        if len(states) < 2:
            return "".join(states) or in_words.text(_NOTHING)
        return in_words.text(_OR, these=", ".join(states[:-1]), last=states[-1])

    def message(self, in_words: Language, text: str) -> str | None:
        """A message of the authority without the rule's name in front; None where there are no words for it."""
        return _told(in_words, without_rule(text), _MESSAGES, self._values)

    def hint(self, in_words: Language, text: str | None) -> str | None:
        """What to do about it; None where that is nothing to be done in a page, or has no words."""
        if text is None or _COMMAND.match(text):
            return None
        return _told(in_words, text, _HINTS, self._values)

    def error(self, in_words: Language, error: BulleError) -> str:
        """All that a page tells of an error."""
        message, hint = self.message(in_words, error.message), self.hint(in_words, error.hint)
        if message is None:
            kind = next(words for of, words in KINDS.items() if isinstance(error, of))
            # The message stays: whoever helps needs it, and it names what the kind does not.
            message = in_words.text(_ALONE, kind=in_words.text(kind), message=error.message)
            hint = hint or (None if _COMMAND.match(error.hint or "bulle ") else error.hint)
        return message if hint is None else in_words.text(_WITH_HINT, message=message, hint=hint)

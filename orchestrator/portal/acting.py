"""Forms that act: the one place where what a person sends becomes an operation of governance.

A form names an operation of the pages' own list, and goes to ``POST /act/{operation}``. Its fields become the
operation's arguments, which its model checks; governance judges who may. Then the browser is sent on to a page of
ours, which says what came of it; with a fault it comes back to where it was, with what was typed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from pydantic import AwareDatetime, ValidationError
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from orchestrator.errors import (
    AuditError,
    BulleError,
    NotFoundError,
    SecondPersonError,
    SignatureError,
    UnavailableError,
)
from orchestrator.governance.operations import OPERATIONS
from orchestrator.portal import words
from orchestrator.portal.hub import PREFIX
from orchestrator.portal.paths import local_path
from orchestrator.portal.sessions import Session, Told
from orchestrator.terms import Value

if TYPE_CHECKING:
    from orchestrator.portal.application import Portal

Fields = Mapping[str, list[str]]
"""What a form sent, by field."""

#: the largest form, in bytes: an application with many columns and a reason each
LARGEST = 256 * 1024
#: fields of the forms themselves; no argument of an operation begins with an underscore
TOKEN, FORM, FROM, NEXT = "_token", "_form", "_from", "_next"
#: what a passkey signed, filled in by sign.js: JSON of ``{"record", "credential"}``
SIGNATURE = "_signature"
_OWN = frozenset({TOKEN, FORM, FROM, NEXT, SIGNATURE})
_FORM_ID = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,80}")
#: arguments that are an end: the day that is typed belongs to what ends
_ENDS = frozenset({"ends", "until", "valid_until"})
_COLLECTIONS = (tuple, list, set, frozenset)
_TRUE = frozenset({"yes", "on", "true", "1"})


class FormFault(Exception):  # noqa: N818 - not a fault of the portal's
    """What is wrong with what was typed, by field."""

    def __init__(self, faults: Mapping[str, str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


def _plain(act: Act, fields: Fields) -> dict[str, Any]:
    return arguments_of(OPERATIONS[act.operation].arguments, fields)


def _first(place: tuple[int | str, ...], fields: Fields) -> str:
    return str(place[0]) if place else ""


@dataclass(frozen=True)
class Act:
    """An operation that a page has a form for.

    ``done`` is what the next page says (marked for translation). ``arguments`` makes the operation's arguments of the
    form's fields, ``place`` names the field for a place in the arguments. ``leads`` gives the path, below the portal's,
    that an answer leads to; ``shown`` answers with a page of its own instead, for what is shown once and kept nowhere.
    """

    operation: str
    done: str = ""
    arguments: Callable[[Act, Fields], dict[str, Any]] = _plain
    place: Callable[[tuple[int | str, ...], Fields], str] = _first
    leads: Callable[[Any], str] | None = None
    shown: Callable[[Portal, Request, Session, Any], Awaitable[Response]] | None = None


def gathered(*areas: Iterable[Act]) -> Mapping[str, Act]:
    """The acts of all pages by their operation. Raises ValueError where two pages declare the same."""
    found: dict[str, Act] = {}
    for area in areas:
        for act in area:
            if act.operation in found:
                raise ValueError(f"two pages act on {act.operation}")
            found[act.operation] = act
    return found


class Acting:
    """Does what forms ask for."""

    def __init__(self, portal: Portal, acts: Mapping[str, Act]) -> None:
        self._portal = portal
        self._acts = acts

    async def act(self, request: Request, session: Session) -> Response:
        """Answer ``POST /act/{operation}``, whose form is known to be one of this session's."""
        # Stops: a form that was made elsewhere, or altered, and asks for something that no page offers. Shown by
        # tests/unit/portal/test_acting.py.
        act = self._acts.get(str(request.path_params["operation"]))
        if act is None or act.operation not in OPERATIONS:
            raise NotFoundError("no page does this")
        fields: Fields = request.state.fields
        on, back = local_path(_only(fields, NEXT)), local_path(_only(fields, FROM))
        if on is None or back is None:
            return self._portal.fault(request, 403, "form")
        form = _only(fields, FORM)
        form = form if _FORM_ID.fullmatch(form) else ""
        typed = {name: values for name, values in fields.items() if name not in _OWN}
        reader = self._portal.language(request)
        try:
            arguments = self._arguments(act, typed)
            signature = _signature(fields)
            try:
                answer = await self._portal.authority.perform(
                    act.operation, arguments, by=session.person, signature=signature
                )
            except SignatureError:
                if signature is not None:
                    raise
                return await self._to_sign(request, session, act, arguments, fields)
        except FormFault as fault:
            faults = {name: words.fault(reader, text) for name, text in fault.faults.items()}
            told = Told("bad", reader.text(words.FORM_FAULTS), form, typed, faults)
        except SecondPersonError:
            told = Told("calm", reader.text(words.SECOND_PERSON))
        except (UnavailableError, AuditError):
            raise
        except BulleError as error:
            told = Told("bad", words.refusal(reader, error), form, typed)
        else:
            if act.shown is not None:
                return await act.shown(self._portal, request, session, answer)
            if act.leads is not None:
                on = PREFIX + act.leads(answer)
            if act.done:
                session.tell(on, Told("good", reader.text(act.done)))
            return RedirectResponse(on, 303)
        session.tell(back, told)
        return RedirectResponse(back + (f"#{form}" if form and told.faults else ""), 303)

    async def _to_sign(
        self, request: Request, session: Session, act: Act, arguments: Mapping[str, Any], fields: Fields
    ) -> Response:
        """The page on which the person's passkey signs exactly this; it sends the same form again, with the signature.

        Raises:
            BulleError: it would not be done with a signature either.
        """
        prepared = await self._portal.authority.prepare(session.person, act.operation, arguments)
        if prepared.record is None or prepared.options is None:
            raise SignatureError("the decision can be taken without a signature", hint="try once more")
        return await self._portal.page(
            request,
            session,
            "sign.html",
            operation=act.operation,
            record=prepared.record,
            told_record=_told(json.loads(prepared.record)),
            options=json.dumps(prepared.options),
            fields=[
                (name, value) for name, values in fields.items() if name not in (TOKEN, SIGNATURE) for value in values
            ],
            back=_only(fields, FROM),
        )

    @staticmethod
    def _arguments(act: Act, typed: Fields) -> dict[str, Any]:
        """The arguments in JSON's types. Raises FormFault."""
        try:
            # Stops: mass assignment. A field that the model does not know is refused by the model, not dropped, so a
            # form that was added to is done not even in part. Shown by tests/unit/portal/test_acting.py.
            model = OPERATIONS[act.operation].arguments.model_validate(act.arguments(act, typed))
        except ValidationError as error:
            faults: dict[str, str] = {}
            for fault in error.errors(include_url=False, include_input=False):
                faults.setdefault(act.place(fault["loc"], typed), _fault_of(fault["type"], fault["msg"]))
            raise FormFault(faults) from error
        return model.model_dump(mode="json", exclude_unset=True)


def _signature(fields: Fields) -> dict[str, Any] | None:
    text = _only(fields, SIGNATURE)
    if not text:
        return None
    try:
        signature = json.loads(text)
    except ValueError:
        signature = None
    if not isinstance(signature, dict):
        raise SignatureError("the passkey's answer cannot be read", hint="try once more")
    return signature


def _told(record: Mapping[str, Any], within: str = "") -> list[tuple[str, str]]:
    """A record as pairs of a name and a text, in its own words: who signs sees all of it."""
    pairs: list[tuple[str, str]] = []
    for name, value in record.items():
        if isinstance(value, dict):
            pairs += _told(value, f"{within}{name}.")
        elif value not in (None, ""):
            pairs.append((within + name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    return pairs


def _fault_of(kind: str, message: str) -> str:
    return kind if kind in words.FIELD_FAULTS else message.removeprefix("Value error, ")


def _only(fields: Fields, name: str) -> str:
    values = fields.get(name, [])
    return values[0] if len(values) == 1 else ""


# -- fields to arguments -------------------------------------------------------------------------------------
def arguments_of(model: type[Value], fields: Fields) -> dict[str, Any]:
    """Arguments for ``model``: text for the model to read, lists of repeated fields, moments of dates.

    What is empty and not text is left out, so that the model says that it is missing or takes its default. A field that
    the model does not know is passed on, for the model to refuse.

    Raises:
        FormFault: a date is not one, or a field that takes one value has several.
    """
    given: dict[str, Any] = {}
    for name, values in fields.items():
        kinds = _kinds(model.model_fields[name].annotation) if name in model.model_fields else {str}
        if kinds & set(_COLLECTIONS):
            given[name] = [value for value in map(_tidy, values) if value]
        elif bool in kinds:
            given[name] = values[-1] in _TRUE  # a hidden "no" may stand before the tick
        elif len(values) != 1:
            raise FormFault({name: "one"})
        else:
            text = _tidy(values[0])
            if text or kinds <= {str}:
                given[name] = day(name, text) if kinds & {datetime, AwareDatetime} else text
    return given


def day(name: str, text: str, *, end: bool | None = None) -> str:
    """The moment of a date that was typed, in ISO 8601; the end of that day where ``name`` is an end.

    Raises:
        FormFault: it is no date.
    """
    try:
        typed = date.fromisoformat(text)
        moment = datetime.combine(typed, time(), UTC)
        return (moment + timedelta(days=1 if (name in _ENDS if end is None else end) else 0)).isoformat()
    except (ValueError, OverflowError) as error:
        raise FormFault({name: "date"}) from error


def _tidy(text: str) -> str:
    return text.replace("\r\n", "\n").strip()


def _kinds(annotation: Any) -> set[Any]:
    """The types that a field may take, without the wrapping."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return set[Any]().union(*(_kinds(one) for one in get_args(annotation)))
    return {origin or annotation}

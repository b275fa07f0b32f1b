"""How a person's call becomes an operation: who acts, with which arguments, and what came with it.

The authority's socket for the portal and the command line perform operations here and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from orchestrator.errors import InputError, LoginError, NotFoundError
from orchestrator.governance.presented import presenting
from orchestrator.terms import Value

if TYPE_CHECKING:
    from orchestrator.governance.operations.declared import Operation
    from orchestrator.governance.service import Governance

#: whole numbers that every database here can compare with a column
LARGEST_NUMBER = 2**31 - 1
_LARGEST_INSIDE = 2**53 - 1  # deeper, numbers are kept as JSON
_DEEPEST = 20


class Asked(Value):
    """A call on the authority's socket (``POST /v1/operations/{name}``): exactly one of ``by`` and ``token``."""

    by: Annotated[str, Field(max_length=64)] | None = None
    token: Annotated[str, Field(max_length=200)] | None = None
    arguments: Annotated[dict[str, Any], Field(default_factory=dict)]
    #: what the person's passkey answered, where the call is a decision that is signed
    signature: dict[str, Any] | None = None


def operation_named(name: str) -> Operation:
    """The operation. Raises NotFoundError."""
    from orchestrator.governance.operations import OPERATIONS  # noqa: PLC0415 - its areas know parts of governance

    found = OPERATIONS.get(name)
    if found is None:
        raise NotFoundError(f"there is no operation '{name[:60]}'")
    return found


def arguments_of(operation: Operation, given: Mapping[str, Any]) -> Value:
    """``given`` as the operation's arguments.

    Raises:
        InputError: a field is unknown, missing or malformed, or holds what no database keeps.
    """
    # Stops: text and numbers that one of the databases cannot hold, which would look like a failure of the
    # service. Shown by tests/unit/governance/test_operations.py.
    _check(given, 0)
    try:
        arguments = operation.arguments.model_validate(given)
    except ValidationError as error:
        # The places only: the values were not understood, and may be anything.
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))[:80]}: {fault['msg']}" for fault in error.errors()[:5])
        raise InputError(f"{operation.name}: {faults[:500]}") from None
    for name in type(arguments).model_fields:
        value = getattr(arguments, name)
        if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
            raise InputError(f"{operation.name}: {name}: the number is too large")
        if any(one.tzinfo is None for one in _moments(value)):
            raise InputError(f"{operation.name}: {name}: a moment needs a time zone", hint="2027-12-31T00:00:00Z")
    return arguments


def _moments(value: Any) -> Iterator[datetime]:
    if isinstance(value, datetime):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _moments(getattr(value, name))
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _moments(one)
    elif isinstance(value, list | tuple | frozenset):
        for one in value:
            yield from _moments(one)


def _check(value: Any, depth: int) -> None:
    if depth > _DEEPEST:
        raise InputError("the arguments are nested too deeply")
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
            raise InputError("the arguments hold a character that no text may have")
    elif isinstance(value, Mapping):
        for name, one in value.items():
            _check(name, depth + 1)
            _check(one, depth + 1)
    elif isinstance(value, list | tuple):
        for one in value:
            _check(one, depth + 1)
    elif isinstance(value, int):
        if abs(value) > _LARGEST_INSIDE:
            raise InputError("the arguments hold a number that is too large")
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError("the arguments hold a number that is none")


def perform(governance: Governance, name: str, asked: Asked) -> bytes | None:
    """Do what a person asks for through the portal, and answer in JSON; None where there is nothing to tell.

    Raises:
        LoginError: nobody stands behind the call.
        SecondPersonError: noted; it waits for a second person.
        BulleError: whatever the operation raises.
    """
    operation = operation_named(name)
    if asked.token is not None and asked.by is None:
        by, token = governance.bearer(asked.token, operation)
    elif asked.by is not None and asked.token is None:
        by, token = governance.acting(asked.by), None
    elif asked.by is None:
        raise LoginError("nobody stands behind this call")
    else:
        raise InputError("a call is made by a person or with a token, and not both")
    arguments = arguments_of(operation, asked.arguments)
    with presenting(signature=asked.signature, token=token):
        answer = operation.run(governance, by, arguments)
    return None if operation.answer is None else operation.adapter.dump_json(answer)

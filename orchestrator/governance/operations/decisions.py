"""Operations: passkeys. Deciding itself is each decision's own operation."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from orchestrator.governance.cards import PasskeyCard
from orchestrator.governance.operations.declared import Nothing, Operation, Scope
from orchestrator.terms import Value

_Person = Annotated[str, Field(max_length=64)]
_Passkey = Annotated[str, Field(min_length=1, max_length=400)]


class OfPerson(Value):
    """Whose."""

    person: _Person


class NewPasskey(Value):
    """A passkey that a browser has just made."""

    name: Annotated[str, Field(max_length=100)]
    #: the response of ``navigator.credentials.create()``, as JSON text
    credential: Annotated[str, Field(max_length=20_000)]


class OnePasskey(Value):
    """Which passkey."""

    passkey: _Passkey


class PasskeyOfPerson(Value):
    """Whose passkey."""

    person: _Person
    passkey: _Passkey


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        name="passkey.list",
        method="GET",
        path="/account/passkeys",
        summary="One's own passkeys.",
        scope=Scope.READ,
        arguments=Nothing,
        answer=list[PasskeyCard],
        run=lambda governance, by, wanted: governance.passkeys(by),
    ),
    Operation(
        name="person.passkeys",
        method="GET",
        path="/people/{person}/passkeys",
        summary="A person's passkeys, with the fingerprints by which they are told apart.",
        scope=Scope.READ,
        arguments=OfPerson,
        answer=list[PasskeyCard],
        run=lambda governance, by, wanted: governance.passkeys(by, wanted.person),
    ),
    # No token is good for what follows: whoever has one must not be able to turn it into a passkey.
    Operation(
        name="passkey.begin",
        method="POST",
        path="/account/passkeys/begin",
        summary="Begin to register a passkey: what the browser asks it with, good for five minutes.",
        scope=None,
        arguments=Nothing,
        answer=dict[str, Any],
        run=lambda governance, by, wanted: governance.begin_passkey(by),
    ),
    Operation(
        name="passkey.add",
        method="POST",
        path="/account/passkeys",
        summary="Register the passkey that the browser has made. It signs nothing until somebody vouches for it.",
        scope=None,
        arguments=NewPasskey,
        answer=PasskeyCard,
        run=lambda governance, by, wanted: governance.add_passkey(by, wanted.name, wanted.credential),
    ),
    Operation(
        name="passkey.remove",
        method="DELETE",
        path="/account/passkeys/{passkey}",
        summary="Remove a passkey: it signs nothing any more.",
        scope=None,
        arguments=OnePasskey,
        answer=None,
        run=lambda governance, by, wanted: governance.remove_passkey(by, wanted.passkey),
    ),
    Operation(
        name="passkey.vouch",
        method="POST",
        path="/people/{person}/passkeys/{passkey}/vouch",
        summary="Vouch that a passkey is this person's, after comparing its fingerprint with them.",
        scope=None,
        arguments=PasskeyOfPerson,
        answer=PasskeyCard,
        run=lambda governance, by, wanted: governance.vouch_passkey(by, wanted.person, wanted.passkey),
    ),
)

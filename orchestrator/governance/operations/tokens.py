"""Operations: API tokens. No token is good for any of them: they need the person in their browser."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from orchestrator.governance.cards import NewToken, TokenCard
from orchestrator.governance.operations.declared import Nothing, Operation, Scope
from orchestrator.governance.tokens import LONGEST_DAYS
from orchestrator.terms import Value


class Making(Value):
    """A token to make."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1, max_length=len(Scope))]
    days: Annotated[int, Field(ge=1, le=LONGEST_DAYS)]


class OneToken(Value):
    """One token, by its id."""

    token: Annotated[str, Field(max_length=16)]


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "token.list",
        "GET",
        "/account/tokens",
        "My API tokens",
        None,
        Nothing,
        list[TokenCard],
        lambda governance, by, arguments: governance.tokens(by),
    ),
    Operation(
        "token.create",
        "POST",
        "/account/tokens",
        "Make an API token; its secret is told this once",
        None,
        Making,
        NewToken,
        lambda governance, by, arguments: governance.create_token(by, arguments.name, arguments.scopes, arguments.days),
    ),
    Operation(
        "token.revoke",
        "DELETE",
        "/account/tokens/{token}",
        "Make an API token worth nothing, at once",
        None,
        OneToken,
        None,
        lambda governance, by, arguments: governance.revoke_token(by, arguments.token),
    ),
)

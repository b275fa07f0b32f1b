"""What an operation is: a name, an address, what it takes and answers, and the function that does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter

from orchestrator.terms import Value

if TYPE_CHECKING:
    from orchestrator.governance.service import Governance


class Scope(StrEnum):
    """What an API token may be good for. It never gives more than its person may."""

    READ = "read"  # whatever the person may read
    ACCOUNT = "account"  # terms and training of one's own
    PROJECTS = "projects"  # apply, amend, close, draft permits
    MEMBERS = "members"  # invite, ask, approve, confirm, remove
    DECIDE = "decide"  # a custodian's decisions
    ADMIN = "admin"  # people, roles, quotas, stops


@dataclass(frozen=True)
class Operation:
    """One thing that can be done or read.

    ``run(governance, by, arguments)`` does it for the person ``by``, and raises what governance raises. ``path`` is
    that of the REST API; what stands in it in braces are fields of ``arguments``. Without a ``scope`` no API token
    is good for it: it needs the person in their browser.
    """

    name: str
    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    summary: str
    scope: Scope | None
    arguments: type[Value]
    answer: Any
    run: Callable[[Governance, str, Any], Any]
    adapter: TypeAdapter[Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Stops: a token for reading that changes something. Shown by tests/unit/governance/test_tokens.py.
        if self.scope is not None and (self.scope is Scope.READ) is not self.reads:
            raise ValueError(f"{self.name}: {self.method} does not go with scope '{self.scope}'")
        object.__setattr__(self, "adapter", TypeAdapter(self.answer))

    @property
    def reads(self) -> bool:
        """Whether it changes nothing."""
        return self.method == "GET"


class Nothing(Value):
    """No arguments."""

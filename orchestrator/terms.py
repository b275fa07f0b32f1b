"""Values that cross between rooms: what a permit allows, what a grant says. Frozen, without behaviour or I/O."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

SessionId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
"""128 random bits naming one running workspace. Says nothing about whose it is."""

ColumnName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]{0,62}$")]
TableName = Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9_-]{0,38}[a-z0-9])?$")]


class Value(BaseModel):
    """A frozen value; unknown fields are refused, so nothing rides along unseen."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Operator(StrEnum):
    """Comparisons of a row filter."""

    EQ = "="
    NE = "!="
    LT = "<"
    LE = "<="
    GT = ">"
    GE = ">="
    IN = "in"
    NOT_IN = "not-in"
    IS_NULL = "is-null"
    NOT_NULL = "not-null"


# Finite: NaN is no JSON, and no database keeps it there.
Scalar = bool | int | FiniteFloat | str


class RowCondition(Value):
    """One condition of a row filter; a row must meet all of them. Dates are written in ISO 8601."""

    column: ColumnName
    operator: Operator
    value: Scalar | tuple[Scalar, ...] | None = None

    @model_validator(mode="after")
    def _value_fits(self) -> RowCondition:
        many = self.operator in (Operator.IN, Operator.NOT_IN)
        none = self.operator in (Operator.IS_NULL, Operator.NOT_NULL)
        if none != (self.value is None) or many != isinstance(self.value, tuple):
            raise ValueError(f"operator '{self.operator}' does not go with value {self.value!r}")
        # Stops: an application that PostgreSQL keeps and cannot read again, and with it every list in which it stands.
        # Shown by tests/unit/governance/test_applications.py.
        values = self.value if isinstance(self.value, tuple) else (self.value,)
        if any(isinstance(value, str) and "\x00" in value for value in values):
            raise ValueError("a value must not have a NUL character")
        return self


class Transform(StrEnum):
    """How a column is coarsened in a view."""

    YEAR = "year"  # a date becomes 1 January of its year
    MONTH = "month"  # a date becomes the 1st of its month
    BAND = "band"  # a number becomes the lower end of its band of width `parameter`
    TOP = "top"  # a number above `parameter` becomes `parameter`


class ColumnPermit(Value):
    """One column that a view shows, perhaps coarsened."""

    name: ColumnName
    transform: Transform | None = None
    parameter: FiniteFloat | None = None

    @model_validator(mode="after")
    def _parameter_fits(self) -> ColumnPermit:
        needs = self.transform in (Transform.BAND, Transform.TOP)
        if needs != (self.parameter is not None):
            raise ValueError(
                f"column '{self.name}': transform {self.transform} and parameter {self.parameter} do not fit"
            )
        if self.transform is Transform.BAND and self.parameter is not None and self.parameter <= 0:
            raise ValueError(f"column '{self.name}': a band must be wider than 0")
        return self


class TablePermit(Value):
    """What a project may see of one table."""

    dataset: TableName
    table: TableName
    columns: Annotated[tuple[ColumnPermit, ...], Field(min_length=1)]
    rows: tuple[RowCondition, ...] = ()


class PermitTerms(Value):
    """What an approved permit version allows. Times are aware, in UTC."""

    version: Annotated[int, Field(ge=1)]
    tables: tuple[TablePermit, ...]
    valid_from: datetime
    valid_until: datetime


class SignedDecision(Value):
    """A decision's record, and the assertion of the passkey that signed it (binary fields in base64url).

    Shown to the node agent so that it can check by itself who decided what: see docs/signatures.md.
    """

    record: Annotated[str, Field(max_length=32_768)]
    #: the passkey's id
    passkey: Annotated[str, Field(max_length=400)]
    authenticator_data: Annotated[str, Field(max_length=2048)]
    client_data: Annotated[str, Field(max_length=4096)]
    signature: Annotated[str, Field(max_length=2048)]


class Grant(Value):
    """Short-lived statement: this person, in this project, in this session, may mount this permit version.

    ``person`` is the id that the hub uses (see ``orchestrator.hub.authenticator.person_id``). ``ends_at`` is when the
    session must be over: the earliest end among project, membership and permit.
    """

    person: str
    display_name: str
    project_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    project: TableName
    project_title: str
    session: SessionId
    permit: PermitTerms
    ends_at: datetime
    #: the signed decisions that this grant rests on, where the deployment requires signatures
    decisions: Annotated[tuple[SignedDecision, ...], Field(max_length=64)] = ()


class SessionClaim(Value):
    """What the node agent says runs; the authority answers with a :class:`SessionVerdict`."""

    session: SessionId
    person: str
    project_id: str
    permit_version: int


class SessionVerdict(Value):
    """Whether a running session is still allowed, and if not, by which rule."""

    session: SessionId
    allowed: bool
    reason: str = ""


class Outcome(StrEnum):
    """How an audited action went."""

    STARTED = "started"  # written before the action
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


class Event(Value):
    """What is audited. ``actor`` acts (a person id, or ``node-agent``…); ``person`` is whom it is about or for."""

    kind: Annotated[str, Field(pattern=r"^[a-z]+(?:[.-][a-z]+)+$")]
    actor: str
    outcome: Outcome
    person: str | None = None
    project: str | None = None
    session: str | None = None
    detail: dict[str, Any] = {}

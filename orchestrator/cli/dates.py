"""Dates as people write them."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

from orchestrator.errors import InputError


def moment(what: str, told: object, *, end: bool = False) -> datetime:
    """A moment in UTC from a date or a date with time, as text or as YAML reads it.

    A date alone is the beginning of that day in UTC, and with ``end`` its end, so that "until 31 December"
    includes that day. A time without a zone is in UTC.

    Raises:
        InputError: it is neither; ``what`` names the field.
    """
    if isinstance(told, str):
        try:
            parsed = date.fromisoformat(told) if len(told) == 10 else datetime.fromisoformat(told)
        except ValueError as error:
            raise InputError(f"{what}: '{told[:40]}' is not a date", hint="write 2027-12-31") from error
        told = parsed
    if isinstance(told, datetime):
        return told.replace(tzinfo=UTC) if told.tzinfo is None else told.astimezone(UTC)
    if isinstance(told, date):
        return datetime.combine(told, time(), UTC) + timedelta(days=1 if end else 0)
    raise InputError(f"{what} must be a date; got {type(told).__name__}", hint="write 2027-12-31")

"""Errors cross sockets and come out as the same type."""

import pytest

from orchestrator import errors


@pytest.mark.parametrize("kind", errors._every(errors.BulleError))
def test_an_error_survives_the_wire(kind: type[errors.BulleError]) -> None:
    back = errors.from_wire(**errors.to_wire(kind("what", hint="do")))  # type: ignore[arg-type]
    assert type(back) is kind and back.message == "what" and back.hint == "do"


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in errors._every(errors.BulleError)]
    assert len(codes) == len(set(codes))


def test_an_unknown_code_is_still_an_error() -> None:
    assert type(errors.from_wire("from-a-newer-version", "what")) is errors.BulleError

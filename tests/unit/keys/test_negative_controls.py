"""Each control of the key room taken away, and the attack that it stops seen to succeed."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.keys import FileCustodian, KeyRing
from orchestrator.keys import file as room
from tests.unit.keys import test_file as files
from tests.unit.keys import test_ring as rings
from tests.unit.keys.conftest import Token


# -- K7: bound to its id ------------------------------------------------------------------------------------
def bind_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    wrap, unwrap = FileCustodian.wrap, FileCustodian.unwrap
    monkeypatch.setattr(FileCustodian, "wrap", lambda self, key, key_id: wrap(self, key, ""))
    monkeypatch.setattr(FileCustodian, "unwrap", lambda self, wrapped, key_id: unwrap(self, wrapped, ""))


def test_negative_control_bound_to_nothing_a_wrapped_key_opens_under_another_id(
    custodian: FileCustodian, monkeypatch: pytest.MonkeyPatch
) -> None:
    bind_to_nothing(monkeypatch)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        files.test_a_wrapped_key_is_bound_to_its_id(custodian)


def test_negative_control_bound_to_nothing_a_swapped_file_is_another_key(
    tmp_path: Path, custodian: FileCustodian, monkeypatch: pytest.MonkeyPatch
) -> None:
    bind_to_nothing(monkeypatch)
    with pytest.raises(AssertionError):
        rings.test_a_swapped_file_is_an_error_and_not_another_key(tmp_path, custodian)
    ring = KeyRing(tmp_path / "ring", custodian)
    assert ring.get("a") == ring.get("b"), "one key under both names"


def test_negative_control_a_token_bound_to_nothing_unwraps_under_another_id(token: Token) -> None:
    out = token.run(
        """
from orchestrator.keys import pkcs11 as room
Pkcs11Custodian.create(**at, key_label="unbound")
custodian = Pkcs11Custodian(**at, key_label="unbound")
def says():
    wrapped = custodian.wrap(bytes(range(32)), "dataset/a/identifiers")
    try:
        return custodian.unwrap(wrapped, "dataset/b/identifiers") == bytes(range(32))
    except CustodyError:
        return "refused"
print(says())
real = room._parameters
room._parameters = lambda nonce, key_id: real(nonce, "")
print(says())
"""
    )
    assert out.split() == ["refused", "True"]


# -- K9: a careless mode, or a link -------------------------------------------------------------------------
def test_negative_control_without_looking_at_its_mode_an_open_key_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fstat

    def closed(descriptor: int) -> SimpleNamespace:
        found = real(descriptor)
        return SimpleNamespace(st_mode=found.st_mode & ~0o077, st_uid=found.st_uid)

    monkeypatch.setattr(room, "os", SimpleNamespace(**{**vars(os), "fstat": closed}))
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        files.test_a_key_that_others_can_read_is_refused(tmp_path, 0o644)


def test_negative_control_where_links_are_followed_one_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "os", SimpleNamespace(**{**vars(os), "O_NOFOLLOW": 0}))
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        files.test_a_link_or_a_wrong_size_is_refused(tmp_path)

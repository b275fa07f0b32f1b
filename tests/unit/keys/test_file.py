from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import CustodyError
from orchestrator.keys import FileCustodian


def test_a_wrapped_key_comes_back(custodian: FileCustodian) -> None:
    key = os.urandom(32)
    wrapped = custodian.wrap(key, "project/1/pseudonyms")
    assert key not in wrapped
    assert custodian.unwrap(wrapped, "project/1/pseudonyms") == key
    assert custodian.wrap(key, "project/1/pseudonyms") != wrapped


def test_a_wrapped_key_is_bound_to_its_id(custodian: FileCustodian) -> None:
    wrapped = custodian.wrap(os.urandom(32), "project/1/pseudonyms")
    with pytest.raises(CustodyError, match="project/2"):
        custodian.unwrap(wrapped, "project/2/pseudonyms")


@given(position=st.integers(0, 59), flip=st.integers(1, 255))
def test_any_altered_byte_is_refused(position: int, flip: int) -> None:
    custodian = FileCustodian.__new__(FileCustodian)
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    custodian._cipher = AESGCM(bytes(32))
    wrapped = bytearray(custodian.wrap(bytes(32), "id"))
    wrapped[position] ^= flip
    with pytest.raises(CustodyError):
        custodian.unwrap(bytes(wrapped), "id")


@pytest.mark.parametrize("wrapped", [b"", b"short", bytes(12)])
def test_a_stump_is_refused(custodian: FileCustodian, wrapped: bytes) -> None:
    with pytest.raises(CustodyError):
        custodian.unwrap(wrapped, "id")


def test_the_key_file_is_for_its_owner_alone_and_never_made_twice(tmp_path: Path) -> None:
    path = tmp_path / "custodian" / "kek"
    FileCustodian.create(path)
    first = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    FileCustodian.create(path)
    assert path.read_bytes() == first
    assert [entry.name for entry in path.parent.iterdir()] == ["kek"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "kek"
    FileCustodian.create(path)
    FileCustodian(path)  # negative control: the same file is good while it is private
    path.chmod(mode)
    with pytest.raises(CustodyError, match="can be read by others"):
        FileCustodian(path)


def test_a_key_that_belongs_to_another_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    path = tmp_path / "kek"
    FileCustodian.create(path)
    os.chown(path, 4242, 4242)
    with pytest.raises(CustodyError, match="belongs to uid 4242"):
        FileCustodian(path)


def test_a_link_or_a_wrong_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kek"
    FileCustodian.create(path)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(CustodyError):
        FileCustodian(tmp_path / "link")
    path.write_bytes(b"short")
    with pytest.raises(CustodyError, match="5 bytes"):
        FileCustodian(path)

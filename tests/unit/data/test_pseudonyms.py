from __future__ import annotations

import hashlib
import hmac
import os

import pyarrow as pa
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import PseudonymForm
from orchestrator.data.pseudonyms import LEVEL_ONE, LevelOne, LevelTwo


@given(
    secret=st.binary(min_size=1, max_size=80),
    entity=st.text("abc_", min_size=1, max_size=8),
    values=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20),
)
def test_level_one_is_the_hmac_of_the_standard_library(secret: bytes, entity: str, values: list[int]) -> None:
    expected = [hmac.digest(secret, f"{entity}\0{value}".encode(), "sha256")[:16] for value in values]
    assert LevelOne(secret, entity)(pa.array(values, pa.int64())).to_pylist() == expected


def test_a_test_vector() -> None:
    """The same identifier must have the same pseudonym in every release."""
    secret = bytes(range(32))
    (pseudonym,) = LevelOne(secret, "person")(pa.array(["1850175123456"])).to_pylist()
    assert pseudonym == hmac.new(secret, b"person\x001850175123456", hashlib.sha256).digest()[:16]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("AB12", " AB12\t", True),
        ("ＡＢ１２", "AB12", True),
        ("e\u0301", "é", True),
        ("AB12", "ab12", False),
        ("12", "012", False),
        ("12", 12, True),
    ],
)
def test_normalisation(one: str | int, other: str | int, same: bool) -> None:
    level_one = LevelOne(bytes(32), "person")
    first, second = (level_one(pa.array([value]))[0].as_py() for value in (one, other))
    assert (first == second) is same


def test_missing_and_blank_stay_missing() -> None:
    level_one = LevelOne(bytes(32), "person")
    assert [value is None for value in level_one(pa.array([None, "a", "", "  "])).to_pylist()] == [
        True,
        False,
        True,
        True,
    ]
    assert level_one(pa.array([None, None], pa.string())).to_pylist() == [None, None]


def test_forgetting_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = pa.array([str(n % 7) for n in range(50)])
    expected = LevelOne(bytes(32), "x")(values).to_pylist()
    monkeypatch.setattr("orchestrator.data.pseudonyms._REMEMBERED", 2)
    level_one = LevelOne(bytes(32), "x")
    assert [level_one(values.slice(n, 1))[0].as_py() for n in range(50)] == expected


@given(values=st.lists(st.none() | st.binary(min_size=16, max_size=16), max_size=40), start=st.integers(0, 40))
def test_level_two_is_one_block_of_aes(values: list[bytes | None], start: int) -> None:
    key = bytes(range(32))
    decryptor = Cipher(algorithms.AES256(key), modes.ECB()).decryptor()
    array = pa.array(values, LEVEL_ONE).slice(start)
    texts = LevelTwo(key, PseudonymForm.TEXT)(array)
    raw = LevelTwo(key, PseudonymForm.BYTES)(array)
    texts.validate(full=True)
    raw.validate(full=True)
    back = [None if text is None else decryptor.update(bytes.fromhex(text)) for text in texts.to_pylist()]
    assert back == array.to_pylist()
    assert [None if one is None else one.hex() for one in raw.to_pylist()] == texts.to_pylist()


def test_two_projects_cannot_join() -> None:
    identifiers = LevelOne(os.urandom(32), "x")(pa.array([str(n) for n in range(1000)]))
    one, other = (set(LevelTwo(os.urandom(32), PseudonymForm.TEXT)(identifiers).to_pylist()) for _ in range(2))
    assert len(one) == len(other) == 1000
    assert not one & other
    # negative control: under one key they do join
    key = os.urandom(32)
    one, other = (set(LevelTwo(key, PseudonymForm.TEXT)(identifiers).to_pylist()) for _ in range(2))
    assert one == other

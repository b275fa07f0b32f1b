"""The envelope: nothing in it is believed before its end, and it is there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pyrage
import pytest
from pyrage import x25519

from orchestrator.errors import BulleError, ConflictError, InputError
from orchestrator.moving.envelope import identity_of, recipient_of, sealed, unsealed

CONTENT = os.urandom(3 << 20)


@pytest.fixture
def file(folder: Path, identity: x25519.Identity) -> Path:
    path = folder / "file.age"
    with sealed(path, [str(identity.to_public())]) as stream:
        stream.write(CONTENT)
    return path


def opened(path: Path, identity: x25519.Identity) -> bytes:
    with unsealed(path, identity) as stream:
        return stream.read()


def test_what_is_sealed_is_read_again_and_is_its_owners_alone(file: Path, identity: x25519.Identity) -> None:
    assert opened(file, identity) == CONTENT
    assert file.stat().st_mode & 0o777 == 0o600
    assert CONTENT[:64] not in file.read_bytes()


def test_nobody_else_opens_it(file: Path) -> None:
    with pytest.raises(InputError, match="encrypted for somebody else"):
        opened(file, x25519.Identity.generate())


def test_one_that_was_changed_or_cut_does_not_open(file: Path, identity: x25519.Identity) -> None:
    whole = file.read_bytes()
    chunk = 65536 + 16
    start = len(whole) - (len(whole) % chunk) - 3 * chunk
    for name, content in {
        "cut": whole[:-1],
        "cut between chunks": whole[: start + chunk],
        "changed": whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:],
        "reordered": whole[:start] + whole[start + chunk : start + 2 * chunk] + whole[start : start + chunk]
        + whole[start + 2 * chunk :],
        "longer": whole + b"x",
        "empty": b"",
    }.items():  # fmt: skip
        file.write_bytes(content)
        with pytest.raises(InputError, match="changed or cut"):
            opened(file, identity)
        assert name


def test_who_stops_reading_early_learns_of_the_fault_all_the_same(file: Path, identity: x25519.Identity) -> None:
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match="changed or cut"), unsealed(file, identity) as stream:
        assert stream.read(10) == CONTENT[:10]


def test_nothing_is_left_of_one_that_fails(folder: Path, identity: x25519.Identity) -> None:
    with pytest.raises(RuntimeError), sealed(folder / "a", [str(identity.to_public())]) as stream:
        stream.write(CONTENT)
        raise RuntimeError
    assert list(folder.iterdir()) == []


def test_nothing_is_written_over_and_nothing_for_nobody(folder: Path, identity: x25519.Identity) -> None:
    (folder / "there").write_text("x")
    (folder / "link").symlink_to(folder / "elsewhere")
    for name in ("there", "link"):
        with pytest.raises(ConflictError), sealed(folder / name, [str(identity.to_public())]):
            pass
    with pytest.raises(InputError, match="nobody"), sealed(folder / "new", []):
        pass
    assert not (folder / "elsewhere").exists() and not (folder / "new").exists()


@pytest.mark.parametrize("text", ["", "age1nonsense", "ssh-ed25519 AAAA", "AGE-SECRET-KEY-1"])
def test_what_is_no_recipient_or_identity_is_refused(text: str) -> None:
    for read in (recipient_of, identity_of):
        with pytest.raises(BulleError):
            read(text)


def test_the_identity_file_of_age_is_read(identity: x25519.Identity) -> None:
    text = f"# created: today\n# public key: {identity.to_public()}\n{identity}\n"
    assert str(identity_of(text).to_public()) == str(identity.to_public())


def test_it_is_a_file_of_age(file: Path, identity: x25519.Identity) -> None:
    header = file.read_bytes()[:300].split(b"\n")
    assert header[0] == b"age-encryption.org/v1"
    assert header[1].startswith(b"-> X25519 ")
    assert pyrage.decrypt(file.read_bytes(), [identity]) == CONTENT

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from orchestrator.config import Settings
from orchestrator.errors import ConflictError, CustodyError, NotFoundError
from orchestrator.keys import FileCustodian, KeyRing, open_custodian
from orchestrator.keys import ring as ring_room


def test_a_key_is_kept_wrapped_under_a_name_that_says_nothing(tmp_path: Path, custodian: FileCustodian) -> None:
    ring = KeyRing(tmp_path / "ring", custodian)
    key = ring.create("home/0123/someone")
    assert len(key) == 32
    assert ring.get("home/0123/someone") == key
    (entry,) = (tmp_path / "ring").iterdir()
    assert "someone" not in entry.name
    assert entry.stat().st_mode & 0o777 == 0o600
    assert key not in entry.read_bytes()
    assert b"someone" not in entry.read_bytes()


def test_a_key_is_made_once(tmp_path: Path, custodian: FileCustodian) -> None:
    ring = KeyRing(tmp_path / "ring", custodian)
    key = ring.create("a")
    with pytest.raises(ConflictError, match="'a'"):
        ring.create("a")
    assert ring.get("a") == ring.get_or_create("a") == key


def test_a_key_from_elsewhere_is_kept_wrapped_and_over_no_other(tmp_path: Path, custodian: FileCustodian) -> None:
    ring = KeyRing(tmp_path / "ring", custodian)
    key = os.urandom(32)
    ring.put("a", key)
    assert ring.get("a") == key
    (entry,) = (tmp_path / "ring").iterdir()
    assert key not in entry.read_bytes()
    with pytest.raises(ConflictError, match="'a'"):
        ring.put("a", os.urandom(32))
    with pytest.raises(CustodyError, match="31 bytes"):
        ring.put("b", os.urandom(31))
    assert ring.get("a") == key and not ring.exists("b")


def test_a_destroyed_key_is_gone(tmp_path: Path, custodian: FileCustodian) -> None:
    ring = KeyRing(tmp_path / "ring", custodian)
    ring.create("a")
    assert ring.exists("a")
    ring.destroy("a")
    ring.destroy("a")
    assert not ring.exists("a")
    with pytest.raises(NotFoundError, match="'a'"):
        ring.get("a")


def test_a_swapped_file_is_an_error_and_not_another_key(tmp_path: Path, custodian: FileCustodian) -> None:
    ring = KeyRing(tmp_path / "ring", custodian)
    ring.create("a")
    ring.create("b")
    one, two = sorted((tmp_path / "ring").iterdir())
    one.write_bytes(two.read_bytes())
    results = []
    for key_id in ("a", "b"):
        try:
            results.append(ring.get(key_id))
        except CustodyError:
            results.append(b"refused")
    assert results.count(b"refused") == 1


def test_another_custodian_opens_nothing(tmp_path: Path, custodian: FileCustodian) -> None:
    KeyRing(tmp_path / "ring", custodian).create("a")
    FileCustodian.create(tmp_path / "other")
    with pytest.raises(CustodyError):
        KeyRing(tmp_path / "ring", FileCustodian(tmp_path / "other")).get("a")


def test_what_a_killed_writer_left_is_removed_when_old(tmp_path: Path, custodian: FileCustodian) -> None:
    ring = tmp_path / "ring"
    KeyRing(ring, custodian)
    old, young = ring / ".new-old", ring / ".new-young"
    old.write_bytes(b"x")
    young.write_bytes(b"x")
    os.utime(old, (1, 1))
    KeyRing(ring, custodian)
    assert not old.exists()
    assert young.exists()


def _race(folder: Path, kek: Path, queue: multiprocessing.Queue[list[bytes]]) -> None:
    ring = KeyRing(folder, FileCustodian(kek))
    queue.put([ring.get_or_create(f"key/{n}") for n in range(50)])


def test_processes_that_race_get_the_same_keys(tmp_path: Path) -> None:
    kek = tmp_path / "kek"
    FileCustodian.create(kek)
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[list[bytes]] = context.Queue()
    processes = [context.Process(target=_race, args=(tmp_path / "ring", kek, queue)) for _ in range(4)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert all(result == results[0] for result in results)
    assert len(list((tmp_path / "ring").iterdir())) == 50


def _settings(tmp_path: Path) -> Settings:
    return Settings.model_validate(
        {
            "deployment": "test",
            "state": str(tmp_path / "state"),
            "oidc": {"issuer": "http://127.0.0.1:1", "client_id": "x", "client_secret_file": "/x"},
        }
    )


def test_the_embedded_custodian_is_made_once_and_its_loss_is_said(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    layout = settings.layout
    custodian = open_custodian(settings, layout)
    assert custodian.embedded
    assert "trials" in custodian.description
    KeyRing(layout.keyring, custodian).create("a")
    KeyRing(layout.keyring, open_custodian(settings, layout)).get("a")
    (kek,) = layout.custodian.iterdir()
    kek.unlink()
    with pytest.raises(CustodyError, match="is gone"):
        open_custodian(settings, layout)
    assert not list(layout.custodian.iterdir())


def bytes_of_a_destroyed_key(ring: KeyRing, folder: Path, aside: Path) -> bytes:
    """What is left where the wrapped key stood, seen through a second name of the same file."""
    ring.create("a")
    (entry,) = folder.glob("*.key")
    os.link(entry, aside)
    before = aside.read_bytes()
    ring.destroy("a")
    assert len(aside.read_bytes()) == len(before)
    assert aside.read_bytes() != before, "the wrapped key is still on the disk"
    return aside.read_bytes()


def test_a_destroyed_keys_bytes_are_overwritten_in_their_place(tmp_path: Path, custodian: FileCustodian) -> None:
    left = bytes_of_a_destroyed_key(KeyRing(tmp_path / "ring", custodian), tmp_path / "ring", tmp_path / "aside")
    with pytest.raises(CustodyError):
        custodian.unwrap(left, "a")


def test_negative_control_a_key_that_is_only_removed_stays_on_the_disk(
    tmp_path: Path, custodian: FileCustodian, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring_room, "erase", lambda path: path.unlink(missing_ok=True))
    with pytest.raises(AssertionError, match="still on the disk"):
        bytes_of_a_destroyed_key(KeyRing(tmp_path / "ring", custodian), tmp_path / "ring", tmp_path / "aside")


def test_a_link_in_the_place_of_a_key_is_not_followed(tmp_path: Path, custodian: FileCustodian) -> None:
    ring = KeyRing(tmp_path / "ring", custodian)
    ring.create("a")
    (entry,) = (tmp_path / "ring").glob("*.key")
    entry.unlink()
    (tmp_path / "other").write_text("something else of root's")
    entry.symlink_to(tmp_path / "other")
    with pytest.raises(CustodyError, match="cannot be destroyed"):
        ring.destroy("a")
    assert (tmp_path / "other").read_text() == "something else of root's"

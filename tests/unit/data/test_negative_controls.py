"""Each control of the data room taken away, and the attack that it stops seen to succeed."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet.encryption as pe
import pytest

from orchestrator.data import catalogue, pseudonyms, source, store
from orchestrator.data import view as view_room
from orchestrator.data.pseudonyms import LevelOne
from orchestrator.data.sealed import SealedFile
from orchestrator.data.store import DatasetStore
from orchestrator.errors import CustodyError, InputError, NotFoundError
from orchestrator.keys import KeyRing
from orchestrator.terms import PermitTerms
from tests.unit.data import test_ingest as ingests
from tests.unit.data import test_view as views
from tests.unit.data.conftest import ROWS, Data
from tests.unit.data.test_ingest import SIMPLE, stored
from tests.unit.data.test_view import KEY

Permit = Callable[..., PermitTerms]
target = views.target


# -- K2: identifiers become keyed hashes --------------------------------------------------------------------
def nobody_is_guessed(data: Data) -> None:
    """Who has the data keys tries every identifier there could be, without the dataset's secret."""
    data.ingest()
    guesses = pa.array([f"QX-PLANTED-{n}" for n in range(10)])
    tried: set[bytes] = set()
    for secret in (b"", bytes(32), b"people"):
        tried |= set(LevelOne(secret, "person")(guesses).to_pylist())
    assert not tried & set(stored(data)["pid"].to_pylist())


def test_nobody_is_guessed_without_the_datasets_secret(data: Data) -> None:
    nobody_is_guessed(data)


def test_negative_control_under_a_known_secret_people_are_guessed(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KeyRing, "get_or_create", lambda self, key_id: bytes(32))
    with pytest.raises(AssertionError):
        nobody_is_guessed(data)


def test_negative_control_under_one_secret_two_datasets_share_pseudonyms(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "identifiers_key", lambda dataset: "dataset/identifiers")
    with pytest.raises(AssertionError):
        ingests.test_two_datasets_share_no_pseudonym(data)


# -- K3: a key a project ------------------------------------------------------------------------------------
def two_projects_do_not_join(data: Data, permit: Permit, where: Path, keys: tuple[bytes, bytes]) -> None:
    data.ingest()
    mine, theirs = (set(view_under(data, permit("pid"), where, key)) for key in keys)
    assert len(mine) == len(theirs) == 3
    assert not mine & theirs


def view_under(data: Data, terms: PermitTerms, where: Path, key: bytes) -> list[str]:
    (path,) = view_room.build_view(data.catalogue, terms, key, data.key, where).files
    values: list[str] = pa.parquet.read_table(path)["pid"].to_pylist()
    return values


def test_negative_control_under_one_projects_key_two_projects_join(data: Data, permit: Permit, target: Path) -> None:
    two_projects_do_not_join(data, permit, target, (KEY, bytes(32)))
    with pytest.raises(AssertionError):
        two_projects_do_not_join(data, permit, target, (KEY, KEY))


def test_negative_control_without_level_two_all_projects_join(
    data: Data, permit: Permit, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unchanged:
        """A cipher that leaves everything as it is."""

        def encryptor(self) -> Any:
            return self

        def update(self, blocks: memoryview) -> bytes:
            return bytes(blocks)

    monkeypatch.setattr(pseudonyms, "Cipher", lambda *_: Unchanged())
    with pytest.raises(AssertionError):
        two_projects_do_not_join(data, permit, target, (KEY, bytes(32)))


# -- K6: authenticated, and named by version ----------------------------------------------------------------
def no_altered_value_is_read(data: Data) -> None:
    """Numbers, plain and in one page, so that whatever an altered byte becomes, it is read."""
    rows = [n + 0.5 for n in range(50)]
    data.ingest("x\n" + "".join(f"{value}\n" for value in rows), NUMBERS)
    info = data.catalogue.table("people", "people")
    keys = {key: data.ring.get(key) for key in (info.footer_key, info.column_key("x"))}
    path = data.catalogue.path(info)
    original = path.read_bytes()
    for position in range(4, len(original)):
        altered = bytearray(original)
        altered[position] ^= 0x40
        path.write_bytes(altered)
        try:
            values = SealedFile(path, keys, []).read(0, ["x"])["x"].to_pylist()
        except CustodyError:
            continue
        assert values == rows, f"byte {position} was altered, and other values were read"


NUMBERS = {"title": "N", "columns": [{"name": "x", "type": "number", "role": "measure"}]}


def test_no_altered_byte_of_a_file_becomes_another_value(data: Data) -> None:
    no_altered_value_is_read(data)


def test_negative_control_without_authentication_altered_values_are_read(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pe.EncryptionConfiguration

    def counter_mode(**options: Any) -> Any:
        return real(**{**options, "encryption_algorithm": "AES_GCM_CTR_V1"})

    monkeypatch.setattr(pe, "EncryptionConfiguration", counter_mode)
    with pytest.raises(AssertionError, match="other values were read"):
        no_altered_value_is_read(data)


def test_negative_control_with_keys_of_no_version_an_older_file_opens(
    data: Data, permit: Permit, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for room in (store, catalogue):
        monkeypatch.setattr(room, "footer_key", lambda dataset, version, table: f"{dataset}/{table}/footer")
        monkeypatch.setattr(room, "column_key", lambda dataset, version, table, column: f"{dataset}/{table}/{column}")
    real = KeyRing.create
    monkeypatch.setattr(
        KeyRing, "create", lambda ring, key_id: ring.get(key_id) if ring.exists(key_id) else real(ring, key_id)
    )
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        views.test_an_older_file_in_the_place_of_a_newer_is_refused(data, permit, target)


# -- K10: all or nothing, one at a time ---------------------------------------------------------------------
def a_refused_file_leaves_nothing(data: Data) -> None:
    with pytest.raises(InputError):
        data.ingest("id,when,n\n1,2020-01-01,x\n", SIMPLE)
    assert data.nothing_is_left()


def test_negative_control_without_sweeping_a_refused_file_leaves_keys_and_files(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_refused_file_leaves_nothing(data)
    monkeypatch.setattr(DatasetStore, "_sweep", lambda self, dataset: None)
    with pytest.raises(AssertionError):
        a_refused_file_leaves_nothing(data)


def test_negative_control_published_before_it_is_whole_half_a_table_shows(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = DatasetStore._fill

    def at_once(self: DatasetStore, staging: store.Staging, *rest: Any) -> store.Staging:
        filled = real(self, staging, *rest)
        following = store.Current(published=(1,), tables={"people": 1})
        store.replace(staging.folder.parent / store.CURRENT, following.model_dump_json().encode())
        return filled

    monkeypatch.setattr(DatasetStore, "_fill", at_once)
    with pytest.raises(AssertionError):
        a_refused_file_leaves_nothing(data)


def test_negative_control_without_the_lock_two_ingests_of_a_dataset_mix(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.fcntl, "flock", lambda descriptor, how: None)
    reached, go_on = threading.Event(), threading.Event()
    faults: list[BaseException] = []

    def wait(key_ids: tuple[str, ...]) -> None:
        reached.set()
        assert go_on.wait(60)

    def first() -> None:
        try:
            data.ingest(before_keys=wait)
        except BaseException as error:  # noqa: BLE001 - looked at below
            faults.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    assert reached.wait(60)
    data.ingest(data.source(ROWS, "other.csv"))  # refused, where there is the lock
    go_on.set()
    thread.join()
    assert faults, "the second took the first one's folder away"


# -- K11: no value in a message -----------------------------------------------------------------------------
def test_negative_control_the_readers_own_message_repeats_the_value(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the CSV and Parquet reader says itself, in the place of our own words."""

    def passed_on(path: Path, schema: Any) -> None:
        text = path.read_text().splitlines()[1].split(",")
        pa.array(text[1:2]).cast(pa.date32())

    monkeypatch.setattr(source, "raise_first_fault", passed_on)
    with pytest.raises(pa.ArrowInvalid, match="SECRET-VALUE"):
        ingests.test_a_message_repeats_no_value(data)


# -- K12: deleting destroys the keys ------------------------------------------------------------------------
def a_backup_of_the_files_is_worth_nothing(data: Data, backup: Path) -> None:
    data.ingest()
    before = data.catalogue.table("people", "people")
    shutil.copytree(data.folder, backup)
    DatasetStore(data.folder, data.ring).delete("people")
    shutil.copytree(backup, data.folder, dirs_exist_ok=True)
    assert data.catalogue.table("people", "people") == before, "the files are back"
    try:
        values: Any = stored(data)
    except NotFoundError:
        values = None
    assert values is None


def test_a_backup_of_a_deleted_datasets_files_is_worth_nothing(data: Data, tmp_path: Path) -> None:
    a_backup_of_the_files_is_worth_nothing(data, tmp_path / "backup")


def test_negative_control_with_its_keys_kept_a_deleted_dataset_is_read_from_a_backup(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KeyRing, "destroy", lambda self, key_id: None)
    with pytest.raises(AssertionError):
        a_backup_of_the_files_is_worth_nothing(data, tmp_path / "backup")


# -- K1: keys of the permit alone ---------------------------------------------------------------------------
def test_negative_control_a_view_that_opens_every_column_is_seen(
    data: Data, permit: Permit, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = view_room._keys_of
    monkeypatch.setattr(view_room, "_keys_of", lambda info, terms: [*real(info, terms), info.column_key("note")])
    with pytest.raises(AssertionError):
        views.test_no_key_outside_the_permit_is_asked_for(data, permit, target)


# -- P5: a permit fits what exists --------------------------------------------------------------------------
@pytest.mark.parametrize(
    "rows",
    [
        [{"column": "pid", "operator": "=", "value": "QX-PLANTED-1"}],
        [{"column": "pid", "operator": "in", "value": ("QX-PLANTED-1", "QX-PLANTED-2")}],
    ],
)
def test_negative_control_without_the_check_a_permit_lists_people_in_clear(
    data: Data, permit: Permit, monkeypatch: pytest.MonkeyPatch, rows: Any
) -> None:
    data.ingest()
    with pytest.raises(InputError, match="identifier"):
        data.catalogue.check(permit("sex", rows=rows))
    monkeypatch.setattr(catalogue, "_check_condition", lambda *_: None)
    data.catalogue.check(permit("sex", rows=rows))
    assert "QX-PLANTED-1" in permit("sex", rows=rows).model_dump_json()


@pytest.mark.parametrize("column", ["ssn", {"name": "sex", "transform": "year"}, {"name": "pid", "transform": "month"}])
def test_negative_control_without_the_check_a_permit_names_what_does_not_fit(
    data: Data, permit: Permit, monkeypatch: pytest.MonkeyPatch, column: Any
) -> None:
    data.ingest()
    with pytest.raises(InputError):
        data.catalogue.check(permit(column))
    monkeypatch.setattr(catalogue, "check_table", lambda *_: None)
    data.catalogue.check(permit(column))

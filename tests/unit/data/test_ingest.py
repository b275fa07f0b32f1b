from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.data.sealed import SealedFile
from orchestrator.data.store import DatasetStore
from orchestrator.errors import BulleError, ConflictError, CustodyError, InputError, NotFoundError, UnavailableError
from tests.unit.data.conftest import ROWS, Data

SIMPLE = {
    "title": "Simple",
    "columns": [
        {"name": "id", "type": "integer", "role": "identifier"},
        {"name": "when", "type": "date", "role": "date"},
        {"name": "n", "type": "number", "role": "measure"},
    ],
}


def with_column(**extra: Any) -> dict[str, Any]:
    return {"title": "One", "columns": [{"name": "x", "role": "measure", **extra}]}


def stored(data: Data, table: str = "people", dataset: str = "people") -> pa.Table:
    """The stored columns, decrypted."""
    info = data.catalogue.table(dataset, table)
    keys = {key: data.ring.get(key) for key in [info.footer_key, *(info.column_key(c.name) for c in info.columns)]}
    file = SealedFile(data.catalogue.path(info), keys, [])
    return pa.concat_tables([file.read(group, [c.name for c in info.columns]) for group in range(file.groups)])


def test_values_arrive(data: Data) -> None:
    info = data.ingest()
    assert (info.version, info.rows, info.title.en) == (1, 4, "People")
    table = stored(data)
    assert table["sex"].to_pylist() == [1, 2, 1, 2]
    assert [str(day) for day in table["born"].to_pylist()] == ["1950-03-17", "1962-11-02", "1950-03-17", "None"]
    assert table["weight"].to_pylist() == [71.25, 58.5, 73.75, None]
    assert table["note"].to_pylist() == ['said "hello",\nthen left', None, "note-planted-three", None]


def test_an_identifier_is_stored_as_its_pseudonym_only(data: Data) -> None:
    data.ingest()
    column = stored(data)["pid"]
    assert column.type == pa.binary(16)
    first, second, again, third = column.to_pylist()
    assert first == again
    assert len({first, second, third}) == 3


PLANTED = [b"QX-PLANTED-1", b"Lyon-Planted", b"note-planted", b"71.25", (71.25).hex().encode()]


def persistent_bytes(data: Data) -> bytes:
    return b"".join(
        path.read_bytes() for base in ("datasets", "ring") for path in (data.root / base).rglob("*") if path.is_file()
    )


def test_every_persistent_byte_is_ciphertext(data: Data) -> None:
    data.ingest()
    clear = persistent_bytes(data)
    pseudonyms = stored(data)["pid"].to_pylist()
    for planted in (*PLANTED, *pseudonyms, *(p.hex().encode() for p in pseudonyms)):
        assert planted not in clear
    # negative control: with encryption switched off the same scan finds values and pseudonyms
    data.ingest(_encrypted=False)
    open_bytes = persistent_bytes(data)
    assert b"Lyon-Planted" in open_bytes
    assert b"note-planted" in open_bytes
    assert pseudonyms[0] in open_bytes
    assert b"QX-PLANTED-1" not in open_bytes  # the identifier itself is not even there


def test_without_its_key_a_file_does_not_open(data: Data) -> None:
    info = data.ingest()
    path = data.catalogue.path(info)
    with pytest.raises(OSError, match=r"[Ee]ncrypted"):
        pq.read_table(path)
    wrong = {info.footer_key: bytes(32)}
    with pytest.raises(CustodyError):
        SealedFile(path, wrong, [])
    only_footer = SealedFile(path, {info.footer_key: data.ring.get(info.footer_key)}, [])
    with pytest.raises(CustodyError, match="not released"):
        only_footer.read(0, ["weight"])


def test_an_altered_file_is_refused(data: Data) -> None:
    info = data.ingest()
    path = data.catalogue.path(info)
    keys = {key: data.ring.get(key) for key in (info.footer_key, info.column_key("weight"))}
    original = path.read_bytes()
    refused = 0
    for position in range(4, len(original), 37):
        altered = bytearray(original)
        altered[position] ^= 0x40
        path.write_bytes(altered)
        try:
            values = SealedFile(path, keys, []).read(0, ["weight"])["weight"].to_pylist()
        except CustodyError:
            refused += 1
        else:
            assert values == [71.25, 58.5, 73.75, None]  # a byte of another column
    assert refused


BAD_TEXT = [
    ("a short row", "id,when,n\n1,2020-01-01,1\n2,2020-01-01\n", ["row 2", "short", "'n'"]),
    ("a long row", "id,when,n\n1,2020-01-01,1,9\n", ["row 1", "long"]),
    ("a bad date", "id,when,n\n1,2020-01-01,1\n2,2020-02-30,1\n", ["row 2", "'when'", "not a date"]),
    ("a bad number", "id,when,n\n1,2020-01-01,1\n2,2020-01-01,one\n", ["row 2", "'n'", "not a number"]),
    ("a bad identifier", "id,when,n\nx,2020-01-01,1\n", ["row 1", "'id'", "whole number"]),
    ("an infinite number", "id,when,n\n1,2020-01-01,1\n2,2020-01-01,inf\n", ["row 2", "'n'", "finite"]),
    ("a wrong encoding", b"id,when,n\n1,2020-01-01,1\n2,\xe9,1\n", ["row 2", "'when'", "encoding"]),
    ("a wrong encoding in the header", b"id,when,\xe9\n1,2020-01-01,1\n", ["header"]),
    ("UTF-16", "id,when,n\n1,2020-01-01,1\n".encode("utf-16"), ["UTF-16"]),
    ("a NUL", b"id,when,n\n1,2020-01-01,1\n2,2020\x00,1\n", ["row 2", "'when'", "NUL"]),
    ("a NUL in the header", b"id,wh\x00en,n\n1,2020-01-01,1\n", ["header", "NUL"]),
    ("a duplicate header", "id,when,when,n\n1,2020-01-01,2020-01-01,1\n", ["twice", "'when'"]),
    ("a missing column", "id,when\n1,2020-01-01\n", ["'n'", "does not have"]),
    ("a column that nobody described", "id,when,n,ssn\n1,2020-01-01,1,2\n", ["'ssn'", "does not name"]),
    ("a file without rows", "id,when,n\n", ["no rows"]),
    ("an empty file", "", ["empty"]),
    ("a file of empty lines", "\n\n\n", ["empty"]),
    ("an open quotation mark", 'id,when,n\n1,2020-01-01,1\n2,"2020-01-01,1\n', ["row 2", "quotation mark"]),
    ("the first of several faults", "id,when,n\n1,2020-01-01,1\n2,x,1\n3,2020-01-01\n4,x,y\n", ["row 2", "'when'"]),
    ("faults in one row, by column", "id,when,n\n1,2020-01-01,1\n2,x,y\n", ["row 2", "'when'"]),
    ("a fault of a later column in an earlier row", "id,when,n\n1,2020-01-01,x\n2,x,1\n", ["row 1", "'n'"]),
    (
        "a quoted newline before the fault",
        'id,when,n\n1,2020-01-01,1\n\n2,"2020-01-01",1\n3,"2\n0",1\n',
        ["row 3", "'when'"],
    ),
]


@pytest.mark.parametrize(("content", "said"), [case[1:] for case in BAD_TEXT], ids=[case[0] for case in BAD_TEXT])
def test_bad_input_is_named_and_leaves_nothing(data: Data, content: str | bytes, said: list[str]) -> None:
    with pytest.raises(InputError) as refused:
        data.ingest(content, SIMPLE)
    for words in ["source.csv", *said]:
        assert words in str(refused.value)
    assert data.nothing_is_left()


def test_a_fault_far_into_the_file_has_the_right_row(data: Data) -> None:
    rows = [f"{n},2020-01-01,{n}.5\n" for n in range(1, 200_001)]
    rows[177_776] = "177777,2020-13-01,1\n"
    with pytest.raises(InputError, match="row 177777, column 'when'"):
        data.ingest("id,when,n\n" + "".join(rows), SIMPLE)
    assert data.nothing_is_left()


def test_a_message_repeats_no_value(data: Data) -> None:
    with pytest.raises(InputError) as refused:
        data.ingest("id,when,n\n1,SECRET-VALUE,1\n", SIMPLE)
    assert "SECRET-VALUE" not in str(refused.value)


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffid,when,n\r\n1,2020-01-01,1\r\n\r\n2,,\r\n",
        'n,id,when\n"1",1,"2020-01-01"\n,2,\n',
        "id,when,n\n1,2020-01-01,1\n2,,",
    ],
    ids=["byte order mark, CRLF, empty line", "other order, quotes", "no newline at the end"],
)
def test_harmless_variants_are_read(data: Data, content: str) -> None:
    assert data.ingest(content, SIMPLE).rows == 2
    table = stored(data)
    assert [str(day) for day in table["when"].to_pylist()] == ["2020-01-01", "None"]
    assert table["n"].to_pylist() == [1.0, None]


def test_encoding_delimiter_nulls_and_omitted_columns_are_the_schemas(data: Data) -> None:
    schema = {
        "title": "French",
        "encoding": "windows-1252",
        "delimiter": ";",
        "nulls": ["", "NA"],
        "omit": [""],
        "columns": [{"name": "ville", "type": "string", "role": "measure"}],
    }
    data.ingest(';ville\n1;Nîmes\n2;NA\n3;"NA"\n'.encode("windows-1252"), schema)
    assert stored(data)["ville"].to_pylist() == ["Nîmes", None, None]


@pytest.mark.parametrize(
    ("column", "written", "read"),
    [
        ({"type": "date", "format": "%d/%m/%Y"}, "31/12/2020", "2020-12-31"),
        ({"type": "datetime"}, "2020-12-31 10:11:12.5", "2020-12-31 10:11:12.500000"),
        ({"type": "datetime", "format": "%d/%m/%Y %H:%M %z"}, "31/12/2020 10:00 +0200", "2020-12-31 08:00:00"),
        ({"type": "boolean"}, "true", "True"),
        ({"type": "boolean"}, "0", "False"),
        ({"type": "integer"}, "-9007199254740993", "-9007199254740993"),
        ({"type": "string"}, "007", "007"),
    ],
)
def test_types(data: Data, column: dict[str, Any], written: str, read: str) -> None:
    data.ingest(f"x\n{written}\n", with_column(**column))
    assert str(stored(data)["x"].to_pylist()[0]) == read


@pytest.mark.parametrize(
    ("column", "written"),
    [
        ({"type": "date", "format": "%d/%m/%Y"}, "31/02/2020"),
        ({"type": "date", "format": "%d/%m/%Y"}, "31/12/2020x"),
        ({"type": "date", "format": "%d/%m/%Y %H"}, "31/12/2020 10"),
        ({"type": "datetime"}, "2020-12-31T10:00:00Z"),
        ({"type": "integer"}, "9223372036854775808"),
        ({"type": "integer"}, "1.5"),
        ({"type": "number"}, "NaN"),
        ({"type": "boolean"}, "2"),
        ({"type": "integer", "nullable": False}, '""'),
    ],
)
def test_a_value_of_another_type_is_refused(data: Data, column: dict[str, Any], written: str) -> None:
    good = {"date": "01/01/2020" if "format" in column else "2020-01-01", "datetime": "2020-01-01"}
    good["date"] += " 00" if "%H" in column.get("format", "") else ""
    with pytest.raises(InputError, match="row 2, column 'x'"):
        data.ingest(f"x\n{good.get(column['type'], '1')}\n{written}\n", with_column(**column))
    assert data.nothing_is_left()


def parquet(data: Data, **columns: pa.Array) -> Path:
    path = data.root / "source.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_is_ingested_like_text(data: Data) -> None:
    path = parquet(
        data,
        n=pa.array([1, None], pa.int32()),
        id=pa.array([7, 8], pa.uint16()),
        when=pa.array(["2020-01-01", None]),
    )
    seen: list[tuple[int, int | None]] = []
    data.ingest(path, SIMPLE, progress=lambda done, total: seen.append((done, total)))
    from_parquet = stored(data)
    assert seen[-1] == (2, 2)
    data.ingest("id,when,n\n7,2020-01-01,1\n8,,\n", SIMPLE)
    assert stored(data).equals(from_parquet)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"n": pa.array([1.0, float("nan")]), "id": pa.array([1, 2])}, "row 2, column 'n': not a finite"),
        ({"n": pa.array([1.0, 2.0]), "id": pa.array([1.0, 2.5])}, "row 2, column 'id'"),
        ({"n": pa.array([[1.0], [2.0]]), "id": pa.array([1, 2])}, "column 'n' is list"),
        ({"n": pa.array([1.0, 2.0])}, "'id'"),
        ({"n": pa.array([1.0, 2.0]), "id": pa.array([1, 2]), "ssn": pa.array([1, 2])}, "'ssn'"),
    ],
)
def test_bad_parquet_is_named_and_leaves_nothing(data: Data, columns: dict[str, pa.Array], said: str) -> None:
    when = pa.array([0, 1], pa.int32()).cast(pa.date32())
    with pytest.raises(InputError, match=r"source\.parquet") as refused:
        data.ingest(parquet(data, when=when, **columns), SIMPLE)
    assert said in str(refused.value)
    assert data.nothing_is_left()


def test_a_time_of_day_is_not_lost_silently(data: Data) -> None:
    noon = pa.array([0, 43_200], pa.timestamp("s"))
    path = parquet(data, when=noon, n=pa.array([1.0, 2.0]), id=pa.array([1, 2]))
    with pytest.raises(InputError, match="row 2, column 'when'"):
        data.ingest(path, SIMPLE)


def test_a_damaged_parquet_file_is_refused(data: Data) -> None:
    path = parquet(data, when=pa.array(["2020-01-01"]), n=pa.array([1.0]), id=pa.array([1]))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"source\.parquet"):
        data.ingest(path, SIMPLE)
    assert data.nothing_is_left()


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "UPPER", "x" * 41, "a\n"])
def test_a_name_that_could_be_a_path_is_refused(data: Data, name: str) -> None:
    for options in ({"dataset": name}, {"table": name}):
        with pytest.raises(InputError, match="cannot be the name"):
            data.ingest(ROWS, **options)
    with pytest.raises(BulleError):
        DatasetStore(data.folder, data.ring).delete(name)
    assert data.nothing_is_left()


def test_ingesting_again_makes_a_version_with_keys_of_its_own(data: Data) -> None:
    made: list[str] = []
    data.ingest(before_keys=made.extend)
    assert made[0] == "dataset/people/identifiers"
    first = stored(data)["pid"].to_pylist()
    made.clear()
    assert data.ingest(before_keys=made.extend).version == 2
    assert all(key_id.startswith("dataset/people/2/people/") for key_id in made)
    assert stored(data)["pid"].to_pylist() == first


def test_a_failed_second_ingest_leaves_the_first(data: Data) -> None:
    data.ingest()
    before = sorted(path.name for path in data.root.rglob("*"))
    with pytest.raises(InputError):
        data.ingest("pid\nx\n")
    assert sorted(path.name for path in data.root.rglob("*")) == before
    assert data.catalogue.table("people", "people").version == 1
    stored(data)


def test_tables_of_a_dataset_join_by_entity_and_only_by_it(data: Data) -> None:
    data.ingest()
    visits = {
        "title": "Visits",
        "columns": [
            {"name": "patient", "type": "string", "role": "identifier", "entity": "person"},
            {"name": "doctor", "type": "string", "role": "identifier"},
        ],
    }
    data.ingest("patient,doctor\n QX-PLANTED-2 ,QX-PLANTED-2\n", visits, table="visits")
    assert {info.table: info.version for info in data.catalogue.dataset("people").tables} == {"people": 1, "visits": 2}
    people = stored(data)["pid"].to_pylist()
    table = stored(data, "visits")
    assert table["patient"][0].as_py() == people[1]
    assert table["doctor"][0].as_py() not in people


def test_two_datasets_share_no_pseudonym(data: Data) -> None:
    data.ingest()
    data.ingest(dataset="other", table="people")
    assert not set(stored(data)["pid"].to_pylist()) & set(stored(data, dataset="other")["pid"].to_pylist())


def test_a_blank_identifier_is_a_missing_one(data: Data) -> None:
    with pytest.raises(InputError, match="row 2, column 'pid': a value is missing"):
        data.ingest('pid,born,sex,weight,town,note\nx,,,,,\n"  ",,,,,\n')
    assert data.nothing_is_left()


def test_deleting_destroys_every_key(data: Data) -> None:
    data.ingest()
    data.ingest()
    data.ingest(table="more")
    DatasetStore(data.folder, data.ring).delete("people")
    assert data.nothing_is_left()
    with pytest.raises(NotFoundError):
        DatasetStore(data.folder, data.ring).delete("people")


def test_two_ingests_of_a_dataset_do_not_mix(data: Data) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def wait(key_ids: tuple[str, ...]) -> None:
        reached.set()
        assert go_on.wait(60)

    first = threading.Thread(target=data.ingest, kwargs={"before_keys": wait})
    first.start()
    assert reached.wait(60)
    other = data.source(ROWS, "other.csv")
    with pytest.raises(ConflictError, match="another process"):
        data.ingest(other)
    with pytest.raises(ConflictError):
        DatasetStore(data.folder, data.ring).delete("people")
    data.ingest(other, dataset="another")
    go_on.set()
    first.join()
    assert data.catalogue.table("people", "people").rows == 4


KILLED = """
import os, signal, sys
from pathlib import Path
from orchestrator.data import ingest as room
from orchestrator.data import store
from orchestrator.data.schema import parse_schema
from orchestrator.keys import FileCustodian, KeyRing
from tests.unit.data.conftest import PEOPLE
root, moment = Path(sys.argv[1]), sys.argv[2]
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
options = {}
if moment == "before keys":
    options["before_keys"] = die
elif moment == "writing":
    options["progress"] = die
elif moment == "before current":
    real = store.replace
    store.replace = lambda *_, **__: die()
elif moment == "keys":
    real_create = KeyRing.create
    KeyRing.create = lambda self, key: die() if key.endswith("column/sex") else real_create(self, key)
room.ingest(root / "good.csv", parse_schema(PEOPLE, "s"), dataset="people", folder=root / "datasets",
            ring=KeyRing(root / "ring", FileCustodian(root / "custodian" / "kek")), **options)
"""


@pytest.mark.parametrize("moment", ["before keys", "keys", "writing", "before current"])
@pytest.mark.parametrize("had_one", [False, True])
def test_after_a_kill_nothing_shows_and_the_next_run_starts_clean(data: Data, moment: str, had_one: bool) -> None:
    good = data.source(ROWS, "good.csv")
    if had_one:
        data.ingest(good)
    keys = len(list((data.root / "ring").iterdir()))
    run = subprocess.run([sys.executable, "-c", KILLED, str(data.root), moment], capture_output=True, check=False)
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert [info.tables[0].version for info in data.catalogue.datasets()] == ([1] if had_one else [])
    left = b"".join(path.read_bytes() for path in data.folder.rglob("*") if path.is_file())
    assert not any(planted in left for planted in PLANTED)
    with pytest.raises(InputError):  # a run that fails for another reason tidies up as well
        data.ingest(ROWS + "short\n")
    assert len(list((data.root / "ring").iterdir())) == keys
    assert data.ingest(good).version == (2 if had_one else 1)
    stored(data)
    assert not list(data.folder.rglob(".staging*"))
    assert len(list((data.root / "ring").iterdir())) == keys + 7 + (not had_one)


def test_a_full_disk_is_said_and_leaves_nothing(data: Data) -> None:
    """A file size limit makes the kernel refuse the write in the middle, as a full disk does."""
    rows = "".join(f"{os.urandom(12).hex()},,,{n}.25,,{os.urandom(40).hex()}\n" for n in range(20_000))
    source = data.source(ROWS + rows)
    code = textwrap.dedent(
        """
        import resource, sys
        from pathlib import Path
        from orchestrator.data.ingest import ingest
        from orchestrator.data.schema import parse_schema
        from orchestrator.errors import UnavailableError
        from orchestrator.keys import FileCustodian, KeyRing
        from tests.unit.data.conftest import PEOPLE
        root = Path(sys.argv[1])
        ring = KeyRing(root / "ring", FileCustodian(root / "custodian" / "kek"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        try:
            ingest(root / "source.csv", parse_schema(PEOPLE, "s"), dataset="people",
                   folder=root / "datasets", ring=ring)
        except UnavailableError as error:
            print(error)
        """
    )
    run = subprocess.run([sys.executable, "-c", code, str(data.root)], capture_output=True, text=True, check=False)
    assert "File too large" in run.stdout, run.stderr
    assert not run.stderr
    assert data.nothing_is_left()
    assert data.ingest(source).rows == 20_004  # negative control: without the limit the same file fits


def test_a_full_file_system_is_said_and_leaves_nothing(data: Data) -> None:
    mount = data.root / "datasets"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("mounting a tmpfs needs root with CAP_SYS_ADMIN")
    try:
        rows = "".join(f"{os.urandom(12).hex()},,,{n}.25,,{os.urandom(40).hex()}\n" for n in range(20_000))
        with pytest.raises(UnavailableError, match=os.strerror(errno.ENOSPC)):
            data.ingest(ROWS + rows)
        assert data.nothing_is_left()
        assert data.ingest(ROWS).rows == 4
    finally:
        subprocess.run(["umount", str(mount)], check=True)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
            st.none() | st.integers(-(2**63), 2**63 - 1),
            st.none() | st.floats(allow_nan=False, allow_infinity=False),
            st.none() | st.dates(),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_what_is_written_as_text_comes_back(data: Data, rows: list[tuple[Any, ...]]) -> None:
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerow(["s", "i", "f", "d"])
    writer.writerows(["" if value is None else value for value in row] for row in rows)
    kinds = {"s": "string", "i": "integer", "f": "number", "d": "date"}
    schema = {
        "title": "T",
        "columns": [{"name": name, "type": kind, "role": "measure"} for name, kind in kinds.items()],
    }
    data.ingest(text.getvalue(), schema)
    table = stored(data)
    assert [tuple(row.values()) for row in table.to_pylist()] == [(row[0] or None, *row[1:]) for row in rows]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200) | st.text('id,when\n"1;2020-01\r', max_size=80).map(str.encode))
def test_no_bytes_do_more_than_raise_an_input_error(data: Data, content: bytes) -> None:
    for start in (b"", b"id,when,n\n", b"PAR1"):
        try:
            data.ingest(start + content, SIMPLE)
        except InputError:
            assert not list(data.folder.rglob(".staging*"))

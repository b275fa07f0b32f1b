"""How long ingest and view building take, beside plain tools that do the same without any cryptography.

``python -m benchmarks.data`` prints JSON: ``{name: {ours, peer, peer_name, unit, ratio}}``. Each measurement runs in a
process of its own, ours and the peer's in turn, and the medians are compared. Inputs and outputs are in RAM.

* ``view.build``: 10 million claims, 4 of 9 columns, a filter that keeps about 60 % of the rows, pseudonyms as text.
  Peer: DuckDB's ``COPY`` of the same columns and rows, the level-one pseudonyms copied as they are.
* ``view.build.bytes``: the same with pseudonyms as 16 bytes.
* ``view.memory``: peak resident memory of the process that builds the view, and of the peer.
* ``ingest``: the same claims from Parquet. Peer: pyarrow reads the file and writes it again in clear.
* ``ingest.csv``: a tenth of them from CSV. Peer: pyarrow parses the file and writes Parquet in clear.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from orchestrator.config import PseudonymForm
from orchestrator.data.catalogue import Catalogue
from orchestrator.data.ingest import GROUP_ROWS, ingest
from orchestrator.data.schema import parse_schema
from orchestrator.data.view import build_view
from orchestrator.keys import FileCustodian, KeyRing
from orchestrator.terms import PermitTerms, TablePermit

ROWS = 10_000_000
PEOPLE = 1_500_000
SINCE = date(2014, 10, 27)
SHOWN = ("patient", "service", "diagnosis", "amount")
SCHEMA = parse_schema(
    {
        "title": "Claims",
        "columns": [
            {"name": "patient", "type": "integer", "role": "identifier"},
            {"name": "provider", "type": "integer", "role": "identifier"},
            {"name": "service", "type": "date", "role": "date"},
            {"name": "birth_year", "type": "integer", "role": "quasi-identifier"},
            {"name": "sex", "type": "integer", "role": "quasi-identifier"},
            {"name": "region", "type": "string", "role": "quasi-identifier"},
            {"name": "diagnosis", "type": "string", "role": "measure"},
            {"name": "quantity", "type": "integer", "role": "measure"},
            {"name": "amount", "type": "number", "role": "measure"},
        ],
    },
    "claims",
)
TERMS = PermitTerms(
    version=1,
    tables=(
        TablePermit.model_validate(
            {
                "dataset": "claims",
                "table": "claims",
                "columns": [{"name": name} for name in SHOWN],
                "rows": ({"column": "service", "operator": ">=", "value": SINCE.isoformat()},),
            }
        ),
    ),
    valid_from=datetime(2026, 1, 1, tzinfo=UTC),
    valid_until=datetime(2030, 1, 1, tzinfo=UTC),
)


def claims(rows: int, *, seed: int = 1) -> Iterator[pa.Table]:
    """Generated claims, 9 columns, in parts: people and providers at random, codes with a long tail."""
    rng = np.random.default_rng(seed)
    codes = pa.array([f"{chr(65 + n % 26)}{n % 100:02d}.{n % 10}" for n in range(2000)])
    regions = pa.array([f"R{n:02d}" for n in range(22)])
    for start in range(0, rows, GROUP_ROWS):
        count = min(GROUP_ROWS, rows - start)
        yield pa.table(
            {
                "patient": rng.integers(10**12, 10**12 + PEOPLE, count),
                "provider": rng.integers(0, 20_000, count),
                "service": pa.array(rng.integers(14_000, 20_000, count).astype("int32")).cast(pa.date32()),
                "birth_year": rng.integers(1920, 2020, count),
                "sex": rng.integers(1, 3, count),
                "region": regions.take(pa.array(rng.integers(0, 22, count))),
                "diagnosis": codes.take(pa.array(np.minimum(rng.zipf(1.3, count) - 1, 1999))),
                "quantity": rng.integers(1, 30, count),
                "amount": np.round(rng.gamma(2, 50, count), 2),
            }
        )


class Setting:
    """Files that the measurements share, in one folder in RAM."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parquet = folder / "claims.parquet"
        self.csv = folder / "claims.csv"
        self.stored = folder / "stored.parquet"
        self.datasets = folder / "datasets"

    def ring(self) -> KeyRing:
        FileCustodian.create(self.folder / "custodian" / "kek")
        return KeyRing(self.folder / "ring", FileCustodian(self.folder / "custodian" / "kek"))

    def prepare(self, rows: int) -> None:
        """Generate, ingest, and write what ingest stored once more in clear, for the peer to read."""
        writer = text = None
        for part in claims(rows):
            writer = writer or pq.ParquetWriter(self.parquet, part.schema)
            writer.write_table(part)
            if part.num_rows and (text is None or self.csv.stat().st_size < rows * 6):
                text = text or arrow_csv.CSVWriter(self.csv, part.schema)
                text.write_table(part)
        assert writer is not None and text is not None
        writer.close()
        text.close()
        ingest(self.parquet, SCHEMA, dataset="claims", folder=self.datasets, ring=self.ring())
        ingest(self.parquet, SCHEMA, dataset="clear", folder=self.datasets, ring=self.ring(), _encrypted=False)
        catalogue = Catalogue(self.datasets)
        catalogue.path(catalogue.table("clear", "clear")).rename(self.stored)


def ours_view(setting: Setting, form: PseudonymForm = PseudonymForm.TEXT) -> None:
    target = setting.folder / "view"
    target.mkdir()
    ring = setting.ring()
    build_view(Catalogue(setting.datasets), TERMS, bytes(32), ring.get, target, form)


def ours_view_bytes(setting: Setting) -> None:
    ours_view(setting, PseudonymForm.BYTES)


def peer_view(setting: Setting) -> None:
    import duckdb

    target = setting.folder / "view"
    target.mkdir()
    duckdb.connect().execute(
        f"copy (select {', '.join(SHOWN)} from '{setting.stored}' where service >= date '{SINCE}')"
        f" to '{target}/claims.parquet' (format parquet)"
    )


def ours_ingest(setting: Setting) -> None:
    fresh = Setting(setting.folder / "view")
    ingest(setting.parquet, SCHEMA, dataset="claims", folder=fresh.datasets, ring=fresh.ring())


def ours_ingest_csv(setting: Setting) -> None:
    fresh = Setting(setting.folder / "view")
    ingest(setting.csv, SCHEMA, dataset="claims", folder=fresh.datasets, ring=fresh.ring())


def peer_ingest(setting: Setting) -> None:
    (setting.folder / "view").mkdir()
    source = pq.ParquetFile(setting.parquet)
    with pq.ParquetWriter(setting.folder / "view" / "clear.parquet", source.schema_arrow) as writer:
        for group in range(source.num_row_groups):
            writer.write_table(source.read_row_group(group))


def peer_ingest_csv(setting: Setting) -> None:
    (setting.folder / "view").mkdir()
    source = arrow_csv.open_csv(setting.csv, read_options=arrow_csv.ReadOptions(block_size=1 << 24))
    with pq.ParquetWriter(setting.folder / "view" / "clear.parquet", source.schema) as writer:
        for batch in source:
            writer.write_batch(batch)


TASKS: dict[str, Callable[[Setting], None]] = {
    task.__name__: task
    for task in (ours_view, ours_view_bytes, peer_view, ours_ingest, ours_ingest_csv, peer_ingest, peer_ingest_csv)
}


def _child(task: str, folder: Path) -> None:
    setting = Setting(folder)
    started = time.perf_counter()
    TASKS[task](setting)
    seconds = time.perf_counter() - started
    # VmHWM begins anew with the program; the peak that getrusage tells is inherited from the parent
    (peak,) = (line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    print(json.dumps({"seconds": seconds, "megabytes": int(peak) / 1024}))


def _run(task: str, folder: Path) -> dict[str, float]:
    words = [sys.executable, "-m", "benchmarks.data", "--task", task, "--folder", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    shutil.rmtree(folder / "view")
    result: dict[str, float] = json.loads(done.stdout)
    return result


def _pair(ours: str, peer: str, folder: Path, repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    """Medians of two tasks, run in turn after one warm-up of each."""
    runs: dict[str, list[dict[str, float]]] = {ours: [], peer: []}
    for repeat in range(repeats + 1):
        for task in (ours, peer):
            result = _run(task, folder)
            if repeat:
                runs[task].append(result)
    medians = [
        {key: statistics.median(run[key] for run in runs[task]) for key in ("seconds", "megabytes")}
        for task in (ours, peer)
    ]
    return medians[0], medians[1]


def _entry(ours: float, peer: float, peer_name: str, unit: str) -> dict[str, Any]:
    return {
        "ours": round(ours, 3),
        "peer": round(peer, 3),
        "peer_name": peer_name,
        "unit": unit,
        "ratio": round(ours / peer, 3),
    }


def measure(rows: int = ROWS, repeats: int = 5, ram: Path = Path("/dev/shm")) -> dict[str, dict[str, Any]]:
    """All measurements; see the module's text."""
    with tempfile.TemporaryDirectory(dir=ram, prefix="bulle-bench-") as name:
        folder = Path(name)
        Setting(folder).prepare(rows)
        results: dict[str, dict[str, Any]] = {}
        view, copy = _pair("ours_view", "peer_view", folder, repeats)
        raw, copy_again = _pair("ours_view_bytes", "peer_view", folder, repeats)
        stored, written = _pair("ours_ingest", "peer_ingest", folder, max(1, repeats // 2))
        text, parsed = _pair("ours_ingest_csv", "peer_ingest_csv", folder, max(1, repeats // 2))
        duckdb_copy, pyarrow_copy = "DuckDB COPY of the same in clear", "pyarrow writing the same in clear"
        results["view.build"] = _entry(view["seconds"], copy["seconds"], duckdb_copy, "s")
        results["view.build.bytes"] = _entry(raw["seconds"], copy_again["seconds"], duckdb_copy, "s")
        results["view.memory"] = _entry(view["megabytes"], copy["megabytes"], duckdb_copy, "MB")
        results["ingest"] = _entry(stored["seconds"], written["seconds"], pyarrow_copy, "s")
        results["ingest.csv"] = _entry(text["seconds"], parsed["seconds"], "pyarrow parsing and writing in clear", "s")
        return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--task", choices=sorted(TASKS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        _child(options.task, options.folder)
    else:
        print(json.dumps(measure(options.rows, options.repeats), indent=1))


if __name__ == "__main__":
    main()

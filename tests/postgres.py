"""A PostgreSQL server of the tests' own: Debian's programs, a folder in RAM, a unix socket and no network.

It runs as a user without rights, forces nothing to a disk, and goes with the process that started it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

#: a role that owns the databases, and one that must show its password
OWNER, STRICT = "tester", "bulle"

_RAM = Path("/dev/shm")
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "shared_buffers": "64MB",
    "max_connections": "60",
    "dynamic_shared_memory_type": "mmap",
    "autovacuum": "off",
}


def programs() -> Path:
    """The folder of the newest server's programs. Debian keeps it away from PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        raise FileNotFoundError("PostgreSQL is missing: apt-get install postgresql")
    return found[-1].parent


@dataclass
class Server:
    """A running server."""

    folder: Path
    password: str
    _template: str | None = None
    _count: int = field(default=0)

    @property
    def socket(self) -> Path:
        """The folder of its unix socket."""
        return self.folder

    def url(self, database: str, role: str = OWNER) -> str:
        """SQLAlchemy's URL of one of its databases."""
        return f"postgresql+psycopg://{role}@/{database}?host={self.folder}"

    def create(self, name: str | None = None, *, template: str = "template0", owner: str = OWNER) -> str:
        """Make a database, a copy of ``template``; its name."""
        self._count += 1
        name = name or f"t{self._count}"
        self._run(f"CREATE DATABASE {name} OWNER {owner} TEMPLATE {template} STRATEGY file_copy")
        return name

    def prepared(self) -> str:
        """A database with the tables of governance in it, and nothing else; its name. Fast: a copy."""
        if self._template is None:
            from orchestrator.governance.store import Store

            self._template = self.create()
            store = Store(self.url(self._template))
            store.prepare()
            store.close()
        return self.create(template=self._template)

    def drop(self, database: str) -> None:
        """Remove a database, and whoever is in it."""
        self._run(f"DROP DATABASE {database} WITH (FORCE)")

    def _run(self, statement: str) -> None:
        with psycopg.connect(host=str(self.folder), user="postgres", dbname="postgres", autocommit=True) as connection:
            connection.execute(statement)


@dataclass(frozen=True)
class Tls:
    """An address on which a server listens, and the folder of its certificate and key; None: it speaks in clear."""

    address: str
    folder: Path | None


@contextmanager
def server(parent: Path | None = None, tls: Tls | None = None) -> Iterator[Server]:
    """A server for as long as the block lasts; with ``tls`` it listens on an address too."""
    if parent is None and _RAM.is_dir():
        parent = _RAM
    folder = Path(tempfile.mkdtemp(prefix="bulle-postgres-", dir=parent))
    # The server refuses to run as root; whoever runs the tests otherwise runs it as themselves.
    as_whom = ["setpriv", "--pdeathsig", "INT"]
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody", "nogroup")
        as_whom += ["--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]
    folder.chmod(0o755)
    process: subprocess.Popen[bytes] | None = None
    try:
        data, log = folder / "data", folder / "log"
        log.touch()
        made = subprocess.run(
            [*as_whom, programs() / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-N", "--locale=C.UTF-8"],
            check=False,
            capture_output=True,
            text=True,
            env={"PATH": os.environ.get("PATH", ""), "TZ": "UTC"},
        )
        if made.returncode:
            raise RuntimeError(f"initdb failed: {made.stderr}")
        # The first line that fits counts: one role has to show its password.
        (data / "pg_hba.conf").write_text(f"local all {STRICT} scram-sha-256\nlocal all all trust\n", encoding="utf-8")
        options = {**_SETTINGS}
        if tls is not None:
            options["listen_addresses"] = tls.address
            with (data / "pg_hba.conf").open("a", encoding="utf-8") as file:
                file.write(f"host all {STRICT} all scram-sha-256\n")
            if tls.folder is not None:
                for name in ("tls.crt", "tls.key"):
                    shutil.copyfile(tls.folder / name, data / name)
                    (data / name).chmod(0o600)
                    if os.geteuid() == 0:
                        shutil.chown(data / name, "nobody", "nogroup")
                options |= {"ssl": "on", "ssl_cert_file": "tls.crt", "ssl_key_file": "tls.key"}
        words = [word for key, value in options.items() for word in ("-c", f"{key}={value}")]
        with log.open("wb") as told:
            process = subprocess.Popen(
                [*as_whom, programs() / "postgres", "-D", data, "-k", folder, *words],
                stdout=told,
                stderr=told,
                env={"PATH": os.environ.get("PATH", ""), "TZ": "UTC", "LC_ALL": "C.UTF-8"},
            )
        running = Server(folder, secrets.token_urlsafe(16))
        _wait(running, process, log)
        running._run(f"CREATE ROLE {OWNER} LOGIN")
        running._run(f"CREATE ROLE {STRICT} LOGIN PASSWORD '{running.password}'")
        yield running
    finally:
        if process is not None:
            process.send_signal(signal.SIGINT)  # "fast": connections are cut, nothing is waited for
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait(running: Server, process: subprocess.Popen[bytes], log: Path, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            running._run("SELECT 1")
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"PostgreSQL does not start: {log.read_text(errors='replace')[-2000:]}") from None
            time.sleep(0.05)
        else:
            return

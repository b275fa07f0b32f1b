"""A real S3-compatible store for tests (SeaweedFS) with TLS of its own authority, and a line to it that breaks."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

BUCKET = "backups"
#: who may do everything, and who may only write
ADMIN, WRITER = ("admin-key", "admin-secret"), ("writer-key", "writer-secret")
_WAIT = 60


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, which signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "store")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "store.pem", folder / "store.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem = serialization.PrivateFormat.PKCS8
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, pem, serialization.NoEncryption()))
    return paths


@dataclass
class Store:
    port: int
    folder: Path
    ca_file: Path

    @property
    def endpoint(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def client(self, who: tuple[str, str] = ADMIN) -> Any:
        return botocore.session.Session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.endpoint,
            verify=str(self.ca_file),
            aws_access_key_id=who[0],
            aws_secret_access_key=who[1],
            config=Config(
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def names(self) -> list[str]:
        """The objects that are there."""
        return [one["Key"] for one in self.client().list_objects_v2(Bucket=BUCKET).get("Contents", [])]

    def read(self, key: str) -> bytes:
        return self.client().get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def write(self, key: str, content: bytes) -> None:
        self.client().put_object(Bucket=BUCKET, Key=key, Body=content)


def _ports(count: int) -> list[int]:
    with_sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in with_sockets]
    for each in with_sockets:
        each.close()
    return ports


@contextmanager
def running(*, volumes: int = 20) -> Iterator[Store]:
    """A store with one empty bucket, of ``volumes`` times 8 MB or a little more."""
    program = Path(sys.executable).with_name("weed")
    folder = Path(tempfile.mkdtemp(prefix="bulle-s3-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    certificate_file, key_file = certificate(folder)
    identities = [
        {
            "name": key,
            "credentials": [{"accessKey": key, "secretKey": secret}],
            "actions": actions,
        }
        for (key, secret), actions in ((ADMIN, ["Admin", "Read", "Write", "List"]), (WRITER, [f"Write:{BUCKET}"]))
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    (folder / "data").mkdir()
    names = ("s3", "s3.grpc", "master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc")
    ports = dict(zip(names, _ports(len(names)), strict=True))
    options = [f"-{name.split('.')[0]}.port{'.grpc' if '.' in name else ''}={port}" for name, port in ports.items()]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [
                program, "-logtostderr=true", "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1", "-master.telemetry=false", "-master.volumeSizeLimitMB=8",
                f"-volume.max={volumes}", "-filer", "-s3", f"-s3.config={folder / 's3.json'}", "-s3.iam=false",
                "-s3.autoCreateBucket=false", f"-s3.cert.file={certificate_file}", f"-s3.key.file={key_file}",
                "-s3.port.iceberg=0", "-s3.port.lance=0", *options,
            ],
            stdout=log,
            stderr=log,
            cwd=folder,
        )  # fmt: skip
    try:
        store = Store(ports["s3"], folder, certificate_file)
        _await_bucket(store, server)
        yield store
    finally:
        server.kill()  # it takes its time to end otherwise, and nothing of it is wanted
        server.wait()
        shutil.rmtree(folder)


def _await_bucket(store: Store, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _WAIT
    while True:
        with suppress(BotoCoreError, ClientError):
            store.client().create_bucket(Bucket=BUCKET)
            return
        if server.poll() is not None or time.monotonic() > end:
            raise RuntimeError((store.folder / "log").read_text(errors="replace")[-3000:])
        time.sleep(0.2)


@dataclass
class Line:
    """A way to the store that breaks after so many bytes in one direction, so many times."""

    to: int
    up: int | None = None
    down: int | None = None
    times: int = 1
    broken: int = 0
    _server: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    def __post_init__(self) -> None:
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"https://127.0.0.1:{self._server.getsockname()[1]}"

    def close(self) -> None:
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self.to))
            except OSError:
                return
            for source, sink, most in ((near, far, self.up), (far, near, self.down)):
                threading.Thread(target=self._carry, args=(source, sink, most), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, most: int | None) -> None:
        carried = 0
        with suppress(OSError):
            while data := source.recv(1 << 16):
                carried += len(data)
                if most is not None and carried > most and self.broken < self.times:
                    self.broken += 1
                    break
                sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def credentials(path: Path, who: tuple[str, str] = ADMIN) -> Path:
    """A file with credentials, as the settings name it."""
    path.write_text(f"aws_access_key_id = {who[0]}\naws_secret_access_key = {who[1]}\n")
    path.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(path, 0, 0)
    return path

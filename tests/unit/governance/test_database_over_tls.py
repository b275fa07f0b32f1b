"""Governance in a PostgreSQL server elsewhere, as on a cluster: its certificate is checked, and its name."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from orchestrator.config import Settings
from orchestrator.errors import UnavailableError
from orchestrator.governance.store import Store
from tests.postgres import STRICT, Server, Tls, server
from tests.unit.governance.signer import Signer

ADDRESS = "127.0.77.1"


def settings(tmp_path: Path, running: Server, database: str, ca: Path) -> Settings:
    password = tmp_path / "password"
    password.write_text(running.password)
    password.chmod(0o600)
    return Settings.model_validate(
        {
            "deployment": "trial",
            "state": str(tmp_path),
            "oidc": {"issuer": "http://127.0.0.1:1", "client_id": "x", "client_secret_file": "/x"},
            "kubernetes": {},
            "database": f"postgresql://{STRICT}@{ADDRESS}/{database}",
            "database_ca_file": str(ca),
            "database_password_file": str(password),
        }
    )


def refused(given: Settings, words: str) -> bool:
    store = Store(given.database_url, given.database_password_file)
    try:
        with pytest.raises(UnavailableError, match=words):
            store.prepare()
    finally:
        store.close()
    return True


def test_a_server_elsewhere_is_used_when_its_certificate_and_name_are_right(tmp_path: Path) -> None:
    signer = Signer()
    folder = signer.write(tmp_path / "server", ADDRESS)
    other = Signer().write(tmp_path / "other", ADDRESS)
    with server(tls=Tls(ADDRESS, folder)) as running:
        name = running.create(owner=STRICT)
        given = settings(tmp_path, running, name, folder / "ca.crt")
        store = Store(given.database_url, given.database_password_file)
        store.prepare()
        store.close()
        assert refused(settings(tmp_path, running, name, other / "ca.crt"), "SSL error")
        # the negative control: without our options it is used, whoever signed
        loose = f"postgresql://{STRICT}:{running.password}@{urlsplit(given.database_url).hostname}/{name}"
        psycopg.connect(loose, sslmode="require", sslrootcert="").close()


@pytest.mark.parametrize(
    ("how", "words"), [("other name", "does not match host name"), ("in clear", "does not support SSL")]
)
def test_a_server_of_another_name_or_in_clear_is_refused(tmp_path: Path, how: str, words: str) -> None:
    signer = Signer()
    folder = signer.write(tmp_path / "server", "127.0.77.9")
    with server(tls=Tls(ADDRESS, folder if how == "other name" else None)) as running:
        name = running.create(owner=STRICT)
        assert refused(settings(tmp_path, running, name, folder / "ca.crt"), words)
        loose = f"postgresql://{STRICT}:{running.password}@{ADDRESS}/{name}"
        psycopg.connect(loose, sslmode="prefer").close()

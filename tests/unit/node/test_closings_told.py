"""The node agent and the authority together: a project is closed, archived, destroyed, and the proof verifies."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from orchestrator.config import Layout
from orchestrator.errors import InputError, NotFoundError, RefusedError
from orchestrator.governance.authority import Authority, node_app, portal_app
from orchestrator.governance.cards import ClosingDone
from orchestrator.governance.certificates import verify_certificate
from orchestrator.governance.client import AuthorityClient
from orchestrator.governance.store import DeletionRow
from orchestrator.keys import FileCustodian, KeyRing
from orchestrator.node.closings import Closer
from orchestrator.node.folders import Folders, folder_name, home_key, project_key
from orchestrator.node.journal import Journal
from orchestrator.terms import SessionClaim
from tests.unit.governance.places import GRANT_KEY, Place, place, running

ISSUER = "bulle/trial"


class Bench:
    def __init__(self, root: Path) -> None:
        self.here: Place = place(root)
        running(self.here.governance)
        self.authority = Authority(self.here.governance, GRANT_KEY, "trial", embedded_custodian=True)
        self.client = AuthorityClient(root / "no.sock")
        http = TestClient(node_app(self.authority))
        self.client._http = lambda: http
        self.project_id = self.here.governance.project("sleep").id
        layout = Layout(root / "state")
        layout.folders.mkdir(parents=True)
        FileCustodian.create(root / "kek")
        self.ring = KeyRing(layout.keyring, FileCustodian(root / "kek"))
        self.folders = Folders(layout, self.ring)
        for key_id in (project_key(self.project_id), home_key(self.project_id, "researcher")):
            self.ring.create(key_id)
            image = layout.folders / folder_name(key_id) / "disk.img"
            image.parent.mkdir()
            image.write_bytes(b"ciphertext")
        self.layout = layout
        self.closer = Closer(
            desk=self.client,
            journal=Journal(self.client),
            keys=self.ring,
            folders=self.folders,
            place=layout.folders,
            sessions=SimpleNamespace(grants=lambda *_: []),  # type: ignore[arg-type]
            volumes=SimpleNamespace(projects=set),  # type: ignore[arg-type]
        )

    def certificate(self) -> str | None:
        with self.here.store.read() as session:
            wanted = select(DeletionRow.certificate).where(DeletionRow.project_id == self.project_id)
            return session.scalar(wanted)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.here.store.close()


def test_from_closing_to_the_certificate(bench: Bench) -> None:
    governance = bench.here.governance
    bench.closer.round()
    assert bench.client.closings() == []
    governance.close_project("custodian", "sleep")
    bench.closer.round()
    assert governance.project("sleep").archived_at is not None
    assert bench.ring.exists(project_key(bench.project_id)) and bench.client.closings() == []
    governance.retain_project("custodian", "sleep", governance.now() + timedelta(days=2))
    bench.closer.round()
    assert bench.certificate() is None
    bench.here.clock.pass_(2)
    bench.closer.round()
    certificate = bench.certificate()
    assert certificate is not None
    claims = verify_certificate(certificate, GRANT_KEY.public_key(), ISSUER)
    keys = sorted([project_key(bench.project_id), home_key(bench.project_id, "researcher")])
    assert claims["keys"] == keys and claims["folders"] == sorted(folder_name(key_id) for key_id in keys)
    assert governance.project("sleep").state == "deleted"
    for key_id in keys:
        with pytest.raises(NotFoundError):
            bench.ring.get(key_id)
    kinds = [kind for kind, outcome in bench.here.events() if outcome == "started"]
    assert [kind for kind in kinds if kind.split(".")[0] in ("key", "folder")] == [
        "folder.archive",
        "key.destroy",
        "folder.destroy",
    ]
    bench.closer.round()
    assert bench.certificate() == certificate


def test_a_certificate_says_that_backups_of_the_key_ring_must_go_too(bench: Bench) -> None:
    bench.here.governance.close_project("custodian", "sleep")
    bench.here.governance.retain_project("custodian", "sleep", bench.here.governance.now())
    bench.closer.round()
    certificate = bench.certificate()
    assert certificate is not None
    assert "backup" in verify_certificate(certificate, GRANT_KEY.public_key(), ISSUER)["note"]


def test_an_agent_cannot_certify_what_is_to_be_kept_nor_another_projects_keys(bench: Bench) -> None:
    governance = bench.here.governance
    with pytest.raises(RefusedError, match="not closed"):
        bench.client.closed(bench.project_id, ClosingDone(done="destroyed"))
    governance.close_project("custodian", "sleep")
    with pytest.raises(RefusedError, match="retention"):
        bench.client.closed(bench.project_id, ClosingDone(done="destroyed"))
    governance.retain_project("custodian", "sleep", governance.now())
    with pytest.raises(InputError, match="not a key of project"):
        bench.client.closed(bench.project_id, ClosingDone(done="destroyed", keys=(project_key("f" * 32),)))
    with pytest.raises(NotFoundError):
        bench.client.closed("f" * 32, ClosingDone(done="archived"))
    with pytest.raises(InputError, match="malformed"):
        bench.client.closed("closings", ClosingDone(done="archived"))
    assert bench.certificate() is None


def test_the_portal_says_nothing_of_closings(bench: Bench) -> None:
    portal = TestClient(portal_app(bench.authority), raise_server_exceptions=False)
    assert portal.get("/v1/closings").status_code == 404
    assert portal.post(f"/v1/closings/{bench.project_id}", json={"done": "archived"}).status_code == 404


def test_the_check_of_sessions_is_a_word_of_the_node_agent(bench: Bench) -> None:
    claim = SessionClaim(session="a" * 32, person="researcher", project_id=bench.project_id, permit_version=1)
    assert bench.client.check_sessions([claim])[0].allowed
    assert [each.session for each in bench.here.governance.health("operator").sessions] == ["a" * 32]

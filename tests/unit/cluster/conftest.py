"""A cluster, a door on it, and a namespace controller that runs beside it."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from orchestrator.cluster import namespaces, watch
from orchestrator.cluster.door import Door, compose
from orchestrator.cluster.namespaces import Namespaces
from orchestrator.cluster.rights import Part
from orchestrator.config import Settings
from orchestrator.errors import UnavailableError
from orchestrator.governance.cards import SessionNews
from orchestrator.governance.grants import issuer_of, sign_grant
from orchestrator.governance.keys import GRANT_PUBLIC
from orchestrator.node.session_table import Described, Step
from orchestrator.terms import Event, Grant, PermitTerms, SessionClaim, SessionVerdict
from tests.unit.cluster.fake import FakeCluster, fake_cluster
from tests.unit.workspaces.test_spec import IMAGES, SETTINGS

PROJECT = "1" * 32
NAMESPACE = f"bulle-project-{PROJECT}"


class Authority:
    """The authority's answers; what a node agent tells of a session follows what its pod does."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.proved: set[str] = set()
        self.events: list[Event] = []
        self.refuses: dict[str, str] = {}
        self.silent = False
        self.news: dict[str, SessionNews] = {}

    def record(self, event: Event) -> int:
        if self.silent:
            raise UnavailableError("the authority is away")
        self.events.append(event)
        return len(self.events)

    def check_sessions(self, claims: Iterable[SessionClaim]) -> list[SessionVerdict]:
        if self.silent:
            raise UnavailableError("the authority is away")
        return [
            SessionVerdict(
                session=each.session,
                allowed=each.session not in self.refuses,
                reason=self.refuses.get(each.session, ""),
            )
            for each in claims
        ]

    def session_news(self, session: str) -> SessionNews:
        if self.silent:
            raise UnavailableError("the authority is away")
        if session in self.news:
            return self.news[session]
        states = [
            each["state"]
            for pod in self.cluster.of("pods")
            if pod["metadata"]["name"] == f"ws-{session}"
            for each in pod["status"].get("containerStatuses", ())
        ]
        if not states or not all("running" in each for each in states):
            return SessionNews()
        opened = session in self.proved
        self.proved.add(session)
        return SessionNews(isolated=True, opened=opened)

    def kinds(self) -> list[str]:
        return [f"{each.kind} {each.outcome}" for each in self.events]


class Stage:
    """All of it."""

    def __init__(self, cluster: FakeCluster, folder: Path) -> None:
        self.cluster = cluster
        self.authority = Authority(cluster)
        self.key = Ed25519PrivateKey.generate()
        public = folder / "state" / "public"
        public.mkdir(parents=True)
        (public / GRANT_PUBLIC).write_bytes(
            self.key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        images = {"gateway": IMAGES.gateway, "sandbox": IMAGES.sandbox}
        self.settings = Settings.model_validate(
            {
                **SETTINGS.model_dump(exclude_none=True),
                "state": str(folder / "state"),
                "workspace": {"start_timeout": 5},
                "reconcile_seconds": 0.05,
                "kubernetes": {"hub": ["10.96.0.7:8081"], "images": images, "projects": {"keep_minutes": 0}},
            }
        )
        short = self.settings.workspace.model_copy(update={"start_timeout": 3})
        self.settings = self.settings.model_copy(update={"workspace": short})
        self.connects = False
        self.now = datetime.now(UTC)
        self.door = self.another_door()

    def another_door(self) -> Door:
        api = self.cluster.api(Part.DOOR)
        return compose(
            self.settings, api, self.authority, clock=lambda: self.now, connects=lambda host, port: self.connects
        )

    def controller(self, **projects: Any) -> Namespaces:
        cluster = self.settings.kubernetes
        assert cluster is not None
        told = cluster.model_copy(update={"projects": cluster.projects.model_copy(update=projects)})
        settings = self.settings.model_copy(update={"kubernetes": told})
        return Namespaces(settings, self.cluster.api(Part.NAMESPACES))

    def grant(self, **changes: Any) -> Grant:
        permit = PermitTerms(
            version=1, tables=(), valid_from=self.now - timedelta(days=1), valid_until=self.now + timedelta(days=1)
        )
        about = {
            "person": "ann",
            "display_name": "Ann",
            "project_id": PROJECT,
            "project": "heart",
            "project_title": "Hearts",
            "session": uuid.uuid4().hex,
            "permit": permit,
            "ends_at": self.now + timedelta(hours=8),
        }
        return Grant.model_validate({**about, **changes})

    def signed(self, grant: Grant, key: Ed25519PrivateKey | None = None) -> str:
        return sign_grant(grant, key or self.key, self.now, issuer_of(self.settings.deployment))

    def environment(self, grant: Grant) -> dict[str, str]:
        names = ("API_TOKEN", "API_URL", "CLIENT_ID", "SERVICE_PREFIX")
        named = {f"JUPYTERHUB_{name}": "x" for name in names}
        return {**named, "JUPYTERHUB_USER": grant.person, "JUPYTERHUB_SERVER_NAME": grant.project}

    def start(self, grant: Grant, steps: list[Step] | None = None, abort: threading.Event | None = None) -> Described:
        told = steps if steps is not None else []
        return self.door.sessions.start(
            self.signed(grant), self.environment(grant), told.append, abort or threading.Event()
        )

    def left(self) -> list[str]:
        """What is in the cluster of any session."""
        return [*self.cluster.names("pods"), *self.cluster.names("secrets")]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(namespaces, "LOOK", 0.05)
    monkeypatch.setattr(watch, "CLOSED", 0.3)
    with fake_cluster(tmp_path / "cluster") as cluster:
        made = Stage(cluster, tmp_path)
        ended = threading.Event()
        running = threading.Thread(target=namespaces.run, args=(made.controller(), ended), daemon=True)
        running.start()
        yield made
        cluster.silent = False
        ended.set()
        running.join(10)

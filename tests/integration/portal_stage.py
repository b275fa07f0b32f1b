"""The portal as people see it, without engine or hub: the real authority on its socket, the real portal on a port.

Only the hub is stood in for: it lets a person in by name. The deployment has people of every office, projects in every
state and something that waits for each, all made through the same operations that the pages use.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.applications import Starlette
from starlette.types import ASGIApp

from orchestrator.audit import AuditLog
from orchestrator.config import Settings
from orchestrator.errors import InputError, NotFoundError
from orchestrator.governance.authority import authority_of, portal_app
from orchestrator.governance.calls import arguments_of, operation_named
from orchestrator.governance.cards import FolderSize, Machine, NodeReport, SessionUsage
from orchestrator.governance.client import AsyncAuthorityClient
from orchestrator.governance.identity import OPERATOR
from orchestrator.governance.service import Governance
from orchestrator.governance.states import PlatformRole
from orchestrator.governance.store import Store
from orchestrator.portal.application import Portal
from orchestrator.portal.hub import PREFIX, Server
from orchestrator.terms import Event, Outcome, SessionClaim

AUDIT_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
GRANT_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(2, 34)))
RAM = Path("/dev/shm")

PEOPLE = {
    "lead": "Lead",
    "lead2": "Second lead",
    "researcher": "Researcher",
    "researcher2": "Second researcher",
    "newcomer": "Newcomer",
    "partner": "Partner from elsewhere",
    "applicant": "Applicant",
    "custodian": "Data custodian",
    "custodian2": "Second data custodian",
    "reviewer": "Reviewer",
    "auditor": "Auditor",
    "admin": "Administrator",
    "former": "Former colleague",
}
OFFICES = {
    "custodian": PlatformRole.CUSTODIAN,
    "custodian2": PlatformRole.CUSTODIAN,
    "reviewer": PlatformRole.REVIEWER,
    "auditor": PlatformRole.AUDITOR,
    "admin": PlatformRole.ADMINISTRATOR,
}


# -- datasets ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Column:
    """A column as the authority's catalogue tells of it."""

    name: str
    role: str
    type: str
    description: dict[str, str]


@dataclass(frozen=True)
class Table:
    """A table as the authority's catalogue tells of it."""

    table: str
    title: dict[str, str]
    description: dict[str, str]
    columns: tuple[Column, ...]
    rows: int
    version: int = 1


@dataclass(frozen=True)
class Dataset:
    """A dataset of one table."""

    name: str
    tables: tuple[Table, ...]


def _column(name: str, role: str, kind: str, en: str, fr: str) -> Column:
    return Column(name, role, kind, {"en": en, "fr": fr})


VISITS = Table(
    "rwm5yr",
    {"en": "Doctor visits, German health registry", "fr": "Consultations, registre de santé allemand"},
    {
        "en": "Five years of a household survey: visits to doctors, work, schooling and income.",
        "fr": "Cinq années d’une enquête auprès de ménages : consultations, travail, études et revenus.",
    },
    (
        _column("id", "identifier", "integer", "Person", "Personne"),
        _column("year", "date", "date", "Year of the survey", "Année de l’enquête"),
        _column("docvis", "measure", "integer", "Visits to a doctor in the year", "Consultations dans l’année"),
        _column("hospvis", "measure", "integer", "Days in hospital in the year", "Jours d’hôpital dans l’année"),
        _column("age", "quasi-identifier", "integer", "Age in years", "Âge en années"),
        _column("female", "quasi-identifier", "boolean", "Whether a woman", "Femme ou non"),
        _column("hhninc", "measure", "number", "Household income", "Revenu du ménage"),
        _column("remark", "free-text", "string", "Remark of the interviewer", "Remarque de l’enquêteur"),
    ),
    19609,
)
COLON = Table(
    "colon",
    {"en": "Chemotherapy after colon cancer", "fr": "Chimiothérapie après un cancer du côlon"},
    {
        "en": "Recurrence and survival of patients of a trial of adjuvant chemotherapy.",
        "fr": "Récidive et survie des patients d’un essai de chimiothérapie adjuvante.",
    },
    (
        _column("patient", "identifier", "string", "Patient", "Patient"),
        _column("surgery", "date", "date", "Day of the operation", "Jour de l’opération"),
        _column("stage", "quasi-identifier", "string", "Stage of the tumour", "Stade de la tumeur"),
        _column("time", "measure", "integer", "Days until death or last news", "Jours jusqu’au décès ou aux nouvelles"),
        _column("status", "measure", "boolean", "Whether the patient died", "Décès du patient"),
    ),
    1858,
)


class Datasets:
    """Two datasets without a row."""

    def datasets(self) -> list[Dataset]:
        """Both."""
        return [Dataset("colon", (COLON,)), Dataset("rwm5yr", (VISITS,))]

    def check(self, tables: Any) -> None:
        """Raises InputError where a column is not there."""
        for wanted in tables:
            known = {column.name for column in self.table(wanted.dataset, wanted.table).columns}
            for column in wanted.columns:
                if column.name not in known:
                    raise InputError(f"table {wanted.table} has no column '{column.name}'")

    def table(self, dataset: str, table: str) -> Table:
        """One of them."""
        for each in self.datasets():
            for one in each.tables:
                if (each.name, one.table) == (dataset, table):
                    return one
        raise NotFoundError(f"there is no table {dataset}/{table}")


# -- the hub -------------------------------------------------------------------------------------------------
class Hub:
    """Lets whoever the browser's address names in, and knows which workspaces run."""

    def __init__(self) -> None:
        self.running: dict[str, dict[str, Server]] = {
            "researcher": {"doctor-visits": Server("doctor-visits", True, None)},
        }

    def new_verifier(self) -> tuple[str, str]:
        """As the hub does."""
        return "verifier", "challenge"

    def login_url(self, state: str, challenge: str) -> str:
        """A page of the stage that asks who it is."""
        return f"/hub/who?state={state}"

    async def token_for(self, code: str, verifier: str) -> str:
        """The name is the token."""
        return code

    async def person_of(self, token: str) -> str | None:
        """Whose token it is."""
        return token if token in PEOPLE else None

    async def servers(self, token: str, person: str) -> dict[str, Server]:
        """What runs."""
        return self.running.get(person, {})

    async def start(self, token: str, person: str, slug: str) -> None:
        """A start that goes on."""

    async def stop(self, token: str, person: str, slug: str) -> None:
        """Nothing runs behind it."""

    async def progress(self, token: str, person: str, slug: str) -> AsyncGenerator[dict[str, Any]]:
        """The steps of a start that has come to the view and stays there."""
        for step in ("checking", "starting", "proving", "keys"):
            yield {"step": step, "done": 0, "total": 0}
        yield {"step": "view", "done": 12_000, "total": 19_609}
        await asyncio.sleep(3600)

    async def close(self) -> None:
        """Nothing to close."""


# -- what is there -------------------------------------------------------------------------------------------
class Story:
    """Fills a deployment, by the operations that pages and API use."""

    def __init__(self, governance: Governance) -> None:
        self.governance = governance
        self.now = governance.now()
        self.claims: list[SessionClaim] = []
        self.until = (self.now + timedelta(days=300)).replace(hour=0, minute=0, second=0, microsecond=0)

    def do(self, by: str, name: str, **arguments: Any) -> Any:
        """An operation, in a person's name."""
        operation = operation_named(name)
        return operation.run(self.governance, by, arguments_of(operation, arguments))

    def tell(self) -> None:
        """All of it."""
        self.people()
        self.doctor_visits()
        self.others()
        self.machine()

    def people(self) -> None:
        """People with their offices, terms and trainings."""
        for name, shown in PEOPLE.items():
            self.governance.add_person(OPERATOR, name, shown, f"{name}@hospital.example")
        for name, role in OFFICES.items():
            self.governance.add_role(OPERATOR, name, role)
        for name in PEOPLE:
            if name == "newcomer":
                continue
            self.do(name, "terms.accept", version=self.governance.terms_version)
            done = (self.now - timedelta(days=20)).date()
            training = self.do(
                name,
                "training.declare",
                course="Working with health data",
                completed=done,
                evidence="certificate 2026-118",
            )
            if name != "researcher2":
                self.governance.confirm_training(OPERATOR, name, training.id)
        self.do("admin", "person.describe", person="partner", external=True, affiliation="University of the North")
        self.do("admin", "person.disable", person="former")

    def content(self, title: str, lead: str, **change: Any) -> dict[str, Any]:
        """What an application says."""
        values: dict[str, Any] = {
            "title": title,
            "lay_summary": "Do people who lose their work see a doctor more often? We look at five years of a survey.",
            "purpose": "Whether people who lose their work see a doctor more often, by age, schooling and income.",
            "legal_basis": "Research in the public interest; opinion of the ethics committee 2026-31.",
            "outputs": "A paper with tables of counts above ten, and the code.",
            "lead": lead,
            "team": ["researcher"],
            "starts": (self.now - timedelta(days=1)).isoformat(),
            "ends": self.until.isoformat(),
            "tables": [
                {
                    "dataset": "rwm5yr",
                    "table": "rwm5yr",
                    "reason": "The only registry with visits and work of the same people.",
                    "columns": [
                        {"name": "id", "reason": "To follow a person over the years."},
                        {"name": "year", "reason": "Order of events.", "transform": "year"},
                        {"name": "docvis", "reason": "The outcome."},
                        {"name": "age", "reason": "Confounder.", "transform": "band", "parameter": 5},
                        {"name": "hhninc", "reason": "Confounder.", "transform": "top", "parameter": 100000},
                    ],
                    "rows": [{"column": "age", "operator": ">=", "value": 40}],
                }
            ],
        }
        return {**values, **change}

    def begun(self, slug: str, by: str, title: str, lead: str, **change: Any) -> None:
        """An application for a new project, in draft."""
        self.do(by, "application.begin", project=slug, content=self.content(title, lead, **change))

    def approved(self, slug: str, by: str, title: str, lead: str, **change: Any) -> None:
        """A project whose application went all the way."""
        self.begun(slug, by, title, lead, **change)
        self.do(by, "application.submit", project=slug, number=1)
        self.do("custodian", "application.check", project=slug, number=1)
        self.do(
            "custodian2", "application.approve", project=slug, number=1, conditions="No table with a count below ten."
        )

    def doctor_visits(self) -> None:
        """A project at work, with somebody at each step of a membership."""
        slug = "doctor-visits"
        self.approved(slug, "lead", "Doctor visits and working life", "lead")
        self.do("researcher", "member.accept", project=slug)
        self.do("lead", "member.approve", project=slug, person="researcher")
        self.do("researcher2", "member.request", project=slug, role="member", ends=self.until.isoformat())
        self.do("partner", "member.request", project=slug, role="member", ends=self.until.isoformat())
        self.do("lead", "member.invite", project=slug, person="newcomer")
        self.do("custodian", "quota.set", project=slug, kind="hours", most=100)
        self.do("custodian", "quota.set", project=slug, kind="storage_gb", most=20)
        amended = self.do("lead", "application.amend", project=slug, kind="amendment")
        content = amended.content.model_dump(mode="json")
        content["purpose"] += " Now also whether they go to a hospital."
        content["tables"][0]["columns"].append({"name": "hospvis", "reason": "The second outcome."})
        self.do("lead", "application.edit", project=slug, number=amended.number, content=content)
        self.do("lead", "application.submit", project=slug, number=amended.number)

    def others(self) -> None:
        """Projects in every other state."""
        self.approved("colon-survival", "lead2", "Survival after colon cancer", "lead2")
        self.do("researcher", "member.accept", project="colon-survival")
        self.approved("stroke-care", "lead2", "Care in the first day after a stroke", "lead2")
        self.do("admin", "project.suspend", project="stroke-care")
        self.approved("old-study", "lead2", "A study that has ended", "lead2")
        self.do("lead2", "project.close", project="old-study")
        self.begun("hip-fractures", "applicant", "Hip fractures in winter", "applicant", tables=[], legal_basis="")
        self.begun("sleep-cohort", "applicant", "Sleep and shift work", "applicant", team=["researcher2"])
        self.do("applicant", "application.submit", project="sleep-cohort", number=1)

    def machine(self) -> None:
        """A machine that works: usage of this month and the one before, a session, folders."""
        with self.governance._store.read() as session:
            from orchestrator.governance.desk import project_named

            ids = {slug: project_named(session, slug).id for slug in ("doctor-visits", "colon-survival")}
        month = f"{self.now:%Y-%m}"
        lines = (
            ("doctor-visits", "researcher", 61.5, 88.0, 180.0),
            ("doctor-visits", "lead", 22.0, 12.5, 40.0),
            ("colon-survival", "lead2", 4.5, 3.0, 9.0),
        )
        sessions = tuple(
            SessionUsage(
                session=f"{number:032x}",
                month=month,
                project_id=ids[slug],
                person=person,
                began=self.now - timedelta(hours=2),
                seen=self.now,
                seconds=hours * 3600,
                cpu_seconds=cpu * 3600,
                memory_gb_seconds=memory * 3600,
            )
            for number, (slug, person, hours, cpu, memory) in enumerate(lines, start=1)
        )
        folders = (
            FolderSize(project_id=ids["doctor-visits"], bytes_used=15.2e9),
            FolderSize(project_id=ids["doctor-visits"], person="researcher", bytes_used=1.4e9),
        )
        machine = Machine(
            cpus=8, load=3.2, memory_total_gb=64, memory_free_gb=21.5, storage_total_gb=900, storage_free_gb=30
        )
        claim = SessionClaim(
            session=f"{1:032x}", person="researcher", project_id=ids["doctor-visits"], permit_version=1
        )
        self.claims = [claim]
        self.governance.heard(self.claims)
        self.governance.record_usage(NodeReport(machine=machine, sessions=sessions, folders=folders))
        self.governance.audit.record(
            Event(
                kind="workspace.start",
                actor="node-agent",
                outcome=Outcome.DONE,
                person="researcher",
                project="doctor-visits",
                session=f"{1:032x}",
                detail={"permit": 1, "probe": {"tried": 41, "open": 0}},
            )
        )


# -- serving -------------------------------------------------------------------------------------------------
class _Quiet(uvicorn.Server):
    """In a thread: signals are the test runner's."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


@contextmanager
def serving(app: ASGIApp, **where: Any) -> Iterator[None]:
    """An application served from a thread until the block ends."""
    server = _Quiet(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1, **where))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the server did not start")
        time.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(10)


def free_port() -> int:
    """A free loopback port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def beating(story: Story) -> Iterator[None]:
    """The node agent goes on asking about what runs, as it does every few seconds."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(5):
            story.governance.heard(story.claims)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@dataclass(frozen=True)
class PortalStage:
    """A portal that answers at ``url``."""

    url: str
    governance: Governance
    app: Starlette
    hub: Hub

    def page(self, path: str) -> str:
        """The address of a page."""
        return f"{self.url}{PREFIX}{path}"


@contextmanager
def portal_stage() -> Iterator[PortalStage]:
    """Everything up, and told the story."""
    with tempfile.TemporaryDirectory(dir=RAM if RAM.is_dir() else None) as name:
        folder = Path(name)

        def clock() -> datetime:
            return datetime.now(UTC)

        port = free_port()
        settings = Settings.model_validate(
            {
                "deployment": "hospital",
                "state": str(folder),
                "public_url": f"http://127.0.0.1:{port}",
                "listen": f"127.0.0.1:{port}",
                "oidc": {"issuer": "https://login.example.org", "client_id": "b", "client_secret_file": "/x"},
                "governance": {"prices": {"hour": "0.50", "cpu_hour": "0.08", "storage_gb_month": "0.10"}},
            }
        )
        audit = AuditLog(folder / "audit", AUDIT_KEY, clock=clock)
        audit.create()
        store = Store(f"sqlite:///{folder / 'governance.sqlite'}")
        store.prepare()
        governance = Governance(store, audit, clock, Datasets(), settings.governance)
        story = Story(governance)
        story.tell()
        authority = portal_app(authority_of(settings, governance, GRANT_KEY))
        with serving(authority, uds=str(folder / "authority.sock"), lifespan="off"):
            hub = Hub()
            app = Portal(settings, hub, AsyncAuthorityClient(folder / "authority.sock")).application()  # type: ignore[arg-type]
            with serving(app, host="127.0.0.1", port=port), beating(story):
                yield PortalStage(settings.public_url, governance, app, hub)
        store.close()

"""A whole deployment in small: its state folder, keys, store, log, a dataset, a project, and folders."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml

from orchestrator.audit import AuditLog, load_public_key
from orchestrator.audit.chain import fingerprint
from orchestrator.cli.context import open_audit, open_governance
from orchestrator.config import Layout, Settings, load_settings
from orchestrator.data.catalogue import Catalogue
from orchestrator.data.ingest import ingest
from orchestrator.data.schema import parse_schema
from orchestrator.data.view import build_view
from orchestrator.governance import rows
from orchestrator.governance.identity import OPERATOR
from orchestrator.governance.keys import GRANT_PUBLIC, create_signing_keys
from orchestrator.governance.permits import PermitDraft
from orchestrator.governance.service import Governance
from orchestrator.governance.states import PlatformRole
from orchestrator.governance.store import Store
from orchestrator.keys import KeyRing, open_custodian
from orchestrator.machine.state import folders
from orchestrator.node.folders import folder_name, home_key, project_key
from orchestrator.terms import PermitTerms, TablePermit

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
PEOPLE = ("custodian", "lead", "researcher")

SCHEMA = {
    "title": "People",
    "columns": [
        {"name": "pid", "type": "string", "role": "identifier", "entity": "person", "nullable": False},
        {"name": "born", "type": "date", "role": "date"},
        {"name": "sex", "type": "integer", "role": "quasi-identifier"},
        {"name": "weight", "type": "number", "role": "measure"},
        {"name": "town", "type": "string", "role": "quasi-identifier"},
        {"name": "note", "type": "string", "role": "free-text"},
    ],
}
TOWNS = ("Lyon-Planted", "Brest-Planted", "Nice-Planted", "Metz-Planted")


def source(path: Path, rows: int = 400) -> Path:
    lines = ["pid,born,sex,weight,town,note"]
    for n in range(rows):
        sex = 1 if n % 3 else 2
        town = TOWNS[(n * 7) % 4] if sex == 2 else f"{TOWNS[n % 4]}-men"
        lines.append(f"P{n % 150},{1930 + n % 60}-0{1 + n % 9}-11,{sex},{50 + n / 7:.3f},{town},secret note {n}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


#: the women's birth year, weight in bands, and town
WANTED = TablePermit.model_validate(
    {
        "dataset": "people",
        "table": "people",
        "columns": (
            {"name": "pid"},
            {"name": "born", "transform": "year"},
            {"name": "weight", "transform": "band", "parameter": 0.1},
            {"name": "town"},
        ),
        "rows": ({"column": "sex", "operator": "=", "value": 2},),
    },
    strict=False,
)


@dataclass
class Deployment:
    name: str
    folder: Path
    settings: Settings

    @classmethod
    def make(cls, folder: Path, name: str, state: Path | None = None, **more: object) -> Deployment:
        folder.mkdir(parents=True, exist_ok=True)
        secret = folder / f"{name}-client-secret"
        secret.write_text("x")
        told = {
            "deployment": name,
            "state": str(state or folder / name),
            "oidc": {"issuer": "https://login.example.org", "client_id": "bulle", "client_secret_file": str(secret)},
            **more,
        }
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(told, sort_keys=False), encoding="utf-8")
        made = cls(name, folder, load_settings(path))
        for each in folders(made.layout):
            each.path.mkdir(parents=True, exist_ok=True)
            each.path.chmod(each.mode & 0o777)
        create_signing_keys(made.layout)
        made.governance()
        _ = made.ring
        return made

    @property
    def settings_file(self) -> Path:
        return self.folder / f"{self.name}.yaml"

    @property
    def layout(self) -> Layout:
        return self.settings.layout

    @property
    def ring(self) -> KeyRing:
        return KeyRing(self.layout.keyring, open_custodian(self.settings, self.layout))

    @property
    def catalogue(self) -> Catalogue:
        return Catalogue(self.layout.datasets)

    def governance(self) -> Governance:
        return open_governance(self.settings)

    def audit(self) -> AuditLog:
        return open_audit(self.settings)

    def store(self) -> Store:
        return Store(self.settings.database_url, self.settings.database_password_file)

    def kinds(self) -> list[tuple[str, str]]:
        return [(one.event.kind, str(one.event.outcome)) for one in self.audit().read()]

    def fill(self) -> Deployment:
        """People, data, an active project with its lead, a member and an approved permit, and folders."""
        governance = self.governance()
        for name in PEOPLE:
            governance.add_person(OPERATOR, name, name.title(), f"{name}@example.org")
        governance.add_role(OPERATOR, "custodian", PlatformRole.CUSTODIAN)
        path = source(self.folder / "people.csv")
        ingest(path, parse_schema(SCHEMA, "schema"), dataset="people", folder=self.layout.datasets, ring=self.ring)
        governance.create_project(
            "custodian", "sleep", title="Sleep", purpose="To see.", lead="lead", starts=NOW - DAY, ends=NOW + 300 * DAY
        )
        governance.activate_project("custodian", "sleep")
        draft = PermitDraft(valid_from=NOW - DAY, valid_until=NOW + 200 * DAY, tables=(WANTED,))
        governance.draft_permit("lead", "sleep", draft)
        governance.approve_permit("custodian", "sleep", 1)
        self.ready("researcher")
        governance.request_membership("researcher", "sleep", "researcher")
        governance.approve_membership("lead", "sleep", "researcher", NOW + 100 * DAY)
        for key_id in (home_key(self.project_id, "researcher"), project_key(self.project_id)):
            self.image(key_id)
        self.ring.get_or_create(f"project/{self.project_id}/pseudonyms")
        return self

    def ready(self, person: str) -> None:
        """Let a person accept the terms here, and have a training that counts here."""
        governance = self.governance()
        governance.accept_terms(person, governance.terms_version)
        training = governance.declare_training(person, "Working with health data", NOW.date(), "certificate")
        governance.confirm_training(OPERATOR, person, training.id)

    @property
    def project_id(self) -> str:
        return self.governance().project("sleep").id

    def image(self, key_id: str) -> Path:
        """What looks like the image of a folder to whoever has not its key: a sparse file of noise."""
        self.ring.get_or_create(key_id)
        place = self.layout.folders / folder_name(key_id)
        place.mkdir(mode=0o700)
        path = place / "disk.img"
        with path.open("xb") as file:
            file.truncate(4 << 20)
            for at in (0, 1 << 20, (4 << 20) - 4096):
                file.seek(at)
                file.write(os.urandom(8192)[: (4 << 20) - at])
        return path

    def lines(self) -> list[bytes]:
        """The rows of its store."""
        with self.store().read() as session:
            return list(rows.dumped(session))[1:]

    def terms(self) -> PermitTerms:
        return self.governance().permit("sleep", 1).terms

    def view(self, target: Path) -> bytes:
        """The bytes of the project's view, as the data room's builder makes it."""
        target.mkdir()
        key = self.ring.get(f"project/{self.project_id}/pseudonyms")
        report = build_view(self.catalogue, self.terms(), key, self.ring.get, target)
        return report.files[0].read_bytes()


def clock() -> datetime:
    return datetime.now(UTC)


def signer_of(deployment: Deployment) -> str:
    """The fingerprint under which a deployment signs."""
    return fingerprint(load_public_key(deployment.layout.public / GRANT_PUBLIC))


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

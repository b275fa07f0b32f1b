"""What the demo holds: people, two data sets, two projects with different permits, decided by those who may."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.cli.context import open_audit, open_governance
from orchestrator.cli.demo.sources import local_file, source_file
from orchestrator.cli.permit_file import read_permit_file
from orchestrator.config import Settings
from orchestrator.data.catalogue import Catalogue
from orchestrator.data.ingest import ingest
from orchestrator.data.schema import load_schema
from orchestrator.errors import ConflictError, NotFoundError
from orchestrator.governance.identity import OPERATOR
from orchestrator.governance.service import Governance
from orchestrator.governance.states import PermitState, PlatformRole, ProjectState
from orchestrator.keys import KeyRing, open_custodian
from orchestrator.terms import Event, Outcome

HERE = Path(__file__).parent
CACHE = Path(__file__).parents[3] / "build" / "cache" / "demo"

Say = Callable[[str], None]

TRAINING = "Working with sensitive health data"

#: slug → title, purpose, members
PROJECTS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "doctor-visits": (
        "Doctor visits and working life",
        "How the number of visits to a doctor in three months goes with age, sex and work (German health registry, "
        "1984 to 1988).",
        ("researcher", "researcher2"),
    ),
    "colon-survival": (
        "Survival after adjuvant chemotherapy",
        "Time to death after surgery for colon cancer, by treatment and number of positive lymph nodes (a trial, "
        "929 patients).",
        ("researcher2",),
    ),
}


def create_content(
    settings: Settings,
    *,
    people_roles: Mapping[str, str | None],
    until: datetime,
    say: Say,
    sources: Path | None = None,
) -> None:
    """Make all of it that is not there yet; with ``sources`` from the files in that folder, and from nowhere else.

    Raises:
        InputError: the folder lacks one.
    """
    for dataset in ("rwm5yr", "colon"):
        _dataset(settings, dataset, say, sources)
    governance = open_governance(settings)
    _people(governance, people_roles, say)
    _accounts(governance, people_roles, say)
    for slug in PROJECTS:
        _project(governance, slug, until, say)


def _people(governance: Governance, roles: Mapping[str, str | None], say: Say) -> None:
    known = {card.id: card for card in governance.persons()}
    for name, role in roles.items():
        if name not in known:
            governance.add_person(OPERATOR, name, name, f"{name}@example.org")
            say(f"added {name}")
        if role is not None and (name not in known or role not in known[name].roles):
            governance.add_role(OPERATOR, name, PlatformRole(role))


def _accounts(governance: Governance, people: Iterable[str], say: Say) -> None:
    """Everybody accepts the terms and declares a training; a custodian confirms it, and the administrator theirs.

    All but the outsider, who is left for whoever wants to go the way of a new person.
    """
    for person in (each for each in people if each != "outsider"):
        account = governance.account(person)
        governance.accept_terms(person, account.terms_version)
        now = governance.now()
        if account.training_until is not None and account.training_until > now:
            continue
        training = governance.declare_training(person, TRAINING, now.date(), "demonstration: no certificate")
        governance.confirm_training("admin" if person == "custodian" else "custodian", person, training.id)
        say(f"{person} accepted the terms and has a training")


def _dataset(settings: Settings, name: str, say: Say, sources: Path | None) -> None:
    try:
        Catalogue(settings.layout.datasets).dataset(name)
        return
    except NotFoundError:
        say(f"ingesting {name}")
    audit = open_audit(settings)
    ring = KeyRing(settings.layout.keyring, open_custodian(settings, settings.layout))

    def write(kind: str, outcome: Outcome, **detail: object) -> None:
        audit.record(Event(kind=kind, actor=OPERATOR, outcome=outcome, detail={"dataset": name, **detail}))

    with source_file(name, CACHE) if sources is None else local_file(name, sources) as path:
        write("dataset.ingest", Outcome.STARTED, file=path.name)
        info = ingest(
            path,
            load_schema(HERE / f"{name}.yaml"),
            dataset=name,
            folder=settings.layout.datasets,
            ring=ring,
            before_keys=lambda ids: write("key.create", Outcome.STARTED, key_ids=list(ids)),
        )
    write("dataset.ingest", Outcome.DONE, version=info.version, rows=info.rows)
    say(f"ingested {name}: {info.rows:,} rows")


def _project(governance: Governance, slug: str, until: datetime, say: Say) -> None:
    title, purpose, members = PROJECTS[slug]
    try:
        project = governance.project(slug)
    except NotFoundError:
        now = datetime.now(UTC)
        governance.create_project("custodian", slug, title=title, purpose=purpose, lead="lead", starts=now, ends=until)
        project = governance.project(slug)
        say(f"created project {slug}")
    if project.state is ProjectState.DRAFT:
        governance.activate_project("custodian", slug)
    if not governance.permits(slug):
        governance.draft_permit("lead", slug, read_permit_file(HERE / f"{slug}.yaml"))
    for permit in governance.permits(slug):
        if permit.state is PermitState.DRAFT and permit.version == 1:
            governance.approve_permit("custodian", slug, 1)
            say(f"permit of {slug} approved")
    present = {member.person for member in governance.members(slug)}
    for person in members:
        if person not in present:
            governance.request_membership(person, slug, person)
            try:
                governance.approve_membership("lead", slug, person)
            except ConflictError:
                continue
            say(f"{person} is a member of {slug}")

"""A project that comes from another deployment: checked whole, then put in its places, suspended.

Where it fails, what was put is taken back; where it is killed, the next import begins with that.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyrage
from pydantic import TypeAdapter, ValidationError
from pyrage import x25519

from orchestrator.audit import AuditLog, load_public_key
from orchestrator.audit.opening import PUBLIC_KEY as AUDIT_PUBLIC
from orchestrator.config import Layout, Settings
from orchestrator.data.catalogue import Catalogue
from orchestrator.data.store import DatasetStore
from orchestrator.errors import (
    BulleError,
    ConflictError,
    InputError,
    NotFoundError,
    RefusedError,
    SettingsError,
    UnavailableError,
)
from orchestrator.governance.identity import OPERATOR
from orchestrator.governance.moving import Moved
from orchestrator.governance.service import Governance
from orchestrator.governance.store import SCHEMA
from orchestrator.keys import KeyRing
from orchestrator.keys.durable import publish_new, sync_folder
from orchestrator.moving import manifest as manifests
from orchestrator.moving.archive import unpack
from orchestrator.moving.backup import IMPORTED
from orchestrator.moving.envelope import unsealed
from orchestrator.moving.extract import HEAD, RECORDS, verified
from orchestrator.moving.leaving import KEYS, PROJECT, TABLES, Route, folder_keys, pseudonyms_key, travels
from orchestrator.moving.manifest import Manifest
from orchestrator.moving.places import Place, place_of
from orchestrator.moving.tables import Travelling, is_same, settle
from orchestrator.moving.transfer import transfer_identity
from orchestrator.node.folders import archive_of, folder_name
from orchestrator.terms import Event, Outcome, Value

_STAGING, _PLAN = ".arriving-", "plan.json"
_KEY_BYTES = 32


class Plan(Value):
    """What is about to be put, written before the first of it."""

    project_id: str
    keys: tuple[str, ...]
    datasets: tuple[str, ...]
    folders: tuple[str, ...]


class Report(Value):
    """What was taken in."""

    slug: str
    project_id: str
    deployment: str
    decided_by: str
    records: int
    people: tuple[str, ...]
    tables: tuple[str, ...]
    #: datasets that were here already, the same
    shared: tuple[str, ...]
    folders: int
    #: folders that were written to while they were copied: to be checked before use
    changed: tuple[str, ...]


@dataclass(frozen=True)
class _Arrival:
    """An archive that was unpacked and holds together."""

    place: Path
    about: Manifest
    route: Route
    moved: Moved
    tables: tuple[Travelling, ...]
    keys: dict[str, bytes]
    records: int

    @property
    def folders(self) -> tuple[str, ...]:
        return tuple(part.name.split("/")[1] for part in self.about.parts if part.name.startswith("folders/"))

    @property
    def own_keys(self) -> tuple[str, ...]:
        """Keys that stay as they are: of pseudonyms and folders, not those of the tables' journey."""
        journey = {key_id for table in self.tables for key_id in table.key_ids}
        return tuple(sorted(self.keys.keys() - journey))

    def plan(self, here: frozenset[str]) -> Plan:
        """What is put, where the datasets ``here`` need not be."""
        datasets = tuple(sorted({table.dataset for table in self.tables} - here))
        return Plan(
            project_id=self.moved.project_id, keys=self.own_keys, datasets=datasets, folders=tuple(sorted(self.folders))
        )


def take_in(
    settings: Settings,
    governance: Governance,
    ring: KeyRing,
    audit: AuditLog,
    file: Path | Place,
    *,
    signer: str,
    same_people: bool = False,
) -> Report:
    """Import the project in ``file``. It comes suspended: a custodian of this deployment resumes it.

    Args:
        settings: of this deployment.
        governance: its governance.
        ring: its keys.
        audit: its log.
        file: the archive.
        signer: fingerprint of the deployment that must have sent it.
        same_people: whether somebody made sure that people with equal ids are the same people.

    Raises:
        InputError, AuditError: it was changed or cut, or is not what it should be.
        RefusedError: somebody else sent it, it is for somebody else, or rules forbid it.
        ConflictError: its name, or something of it, is taken here.
        CustodyError, UnavailableError: it could not be put. In all cases nothing is left behind.
    """
    identity = transfer_identity(settings.layout, ring.custodian)
    with _alone(settings.layout):
        _sweep(settings.layout, governance, ring)
        with _staging(settings.layout) as place:
            arrival = _opened(file, identity, place, signer)
            _check_route(arrival, settings, str(identity.to_public()), same_people=same_people)
            governance.check_arrival(arrival.moved, same_people=same_people)
            _check_free(arrival, settings.layout, ring)
            here = _here(arrival, settings.layout, ring, audit)
            _put(arrival, here, settings.layout, governance, ring, audit, place_of(file), same_people=same_people)
    moved = arrival.moved
    return Report(
        slug=moved.slug,
        project_id=moved.project_id,
        deployment=arrival.about.deployment,
        decided_by=arrival.route.decided_by,
        records=arrival.records,
        people=tuple(sorted(str(row["id"]) for row in moved.persons)),
        tables=tuple(f"{table.dataset}/{table.table}" for table in arrival.tables),
        shared=tuple(sorted(here)),
        folders=len(arrival.folders),
        changed=tuple(part.name for part in arrival.about.parts if part.copied == "changed"),
    )


@contextmanager
def _alone(layout: Layout) -> Iterator[None]:
    descriptor = os.open(layout.folders, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError("another project is being imported") from error
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _staging(layout: Layout) -> Iterator[Path]:
    # Among the folders, whose images are then renamed into place: on a cluster each part of the state is a mount.
    place = layout.folders / f"{_STAGING}{manifests.new_id()}"
    try:
        place.mkdir(mode=0o700)
    except OSError as error:
        raise UnavailableError(f"{place} cannot be made: {error.strerror}") from error
    try:
        yield place
    finally:
        shutil.rmtree(place)


def _opened(file: Path | Place, identity: x25519.Identity, place: Path, signer: str) -> _Arrival:
    with unsealed(file, identity) as stream:
        parts, ending = unpack(stream, place, travels, manifests.MANIFEST)
    about = manifests.checked(ending, "project", place, parts, signer)
    if about.store != SCHEMA:
        raise InputError(
            f"the project comes from a store of schema {about.store}; this program knows {SCHEMA}",
            hint="bring both deployments to the same version of Bulle",
        )
    try:
        route = Route.model_validate(about.project)
        moved = Moved.model_validate_json((place / PROJECT).read_bytes())
        tables = TypeAdapter(tuple[Travelling, ...]).validate_json((place / TABLES).read_bytes())
        keys = _keys(place / KEYS, identity)
        if (route.slug, route.project_id) != (moved.slug, moved.project_id):
            raise InputError("the archive holds another project than its manifest says")
        names = frozenset({moved.slug, moved.project_id})
        records = verified(place, load_public_key(place / manifests.PUBLIC / AUDIT_PUBLIC), names)
    except (ValidationError, OSError, SettingsError) as error:
        raise InputError("a part of the archive is missing, or none that this program knows") from error
    arrival = _Arrival(place, about, route, moved, tables, keys, records)
    _check_whole(arrival)
    return arrival


def _keys(path: Path, identity: x25519.Identity) -> dict[str, bytes]:
    try:
        told = json.loads(pyrage.decrypt(path.read_bytes(), [identity]))
        keys = {str(key_id): base64.b64decode(key, validate=True) for key_id, key in told.items()}
    except (pyrage.DecryptError, ValueError, AttributeError, TypeError) as error:
        raise InputError("the keys in the archive do not open") from error
    if any(len(key) != _KEY_BYTES for key in keys.values()):
        raise InputError("a key in the archive is none")
    return keys


def _check_whole(arrival: _Arrival) -> None:
    """Exactly the parts and keys that such a project has."""
    moved = arrival.moved
    folders = {folder_name(key_id): key_id for key_id in folder_keys(moved)}
    strange = set(arrival.folders) - folders.keys()
    parts = {part.name for part in arrival.about.parts if part.name.startswith("tables/")}
    wanted = {
        pseudonyms_key(moved.project_id),
        *(folders[name] for name in arrival.folders if name in folders),
        *(key_id for table in arrival.tables for key_id in table.key_ids),
    }
    # Stops: keys and folders of something else that ride along, to lie under names that are used here later.
    if strange or parts != {table.part for table in arrival.tables} or arrival.keys.keys() != wanted:
        raise InputError("the archive holds a folder, table or key that is not the project's, or lacks one")


def _check_route(arrival: _Arrival, settings: Settings, own: str, *, same_people: bool) -> None:
    # Stops: an archive that was made for another deployment, which opened it and sends it on. Shown by
    # tests/unit/moving/test_projects.py.
    if arrival.route.recipient != own:
        raise RefusedError(f"the archive was made for {arrival.route.recipient}, and this deployment is {own}")
    # Stops: people of another login provider, who get the project because they are called like those who were in it.
    if arrival.route.issuer != settings.oidc.issuer and not same_people:
        raise RefusedError(
            f"the people of the project log in at {arrival.route.issuer}, and here at {settings.oidc.issuer}",
            hint="make sure that both give the same people the same subjects, and say so with --same-people",
        )


def _check_free(arrival: _Arrival, layout: Layout, ring: KeyRing) -> None:
    for key_id in arrival.own_keys:
        if ring.exists(key_id):
            raise ConflictError(f"there is a key '{key_id}' here already")
    for name in arrival.folders:
        if (layout.folders / name).exists() or archive_of(layout.folders, arrival.moved.project_id).exists():
            raise ConflictError(f"there is a folder {name} here already")


def _here(arrival: _Arrival, layout: Layout, ring: KeyRing, audit: AuditLog) -> frozenset[str]:
    """The datasets that are here already, brought by another project of the same permit.

    Raises:
        ConflictError: one of that name is here, and is another.
    """

    def release(key_id: str) -> bytes:
        detail = {"export": arrival.about.id, "key_ids": [key_id]}
        slug = arrival.moved.slug
        told = Event(kind="key.release", actor=OPERATOR, outcome=Outcome.STARTED, project=slug, detail=detail)
        audit.record(told)
        return ring.get(key_id)

    catalogue, here = Catalogue(layout.datasets), set()
    for table in arrival.tables:
        if table.dataset not in here and not (layout.datasets / table.dataset).exists():
            continue
        try:
            same = is_same(table, arrival.place / table.part, arrival.keys, catalogue, release)
        except NotFoundError:
            same = False
        # Stops: a permit from elsewhere, made to name data that is here and that its project did not bring. Shown by
        # tests/unit/moving/test_projects.py.
        if not same:
            raise ConflictError(
                f"there is a dataset '{table.dataset}' here, and the project brings another",
                hint="a permit names its datasets: what is here must have another name",
            )
        here.add(table.dataset)
    return frozenset(here)


def _put(  # noqa: PLR0917 - what it is made of
    arrival: _Arrival,
    here: frozenset[str],
    layout: Layout,
    governance: Governance,
    ring: KeyRing,
    audit: AuditLog,
    file: Place,
    *,
    same_people: bool,
) -> None:
    plan, slug = arrival.plan(here), arrival.moved.slug
    origin = {"export": arrival.about.id, "deployment": arrival.about.deployment, "file": file.name}

    def told(kind: str, outcome: Outcome, **more: object) -> None:
        audit.record(Event(kind=kind, actor=OPERATOR, outcome=outcome, project=slug, detail={**origin, **more}))

    told("import.write", Outcome.STARTED, key_ids=list(plan.keys), datasets=list(plan.datasets), here=sorted(here))
    try:
        publish_new(arrival.place / _PLAN, plan.model_dump_json().encode())
        for key_id in plan.keys:
            ring.put(key_id, arrival.keys[key_id])
        for table in (each for each in arrival.tables if each.dataset not in here):
            path = arrival.place / table.part
            before = _before_keys(told)
            settle(table, path, arrival.keys, layout.datasets, ring, before)
        for name in plan.folders:
            (arrival.place / "folders" / name).rename(layout.folders / name)
        sync_folder(layout.folders)
        _keep_extract(arrival, layout)
        governance.take_in(
            OPERATOR,
            arrival.moved,
            same_people=same_people,
            arrived=[(table.dataset, table.table) for table in arrival.tables],
            told=origin,
        )
    except BaseException as error:
        if not _is_here(plan, governance):  # or it was kept, and only the log's last word failed
            _undo(plan, layout, ring)
        why = error.message[:1000] if isinstance(error, BulleError) else type(error).__name__
        told("import.write", Outcome.FAILED, message=why)
        if isinstance(error, OSError):
            raise UnavailableError(f"the project cannot be put in its place: {error.strerror}") from error
        raise
    told("import.write", Outcome.DONE)


def _before_keys(told: Callable[..., None]) -> Callable[[tuple[str, ...]], None]:
    return lambda key_ids: told("key.create", Outcome.STARTED, key_ids=list(key_ids))


def _extract_of(layout: Layout, project_id: str) -> Path:
    return layout.audit / IMPORTED / project_id


def _keep_extract(arrival: _Arrival, layout: Layout) -> None:
    """Keep the other deployment's records of the project, as they came, beside the log of this one."""
    folder = _extract_of(layout, arrival.moved.project_id)
    folder.mkdir(mode=0o700, parents=True)
    for path in (arrival.place / RECORDS, arrival.place / HEAD, arrival.place / manifests.PUBLIC / AUDIT_PUBLIC):
        with path.open("rb") as source:  # a copy: the log may be on another disk
            kept = os.open(
                folder / path.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
            with os.fdopen(kept, "wb") as target:
                shutil.copyfileobj(source, target)
                target.flush()
                os.fsync(target.fileno())
    if os.geteuid() == 0:
        owner = layout.audit.stat()
        for each in (folder.parent, folder, *folder.iterdir()):
            os.chown(each, owner.st_uid, owner.st_gid, follow_symlinks=False)
    sync_folder(folder)


def _is_here(plan: Plan, governance: Governance) -> bool:
    return plan.project_id in {project.id for project in governance.projects()}


def _undo(plan: Plan, layout: Layout, ring: KeyRing) -> None:
    """Take back what was put, as far as it was."""
    for key_id in plan.keys:
        ring.destroy(key_id)
    for dataset in plan.datasets:
        try:
            DatasetStore(layout.datasets, ring).delete(dataset)
        except NotFoundError:
            continue
    for name in plan.folders:
        shutil.rmtree(layout.folders / name, ignore_errors=True)
    shutil.rmtree(_extract_of(layout, plan.project_id), ignore_errors=True)


def _sweep(layout: Layout, governance: Governance, ring: KeyRing) -> None:
    """Take back what an import that was killed had put. Nobody else imports now."""
    for place in layout.folders.glob(f"{_STAGING}*"):
        path = place / _PLAN
        if path.exists():
            plan = Plan.model_validate_json(path.read_bytes())
            if not _is_here(plan, governance):
                _undo(plan, layout, ring)
        shutil.rmtree(place)

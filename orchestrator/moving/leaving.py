"""One project in an archive for another deployment: what governance knows of it, its data, its folders, their keys."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pyrage

from orchestrator.audit import AuditLog, Filters
from orchestrator.audit.opening import PUBLIC_KEY as AUDIT_PUBLIC
from orchestrator.config import Layout, Settings
from orchestrator.data.catalogue import Catalogue
from orchestrator.errors import BulleError, ConflictError, RefusedError, UnavailableError
from orchestrator.governance.identity import OPERATOR
from orchestrator.governance.keys import GRANT_KEY, GRANT_PUBLIC, load_private_key
from orchestrator.governance.moving import Moved
from orchestrator.governance.rules import Action
from orchestrator.governance.service import Governance
from orchestrator.governance.store import SCHEMA
from orchestrator.keys import KeyRing
from orchestrator.moving import manifest as manifests
from orchestrator.moving.archive import Part, Writer
from orchestrator.moving.envelope import recipient_of, sealed
from orchestrator.moving.extract import HEAD, RECORDS, concerning
from orchestrator.moving.images import still
from orchestrator.moving.manifest import Manifest
from orchestrator.moving.places import Place, place_of
from orchestrator.moving.tables import Travelling, seal_for_journey
from orchestrator.node.folders import folder_name, home_key, project_key
from orchestrator.terms import Event, Outcome, PermitTerms, Value

PROJECT, TABLES, KEYS = "project.json", "tables.json", "keys.json.age"

_TABLE = "[a-z0-9](?:[a-z0-9_-]{0,38}[a-z0-9])?"
_NAMES = re.compile(
    "|".join(
        [
            *(re.escape(name) for name in (PROJECT, TABLES, KEYS, RECORDS, HEAD)),
            rf"{manifests.PUBLIC}/(?:{re.escape(GRANT_PUBLIC)}|{re.escape(AUDIT_PUBLIC)})",
            rf"tables/{_TABLE}/{_TABLE}\.parquet",
            r"folders/[0-9a-f]{64}/disk\.img",
        ]
    )
)


def travels(name: str) -> bool:
    """Whether a part of this name stands in the archive of a project."""
    return _NAMES.fullmatch(name) is not None


class Route(Value):
    """From where to where: signed with the rest, so that an archive is good for one project and one destination."""

    slug: str
    project_id: str
    #: for whose transfer key it was made
    recipient: str
    #: whose subjects the people's are
    issuer: str
    #: who decided it
    decided_by: str


class Report(Value):
    """What was written."""

    id: str
    file: str
    sha256: str
    tables: tuple[str, ...]
    folders: int
    #: folders that were in use: their names, and how they were copied
    in_use: dict[str, str]


#: how long a decision waits for its file
DECIDED_FOR = timedelta(days=30)
#: kind under which the writing of a file is audited
WRITTEN = "export.write"


def pseudonyms_key(project_id: str) -> str:
    """Key id of a project's pseudonyms (docs/architecture.md, Keys)."""
    return f"project/{project_id}/pseudonyms"


def folder_keys(moved: Moved) -> list[str]:
    """Key ids of the folders that a project may have."""
    homes = sorted({home_key(moved.project_id, row["person_id"]) for row in moved.memberships})
    return [project_key(moved.project_id), *homes]


def export(
    settings: Settings,
    governance: Governance,
    ring: KeyRing,
    audit: AuditLog,
    *,
    by: str,
    slug: str,
    recipient: str,
    out: Path | Place,
    clock: Callable[[], datetime],
) -> Report:
    """Write a project for the holder of ``recipient``.

    A person as ``by`` decides it with this; for the operator the log must have a decision that is still to be done.

    Raises:
        RefusedError: the rules forbid it, or nobody decided it; nothing was read.
        SecondPersonError: the decision waits for a second person.
        ConflictError: the file exists.
        CustodyError, UnavailableError, AuditError: nothing was left.
    """
    recipient = str(recipient_of(recipient))
    target = place_of(out)
    if isinstance(out, Path) and out.exists():
        raise ConflictError(f"{out} exists already")
    if by == OPERATOR:
        by = decided_by(audit, slug, recipient, clock())
    else:
        governance.decide_export(by, slug, recipient)
    moved, permit = governance.leaving(slug)
    route = Route(
        slug=slug, project_id=moved.project_id, recipient=recipient, issuer=settings.oidc.issuer, decided_by=by
    )
    about = Manifest(
        kind="project", id=manifests.new_id(), deployment=settings.deployment, made=manifests.made(clock()),
        store=SCHEMA, project=route.model_dump(),
    )  # fmt: skip
    detail = {"export": about.id, "file": target.name, "recipient": recipient, "decided_by": by}

    def told(kind: str, outcome: Outcome, **more: object) -> None:
        audit.record(
            Event(kind=kind, actor=OPERATOR, outcome=outcome, project=slug, detail={"export": about.id, **more})
        )

    def release(key_id: str) -> bytes:
        told("key.release", Outcome.STARTED, key_ids=[key_id])
        return ring.get(key_id)

    told(WRITTEN, Outcome.STARTED, **detail)
    journey = _Journey(settings.layout, moved, None if permit is None else permit.terms, release, ring)
    try:
        parts = journey.write(target, about, audit)
    except BulleError as error:
        told(WRITTEN, Outcome.FAILED, **detail, message=error.message[:1000])
        raise
    digest = target.sha256()
    told(WRITTEN, Outcome.DONE, **detail, sha256=digest)
    images = [part for part in parts if part.name.startswith("folders/")]
    return Report(
        id=about.id,
        file=str(target),
        sha256=digest,
        tables=tuple(part.name for part in parts if part.name.startswith("tables/")),
        folders=len(images),
        in_use={part.name: part.copied for part in images if part.copied != "whole"},
    )


def decided_by(audit: AuditLog, slug: str, recipient: str, now: datetime) -> str:
    """Who decided that a project goes to ``recipient``, if that is still to be done.

    Raises:
        RefusedError: nobody did, it is too long ago, or the file for it was written already.
    """
    who: str | None = None
    for record in audit.read(Filters(project=slug, since=now - DECIDED_FOR)):
        event = record.event
        if event.detail.get("recipient") != recipient:
            continue
        if (event.kind, event.outcome) == (str(Action.PROJECT_EXPORT), Outcome.DONE):
            who = event.actor
        # Stops: one decision under which root writes a project again and again, with what came into it since. Shown
        # by tests/unit/moving/test_projects.py.
        elif (event.kind, event.outcome) == (WRITTEN, Outcome.DONE):
            who = None
    if who is None:
        raise RefusedError(
            f"refused by rule {Action.PROJECT_EXPORT}/who-may: no custodian decided that '{slug}' goes to {recipient}",
            hint="a custodian decides it on the project's page, or with --as here",
        )
    return who


class _Journey:
    """Writes the archive of one project."""

    def __init__(
        self,
        layout: Layout,
        moved: Moved,
        terms: PermitTerms | None,
        release: Callable[[str], bytes],
        ring: KeyRing,
    ) -> None:
        self._layout = layout
        self._moved = moved
        self._terms = terms
        self._release = release
        self._ring = ring

    def write(self, out: Place, about: Manifest, audit: AuditLog) -> tuple[Part, ...]:
        assert about.project is not None  # noqa: S101 - made so above
        recipient = about.project["recipient"]
        try:
            # Not beside the folders: on a cluster only they are on a volume.
            place = Path(tempfile.mkdtemp(prefix=".leaving-", dir=self._layout.folders))
        except OSError as error:
            raise UnavailableError(f"{self._layout.folders} cannot be written: {error.strerror}") from error
        try:
            tables, keys = self._seal_tables(place)
            with sealed(out, [recipient]) as stream:
                writer = Writer(stream, about.made.timestamp())
                writer.add(PROJECT, self._moved.model_dump_json(indent=1).encode())
                writer.add(TABLES, json.dumps([table.model_dump(mode="json") for table in tables]).encode())
                self._add_extract(writer, audit)
                for name in (GRANT_PUBLIC, AUDIT_PUBLIC):
                    writer.add(f"{manifests.PUBLIC}/{name}", (self._layout.public / name).read_bytes())
                for table in tables:
                    with (place / table.part).open("rb") as file:
                        writer.add_stream(table.part, file, (place / table.part).stat().st_size)
                keys |= self._add_folders(writer)
                # Sealed by itself within the envelope: who unpacks the archive to look at it has no key in clear on a
                # disk.
                told = json.dumps({key_id: base64.b64encode(key).decode() for key_id, key in keys.items()})
                writer.add(KEYS, pyrage.encrypt(told.encode(), [recipient_of(recipient)]))
                parts = tuple(writer.parts)
                key = load_private_key(self._layout.authority / GRANT_KEY)
                writer.close(manifests.MANIFEST, manifests.signed(about.model_copy(update={"parts": parts}), key))
            return parts
        finally:
            shutil.rmtree(place)

    def _seal_tables(self, place: Path) -> tuple[list[Travelling], dict[str, bytes]]:
        tables: list[Travelling] = []
        pseudonyms = pseudonyms_key(self._moved.project_id)
        if not self._ring.exists(pseudonyms):  # nobody ever opened it: from now on its pseudonyms are the same
            self._ring.create(pseudonyms)
        keys = {pseudonyms: self._release(pseudonyms)}
        catalogue = Catalogue(self._layout.datasets)
        for permit in () if self._terms is None else self._terms.tables:
            table, fresh = seal_for_journey(catalogue, permit, self._release, place)
            tables.append(table)
            keys |= fresh
        return tables, keys

    def _add_extract(self, writer: Writer, audit: AuditLog) -> None:
        names = frozenset({self._moved.slug, self._moved.project_id})
        lines, head = concerning(audit, names)
        with tempfile.TemporaryFile(dir=self._layout.authority) as file:
            for line in lines:
                file.write(line)
            size = file.tell()
            file.seek(0)
            writer.add_stream(RECORDS, file, size)
        writer.add_stream(HEAD, io.BytesIO(head.line()), len(head.line()))

    def _add_folders(self, writer: Writer) -> dict[str, bytes]:
        keys: dict[str, bytes] = {}
        for key_id in folder_keys(self._moved):
            name = folder_name(key_id)
            image = self._layout.folders / name / "disk.img"
            if not image.exists():
                continue
            keys[key_id] = self._release(key_id)
            with still(image, self._layout.mounts / "cipher" / name) as opened:
                writer.add_image(f"folders/{name}/disk.img", opened.descriptor, opened.copied)
        return keys

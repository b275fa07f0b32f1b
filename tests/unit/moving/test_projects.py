"""A project that goes from one deployment to another and back: the same there, and nothing else with it."""

from __future__ import annotations

import base64
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pyrage
import pytest
import yaml

from orchestrator.audit import AuditLog
from orchestrator.config import load_settings
from orchestrator.data.ingest import ingest
from orchestrator.data.schema import parse_schema
from orchestrator.data.sealed import SealedFile
from orchestrator.errors import (
    AuditError,
    BulleError,
    ConflictError,
    CustodyError,
    InputError,
    RefusedError,
    SecondPersonError,
)
from orchestrator.governance.identity import OPERATOR
from orchestrator.governance.keys import GRANT_KEY, load_private_key
from orchestrator.governance.permits import PermitDraft
from orchestrator.governance.states import PlatformRole
from orchestrator.moving import arriving, extract, leaving
from orchestrator.moving import manifest as manifests
from orchestrator.moving.archive import Writer
from orchestrator.moving.envelope import sealed
from orchestrator.moving.extract import verified
from orchestrator.moving.manifest import Manifest
from orchestrator.moving.transfer import transfer_identity
from orchestrator.node.folders import home_key, project_key
from orchestrator.terms import Event
from tests.unit.moving.stage import DAY, NOW, SCHEMA, WANTED, Deployment, clock, signer_of, tree


@pytest.fixture
def destination(folder: Path) -> Deployment:
    made = Deployment.make(folder, "destination")
    key_of(made)
    return made


def key_of(deployment: Deployment) -> str:
    identity = transfer_identity(deployment.layout, deployment.ring.custodian, make=True)
    return str(identity.to_public())


def sent(source: Deployment, to: Deployment, name: str = "project", by: str = "custodian", slug: str = "sleep") -> Path:
    out = source.folder / f"{name}.age"
    leaving.export(
        source.settings, source.governance(), source.ring, source.audit(),
        by=by, slug=slug, recipient=key_of(to), out=out, clock=clock,
    )  # fmt: skip
    return out


def taken_in(destination: Deployment, file: Path, source: Deployment, **options: Any) -> arriving.Report:
    return arriving.take_in(
        destination.settings, destination.governance(), destination.ring, destination.audit(), file,
        signer=signer_of(source), **options,
    )  # fmt: skip


def resumed(deployment: Deployment) -> None:
    """A custodian of the destination, who is not in the project, lets it run."""
    governance = deployment.governance()
    governance.add_person(OPERATOR, "keeper", "Keeper", "keeper@example.org")
    governance.add_role(OPERATOR, "keeper", PlatformRole.CUSTODIAN)
    governance.activate_project("keeper", "sleep")


# -- there and back -----------------------------------------------------------------------------------------
def test_a_round_trip(source: Deployment, destination: Deployment, folder: Path) -> None:
    report = taken_in(destination, sent(source, destination), source)
    assert (report.slug, report.tables, report.folders) == ("sleep", ("people/people",), 2)
    assert report.people == ("lead", "researcher")
    resumed(destination)
    back = Deployment.make(folder, "back")
    out = sent(destination, back, "second", by="keeper")
    taken_in(back, out, destination)
    views = [each.view(folder / f"view-of-{each.name}") for each in (source, destination, back)]
    assert views[0] == views[1] == views[2]
    assert b"Lyon-Planted" in views[0] and b"-men" not in views[0]
    first = source.governance().project_page(OPERATOR, "sleep")
    for each in (destination, back):
        page = each.governance().project_page(OPERATOR, "sleep")
        assert each.terms() == source.terms()
        assert page.permits == first.permits
        assert page.project.model_copy(update={"state": "active"}) == first.project
        members = {(one.person, one.role, one.state, one.ends) for one in page.members}
        assert members == {(one.person, one.role, one.state, one.ends) for one in first.members}
        # homes and the project folder: the same images, under keys that open them
        mine, theirs = tree(each.layout.folders), tree(source.layout.folders)
        assert mine == theirs
        for key_id in (home_key(source.project_id, "researcher"), project_key(source.project_id)):
            assert each.ring.get(key_id) == source.ring.get(key_id)
        each.audit().verify().raise_if_bad()


def test_it_comes_suspended_and_nothing_runs_before_a_custodian_of_the_destination_says_so(
    source: Deployment, destination: Deployment
) -> None:
    taken_in(destination, sent(source, destination), source)
    governance = destination.governance()
    assert governance.project("sleep").state == "suspended"
    with pytest.raises(RefusedError, match="terms-not-accepted"):  # the destination's own rules
        governance.may_open("researcher", "sleep")
    destination.ready("researcher")
    with pytest.raises(RefusedError, match="project-suspended"):
        governance.may_open("researcher", "sleep")
    for nobody in (OPERATOR, "lead"):
        with pytest.raises(RefusedError, match="project"):
            governance.activate_project(nobody, "sleep")
    resumed(destination)
    assert governance.may_open("researcher", "sleep").permit == source.terms()


def test_nobody_brings_an_office(source: Deployment, destination: Deployment) -> None:
    source.governance().add_role(OPERATOR, "researcher", PlatformRole.REVIEWER)
    taken_in(destination, sent(source, destination), source)
    assert destination.governance().person("researcher").roles == ()


# -- what travels -------------------------------------------------------------------------------------------
def inside(file: Path, destination: Deployment) -> dict[str, bytes]:
    identity = transfer_identity(destination.layout, destination.ring.custodian)
    with tarfile.open(fileobj=io.BytesIO(pyrage.decrypt(file.read_bytes(), [identity]))) as tar:
        return {each.name: tar.extractfile(each).read() for each in tar}  # type: ignore[union-attr]


def test_no_row_or_column_outside_the_permit_travels(source: Deployment, destination: Deployment) -> None:
    taken_in(destination, sent(source, destination), source)
    info = destination.catalogue.table("people", "people")
    assert [column.name for column in info.columns] == ["pid", "born", "sex", "weight", "town"]  # no note
    assert info.rows == sum(n % 3 == 0 for n in range(400))  # the women
    keys = {key_id: destination.ring.get(key_id) for key_id in (info.footer_key, *(
        info.column_key(column.name) for column in info.columns))}  # fmt: skip
    rows = SealedFile(destination.catalogue.path(info), keys, []).read(0, ["born", "sex", "town"])
    assert set(rows["sex"].to_pylist()) == {2}
    assert {(day.month, day.day) for day in rows["born"].to_pylist()} == {(1, 1)}, "coarsened before it left"


def test_neither_the_secret_of_the_identifiers_nor_any_key_of_the_source_travels(
    source: Deployment, destination: Deployment
) -> None:
    file = sent(source, destination)
    identity = transfer_identity(destination.layout, destination.ring.custodian)
    sealed_keys = inside(file, destination)["keys.json.age"]
    keys = json.loads(pyrage.decrypt(sealed_keys, [identity]))
    mine = source.project_id
    expected = {f"project/{mine}/pseudonyms", f"project/{mine}/folder", f"home/{mine}/researcher"}
    assert {key_id for key_id in keys if not key_id.startswith("dataset/")} == expected
    for key_id, key in keys.items():
        if key_id.startswith("dataset/"):
            assert not key_id.endswith("/identifiers")
            assert base64.b64decode(key) != source.ring.get(key_id)
    # and what travelled is not what the destination keeps its tables under
    taken_in(destination, file, source)
    for key_id in (each for each in keys if each.startswith("dataset/")):
        assert base64.b64decode(keys[key_id]) != destination.ring.get(key_id)


def test_no_key_is_in_clear_even_in_the_opened_archive(source: Deployment, destination: Deployment) -> None:
    parts = inside(sent(source, destination), destination)
    for key_id in (home_key(source.project_id, "researcher"), f"project/{source.project_id}/pseudonyms"):
        key = source.ring.get(key_id)
        for content in parts.values():
            assert key not in content and base64.b64encode(key) not in content


def test_the_audit_extract_is_proved_by_the_sources_public_key(source: Deployment, destination: Deployment) -> None:
    report = taken_in(destination, sent(source, destination), source)
    kept = destination.layout.audit / "imported" / source.project_id
    key, names = source.audit().public_key, frozenset({"sleep", source.project_id})
    assert verified(kept, key, names) == report.records > 10
    lines = (kept / extract.RECORDS).read_bytes()
    assert b"project.export" in lines and b"permit.approve" in lines and b"person.add" not in lines
    for wrong in (
        lines.replace(b"researcher", b"somebodyel", 1),
        b"".join(reversed(lines.splitlines(keepends=True))),
        lines[:-1],
    ):
        (kept / extract.RECORDS).write_bytes(wrong)
        with pytest.raises(AuditError):
            verified(kept, key, names)
    (kept / extract.RECORDS).write_bytes(lines)
    with pytest.raises(AuditError):
        verified(kept, destination.audit().public_key, names)


# -- who decides --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("by", [OPERATOR, "lead", "researcher"])
def test_only_a_custodian_lets_a_project_leave(source: Deployment, destination: Deployment, by: str) -> None:
    with pytest.raises(RefusedError, match=r"project\.export"):
        sent(source, destination, by=by)
    assert not (source.folder / "project.age").exists()
    assert by == OPERATOR or source.kinds()[-1] == ("project.export", "refused")
    assert not [kind for kind, _ in source.kinds() if kind in ("key.release", "export.write")]


def test_the_log_has_the_decision_before_the_first_key(source: Deployment, destination: Deployment) -> None:
    sent(source, destination)
    kinds = [kind for kind, outcome in source.kinds() if outcome == "done" or kind == "key.release"]
    assert kinds.index("project.export") < kinds.index("key.release") < kinds.index("export.write")


def test_where_the_log_cannot_be_written_nothing_leaves(
    source: Deployment, destination: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = AuditLog.record

    def full(log: AuditLog, event: Event) -> int:
        if event.kind == "key.release":
            raise AuditError("the disk is full")
        return whole(log, event)

    monkeypatch.setattr(AuditLog, "record", full)
    with pytest.raises(AuditError):
        sent(source, destination)
    assert not (source.folder / "project.age").exists()
    assert not list(source.layout.folders.glob(".leaving-*"))


def test_a_draft_or_closed_project_does_not_leave(source: Deployment, destination: Deployment) -> None:
    source.governance().close_project("custodian", "sleep")
    with pytest.raises(RefusedError, match="in effect"):
        sent(source, destination)


# -- what is refused ----------------------------------------------------------------------------------------
def unchanged(destination: Deployment) -> Callable[[], bool]:
    """Whether the destination is as it was, but for its log."""

    def picture() -> dict[str, bytes]:
        kept = tree(destination.layout.state)
        return {name: data for name, data in kept.items() if not name.startswith(("audit/l", "audit/h", "authority/g"))
                and not name.endswith(".lock")}  # fmt: skip

    before, rows = picture(), destination.lines()
    return lambda: picture() == before and destination.lines() == rows


def refused(destination: Deployment, file: Path, source: Deployment, **options: Any) -> BulleError:
    same = unchanged(destination)
    with pytest.raises(BulleError) as error:
        taken_in(destination, file, source, **options)
    assert same(), "a refused import left something"
    return error.value


def test_the_wrong_recipient(source: Deployment, destination: Deployment, folder: Path) -> None:
    other = Deployment.make(folder, "other")
    key_of(other)
    error = refused(other, sent(source, destination), source)
    assert isinstance(error, InputError) and "somebody else" in error.message


def test_an_archive_that_its_recipient_sends_on(source: Deployment, destination: Deployment, folder: Path) -> None:
    other = Deployment.make(folder, "other")
    file = sent(source, destination)
    identity = transfer_identity(destination.layout, destination.ring.custodian)
    content = pyrage.decrypt(file.read_bytes(), [identity])
    (folder / "on.age").write_bytes(pyrage.encrypt(content, [pyrage.x25519.Recipient.from_str(key_of(other))]))
    error = refused(other, folder / "on.age", source)
    assert "do not open" in error.message or "made for" in error.message


def test_one_signed_by_somebody_else(source: Deployment, destination: Deployment, folder: Path) -> None:
    error = refused(destination, sent(source, destination), Deployment.make(folder, "other"))
    assert isinstance(error, RefusedError) and "signed by" in error.message


def test_a_replayed_import(source: Deployment, destination: Deployment) -> None:
    file = sent(source, destination)
    taken_in(destination, file, source)
    assert isinstance(refused(destination, file, source), ConflictError)
    # nor after it was closed there
    resumed(destination)
    destination.governance().close_project("keeper", "sleep")
    assert isinstance(refused(destination, file, source), ConflictError)


def test_a_taken_name_and_a_taken_dataset(source: Deployment, destination: Deployment, folder: Path) -> None:
    busy = Deployment.make(folder, "busy").fill()
    error = refused(busy, sent(source, busy), source)
    assert isinstance(error, ConflictError) and "names are never used again" in error.message
    (destination.layout.datasets / "people").mkdir()
    error = refused(destination, sent(source, destination, "second"), source)
    assert isinstance(error, ConflictError) and "dataset 'people'" in error.message


def begun(source: Deployment, slug: str, **more: Any) -> None:
    """A second project, with a permit for the same columns and rows, but for what ``more`` says of it."""
    governance = source.governance()
    governance.create_project(
        "custodian", slug, title=slug, purpose="To see.", lead="lead", starts=NOW - DAY, ends=NOW + 300 * DAY
    )
    governance.activate_project("custodian", slug)
    table = WANTED.model_copy(update=more)
    draft = PermitDraft(valid_from=NOW - DAY, valid_until=NOW + 200 * DAY, tables=(table,))
    governance.draft_permit("lead", slug, draft)
    governance.approve_permit("custodian", slug, 1)


def test_a_second_project_with_the_same_data_finds_it_there(
    source: Deployment, destination: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(source, "dream")
    taken_in(destination, sent(source, destination), source)
    file = sent(source, destination, "second", slug="dream")
    before = tree(destination.layout.datasets)

    # one that fails does not take away what the first has
    def fails(*arguments: Any, **named: Any) -> None:
        raise CustodyError("no")

    monkeypatch.setattr(arriving, "_keep_extract", fails)
    with pytest.raises(CustodyError):
        taken_in(destination, file, source)
    monkeypatch.undo()
    assert tree(destination.layout.datasets) == before
    report = taken_in(destination, file, source)
    assert (report.shared, report.tables) == (("people",), ("people/people",))
    assert tree(destination.layout.datasets) == before
    released = [one for one in destination.audit().read() if one.event.kind == "key.release"]
    assert {one.event.project for one in released} == {"dream"}


@pytest.mark.parametrize("other", ["columns", "rows", "content"])
def test_a_second_project_with_other_data_of_that_name_is_refused(
    source: Deployment, destination: Deployment, folder: Path, other: str
) -> None:
    taken_in(destination, sent(source, destination), source)
    if other == "content":
        path = folder / "later.csv"
        path.write_text((folder / "people.csv").read_text().replace("Lyon-Planted", "Rennes-Planted", 1))
        ingest(path, parse_schema(SCHEMA, "s"), dataset="people", folder=source.layout.datasets, ring=source.ring,
               table="people")  # fmt: skip
    more = {
        "columns": {"columns": WANTED.columns[:-1]},
        "rows": {"rows": (WANTED.rows[0].model_copy(update={"value": 1}),)},
    }
    begun(source, "dream", **more.get(other, {}))
    before = tree(destination.layout.datasets)
    with pytest.raises(ConflictError, match="the project brings another"):
        taken_in(destination, sent(source, destination, "second", slug="dream"), source)
    assert tree(destination.layout.datasets) == before


Parts = dict[str, bytes]


def forged(
    source: Deployment, destination: Deployment, change: Callable[[Parts], None], *, sign: bool, **about: Any
) -> Path:
    """The source's archive with something changed; signed anew by the source itself, or not."""
    file = sent(source, destination)
    parts = inside(file, destination)
    told = parts.pop("manifest.jws")
    change(parts)
    out = source.folder / "forged.age"
    manifest = Manifest.model_validate(
        jwt.decode(told, options={"verify_signature": False})
    ).model_copy(update=about)  # fmt: skip
    with sealed(out, [key_of(destination)]) as stream:
        writer = Writer(stream, 0)
        for name, data in parts.items():
            if name.startswith("folders/"):
                path = source.folder / "image"
                path.write_bytes(data)
                descriptor = os.open(path, os.O_RDONLY)
                writer.add_image(name, descriptor, lambda: "whole")
                os.close(descriptor)
            else:
                writer.add(name, data)
        if sign:
            manifest = manifest.model_copy(update={"parts": tuple(writer.parts)})
            told = manifests.signed(manifest, load_private_key(source.layout.authority / GRANT_KEY))
        writer.close("manifest.jws", told)
    return out


def _drop(prefix: str) -> Callable[[Parts], None]:
    def change(parts: Parts) -> None:
        del parts[next(name for name in parts if name.startswith(prefix))]

    return change


def _project(change: Callable[[dict[str, Any]], None]) -> Callable[[Parts], None]:
    def changed(parts: Parts) -> None:
        moved = json.loads(parts["project.json"])
        change(moved)
        parts["project.json"] = json.dumps(moved).encode()

    return changed


@pytest.mark.parametrize("prefix", ["project.json", "tables/", "folders/", "keys.json.age", "audit.jsonl", "public/a"])
@pytest.mark.parametrize("sign", [False, True], ids=["unsigned", "signed"])
def test_a_missing_part(source: Deployment, destination: Deployment, prefix: str, sign: bool) -> None:
    error = refused(destination, forged(source, destination, _drop(prefix), sign=sign), source)
    assert isinstance(error, InputError)


def _nothing(parts: Parts) -> None:
    pass


def test_a_changed_manifest(source: Deployment, destination: Deployment) -> None:
    whole = forged(source, destination, _nothing, sign=False)

    def changed(parts: Parts) -> None:
        parts["project.json"] = parts["project.json"].replace(b"To see.", b"To spy.")

    (source.folder / "project.age").unlink()
    whole.unlink()
    error = refused(destination, forged(source, destination, changed, sign=False), source)
    assert "changed" in error.message


def _of_another(moved: dict[str, Any]) -> None:
    moved["permits"][0]["project_id"] = "0" * 32


def _other_data(moved: dict[str, Any]) -> None:
    moved["permits"][0]["terms"]["tables"][0]["dataset"] = "cancer"


def _somebody_else(moved: dict[str, Any]) -> None:
    moved["persons"][0]["subject"] = "somebody"


def _one_too_many(moved: dict[str, Any]) -> None:
    moved["memberships"].append({**moved["memberships"][0], "person_id": "intruder"})


def _no_state(moved: dict[str, Any]) -> None:
    moved["memberships"][0]["state"] = "almighty"


def _another_column(moved: dict[str, Any]) -> None:
    moved["project"]["extra"] = 1


def _another_project(moved: dict[str, Any]) -> None:
    moved["project"]["slug"] = "other"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_of_another, "another project"),
        (_other_data, "did not come with it"),
        (_somebody_else, "is not the id of a person"),
        (_one_too_many, "of whom nothing is said"),
        (_no_state, "does not know"),
        (_another_column, "columns"),
        (_another_project, "another project"),
    ],
)
def test_a_source_that_lies(
    source: Deployment, destination: Deployment, change: Callable[[dict[str, Any]], None], why: str
) -> None:
    error = refused(destination, forged(source, destination, _project(change), sign=True), source)
    assert why in error.message


def test_what_the_source_signs_and_does_not_change_is_taken(source: Deployment, destination: Deployment) -> None:
    # the negative control of the tests above: the same way, and nothing wrong
    taken_in(destination, forged(source, destination, _project(lambda moved: None), sign=True), source)


def test_people_of_another_login_provider(source: Deployment, folder: Path) -> None:
    issuer = {"issuer": "https://elsewhere.example.org", "client_id": "b", "client_secret_file": str(folder / "x")}
    elsewhere = Deployment.make(folder, "elsewhere", oidc=issuer)
    file = sent(source, elsewhere)
    error = refused(elsewhere, file, source)
    assert isinstance(error, RefusedError) and "log in at" in error.message
    taken_in(elsewhere, file, source, same_people=True)


def test_somebody_who_is_known_by_another_address(source: Deployment, destination: Deployment) -> None:
    governance = destination.governance()
    governance.add_person(OPERATOR, "researcher", "Another", "another@example.org")
    file = sent(source, destination)
    error = refused(destination, file, source)
    assert isinstance(error, RefusedError) and "researcher" in error.message
    taken_in(destination, file, source, same_people=True)
    assert destination.governance().person("researcher").display_name == "Another"


@pytest.mark.parametrize("at", ["settle", "_keep_extract", "rename"])
def test_an_import_that_fails_half_way_leaves_nothing(
    source: Deployment, destination: Deployment, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    file = sent(source, destination)

    def fails(*arguments: object, **named: object) -> None:
        raise CustodyError("the token was pulled")

    if at == "rename":
        monkeypatch.setattr(type(destination.governance()), "take_in", fails)
    else:
        monkeypatch.setattr(arriving, at, fails)
    assert isinstance(refused(destination, file, source), CustodyError)
    monkeypatch.undo()
    taken_in(destination, file, source)


def test_an_import_that_is_killed_is_taken_back_by_the_next(
    source: Deployment, destination: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = sent(source, destination)
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(arriving, "_keep_extract", lambda *arguments: os._exit(9))
        taken_in(destination, file, source)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert (destination.layout.datasets / "people").exists()
    assert list(destination.layout.folders.glob(".arriving-*"))
    taken_in(destination, file, source)
    assert not list(destination.layout.folders.glob(".arriving-*"))


@pytest.fixture(autouse=True)
def _nothing_beside(folder: Path) -> Iterator[None]:
    yield
    assert not [path for path in folder.rglob(".leaving-*")]


def test_the_operator_writes_what_a_custodian_decided_elsewhere_and_once(
    source: Deployment, destination: Deployment
) -> None:
    source.governance().decide_export("custodian", "sleep", key_of(destination))
    other = Deployment.make(source.folder, "other")
    with pytest.raises(RefusedError, match="no custodian decided"):
        sent(source, other, by=OPERATOR)
    report = taken_in(destination, sent(source, destination, by=OPERATOR), source)
    assert report.decided_by == "custodian"
    with pytest.raises(RefusedError, match="no custodian decided"):
        sent(source, destination, "again", by=OPERATOR)


def test_a_decision_does_not_wait_for_ever(source: Deployment, destination: Deployment) -> None:
    source.governance().decide_export("custodian", "sleep", key_of(destination))
    audit, now = source.audit(), clock()
    assert leaving.decided_by(audit, "sleep", key_of(destination), now) == "custodian"
    with pytest.raises(RefusedError, match="no custodian decided"):
        leaving.decided_by(audit, "sleep", key_of(destination), now + leaving.DECIDED_FOR * 1.01)


def test_two_people_where_the_deployment_wants_them(source: Deployment, destination: Deployment) -> None:
    governance = source.governance()
    governance.add_person(OPERATOR, "second", "Second", "second@example.org")
    governance.add_role(OPERATOR, "second", PlatformRole.CUSTODIAN)
    told = yaml.safe_load(source.settings_file.read_text())
    source.settings_file.write_text(yaml.safe_dump({**told, "governance": {"two_person": ["project.export"]}}))
    strict = replace(source, settings=load_settings(source.settings_file))
    for _ in range(2):  # the same one twice is one
        with pytest.raises(SecondPersonError):
            sent(strict, destination)
    with pytest.raises(RefusedError):
        sent(strict, destination, by=OPERATOR)
    taken_in(destination, sent(strict, destination, by="second"), source)

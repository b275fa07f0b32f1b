"""A backup and what comes of it: everything is there again, and nothing is where something was wrong."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyrage
import pytest
import yaml
from pyrage import x25519

from orchestrator.config import load_settings
from orchestrator.errors import (
    AuditError,
    BulleError,
    ConflictError,
    InputError,
    RefusedError,
    SettingsError,
    UnavailableError,
)
from orchestrator.governance import rows
from orchestrator.governance.identity import OPERATOR
from orchestrator.governance.keys import GRANT_KEY, create_signing_keys
from orchestrator.machine.state import folders
from orchestrator.moving import backup, restore
from orchestrator.moving import manifest as manifests
from orchestrator.moving.envelope import sealed
from orchestrator.moving.transfer import transfer_identity
from tests.postgres import OWNER, server
from tests.unit.moving.stage import Deployment, clock, signer_of, tree
from tests.unit.node.apart import forked


def backed_up(source: Deployment, identity: x25519.Identity, name: str = "b") -> tuple[Path, Path]:
    file, secrets = source.folder / f"{name}.age", source.folder / f"{name}-secrets.age"
    for_whom = [str(identity.to_public())]
    backup.create(
        source.settings, source.settings_file, source.store(), source.audit(), for_whom, file, secrets=secrets,
        clock=clock,
    )  # fmt: skip
    return file, secrets


def restored(source: Deployment, state: Path) -> Deployment:
    return replace(source, settings=load_settings(state / restore.RESTORED_SETTINGS))


def parts_of(file: Path, identity: x25519.Identity) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(pyrage.decrypt(file.read_bytes(), [identity]))) as tar:
        return {each.name: tar.extractfile(each).read() for each in tar}  # type: ignore[union-attr]


def test_a_restored_deployment_is_the_one_that_was_backed_up(source: Deployment, identity: x25519.Identity) -> None:
    transfer_identity(source.layout, source.ring.custodian, make=True)
    file, secrets = backed_up(source, identity)
    state = source.folder / "new"
    report = restore.restore(file, identity, state, signer=signer_of(source), secrets=secrets, clock=clock)
    copy = restored(source, state)
    # governance opens, and is what it was
    assert copy.governance().project_page(OPERATOR, "sleep") == source.governance().project_page(OPERATOR, "sleep")
    # a dataset can be decrypted, with the custodian from the file of secrets, and the pseudonyms are the same
    assert copy.view(source.folder / "view") == source.view(source.folder / "view-of-source")
    # folders and keys are the very same bytes, and the log goes on
    for name in ("folders", "keyring", "custodian", "datasets"):
        mine, theirs = tree(copy.layout.state / name), tree(source.layout.state / name)
        assert mine == {path: data for path, data in theirs.items() if not path.endswith(".lock")}, name
    copy.audit().verify(source.audit().parse_head(parts_of(file, identity)["audit/head.json"])).raise_if_bad()
    assert copy.kinds()[-2:] == [("backup.create", "started"), ("backup.restore", "done")]
    assert (report.rows, report.changed, report.secrets) == (len(source.lines()), (), True)
    # what bulle up does first changes none of it
    assert not create_signing_keys(copy.layout)
    for each in folders(copy.layout):
        each.path.mkdir(parents=True, exist_ok=True)
    assert transfer_identity(copy.layout, copy.ring.custodian)


def test_the_host_of_the_backup_learns_nothing(source: Deployment, identity: x25519.Identity) -> None:
    file, secrets = backed_up(source, identity)
    for path in (file, secrets):
        content = path.read_bytes()
        for word in (b"sleep", b"researcher", b"people", b"keyring", b"PRIVATE", b"grant.pub"):
            assert word not in content
    # the negative control: whoever may open it finds them
    assert b"researcher" in parts_of(file, identity)["store.jsonl"]


def test_no_private_key_is_ever_in_the_backup(source: Deployment, identity: x25519.Identity) -> None:
    file, secrets = backed_up(source, identity)
    kek = (source.layout.custodian / "key-encryption-key").read_bytes()
    apart = parts_of(secrets, identity)
    assert apart["custodian/key-encryption-key"] == kek
    for content in parts_of(file, identity).values():
        assert b"PRIVATE KEY" not in content and kek not in content
    assert not any(name.startswith(("authority/", "hub/", "secrets/")) for name in parts_of(file, identity))


def test_without_its_secrets_it_opens_nothing_and_says_so(source: Deployment, identity: x25519.Identity) -> None:
    file, _ = backed_up(source, identity)
    report = restore.restore(file, identity, source.folder / "new", clock=clock)
    assert not report.secrets
    copy = restored(source, source.folder / "new")
    with pytest.raises(BulleError, match="gone, and wrapped keys exist"):
        _ = copy.ring
    with pytest.raises(AuditError):
        create_signing_keys(copy.layout)


def test_secrets_of_another_backup_are_refused(source: Deployment, identity: x25519.Identity) -> None:
    file, _ = backed_up(source, identity)
    _, other = backed_up(source, identity, "c")
    with pytest.raises(InputError, match="belongs to backup"):
        restore.restore(file, identity, source.folder / "new", secrets=other, clock=clock)
    assert nothing_but_files(source)


def nothing_but_files(source: Deployment) -> bool:
    """Whether a restore that failed left neither its folder nor anything beside it."""
    return not [path for path in source.folder.iterdir() if path.name.startswith((".", "new"))]


def test_what_is_there_is_never_touched(source: Deployment, identity: x25519.Identity) -> None:
    file, _ = backed_up(source, identity)
    before = tree(source.layout.state)
    (source.folder / "link").symlink_to(source.folder / "empty")
    for state in (source.layout.state, source.folder / "link", file):
        with pytest.raises(ConflictError, match="not an empty folder"):
            restore.restore(file, identity, state, clock=clock)
    assert tree(source.layout.state) == before
    (source.folder / "empty").mkdir()
    restore.restore(file, identity, source.folder / "empty", clock=clock)


def test_one_for_somebody_else_cut_or_changed_leaves_nothing(source: Deployment, identity: x25519.Identity) -> None:
    file, _ = backed_up(source, identity)
    whole = file.read_bytes()
    cases = {
        "for somebody else": (whole, x25519.Identity.generate()),
        "cut": (whole[:-1000], identity),
        "much cut": (whole[:1000], identity),
        "changed": (whole[:-1000] + bytes([whole[-1000] ^ 1]) + whole[-999:], identity),
    }
    for name, (content, by) in cases.items():
        file.write_bytes(content)
        with pytest.raises(InputError, match="does not open"):
            restore.restore(file, by, source.folder / "new", clock=clock)
        assert nothing_but_files(source), name


Change = Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]


def rewritten(file: Path, identity: x25519.Identity, change: Change) -> None:
    """The same archive, made anew by somebody who may open it but not sign."""
    parts = change([*parts_of(file, identity).items()])
    file.unlink()
    with sealed(file, [str(identity.to_public())]) as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
        for name, data in parts:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize(
    "change",
    [
        lambda parts: [(n, d.replace(b"researcher", b"somebodyel") if n == "store.jsonl" else d) for n, d in parts],
        lambda parts: [(n, d) for n, d in parts if not n.startswith("keyring/")],
        lambda parts: [parts[1], parts[0], *parts[2:]],
        lambda parts: [(parts[0][0], parts[1][1]), (parts[1][0], parts[0][1]), *parts[2:]],
        lambda parts: [("keyring/" + "0" * 64 + ".key", b"x"), *parts],
    ],
    ids=["changed", "missing", "reordered", "exchanged", "added"],
)
def test_an_archive_made_anew_is_refused(source: Deployment, identity: x25519.Identity, change: Change) -> None:
    file, _ = backed_up(source, identity)
    rewritten(file, identity, change)
    with pytest.raises(InputError, match="manifest lists"):
        restore.restore(file, identity, source.folder / "new", clock=clock)
    assert nothing_but_files(source)


def test_negative_control_without_the_list_a_changed_archive_is_restored(
    source: Deployment, identity: x25519.Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, _ = backed_up(source, identity)
    rewritten(file, identity, lambda parts: [(n, d) for n, d in parts if not n.startswith("keyring/")])
    monkeypatch.setattr(
        restore.manifests, "checked", lambda text, kind, folder, parts, signer: manifests._read(
            text, kind, manifests.load_public_key(folder / "public" / "grant.pub.pem"))
    )  # fmt: skip
    restore.restore(file, identity, source.folder / "new", clock=clock)


def test_a_deployment_that_somebody_else_signed_is_refused(source: Deployment, identity: x25519.Identity) -> None:
    stranger = Deployment.make(source.folder / "far", "source")
    file, _ = backed_up(stranger, identity)
    with pytest.raises(RefusedError, match="signed by"):
        restore.restore(file, identity, source.folder / "new", signer=signer_of(source), clock=clock)
    assert nothing_but_files(source)
    restore.restore(file, identity, source.folder / "new", signer=signer_of(stranger), clock=clock)


def test_a_log_that_does_not_verify_is_not_restored(source: Deployment, identity: x25519.Identity) -> None:
    log = source.layout.audit / "log.jsonl"
    # an early record, which a writer does not look at
    log.write_bytes(log.read_bytes().replace(b"researcher", b"somebodyel", 1))
    file, _ = backed_up(source, identity)
    with pytest.raises(AuditError, match="does not verify"):
        restore.restore(file, identity, source.folder / "new", clock=clock)
    assert nothing_but_files(source)


def test_a_link_in_the_place_of_a_file_is_not_followed(source: Deployment, identity: x25519.Identity) -> None:
    (source.folder / "elsewhere").write_text("shadow")
    head = source.layout.audit / "imported" / ("0" * 32) / "head.json"
    head.parent.mkdir(parents=True)
    head.symlink_to(source.folder / "elsewhere")
    with pytest.raises(UnavailableError, match="symbolic links"):
        backed_up(source, identity)
    assert not list(source.folder.glob("*.age"))
    assert source.kinds()[-1] == ("backup.create", "failed")


def test_nothing_is_backed_up_that_the_log_does_not_tell(source: Deployment, identity: x25519.Identity) -> None:
    (source.layout.audit / "head.json").unlink()
    with pytest.raises(AuditError):
        backed_up(source, identity)
    assert not list(source.folder.glob("*.age"))


def test_whatever_the_copied_store_knows_the_copied_log_tells(
    source: Deployment, identity: x25519.Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a change after the store was copied, before the log is
    whole = backup._add_store

    def then_changed(*arguments: object) -> None:
        whole(*arguments)  # type: ignore[arg-type]
        source.governance().suspend_project("custodian", "sleep")

    monkeypatch.setattr(backup, "_add_store", then_changed)
    file, secrets = backed_up(source, identity)
    restore.restore(file, identity, source.folder / "new", secrets=secrets, clock=clock)
    copy = restored(source, source.folder / "new")
    assert copy.governance().project("sleep").state == "active"
    assert ("project.suspend", "done") in copy.kinds()


def test_a_dataset_that_is_deleted_meanwhile_tears_nothing(
    source: Deployment, identity: x25519.Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = backup.Writer.add_descriptor

    def deleted(writer: backup.Writer, name: str, descriptor: int) -> None:
        for path in (source.layout.datasets / "people").rglob("*.parquet"):
            path.unlink()
        whole(writer, name, descriptor)

    monkeypatch.setattr(backup.Writer, "add_descriptor", deleted)
    file, _ = backed_up(source, identity)
    assert "datasets/people/1/people.parquet" in parts_of(file, identity)


def test_what_is_closed_stays_closed(source: Deployment, identity: x25519.Identity) -> None:
    (source.layout.folders / "archive" / source.project_id).mkdir(parents=True)
    file, _ = backed_up(source, identity)
    restore.restore(file, identity, source.folder / "new", clock=clock)
    assert (source.folder / "new" / "folders" / "archive" / source.project_id).is_dir()


def test_settings_of_another_place_must_name_it(source: Deployment, identity: x25519.Identity) -> None:
    file, _ = backed_up(source, identity)
    with pytest.raises(SettingsError, match="goes to"):
        restore.restore(
            file, identity, source.folder / "new", settings_file=source.settings_file, clock=clock
        )  # fmt: skip
    assert nothing_but_files(source)


def test_a_secret_of_the_settings_that_lies_elsewhere_is_named(source: Deployment, identity: x25519.Identity) -> None:
    file, _ = backed_up(source, identity)
    report = restore.restore(file, identity, source.folder / "new", clock=clock)
    assert report.elsewhere == (source.settings.oidc.client_secret_file,)


def test_the_manifest_is_a_jws_that_any_library_checks(source: Deployment, identity: x25519.Identity) -> None:
    import jwt

    file, _ = backed_up(source, identity)
    parts = parts_of(file, identity)
    told = jwt.decode(parts["manifest.jws"], parts["public/grant.pub.pem"], algorithms=["EdDSA"])
    assert [part["name"] for part in told["parts"]] == [name for name in parts if name != "manifest.jws"]
    assert json.loads(parts["store.jsonl"].splitlines()[0]) == {"schema": told["store"]}
    assert (source.layout.authority / GRANT_KEY).exists()


def test_from_sqlite_into_postgresql_by_the_settings_of_the_new_place(
    source: Deployment, identity: x25519.Identity
) -> None:
    file, secrets = backed_up(source, identity)
    with server() as running:
        told = yaml.safe_load(source.settings_file.read_text())
        state = source.folder / "new"
        database = {"database": f"postgresql://{OWNER}@/{running.create()}", "database_socket": str(running.socket)}
        there = source.folder / "there.yaml"
        there.write_text(yaml.safe_dump({**told, "state": str(state), **database}))
        restore.restore(file, identity, state, secrets=secrets, settings_file=there, clock=clock)
        copy = replace(source, settings=load_settings(there))
        assert copy.store().kind == "postgresql" and not (state / "authority" / "governance.sqlite").exists()
        assert copy.lines() == source.lines()
        # a second time there is something, in the database if not in the folder
        moved = source.folder / "second"
        there.write_text(yaml.safe_dump({**told, "state": str(moved), **database}))
        with pytest.raises(ConflictError, match="store is not empty"):
            restore.restore(file, identity, moved, secrets=secrets, settings_file=there, clock=clock)
        assert not moved.exists()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_whoever_has_the_store_open_is_seen(folder: Path, kind: str) -> None:
    with server() as running:
        database = {"database": f"postgresql://{OWNER}@/{running.create()}", "database_socket": str(running.socket)}
        more = database if kind == "postgresql" else {}
        forked(lambda: (Deployment.make(folder, "made", **more), None)[1])  # which has it open until it ends
        made = Deployment("made", folder, load_settings(folder / "made.yaml"))
        restore._check_stopped(made.settings)
        store = made.store()
        with store.read() as session:
            list(rows.rows(session, rows.tables()[0]))
        with pytest.raises(ConflictError, match="in use"):
            restore._check_stopped(made.settings)
        store.close()
        restore._check_stopped(made.settings)

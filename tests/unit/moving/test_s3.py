"""Backups in a store elsewhere, with a real one: whole or not there, never over another, and read with suspicion."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import botocore.session
import pytest
import yaml
from botocore.exceptions import BotoCoreError, ClientError
from pyrage import x25519

from orchestrator.cli import main
from orchestrator.config import BackupStore, Settings, load_settings
from orchestrator.errors import ConflictError, CustodyError, InputError, SettingsError, UnavailableError
from orchestrator.moving import backup, s3
from orchestrator.moving.envelope import sealed, unsealed
from orchestrator.moving.places import Place
from orchestrator.moving.restore import restore
from tests.s3 import ADMIN, BUCKET, WRITER, Line, Store, certificate, credentials, running
from tests.unit.moving.stage import Deployment, clock

PART = 5 << 20  # the smallest that S3 allows


@pytest.fixture(scope="module")
def server() -> Iterator[Store]:
    with running() as store:
        yield store


@pytest.fixture
def store(server: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The store, its bucket empty again at the end."""
    monkeypatch.setattr(s3, "_PART", PART)
    monkeypatch.setattr(s3.time, "sleep", lambda seconds: None)
    yield server
    for key in server.names():
        server.client().delete_object(Bucket=BUCKET, Key=key)


def settings_with(folder: Path, store: Store, **more: object) -> Settings:
    told = {
        "endpoint": store.endpoint,
        "ca_file": store.ca_file,
        "credentials_file": credentials(folder / "store-credentials"),
        **more,
    }
    login = {"issuer": "https://login.example.org", "client_id": "x", "client_secret_file": "/x"}
    return Settings.model_validate({"deployment": "any", "state": folder / "any", "oidc": login, "backup": told})


def place_in(folder: Path, store: Store, name: str = "thing.age", **more: object) -> s3.Object:
    return s3.object_at(settings_with(folder, store, **more), f"s3://{BUCKET}/{name}")


def put(place: Place, identity: x25519.Identity, content: bytes) -> None:
    with sealed(place, [str(identity.to_public())]) as stream:
        stream.write(content)


def got(place: Place, identity: x25519.Identity) -> bytes:
    with unsealed(place, identity) as stream:
        return stream.read()


def saved(source: Deployment, store: Store, identity: x25519.Identity) -> tuple[Settings, str, Path]:
    """A backup in the store; the settings to read it, its address, and the file with its secrets."""
    settings = settings_with(source.folder, store)
    secrets = source.folder / f"secrets-{os.urandom(4).hex()}.age"
    report = backup.create(
        source.settings, source.settings_file, source.store(), source.audit(), [str(identity.to_public())],
        s3.Folder(settings, f"s3://{BUCKET}/daily/"), secrets=secrets, clock=clock,
    )  # fmt: skip
    return settings, report.file, secrets


# -- there and back -------------------------------------------------------------------------------------------
def test_a_deployment_goes_to_the_store_and_comes_back_by_the_commands(
    source: Deployment, store: Store, identity: x25519.Identity, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = yaml.safe_load(source.settings_file.read_text())
    told["backup"] = {
        "endpoint": store.endpoint,
        "ca_file": str(store.ca_file),
        "credentials_file": str(credentials(folder / "store-credentials")),
    }
    source.settings_file.write_text(yaml.safe_dump(told))
    key = folder / "identity"
    key.write_text(f"{identity}\n")
    key.chmod(0o600)

    def bulle(*words: str) -> str:
        with pytest.raises(SystemExit) as end:
            main(list(words))
        said = capsys.readouterr()
        assert not end.value.code, said.err
        return said.out

    using = ["--settings", str(source.settings_file)]
    secrets = str(folder / "secrets.age")
    bulle(*using, "backup", "create", f"s3://{BUCKET}/daily", "--for", str(identity.to_public()), "--secrets", secrets)
    address = bulle(*using, "backup", "list", f"s3://{BUCKET}/").split()[-1]
    assert address.startswith(f"s3://{BUCKET}/daily/bulle-source-") and address.endswith(".tar.age")
    content = store.read(address.removeprefix(f"s3://{BUCKET}/"))
    assert content.startswith(b"age-encryption.org/v1")
    assert b"Planted" not in content and b"researcher" not in content
    elsewhere = folder / "elsewhere.yaml"
    elsewhere.write_text(yaml.safe_dump({**told, "state": str(folder / "new")}))
    words = ["backup", "restore", address, "--state", str(folder / "new"), "--identity", str(key), "--secrets", secrets]
    bulle(*words, "--with-settings", str(elsewhere))
    again = Deployment("elsewhere", folder, load_settings(elsewhere))
    assert again.lines() == source.lines()
    detail = [one.event.detail for one in source.audit().read() if one.event.kind == "backup.create"][-1]
    assert detail["file"] == address.rpartition("/")[2] and len(detail["sha256"]) == 64


def test_several_parts_come_back_in_their_order(store: Store, folder: Path, identity: x25519.Identity) -> None:
    content = os.urandom(3 * PART + 12345)
    place = place_in(folder, store)
    put(place, identity, content)
    assert got(place, identity) == content
    assert place.sha256() == hashlib.sha256(store.read("thing.age")).hexdigest()


def test_ten_thousand_parts_are_enough_for_a_terabyte() -> None:
    assert sum((16 << 20) * (1 + number // s3._GROWS_EVERY) for number in range(10_000)) > 3 << 39


def test_who_may_only_write_can_make_a_backup(store: Store, folder: Path, identity: x25519.Identity) -> None:
    place = place_in(folder, store, credentials_file=credentials(folder / "writer", WRITER))
    put(place, identity, b"x" * 1000)
    with pytest.raises(UnavailableError, match="refuses the credentials"):
        got(place, identity)
    assert got(place_in(folder, store), identity) == b"x" * 1000


# -- never over another, never half ---------------------------------------------------------------------------
def test_nothing_is_overwritten(store: Store, folder: Path, identity: x25519.Identity) -> None:
    place = place_in(folder, store)
    put(place, identity, b"first")
    with pytest.raises(ConflictError, match="exists already"):
        put(place, identity, b"second")
    assert got(place, identity) == b"first"


def answering(place: s3.Object, monkeypatch: pytest.MonkeyPatch, code: str, *, done: bool, **meta: int) -> list[bool]:
    """Have the store refuse the last call with ``code`` if it has a condition, after it was done or not."""
    asked: list[bool] = []
    complete = place._client.complete_multipart_upload

    def answer(**told: object) -> object:
        asked.append("IfNoneMatch" in told)
        result = complete(**told) if done or not asked[-1] else None
        if asked[-1]:
            raise ClientError({"Error": {"Code": code}, "ResponseMetadata": meta}, "CompleteMultipartUpload")
        return result

    monkeypatch.setattr(place._client, "complete_multipart_upload", answer)
    return asked


def test_a_store_without_conditions_is_asked_without(
    store: Store, folder: Path, identity: x25519.Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_in(folder, store)
    asked = answering(place, monkeypatch, "NotImplemented", done=False, HTTPStatusCode=501)
    put(place, identity, b"x")
    assert asked == [True, False] and got(place, identity) == b"x"


def test_an_answer_that_is_lost_is_no_failure(
    store: Store, folder: Path, identity: x25519.Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_in(folder, store)
    answering(place, monkeypatch, "PreconditionFailed", done=True, HTTPStatusCode=412, RetryAttempts=1)
    put(place, identity, b"x")
    assert got(place, identity) == b"x"


def test_an_upload_that_is_given_up_leaves_nothing(store: Store, folder: Path, identity: x25519.Identity) -> None:
    place = place_in(folder, store)
    recipients = [str(identity.to_public())]
    with pytest.raises(RuntimeError), sealed(place, recipients) as stream:
        stream.write(os.urandom(2 * PART))
        raise RuntimeError
    assert store.names() == []
    assert "Uploads" not in store.client().list_multipart_uploads(Bucket=BUCKET)


def test_an_upload_that_is_killed_is_no_backup(store: Store, folder: Path, identity: x25519.Identity) -> None:
    settings = settings_with(folder, store)
    child = os.fork()
    if child == 0:
        with sealed(s3.object_at(settings, f"s3://{BUCKET}/thing.age"), [str(identity.to_public())]) as stream:
            stream.write(os.urandom(2 * PART))
            stream.flush()
            os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert store.names() == []
    with pytest.raises(InputError, match="is not there"):
        got(s3.object_at(settings, f"s3://{BUCKET}/thing.age"), identity)


def test_a_line_that_breaks_once_costs_nothing(store: Store, folder: Path, identity: x25519.Identity) -> None:
    content = os.urandom(2 * PART)
    going = Line(store.port, up=PART // 2)
    put(place_in(folder, store, endpoint=going.endpoint), identity, content)
    coming = Line(store.port, down=PART // 2, times=2)
    assert got(place_in(folder, store, endpoint=coming.endpoint), identity) == content
    assert (going.broken, coming.broken) == (1, 2)
    going.close()
    coming.close()


def test_a_line_that_stays_broken_leaves_nothing(store: Store, folder: Path, identity: x25519.Identity) -> None:
    line = Line(store.port, up=PART // 2, times=1000)
    with pytest.raises(UnavailableError, match="does not answer as it should"):
        put(place_in(folder, store, endpoint=line.endpoint), identity, os.urandom(2 * PART))
    assert store.names() == [] and line.broken > 1
    line.close()
    put(place_in(folder, store), identity, os.urandom(PART))
    line = Line(store.port, down=100_000, times=1000)
    place = place_in(folder, store, endpoint=line.endpoint)
    line.down = 0  # for what is connected from now on
    with pytest.raises(UnavailableError, match="does not answer as it should"):
        got(place, identity)
    line.close()
    with pytest.raises(UnavailableError, match="does not answer as it should"):
        got(place, identity)


def test_a_backup_that_the_store_has_no_room_for_is_told_and_not_there(
    source: Deployment, identity: x25519.Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_PART", PART)
    with running(volumes=1) as small:
        place = place_in(source.folder, small)
        with pytest.raises(UnavailableError, match=r"answers InternalError"):
            put(place, identity, os.urandom(12 * PART))
        assert small.names() == []


# -- what is wrong with it ------------------------------------------------------------------------------------
def test_wrong_credentials_and_a_bucket_that_is_not_there(
    store: Store, folder: Path, identity: x25519.Identity
) -> None:
    wrong = credentials(folder / "wrong", (ADMIN[0], "another-secret"))
    with pytest.raises(UnavailableError, match=r"refuses the credentials \(SignatureDoesNotMatch\)") as told:
        put(place_in(folder, store, credentials_file=wrong), identity, b"x")
    assert "another-secret" not in f"{told.value.message} {told.value.hint}"
    settings = settings_with(folder, store)
    for act in (put, lambda place, identity, _: got(place, identity)):
        with pytest.raises(UnavailableError, match="no such bucket"):
            act(s3.object_at(settings, "s3://another/thing.age"), identity, b"x")
    with pytest.raises(UnavailableError, match="no such bucket"):
        s3.Folder(settings, "s3://another").listed()


def test_a_cut_or_changed_object_is_not_restored(
    source: Deployment, store: Store, identity: x25519.Identity, folder: Path
) -> None:
    settings, address, secrets = saved(source, store, identity)
    key = address.removeprefix(f"s3://{BUCKET}/")
    whole = store.read(key)
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    for content in (whole[: len(whole) // 2], whole[:-1], bytes(changed), b""):
        store.write(key, content)
        with pytest.raises(InputError, match="does not open"):
            restore(s3.object_at(settings, address), identity, folder / "new", secrets=secrets, clock=clock)
        assert not (folder / "new").exists()
    store.write(key, whole)
    restore(s3.object_at(settings, address), identity, folder / "new", secrets=secrets, clock=clock)


def test_an_older_backup_in_the_place_of_a_newer_one_is_refused(
    source: Deployment, store: Store, identity: x25519.Identity, folder: Path
) -> None:
    settings, older, secrets = saved(source, store, identity)
    _, newer, _ = saved(source, store, identity)
    store.write(newer.removeprefix(f"s3://{BUCKET}/"), store.read(older.removeprefix(f"s3://{BUCKET}/")))
    with pytest.raises(InputError, match="another backup than its name says"):
        restore(s3.object_at(settings, newer), identity, folder / "new", secrets=secrets, clock=clock)
    assert not (folder / "new").exists()
    restore(s3.object_at(settings, older), identity, folder / "new", secrets=secrets, clock=clock)


def test_an_object_that_is_replaced_while_it_is_read_is_refused(
    store: Store, folder: Path, identity: x25519.Identity
) -> None:
    put(place_in(folder, store), identity, os.urandom(2 * PART))
    with place_in(folder, store).reading() as stream:
        stream.read(1000)
        store.write("thing.age", os.urandom(2 * PART + 232))
        stream._body = None  # type: ignore[attr-defined] # the line broke: it goes on with a new request
        with pytest.raises(InputError, match="replaced while it was read"):
            stream.read(1000)


# -- who and where --------------------------------------------------------------------------------------------
def test_only_the_settings_say_where_and_who(
    store: Store, folder: Path, identity: x25519.Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = folder / "home"
    (home / ".aws").mkdir(parents=True)
    (home / ".aws" / "config").write_text("[default]\nendpoint_url = http://127.0.0.1:1\nregion = elsewhere-1\n")
    (home / ".aws" / "credentials").write_text("[default]\naws_access_key_id = A\naws_secret_access_key = B\n")
    for name, value in {
        "HOME": str(home),
        "AWS_ACCESS_KEY_ID": "A",
        "AWS_SECRET_ACCESS_KEY": "B",
        "AWS_SESSION_TOKEN": "C",
        "AWS_PROFILE": "nobody",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "AWS_CA_BUNDLE": str(certificate(folder / "other")[0]),
    }.items():
        monkeypatch.setenv(name, value)
    place = place_in(folder, store)
    put(place, identity, b"x")
    assert got(place, identity) == b"x"
    with pytest.raises(BotoCoreError):  # the negative control: as the library is by itself
        botocore.session.Session().create_client("s3")
    amazon = s3.Store(BackupStore(credentials_file=credentials(folder / "amazon"), region="eu-west-3"))
    assert amazon.client.meta.endpoint_url == "https://s3.eu-west-3.amazonaws.com"
    monkeypatch.undo()  # what comes after asks the store itself


def test_a_store_that_another_authority_vouches_for_is_refused(
    store: Store, folder: Path, identity: x25519.Identity
) -> None:
    other, _ = certificate(folder / "other")
    for told in ({"ca_file": other}, {"ca_file": None}):
        with pytest.raises(UnavailableError, match="SSLError"):
            put(place_in(folder, store, **told), identity, b"x")


def test_credentials_that_others_may_read_or_that_are_none(store: Store, folder: Path) -> None:
    path = credentials(folder / "open")
    path.chmod(0o644)
    with pytest.raises(CustodyError, match="read by others"):
        place_in(folder, store, credentials_file=path)
    path.write_text("aws_access_key_id = planted-id\nplanted-secret\n")
    path.chmod(0o600)
    with pytest.raises(SettingsError) as told:
        place_in(folder, store, credentials_file=path)
    assert "planted" not in f"{told.value}{told.value.hint}{told.value.__cause__}"
    path.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")  # as other programs have it
    place_in(folder, store, credentials_file=path)


@pytest.mark.parametrize(
    "address",
    ["s3://", "s3://B/x", "s3://backups", "s3://backups/", "s3://backups/a/", "s3://backups//a", "s3://backups/../a",
     "s3://backups/a b", "s3://backups/a?versionId=1"],
)  # fmt: skip
def test_an_address_that_is_none(folder: Path, server: Store, address: str) -> None:
    with pytest.raises(InputError):
        s3.object_at(settings_with(folder, server), address)


def test_without_a_store_in_the_settings_none_is_used(source: Deployment) -> None:
    with pytest.raises(SettingsError, match="name no store"):
        s3.object_at(source.settings, f"s3://{BUCKET}/x")


def test_a_store_in_clear_is_refused_unless_it_is_here(folder: Path) -> None:
    path = credentials(folder / "c")
    BackupStore(endpoint="http://127.0.0.1:9000", credentials_file=path)
    with pytest.raises(ValueError, match="https"):
        BackupStore(endpoint="http://store.example.org", credentials_file=path)


def test_a_project_travels_by_the_store(source: Deployment, store: Store, folder: Path) -> None:
    from orchestrator.moving import arriving, leaving
    from orchestrator.moving.transfer import transfer_identity
    from tests.unit.moving.stage import signer_of

    destination = Deployment.make(folder, "destination")
    recipient = str(transfer_identity(destination.layout, destination.ring.custodian, make=True).to_public())
    place = place_in(folder, store, "sleep.age")
    leaving.export(
        source.settings, source.governance(), source.ring, source.audit(), by="custodian", slug="sleep",
        recipient=recipient, out=place, clock=clock,
    )  # fmt: skip
    report = arriving.take_in(
        destination.settings, destination.governance(), destination.ring, destination.audit(), place,
        signer=signer_of(source),
    )  # fmt: skip
    assert report.slug == "sleep" and report.folders == 2

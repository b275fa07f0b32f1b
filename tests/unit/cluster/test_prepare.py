"""The first container of the control plane's pod, and the administrator's commands in the tools' pod, without root."""

from __future__ import annotations

import ast
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from orchestrator.cluster import prepare as preparing
from orchestrator.cluster.prepare import folders, layout_of, prepare
from orchestrator.config import Settings, Uid
from orchestrator.errors import CustodyError, SettingsError
from orchestrator.governance.keys import AUDIT_KEY, GRANT_KEY, load_private_key
from orchestrator.keys import FileCustodian, KeyRing, open_custodian
from orchestrator.keys.file import KEY_FILE, read_private
from orchestrator.secretfile import read_secret

ROOT = Path(__file__).parents[3]
GROUP = Uid.AUTHORITY
AS_ROOT = os.geteuid() == 0
only_root = pytest.mark.skipif(not AS_ROOT, reason="only root can make what belongs to others: run as root")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def volumes() -> Iterator[Path]:
    """Three volumes as kubelet hands them to a pod with an fsGroup: root's, and writable to the group."""
    root = Path(tempfile.mkdtemp(prefix="bulle-volumes-"))
    root.chmod(0o755)
    for name in ("control", "data", "sockets"):
        (root / name).mkdir()
        if AS_ROOT:
            os.chown(root / name, 0, GROUP)
        (root / name).chmod(0o2775)
    yield root
    shutil.rmtree(root)


def interpreter() -> list[str]:
    """A Python that another user can run, with our packages: not one in a home that is closed to others."""
    chain = [Path(sys.base_prefix), *Path(sys.base_prefix).parents]
    if not AS_ROOT or all(path.stat().st_mode & 0o001 for path in chain):
        return [sys.executable]
    found = Path(f"/usr/bin/python3.{sys.version_info.minor}")
    if not found.exists():
        pytest.skip(f"no Python that user {GROUP} can run: {sys.base_prefix} is closed, and there is no {found}")
    return [str(found)]


def as_the_authority(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program as the user of the pod, with its group and no other."""
    who = {"user": GROUP, "group": GROUP, "extra_groups": [GROUP]} if AS_ROOT else {}
    return subprocess.run(
        [*interpreter(), *words],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={
            "PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}",
            "PATH": os.environ["PATH"],
            "HOME": "/tmp",
            **environment,
        },
        **who,  # type: ignore[call-overload]
    )


def run_prepare(volumes: Path) -> subprocess.CompletedProcess[str]:
    group = GROUP if AS_ROOT else os.getegid()
    program = (
        "import sys; from pathlib import Path; from orchestrator.cluster import prepare as p; "
        f"p.VOLUMES = Path(sys.argv[1]); p.prepare.__defaults__ = (p.VOLUMES, {group}); sys.exit(p.main())"
    )
    return as_the_authority("-c", program, str(volumes))


# -- volumes ----------------------------------------------------------------------------------------------------
def test_folders_and_keys_are_made_once_and_with_their_modes(volumes: Path) -> None:
    done = run_prepare(volumes)
    assert (done.returncode, done.stderr) == (0, "")
    assert "made the signing keys" in done.stdout
    layout = layout_of(volumes)
    for folder in folders(layout):
        assert mode(folder.path) == folder.mode, folder
    grant = (layout.authority / GRANT_KEY).read_bytes()
    assert {mode(layout.authority / name) for name in (GRANT_KEY, AUDIT_KEY)} == {0o600}
    if AS_ROOT:
        assert {each.path.stat().st_gid for each in folders(layout)} == {GROUP}
        assert (layout.authority / GRANT_KEY).stat().st_uid == GROUP
    again = run_prepare(volumes)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert (layout.authority / GRANT_KEY).read_bytes() == grant


def test_several_at_once_make_one_key(volumes: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: run_prepare(volumes), range(4)))
    assert [each.returncode for each in done] == [0] * 4, [each.stderr for each in done]
    assert sum("made the signing keys" in each.stdout for each in done) == 1


def test_what_a_volume_plugin_opened_to_the_group_is_closed_again(volumes: Path) -> None:
    run_prepare(volumes)
    layout = layout_of(volumes)
    for path in (layout.authority, layout.audit):
        path.chmod(0o2770)
        for file in path.iterdir():
            file.chmod(0o660)
    with pytest.raises(SettingsError, match="read by others"):
        load_private_key(layout.authority / GRANT_KEY)
    done = run_prepare(volumes)
    assert done.returncode == 0, done.stderr
    assert "0600 again" in done.stdout
    assert mode(layout.authority) == 0o700
    assert {mode(file) for path in (layout.authority, layout.audit) for file in path.iterdir()} == {0o600}
    if AS_ROOT:
        assert (
            as_the_authority(
                "-c",
                "import sys; from pathlib import Path; from orchestrator.governance.keys import load_private_key; "
                "load_private_key(Path(sys.argv[1]))",
                str(layout.authority / GRANT_KEY),
            ).returncode
            == 0
        )


def test_a_link_in_the_place_of_a_folder_is_refused(volumes: Path, tmp_path: Path) -> None:
    (volumes / "data" / "keyring").symlink_to(tmp_path)
    before = mode(tmp_path)
    with pytest.raises(SettingsError, match="not a folder"):
        prepare(volumes, os.getegid())
    assert mode(tmp_path) == before


@only_root
def test_a_volume_that_is_not_the_group_s_is_refused_in_words(volumes: Path) -> None:
    os.chown(volumes / "data", 0, 0)
    (volumes / "data").chmod(0o755)
    done = run_prepare(volumes)
    assert done.returncode == 1
    assert "fsGroup" in done.stderr and "Traceback" not in done.stderr


def test_every_folder_of_the_pod_s_parts_is_there() -> None:
    names = {each.path.name for each in folders(layout_of(preparing.VOLUMES))}
    assert names == {
        "authority", "audit", "hub", "database", "socket", "datasets", "folders", "keyring", "public",
        "portal", "cluster", "door", "metrics-authority", "metrics-portal",
    }  # fmt: skip


PARTS = """
import os, socket, sqlite3, sys
from pathlib import Path
from orchestrator.governance.serving import listen
from orchestrator.cluster.prepare import layout_of
layout, part = layout_of(Path(sys.argv[1])), sys.argv[2]

def tries(what):
    try:
        what()
    except Exception:
        return "no"
    return "yes"

def connect(name):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(layout.socket(name)))

def store():
    with sqlite3.connect(layout.hub / "hub.sqlite") as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE IF NOT EXISTS t (a)")
        database.execute("INSERT INTO t VALUES (1)")

print({
    "hub's store": tries(store),
    "door's socket": tries(lambda: listen(layout.socket("door")).close()),
    "authority's socket replaced": tries(lambda: layout.socket("hub").rename(layout.socket("hub").with_name("other"))),
    "authority's socket": tries(lambda: connect("hub")),
    "keys": tries(lambda: (layout.authority / "grant.key.pem").read_bytes()),
    "log": tries(lambda: (layout.audit / "log.jsonl").read_bytes()),
    "public": tries(lambda: (layout.public / "grant.pub.pem").read_bytes()),
})
"""


@only_root
def test_parts_with_the_pod_s_group_reach_sockets_and_their_own_and_no_key_or_log(volumes: Path) -> None:
    assert run_prepare(volumes).returncode == 0
    layout = layout_of(volumes)
    serving = (
        "import sys, time; from pathlib import Path; from orchestrator.governance.serving import listen; "
        "kept = listen(Path(sys.argv[1])); print('up', flush=True); time.sleep(60)"
    )
    who: dict[str, object] = {"user": GROUP, "group": GROUP, "extra_groups": [GROUP]}
    environment = {"PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}", "PATH": os.environ["PATH"]}
    authority = subprocess.Popen(
        [*interpreter(), "-c", serving, str(layout.socket("hub"))],
        stdout=subprocess.PIPE, cwd="/", env=environment, **who,  # type: ignore[call-overload]
    )  # fmt: skip
    try:
        assert authority.stdout is not None and authority.stdout.readline() == b"up\n"
        assert mode(layout.socket("hub")) == 0o660 and layout.socket("hub").stat().st_gid == GROUP
        for uid, extra, expected in (
            (Uid.HUB, [GROUP], {"hub's store": "yes", "door's socket": "yes", "authority's socket": "yes"}),
            # (which folders a part sees at all is decided by what is mounted into it)
            (Uid.DOOR, [GROUP], {"door's socket": "yes", "authority's socket": "yes"}),
            # the negative control: without the pod's group nothing but what is public
            (Uid.DOOR, [], {}),
        ):
            done = subprocess.run(
                [*interpreter(), "-c", PARTS, str(volumes), "x"],
                capture_output=True, text=True, check=False, cwd="/", env=environment,
                user=uid, group=uid, extra_groups=extra,
            )  # fmt: skip
            nothing = dict.fromkeys(
                ("hub's store", "door's socket", "authority's socket replaced", "authority's socket", "keys", "log"),
                "no",
            )
            assert ast.literal_eval(done.stdout) == {**nothing, "public": "yes", **expected}, (uid, done.stderr)
    finally:
        authority.kill()
        authority.wait()


# -- secrets as kubelet shows them ------------------------------------------------------------------------------
def secret_in(folder: Path, bits: int = 0o440, **files: bytes) -> Path:
    """A Secret's folder: names that are links into a folder that is exchanged whole."""
    folder.mkdir(parents=True, exist_ok=True)
    moment = folder / "..2027_01_01_00_00_00.123"
    moment.mkdir()
    (folder / "..data").symlink_to(moment.name)
    for name, content in ((given.replace("_", "-"), content) for given, content in files.items()):
        (moment / name).write_bytes(content)
        (moment / name).chmod(bits)
        if AS_ROOT:
            os.chown(moment / name, 0, GROUP)
        (folder / name).symlink_to(f"..data/{name}")
    return folder


def test_secrets_of_parts_are_read_from_a_secret(tmp_path: Path) -> None:
    folder = secret_in(tmp_path / "hub", cookie_secret=b"11" * 32)
    assert read_secret(folder / "cookie-secret") == "11" * 32
    (folder / "cookie-secret").resolve().chmod(0o444)
    with pytest.raises(SettingsError, match="everybody"):
        read_secret(folder / "cookie-secret")


def test_the_custodian_s_key_is_read_from_a_secret(tmp_path: Path) -> None:
    folder = secret_in(tmp_path / "custodian", key_encryption_key=bytes(32))
    wrapped = FileCustodian(folder / KEY_FILE).wrap(b"k" * 32, "id")
    plain = tmp_path / "kek"
    plain.write_bytes(bytes(32))
    plain.chmod(0o600)
    assert FileCustodian(plain).unwrap(wrapped, "id") == b"k" * 32


@pytest.mark.parametrize("bits", [0o444, 0o460, 0o441])
def test_a_secret_that_more_than_the_group_may_read_is_refused(tmp_path: Path, bits: int) -> None:
    folder = secret_in(tmp_path / "custodian", bits, key_encryption_key=bytes(32))
    with pytest.raises(CustodyError, match="others"):
        read_private(folder / KEY_FILE, "the key")


def test_no_other_link_and_no_file_of_such_a_mode_elsewhere_is_read(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.write_bytes(bytes(32))
    real.chmod(0o440)
    with pytest.raises(CustodyError, match="others"):
        read_private(real, "the key")
    (tmp_path / "link").symlink_to(real)
    with pytest.raises(CustodyError):
        read_private(tmp_path / "link", "the key")
    folder = tmp_path / "forged"
    folder.mkdir()
    (folder / "..data").symlink_to("../../somewhere")
    (folder / KEY_FILE).symlink_to(f"..data/{KEY_FILE}")
    with pytest.raises(CustodyError):
        read_private(folder / KEY_FILE, "the key")


def test_on_a_cluster_no_custodian_s_key_is_made(tmp_path: Path) -> None:
    raw = {
        "deployment": "trial",
        "state": str(tmp_path),
        "oidc": {"issuer": "http://127.0.0.1:1", "client_id": "x", "client_secret_file": "/x"},
    }
    there = Settings.model_validate({**raw, "kubernetes": {}})
    with pytest.raises(CustodyError, match="Secret"):
        open_custodian(there, there.layout)
    assert not there.layout.custodian.exists()
    here = Settings.model_validate(raw)
    assert open_custodian(here, here.layout).embedded


@pytest.mark.parametrize(
    ("folder_mode", "file_mode"), [(0o2770, 0o660), (0o700, 0o600), (0o2750, 0o600), (0o770, 0o600)]
)
def test_wrapped_keys_are_shared_in_a_folder_that_is(tmp_path: Path, folder_mode: int, file_mode: int) -> None:
    FileCustodian.create(tmp_path / "kek")
    folder = tmp_path / "keyring"
    folder.mkdir()
    folder.chmod(folder_mode)
    KeyRing(folder, FileCustodian(tmp_path / "kek")).create("project/1")
    assert [mode(path) for path in folder.iterdir()] == [file_mode]


# -- the tools' pod -----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def state() -> Iterator[Path]:
    """A state folder put together of the volumes' folders, with the custodian's Secret."""
    root = Path(tempfile.mkdtemp(prefix="bulle-tools-"))
    root.chmod(0o755)
    volumes, place = root / "volumes", root / "state"
    place.mkdir()
    for name in ("control", "data", "sockets"):
        (volumes / name).mkdir(parents=True)
        if AS_ROOT:
            os.chown(volumes / name, 0, GROUP)
        (volumes / name).chmod(0o2775)
    done = run_prepare(volumes)
    assert done.returncode == 0, done.stderr
    for volume, names in {
        "control": ("authority", "audit", "hub"),
        "data": ("datasets", "folders", "keyring", "public"),
    }.items():
        for name in names:
            (volumes / volume / name).rename(place / name)
    secret_in(place / "custodian", key_encryption_key=os.urandom(32))
    settings = {
        "deployment": "trial",
        "state": str(place),
        "oidc": {"issuer": "http://127.0.0.1:1", "client_id": "x", "client_secret_file": "/x"},
        "kubernetes": {"hub": ["bulle-hub.bulle.svc:8081"]},
    }
    (root / "bulle.yaml").write_text(yaml.safe_dump(settings))
    (root / "out").mkdir()
    (root / "out").chmod(0o777)
    yield root
    shutil.rmtree(root)


def bulle(root: Path, *words: str) -> str:
    done = as_the_authority("-m", "orchestrator.cli", *words, BULLE_SETTINGS=str(root / "bulle.yaml"))
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


SOURCES = {
    "rwm5yr": (ROOT / "orchestrator/cli/demo/rwm5yr.yaml"),
    "colon": (ROOT / "orchestrator/cli/demo/colon.yaml"),
}


def sources(folder: Path) -> Path:
    """Small files that follow the demo's schemas."""
    folder.mkdir(exist_ok=True)
    rows = {
        "rwm5yr": ("id,docvis,hospvis,edlevel,age,outwork,female,married,kids,hhninc,educ,self,"
                   "edlevel1,edlevel2,edlevel3,edlevel4,year\n"
                   "1,3,0,1,44,0,1,1,0,3.5,11,0,1,0,0,0,1984\n"),
        "colon": "id,study,rx,sex,age,obstruct,perfor,adhere,nodes,status,differ,extent,surg,node4,time,etype\n"
                 "1,1,Lev+5FU,1,43,0,0,0,5,1,2,3,0,1,1521,2\n",
    }  # fmt: skip
    for name, text in rows.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


def test_the_demo_s_content_without_root_and_network_twice(state: Path) -> None:
    folder = sources(state / "sources")
    first = bulle(state, "demo", "content", "--sources", str(folder))
    assert "ingested rwm5yr" in first and "permit of colon-survival approved" in first
    again = bulle(state, "demo", "content", "--sources", str(folder))
    assert "ingested" not in again and "created" not in again
    assert "custodian" in bulle(state, "person", "list")
    assert "doctor-visits" in bulle(state, "project", "list")
    assert "rwm5yr" in bulle(state, "dataset", "list")


def test_a_folder_without_the_sources_is_refused(state: Path) -> None:
    empty = state / "empty"
    empty.mkdir()
    fresh = yaml.safe_load((state / "bulle.yaml").read_text())
    assert fresh["state"] == str(state / "state")
    from orchestrator.cli.demo.sources import local_file
    from orchestrator.errors import InputError

    with pytest.raises(InputError, match="neither"), local_file("colon", empty):
        pass


def test_an_administrator_s_commands_work_in_the_tools_pod(state: Path) -> None:
    bulle(state, "demo", "content", "--sources", str(sources(state / "sources")))
    assert "embedded key file" in bulle(state, "custodian", "show")
    bulle(state, "audit", "verify")
    bulle(state, "project", "suspend", "colon-survival", "--as", "custodian")
    bulle(state, "project", "activate", "colon-survival", "--as", "custodian")
    bulle(state, "person", "disable", "outsider")
    bulle(state, "dataset", "show", "colon")
    schema = str(SOURCES["colon"])
    bulle(state, "dataset", "ingest", "again", str(state / "sources" / "colon.csv"), "--schema", schema)
    bulle(state, "dataset", "delete", "again", "--yes")
    bulle(state, "call", "projects.list")
    layout = Settings.model_validate(yaml.safe_load((state / "bulle.yaml").read_text())).layout
    for path in [*layout.keyring.iterdir()]:
        assert mode(path) == 0o660, "node agents and tools share it"
    assert mode(layout.authority) == 0o700
    assert {mode(path) for path in layout.authority.glob("*.pem")} == {0o600}


# -- backup and restore -------------------------------------------------------------------------------------------
def age_identity(root: Path) -> tuple[Path, str]:
    from pyrage import x25519

    identity = x25519.Identity.generate()
    path = root / "out" / "identity"
    path.unlink(missing_ok=True)
    path.write_text(f"{identity}\n")
    path.chmod(0o600)
    if AS_ROOT:
        os.chown(path, GROUP, GROUP)
    return path, str(identity.to_public())


@pytest.fixture(scope="module")
def backed_up(state: Path) -> tuple[Path, Path, Path]:
    """A deployment of the tools' pod with the demo's content, its backup and its secrets, all made as the authority."""
    bulle(state, "demo", "content", "--sources", str(sources(state / "sources")))
    assert "--for age1" in bulle(state, "transfer", "key")
    _, recipient = identity = age_identity(state)
    file, secrets = state / "out" / "backup.age", state / "out" / "secrets.age"
    told = bulle(state, "backup", "create", str(file), "--for", recipient, "--secrets", str(secrets))
    assert "the private keys are in" in told
    return file, secrets, identity[0]


def restore_words(backed_up: tuple[Path, Path, Path], volumes: Path) -> list[str]:
    file, secrets, identity = map(str, backed_up)
    return ["backup", "restore", file, "--volumes", str(volumes), "--identity", identity, "--secrets", secrets]


def gathered(state: Path, volumes: Path, root: Path) -> Path:
    """A state folder of restored volumes, with the custodian's Secret of the deployment that was backed up."""
    place = root / "there"
    place.mkdir()
    root.chmod(0o755)
    layout = layout_of(volumes)
    for folder in (
        layout.authority,
        layout.audit,
        layout.hub,
        layout.datasets,
        layout.folders,
        layout.keyring,
        layout.public,
    ):
        folder.rename(place / folder.name)
    shutil.copytree(state / "state" / "custodian", place / "custodian", symlinks=True)
    if AS_ROOT:
        for path in (place / "custodian").rglob("*"):
            os.chown(path, 0, GROUP, follow_symlinks=False)
    settings = yaml.safe_load((state / "bulle.yaml").read_text())
    (root / "bulle.yaml").write_text(yaml.safe_dump({**settings, "state": str(place)}))
    return root


@only_root
def test_a_deployment_goes_into_empty_volumes_and_is_the_one_that_was_backed_up(
    state: Path, backed_up: tuple[Path, Path, Path], volumes: Path
) -> None:
    assert "is in the volumes" in bulle(state, *restore_words(backed_up, volumes))
    layout = layout_of(volumes)
    assert not list(volumes.rglob(".restoring*"))
    assert not list(volumes.rglob(KEY_FILE)), "the custodian's key is a Secret, and on no volume"
    done = run_prepare(volumes)
    assert (done.returncode, done.stderr) == (0, "")
    assert "signing keys" not in done.stdout, "its own are there"
    assert "nothing was restored" in bulle(state, *restore_words(backed_up, volumes))
    for folder in folders(layout):
        assert mode(folder.path) == folder.mode
    there = gathered(state, volumes, volumes)
    bulle(there, "audit", "verify")
    assert "doctor-visits" in bulle(there, "project", "list")
    assert "embedded key file" in bulle(there, "custodian", "show")
    assert bulle(there, "transfer", "key") == bulle(state, "transfer", "key")
    bulle(there, "project", "suspend", "doctor-visits", "--as", "custodian")


@only_root
def test_a_restore_that_was_cut_off_starts_nothing_and_is_begun_anew(
    state: Path, backed_up: tuple[Path, Path, Path], volumes: Path
) -> None:
    preparing.make_folders(volumes, GROUP)
    layout = layout_of(volumes)
    for half in (layout.authority / ".restoring", layout.keyring / "half.key", layout.authority / "grant.key.pem"):
        half.write_text("half")
        os.chown(half, GROUP, GROUP)
    for folder in folders(layout):
        os.chown(folder.path, GROUP, GROUP)
        folder.path.chmod(folder.mode)
    done = run_prepare(volumes)
    assert done.returncode == 1 and "not restored whole" in done.stderr
    bulle(state, *restore_words(backed_up, volumes))
    assert run_prepare(volumes).returncode == 0
    assert not (layout.keyring / "half.key").exists()


@only_root
def test_a_changed_backup_or_a_volume_in_use_leaves_nothing(
    state: Path, backed_up: tuple[Path, Path, Path], volumes: Path
) -> None:
    file, secrets, identity = backed_up
    changed = state / "out" / "changed.age"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    changed.write_bytes(content)
    words = restore_words((changed, secrets, identity), volumes)
    environment = {"BULLE_SETTINGS": str(state / "bulle.yaml")}
    assert as_the_authority("-m", "orchestrator.cli", *words, **environment).returncode == 1
    layout = layout_of(volumes)
    for place in (layout.authority, layout.audit, layout.datasets, layout.folders, layout.keyring, layout.public):
        assert list(place.iterdir()) == [], place
    (layout.keyring / "somebody's").write_text("x")
    done = as_the_authority("-m", "orchestrator.cli", *restore_words(backed_up, volumes), **environment)
    assert done.returncode == 1 and "not empty" in done.stderr
    assert (layout.keyring / "somebody's").read_text() == "x"

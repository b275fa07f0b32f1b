"""A backup that becomes a new release's deployment by one command in its tools' pod, without root."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyrage import x25519

from orchestrator.cluster.prepare import RESTORING, folders, layout_of
from orchestrator.governance.keys import AUDIT_KEY, GRANT_KEY
from tests.unit.cluster.pod import Pod
from tests.unit.cluster.test_prepare import GROUP, as_the_authority, mode, only_root, run_prepare, sources
from tests.unit.node.apart import apart

pytestmark = only_root
KEY = os.urandom(32)


@pytest.fixture
def root() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="bulle-restore-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def saved() -> Iterator[Path]:
    """A folder with a backup, its secrets, and the identity that opens them, of a deployment with content."""
    place = Path(tempfile.mkdtemp(prefix="bulle-saved-"))
    place.chmod(0o755)

    def body() -> None:
        pod = Pod.make(place / "pod", KEY)
        pod.bulle("demo", "content", "--sources", sources(place / "sources"))
        pod.bulle("transfer", "key")
        identity = x25519.Identity.generate()
        (place / "identity").write_text(f"{identity}\n")
        pod.bulle("backup", "create", pod.out / "backup.age", "--for", str(identity.to_public()), "--secrets",
                  pod.out / "secrets.age")  # fmt: skip
        for name in ("backup.age", "secrets.age"):
            shutil.copy(pod.out / name, place / name)
        (place / "told").write_text(pod.bulle("project", "list") + pod.bulle("transfer", "key"))

    apart(body)
    yield place
    shutil.rmtree(place)


def in_a_new_release(root: Path, saved: Path, body: Callable[[Pod, list[str | Path]], None], key: bytes = KEY) -> None:
    def inside() -> None:
        pod = Pod.make(root / "new", key)
        pod.bulle("person", "list")  # as the authority does at its start, it makes the store
        file, secrets, identity = (pod.given(saved / name) for name in ("backup.age", "secrets.age", "identity"))
        body(pod, ["backup", "restore", file, "--identity", identity, "--secrets", secrets])

    apart(inside)


def test_a_new_release_becomes_the_deployment_of_the_backup(root: Path, saved: Path) -> None:
    def body(pod: Pod, words: list[str | Path]) -> None:
        own = pod.key(GRANT_KEY), pod.key(AUDIT_KEY)
        assert "is in the volumes" in pod.bulle(*words)
        assert (pod.key(GRANT_KEY), pod.key(AUDIT_KEY)) != own
        assert pod.beside == []
        assert "signing keys" not in pod.prepared()
        pod.bulle("audit", "verify")
        assert pod.bulle("project", "list") + pod.bulle("transfer", "key") == (saved / "told").read_text()
        pod.bulle("project", "suspend", "doctor-visits", "--as", "custodian")
        layout = layout_of(pod.volumes)
        for folder in folders(layout):
            assert mode(folder.path) == folder.mode, folder
        assert {mode(path) for path in (*layout.authority.glob("*"), *layout.audit.glob("*"))} == {0o600}
        assert {path.stat().st_uid for path in layout.keyring.iterdir()} == {GROUP}
        assert "was done" in pod.refused(*words) or "there is something" in pod.refused(*words)

    in_a_new_release(root, saved, body)


@pytest.mark.parametrize("what", ["a person", "a key", "a home", "a dataset", "a word in the log"])
def test_a_release_in_which_something_was_done_keeps_it(root: Path, saved: Path, what: str) -> None:
    def body(pod: Pod, words: list[str | Path]) -> None:
        layout = layout_of(pod.volumes)
        if what == "a person":
            pod.bulle("person", "add", "somebody", "--name", "Somebody", "--email", "somebody@example.org")
        elif what == "a key":
            pod.bulle("transfer", "key")
        elif what == "a home":
            (layout.folders / ("a" * 64)).mkdir()
        elif what == "a dataset":
            (layout.datasets / "people").mkdir()
        else:
            as_the_authority(
                "-c",
                "from orchestrator.cli.context import *; from orchestrator.terms import *; "
                "open_audit(open_settings()).record(Event(kind='login.refused', actor='hub', outcome=Outcome.REFUSED))",
                BULLE_SETTINGS=str(pod.settings_file),
            ).check_returncode()
        before = pod.files()
        said = pod.refused(*words)
        assert "in this deployment" in said or "not empty" in said, said
        assert pod.files() == before and pod.beside == []

    in_a_new_release(root, saved, body)


def test_a_release_whose_authority_runs_is_refused(root: Path, saved: Path) -> None:
    def body(pod: Pod, words: list[str | Path]) -> None:
        before = pod.files()
        program = (
            "import subprocess, sys; from orchestrator.cli.context import *; s = open_settings(); "
            "g = open_governance(s); g.projects(); "
            "sys.exit(subprocess.run([sys.executable, '-m', 'orchestrator.cli', *sys.argv[1:]]).returncode)"
        )
        done = as_the_authority("-c", program, *map(str, words), BULLE_SETTINGS=str(pod.settings_file))
        assert done.returncode == 1 and "in use" in done.stderr, done.stderr
        assert pod.files() == before
        pod.bulle(*words)  # the negative control: it was that

    in_a_new_release(root, saved, body)


def test_a_restore_that_fails_leaves_the_new_release_as_it_was(root: Path, saved: Path) -> None:
    def body(pod: Pod, words: list[str | Path]) -> None:
        before = pod.files()
        changed = bytearray((saved / "backup.age").read_bytes())
        changed[len(changed) // 2] ^= 1
        Path(words[2]).write_bytes(changed)
        assert "does not open" in pod.refused(*words)
        assert pod.files() == before and pod.beside == []
        pod.prepared()
        pod.bulle("person", "list")

    in_a_new_release(root, saved, body)


def test_the_key_of_another_custodian_is_told_before_anything_is_put(root: Path, saved: Path) -> None:
    def body(pod: Pod, words: list[str | Path]) -> None:
        before = pod.files()
        assert "not the one of the backup" in pod.refused(*words)
        assert pod.files() == before and pod.beside == []

    in_a_new_release(root, saved, body, key=os.urandom(32))


def test_a_restore_that_is_killed_is_begun_anew(root: Path, saved: Path) -> None:
    def body(pod: Pod, words: list[str | Path]) -> None:
        program = (
            "import os, sys; from pathlib import Path; from orchestrator.moving import restore as r; r._spread = "
            "lambda staging, places: ([next(p.iterdir()).rename(p / 'half') for p in places[:1]], os._exit(9)); "
            "from orchestrator.cli import main; main(sys.argv[1:])"
        )
        done = as_the_authority("-c", program, *map(str, words), BULLE_SETTINGS=str(pod.settings_file))
        assert done.returncode == 9, done.stderr
        assert (layout_of(pod.volumes).authority / RESTORING).exists() or pod.beside
        assert run_prepare(pod.volumes).returncode == 1, "half a deployment starts nothing"
        pod.bulle(*words)
        assert pod.beside == []
        pod.prepared()
        assert "doctor-visits" in pod.bulle("project", "list")

    in_a_new_release(root, saved, body)

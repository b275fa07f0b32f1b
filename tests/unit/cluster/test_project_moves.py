"""A project that goes from a single machine to a cluster's tools' pod and back, with homes that people work in."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.audit import load_public_key
from orchestrator.audit.chain import fingerprint
from orchestrator.config import Uid
from orchestrator.governance.keys import GRANT_PUBLIC
from orchestrator.keys import KeyRing, open_custodian
from orchestrator.moving import arriving, leaving
from orchestrator.moving.transfer import transfer_identity
from orchestrator.node.folders import Folders, folder_name, home_key, project_key
from tests.unit.cluster.pod import Pod
from tests.unit.cluster.test_prepare import only_root
from tests.unit.moving.stage import Deployment, clock, signer_of
from tests.unit.node.apart import apart

pytestmark = only_root
MINE, THEIRS = b"written on the single machine\n" * 500, b"written on the cluster\n" * 500


@pytest.fixture
def disk() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="bulle-moves-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def node_agent(pod: Pod) -> Folders:
    """The node agent of the cluster, which is root and mounts what the tools only carry."""
    settings = pod.settings
    return Folders(settings.layout, KeyRing(settings.layout.keyring, open_custodian(settings, settings.layout)))


def worked(folders: Folders, key_id: str, name: str, content: bytes) -> None:
    """Somebody works in a folder: what was there is there, and a file more."""
    place = folders.open(key_id, 32)
    (place / name).write_bytes(content)
    os.chown(place / name, Uid.SANDBOX, Uid.SANDBOX)
    folders.close(key_id)


def test_a_project_goes_to_a_cluster_and_back(disk: Path) -> None:
    def body() -> None:
        source = Deployment.make(disk, "source").fill()
        home, shared = home_key(source.project_id, "researcher"), project_key(source.project_id)
        for key_id in (home, shared):
            (source.layout.folders / folder_name(key_id) / "disk.img").unlink()
        worked(Folders(source.layout, source.ring), home, "mine.txt", MINE)
        shutil.rmtree(source.layout.folders / folder_name(shared))  # nobody opened it yet: the cluster will make it

        # to the cluster: in its tools' pod, as its user, who may mount nothing
        pod = Pod.make(disk / "pod", os.urandom(32), "cluster")
        to_pod = re.findall(r"--for (age1\w+)", pod.bulle("transfer", "key"))[0]
        leaving.export(
            source.settings, source.governance(), source.ring, source.audit(), by="custodian", slug="sleep",
            recipient=to_pod, out=disk / "going.age", clock=clock,
        )  # fmt: skip
        pod.bulle("project", "import", pod.given(disk / "going.age"), "--from", signer_of(source))
        assert pod.beside == []
        pod.bulle("person", "add", "keeper", "--name", "Keeper", "--email", "keeper@example.org")
        pod.bulle("person", "role", "add", "keeper", "custodian")
        pod.bulle("project", "activate", "sleep", "--as", "keeper")
        agent = node_agent(pod)
        place = agent.open(home, 32)
        assert (place / "mine.txt").read_bytes() == MINE
        agent.close(home)
        worked(agent, home, "theirs.txt", THEIRS)
        worked(agent, shared, "shared.txt", THEIRS)

        # and back, to a machine of its own
        back = Deployment.make(disk, "back")
        to_back = str(transfer_identity(back.layout, back.ring.custodian, make=True).to_public())
        pod.bulle("project", "export", "sleep", "--for", to_back, "--out", pod.out / "coming.age", "--as", "keeper")
        assert pod.beside == []
        # what node agents made is in a backup too
        said = pod.bulle("backup", "create", pod.out / "all.age", "--for", to_back)
        assert "was in use" not in said
        signer = fingerprint(load_public_key(pod.settings.layout.public / GRANT_PUBLIC))
        report = arriving.take_in(
            back.settings, back.governance(), back.ring, back.audit(), pod.out / "coming.age", signer=signer
        )
        assert (report.folders, report.changed) == (2, ())
        folders = Folders(back.layout, back.ring)
        place = folders.open(home, 32)
        assert ((place / "mine.txt").read_bytes(), (place / "theirs.txt").read_bytes()) == (MINE, THEIRS)
        folders.close(home)
        place = folders.open(shared, 32)
        assert (place / "shared.txt").read_bytes() == THEIRS
        folders.close(shared)

        # the permit, the data as the project sees them, and what was done there
        assert back.terms() == source.terms()
        assert back.view(disk / "view-back") == source.view(disk / "view-source")
        extract = back.layout.audit / "imported" / source.project_id / "audit.jsonl"
        told = [json.loads(line)["event"] for line in extract.read_text().splitlines()]
        assert "import.write" in {one["kind"] for one in told} and "keeper" in {one["actor"] for one in told}
        for path in pod.volumes.rglob("disk.img"):
            assert MINE[:30] not in path.read_bytes()

    apart(body)

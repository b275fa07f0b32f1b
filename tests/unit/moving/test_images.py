"""Homes that are copied while somebody works in them, with real mounts; and homes that open after the journey."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from pyrage import x25519

from orchestrator.config import Uid, load_settings
from orchestrator.moving import arriving, backup, images, leaving, restore
from orchestrator.moving.images import still
from orchestrator.moving.transfer import transfer_identity
from orchestrator.node import mounts
from orchestrator.node.folders import Folders, folder_name, home_key, project_key
from orchestrator.node.lease import Leases
from tests.unit.moving.stage import Deployment, clock, signer_of
from tests.unit.node.apart import apart

NOTE = b"what the researcher found\n" * 2000


def prepared(deployment: Deployment) -> Folders:
    """The node agent's folders, in place of those of noise."""
    for key_id in (home_key(deployment.project_id, "researcher"), project_key(deployment.project_id)):
        image = deployment.layout.folders / folder_name(key_id) / "disk.img"
        image.unlink(missing_ok=True)
    return opened(deployment)


def opened(deployment: Deployment) -> Folders:
    return Folders(deployment.layout, deployment.ring)


def test_a_home_that_is_in_use_is_frozen_copied_and_opens_after_every_journey(folder: Path) -> None:
    def body() -> None:
        disk = Path(f"/var/tmp/bulle-moving-{os.getpid()}")
        try:
            _journeys(disk)
        finally:
            subprocess.run(["rm", "-rf", disk], check=True)

    apart(body)


def _journeys(disk: Path) -> None:
    source = Deployment.make(disk, "source").fill()
    destination = Deployment.make(disk, "destination")
    key_id = home_key(source.project_id, "researcher")
    folders = prepared(source)
    home = folders.open(key_id, 32)
    (home / "note.txt").write_bytes(NOTE)
    os.chown(home / "note.txt", Uid.SANDBOX, Uid.SANDBOX)

    # in use, and not even written to the disk yet: export and backup say so
    recipient = str(transfer_identity(destination.layout, destination.ring.custodian, make=True).to_public())
    report = leaving.export(
        source.settings, source.governance(), source.ring, source.audit(),
        by="custodian", slug="sleep", recipient=recipient, out=disk / "project.age", clock=clock,
    )  # fmt: skip
    name = f"folders/{folder_name(key_id)}/disk.img"
    assert report.in_use == {name: "crash-consistent"}
    identity = x25519.Identity.generate()
    whole = backup.create(
        source.settings, source.settings_file, source.store(), source.audit(), [str(identity.to_public())],
        disk / "backup.age", secrets=disk / "secrets.age", clock=clock,
    )  # fmt: skip
    assert whole.in_use == {name: "crash-consistent"}
    # and it is as it was: whoever works there goes on
    (home / "later.txt").write_text("still writable")
    folders.close(key_id)

    arriving.take_in(
        destination.settings, destination.governance(), destination.ring, destination.audit(), disk / "project.age",
        signer=signer_of(source),
    )  # fmt: skip
    restore.restore(disk / "backup.age", identity, disk / "new", secrets=disk / "secrets.age", clock=clock)
    again = Deployment("new", disk, load_settings(disk / "new" / restore.RESTORED_SETTINGS))
    for each in (destination, again):
        there = opened(each)
        home = there.open(key_id, 32)
        assert (home / "note.txt").read_bytes() == NOTE
        assert not (home / "later.txt").exists()
        there.close(key_id)
        image = each.layout.folders / folder_name(key_id) / "disk.img"
        assert NOTE[:20] not in image.read_bytes()


def _ext4(disk: Path) -> tuple[Path, Path]:
    image, mount = disk / "disk.img", disk / "mount"
    mount.mkdir(parents=True)
    with image.open("xb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    mounts.image_mount(image, mount)
    return image, mount


def _writes(mount: Path) -> bool:
    """Whether somebody who writes there is done within a moment."""
    command = ["timeout", "--signal=KILL", "1", "sh", "-c", f"echo x >> {mount}/file && sync -f {mount}/file"]
    return subprocess.run(command, check=False).returncode == 0


def test_a_frozen_file_system_thaws_whatever_becomes_of_the_backup(folder: Path) -> None:
    def body() -> None:
        disk = Path(f"/var/tmp/bulle-frozen-{os.getpid()}")
        image, mount = _ext4(disk)
        try:
            child = os.fork()
            if child == 0:
                with still(image, mount):
                    time.sleep(60)
                os._exit(0)
            time.sleep(1)
            os.kill(child, 9)
            os.waitpid(child, 0)
            time.sleep(1)
            assert _writes(mount), "it stays frozen"
            # and one that takes too long is told of, and holds nobody up
            with still(image, mount, patience=1) as copy:
                time.sleep(2)
                assert copy.copied() in ("changed", "crash-consistent")
                assert _writes(mount)
        finally:
            mounts.unmount(mount)
            subprocess.run(["rm", "-rf", disk], check=True)

    apart(body)


def test_an_image_that_changes_while_it_is_read_is_said_to_have_changed(folder: Path) -> None:
    image = folder / "disk.img"
    image.write_bytes(b"x" * 8192)
    with still(image, folder / "nowhere") as copy:
        assert copy.copied() == "whole"
        os.utime(image, ns=(1, 1))
        assert copy.copied() == "changed"


def test_negative_control_without_the_child_that_thaws_it_stays_frozen(folder: Path) -> None:
    def body() -> None:
        disk = Path(f"/var/tmp/bulle-control-{os.getpid()}")
        image, mount = _ext4(disk)
        # by the parent itself, which is killed before it can thaw
        images._FREEZE = 'fsfreeze --freeze "$0" && echo frozen && read -r -t "$1" _'
        try:
            child = os.fork()
            if child == 0:
                with still(image, mount):
                    time.sleep(60)
            time.sleep(1)
            os.kill(child, 9)
            os.waitpid(child, 0)
            frozen = not _writes(mount)
            subprocess.run(["fsfreeze", "--unfreeze", mount], check=False)
            assert frozen
        finally:
            subprocess.run(["fsfreeze", "--unfreeze", mount], check=False, stderr=subprocess.DEVNULL)
            mounts.unmount(mount)
            subprocess.run(["rm", "-rf", disk], check=True)

    apart(body)


def open_on_another_node(folder: Path) -> None:
    image = folder / "disk.img"
    image.write_bytes(b"x" * 4096)
    elsewhere = Leases("another-node", "another-boot")
    with still(image, folder / "mount") as copied:
        assert copied.copied() == "whole"
    held = elsewhere.take(folder, lambda: True)
    with still(image, folder / "mount") as copied:
        # It was closed before the copy was whole: what lies in the copy was written at different times all the same.
        elsewhere.give_back(held)
        assert copied.copied() == "changed"
    with still(image, folder / "mount") as copied:
        elsewhere.take(folder, lambda: True)
        assert copied.copied() == "changed"


def test_an_image_that_another_node_has_open_is_never_said_to_be_whole(tmp_path: Path) -> None:
    open_on_another_node(tmp_path)


def test_negative_control_without_a_look_at_leases_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "held_by", lambda folder: None)
    with pytest.raises(AssertionError):
        open_on_another_node(tmp_path)

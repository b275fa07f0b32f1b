"""The tar file: what any tar reads, and what this one refuses to read."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from orchestrator.errors import InputError
from orchestrator.moving.archive import Part, Writer, extents, unpack

LAST = "last"


@pytest.fixture
def image(folder: Path) -> Path:
    path = folder / "disk.img"
    with path.open("xb") as file:
        file.truncate(64 << 20)
        for at in (0, 5 << 20, (64 << 20) - 4096):
            file.seek(at)
            file.write(os.urandom(4096))
    return path


def written(*parts: tuple[str, bytes], image: Path | None = None) -> tuple[bytes, list[Part]]:
    stream = io.BytesIO()
    writer = Writer(stream, 0)
    for name, data in parts:
        writer.add(name, data)
    if image is not None:
        descriptor = os.open(image, os.O_RDONLY)
        writer.add_image("folders/a/disk.img", descriptor, lambda: "whole")
        os.close(descriptor)
    writer.close(LAST, b"the end")
    return stream.getvalue(), writer.parts


def read(content: bytes, into: Path) -> tuple[list[Part], bytes]:
    into.mkdir(exist_ok=True)
    return unpack(io.BytesIO(content), into, lambda name: name.startswith(("good", "folders/")), LAST)


def test_parts_come_back_with_their_digests_and_images_without_filling_their_holes(folder: Path, image: Path) -> None:
    content, parts = written(("good/one", b"1"), ("good/two", b""), image=image)
    assert len(content) < 1 << 20
    assert read(content, folder / "out") == (parts, b"the end")
    copy = folder / "out" / "folders" / "a" / "disk.img"
    assert copy.read_bytes() == image.read_bytes()
    assert copy.stat().st_blocks * 512 < 1 << 20
    assert (folder / "out" / "good" / "one").stat().st_mode & 0o777 == 0o600


def test_any_tar_reads_it(folder: Path, image: Path) -> None:
    content, _ = written(("good/one", b"1"), image=image)
    (folder / "out").mkdir()
    subprocess.run(["tar", "-x", "-C", folder / "out"], input=content, check=True)
    assert (folder / "out" / "folders" / "a" / "disk.img").read_bytes() == image.read_bytes()
    assert (folder / "out" / "good" / "one").read_bytes() == b"1"


def test_an_image_of_holes_alone(folder: Path) -> None:
    path = folder / "empty.img"
    with path.open("xb") as file:
        file.truncate(1 << 20)
    content, parts = written(image=path)
    assert read(content, folder / "out")[0] == parts
    assert (folder / "out" / "folders" / "a" / "disk.img").stat().st_size == 1 << 20
    with path.open("rb") as file:
        assert list(extents(file.fileno())) == []


def made(*members: tarfile.TarInfo) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return stream.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    return info


@pytest.mark.parametrize(
    "wrong",
    [
        member("../good"),
        member("/etc/good"),
        member("bad"),
        member("good", tarfile.SYMTYPE, link="/etc/passwd"),
        member("good", tarfile.LNKTYPE, link="last"),
        member("good", tarfile.CHRTYPE),
        member("good", tarfile.BLKTYPE),
        member("good", tarfile.FIFOTYPE),
        member("good", tarfile.DIRTYPE),
        member(LAST, tarfile.SYMTYPE, link="/etc/passwd"),
    ],
    ids=lambda info: f"{info.name}-{info.type.decode()}",
)
def test_what_does_not_belong_is_refused(folder: Path, wrong: tarfile.TarInfo) -> None:
    with pytest.raises(InputError, match="belong"):
        read(made(wrong, member(LAST)), folder / "out")
    assert list((folder / "out").iterdir()) == []


def test_a_part_twice_one_after_the_last_and_none_at_all_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="twice"):
        read(made(member("good"), member("good"), member(LAST)), folder / "a")
    with pytest.raises(InputError, match="goes on"):
        read(made(member(LAST), member("good")), folder / "b")
    for content in (made(member("good")), b""):
        with pytest.raises(InputError, match=r"cut|damaged"):
            read(content, folder / f"c{len(content)}")


def test_a_huge_hole_and_pieces_in_disorder_are_refused(folder: Path) -> None:
    for sparse, size in (("1\n0\n0\n", 1 << 50), ("2\n4096\n1\n0\n1\n", 8192), ("1\n0\n512\n", 100)):
        info = member("GNUSparseFile.0/good", size=514)
        info.pax_headers = {
            "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "good",
            "GNU.sparse.realsize": str(size),
        }  # fmt: skip
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
            tar.addfile(info, io.BytesIO(sparse.encode().ljust(512, b"\0") + b"xx"))
        with pytest.raises(InputError):
            read(stream.getvalue(), folder / f"out{size}")

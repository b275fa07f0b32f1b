"""Whoever takes the disks of a used deployment finds nothing: no identifier, no pseudonym, no value.

A data set with planted values is ingested, seen in a workspace, written into home, project folder and temporary files,
drawn on the screen; then every persistent byte is searched: the state folder, and all that the engine keeps (volumes,
container layers and logs, image layers). The negative controls put the same values where encryption would have hidden
them, and see them found.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest
from playwright.sync_api import Browser

from orchestrator.cli import demo
from orchestrator.data.ingest import ingest
from orchestrator.data.schema import load_schema
from orchestrator.keys import FileCustodian, KeyRing
from tests.integration.people import log_in, open_workspace, person, type_in_terminal
from tests.integration.rest import Needle, search
from tests.integration.test_end_to_end import inside, mounts_of, part, password, sessions

#: nothing was planted before this; the engine's image layers of before need not be read again
BEGAN = time.time()
DATASET = "planted"
PROJECT = "planted-study"
IDENTIFIER = "planted-person-1850275116001"
VALUE = "planted diagnosis: quince marmalade fever"
NUMBER = 7_318_640_917_452

SCHEMA = """
title: Planted values
columns:
  - {name: person, type: string, role: identifier}
  - {name: diagnosis, type: string, role: free-text}
  - {name: amount, type: integer, role: measure}
"""
PERMIT = f"""
valid_from: 2020-01-01
valid_until: 2099-12-31
tables: [{{dataset: {DATASET}, columns: [person, diagnosis, amount]}}]
"""


def write_source(folder: Path) -> tuple[Path, Path]:
    """The planted data set and its schema, in RAM."""
    folder.mkdir(parents=True, exist_ok=True)
    source, schema = folder / "planted.csv", folder / "planted.yaml"
    rows = "".join(f"{IDENTIFIER}-{n},{VALUE} {n},{NUMBER + n}\n" for n in range(500))
    source.write_text("person,diagnosis,amount\n" + rows)
    schema.write_text(SCHEMA)
    return source, schema


@dataclass
class Used:
    """What a session saw, and what must not be found."""

    session: str
    needles: list[Needle]


@pytest.fixture(scope="module")
def used(
    deployment: demo.Running, place: demo.Place, browser: Browser, engine: docker.DockerClient, bulle
) -> Iterator[Used]:
    """A workspace in which somebody worked with the planted data, still running."""
    scratch = Path("/dev/shm") / f"planted-{place.deployment}"
    source, schema = write_source(scratch)
    (scratch / "permit.yaml").write_text(PERMIT)
    bulle("dataset", "ingest", DATASET, str(source), "--schema", str(schema))
    bulle(
        *("project", "create", PROJECT, "--title", "Planted", "--purpose", "Look for what should not be there"),
        *("--lead", "lead", "--until", "2027-06-30", "--as", "custodian"),
    )
    bulle("project", "activate", PROJECT, "--as", "custodian")
    bulle("permit", "draft", PROJECT, str(scratch / "permit.yaml"), "--as", "lead")
    bulle("permit", "approve", PROJECT, "1", "--as", "custodian")
    bulle("member", "request", PROJECT, "researcher", "--as", "researcher")
    bulle("member", "approve", PROJECT, "researcher", "--as", "lead")
    shutil.rmtree(scratch)
    with person(browser) as profile:
        page = profile.new_page()
        log_in(page, deployment.url, "researcher", password(deployment, "researcher"))
        open_workspace(page, PROJECT)
        session = next(each["session"] for each in sessions(bulle) if each["project"] == PROJECT)
        sandbox = part(engine, place, session, "sandbox")
        work = (
            "import pandas as pd; t = pd.read_parquet('/data/planted/planted.parquet');"
            "t.to_csv('/home/researcher/copy.csv'); t.to_csv('/project/copy.csv'); t.to_csv('/tmp/copy.csv');"
            "print(t['person'][0]); print(len(t))"
        )
        pseudonym, rows = inside(sandbox, "python3", "-W", "ignore", "-c", work).split()[:2]
        assert rows == "500"
        name = f"{pseudonym}-in-a-name.txt"
        inside(sandbox, "sh", "-c", f"echo {pseudonym} > /home/researcher/{name}; cp /home/researcher/{name} /project/")
        type_in_terminal(page, "cat ~/copy.csv; head /data/planted/planted.parquet")
        time.sleep(2)
    yield Used(
        session,
        [
            Needle.text("identifier", IDENTIFIER),
            Needle.text("value", VALUE),
            Needle.text("number", str(NUMBER)),
            Needle.raw("number as stored", NUMBER.to_bytes(8, "little")),
            Needle.text("pseudonym", pseudonym),
            Needle.raw("pseudonym as stored", bytes.fromhex(pseudonym)),
        ],
    )
    bulle("workspace", "stop", session)


def engine_folder(engine: docker.DockerClient) -> Path:
    return Path(engine.info()["DockerRootDir"])


@pytest.mark.timeout(600)
def test_no_persistent_byte_tells_anything(used: Used, place: demo.Place, engine: docker.DockerClient, bulle) -> None:
    """While it runs, and after it ended."""
    assert mounts_of(place), "the search is of a deployment in use"
    assert search(place.state, used.needles) == []
    # what the engine keeps: volumes, container layers and logs, image layers
    assert search(engine_folder(engine), used.needles, deep=False, since=BEGAN) == []
    bulle("workspace", "stop", used.session)
    assert mounts_of(place) == []
    assert search(place.state, used.needles) == []


@pytest.mark.timeout(300)
def test_the_search_finds_a_data_set_that_is_not_encrypted(used: Used, tmp_path: Path) -> None:
    """Negative control: the same ingest with encryption switched off, and the needles are there."""
    source, schema = write_source(Path("/dev/shm") / f"planted-{tmp_path.name}")
    FileCustodian.create(tmp_path / "custodian")
    try:
        for name, encrypted in (("clear", False), ("sealed", True)):
            folder = tmp_path / name
            folder.mkdir()
            ring = KeyRing(tmp_path / f"keyring-{name}", FileCustodian(tmp_path / "custodian"))
            ingest(source, load_schema(schema), dataset=DATASET, folder=folder, ring=ring, _encrypted=encrypted)
    finally:
        shutil.rmtree(source.parent)
    assert {"value", "number"} <= {found.needle for found in search(tmp_path / "clear", used.needles)}
    assert search(tmp_path / "sealed", used.needles) == []


@pytest.mark.parametrize("where", ["folders", "hub", "audit", "authority", "datasets", "public"])
def test_the_search_finds_what_lies_in_clear_anywhere_in_the_state(used: Used, place: demo.Place, where: str) -> None:
    """Negative control: a home, log or database that were not encrypted."""
    planted = place.state / where / "in-clear"
    planted.write_text(f"x{IDENTIFIER}y{VALUE}")
    try:
        found = search(place.state, used.needles)
    finally:
        planted.unlink()
    assert {(each.needle, each.where) for each in found} == {("identifier", planted), ("value", planted)}


def test_the_search_finds_what_a_container_writes_to_disk(
    used: Used, engine: docker.DockerClient, images: dict[str, str]
) -> None:
    """Negative control: a container with a log and a writable root, as a sandbox must never be."""
    careless = engine.containers.run(
        images["sandbox"],
        ["sh", "-c", f"echo '{VALUE}'; echo '{IDENTIFIER}' > /var/tmp/left"],
        user="0",
        network_mode="none",
        detach=True,
    )
    try:
        careless.wait(timeout=60)
        found = {each.needle for each in search(engine_folder(engine), used.needles, deep=False, since=BEGAN)}
    finally:
        careless.remove(force=True)
    assert {"identifier", "value"} <= found


def test_keys_on_disk_are_wrapped(place: demo.Place, used: Used) -> None:
    """The key ring holds no key that opens a data set without the custodian."""
    wrapped = [path for path in (place.state / "keyring").rglob("*") if path.is_file()]
    assert wrapped
    for path in wrapped:
        found = path.stat()
        assert (found.st_uid, found.st_mode & 0o777) == (0, 0o600)
        # nonce, key, tag: what is stored cannot be the key itself
        assert found.st_size > 32
    assert json.loads((place.state / "public" / "images.json").read_text())["sandbox"].startswith("sha256:")

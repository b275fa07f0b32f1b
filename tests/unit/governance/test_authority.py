"""The authority on its real sockets: each client can do its own and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from orchestrator.config import Layout
from orchestrator.errors import (
    AuditError,
    InputError,
    NotFoundError,
    RefusedError,
    SettingsError,
    UnavailableError,
)
from orchestrator.governance import authority as authority_module
from orchestrator.governance.authority import HUB, MAX_BODY, NODE, PORTAL, Authority, hub_app
from orchestrator.governance.client import AsyncAuthorityClient, AuthorityClient
from orchestrator.governance.grants import issuer_of, verify_grant
from orchestrator.governance.keys import create_signing_keys, load_public_key
from orchestrator.governance.serving import listen
from orchestrator.terms import Event, Outcome, SessionClaim
from tests.unit.governance.places import GRANT_KEY, Kept

PROGRAM = """
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from orchestrator.audit import AuditLog
from orchestrator.config import Settings
from orchestrator.governance.authority import serve
from orchestrator.governance.keys import load_private_key
from orchestrator.governance.service import Governance
from orchestrator.governance.store import Store
from tests.unit.governance import places

settings = Settings(deployment="trial", state=sys.argv[1],
                    oidc={"issuer": "http://127.0.0.1:1", "client_id": "x", "client_secret_file": "/x"})
clock = lambda: datetime.now(UTC)
audit = AuditLog(settings.layout.audit, load_private_key(settings.layout.authority / "audit.key.pem"), clock=clock)
store = Store(settings.database_url)
store.prepare()
governance = Governance(store, audit, clock, places.Shelf())
if not governance.persons():
    places.START = clock() - timedelta(days=1)
    places.running.__globals__["START"] = places.START
    places.running.__globals__["draft"].__defaults__ = ()
    places.draft.__kwdefaults__["start"] = places.START
    places.running(governance)
serve(settings, governance)
"""

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def deployment():
    """A running authority: its layout and its process."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        layout = Layout(Path(name))
        for folder in ("hub", "portal", "node"):
            layout.socket(folder).parent.mkdir(parents=True)
        create_signing_keys(layout)
        process = start(layout)
        yield layout, process
        process.terminate()
        process.wait(20)


def start(layout: Layout) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(layout.state)], cwd=ROOT)
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with AuthorityClient(layout.socket("node")) as node:
                node.check_sessions([])
                return process
        except UnavailableError:
            time.sleep(0.05)
    raise AssertionError("the authority did not start")


@pytest.fixture
def layout(deployment):
    return deployment[0]


@pytest.fixture
def hub(layout):
    with AuthorityClient(layout.socket("hub")) as client:
        yield client


@pytest.fixture
def portal(layout):
    with AuthorityClient(layout.socket("portal")) as client:
        yield client


@pytest.fixture
def node(layout):
    with AuthorityClient(layout.socket("node")) as client:
        yield client


def records(layout):
    from orchestrator.audit import open_for_verification

    return [record.event for record in open_for_verification(layout).read()]


def test_sockets_are_for_owner_and_group(layout):
    for name in ("hub", "portal", "node"):
        mode = layout.socket(name).stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o660


def test_a_grant_from_end_to_end(layout, hub, node):
    issued = hub.grant("researcher", "sleep")
    key = load_public_key(layout.public / "grant.pub.pem")
    verified = verify_grant(issued.grant, key, issuer_of("trial"), datetime.now(UTC))
    assert verified.grant.session == issued.session
    assert verified.grant.ends_at == issued.ends_at
    event = records(layout)[-1]
    assert (event.kind, event.person, event.project, event.session) == (
        "grant.issue",
        "researcher",
        "sleep",
        issued.session,
    )
    assert issued.grant not in (layout.audit / "log.jsonl").read_text()
    claim = SessionClaim(
        session=issued.session,
        person="researcher",
        project_id=verified.grant.project_id,
        permit_version=1,
    )
    verdicts = node.check_sessions([claim, claim.model_copy(update={"permit_version": 2})])
    assert [one.allowed for one in verdicts] == [True, False]


@pytest.mark.parametrize(("person", "project"), [("outsider", "sleep"), ("researcher", "x"), ("nobody", "sleep")])
def test_a_refusal_is_typed_and_audited(layout, hub, person, project):
    with pytest.raises(RefusedError, match="not-a-member"):
        hub.grant(person, project)
    event = records(layout)[-1]
    assert (event.kind, event.outcome, event.person) == ("grant.refused", Outcome.REFUSED, person)
    assert "not-a-member" in event.detail["reason"]


def test_persons(hub, portal):
    card = hub.person_upsert("ada", "ada", "Ada", "ada@example.org")
    assert portal.person("ada") == card
    assert portal.projects("ada") == []
    assert [one.slug for one in portal.projects("researcher")] == ["sleep"]
    with pytest.raises(NotFoundError):
        portal.person("nobody")
    with pytest.raises(NotFoundError):
        portal.projects("nobody")
    with pytest.raises(InputError, match="not the id of"):
        hub.person_upsert("ada", "other", "Ada")
    for odd in ("a/../b", "é~", "%2e", "a?b", "x" * 65):
        with pytest.raises((NotFoundError, InputError)):
            portal.person(odd)
    assert portal.deployment().model_dump() == {"deployment": "trial", "embedded_custodian": True}


def test_each_socket_has_its_own_calls(hub, portal, node):
    claim = SessionClaim(session="0" * 32, person="x", project_id="0" * 32, permit_version=1)
    for call in (
        lambda: portal.grant("researcher", "sleep"),
        lambda: node.grant("researcher", "sleep"),
        lambda: portal.person_upsert("ada", "ada", "Ada"),
        lambda: node.person_upsert("ada", "ada", "Ada"),
        lambda: hub.person("lead"),
        lambda: node.projects("lead"),
        lambda: hub.check_sessions([claim]),
        lambda: portal.check_sessions([claim]),
        hub.deployment,
    ):
        with pytest.raises(NotFoundError, match="no such call"):
            call()


OWN = {
    "hub": ["session.login", "session.logout", "login.refused", "workspace.request", "workspace.refused"],
    "portal": ["page.open"],
    "node": ["workspace.start", "probe.refused", "key.release", "view.build", "mount.make", "volume.mount"],
}


@pytest.mark.parametrize("name", OWN)
def test_each_socket_writes_its_own_events_under_its_own_name(layout, name):
    actor = "node-agent" if name == "node" else name
    with AuthorityClient(layout.socket(name)) as client:
        for kind in OWN[name]:
            told = Event(kind=kind, actor=actor, outcome=Outcome.DONE, person="lead", detail={"rows": 3})
            seq = client.record(told)
            assert records(layout)[seq - 1] == told
        for claimed in ("authority", "node-agent", "hub", "operator", "lead"):
            if claimed == actor:
                continue
            client.record(Event(kind=OWN[name][0], actor=claimed, outcome=Outcome.DONE))
            assert records(layout)[-1].actor == f"{actor}:{claimed}"
        others = {kind for other, kinds in OWN.items() if other != name for kind in kinds} - set(OWN[name])
        others |= {"grant.issue", "permit.approve", "audit.open", "person.add"}
        before = len(records(layout))
        if name == "node":
            others -= {"workspace.request", "workspace.refused"}
        for kind in sorted(others):
            with pytest.raises(RefusedError, match="own-events"):
                client.record(Event(kind=kind, actor=actor, outcome=Outcome.DONE))
        assert len(records(layout)) == before


def test_negative_control_without_the_override_the_hub_writes_as_the_node_agent(monkeypatch):
    class Nobody:
        audit = Kept()

    made = Authority(Nobody(), GRANT_KEY, "trial", True)
    forged = Event(kind="workspace.start", actor="node-agent", outcome=Outcome.DONE)
    with pytest.raises(RefusedError):
        made.write(HUB, forged)
    monkeypatch.setattr(authority_module.Part, "may_write", lambda *_: True)
    made.write(HUB, forged)
    assert Nobody.audit.events[-1].actor == "hub:node-agent", "the second control still holds"


def test_parts_do_not_share_families():
    for first in (HUB, NODE, PORTAL):
        for second in (HUB, NODE, PORTAL):
            if first is not second:
                assert not set(first.families) & set(second.families)


def test_a_secret_in_a_detail_is_not_logged(layout, node):
    with pytest.raises(AuditError, match="secret"):
        node.record(Event(kind="workspace.start", actor="node-agent", outcome=Outcome.DONE, detail={"token": "sesame"}))
    assert "sesame" not in (layout.audit / "log.jsonl").read_text()


def raw(layout, name) -> httpx.Client:
    return httpx.Client(transport=httpx.HTTPTransport(uds=str(layout.socket(name))), base_url="http://authority")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"person": 3}', b'{"person":"a","project":"b","more":1}', b"\xff", b"[" * 100_000],
)
def test_malformed_requests_are_one_typed_answer(layout, body):
    with raw(layout, "hub") as http:
        answer = http.post("/v1/grants", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["code"] == "input"
    assert set(answer.json()) == {"code", "message", "hint"}


def test_sizes_are_bounded(layout, hub, node):
    with raw(layout, "hub") as http:
        answer = http.post("/v1/grants", content=b" " * (MAX_BODY + 1))
        assert (answer.status_code, answer.json()["code"]) == (422, "input")

        def endless():
            for _ in range(200):
                yield b" " * 65536

        with contextlib.suppress(httpx.HTTPError):  # closed while we were still sending
            assert http.post("/v1/grants", content=endless()).status_code == 422
    with pytest.raises(InputError):
        hub.grant("x" * 65, "sleep")
    claim = SessionClaim(session="0" * 32, person="x", project_id="0" * 32, permit_version=1)
    with pytest.raises(InputError):
        node.check_sessions([claim] * 2001)


def test_the_awaitable_client(layout):
    async def ask():
        async with AsyncAuthorityClient(layout.socket("hub")) as hub:
            grants = await asyncio.gather(*(hub.grant("researcher", "sleep") for _ in range(10)))
            with pytest.raises(RefusedError):
                await hub.grant("outsider", "sleep")
            await hub.record(Event(kind="session.login", actor="hub", outcome=Outcome.DONE))
        async with AsyncAuthorityClient(layout.socket("portal")) as portal:
            await portal.deployment()
            await portal.person("lead")
            await portal.projects("lead")
        async with AsyncAuthorityClient(layout.socket("node")) as node:
            assert await node.check_sessions([]) == []
        return grants

    assert len({one.session for one in asyncio.run(ask())}) == 10


def test_nobody_there(tmp_path):
    with AuthorityClient(tmp_path / "no.sock") as client, pytest.raises(UnavailableError, match="does not answer"):
        client.check_sessions([])

    async def ask():
        async with AsyncAuthorityClient(tmp_path / "no.sock") as client:
            await client.deployment()

    with pytest.raises(UnavailableError):
        asyncio.run(ask())


def test_an_answer_from_something_else_is_not_believed(tmp_path):
    path = tmp_path / "odd.sock"
    listener = listen(path)
    listener.setblocking(True)

    import threading

    def answer():
        connection, _ = listener.accept()
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ntrue")
        connection.close()

    thread = threading.Thread(target=answer)
    thread.start()
    with AuthorityClient(path) as client, pytest.raises(UnavailableError, match="cannot be understood"):
        client.grant("researcher", "sleep")
    thread.join()
    listener.close()


def test_a_socket_needs_its_folder(tmp_path):
    with pytest.raises(SettingsError, match="cannot listen"):
        listen(tmp_path / "no" / "hub.sock")


def test_a_stale_socket_is_replaced(tmp_path):
    path = tmp_path / "hub.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    listen(path).close()


def test_sigterm_ends_it_and_the_next_one_takes_over(deployment):
    layout, first = deployment
    second_layout = Layout(layout.state)
    first.send_signal(signal.SIGTERM)
    assert first.wait(20) == 0
    assert not layout.socket("hub").exists()
    second = start(second_layout)
    try:
        with AuthorityClient(layout.socket("hub")) as hub:
            assert hub.grant("researcher", "sleep").ends_at > datetime.now(UTC) + timedelta(days=1)
        os.kill(second.pid, signal.SIGKILL)
        second.wait(20)
        assert layout.socket("hub").exists(), "left by a killed one"
        third = start(second_layout)
        with AuthorityClient(layout.socket("hub")) as hub:
            hub.grant("researcher", "sleep")
        third.terminate()
        assert third.wait(20) == 0
    finally:
        second.kill()


def test_no_page_that_describes_the_service():
    class Nobody:
        audit = Kept()

    app = hub_app(Authority(Nobody(), GRANT_KEY, "trial", True))
    assert app.openapi_url is None

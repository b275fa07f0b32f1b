"""The authority's port for node agents, with real TLS on loopback: who holds the right certificate, and nobody else."""

from __future__ import annotations

import asyncio
import socket
import ssl
import stat
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from orchestrator.errors import InputError, NotFoundError, SettingsError, UnavailableError
from orchestrator.governance import authority as authority_module
from orchestrator.governance import mutual_tls, secured, serving
from orchestrator.governance.authority import DOOR, MAX_BODY, NODE, Authority, cluster_app, node_app
from orchestrator.governance.cards import SessionNews
from orchestrator.governance.client import AuthorityClient
from orchestrator.governance.mutual_tls import NODE_AGENT, client_context, server_context
from orchestrator.governance.secured import Secured
from orchestrator.terms import Event, Outcome, SessionClaim, SessionVerdict
from tests.unit.governance.places import GRANT_KEY, Kept
from tests.unit.governance.signer import Signer

SERVER = "localhost"
CLAIM = SessionClaim(session="0" * 32, person="lead", project_id="0" * 32, permit_version=1)


# -- a served authority ------------------------------------------------------------------------------------------
class Governance:
    """What the applications ask, without a store."""

    def __init__(self) -> None:
        self.audit = Kept()
        self.heard_of: list[SessionClaim] = []

    def check_sessions(self, claims: list[SessionClaim]) -> list[SessionVerdict]:
        return [SessionVerdict(session=each.session, allowed=True) for each in claims]

    def heard(self, claims: list[SessionClaim], *, one_of_many: bool = False) -> None:
        self.heard_of += claims


class Served:
    """The node agents' application on a port, and the door's on a socket, in a thread."""

    def __init__(self, folder: Path, sockets: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.governance = Governance()
        made: Any = Authority(self.governance, GRANT_KEY, "trial", True)  # type: ignore[arg-type]
        self._secured = Secured(node_app(made), folder, self.port)
        self.door = sockets / "cluster.sock"
        self._listener = serving.listen(self.door)
        self._app = cluster_app(made)
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run)
        self.url = f"https://{SERVER}:{self.port}"

    def _run(self) -> None:
        async def run() -> None:
            port, certificates = self._secured.open()
            servers = [serving._server(self._app), serving._server(self._secured.app, 30)]
            parts = asyncio.gather(
                servers[0].serve(sockets=[self._listener]), secured.accepting(servers[1], certificates, port)
            )
            self._stop = lambda: [setattr(each, "should_exit", True) for each in servers]
            self._up.set()
            await parts
            port.close()

        self._loop.run_until_complete(run())
        self._loop.close()

    def __enter__(self) -> Served:
        self._up = threading.Event()
        self._thread.start()
        assert self._up.wait(10)
        for _ in range(500):
            with socket.socket() as trying:
                if trying.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.01)
        raise AssertionError("it does not listen")

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop)
        self._thread.join(20)


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer()


@pytest.fixture
def place(tmp_path: Path, signer: Signer) -> Path:
    signer.write(tmp_path / "authority", SERVER)
    signer.write(tmp_path / "node", NODE_AGENT)
    return tmp_path


@pytest.fixture
def served(place: Path) -> Iterator[Served]:
    with Served(place / "authority", place) as made:
        yield made


def asks(served: Served, folder: Path) -> list[SessionVerdict]:
    with AuthorityClient.over_tls(served.url, folder, timeout=5) as client:
        return client.check_sessions([CLAIM])


def refused(served: Served, folder: Path) -> bool:
    before = len(served.governance.heard_of)
    with pytest.raises(UnavailableError):
        asks(served, folder)
    return len(served.governance.heard_of) == before


# -- who may ----------------------------------------------------------------------------------------------------
def test_a_node_agent_asks_and_is_heard(served: Served, place: Path) -> None:
    with AuthorityClient.over_tls(served.url, place / "node") as client:
        assert [each.allowed for each in client.check_sessions([CLAIM])] == [True]
        assert client.record(Event(kind="workspace.start", actor="node-agent", outcome=Outcome.DONE)) == 1
        with pytest.raises(NotFoundError, match="no such call"):
            client.grant("lead", "heart")
        with pytest.raises(NotFoundError, match="no such call"):
            client.person("lead")
    assert served.governance.heard_of == [CLAIM]


def test_the_authority_s_own_certificate_is_no_node_agent_s(served: Served, place: Path) -> None:
    assert refused(served, place / "authority")


def test_without_the_look_at_the_name_the_authority_s_own_certificate_would_do(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutual_tls, "_FromNodeAgent", ssl.SSLObject)
    with Served(place / "authority", place) as served:
        assert asks(served, place / "authority")


@pytest.mark.parametrize(
    "names",
    [
        [f"{NODE_AGENT}.example.org"],
        [NODE_AGENT, SERVER],
        [SERVER, NODE_AGENT],
        [NODE_AGENT, "127.0.0.1"],
        ["*.bulle"],
        [NODE_AGENT.upper()],
        [],
    ],
)
def test_another_name_or_a_second_one_is_none(served: Served, place: Path, signer: Signer, names: list[str]) -> None:
    assert refused(served, signer.write(place / "other", *names, common=NODE_AGENT))


def test_another_signer_s_certificate_is_refused(served: Served, place: Path, signer: Signer) -> None:
    other = Signer().write(place / "other", NODE_AGENT)
    # it trusts the real server, so that only the server can refuse
    (other / "ca.crt").unlink()
    (other / "ca.crt").write_bytes(signer.certificate.public_bytes(Encoding.PEM))
    assert refused(served, other)


def test_one_that_ran_out_is_refused(served: Served, place: Path, signer: Signer) -> None:
    assert refused(served, signer.write(place / "late", NODE_AGENT, lasts=-timedelta(hours=1)))


@pytest.mark.parametrize("version", [None, ssl.TLSVersion.TLSv1_2])
def test_without_a_certificate_or_with_older_tls_nothing_is_answered(
    served: Served, place: Path, version: ssl.TLSVersion | None
) -> None:
    if version is None:
        context = ssl.create_default_context(cafile=place / "node" / "ca.crt")
    else:
        context = client_context(place / "node")
        context.minimum_version = context.maximum_version = version
    with httpx.Client(verify=context, trust_env=False, timeout=5) as http, pytest.raises(httpx.HTTPError):
        http.post(f"{served.url}/v1/sessions/check", json=[])
    assert served.governance.heard_of == []


def test_in_clear_nothing_is_answered(served: Served) -> None:
    with httpx.Client(trust_env=False, timeout=5) as http, pytest.raises(httpx.HTTPError):
        http.post(f"http://{SERVER}:{served.port}/v1/sessions/check", json=[])
    assert served.governance.heard_of == []


# -- whom the agent believes ------------------------------------------------------------------------------------
@pytest.mark.parametrize("who", ["other name", "other signer", "node agent"])
def test_an_agent_believes_the_authority_only(place: Path, signer: Signer, who: str) -> None:
    own = {"other name": "other.bulle.svc", "other signer": SERVER, "node agent": NODE_AGENT}[who]
    impostor = (Signer() if who == "other signer" else signer).write(place / "impostor", own)
    (impostor / "ca.crt").unlink()
    (impostor / "ca.crt").write_bytes(signer.certificate.public_bytes(Encoding.PEM))
    with Served(impostor, place) as served:
        assert refused(served, place / "node")


def test_no_proxy_of_the_environment_is_asked(served: Served, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    assert asks(served, place / "node")


@pytest.mark.parametrize("url", ["http://localhost:8443", "localhost:8443", ""])
def test_an_agent_never_asks_in_clear(place: Path, url: str) -> None:
    with pytest.raises(SettingsError, match="https"):
        AuthorityClient.over_tls(url, place / "node")


# -- certificates that change -----------------------------------------------------------------------------------
def test_renewed_certificates_are_used_on_both_sides_and_old_ones_no_longer(
    place: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secured, "LOOK_SECONDS", 0.05)
    stolen = place / "stolen"
    signer.write(stolen, NODE_AGENT)
    with Served(place / "authority", place) as served:
        client = AuthorityClient.over_tls(served.url, place / "node", timeout=5)
        thief = AuthorityClient.over_tls(served.url, stolen, timeout=5)
        assert client.check_sessions([CLAIM])
        assert thief.check_sessions([CLAIM])
        fresh = Signer()
        fresh.write(place / "authority", SERVER)
        fresh.write(place / "node", NODE_AGENT)
        time.sleep(0.5)  # longer than a look
        assert client.check_sessions([CLAIM])
        with pytest.raises(UnavailableError):
            thief.check_sessions([CLAIM])
        client.close()
        thief.close()


def test_files_that_do_not_belong_together_change_nothing(served: Served, place: Path, signer: Signer) -> None:
    with AuthorityClient.over_tls(served.url, place / "node", timeout=5) as client:
        for folder in ("authority", "node"):
            (place / folder / "..data" / "tls.crt").write_text("half a certificate")
        assert client.check_sessions([CLAIM])
        signer.write(place / "node", NODE_AGENT)
        signer.write(place / "authority", SERVER)
        assert client.check_sessions([CLAIM])


@pytest.mark.parametrize("missing", ["ca.crt", "tls.crt", "tls.key"])
def test_a_folder_without_one_of_the_files_serves_nobody(place: Path, missing: str) -> None:
    (place / "node" / missing).unlink()
    for make in (server_context, client_context):
        with pytest.raises(SettingsError):
            make(place / "node")
    with pytest.raises(SettingsError):
        Secured(node_app, place / "node", 0).open()  # type: ignore[arg-type]


def test_a_key_that_everybody_can_read_is_none(place: Path) -> None:
    key = (place / "node" / "tls.key").resolve()
    assert stat.S_IMODE(key.stat().st_mode) == 0o440
    key.chmod(0o444)
    with pytest.raises(SettingsError, match="everybody"):
        client_context(place / "node")


# -- too much, too slow ------------------------------------------------------------------------------------------
def test_what_is_too_large_is_refused(served: Served, place: Path) -> None:
    with httpx.Client(verify=client_context(place / "node"), trust_env=False, timeout=20) as http:
        answer = http.post(f"{served.url}/v1/sessions/check", content=b" " * (MAX_BODY + 1))
    assert (answer.status_code, answer.json()["code"]) == (422, "input")
    with AuthorityClient.over_tls(served.url, place / "node") as client, pytest.raises(InputError):
        client.check_sessions([CLAIM] * 2001)


def left_open(port: int, number: int) -> list[socket.socket]:
    return [socket.create_connection(("127.0.0.1", port)) for _ in range(number)]


def closed(connection: socket.socket, seconds: float) -> bool:
    connection.settimeout(seconds)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_who_proves_nothing_is_sent_away_and_holds_nobody_up(
    served: Served, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = left_open(served.port, secured.MOST_EACH + 4)
    try:
        assert sum(closed(each, 0.5) for each in silent[-4:]) >= 3, "so many from one address, and no more"
    finally:
        for each in silent:
            each.close()
    time.sleep(0.1)
    assert asks(served, place / "node")
    monkeypatch.setattr(secured, "HANDSHAKE_SECONDS", 0.2)
    (late,) = left_open(served.port, 1)
    assert closed(late, 5)
    late.close()


def test_without_the_limit_one_address_holds_as_many_as_it_likes(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secured, "MOST_EACH", 10_000)
    silent = left_open(served.port, 24)
    try:
        assert not any(closed(each, 0.02) for each in silent)
    finally:
        for each in silent:
            each.close()


# -- the door's own calls ----------------------------------------------------------------------------------------
def test_the_door_checks_sessions_and_tells_its_events_and_nothing_else(served: Served) -> None:
    with AuthorityClient(served.door) as door:
        assert door.check_sessions([CLAIM])
        assert served.governance.heard_of == [], "no sign of a node agent"
        for kind in ("pod.create", "pod.delete", "door.start", "workspace.start"):
            door.record(Event(kind=kind, actor="door", outcome=Outcome.DONE))
        door.record(Event(kind="pod.create", actor="node-agent", outcome=Outcome.DONE))
        assert served.governance.audit.events[-1].actor == "door:node-agent"
        for kind in ("key.release", "view.build", "grant.issue", "workspace.request", "node.start", "session.login"):
            with pytest.raises(Exception, match="own-events"):
                door.record(Event(kind=kind, actor="door", outcome=Outcome.DONE))
        for call in (
            lambda: door.grant("lead", "heart"),
            lambda: door.person("lead"),
            lambda: door.person_upsert("lead", "lead", "Lead"),
            door.closings,
            door.deployment,
            door.notices,
            lambda: door.call("projects.mine", "lead"),
        ):
            with pytest.raises(NotFoundError, match="no such call"):
                call()
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(served.door)), base_url="http://authority") as raw:
        for path in ("/v1/usage", "/v1/closings/" + "0" * 32, "/v1/grants", "/v1/operations/x"):
            assert raw.post(path, json={}).status_code == 404


def test_parts_of_a_cluster_share_no_family() -> None:
    assert not set(DOOR.families) & set(NODE.families)


def test_on_a_cluster_no_socket_is_a_node_agent_s(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.config import Settings

    raw = {
        "deployment": "trial",
        "state": str(place),
        "oidc": {"issuer": "http://127.0.0.1:1", "client_id": "x", "client_secret_file": "/x"},
    }
    found: list[Any] = []
    monkeypatch.setattr(authority_module, "serve_on_sockets", lambda *given: found.append(given))
    monkeypatch.setattr(authority_module, "load_private_key", lambda path: GRANT_KEY)
    monkeypatch.setattr(authority_module.measures, "follow", lambda governance: None)
    for settings in (raw, {**raw, "kubernetes": {"tls": str(place / "authority")}}):
        authority_module.serve(Settings.model_validate(settings), Governance())  # type: ignore[arg-type]
    (here,), (there, nodes) = found
    assert {path.stem for path in here} == {"hub", "portal", "node"}
    assert {path.stem for path in there} == {"hub", "portal", "cluster"}
    assert (nodes.folder, nodes.port) == (place / "authority", 8443)


def test_only_a_node_agent_s_word_counts(served: Served, place: Path) -> None:
    session, other, refused = "1" * 32, "2" * 32, "3" * 32
    with AuthorityClient(served.door) as door:
        with AuthorityClient.over_tls(served.url, place / "node", timeout=5) as node:
            assert door.session_news(session) == SessionNews()
            node.record(Event(kind="workspace.start", actor="", outcome=Outcome.STARTED, session=session))
            node.record(Event(kind="probe.passed", actor="", outcome=Outcome.STARTED, session=session))
            assert door.session_news(session) == SessionNews()
            node.record(Event(kind="probe.passed", actor="", outcome=Outcome.DONE, session=session))
            assert door.session_news(session) == SessionNews(isolated=True)
            node.record(Event(kind="workspace.start", actor="", outcome=Outcome.DONE, session=session))
            assert door.session_news(session) == SessionNews(isolated=True, opened=True)
            node.record(
                Event(
                    kind="workspace.stop", actor="", outcome=Outcome.DONE, session=session, detail={"reason": "no key"}
                )
            )
            assert door.session_news(session) == SessionNews(isolated=True, ended="no key")
            node.record(Event(kind="probe.refused", actor="", outcome=Outcome.REFUSED, session=refused))
            assert door.session_news(refused) == SessionNews(isolated=False)
        door.record(Event(kind="workspace.stop", actor="", outcome=Outcome.DONE, session=other))
        assert door.session_news(other) == SessionNews(), "the door hears not of itself"

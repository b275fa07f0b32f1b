"""What the hub answers to whom, where it listens on the network of a cluster's pods."""

from __future__ import annotations

import asyncio
import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from orchestrator.hub.application import BulleHub, _Guarded

#: the proxy's address, and another one that the kernel has without being told
PROXY, POD = "127.0.0.1", "127.0.0.5"
BRIDGE = [
    ("GET", "/hub/api/user"),
    ("GET", "/hub/api/user?session_id=a"),
    ("POST", "/hub/api/oauth2/token"),
    ("POST", "/hub/api/users/lead%40clinic/activity"),
    ("GET", "/hub/api"),
    ("GET", "/hub/health"),
]
PEOPLE = [
    ("GET", "/hub/login"),
    ("GET", "/hub/oauth_login"),
    ("GET", "/hub/oauth_callback"),
    ("GET", "/hub/home"),
    ("POST", "/hub/spawn/lead/heart"),
    ("GET", "/hub/api/users/lead"),
    ("POST", "/hub/api/users/lead/servers/heart"),
    ("DELETE", "/hub/api/users/lead/servers/heart"),
    ("POST", "/hub/api/users/lead/tokens"),
    ("GET", "/hub/api/oauth2/authorize"),
    ("POST", "/hub/api/user"),
    ("GET", "/hub/api/users/a/b/activity"),
    ("GET", "/hub/api/user/"),
    ("GET", "/hub/api/user/..%2f..%2flogin"),
    ("GET", "/hub/metrics"),
    ("GET", "/hub/health/../login"),
    ("GET", "//hub/login"),
    ("GET", "/"),
]
FORGED = {
    "X-Forwarded-For": "127.0.0.1",
    "X-Real-Ip": "127.0.0.1",
    "X-Forwarded-Proto": "https",
    "Forwarded": "for=::1",
}


class Anything(RequestHandler):
    def prepare(self) -> None:
        self.finish("answered")


@contextmanager
def served(kind: type[Application]) -> Iterator[int]:
    """Serve an application that answers everything, as the hub's server is set; the port."""
    loop = asyncio.new_event_loop()
    sockets = bind_sockets(0, PROXY)

    async def run() -> None:
        server = HTTPServer(kind([(".*", Anything)]), xheaders=True, trusted_downstream=[PROXY])
        server.add_sockets(sockets)
        await done.wait()
        server.stop()

    done = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    try:
        yield sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join()
        loop.close()


def status(port: int, source: str, method: str, path: str) -> int:
    connection = http.client.HTTPConnection(PROXY, port, timeout=5, source_address=(source, 0))
    try:
        connection.request(method, path, headers=FORGED)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.fixture(scope="module")
def guarded() -> Iterator[int]:
    with served(_Guarded) as port:
        yield port


@pytest.mark.parametrize(("method", "path"), BRIDGE)
def test_a_bridge_gets_what_it_asks_for(guarded: int, method: str, path: str) -> None:
    assert status(guarded, POD, method, path) == 200


@pytest.mark.parametrize(("method", "path"), PEOPLE)
def test_nobody_else_gets_past_the_proxy_whatever_their_headers_say(guarded: int, method: str, path: str) -> None:
    assert status(guarded, POD, method, path) == 404
    assert status(guarded, PROXY, method, path) == 200


def test_without_the_guard_every_pod_gets_the_pages() -> None:
    with served(Application) as port:
        assert {status(port, POD, method, path) for method, path in PEOPLE} == {200}


def test_the_guard_is_there_where_the_settings_say() -> None:
    for wanted, kind in ((True, _Guarded), (False, Application)):
        hub = BulleHub(others_are_bridges=wanted)
        hub.handlers, hub.tornado_settings = [], {}
        hub.init_tornado_application()
        assert type(hub.tornado_application) is kind
        assert hub.log.name == BulleHub.__name__, "whose faults are caught by this name"

"""The gateway with a real hub and proxy, real containers, a real X client and a real browser."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from orchestrator.workspaces.gateway import display as display_module
from orchestrator.workspaces.gateway import rfb
from tests.integration import gateway_stage as staged
from tests.integration.gateway_stage import PUBLIC, Stage, Workspace, docker, wait_for
from tests.unit.workspaces.gateway.conversation import (
    ASK,
    CLIENT_HELLO,
    NEXT_UPDATE,
    handshake_length,
    without_name,
)

SECRET = "patient-4711-clipboard"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("gateway")
    for parent in (folder, *folder.parents[:2]):  # the containers' users walk through it
        parent.chmod(parent.stat().st_mode | 0o055)
    with staged.stage(folder) as ready:
        yield ready


@pytest.fixture(scope="module")
def client() -> str:
    return staged.client_image()


@contextlib.contextmanager
def logged_in(browser: Browser, user: str, locale: str = "en-GB") -> Iterator[BrowserContext]:
    context = browser.new_context(locale=locale, viewport={"width": 1280, "height": 720})
    page = context.new_page()
    page.goto(f"{PUBLIC}/hub/login")
    page.fill("input[name=username]", user)
    page.fill("input[name=password]", staged.PASSWORD)
    page.click("input[type=submit], button[type=submit]")
    page.wait_for_url(f"{PUBLIC}/**")
    page.close()
    yield context
    context.close()


def opened(context: BrowserContext, path: str) -> Page:
    page = context.new_page()
    page.goto(PUBLIC + path)
    page.wait_for_selector("html[data-bulle=pixels]", timeout=20_000)
    return page


@pytest.fixture(scope="module")
def hip(stage: Stage) -> Path:
    """Alice's workspace in a project that allows pasting."""
    return stage.start("alice", "hip")


@pytest.fixture
def inside(hip: Path, client: str) -> Iterator[str]:
    """A terminal on Alice's desktop, which writes what is typed into it to a file."""
    workspace = Workspace(hip)
    terminal = "xterm -u8 -fa Monospace -fs 12 -geometry 90x30+40+60 -e sh -c 'cat > /tmp/typed'"
    show = f"xsetroot -solid '#16324f'; exec {terminal}"
    identity = workspace.client(client, ["sh", "-c", show])
    wait_for(lambda: "xterm" in docker("exec", identity, "xlsclients", check=False), "the terminal")
    wait_for(lambda: docker("exec", identity, "sh", "-c", "ls /tmp/typed", check=False), "its program")
    yield identity
    workspace.stop()


def typed(identity: str) -> str:
    done = subprocess.run(["docker", "exec", identity, "cat", "/tmp/typed"], capture_output=True, check=True)
    return done.stdout.decode()


# --- who may come in


def upgrade(path: str, cookies: list[dict[str, object]], origin: str | None = PUBLIC) -> int:
    """Status of a websocket request: 101 is an upgrade."""
    connection = http.client.HTTPConnection("127.0.0.1", staged.PUBLIC_PORT, timeout=20)
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Cookie": "; ".join(f"{cookie['name']}={cookie['value']}" for cookie in cookies),
    }
    if origin is not None:
        headers["Origin"] = origin
    connection.request("GET", path, headers=headers)
    status = connection.getresponse().status
    connection.close()
    return status


def test_a_websocket_opens_for_the_workspaces_own_person_on_its_own_page_only(
    stage: Stage, hip: Path, browser: Browser
) -> None:
    with logged_in(browser, "alice") as context:
        opened(context, "/user/alice/hip/")
        cookies = context.cookies(f"{PUBLIC}/user/alice/hip/")
    assert upgrade("/user/alice/hip/rfb", cookies) == 101
    assert upgrade("/user/alice/hip/rfb", []) == 403
    forged = [{**cookie, "value": str(cookie["value"])[:-4] + "0000"} for cookie in cookies]
    assert upgrade("/user/alice/hip/rfb", forged) == 403
    for origin in (
        "https://evil.example",
        f"{PUBLIC}.evil.example",
        PUBLIC.replace("http:", "https:"),
        "null",
        None,
    ):
        assert upgrade("/user/alice/hip/rfb", cookies, origin) == 403, origin
    # A token of the same person is no cookie: not in the address, not in a header.
    token = stage.api("POST", "/users/alice/tokens").json()["token"]
    assert upgrade(f"/user/alice/hip/rfb?token={token}", []) == 403


def test_tokens_and_cookies_are_kept_from_scripts_and_other_sites(hip: Path, browser: Browser) -> None:
    with logged_in(browser, "alice") as context:
        opened(context, "/user/alice/hip/")
        own = [cookie for cookie in context.cookies(f"{PUBLIC}/user/alice/hip/") if "/user/" in cookie["path"]]
    assert own
    assert all(cookie["httpOnly"] and cookie["sameSite"] == "Lax" for cookie in own)


@pytest.mark.parametrize("user", ["bob", "admin"])
def test_others_are_refused_also_an_administrator_with_every_scope(
    stage: Stage, hip: Path, browser: Browser, user: str
) -> None:
    with logged_in(browser, user) as context:
        page = context.new_page()
        answer = page.goto(f"{PUBLIC}/user/alice/hip/")
        assert answer is not None
        if user == "admin":  # the hub lets an administrator with the scope through, once they say that they mean it
            with page.expect_navigation() as leaving:
                page.click("form [type=submit]")
            answer = leaving.value
        assert answer.status in (403, 404)
        assert page.query_selector("#screen") is None
        if user == "admin":
            assert "not your workspace" in page.content()
        assert upgrade("/user/alice/hip/rfb", context.cookies(f"{PUBLIC}/user/alice/hip/")) == 403


def test_without_a_login_a_page_leads_to_it_and_all_else_is_refused(hip: Path) -> None:
    page = httpx.get(f"{PUBLIC}/user/alice/hip/")
    assert page.status_code == 302
    assert page.headers["Location"].startswith("/hub/api/oauth2/authorize?")
    for path in ("session", "files/x/page/desktop.js", "api", "rfb", "../hip/nothing"):
        assert httpx.get(f"{PUBLIC}/user/alice/hip/{path}").status_code == 403, path
    assert httpx.post(f"{PUBLIC}/user/alice/hip/").status_code in (403, 405)
    for state in ("", "?code=x", "?code=x&state=y", "?code=x&state=y&next=//evil.example"):
        answer = httpx.get(f"{PUBLIC}/user/alice/hip/oauth_callback{state}")
        assert answer.status_code in (400, 403)
        assert "Location" not in answer.headers


def test_every_answer_carries_its_headers_and_the_hubs_version(hip: Path) -> None:
    for path in ("", "api"):
        headers = httpx.get(f"{PUBLIC}/user/alice/hip/{path}").headers
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-JupyterHub-Version"]


# --- the desktop


def test_what_is_typed_and_pasted_arrives_whatever_the_layout(
    hip: Path, inside: str, browser: Browser, tmp_path: Path
) -> None:
    with logged_in(browser, "alice", "fr-FR") as context:
        page = opened(context, "/user/alice/hip/")
        page.mouse.click(300, 300)
        devtools = context.new_cdp_session(page)

        def press(key: str, code: str, modifiers: int = 0) -> None:
            event = {"key": key, "code": code, "modifiers": modifiers}
            devtools.send("Input.dispatchKeyEvent", {"type": "rawKeyDown", **event})
            devtools.send("Input.dispatchKeyEvent", {"type": "keyUp", **event})

        # AZERTY: the letter is the key's, the code is where an American keyboard has another
        for key, code in (("a", "KeyQ"), ("z", "KeyW"), ("q", "KeyA"), ("m", "Semicolon")):
            press(key, code)
        for key, code in (("é", "Digit2"), ("à", "Digit0"), ("ç", "Digit9"), ("ù", "Quote")):
            press(key, code)
        press("1", "Digit1", 8)  # with Shift
        press("A", "KeyQ", 8)
        for key, code in (("@", "Digit0"), ("#", "Digit3"), ("€", "KeyE"), ("{", "Digit4"), ("}", "Equal")):
            devtools.send("Input.dispatchKeyEvent", {"type": "rawKeyDown", "key": "AltGraph", "code": "AltRight"})
            press(key, code)
            devtools.send("Input.dispatchKeyEvent", {"type": "keyUp", "key": "AltGraph", "code": "AltRight"})
        press("Dead", "BracketLeft")  # ^ and then e, as the two kinds of browser tell it
        press("ê", "KeyE")
        press("Dead", "BracketLeft")
        devtools.send("Input.imeSetComposition", {"text": "^", "selectionStart": 1, "selectionEnd": 1})
        devtools.send("Input.insertText", {"text": "î"})
        press("Dead", "BracketLeft")
        page.dispatch_event("#keys", "keydown", {"key": "^^", "code": "BracketLeft", "cancelable": True})
        press("Enter", "Enter")
        expected = "azqméàçù1A@#€{}êî^^\n"
        wait_for(lambda: typed(inside).endswith("\n"), "a line")
        assert typed(inside) == expected

        context.grant_permissions(["clipboard-read", "clipboard-write"])
        # X's own way to paste into this terminal is the middle button or Shift+Insert of the selection, so the
        # program asked here is the one that reads the clipboard as any application does.
        page.evaluate("navigator.clipboard.writeText('œuvre “5 €” – ligne 1\\nligne 2')")
        page.keyboard.press("Control+v")
        wait_for(
            lambda: "ligne 2" in docker("exec", inside, "timeout", "3", "xclip", "-o", "-selection", "c", check=False),
            "the pasted text",
        )
        pasted = docker("exec", inside, "timeout", "3", "xclip", "-o", "-selection", "c")
        assert pasted == "œuvre “5 €” – ligne 1\nligne 2"
        page.screenshot(path=str(tmp_path / "desktop.png"))
        assert page.title() == "Hip fractures <2020> — Bulle"


def test_the_desktop_follows_the_windows_size(hip: Path, inside: str, browser: Browser) -> None:
    with logged_in(browser, "alice") as context:
        page = opened(context, "/user/alice/hip/")
        for size in ("1000x640", "1500x800"):
            width, height = map(int, size.split("x"))
            page.set_viewport_size({"width": width, "height": height})
            wait_for(partial(_has_size, inside, size), size)


def _has_size(identity: str, size: str) -> bool:
    return f"{size} pixels" in docker("exec", identity, "xdpyinfo")


def test_a_lost_connection_comes_back_to_the_same_session(hip: Path, inside: str, browser: Browser) -> None:
    with staged.Wire(staged.PUBLIC_PORT) as wire, logged_in(browser, "alice", "fr-FR") as context:
        page = context.new_page()
        page.goto(f"{wire.address}/user/alice/hip/")
        page.wait_for_selector("html[data-bulle=pixels]")
        page.mouse.click(300, 300)
        page.keyboard.type("before ")
        page.wait_for_timeout(1000)  # what was typed has left the browser; what has not is lost with the connection
        wire.cut()
        page.wait_for_selector("html[data-bulle=reconnecting]")
        assert page.inner_text("#say") == "Reconnexion…"
        page.wait_for_selector("html[data-bulle=pixels]")
        page.keyboard.type("after")
        page.keyboard.press("Enter")
        wait_for(lambda: "after" in typed(inside), "the rest of the line")
        assert typed(inside) == "before after\n"


def test_a_second_window_takes_the_desktop_over(hip: Path, browser: Browser) -> None:
    with logged_in(browser, "alice") as context:
        first = opened(context, "/user/alice/hip/")
        opened(context, "/user/alice/hip/")
        first.wait_for_selector("html[data-bulle=replaced]")
        first.click("#again")
        first.wait_for_selector("html[data-bulle=pixels]")


def test_logging_out_closes_the_picture(hip: Path, browser: Browser) -> None:
    with logged_in(browser, "alice") as context:
        page = opened(context, "/user/alice/hip/")
        other = context.new_page()
        other.goto(f"{PUBLIC}/hub/logout")
        page.wait_for_selector("html[data-bulle=signed-out]", timeout=15_000)
        assert page.query_selector("#screen canvas") is None


def test_a_stopped_session_says_so(stage: Stage, browser: Browser) -> None:
    stage.start("alice", "short")
    with logged_in(browser, "alice") as context:
        page = opened(context, "/user/alice/short/")
        stage.api("DELETE", "/users/alice/servers/short")
        page.wait_for_selector("html[data-bulle=ended]", timeout=20_000)
        assert page.inner_text("#say") == "This session has ended"


# --- what may not leave


def test_no_clipboard_leaves(hip: Path, inside: str, browser: Browser) -> None:
    with logged_in(browser, "alice") as context:
        page = context.new_page()
        frames: list[bytes] = []

        def listen(channel) -> None:
            channel.on("framereceived", lambda data: frames.append(data.encode() if isinstance(data, str) else data))

        page.on("websocket", listen)
        page.goto(f"{PUBLIC}/user/alice/hip/")
        page.wait_for_selector("html[data-bulle=pixels]")
        for selection in ("clipboard", "primary"):
            docker(
                "exec", inside, "sh", "-c", f"echo {SECRET} | timeout 10 xclip -selection {selection} >/dev/null 2>&1"
            )
        page.mouse.click(300, 300)
        page.keyboard.type("x")
        time.sleep(2)
    assert len(frames) > 5
    assert not any(SECRET.encode() in frame for frame in frames)


def test_an_x_client_can_neither_change_the_server_nor_make_it_connect(hip: Path, inside: str, stage: Stage) -> None:
    for parameter in ("SendCutText=1", "AcceptCutText=1", "AllowOverride=SendCutText", "SecurityTypes=None"):
        docker("exec", inside, "vncconfig", "-set", parameter, check=False)
    assert docker("exec", inside, "vncconfig", "-get", "SendCutText") in ("0", "off")
    assert docker("exec", inside, "vncconfig", "-get", "AllowOverride") == ""

    heard = socket.socket()
    heard.bind((staged.HUB_ADDRESS, 0))
    heard.listen()
    heard.settimeout(2)
    docker(
        "exec",
        inside,
        "vncconfig",
        "-connect",
        f"{staged.HUB_ADDRESS}::{heard.getsockname()[1]}",
        check=False,
    )
    with pytest.raises(TimeoutError):
        heard.accept()
    heard.close()


def test_without_this_sessions_cookie_the_x_server_lets_nobody_in(hip: Path, client: str) -> None:
    workspace = Workspace(hip)
    stranger = workspace.client(client, ["sleep", "60"], cookie=False)
    with_none = docker("exec", stranger, "sh", "-c", "xdpyinfo 2>&1", check=False)
    assert "Authorization required" in with_none or "unable to open display" in with_none
    workspace.stop()


def test_the_display_does_not_start_without_a_cookie_file(stage: Stage, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws")
    workspace.prepare()
    (workspace.folder / "display" / "Xauthority").unlink()
    identity = workspace.display(stage.image)
    assert docker("inspect", "-f", "{{.State.ExitCode}}", identity) == "78"
    assert not (workspace.folder / "x11" / "X1").exists()
    assert "Xauthority is missing" in _logs(workspace.containers[-1])
    workspace.stop()


def _logs(identity: str) -> str:
    done = subprocess.run(["docker", "logs", identity], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_nothing_listens_but_the_bridges_port_and_two_socket_files(stage: Stage, hip: Path) -> None:
    display, bridge = stage.containers("alice", "hip")
    assert _listeners(display) == set()
    assert _listeners(bridge) == {8888}
    assert docker("inspect", "-f", "{{.HostConfig.NetworkMode}}", display) == "none"
    unix = docker("exec", display, "cat", "/proc/net/unix")
    assert "@" not in unix
    paths = {line.split()[-1] for line in unix.splitlines()[1:] if "/" in line}
    assert paths == {"/tmp/.X11-unix/X1", "/run/bulle/rfb/rfb.sock"}


def _listeners(identity: str) -> set[int]:
    found = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in docker("exec", identity, "cat", f"/proc/net/{table}").splitlines()[1:]:
            address, port = line.split()[1].split(":")
            listening = line.split()[3] == ("0A" if table.startswith("tcp") else "07")
            engines_dns = address == "0B00007F"  # 127.0.0.11, which the engine puts into every network
            if listening and not engines_dns:
                found.add(int(port, 16))
    return found


def test_the_image_has_no_program_that_changes_its_user(stage: Stage) -> None:
    found = docker(
        "run", "--rm", "--network", "none", stage.image, "find", "/", "-xdev", "-type", "f", "-perm", "/6000"
    )
    assert found == ""


# --- the filter against a server that speaks; and without the filter, so that the check is seen to fail


@pytest.fixture
def careless(stage: Stage, client: str, tmp_path: Path) -> Iterator[tuple[Workspace, str]]:
    """A display with clipboard out switched on, and a client on it."""
    workspace = Workspace(tmp_path / "ws")
    workspace.prepare()
    command = [word.replace("-SendCutText=0", "-SendCutText=1") for word in display_module.arguments(paste_in=True)]
    folder = workspace.folder
    workspace.run(
        stage.image, 1002, "--group-add", "1003", "--network", "none",
        "-v", f"{folder}/x11:/tmp/.X11-unix", "-v", f"{folder}/rfb:/run/bulle/rfb",
        "-v", f"{folder}/display:/run/bulle/display:ro", "--tmpfs", "/tmp:size=32m,mode=1777",
        "", json.dumps(command),
    )  # fmt: skip
    wait_for(lambda: (folder / "rfb" / "rfb.sock").exists() and (folder / "x11" / "X1").exists(), "the display")
    shown = workspace.client(
        client,
        [
            "xterm",
            "-geometry",
            "100x40+50+50",
            "-e",
            "sh",
            "-c",
            "while :; do ls -l /usr/bin; sleep 0.2; done",
        ],
    )
    wait_for(lambda: "xterm" in docker("exec", shown, "xlsclients", check=False), "the terminal")
    yield workspace, shown
    workspace.stop()


def _watch(workspace: Workspace, shown: str, *, filtered: bool, paste_in: bool = False) -> tuple[bytes, bytes]:
    """Look at a display for some seconds as a browser would; what it sent, and what went on."""
    guard = rfb.RfbFilter(paste_in=paste_in)
    raw, passed = bytearray(), bytearray()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(str(workspace.folder / "rfb" / "rfb.sock"))
        server.settimeout(0.2)

        def send(data: bytes) -> None:
            server.sendall(guard.from_client(data).to_server if filtered else data)

        send(CLIENT_HELLO)
        sent = False
        until = time.monotonic() + 20
        # until the clipboard came and a good deal of picture besides, or long enough
        while time.monotonic() < until and not (SECRET.encode() in raw and len(raw) > 4_000):
            with contextlib.suppress(TimeoutError):
                data = server.recv(65536)
                raw += data
                if filtered:
                    out = guard.from_server(data)
                    passed += out.to_client
                    if out.to_server:
                        server.sendall(out.to_server)
                else:
                    passed += data
                if sent:
                    send(NEXT_UPDATE)
            if not sent and len(raw) > 40:
                send(ASK)
                docker(
                    "exec", shown, "sh", "-c", f"echo {SECRET} | timeout 10 xclip -selection clipboard >/dev/null 2>&1"
                )
                sent = True
    return bytes(raw), bytes(passed)


def test_a_servers_clipboard_is_seen_without_the_filter_and_not_with_it(
    careless: tuple[Workspace, str],
) -> None:
    workspace, shown = careless
    raw, passed = _watch(workspace, shown, filtered=False)
    assert SECRET.encode() in passed
    raw, passed = _watch(workspace, shown, filtered=True)
    assert SECRET.encode() in raw
    assert SECRET.encode() not in passed
    assert len(passed) > 3_000


def test_a_real_picture_passes_unchanged(careless: tuple[Workspace, str]) -> None:
    workspace, shown = careless
    # with the filter's own encodings no clipboard is offered but the plain one, which is cut out here
    raw, passed = _watch(workspace, shown, filtered=True)
    cut = raw.find(SECRET.encode()) - 8
    assert raw[cut] == 3
    length = int.from_bytes(raw[cut + 4 : cut + 8], "big")
    expected = raw[:cut] + raw[cut + 8 + length :]
    assert handshake_length(raw) > 0
    assert passed == without_name(expected)[: len(passed)]
    assert len(passed) > 3_000

"""Negative controls of the display and of the bridge: without each control its own test fails."""

from __future__ import annotations

import asyncio
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from orchestrator.workspaces.gateway import access, display, hub_login, relay, rfb
from orchestrator.workspaces.gateway.hub_login import HubUnavailableError, Own, Visitor
from orchestrator.workspaces.gateway.relay import REMOVED, SIGNED_OUT, UNCHECKED, RelayHandler
from tests.unit.workspaces.gateway import test_access, test_display, test_rfb

NOT_REFUSED = pytest.raises(pytest.fail.Exception, match="DID NOT RAISE")


# -- the display -----------------------------------------------------------------------------------------
def without(*gone: str) -> Callable[..., list[str]]:
    """The display's command line without some words that stand together."""
    usual = display.arguments

    def arguments(*, paste_in: bool) -> list[str]:
        words = usual(paste_in=paste_in)
        places = [at for at in range(len(words)) if words[at : at + len(gone)] == list(gone)]
        assert places, gone
        for at in reversed(places):
            del words[at : at + len(gone)]
        return words

    return arguments


@pytest.mark.parametrize(
    "gone",
    [
        ("-AllowOverride=",),
        ("-auth", display.XAUTHORITY),
        ("-nolisten", "tcp"),
        ("-nolisten", "local"),
        ("-rfbport", "-1"),
        ("-rfbunixpath", display.RFB_SOCKET),
        ("-SendCutText=0",),
        ("-SendPrimary=0",),
        *(("-extension", name) for name in sorted(test_display.OFF)),
    ],
    ids=" ".join,
)
def test_a_display_without_a_control_is_seen(monkeypatch: pytest.MonkeyPatch, gone: tuple[str, ...]) -> None:
    monkeypatch.setattr(display, "arguments", without(*gone))
    with pytest.raises((AssertionError, ValueError)):
        test_display.test_there_is_one_way_in_and_no_way_to_change_it()


def started(folder: Path, script: str) -> int:
    """What the display's script ends with where there is no cookie file; ``true`` stands for Xvnc."""
    file = folder / "display"
    file.write_text(script.replace("/usr/bin/Xvnc", "true").replace(display.XAUTHORITY, str(folder / "Xauthority")))
    shell = shutil.which("sh")
    assert shell
    return subprocess.run([shell, str(file)], capture_output=True, check=False).returncode


def test_without_the_look_at_the_cookie_file_the_display_starts_open_to_all(tmp_path: Path) -> None:
    script = display.script()
    assert started(tmp_path, script) == 78
    unlooked = script.replace(f"[ ! -s {display.XAUTHORITY} ]", "false")
    assert unlooked != script
    assert started(tmp_path, unlooked) == 0


# -- the bridge ------------------------------------------------------------------------------------------
def same_host(origin: str | None, host: str | None, scheme: str) -> bool:
    return bool(host) and urlsplit(origin or "").hostname == host


@pytest.mark.parametrize(
    ("instead", "origin"),
    [
        (lambda origin, host, scheme: True, "https://evil.example"),
        (lambda origin, host, scheme: True, None),
        (lambda origin, host, scheme: bool(origin) and host in origin, "https://bulle.example.evil.example"),
        (same_host, "http://bulle.example"),
        (same_host, "https://bulle.example:444"),
    ],
)
def test_an_origin_that_is_not_compared_whole_is_seen(
    monkeypatch: pytest.MonkeyPatch, instead: Callable[..., bool], origin: str | None
) -> None:
    monkeypatch.setattr(access, "same_origin", instead)
    with pytest.raises(AssertionError):
        test_access.test_only_the_very_same_origin_is_the_same(origin, "bulle.example", "https", same=False)


@pytest.mark.parametrize(
    "policy",
    [
        "script-src 'self'; frame-ancestors 'none'",
        "default-src 'none'",
        "default-src 'none'; frame-ancestors 'none'; script-src https://cdn.example.org",
        "default-src 'none'; frame-ancestors 'none'; script-src 'unsafe-eval'",
    ],
)
def test_a_weaker_policy_of_the_bridge_is_seen(monkeypatch: pytest.MonkeyPatch, policy: str) -> None:
    monkeypatch.setattr(access, "HEADERS", {**access.HEADERS, "Content-Security-Policy": policy})
    with pytest.raises(AssertionError):
        test_access.test_no_page_takes_anything_from_outside()


class Asked:
    """A hub that is asked about one connection: its answers, the last one for ever, until the test ends it."""

    def __init__(self, *answers: Visitor | None) -> None:
        self.answers = list(answers)
        self.questions = 0

    async def who(self, token: str, session_id: str, *, fresh: bool) -> Visitor:
        assert fresh, "an answer that was kept would not do"
        self.questions += 1
        if self.questions > 20:
            raise asyncio.CancelledError
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            raise HubUnavailableError
        return answer


def closed_with(*answers: Visitor | None) -> int | None:
    """The code with which a websocket closes while the hub gives ``answers`` (None: it is silent), or None."""
    codes: list[int] = []
    handler: Any = object.__new__(RelayHandler)
    handler.bridge = SimpleNamespace(recheck=0.001, own=Asked(*answers))
    handler._token = handler._session_id = "x"
    handler.close = lambda code, reason: codes.append(code)

    async def watch() -> None:
        try:
            await handler._recheck()
        except asyncio.CancelledError:
            return

    asyncio.run(watch())
    return codes[0] if codes else None


def test_a_websocket_closes_when_the_hub_says_no_or_is_silent_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    assert closed_with(Visitor.OWN) is None
    assert closed_with(Visitor.OWN, Visitor.NOBODY) == SIGNED_OUT
    assert closed_with(Visitor.OWN, Visitor.OTHER) == REMOVED
    assert closed_with(Visitor.OWN, None, Visitor.OWN) is None, "a moment of silence ends nothing"
    assert relay.HUB_SILENCE == 30
    monkeypatch.setattr(relay, "HUB_SILENCE", 0.0)
    assert closed_with(Visitor.OWN, None) == UNCHECKED


def test_without_an_end_to_silence_a_websocket_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "HUB_SILENCE", float("inf"))
    assert closed_with(Visitor.OWN, None) is None


def test_a_websocket_that_asks_no_more_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    async def satisfied(self: RelayHandler) -> None:
        await self.bridge.own.who(self._token, self._session_id, fresh=True)

    monkeypatch.setattr(RelayHandler, "_recheck", satisfied)
    with pytest.raises(AssertionError):
        test_a_websocket_closes_when_the_hub_says_no_or_is_silent_for_long(monkeypatch)


MINE = "access:servers!server=ada/heart"


class Login:
    """The hub's library: whose a token is, and whether its scopes suffice."""

    def __init__(self, name: str, *scopes: str, wanted: tuple[str, ...] = (MINE,)) -> None:
        self.model: dict[str, Any] = {"kind": "user", "name": name, "scopes": list(scopes)}
        self.access_scopes = set(wanted)

    async def user_for_token(self, token: str, **_: object) -> dict[str, Any]:
        return self.model

    def check_scopes(self, wanted: set[str], model: dict[str, Any]) -> set[str]:
        return wanted & set(model["scopes"])


def let_in(login: Login, user: str = "ada") -> bool:
    """Whether the bridge of ``user`` shows its picture to whoever has ``login``'s token."""
    return asyncio.run(Own(login, user).who("a token", "x", fresh=True)) is Visitor.OWN  # type: ignore[arg-type]


def test_only_the_person_with_the_scope_is_let_in() -> None:
    assert let_in(Login("ada", MINE))
    assert not let_in(Login("eve", MINE)), "shared with, or an administrator: the scope, but not the name"
    assert not let_in(Login("ada")), "the name, but not the scope"
    assert not let_in(Login("ada", MINE, wanted=())), "no scope wanted is nobody, not everybody"


class AnyName(str):
    """Equal to every name."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True


def test_without_the_name_whoever_has_the_scope_is_let_in() -> None:
    assert let_in(Login("eve", MINE), AnyName("ada"))


def test_without_the_scope_any_token_of_the_person_is_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Login, "check_scopes", lambda self, wanted, model: wanted)
    with pytest.raises(AssertionError, match="the name, but not the scope"):
        test_only_the_person_with_the_scope_is_let_in()


# -- the filter ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [1, 4, 173, 255])
def test_a_filter_that_knows_one_message_more_is_seen(monkeypatch: pytest.MonkeyPatch, kind: int) -> None:
    class Wider(rfb.RfbFilter):
        def __init__(self, *, paste_in: bool) -> None:
            super().__init__(paste_in=paste_in)
            self._server_messages[kind] = self._bell

    monkeypatch.setattr(rfb, "RfbFilter", Wider)
    with NOT_REFUSED:
        test_rfb.test_any_other_message_of_the_display_ends_the_conversation(kind)


@pytest.mark.parametrize("encoding", [2, -260, -307])
def test_a_filter_that_knows_one_encoding_more_is_seen(monkeypatch: pytest.MonkeyPatch, encoding: int) -> None:
    class Wider(rfb.RfbFilter):
        def __init__(self, *, paste_in: bool) -> None:
            super().__init__(paste_in=paste_in)
            self._rectangles[encoding] = self._copy_rect

    monkeypatch.setattr(rfb, "RfbFilter", Wider)
    with NOT_REFUSED:
        test_rfb.test_encodings_outside_the_list_end_the_conversation(encoding)


def test_the_displays_own_name_in_the_handshake_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Telling(rfb.RfbFilter):
        def from_server(self, data: bytes) -> rfb.Output:
            super().from_server(data)
            return rfb.Output(data, b"")

    monkeypatch.setattr(rfb, "RfbFilter", Telling)
    with pytest.raises(AssertionError, match="secret"):
        test_rfb.test_the_desktops_name_is_ours()


def test_pasting_that_is_let_in_all_the_same_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Open(rfb.RfbFilter):
        def __init__(self, *, paste_in: bool) -> None:
            super().__init__(paste_in=True)

    monkeypatch.setattr(rfb, "RfbFilter", Open)
    with NOT_REFUSED:
        test_rfb.test_pasting_where_it_is_not_allowed_ends_the_conversation()


def test_without_its_bound_the_displays_clipboard_is_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    message = struct.pack(">B3xi", 3, -(1 << 31))
    test_rfb.test_sizes_and_kinds_out_of_bounds_end_the_conversation(message, "clipboard")

    class Patient(rfb.RfbFilter):
        def __init__(self, *, paste_in: bool) -> None:
            super().__init__(paste_in=paste_in)
            self._server_messages[3] = self._wait

        def _wait(self) -> rfb.Program:
            (length,) = struct.unpack(">3xi", (yield rfb.Take(7)))
            yield rfb.Take(abs(length))

    monkeypatch.setattr(rfb, "RfbFilter", Patient)
    with NOT_REFUSED:
        test_rfb.test_sizes_and_kinds_out_of_bounds_end_the_conversation(message, "clipboard")


# -- the way on after a login ----------------------------------------------------------------------------
def leads_to(login: Any) -> str:
    """Where a login leads whose state, made by somebody else, names another site."""
    return str(login.get_next_url(login.generate_state(next_url="https://evil.example.org/")))


def a_login_of(kind: type) -> Any:
    login = kind.__new__(kind)
    login.base_url = "/user/ada/heart/"
    return login


def test_a_login_at_the_bridge_leads_to_the_desktop_page_only() -> None:
    assert leads_to(a_login_of(hub_login.Login)) == "/user/ada/heart/"


def test_without_it_a_login_leads_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(hub_login.Login, "get_next_url")
    with pytest.raises(AssertionError, match="evil"):
        test_a_login_at_the_bridge_leads_to_the_desktop_page_only()

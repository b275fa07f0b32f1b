"""Sending notices: a real SMTP server and a real HTTP server on loopback take them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import socket
import threading
from datetime import UTC, datetime
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from pydantic import ValidationError

from orchestrator.config import Notifications, Settings, Smtp, Webhook
from orchestrator.errors import UnavailableError
from orchestrator.governance.cards import Notice
from orchestrator.pages.languages import language
from orchestrator.portal.messages import NEWS, mail_of
from orchestrator.portal.telling import Teller, signed_headers

SECRET = "a webhook's secret"
NOW = datetime(2026, 1, 1, 9, 30, tzinfo=UTC)


def notice(number: int = 1, kind: str = "member.approve", **changed) -> Notice:
    fields = {
        "id": number,
        "kind": kind,
        "person": "researcher",
        "name": "Researcher",
        "email": "researcher@example.org",
        "project": "sleep",
        "project_title": "Sleep",
        "created_at": NOW,
        "detail": {"ends": "2026-03-01T00:00:00+00:00"},
    }
    return Notice(**{**fields, **changed})


class Authority:
    """The two calls that the teller makes; ``waiting`` are the notices that it hands out."""

    def __init__(self, *waiting: Notice) -> None:
        self.waiting = list(waiting)
        self.heard: list[tuple[int, bool]] = []

    async def notices(self) -> list[Notice]:
        return list(self.waiting)

    async def told(self, number: int, *, sent: bool) -> None:
        self.heard.append((number, sent))
        if sent:
            self.waiting = [one for one in self.waiting if one.id != number]


class Box:
    """An SMTP server's handler that keeps what it takes."""

    def __init__(self) -> None:
        self.mails: list[tuple[list[str], bytes]] = []

    async def handle_DATA(self, server, session, envelope):  # noqa: N802 - a name of aiosmtpd
        self.mails.append((envelope.rcpt_tos, envelope.content))
        return "250 OK"


@pytest.fixture
def box():
    handler = Box()
    with socket.create_server(("127.0.0.1", 0)) as free:
        handler.port = free.getsockname()[1]
    controller = Controller(handler, hostname="127.0.0.1", port=handler.port)
    controller.start()
    yield handler
    controller.stop()


@pytest.fixture
def hook():
    class Handler(BaseHTTPRequestHandler):
        calls: list = []  # noqa: RUF012 - one server a test
        status = 204

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            self.calls.append((dict(self.headers), body))
            self.send_response(type(self).status)
            self.end_headers()

        def log_message(self, *args):
            pass

    Handler.calls = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Handler.url = f"http://127.0.0.1:{server.server_port}/told"
    yield Handler
    server.shutdown()
    server.server_close()


def settings_of(folder: Path, *, smtp: int | None = None, hook: str | None = None) -> Settings:
    secret = folder / "hook-secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    return Settings.model_validate(
        {
            "deployment": "ward",
            "state": str(folder),
            "public_url": "https://bulle.example.org",
            "oidc": {
                "issuer": "https://login.example.org",
                "client_id": "bulle",
                "client_secret_file": str(folder / "client"),
            },
            "notifications": {
                "smtp": None
                if smtp is None
                else {"host": "127.0.0.1", "port": smtp, "security": "none", "sender": "bulle@example.org"},
                "webhook": None if hook is None else {"url": hook, "secret_file": str(secret)},
            },
        }
    )


def send(settings: Settings, authority: Authority, times: int = 1) -> int:
    async def run() -> int:
        teller = Teller(settings, authority)
        return sum([await teller.send_waiting() for _ in range(times)])

    return asyncio.run(run())


def test_a_mail_goes_to_the_person_in_both_languages_with_a_link(tmp_path, box):
    authority = Authority(notice())
    assert send(settings_of(tmp_path, smtp=box.port), authority) == 1
    ((to, raw),) = box.mails
    mail = message_from_bytes(raw, policy=policy.default)
    text = mail.get_content()
    assert to == ["researcher@example.org"]
    assert mail["Subject"] == "ward: Sleep"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert "Your membership of the project “Sleep” is approved." in text
    assert "Bonjour" in text
    assert text.count("https://bulle.example.org/services/portal/projects/sleep") == 2
    assert authority.heard == [(1, True)]


def test_who_has_no_address_gets_no_mail_and_the_notice_is_done_with(tmp_path, box):
    authority = Authority(notice(email=""))
    assert send(settings_of(tmp_path, smtp=box.port), authority) == 1
    assert box.mails == []


def test_the_webhook_is_signed_and_names_nobody_but_by_id(tmp_path, hook):
    authority = Authority(notice(kind="member.request", detail={"about": "outsider"}))
    assert send(settings_of(tmp_path, hook=hook.url), authority) == 1
    ((headers, body),) = hook.calls
    assert json.loads(body) == {
        "type": "member.request",
        "timestamp": NOW.isoformat(),
        "data": {"deployment": "ward", "person": "researcher", "project": "sleep"},
    }
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert b"example.org" not in body, "no address leaves by the webhook"


def test_negative_control_another_body_has_another_signature():
    one = signed_headers(SECRET, "notice-1", 5, b"{}")["webhook-signature"]
    assert signed_headers(SECRET, "notice-1", 5, b"{} ")["webhook-signature"] != one
    assert signed_headers(SECRET, "notice-1", 6, b"{}")["webhook-signature"] != one
    assert signed_headers("other", "notice-1", 5, b"{}")["webhook-signature"] != one


def test_what_failed_is_tried_again_without_a_second_mail(tmp_path, box, hook):
    hook.status = 500
    authority = Authority(notice())
    settings = settings_of(tmp_path, smtp=box.port, hook=hook.url)

    async def run() -> None:
        teller = Teller(settings, authority)
        assert await teller.send_waiting() == 0
        hook.status = 200
        assert await teller.send_waiting() == 1

    asyncio.run(run())
    assert authority.heard == [(1, False), (1, True)]
    assert len(box.mails) == 1


def test_a_redirect_is_not_followed(tmp_path, hook):
    hook.status = 302
    authority = Authority(notice())
    assert send(settings_of(tmp_path, hook=hook.url), authority) == 0


def test_one_that_cannot_be_sent_does_not_hold_up_the_others(tmp_path, box):
    authority = Authority(notice(1, email="not an address\r\nBcc: all@example.org"), notice(2))
    assert send(settings_of(tmp_path, smtp=box.port), authority) == 1
    assert authority.heard == [(1, False), (2, True)]
    assert len(box.mails) == 1


def test_a_title_cannot_write_headers_or_lines(tmp_path, box):
    title = "Sleep\r\nBcc: everybody@example.org\n\nNew text"
    assert send(settings_of(tmp_path, smtp=box.port), Authority(notice(project_title=title))) == 1
    ((to, raw),) = box.mails
    mail = message_from_bytes(raw, policy=policy.default)
    assert to == ["researcher@example.org"]
    assert mail["Bcc"] is None
    assert "“Sleep Bcc: everybody@example.org New text”" in mail.get_content().replace("\r\n", "\n")


@pytest.mark.parametrize("kind", [*NEWS, "something.new"])
@pytest.mark.parametrize("code", ["en", "fr"])
def test_every_kind_has_words(kind, code):
    told = notice(kind=kind, detail={"ends": "2026-03-01T00:00:00+00:00", "projects": []})
    mail = mail_of(told, [language(code)], "ward", "https://bulle.example.org")
    assert "%(" not in mail.text
    assert "https://bulle.example.org/services/portal/" in mail.text


def test_the_digest_lists_projects_with_counts():
    detail = {"projects": [{"project": "sleep", "title": "Sleep", "members": 3, "waiting": 1}]}
    mail = mail_of(notice(kind="digest", project=None, project_title=None, detail=detail), [language("en")], "ward", "")
    assert "- Sleep: 3 members, 1 request waits" in mail.text


def test_without_an_authority_nothing_is_sent_and_the_task_goes_on(tmp_path, box):
    class Silent(Authority):
        looks = 0
        enough = asyncio.Event()

        async def notices(self):
            self.looks += 1
            if self.looks == 3:
                self.enough.set()
            raise UnavailableError("no answer")

    async def run() -> int:
        authority = Silent()
        teller = Teller(settings_of(tmp_path, smtp=box.port), authority, seconds=0.01)
        teller.start()
        await asyncio.wait_for(authority.enough.wait(), 10)
        await teller.close()
        return authority.looks

    assert asyncio.run(run()) >= 3


def test_without_a_channel_no_task_runs(tmp_path):
    async def run() -> None:
        authority = Authority(notice())
        teller = Teller(settings_of(tmp_path), authority)
        teller.start()
        await asyncio.sleep(0)
        assert authority.heard == []
        await teller.close()

    asyncio.run(run())


def test_a_mail_server_elsewhere_is_not_spoken_to_in_clear():
    with pytest.raises(ValidationError, match="on this machine only"):
        Smtp(host="mail.example.org", security="none", sender="bulle@example.org")
    with pytest.raises(ValidationError, match="https"):
        Webhook(url="http://hook.example.org/", secret_file=Path("/secret"))
    assert not Notifications().wanted

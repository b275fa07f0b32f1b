"""Sends notices by e-mail and to a webhook: a task beside the pages, because the authority has no network.

A notice that could not be sent is tried again; each is handed out until it went through every channel, and the
store remembers what went. Webhook calls follow the Standard Webhooks specification, version 1.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import ssl
import time
from email.message import EmailMessage
from email.utils import format_datetime

import aiosmtplib
import httpx

from orchestrator.config import Notifications, Settings, Smtp, Webhook
from orchestrator.errors import BulleError
from orchestrator.governance.cards import Notice
from orchestrator.governance.client import AsyncAuthorityClient
from orchestrator.pages.languages import language
from orchestrator.portal.measures import NOTICES_SENT
from orchestrator.portal.messages import mail_of
from orchestrator.secretfile import read_secret

_log = logging.getLogger(__name__)

#: seconds between two looks for what is to be sent
SECONDS = 15.0
_TIMEOUT = 20.0


class Teller:
    """Sends what waits, until it is closed."""

    def __init__(self, settings: Settings, authority: AsyncAuthorityClient, *, seconds: float = SECONDS) -> None:
        self._settings = settings
        self._wanted: Notifications = settings.notifications
        self._authority = authority
        self._seconds = seconds
        self._task: asyncio.Task[None] | None = None
        #: notices of which a channel was told already, so that a failing one does not repeat the other
        self._mailed: set[int] = set()

    def start(self) -> None:
        """Begin, if there is anything to send by."""
        if self._wanted.wanted:
            self._task = asyncio.create_task(self._run(), name="telling")

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self.send_waiting()
            except BulleError as error:
                _log.warning("notices: %s", error)
            except Exception:  # noqa: BLE001 - whatever it was, the next ones must still go out
                _log.exception("notices stumbled")
            await asyncio.sleep(self._seconds)

    async def send_waiting(self) -> int:
        """Send what waits now; returns how many went out."""
        count = 0
        for notice in await self._authority.notices():
            sent = await self._send(notice)
            await self._authority.told(notice.id, sent=sent)
            NOTICES_SENT.add(outcome="done" if sent else "failed")
            count += sent
        return count

    async def _send(self, notice: Notice) -> bool:
        try:
            if self._wanted.smtp is not None and notice.email and notice.id not in self._mailed:
                await self._mail(self._wanted.smtp, notice)
                self._mailed.add(notice.id)
            if self._wanted.webhook is not None:
                await self._hook(self._wanted.webhook, notice)
        except (aiosmtplib.SMTPException, httpx.HTTPError, OSError, ValueError, BulleError) as error:
            # The kind of fault only: a server's answer may repeat an address.
            _log.warning("notice %d (%s) was not sent: %s", notice.id, notice.kind, type(error).__name__)
            return False
        self._mailed.discard(notice.id)
        return True

    async def _mail(self, smtp: Smtp, notice: Notice) -> None:
        languages = [language(code) for code in self._settings.languages]
        mail = mail_of(notice, languages, self._settings.deployment, self._settings.public_url)
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = smtp.sender, notice.email, mail.subject
        message["Date"] = format_datetime(notice.created_at)
        # The same notice has the same id: a mail server that took it twice shows it once.
        host = smtp.sender.rpartition("@")[2] or "localhost"
        message["Message-ID"] = _message_id(notice, host)
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(mail.text)
        await aiosmtplib.send(
            message,
            hostname=smtp.host,
            port=smtp.port,
            use_tls=smtp.security == "tls",
            start_tls=smtp.security == "starttls",
            tls_context=ssl.create_default_context() if smtp.security != "none" else None,
            username=smtp.user,
            password=read_secret(smtp.password_file) if smtp.password_file else None,
            timeout=_TIMEOUT,
        )

    async def _hook(self, webhook: Webhook, notice: Notice) -> None:
        told = {
            "type": notice.kind,
            "timestamp": notice.created_at.isoformat(),
            "data": {"deployment": self._settings.deployment, "person": notice.person, "project": notice.project},
        }
        body = json.dumps(told, separators=(",", ":")).encode()
        headers = signed_headers(read_secret(webhook.secret_file), f"notice-{notice.id}", int(time.time()), body)
        async with httpx.AsyncClient(timeout=_TIMEOUT, trust_env=False, follow_redirects=False) as http:
            answer = await http.post(webhook.url, content=body, headers=headers)
            answer.raise_for_status()


def signed_headers(secret: str, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Headers by which a receiver knows that the call is ours, whole, and not one from before."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest()).decode()
    return {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{signature}",
    }


def _message_id(notice: Notice, host: str) -> str:
    mark = hashlib.sha256(f"{notice.id}/{notice.created_at.isoformat()}".encode()).hexdigest()[:24]
    return f"<{mark}@{host}>"

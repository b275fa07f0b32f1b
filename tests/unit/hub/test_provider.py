"""The provider's documents: what is accepted of them, and when they are fetched."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from orchestrator.errors import UnavailableError
from orchestrator.hub.claims import LoginRefusedError
from orchestrator.hub.provider import Provider, read_discovery
from tests.unit.hub.tokens import ISSUER, KEYS, token

DOCUMENT = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/auth",
    "token_endpoint": f"{ISSUER}/token",
    "jwks_uri": f"{ISSUER}/keys",
}


class Web:
    """Answers with documents, or not."""

    def __init__(self) -> None:
        self.pages: dict[str, Any] = {f"{ISSUER}/.well-known/openid-configuration": DOCUMENT, f"{ISSUER}/keys": KEYS}
        self.fetched: list[str] = []
        self.now = 1000.0

    async def fetch(self, url: str) -> bytes:
        self.fetched.append(url)
        if url not in self.pages:
            raise OSError("connection refused")
        return json.dumps(self.pages[url]).encode()

    def provider(self) -> Provider:
        return Provider(ISSUER, self.fetch, lambda: self.now)


def test_a_right_document_is_read() -> None:
    found = read_discovery(DOCUMENT, ISSUER)
    assert (found.authorization, found.end_session, found.secret_in_body) == (f"{ISSUER}/auth", None, False)


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "https://evil.example.org"},
        {"issuer": None},
        {"token_endpoint": "http://login.example.org/token"},
        {"token_endpoint": "javascript:alert(1)"},
        {"jwks_uri": None},
        {"authorization_endpoint": 7},
        {"userinfo_endpoint": "http://login.example.org/me"},
    ],
    ids=str,
)
def test_a_wrong_document_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UnavailableError):
        read_discovery({**DOCUMENT, **change}, ISSUER)


def test_a_provider_that_is_down_lets_nobody_in_and_is_tried_again() -> None:
    web = Web()
    kept = web.pages.pop(f"{ISSUER}/.well-known/openid-configuration")
    provider = web.provider()

    async def run() -> None:
        with pytest.raises(UnavailableError, match="does not answer"):
            await provider.endpoints()
        web.pages[f"{ISSUER}/.well-known/openid-configuration"] = kept
        assert (await provider.endpoints()).issuer == ISSUER

    asyncio.run(run())


def test_new_keys_are_fetched_when_a_token_names_one_but_not_for_every_forgery() -> None:
    web = Web()
    provider = web.provider()

    async def run() -> None:
        assert (await provider.key_for(token())).key_id == "one"
        with pytest.raises(LoginRefusedError, match="does not publish"):
            await provider.key_for(token(kid="three"))
        web.pages[f"{ISSUER}/keys"] = {"keys": [{**KEYS["keys"][0], "kid": "three"}]}
        web.now += 60
        assert (await provider.key_for(token(kid="three"))).key_id == "three"
        before = len(web.fetched)
        for _ in range(20):
            with pytest.raises(LoginRefusedError):
                await provider.key_for(token(kid="forged"))
        assert len(web.fetched) - before <= 1

    asyncio.run(run())

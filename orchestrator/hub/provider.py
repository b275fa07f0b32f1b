"""The OpenID provider as the hub meets it: its discovery document and its keys, fetched and kept."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from jwt import PyJWK

from orchestrator.errors import UnavailableError
from orchestrator.hub.claims import LoginRefusedError, signing_key

Fetch = Callable[[str], Awaitable[bytes]]

#: seconds after which the discovery document is read again
_DOCUMENT_AGE = 3600.0
#: seconds between two fetches of the keys, so that forged tokens with made-up key names cannot flood the
#: provider
_KEYS_AGE = 10.0


@dataclass(frozen=True)
class Endpoints:
    """What a login needs of a provider's discovery document."""

    issuer: str
    authorization: str
    token: str
    keys: str
    userinfo: str | None
    end_session: str | None
    #: whether the client secret goes into the body (otherwise into a Basic header)
    secret_in_body: bool


def read_discovery(document: Mapping[str, Any], issuer: str) -> Endpoints:
    """The endpoints in a provider's ``/.well-known/openid-configuration`` (OpenID Connect Discovery 1.0).

    Raises:
        UnavailableError: it is about another issuer, lacks an endpoint, or names one that is not https (or
            loopback).
    """
    named = document.get("issuer")
    # A provider that answers for another issuer could have its tokens accepted here (mix-up attack).
    if not isinstance(named, str) or named.rstrip("/") != issuer.rstrip("/"):
        raise UnavailableError(f"the login service at {issuer} calls itself {named!r}", hint="correct oidc.issuer")

    def endpoint(name: str, *, required: bool) -> str | None:
        value = document.get(name)
        if value is None and not required:
            return None
        if not isinstance(value, str) or not _is_safe(value):
            raise UnavailableError(f"the login service at {issuer} names no usable {name}: {value!r}")
        return value

    methods = document.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
    return Endpoints(
        issuer=named,
        authorization=endpoint("authorization_endpoint", required=True) or "",
        token=endpoint("token_endpoint", required=True) or "",
        keys=endpoint("jwks_uri", required=True) or "",
        userinfo=endpoint("userinfo_endpoint", required=False),
        end_session=endpoint("end_session_endpoint", required=False),
        secret_in_body="client_secret_post" in methods,
    )


def _is_safe(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1"))


class Provider:
    """A provider whose documents are fetched when needed. A failed fetch is tried again at the next login."""

    def __init__(self, issuer: str, fetch: Fetch, clock: Callable[[], float] = time.monotonic) -> None:
        self._issuer = issuer
        self._fetch = fetch
        self._clock = clock
        self._endpoints: Endpoints | None = None
        self._endpoints_at = 0.0
        self._keys: dict[str, Any] | None = None
        self._keys_at = 0.0

    async def endpoints(self) -> Endpoints:
        """The provider's endpoints.

        Raises:
            UnavailableError: the provider does not answer, or its answer is unusable. Nobody can log in then.
        """
        if self._endpoints is None or self._clock() - self._endpoints_at > _DOCUMENT_AGE:
            try:
                document = await self._json(f"{self._issuer}/.well-known/openid-configuration")
                self._endpoints = read_discovery(document, self._issuer)
                self._endpoints_at = self._clock()
            except UnavailableError:
                if self._endpoints is None:
                    raise
        return self._endpoints

    async def key_for(self, token: str) -> PyJWK:
        """The provider's key that signed ``token``; keys are fetched again when it names an unknown one
        (rotation).

        Raises:
            UnavailableError: the keys cannot be had.
            LoginRefusedError: the provider has no such key.
        """
        for fresh in (False, True):
            keys = await self._key_set(fresh=fresh)
            key = signing_key(token, keys)
            if key is not None:
                return key
        raise LoginRefusedError("the ID token is signed with a key that the login service does not publish")

    async def _key_set(self, *, fresh: bool) -> dict[str, Any]:
        age = self._clock() - self._keys_at
        if self._keys is None or (fresh and age > _KEYS_AGE) or age > _DOCUMENT_AGE:
            self._keys = await self._json((await self.endpoints()).keys)
            self._keys_at = self._clock()
        return self._keys

    async def _json(self, url: str) -> dict[str, Any]:
        try:
            value = json.loads(await self._fetch(url))
        except (OSError, ValueError) as error:
            raise UnavailableError(
                f"the login service does not answer: {url}: {error}", hint="check oidc.issuer and the network"
            ) from error
        if not isinstance(value, dict):
            raise UnavailableError(f"the login service's answer is no JSON object: {url}")
        return value

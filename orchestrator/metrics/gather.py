"""The one place to scrape: what every part measures, on loopback, to whoever has the token.

A part of its own, because none of the others may do this: the authority and the node agent have no network and get none
for being watched, and the hub and the portal stand behind the public proxy.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Mapping

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from orchestrator import logs
from orchestrator.addresses import addresses
from orchestrator.config import Settings
from orchestrator.metrics.measures import CONTENT_TYPE, PARTS, PREFIX
from orchestrator.process import own_settings
from orchestrator.secretfile import read_secret

#: seconds in which a part must tell
PATIENCE = 4.0
#: the most that a part may tell, in bytes
MOST = 4 << 20
UP = f"{PREFIX}part_up"

Source = tuple[httpx.AsyncClient, dict[str, str]]


def sources_of(settings: Settings) -> dict[str, Source]:
    """Whom to ask: each part's socket, and the hub, with a token that is good for this and nothing else."""
    found: dict[str, Source] = {}
    for part in PARTS:
        # On a cluster there is one node agent a node, and Prometheus asks each: nobody here could.
        if part == "node" and settings.kubernetes is not None:
            continue
        transport = httpx.AsyncHTTPTransport(uds=str(settings.layout.metrics_socket(part)))
        found[part] = _client("http://part", transport), {}
    token = read_secret(settings.layout.secrets / "metrics" / "hub-token")
    found["hub"] = _client(f"{addresses(settings).hub_url}/hub"), {"Authorization": f"token {token}"}
    return found


def _client(url: str, transport: httpx.AsyncHTTPTransport | None = None) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, transport=transport, timeout=PATIENCE, trust_env=False)


async def _told(source: Source) -> bytes | None:
    """What a part tells; None where it does not, or tells too much."""
    client, headers = source
    try:
        async with asyncio.timeout(PATIENCE), client.stream("GET", "/metrics", headers=headers) as answer:
            if answer.status_code != 200:
                return None
            body = bytearray()
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > MOST:
                    return None
            return bytes(body)
    except (httpx.HTTPError, TimeoutError):
        return None


def gatherer(sources: Mapping[str, Source], token: str) -> Starlette:
    """The application: one page, for who has the token."""
    expected = f"bearer {token}".encode()

    async def metrics(request: Request) -> Response:
        # Stops: another account or program of this machine that reads how much is worked, and when: loopback is
        # everybody's. Shown by tests/unit/metrics/test_gather.py.
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if not hmac.compare_digest(f"{kind.lower()} {given.strip()}".encode(), expected):
            return PlainTextResponse("a token is needed\n", 401, headers={"WWW-Authenticate": "Bearer"})
        answers = await asyncio.gather(*(_told(source) for source in sources.values()))
        told = dict(zip(sources, answers, strict=True))
        lines = [f"# HELP {UP} Whether the part told its metrics.", f"# TYPE {UP} gauge"]
        lines += [f'{UP}{{part="{part}"}} {int(answer is not None)}' for part, answer in told.items()]
        body = "\n".join(lines).encode() + b"\n" + b"".join(answer for answer in told.values() if answer)
        return Response(body, headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})

    return Starlette(routes=[Route("/metrics", metrics, methods=["GET"])])


def main() -> None:
    """Serve until stopped."""
    settings = own_settings()
    logs.configure("metrics", settings.logs)
    wanted = settings.metrics
    if wanted is None:
        raise SystemExit("metrics: the settings want none")
    app = gatherer(sources_of(settings), read_secret(wanted.token_file))
    host, _, port = wanted.listen.rpartition(":")
    uvicorn.run(
        app,
        host=host.strip("[]"),
        port=int(port),
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
    )

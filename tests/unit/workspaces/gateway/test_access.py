"""Rules over a request's headers."""

from __future__ import annotations

import pytest

from orchestrator.workspaces.gateway import access


@pytest.mark.parametrize(
    ("origin", "host", "scheme", "same"),
    [
        ("https://bulle.example", "bulle.example", "https", True),
        ("http://127.0.0.1:8000", "127.0.0.1:8000", "http", True),
        ("https://bulle.example", "Bulle.example", "https", True),
        ("http://bulle.example", "bulle.example", "https", False),
        ("https://bulle.example.evil.example", "bulle.example", "https", False),
        ("https://evil.example", "bulle.example", "https", False),
        ("https://bulle.example:444", "bulle.example", "https", False),
        ("https://x@bulle.example", "bulle.example", "https", False),
        ("https://bulle.example/", "bulle.example", "https", False),
        ("https://[::1", "bulle.example", "https", False),
        ("null", "bulle.example", "https", False),
        ("", "bulle.example", "https", False),
        (None, "bulle.example", "https", False),
        ("https://bulle.example", None, "https", False),
        ("https://", "", "https", False),
    ],
)
def test_only_the_very_same_origin_is_the_same(origin: str | None, host: str | None, scheme: str, same: bool) -> None:
    assert access.same_origin(origin, host, scheme) is same


@pytest.mark.parametrize(
    ("site", "own"), [(None, True), ("same-origin", True), ("cross-site", False), ("same-site", False), ("none", False)]
)
def test_parts_of_the_page_are_for_the_page(site: str | None, own: bool) -> None:
    assert access.own_page_asks({"Sec-Fetch-Site": site} if site else {}) is own


@pytest.mark.parametrize(
    ("accept", "language"),
    [
        ("", "en"),
        ("fr-FR,fr;q=0.9,en;q=0.8", "fr"),
        ("en-GB,en;q=0.9,fr;q=0.8", "en"),
        ("de,fr;q=0.3", "fr"),
        ("de", "en"),
        ("fr;q=x", "en"),
        ("fr;q=0", "en"),
        ("en;q=0.2, fr;q=0.7", "fr"),
    ],
)
def test_the_language_is_the_best_that_there_is(accept: str, language: str) -> None:
    assert access.language(accept) == language


def test_no_page_takes_anything_from_outside() -> None:
    policy = access.HEADERS["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "http" not in policy
    assert "unsafe" not in policy

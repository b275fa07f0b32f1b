"""What each socket of the authority answers: its own client's calls, whole and bounded; and what were it otherwise."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from orchestrator.errors import InputError
from orchestrator.governance import authority as authority_module
from orchestrator.governance.authority import MAX_BODY, BodyLimit, hub_app, node_app, portal_app

CALLS: dict[str, list[tuple[str, str, Any]]] = {
    "hub": [
        ("PUT", "/v1/persons/ada", {"subject": "ada", "display_name": "Ada", "email": ""}),
        ("POST", "/v1/grants", {"person": "ada", "project": "sleep"}),
    ],
    "portal": [
        ("GET", "/v1/persons/ada", None),
        ("GET", "/v1/persons/ada/projects", None),
        ("GET", "/v1/deployment", None),
    ],
    "node": [("POST", "/v1/sessions/check", [])],
}
APPS: dict[str, Callable[[Any], FastAPI]] = {"hub": hub_app, "portal": portal_app, "node": node_app}
SECRET = "a value that is nobody's business"


def app(name: str) -> FastAPI:
    """The application of one socket; behind it is nothing that could answer."""
    return APPS[name](SimpleNamespace())


def foreign_calls_answered(name: str, served: FastAPI) -> list[str]:
    """The calls of other sockets that this one knows."""
    client = TestClient(served, raise_server_exceptions=False)
    found = []
    for other, calls in CALLS.items():
        for method, path, body in calls if other != name else []:
            answer = client.request(method, path, json=body)
            if answer.status_code != 404 or "no such call" not in answer.text:
                found.append(f"{method} {path}")
    return found


@pytest.mark.parametrize("name", APPS)
def test_a_socket_knows_the_calls_of_its_client_only(name: str) -> None:
    assert foreign_calls_answered(name, app(name)) == []


@pytest.mark.parametrize(("name", "other"), [("portal", "hub"), ("node", "hub"), ("portal", "node"), ("hub", "portal")])
def test_a_socket_that_knows_anothers_calls_is_seen(name: str, other: str) -> None:
    wide = app(name)
    wide.router.routes.extend(app(other).router.routes)
    expected = [f"{method} {path}" for method, path, _ in CALLS[other]]
    assert foreign_calls_answered(name, wide) == expected


def refused_as_too_large() -> bool:
    """Whether a body one byte over the limit is refused unread."""
    answer = TestClient(app("hub")).post("/v1/grants", content=b" " * (MAX_BODY + 1))
    return answer.status_code == InputError("").http_status and "larger than" in answer.text


def test_without_the_limit_a_body_of_any_size_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused_as_too_large()
    begin = BodyLimit.__init__
    monkeypatch.setattr(BodyLimit, "__init__", lambda self, app, limit: begin(self, app, 1 << 40))
    assert not refused_as_too_large()


def repeated() -> bool:
    """Whether an answer to a malformed request holds a value of it."""
    wrong = {"person": SECRET, "project": [SECRET], SECRET[:7]: 1}
    answer = TestClient(app("hub")).post("/v1/grants", json=wrong)
    assert answer.status_code == InputError("").http_status
    return SECRET in answer.text


def test_an_answer_that_repeats_a_value_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not repeated()
    monkeypatch.setattr(authority_module, "_invalid", lambda error: InputError(str(error.errors())))
    assert repeated()

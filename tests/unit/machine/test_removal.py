"""``bulle doctor`` says where a person who is removed at the login provider would not be noticed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import Oidc, Settings
from orchestrator.machine import doctor
from orchestrator.machine.doctor import Level, check_removal

KEYCLOAK = {
    "grant_types_supported": ["authorization_code", "refresh_token"],
    "scopes_supported": ["openid", "profile", "offline_access"],
}
# lists no grant types, and gives refresh tokens all the same
ENTRA = {"scopes_supported": ["openid", "profile", "email", "offline_access"]}
WITH = ("openid", "profile", "email", "offline_access")


def looked(monkeypatch: pytest.MonkeyPatch, said: dict[str, Any] | OSError, **oidc: Any) -> doctor.Finding:
    def answer(url: str) -> dict[str, Any]:
        assert url == "https://login.example.org/.well-known/openid-configuration"
        if isinstance(said, OSError):
            raise said
        return said

    monkeypatch.setattr(doctor, "_said_by_provider", answer)
    login = Oidc(issuer="https://login.example.org", client_id="bulle", client_secret_file=Path("/x"), **oidc)
    return check_removal(Settings(deployment="unit", state=Path("/x"), oidc=login))


@pytest.mark.parametrize("said", [KEYCLOAK, ENTRA])
def test_offline_access_that_is_offered_is_to_be_asked_for(
    monkeypatch: pytest.MonkeyPatch, said: dict[str, Any]
) -> None:
    found = looked(monkeypatch, said)
    assert found.level is Level.WARNING and "offline_access" in found.message and "docs/login.md" in found.hint
    assert looked(monkeypatch, said, scopes=WITH).level is Level.FINE


@pytest.mark.parametrize("said", [{}, {"grant_types_supported": ["refresh_token"], "scopes_supported": ["openid"]}])
def test_a_provider_that_offers_none_may_give_refresh_tokens_all_the_same(
    monkeypatch: pytest.MonkeyPatch, said: dict[str, Any]
) -> None:
    assert looked(monkeypatch, said).level is Level.FINE


def test_a_provider_without_refresh_tokens_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = looked(monkeypatch, {"grant_types_supported": ["authorization_code"]}, scopes=WITH)
    assert found.level is Level.WARNING and "workspaces run on" in found.message


def test_never_asking_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = looked(monkeypatch, KEYCLOAK, scopes=WITH, refresh_seconds=0)
    assert found.level is Level.WARNING and "refresh_seconds: 0" in found.message


def test_a_provider_that_is_down_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    assert looked(monkeypatch, OSError("refused")).level is Level.WARNING


def test_it_is_one_of_the_checks() -> None:
    assert check_removal in doctor.CHECKS

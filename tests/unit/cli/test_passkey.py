"""``bulle passkey`` on a real state folder: what becomes an anchor, and what does not; and what doctor says."""

from __future__ import annotations

import os
from typing import Any

import pytest

from orchestrator.cli.context import open_governance
from orchestrator.config import Settings
from orchestrator.governance.chain import ANCHORS, read_anchors
from orchestrator.governance.identity import OPERATOR
from orchestrator.governance.service import Governance
from orchestrator.governance.signatures import fingerprint
from orchestrator.governance.states import PlatformRole
from orchestrator.machine.doctor import Level, check_passkeys
from tests.unit.conftest import CommandLine
from tests.unit.softkey import SoftKey


@pytest.fixture
def deployment_settings() -> dict[str, Any]:
    address = "http://localhost:9"
    return {
        "public_url": "http://localhost:8000",
        "oidc": {"issuer": address, "client_id": "x", "client_secret_file": "/x"},
        "governance": {"signatures": "required"},
    }


@pytest.fixture
def settings(command_line: CommandLine) -> Settings:
    return command_line.settings


@pytest.fixture
def governance(settings: Settings) -> Governance:
    made = open_governance(settings)
    for name in ("custodian", "lead"):
        made.add_person(OPERATOR, name, name.title())
    made.add_role(OPERATOR, "custodian", PlatformRole.CUSTODIAN)
    return made


def registered(governance: Governance, person: str) -> SoftKey:
    key = SoftKey()
    governance.add_passkey(person, "key", key.create(governance.begin_passkey(person)))
    return key


def anchored(settings: Settings) -> list[tuple[str, str]]:
    found = read_anchors(settings.layout.public / ANCHORS, settings.deployment)
    return [(one.person, one.passkey) for one in found.passkeys]


def test_the_operators_word_makes_a_custodians_passkey_an_anchor(
    bulle: CommandLine, governance: Governance, settings: Settings
) -> None:
    key = registered(governance, "custodian")
    code, *told = bulle("passkey", "vouch", "custodian", key.name[:12], "--fingerprint", fingerprint(key.cose))
    assert code == 0, told
    assert anchored(settings) == [("custodian", key.name)]
    path = settings.layout.public / ANCHORS
    assert (path.stat().st_mode & 0o777, path.stat().st_uid) == (0o644, os.geteuid())
    assert fingerprint(key.cose) in bulle("passkey", "anchors")[1]
    assert fingerprint(key.cose) in bulle("passkey", "list", "custodian")[1]


def test_another_fingerprint_than_the_owners_is_refused(
    bulle: CommandLine, governance: Governance, settings: Settings
) -> None:
    """Attack: a key that the portal or the database put in the place of the custodian's."""
    key = registered(governance, "custodian")
    code, out, err = bulle("passkey", "vouch", "custodian", key.name, "--fingerprint", fingerprint(SoftKey().cose))
    assert code == 1
    assert "do not vouch for it" in out + err
    assert anchored(settings) == []
    assert governance.passkeys("custodian")[0].vouched_by is None


def test_what_becomes_no_anchor(bulle: CommandLine, governance: Governance, settings: Settings) -> None:
    """A lead's passkey, whoever asks; and a custodian's where a custodian vouches."""
    lead, custodian = registered(governance, "lead"), registered(governance, "custodian")
    assert bulle("passkey", "vouch", "lead", lead.name, "--fingerprint", fingerprint(lead.cose))[0] == 1
    for by in ("lead", "custodian"):
        told = bulle(
            "passkey", "vouch", "custodian", custodian.name, "--fingerprint", fingerprint(custodian.cose), "--as", by
        )
        assert told[0] == 1
    assert bulle("passkey", "vouch", "lead", custodian.name, "--fingerprint", fingerprint(custodian.cose))[0] == 1
    assert anchored(settings) == []


def test_a_removed_passkey_stays_an_anchor_unless_it_is_void(
    bulle: CommandLine, governance: Governance, settings: Settings
) -> None:
    lost, stolen = registered(governance, "custodian"), registered(governance, "custodian")
    for key in (lost, stolen):
        bulle("passkey", "vouch", "custodian", key.name, "--fingerprint", fingerprint(key.cose))
    assert bulle("passkey", "remove", "custodian", stolen.name, "--void", "--as", "custodian")[0] == 1
    assert bulle("passkey", "remove", "custodian", lost.name)[0] == 0
    assert bulle("passkey", "remove", "custodian", stolen.name, "--void")[0] == 0
    assert anchored(settings) == [("custodian", lost.name)]
    assert all(card.removed_at is not None for card in governance.passkeys("custodian"))


def test_doctor_says_what_passkeys_need(bulle: CommandLine, governance: Governance, settings: Settings) -> None:
    assert check_passkeys(settings).level is Level.FAULT
    key = registered(governance, "custodian")
    bulle("passkey", "vouch", "custodian", key.name, "--fingerprint", fingerprint(key.cose))
    assert check_passkeys(settings).level is Level.FINE
    numbers = settings.model_copy(update={"public_url": "http://127.0.0.1:8000"})
    found = check_passkeys(numbers)
    assert found.level is Level.FAULT
    assert "host name" in found.message
    off = numbers.model_copy(update={"governance": settings.governance.model_copy(update={"signatures": "off"})})
    assert check_passkeys(off).level is Level.FINE or "host name" in check_passkeys(off).message

"""A browser registers passkeys and signs decisions with them (Chromium's virtual authenticator), and the node agent's
check holds for what comes of it: a project is approved and a member admitted by signatures alone.

Real authority, real portal, real Chromium; no engine is needed.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from orchestrator.audit import AuditLog
from orchestrator.config import Settings
from orchestrator.errors import GrantError
from orchestrator.governance.authority import authority_of, portal_app
from orchestrator.governance.chain import Anchors, check_chain
from orchestrator.governance.client import AsyncAuthorityClient
from orchestrator.governance.identity import OPERATOR
from orchestrator.governance.rules import Action
from orchestrator.governance.service import Governance
from orchestrator.governance.signatures import signing_of
from orchestrator.governance.store import Store
from orchestrator.portal.application import Portal
from tests.integration.portal_stage import (
    AUDIT_KEY,
    GRANT_KEY,
    RAM,
    Datasets,
    Hub,
    PortalStage,
    Story,
    free_port,
    serving,
)
from tests.integration.test_portal_pages import LOCALES, NARROW, grave, log_in, too_wide

NONE: frozenset[Action] = frozenset()


@dataclass
class Window:
    """A person's browser window, with an authenticator of their own."""

    page: Page
    stage: PortalStage
    authenticator: str
    cdp: Any

    def open(self, path: str) -> Page:
        self.page.goto(self.stage.page(path))
        return self.page

    def sign(self, operation: str) -> None:
        """Press the button of a decision, and sign it on the page that follows."""
        self.page.locator(f'form[action$="act/{operation}"] button[type=submit]').first.click()
        self.page.locator("#signing button[type=submit]").click()
        self.page.wait_for_selector("#signing", state="detached")

    def register(self, name: str) -> None:
        self.open("account")
        self.page.locator('form[action$="act/passkey.begin"] button').click()
        self.page.fill("#making-name", name)
        self.page.locator("#making button[type=submit]").click()
        self.page.wait_for_selector("#making", state="detached")


@dataclass
class Place:
    stage: PortalStage
    settings: Settings
    browser: Browser
    unsigned: Governance
    windows: dict[str, Window] = field(default_factory=dict)

    @property
    def governance(self) -> Governance:
        return self.stage.governance

    def window(self, who: str, *, verified: bool = True, locale: str = "en-GB", policy: bool = True) -> Window:
        if who not in self.windows:
            # axe runs in the page, which the portal's policy rightly forbids.
            context = self.browser.new_context(locale=locale, bypass_csp=not policy)
            context.set_default_timeout(60_000)
            log_in(context, self.stage, who)
            page = context.new_page()
            cdp = context.new_cdp_session(page)
            cdp.send("WebAuthn.enable")
            made = cdp.send(
                "WebAuthn.addVirtualAuthenticator",
                {
                    "options": {
                        "protocol": "ctap2",
                        "transport": "internal",
                        "hasUserVerification": True,
                        "isUserVerified": verified,
                        "automaticPresenceSimulation": True,
                    }
                },
            )
            self.windows[who] = Window(page, self.stage, made["authenticatorId"], cdp)
        return self.windows[who]


@contextmanager
def _place(browser: Browser) -> Iterator[Place]:
    with tempfile.TemporaryDirectory(dir=RAM if RAM.is_dir() else None) as name:
        folder, port = Path(name), free_port()

        def clock() -> datetime:
            return datetime.now(UTC)

        settings = Settings.model_validate(
            {
                "deployment": "hospital",
                "state": name,
                "public_url": f"http://localhost:{port}",
                "listen": f"127.0.0.1:{port}",
                "oidc": {"issuer": "https://login.example.org", "client_id": "b", "client_secret_file": "/x"},
                "governance": {"signatures": "required"},
            }
        )
        audit = AuditLog(folder / "audit", AUDIT_KEY, clock=clock)
        audit.create()
        store = Store(f"sqlite:///{folder / 'governance.sqlite'}")
        store.prepare()
        unsigned = Governance(store, audit, clock, Datasets())
        governance = Governance(store, audit, clock, Datasets(), settings.governance, signing=signing_of(settings))
        authority = portal_app(authority_of(settings, governance, GRANT_KEY))
        with serving(authority, uds=str(folder / "authority.sock"), lifespan="off"):
            hub = Hub()
            app = Portal(settings, hub, AsyncAuthorityClient(folder / "authority.sock")).application()  # type: ignore[arg-type]
            with serving(app, host="127.0.0.1", port=port):
                stage = PortalStage(settings.public_url, governance, app, hub)
                made = Place(stage, settings, browser, unsigned)
                yield made
                for window in made.windows.values():
                    window.page.context.close()
        store.close()


@pytest.fixture
def place(browser: Browser) -> Iterator[Place]:
    with _place(browser) as made:
        Story(made.unsigned).people()
        yield made


def test_a_project_and_a_member_are_approved_by_signatures_alone(place: Place) -> None:
    governance, story = place.governance, Story(place.unsigned)
    anchors = Anchors(deployment="hospital")

    custodian = place.window("custodian")
    custodian.register("security key")
    assert "nobody has vouched for it yet" in custodian.page.content()
    key, cose = governance.public_key_of("custodian", governance.passkeys("custodian")[0].id)
    assert governance.passkeys("custodian")[0].fingerprint in custodian.page.content()
    governance.vouch_passkey(OPERATOR, "custodian", key)
    anchors = anchors.with_passkey("custodian", key, cose)
    assert "signs decisions" in custodian.open("account").content()

    lead = place.window("lead")
    lead.register("laptop")
    custodian.open("people/lead")
    custodian.sign("passkey.vouch")
    assert governance.passkeys("lead")[0].vouched_by == "custodian"

    story.begun("heart", "lead", "Hearts", "lead")
    story.do("lead", "application.submit", project="heart", number=1)
    story.do("custodian", "application.check", project="heart", number=1)
    custodian.open("applications/heart/1")
    custodian.sign("application.approve")
    assert governance.project("heart").state == "active"

    story.do("researcher", "member.accept", project="heart")
    lead.open("projects/heart/people")
    lead.sign("member.approve")
    grant = governance.may_open("researcher", "heart")
    check_chain(grant, signing_of(place.settings), anchors, NONE)
    check_chain(governance.may_open("lead", "heart"), signing_of(place.settings), anchors, NONE)

    # and what was decided without a signature does not hold, though the authority takes it for decided
    story.do("researcher2", "member.request", project="heart", role="member", ends=story.until.isoformat())
    place.unsigned.confirm_training(OPERATOR, "researcher2", governance.account("researcher2").trainings[0].id)
    place.unsigned.approve_membership("lead", "heart", "researcher2")
    with pytest.raises(GrantError, match="membership of 'researcher2'"):
        check_chain(governance.may_open("researcher2", "heart"), signing_of(place.settings), anchors, NONE)


def test_without_a_passkey_the_page_says_what_is_missing(place: Place) -> None:
    story = Story(place.unsigned)
    story.begun("heart", "lead", "Hearts", "lead")
    story.do("lead", "application.submit", project="heart", number=1)
    story.do("custodian", "application.check", project="heart", number=1)
    page = place.window("custodian").open("applications/heart/1")
    page.locator('form[action$="act/application.approve"] button[type=submit]').first.click()
    page.wait_for_selector(".note.bad")
    assert "passkey" in page.locator(".note.bad").first.inner_text()
    assert place.governance.project("heart").state == "draft"


def test_an_authenticator_that_does_not_know_the_person_registers_nothing(place: Place) -> None:
    window = place.window("custodian", verified=False)
    window.open("account")
    window.page.locator('form[action$="act/passkey.begin"] button').click()
    window.page.fill("#making-name", "lost key")
    window.page.locator("#making button[type=submit]").click()
    window.page.wait_for_selector("#not-made:not([hidden])")
    assert place.governance.passkeys("custodian") == []


def test_a_passkey_is_removed_and_cannot_be_asked_any_more(place: Place) -> None:
    window = place.window("custodian")
    window.register("old")
    window.page.locator('form[action$="act/passkey.remove"] button').click()
    window.page.wait_for_selector('form[action$="act/passkey.remove"]', state="detached")
    assert place.governance.passkeys("custodian")[0].removed_at is not None


def test_the_pages_policy_holds_and_no_script_is_inline(place: Place) -> None:
    window = place.window("custodian")
    faults: list[str] = []
    window.page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    window.register("key")
    assert faults == []
    answer = window.page.goto(window.stage.page("account"))
    assert answer is not None
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert "unsafe" not in json.dumps(answer.headers)


@pytest.mark.parametrize("language", sorted(LOCALES))
def test_the_two_pages_that_ask_a_passkey_are_for_everybody(place: Place, language: str) -> None:
    window = place.window("custodian", locale=LOCALES[language], policy=False)
    window.open("account")
    window.page.locator('form[action$="act/passkey.begin"] button').click()
    window.page.wait_for_selector("#making")
    assert window.page.locator("html").get_attribute("lang") == language
    assert grave(window.page) == []
    assert too_wide(window.page, NARROW) == []

    window.register("key")
    place.governance.vouch_passkey(OPERATOR, "custodian", place.governance.passkeys("custodian")[0].id)
    lead = place.window("lead")
    lead.register("laptop")
    window.open("people/lead")
    window.page.locator('form[action$="act/passkey.vouch"] button').click()
    window.page.wait_for_selector("#signing")
    assert grave(window.page) == []
    window.page.locator(".narrow details summary").click()
    assert too_wide(window.page, NARROW) == []
    if shots := os.environ.get("BULLE_SHOTS"):
        window.page.screenshot(path=f"{shots}/sign-{language}.png", full_page=True)

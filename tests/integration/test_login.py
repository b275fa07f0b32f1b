"""Logging in for real: the hub, its proxy, the portal, the authority, a certified provider library, and a browser."""

from __future__ import annotations

import base64
import hmac
import re
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from orchestrator.terms import Outcome
from tests.integration.login_stage import OTP, PASSWORD, TOTP_SECRET, Stage
from tests.integration.people import person, picture

PORTAL = re.compile(r"/services/portal/$")


@pytest.fixture(scope="module")
def stage(packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made = Stage(tmp_path_factory.mktemp("login"))
    try:
        made.up(packages)
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def strict(packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A deployment that asks for a second factor."""
    made = Stage(tmp_path_factory.mktemp("strict"), oidc={"require_mfa": True})
    try:
        made.up(packages)
        yield made
    finally:
        made.down()


def log_in(page: Page, stage: Stage, name: str, password: str = PASSWORD) -> None:
    page.goto(stage.url)
    page.click("#login-button")
    page.fill("#name", name)
    page.fill("#password", password)
    page.click("button[type=submit]")


def one_time_code(offset: int = 0) -> str:
    """RFC 6238, here as an authenticator app does it."""
    digest = hmac.digest(base64.b32decode(TOTP_SECRET), struct.pack(">Q", int(time.time()) // 30 + offset), "sha1")
    at = digest[-1] & 15
    return f"{(struct.unpack('>I', digest[at : at + 4])[0] & 0x7FFFFFFF) % 1_000_000:06d}"


def fits(page: Page) -> bool:
    """Whether nothing sticks out at the side."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


@pytest.mark.parametrize(("locale", "title", "width"), [("en-GB", "My projects", 1280), ("fr-FR", "Mes projets", 320)])
def test_a_researcher_logs_in_and_sees_their_projects(
    stage: Stage, browser: Browser, locale: str, title: str, width: int
) -> None:
    faults: list[str] = []
    with person(browser, locale=locale, width=width) as profile:
        page = profile.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.goto(stage.url)
        picture(page, f"login-{locale}")
        assert fits(page)
        log_in(page, stage, "researcher")
        expect(page).to_have_url(PORTAL)
        expect(page.get_by_role("heading", level=1)).to_have_text(title)
        expect(page.get_by_role("heading", name="Doctor visits and working life")).to_be_visible()
        page.click("main summary")
        picture(page, f"portal-{locale}")
        assert fits(page)
        page.goto(f"{stage.url}/services/portal/about")
        picture(page, f"about-{locale}")
        assert fits(page)
    assert faults == []
    assert [event.person for event in stage.audit("session.login")][-1] == "researcher"


def test_a_wrong_password_opens_nothing(stage: Stage, browser: Browser) -> None:
    before = len(stage.audit("session.login"))
    with person(browser) as profile:
        page = profile.new_page()
        log_in(page, stage, "researcher", "wrong")
        expect(page.get_by_role("alert")).to_contain_text("not right")
        picture(page, "login-wrong")
        page.goto(f"{stage.url}/services/portal/")
        expect(page.locator("#login-button")).to_be_visible()
    assert len(stage.audit("session.login")) == before


def test_a_password_alone_is_refused_where_a_second_factor_is_required(strict: Stage, browser: Browser) -> None:
    with person(browser) as profile:
        page = profile.new_page()
        log_in(page, strict, "researcher")
        expect(page.get_by_role("heading", level=1)).to_have_text("A second factor is needed")
        expect(page.get_by_role("link", name="Log in again")).to_be_visible()
        picture(page, "login-second-factor")
        assert page.evaluate("fetch('/services/portal/', {redirect: 'manual'}).then(r => r.type)") == "opaqueredirect"
        page.goto(f"{strict.url}/services/portal/")
        expect(page.locator("#login-button")).to_be_visible()
    (event,) = strict.audit("session.login")
    assert (event.person, event.outcome) == ("researcher", Outcome.REFUSED)
    assert event.detail["amr"] == ["pwd"]


def test_a_one_time_code_is_a_second_factor(strict: Stage, browser: Browser) -> None:
    with person(browser) as profile:
        page = profile.new_page()
        log_in(page, strict, OTP)
        page.fill("#code", "000000" if one_time_code() != "000000" else "111111")
        page.click("button[type=submit]")
        expect(page.get_by_role("alert")).to_be_visible()
        picture(page, "login-code")
        page.fill("#code", one_time_code())
        page.click("button[type=submit]")
        expect(page).to_have_url(PORTAL)
    event = strict.audit("session.login")[-1]
    assert (event.person, event.outcome, event.detail["amr"]) == (OTP, Outcome.DONE, ["pwd", "otp"])


def test_a_start_shows_its_steps_and_leads_to_the_desktop(stage: Stage, browser: Browser) -> None:
    stage.door(pause=0.25)
    with person(browser) as profile:
        page = profile.new_page()
        log_in(page, stage, "researcher")
        page.click("form[action$='/open/doctor-visits'] button")
        expect(page.locator("li[data-step=view]")).to_have_attribute("data-state", "now")
        expect(page.locator("li[data-step=keys]")).to_have_attribute("data-state", "done")
        expect(page.locator("li[data-step=view] .rows")).to_contain_text("of 12,000 rows")
        picture(page, "start")
        page.wait_for_url("**/user/researcher/doctor-visits/")
        expect(page.get_by_role("heading", name="Desktop")).to_be_visible()
        page.go_back()
        page.goto(f"{stage.url}/services/portal/")
        expect(page.get_by_text("Running", exact=True)).to_be_visible()
        picture(page, "portal-running")
        page.click("form[action$='/stop/doctor-visits'] button")
        expect(page.locator("form[action$='/open/doctor-visits'] button")).to_be_visible()
    asked = stage.door()[-1]
    assert set(asked) == {"grant", "bridge_environment"}
    assert asked["bridge_environment"]["JUPYTERHUB_USER"] == "researcher"
    assert asked["bridge_environment"]["JUPYTERHUB_SERVICE_PREFIX"] == "/user/researcher/doctor-visits/"


@pytest.mark.parametrize("step", ["starting", "proving", "desktop"])
def test_a_start_that_fails_says_what_and_what_to_do(stage: Stage, browser: Browser, step: str) -> None:
    fault = {"code": "isolation", "message": "tcp 192.0.2.1:443 answered from the sandbox", "hint": None}
    stage.door(pause=0.1, fail_at=step, error=fault)
    with person(browser) as profile:
        page = profile.new_page()
        log_in(page, stage, "researcher")
        page.click("form[action$='/open/doctor-visits'] button")
        expect(page.locator("#failed")).to_contain_text("The isolation test failed")
        expect(page.locator("#failed")).to_contain_text("192.0.2.1:443")
        expect(page.get_by_role("button", name="Try again")).to_be_visible()
        picture(page, f"start-failed-{step}")
        stage.door(pause=0.01)
        page.get_by_role("button", name="Try again").click()
        page.wait_for_url("**/user/researcher/doctor-visits/")
        page.goto(f"{stage.url}/services/portal/")
        page.click("form[action$='/stop/doctor-visits'] button")
        expect(page.locator("form[action$='/open/doctor-visits'] button")).to_be_visible()


def test_a_project_that_is_not_open_cannot_be_opened_by_hand(stage: Stage, browser: Browser) -> None:
    with person(browser) as profile:
        page = profile.new_page()
        log_in(page, stage, "researcher")
        assert page.locator("form[action$='/open/colon-survival']").count() == 0
        page.evaluate(
            "const f = document.querySelector('form[action$=\"/open/doctor-visits\"]');"
            "f.action = f.action.replace('doctor-visits', 'colon-survival'); f.submit()"
        )
        expect(page.locator("#failed")).to_contain_text("not approved")
        picture(page, "start-refused")


def cookies_of(page: Page) -> dict[str, str]:
    return {cookie["name"]: cookie["value"] for cookie in page.context.cookies()}  # type: ignore[typeddict-item]


def test_logging_out_is_on_the_servers_side(stage: Stage, browser: Browser) -> None:
    """A copy of every cookie, taken before, is worth nothing afterwards: nor in another browser of the person."""
    with person(browser) as first, person(browser) as second:
        page, elsewhere = first.new_page(), second.new_page()
        log_in(page, stage, "researcher")
        expect(page).to_have_url(PORTAL)
        log_in(elsewhere, stage, "researcher")
        expect(elsewhere).to_have_url(PORTAL)
        copied = cookies_of(page)
        with httpx.Client(base_url=stage.url, cookies=copied) as thief:
            # negative control: before, the copy opens the portal
            assert thief.get("/services/portal/").status_code == 200
        page.click("form[action$='/logout'] button")
        expect(page.get_by_role("heading", level=1)).to_have_text("You are logged out")
        picture(page, "logged-out")
        with httpx.Client(base_url=stage.url, cookies=copied, follow_redirects=True) as thief:
            answer = thief.get("/services/portal/")
            assert answer.url.path == "/hub/login", answer.url
        with httpx.Client(base_url=stage.url, cookies=copied) as thief:
            assert thief.get("/hub/api/user").status_code in (401, 403)
        elsewhere.goto(f"{stage.url}/services/portal/")
        expect(elsewhere.locator("#login-button")).to_be_visible()
        # and the provider asks for the password again
        page.goto(stage.url)
        page.click("#login-button")
        expect(page.locator("#password")).to_be_visible()
    assert stage.audit("session.logout")[-1].person == "researcher"


def test_nobody_logs_in_while_the_authority_is_down(stage: Stage, browser: Browser) -> None:
    """No session exists that the audit log does not show."""
    stage.end("authority")
    try:
        with person(browser) as profile:
            page = profile.new_page()
            log_in(page, stage, "researcher")
            expect(page.get_by_role("heading", level=1)).to_have_text("Logging in is not possible right now")
            picture(page, "login-unavailable")
            assert not [name for name in cookies_of(page) if name.startswith("jupyterhub-hub-login")]
    finally:
        stage.settings.layout.socket("hub").unlink(missing_ok=True)
        import sys

        stage.start("authority", sys.executable, "-m", "tests.integration.login_stage", "authority")
        stage.wait_socket("hub")


@pytest.mark.parametrize(
    "path",
    [
        "/hub/home",
        "/hub/spawn",
        "/hub/spawn/researcher",
        "/hub/spawn/researcher/doctor-visits",
        "/hub/token",
        "/hub/admin",
    ],
)
def test_jupyterhubs_own_pages_give_nothing(stage: Stage, browser: Browser, path: str) -> None:
    asked = len(stage.door())
    with person(browser) as profile:
        page = profile.new_page()
        log_in(page, stage, "researcher")
        expect(page).to_have_url(PORTAL)
        page.goto(stage.url + path)
        page.wait_for_timeout(500)
        assert "JupyterHub" not in page.content()
        assert urlsplit(page.url).path in (path, "/services/portal/")
    assert len(stage.door()) == asked


def test_somebody_elses_workspace_is_not_entered(stage: Stage, browser: Browser) -> None:
    with person(browser) as profile:
        page = profile.new_page()
        log_in(page, stage, "admin")
        expect(page).to_have_url(PORTAL)
        picture(page, "portal-administrator")
        expect(page.get_by_text("Keys are kept in a file on this machine.")).to_be_visible()
        for path in (
            "/user/researcher/doctor-visits/",
            "/hub/api/users/researcher",
            "/hub/api/users",
            "/hub/api/proxy",
        ):
            answer = page.goto(stage.url + path)
            assert answer is not None and answer.status in (403, 404, 424), (path, answer.status)


def test_a_stolen_bridge_token_is_worth_one_session(stage: Stage, browser: Browser) -> None:
    """What a bridge holds says whose it is and that it is in use; it starts, stops, reads and shares nothing."""
    stage.door(pause=0.01)
    with person(browser) as profile:
        page = profile.new_page()
        log_in(page, stage, "researcher")
        page.click("form[action$='/open/doctor-visits'] button")
        page.wait_for_url("**/user/researcher/doctor-visits/")
        token = stage.door()[-1]["bridge_environment"]["JUPYTERHUB_API_TOKEN"]
        with httpx.Client(base_url=stage.url, headers={"Authorization": f"token {token}"}) as thief:
            # negative control: it is a token that the hub knows
            assert thief.get("/hub/api/user").json()["name"] == "researcher"
            calls: list[tuple[str, str]] = [
                ("POST", "/hub/api/users/researcher/tokens"),
                ("POST", "/hub/api/users/researcher/servers/another"),
                ("DELETE", "/hub/api/users/researcher/servers/doctor-visits"),
                ("POST", "/hub/api/shares/researcher/doctor-visits"),
                ("POST", "/hub/api/share-codes/researcher/doctor-visits"),
                ("PATCH", "/hub/api/users/researcher"),
                ("GET", "/hub/api/users"),
                ("GET", "/hub/api/users/lead"),
                ("GET", "/hub/api/proxy"),
                ("GET", "/hub/api/services"),
            ]
            for method, path in calls:
                answer = thief.request(method, path, json={} if method != "GET" else None)
                assert answer.status_code in (403, 404), (method, path, answer.status_code)
        page.goto(f"{stage.url}/services/portal/")
        page.click("form[action$='/stop/doctor-visits'] button")
        expect(page.locator("form[action$='/open/doctor-visits'] button")).to_be_visible()


def test_secrets_are_in_no_log_and_in_no_command_line(stage: Stage) -> None:
    layout = stage.settings.layout
    values = [
        path.read_text().strip() for path in layout.secrets.rglob("*") if path.is_file() and path.suffix != ".json"
    ]
    assert len(values) > 5
    logs = "".join(stage.log(name) for name in stage.processes)
    lines = "".join(
        Path(f"/proc/{process.pid}/cmdline").read_text().replace("\0", " ") for process in stage.processes.values()
    )
    for value in [*values, PASSWORD]:
        assert value not in logs and value not in lines

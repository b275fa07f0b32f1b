"""Every page of the portal as people meet it: in both languages, by each role, small, large, and without a mouse.

Real authority, real portal, real Chromium (tests/integration/portal_stage.py); no engine is needed. With
``BULLE_SHOTS`` the pictures of all pages are kept in that folder, to be looked at.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page
from starlette.routing import Match, Mount, Route

from orchestrator.portal.application import OPEN
from orchestrator.portal.hub import PREFIX
from tests.integration.portal_stage import PEOPLE, PortalStage, portal_stage

LOCALES = {"en": "en-GB", "fr": "fr-FR"}
WIDE, TWICE, NARROW = 1280, 640, 320
#: routes that answer with a file or a stream, or lead on
NO_PAGES = {"events", "usage-csv", "audit-csv", "audit-jsonl"}


@dataclass(frozen=True)
class Shown:
    """A page, and who looks at it first: the one to whom it offers most."""

    path: str
    who: str
    status: int = 200

    @property
    def name(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.path).strip("-") or "home"


PAGES = (
    Shown("", "researcher"),
    Shown("about", "researcher"),
    Shown("account", "researcher2"),
    Shown("applications", "applicant"),
    Shown("applications/new", "applicant"),
    Shown("applications/new?dataset=rwm5yr", "applicant"),
    Shown("applications/doctor-visits/1", "lead"),
    Shown("applications/doctor-visits/2", "custodian"),
    Shown("applications/hip-fractures/1", "applicant"),
    Shown("applications/hip-fractures/1/edit", "applicant"),
    Shown("applications/sleep-cohort/1", "custodian"),
    Shown("audit", "auditor"),
    Shown("audit?kind=member.&outcome=done", "auditor"),
    Shown("audit?since=yesterday", "auditor", 422),
    Shown("catalogue", "researcher"),
    Shown("catalogue?search=nothing", "researcher"),
    Shown("catalogue/rwm5yr", "researcher"),
    Shown("inbox", "custodian"),
    Shown("nothing", "researcher", 404),
    Shown("people", "admin"),
    Shown("people?search=nobody", "auditor"),
    Shown("people/former", "admin"),
    Shown("people/partner", "custodian"),
    Shown("people/researcher2", "admin"),
    Shown("people/custodian2", "admin"),
    Shown("platform", "admin"),
    Shown("projects", "custodian"),
    Shown("projects?search=nothing", "auditor"),
    Shown("projects/doctor-visits", "lead"),
    Shown("projects/doctor-visits/activity", "lead"),
    Shown("projects/doctor-visits/applications", "lead"),
    Shown("projects/doctor-visits/people", "lead"),
    Shown("projects/doctor-visits/permit", "lead"),
    Shown("projects/old-study", "custodian"),
    Shown("projects/stroke-care", "custodian"),
    Shown("start/doctor-visits", "lead"),
    Shown("usage", "admin"),
    Shown("usage?project=doctor-visits", "custodian"),
)
ROLES = ("newcomer", "researcher", "lead", "custodian", "reviewer", "auditor", "admin")


@pytest.fixture(scope="module")
def stage() -> Iterator[PortalStage]:
    with portal_stage() as made:
        yield made


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the pictures go."""
    folder = Path(os.environ.get("BULLE_SHOTS") or tmp_path_factory.mktemp("shots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class People:
    """A browser profile for each person and language, logged in."""

    def __init__(self, browser: Browser, stage: PortalStage) -> None:
        self._browser, self._stage = browser, stage
        self._open: dict[tuple[str, str], Page] = {}

    def page(self, who: str, language: str) -> Page:
        """Their window, wide."""
        if (who, language) not in self._open:
            # axe runs in the page, which the portal's policy rightly forbids: only these windows leave it out.
            context = self._browser.new_context(
                locale=LOCALES[language], viewport={"width": WIDE, "height": 800}, bypass_csp=True
            )
            context.set_default_timeout(20_000)
            log_in(context, self._stage, who)
            self._open[who, language] = context.new_page()
        page = self._open[who, language]
        page.set_viewport_size({"width": WIDE, "height": 800})
        return page

    def close(self) -> None:
        for page in self._open.values():
            page.context.close()


def log_in(context: BrowserContext, stage: PortalStage, who: str) -> None:
    assert who in PEOPLE
    first = context.request.get(stage.page("about"), max_redirects=0)
    state = re.search(r"state=([\w-]+)", first.headers["location"])
    assert state is not None
    context.request.get(stage.page(f"oauth_callback?code={who}&state={state[1]}"), max_redirects=0)


@pytest.fixture(scope="module")
def people(browser: Browser, stage: PortalStage) -> Iterator[People]:
    made = People(browser, stage)
    yield made
    made.close()


def opened(people: People, stage: PortalStage, shown: Shown, language: str, who: str = "") -> Page:
    page = people.page(who or shown.who, language)
    answer = page.goto(stage.page(shown.path), wait_until="load")
    assert answer is not None
    if not who:
        assert answer.status == shown.status, shown
    assert page.locator("html").get_attribute("lang") == language
    return page


# -- what is asked of a page ---------------------------------------------------------------------------------
def grave(page: Page) -> list[str]:
    """What axe-core finds that keeps somebody out: of impact serious or critical."""
    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {node['target']} {node['html'][:160]}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


def too_wide(page: Page, width: int) -> list[str]:
    """What does not fit into a window of that width (WCAG 2.2, 1.4.10)."""
    page.set_viewport_size({"width": width, "height": 800})
    return page.evaluate(
        """() => {
        const most = document.documentElement.clientWidth;
        if (document.documentElement.scrollWidth <= most) return [];
        const wide = [...document.body.querySelectorAll("*")].filter(
            (each) => each.getBoundingClientRect().right > most + 1 && !each.closest(".scroll, .visually-hidden"));
        return wide.slice(0, 5).map((each) => each.outerHTML.slice(0, 160)).concat("wider than the window");
    }"""
    )


CONTROLS = """() => {
    const all = document.querySelectorAll(
        "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']");
    return [...all].filter((each) => !each.disabled && each.checkVisibility({visibilityProperty: true})
        && !(each.type === "radio" && !each.checked))
        .map((each, at) => { each.dataset.at = at; return each.outerHTML.slice(0, 120); });
}"""
EARLIER = """() => [...document.querySelectorAll("[tabindex]")].some((each) => each.tabIndex > 0)"""
FROM_THE_TOP = """() => {
    document.activeElement.blur();
    document.body.tabIndex = -1;
    document.body.focus();
    document.body.removeAttribute("tabindex");
}"""
FOCUS = """() => {
    const now = document.activeElement;
    if (!now || now === document.body) return null;
    const look = getComputedStyle(now);
    const seen = look.outlineStyle !== "none" && parseFloat(look.outlineWidth) >= 2;
    return {at: now.dataset.at, seen, what: now.outerHTML.slice(0, 120)};
}"""


def keyboard_faults(page: Page) -> list[str]:
    """Controls that Tab does not reach in order, or whose focus does not show (WCAG 2.2: 2.1.1, 2.4.3, 2.4.7)."""
    controls: list[str] = page.evaluate(CONTROLS)
    page.evaluate("() => { document.activeElement.blur(); window.getSelection().removeAllRanges(); }")
    page.evaluate(
        "() => { document.body.tabIndex = -1; document.body.focus(); document.body.removeAttribute('tabindex'); }"
    )
    faults, reached = [], []
    for _ in range(len(controls) * 5):  # a date has several stops
        page.keyboard.press("Tab")
        now: dict[str, Any] | None = page.evaluate(FOCUS)
        if now is None or (len(reached) > 1 and now["at"] == str(reached[0])):
            break
        if now["at"] is None:
            faults.append(f"reached, and is none of the controls: {now['what']}")
            continue
        if not reached or reached[-1] != int(now["at"]):
            reached.append(int(now["at"]))
        if not now["seen"]:
            faults.append(f"focus does not show: {now['what']}")
    faults += [f"not reached: {controls[at]}" for at in sorted(set(range(len(controls))) - set(reached))]
    if reached != sorted(reached) or page.evaluate(EARLIER):
        faults.append(f"not in order: {reached}")
    return faults


# -- every page ----------------------------------------------------------------------------------------------
def test_every_page_is_among_those_looked_at(stage: PortalStage) -> None:
    (portal,) = [route for route in stage.app.routes if isinstance(route, Mount)]
    routes = [
        route
        for route in portal.routes or ()
        if isinstance(route, Route) and "GET" in (route.methods or ()) and route.name not in {*OPEN, *NO_PAGES}
    ]
    assert len(routes) > 18
    paths = ["/" + shown.path.partition("?")[0] for shown in PAGES]

    def serves(route: Route, path: str) -> bool:
        return route.matches({"type": "http", "method": "GET", "path": path, "root_path": ""})[0] is Match.FULL

    unseen = [route.path for route in routes if not any(serves(route, path) for path in paths)]
    assert unseen == []


@pytest.mark.parametrize("language", LOCALES)
def test_nothing_on_any_page_keeps_anybody_out(stage: PortalStage, people: People, shots: Path, language: str) -> None:
    """axe-core finds nothing serious, and at 320 px or twice the size nothing is to be scrolled sideways."""
    faults = []
    for shown in PAGES:
        page = opened(people, stage, shown, language)
        faults += [f"{shown.path} {language}: {fault}" for fault in grave(page)]
        page.screenshot(path=shots / f"{shown.name}.{language}.png", full_page=True, animations="disabled")
        for width in (TWICE, NARROW):
            faults += [f"{shown.path} {language} at {width}: {fault}" for fault in too_wide(page, width)]
        if "BULLE_SHOTS" in os.environ:
            page.screenshot(path=shots / f"{shown.name}.{language}.{NARROW}.png", full_page=True, animations="disabled")
    assert faults == []


def test_every_control_is_reached_in_order_by_keyboard_and_seen(stage: PortalStage, people: People) -> None:
    faults = []
    for shown in PAGES:
        page = opened(people, stage, shown, "en")
        faults += [f"{shown.path}: {fault}" for fault in keyboard_faults(page)]
    assert faults == []


#: what differs from one reader or project to the next, and changes nothing of how an element is read
_VALUES = re.compile(r'(value|href|action|datetime|content|id|for|aria-\w+|data-\w+|max|low|high|src|lang)="[^"]*"')


def elements(html: str) -> set[str]:
    """The kinds of elements of a page: without texts and values."""
    return set(re.findall(r"<[a-z][^>]*>", _VALUES.sub(r"\1", html)))


@pytest.fixture(scope="module")
def closed() -> set[tuple[str, str]]:
    """Who was refused which page: what is closed to somebody is so in every language."""
    return set()


@pytest.mark.parametrize("language", LOCALES)
def test_every_page_as_each_role_that_may(
    stage: PortalStage, people: People, closed: set[tuple[str, str]], language: str
) -> None:
    """Whoever opens it gets a page or a refusal, and never a fault; what only that role sees is read by axe too."""
    faults, known = [], set[str]()
    for who in ROLES:
        context = people.page(who, language).context
        for shown in PAGES:
            # An empty search looks the same to everybody.
            if (who, shown.path) in closed or "search=" in shown.path:
                continue
            answer = context.request.get(stage.page(shown.path))
            if answer.status in (403, 404):
                closed.add((who, shown.path))
            if answer.status not in (200, 403, 404, 422):
                faults.append(f"{shown.path} as {who} {language}: status {answer.status}")
            fresh = elements(answer.text()) - known
            if fresh:
                known |= fresh
                page = opened(people, stage, shown, language, who)
                faults += [f"{shown.path} as {who} {language}: {fault}" for fault in grave(page)]
    assert faults == []


@pytest.mark.parametrize("language", LOCALES)
def test_what_a_form_answers_keeps_nobody_out(stage: PortalStage, people: People, language: str) -> None:
    """Faults are said at the top, lead to their field, and are tied to it; what was done is said too."""
    page = opened(people, stage, Shown("account", "researcher2"), language)
    form = page.locator("form#declare")
    form.evaluate("(form) => { form.noValidate = true; }")
    form.locator("button").click()
    alert = page.locator("[role=alert]")
    alert.wait_for()
    assert grave(page) == [] and too_wide(page, NARROW) == []
    target = alert.locator("a").first.get_attribute("href") or ""
    field = page.locator(target)
    assert field.get_attribute("aria-invalid") == "true"
    described = (field.get_attribute("aria-describedby") or "").split()
    assert described and all(page.locator(f"[id='{name}']").count() == 1 for name in described)

    page = opened(people, stage, Shown("account", "researcher2"), language)
    page.locator("details:has(form#token) > summary").click()
    page.locator("form#token input[name=name]").fill(f"notebook {language}")
    page.locator("form#token input[type=checkbox]").first.check()
    page.locator("form#token button").click()
    page.wait_for_url(re.compile("/act/token.create"))
    assert grave(page) == [] and too_wide(page, NARROW) == []

    page = opened(people, stage, Shown("applications/hip-fractures/1/edit", "applicant"), language)
    page.locator("form#edit button[type=submit], form button[type=submit]").nth(1).click()
    page.locator("[role=status]").first.wait_for()
    assert grave(page) == []


# -- negative controls: what each question finds -------------------------------------------------------------
@pytest.mark.parametrize(
    ("added", "rule"),
    [
        ("<input name='nameless'>", "label"),
        ("<p style='color: #bbb; background: #fff'>hardly to be read</p>", "color-contrast"),
        ("<button></button>", "button-name"),
        ("<img src='logo.svg'>", "image-alt"),
    ],
)
def test_negative_control_axe_sees_what_keeps_somebody_out(
    stage: PortalStage, people: People, added: str, rule: str
) -> None:
    page = opened(people, stage, Shown("about", "researcher"), "en")
    assert grave(page) == []
    page.evaluate("(html) => document.querySelector('main .card').insertAdjacentHTML('beforeend', html)", added)
    assert any(fault.startswith(f"{rule}:") for fault in grave(page))


def test_negative_control_a_page_that_is_too_wide_is_seen(stage: PortalStage, people: People) -> None:
    page = opened(people, stage, Shown("about", "researcher"), "en")
    assert too_wide(page, NARROW) == []
    page.evaluate(
        "() => document.querySelector('main').insertAdjacentHTML('beforeend', '<p style=\"width: 400px\">wide</p>')"
    )
    assert any("width: 400px" in fault for fault in too_wide(page, NARROW))


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        (
            "() => document.querySelectorAll('a, button').forEach((each) => each.style.outline = 'none')",
            "does not show",
        ),
        ("() => document.querySelector('footer a').tabIndex = -1", "not reached"),
        ("() => document.querySelector('header a.brand').tabIndex = 3", "not in order"),
    ],
)
def test_negative_control_a_control_that_the_keyboard_loses_is_seen(
    stage: PortalStage, people: People, script: str, fault: str
) -> None:
    page = opened(people, stage, Shown("about", "researcher"), "en")
    assert keyboard_faults(page) == []
    page.evaluate(script)
    assert any(fault in found for found in keyboard_faults(page))


def test_without_scripts_the_pages_are_whole(browser: Browser, stage: PortalStage) -> None:
    """Nothing but the live start and passkeys needs a script: reading and deciding does not."""
    context = browser.new_context(locale="en-GB", java_script_enabled=False)
    log_in(context, stage, "lead")
    page = context.new_page()
    page.goto(stage.page("projects/doctor-visits/people"))
    assert page.locator(f"form[action^='{PREFIX}act/']").count() > 3
    context.close()

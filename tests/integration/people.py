"""Acts as the demo's people do, in a real browser."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

#: screenshots of a test run, for people to look at
PICTURES = Path(__file__).parents[2] / "build" / "screenshots"
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, headless, told to stay on this machine."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=list(CHROMIUM_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def person(
    browser: Browser, *, locale: str = "en-GB", width: int = 1440, height: int = 900
) -> Iterator[BrowserContext]:
    """A person's own browser profile."""
    context = browser.new_context(locale=locale, viewport={"width": width, "height": height})
    context.set_default_timeout(60_000)
    try:
        yield context
    finally:
        context.close()


def picture(page: Page, name: str) -> Path:
    PICTURES.mkdir(parents=True, exist_ok=True)
    path = PICTURES / f"{name}.png"
    page.screenshot(path=path)
    return path


def log_in(page: Page, url: str, name: str, password: str) -> None:
    """From the address bar to one's own projects, through the provider's login page."""
    page.goto(url)
    page.click("#login-button")
    page.fill("#name", name)
    page.fill("#password", password)
    page.click("button[type=submit]")
    page.wait_for_url(re.compile(r"/services/portal/"))


def open_workspace(page: Page, project: str) -> None:
    """Click "Open workspace" and wait until the desktop's first pixels are drawn."""
    page.click(f"form[action$='/open/{project}'] button[type=submit]")
    page.wait_for_url(re.compile(rf"/user/[^/]+/{project}/"), timeout=120_000)
    wait_pixels(page)


def wait_pixels(page: Page) -> None:
    """Wait until the desktop's picture is drawn."""
    page.wait_for_selector("html[data-bulle=pixels]", state="attached", timeout=60_000)


def focus_desktop(page: Page) -> None:
    page.locator("#screen canvas").click(position={"x": 700, "y": 500})


def type_in_terminal(page: Page, line: str) -> None:
    """Open a terminal in the desktop with its own key chord and type a line into it."""
    focus_desktop(page)
    page.keyboard.press("Control+Alt+t")
    time.sleep(4)
    page.keyboard.type(line, delay=15)
    page.keyboard.press("Enter")


def wait_gone(page: Page, seconds: float) -> None:
    """The desktop has ended in the browser too."""
    expect(page.locator("html")).to_have_attribute("data-bulle", "ended", timeout=seconds * 1000)

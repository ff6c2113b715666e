"""A page that is opened from disk in Chromium, at phone width."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))


@contextmanager
def chromium_without_window() -> "Generator[Browser]":
    """Chromium; the test is skipped where there is none."""
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is missing; install Debian's chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser
        browser.close()


@contextmanager
def quiet_page(browser: "Browser", *own: str) -> "Generator[Page]":
    """A page that must raise no error and ask nobody: only addresses that begin with one of its
    `own`."""
    page = browser.new_page(viewport={"width": 390, "height": 844})
    troubles: list[str] = []

    def note(url: str) -> None:
        if not url.startswith(own):
            troubles.append(url)

    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda message: troubles.append(message.text))
    page.on("request", lambda request: note(request.url))
    yield page
    assert troubles == []
    page.close()

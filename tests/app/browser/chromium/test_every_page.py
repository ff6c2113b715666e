"""Every page, light and dark, wide and as narrow as a phone, can be read by everyone."""

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # pyright: ignore[reportMissingTypeStubs] - it has none
from playwright.sync_api import Page, expect

from .conftest import NARROW, WIDE, Faults, Served, Visit

pytestmark = pytest.mark.slow

PAGES = ("/", "/features/3", "/search", "/triage")
LOOKS = {
    "wide and light": {"viewport": WIDE, "color_scheme": "light"},
    "narrow and dark": {"viewport": NARROW, "color_scheme": "dark", "has_touch": True},
}


def serious_faults(page: Page) -> list[str]:
    """What axe finds of serious or critical impact."""
    axe: Any = Axe()
    results = axe.run(page).response
    return [
        f"{fault['id']}: {fault['help']}: {[node['html'][:200] for node in fault['nodes'][:3]]}"
        for fault in results["violations"]
        if fault["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("look", LOOKS)
def test_nothing_keeps_anyone_from_reading(path: str, look: str, visit: Visit) -> None:
    page = visit(path, **LOOKS[look])
    expect(page.get_by_role("main")).to_be_visible()
    page.wait_for_load_state("networkidle")
    assert serious_faults(page) == []
    wider = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wider <= 0, "nobody should have to scroll sideways"


def test_a_page_that_is_not_there_says_so(visit: Visit, faults: Faults) -> None:
    faults.allowed = ("404",)
    page = visit("/no<b>such</b>page")
    expect(page.get_by_role("main")).to_contain_text("there is no page /no<b>such</b>page")
    assert serious_faults(page) == []


def test_without_the_token_there_is_a_form_for_it(
    visit: Visit, faults: Faults, server: Served
) -> None:
    faults.allowed = ("401",)
    page = visit()
    page.context.clear_cookies()
    page.goto(server.url + "/")
    assert serious_faults(page) == []
    page.get_by_label("Token").fill(server.token)
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_role("navigation")).to_be_visible()
    expect(page).to_have_url(server.url + "/")
    assert server.token not in page.content()
    assert page.evaluate("document.cookie") == "", "no script can read the token"

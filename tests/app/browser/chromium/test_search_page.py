"""Searching as a person does: live, by every kind, and again from a saved search."""

import pytest
from playwright.sync_api import Page, expect

from .conftest import Served, Visit

pytestmark = pytest.mark.slow


def ready(visit: Visit) -> Page:
    page = visit("/search")
    expect(page.locator("html")).to_have_attribute("data-model", "ready")
    return page


def test_a_text_is_searched_as_one_types(visit: Visit) -> None:
    page = ready(visit)
    page.get_by_label("Leave out features").fill("100")
    page.get_by_label("Text to read").press_sequentially("cats and dogs")
    rows = page.locator("table.found tbody tr")
    expect(rows.first).to_be_visible()
    expect(page.locator("#state")).to_contain_text("Ranked by share of their own largest")
    before = rows.count()
    page.locator("#token-buttons button.token:not([disabled])").last.click()
    expect(page.locator("#token-buttons button[aria-pressed=true]")).to_have_count(1)
    expect(rows).not_to_have_count(before)
    page.get_by_role("button", name="All tokens").click()
    expect(rows).to_have_count(before)
    link = rows.first.get_by_role("link")
    number = link.inner_text()
    link.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(f"Feature {number}")
    page.go_back()
    expect(rows.first).to_be_visible()


def test_a_search_is_saved_run_again_and_deleted(visit: Visit, server: Served) -> None:
    page = ready(visit)
    page.get_by_label("neighbors of a number").check()
    page.locator("#words").fill("3")
    rows = page.locator("table.found tbody tr")
    expect(rows.first).to_be_visible()
    first = rows.first.get_by_role("link").inner_text()
    page.get_by_label("Name").fill("<b>near</b> three")
    page.get_by_role("button", name="Save this search").click()
    saved = page.locator("#saved").get_by_role("button", name="<b>near</b> three", exact=True)
    expect(saved).to_be_visible()
    page.goto(f"{server.url}/search")
    saved.click()
    expect(rows.first.get_by_role("link")).to_have_text(first)
    expect(page.locator("#words")).to_have_value("3")
    page.get_by_role("button", name="Delete the search <b>near</b> three").click()
    expect(saved).to_have_count(0)


def test_contrast_shows_what_it_is_to_be_held_against(visit: Visit) -> None:
    page = ready(visit)
    page.get_by_label("two sets of texts").check()
    page.get_by_label("Texts that should activate").fill("cats and dogs\nmore cats\ndogs again")
    page.get_by_label("Texts that should not").fill("rain and wind\nthe hills\nwind")
    page.get_by_role("button", name="Compare").click()
    caution = page.locator("#caution")
    expect(caution).to_contain_text("Length alone: AUROC")
    expect(caution).to_contain_text("with the labels shuffled")
    expect(page.locator("table.found tbody tr").first).to_be_visible()
    page.get_by_label("Rank by").select_option("output_score")
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("columnheader", name="Output score")).to_be_visible()
    expect(caution).to_contain_text("less sure of the next token")


def test_what_is_wrong_is_said_and_a_link_opens_a_search(visit: Visit, server: Served) -> None:
    page = ready(visit)
    page.goto(f"{server.url}/search?by=near&q=3")
    expect(page.locator("table.found tbody tr").first).to_be_visible()
    page.get_by_label("label", exact=True).check()
    page.locator("#words").fill("no such label")
    expect(page.locator("#state")).to_contain_text("No feature is like that")

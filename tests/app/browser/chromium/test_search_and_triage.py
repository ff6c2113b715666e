"""Searching features, and judging a queue of them by keyboard alone."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from .conftest import Served, Visit, copied, serving

pytestmark = pytest.mark.slow

LOADED = 90_000


def rows(page: Page) -> int:
    """How many features were found."""
    return page.locator("#found").get_by_role("rowheader").count()


def test_a_text_finds_the_features_that_it_activates(visit: Visit) -> None:
    page = visit("/search")
    page.get_by_label("Text to read").fill("cats and dogs <img src=x onerror=window.pwned=1>")
    page.get_by_label("Leave out features that fire on more than").fill("100")
    expect(page.locator("#state")).to_contain_text("features fire in the text", timeout=LOADED)
    assert rows(page) > 0
    n_all = rows(page)
    page.locator("#token-buttons").get_by_role("button", disabled=False).first.click()
    expect(page.locator("#token-buttons [aria-pressed=true]")).to_have_count(1)
    expect(page.get_by_role("button", name="All tokens")).to_be_visible()
    assert rows(page) <= n_all
    link = page.locator("#found").get_by_role("rowheader").first.get_by_role("link")
    number = link.inner_text()
    link.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(f"Feature {number}")
    page.go_back()
    expect(page.get_by_label("Text to read")).to_have_value(re.compile("cats and dogs"))
    expect(page.locator("#found").get_by_role("rowheader").first).to_be_visible(timeout=LOADED)


@pytest.mark.parametrize(
    ("kind", "words"),
    [("a token it fires on", "c"), ("a token it promotes", "a"), ("neighbors of a number", "3")],
)
def test_words_find_features(visit: Visit, kind: str, words: str) -> None:
    page = visit("/search")
    page.get_by_role("radio", name=kind).check()
    page.locator("#words").fill(words)
    expect(page.locator("#found").get_by_role("rowheader").first).to_be_visible(timeout=LOADED)


def test_two_sets_of_texts_are_told_apart_with_what_chance_would_find(visit: Visit) -> None:
    page = visit("/search")
    page.get_by_role("radio", name="two sets of texts").check()
    page.get_by_label("Texts that should activate it").fill("cats and dogs\nthe cats\ncats\na cat")
    page.get_by_label("Texts that should not").fill("rain 12\n99 wind\nwind\nrain, rain")
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#caution")).to_contain_text("Chance alone", timeout=LOADED)
    expect(page.locator("#caution")).to_contain_text("Length alone")
    assert rows(page) > 0


def test_a_search_is_saved_and_run_again(visit: Visit) -> None:
    page = visit("/search")
    page.get_by_role("radio", name="neighbors of a number").check()
    page.locator("#words").fill("5")
    expect(page.locator("#found").get_by_role("rowheader").first).to_be_visible()
    page.get_by_label("Name").fill("<b>near five</b>")
    page.get_by_role("button", name="Save this search").click()
    expect(page.get_by_role("button", name="<b>near five</b>", exact=True)).to_be_visible()
    page.goto(page.url.partition("?")[0])
    page.get_by_role("button", name="<b>near five</b>", exact=True).click()
    expect(page.locator("#words")).to_have_value("5")
    expect(page.locator("#found").get_by_role("rowheader").first).to_be_visible()


@pytest.fixture
def own_server(server: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of a run that nobody has reviewed anything of."""
    with serving(copied(server.run, tmp_path_factory.mktemp("triage"))) as served:
        yield served


def test_twenty_features_are_judged_by_keyboard_alone(own_server: Served, visit: Visit) -> None:
    page = visit("/triage", served=own_server)
    title, keys = page.locator("#card-title"), page.keyboard
    expect(title).to_contain_text("Feature")
    judged = dict[int, str]()
    for turn in range(20):
        number = int(str(page.locator("#card").get_attribute("data-feature")))
        key = ("a", "x", "s")[turn % 3]
        if turn % 4 == 1:
            keys.press("l")
            keys.type(f"label {turn}")
            keys.press("Enter")
            expect(page.locator("#said")).to_contain_text("is labeled")
        if turn % 5 == 2:
            keys.press("4")
        keys.press(key)
        if key == "s":
            expect(page.locator("#said")).to_contain_text("is starred")
            keys.press("j")
        expect(page.locator("#card")).not_to_have_attribute("data-feature", str(number))
        judged[number] = key
    assert len(judged) == 20
    expect(page.locator("#progress")).to_contain_text("20 of")
    picks = page.request.get(f"{own_server.url}/api/picks").json()["picks"]
    assert {pick["feature"] for pick in picks} == set(judged)
    for pick in picks:
        key = judged[pick["feature"]]
        assert pick["starred"] == (key == "s")
        assert pick["verdict"] == {"a": "keep", "x": "reject", "s": ""}[key]
    assert sum(pick["confidence"] == 4 for pick in picks) == 4
    assert sum(pick["label"].startswith("label ") for pick in picks) == 5
    keys.press("k")
    last = list(judged)[-1]
    expect(page.locator("#card")).to_have_attribute("data-feature", str(last))
    keys.press("a")  # which was rejected
    expect(page.locator("#card")).not_to_have_attribute("data-feature", str(last))
    keys.press("u")
    expect(page.locator("#card")).to_have_attribute("data-feature", str(last))
    keys.press("?")
    expect(page.get_by_role("region", name="Keys")).to_be_visible()
    keys.press("/")
    expect(page).to_have_url(re.compile("/search"))


def test_two_tabs_of_the_queue_show_each_others_work(own_server: Served, visit: Visit) -> None:
    page = visit("/triage", served=own_server)
    expect(page.locator("#card-title")).to_contain_text("Feature")
    number = int(str(page.locator("#card").get_attribute("data-feature")))
    other = page.context.new_page()
    other.goto(f"{own_server.url}/features/{number}")
    other.get_by_role("region", name="Pick").get_by_role("button", name="Keep").click()
    expect(page.locator("[data-shows=keep]")).to_have_attribute(
        "aria-pressed", "true", timeout=15_000
    )

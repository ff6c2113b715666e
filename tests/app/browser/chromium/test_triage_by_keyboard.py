"""Going through features by keyboard alone, in one tab and in two."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from .conftest import Served, Visit, copied, serving

pytestmark = pytest.mark.slow


@pytest.fixture
def own_server(hostile_run: Path, tmp_path: Path) -> Iterator[Served]:
    """A server of a copy of the run without picks, which a test may change."""
    with serving(copied(hostile_run, tmp_path)) as served:
        yield served


def opened(visit: Visit, served: Served) -> Page:
    page = visit("/triage", served=served)
    expect(page.locator("#card-title a")).to_be_visible()
    return page


def shown(page: Page) -> int:
    """The number of the feature on the page."""
    number = page.locator("#card").get_attribute("data-feature")
    assert number is not None
    return int(number)


def press(page: Page, key: str, said: str) -> None:
    """Press a key, and wait for what screen readers are told."""
    page.keyboard.press(key)
    expect(page.locator("#said")).to_contain_text(said)


def on_to(page: Page, key: str, number: int) -> None:
    """Press a key, and wait for the feature that it leads to."""
    page.keyboard.press(key)
    expect(page.locator("#card")).to_have_attribute("data-feature", str(number))
    expect(page.locator("#said")).to_contain_text(f"Feature {number}, fires most on")


def picks_in(served: Served) -> dict[int, dict[str, Any]]:
    values = json.loads((served.run / "picks.json").read_text())
    return {pick["feature"]: pick for pick in values["picks"]}


def test_twenty_features_without_a_mouse(own_server: Served, visit: Visit) -> None:
    page = opened(visit, own_server)
    queue = page.request.get(f"{own_server.url}/api/triage/queue").json()["features"]
    for place, number in enumerate(queue[:20]):
        assert shown(page) == number, "the most interesting first"
        match place % 4:
            case 0:
                on_to(page, "x", queue[place + 1])
            case 1:
                press(page, "s", f"Feature {number} is starred")
                press(page, str(place % 5 + 1), f"Feature {number} has confidence")
                on_to(page, "j", queue[place + 1])
            case 2:
                page.keyboard.press("l")
                expect(page.locator("#label")).to_be_focused()
                page.keyboard.type(f"jk sx {place} ?/u")  # keys are letters while someone types
                page.keyboard.press("Enter")
                expect(page.locator("#said")).to_contain_text(f"Feature {number} is labeled")
                expect(page.locator("#card-title")).to_be_focused()
                on_to(page, "j", queue[place + 1])
            case _:
                on_to(page, "a", queue[place + 1])
    picks = picks_in(own_server)
    assert list(picks) == queue[:20]
    for place, number in enumerate(queue[:20]):
        kind = place % 4
        assert picks[number].get("verdict", "") == ("reject", "", "", "keep")[kind]
        assert picks[number].get("starred", False) == (kind == 1)
        assert picks[number].get("confidence") == (place % 5 + 1 if kind == 1 else None)
        assert picks[number]["label"] == (f"jk sx {place} ?/u" if kind == 2 else "")
    expect(page.locator("#progress")).to_contain_text("20 of")
    page.reload()
    expect(page.locator("#card-title a")).to_have_text(f"Feature {queue[20]}")


def test_undo_and_back(own_server: Served, visit: Visit) -> None:
    page = opened(visit, own_server)
    first = shown(page)
    page.keyboard.press("x")
    expect(page.locator("#card-title a")).not_to_have_text(f"Feature {first}")
    page.keyboard.press("u")
    expect(page.locator("#card-title a")).to_have_text(f"Feature {first}")
    expect(page.locator('[data-shows="reject"]')).to_have_attribute("aria-pressed", "false")
    assert first not in picks_in(own_server)
    press(page, "s", "is starred")
    press(page, "s", "is not starred any more")
    page.keyboard.press("j")
    expect(page.locator("#card-title a")).not_to_have_text(f"Feature {first}")
    page.keyboard.press("k")
    expect(page.locator("#card-title a")).to_have_text(f"Feature {first}")
    press(page, "k", "This is the first feature")


def test_help_search_and_focus_are_reached_by_keys(own_server: Served, visit: Visit) -> None:
    page = opened(visit, own_server)
    expect(page.locator("#keys")).to_be_hidden()
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_hidden()
    button = page.locator('[data-key="s"]')
    page.locator('[data-key="j"]').focus()
    page.keyboard.press("Tab")
    expect(button).to_be_focused()
    assert button.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
    page.keyboard.press("Control+s")
    page.keyboard.press("l")
    page.keyboard.press("Escape")
    expect(page.locator("#label")).not_to_be_focused()
    assert not (own_server.run / "picks.json").exists(), "nothing was judged"
    page.keyboard.press("/")
    expect(page).to_have_url(f"{own_server.url}/search")
    expect(page.locator("#saved")).to_contain_text("None yet")  # its script is at work
    page.keyboard.press("/")
    expect(page.locator("#text")).to_be_focused()


def test_two_tabs_see_each_other_and_undo_their_own(own_server: Served, visit: Visit) -> None:
    one, two = opened(visit, own_server), opened(visit, own_server)
    queue = one.request.get(f"{own_server.url}/api/triage/queue").json()["features"]
    on_to(one, "x", queue[1])
    on_to(one, "x", queue[2])
    expect(two.locator('[data-shows="reject"]')).to_have_attribute("aria-pressed", "true")
    expect(two.locator("#progress")).to_contain_text("2 of")
    on_to(two, "j", queue[2])  # the second is judged already
    press(two, "s", "is starred")
    one.keyboard.press("u")
    expect(one.locator("#card-title a")).to_have_text(f"Feature {queue[1]}")
    assert picks_in(own_server)[queue[2]]["starred"], "the other tab's star stays"
    assert queue[1] not in picks_in(own_server)

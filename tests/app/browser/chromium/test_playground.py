"""Steering in the playground: written, stopped, swept, saved and opened again."""

import json
import re
import time

import pytest
from playwright.sync_api import Locator, Page, expect

from .conftest import Served, Visit
from .test_features import firing

pytestmark = pytest.mark.slow

LOADED = 90_000
"""Milliseconds until the language model is surely read."""


def steering_with(visit: Visit, prompt: str, *, tokens: int) -> tuple[Page, int]:
    """The playground with a feature that fires, reached by the button on its page."""
    page, number = firing(visit)
    page.get_by_role("link", name="Steer with this").click()
    expect(page.get_by_role("slider", name=f"Strength of feature {number}")).to_be_visible()
    page.get_by_label("Beginning of the text").fill(prompt)
    page.get_by_label("Tokens", exact=True).fill(str(tokens))
    return page, number


def column(page: Page, name: str) -> Locator:
    """What is written under Base, Steered or Instructed."""
    return page.get_by_role("region", name=re.compile(f"^{name}")).locator(".turns")


def state(page: Page) -> Locator:
    return page.locator("#state")


def requests_in_flight(page: Page, served: Served) -> float:
    """Slots of the engine that are in use, as its metrics tell."""
    text = page.request.get(f"{served.url}/metrics").text()
    found = re.findall(r"^sparsteer_\w*slots\w*use\w*(?:\{.*\})? ([0-9.e+]+)$", text, re.MULTILINE)
    assert found, text
    return sum(map(float, found))


def test_base_and_steered_texts_part_and_are_what_the_endpoint_gives(
    visit: Visit, server: Served
) -> None:
    page, number = steering_with(visit, "cats and ", tokens=16)
    page.get_by_label(f"Strength of feature {number}, as a number").fill("5")
    page.get_by_role("button", name="Write", exact=True).click()
    expect(state(page)).to_contain_text("done", timeout=LOADED)
    base, steered = (column(page, name).inner_text() for name in ("Base", "Steered"))
    assert base.strip() and steered.strip() and base != steered
    expect(page.get_by_role("region", name=re.compile("^Steered"))).to_contain_text("perplexity")
    answer = page.request.post(
        f"{server.url}/v1/completions",
        headers={"Authorization": f"Bearer {server.token}", "Content-Type": "application/json"},
        data={"prompt": "cats and ", "max_tokens": 16, "temperature": 0, "seed": 0},
    )
    assert answer.ok, answer.text()
    plain = re.sub(r"\u27e8U\+\w+\u27e9|\s", "", base)
    again = "".join(c for c in answer.json()["choices"][0]["text"] if c.isprintable())
    assert plain == re.sub(r"\s", "", again)


def test_stop_ends_the_text_and_frees_the_server(visit: Visit, server: Served) -> None:
    page, _ = steering_with(visit, "rain and ", tokens=400)
    page.get_by_role("button", name="Write", exact=True).click()
    expect(column(page, "Base")).to_have_text(re.compile("."), timeout=LOADED)
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(state(page)).to_have_text("stopped")
    text = column(page, "Base").inner_text()
    page.wait_for_timeout(500)
    assert column(page, "Base").inner_text() == text
    deadline = time.monotonic() + 20
    while requests_in_flight(page, server):
        assert time.monotonic() < deadline, "the server still generates for nobody"
        time.sleep(0.2)
    page.get_by_label("Tokens", exact=True).fill("4")
    page.get_by_role("button", name="Write", exact=True).click()
    expect(state(page)).to_contain_text("done", timeout=LOADED)


def test_a_page_that_is_left_stops_what_it_asked_for(visit: Visit, server: Served) -> None:
    page, _ = steering_with(visit, "rain and ", tokens=400)
    page.get_by_role("button", name="Write", exact=True).click()
    expect(column(page, "Base")).to_have_text(re.compile("."), timeout=LOADED)
    page.goto(server.url + "/")
    deadline = time.monotonic() + 20
    while requests_in_flight(page, server):
        assert time.monotonic() < deadline, "the server still generates for nobody"
        time.sleep(0.2)


def test_a_sweep_shows_every_strength_and_where_it_breaks(visit: Visit) -> None:
    page, _ = steering_with(visit, "over the ", tokens=6)
    page.get_by_role("button", name="Sweep", exact=True).click()
    expect(page.locator("#sweep-state")).to_contain_text("done", timeout=LOADED)
    expect(page.locator("#strip svg").first).to_be_visible()
    table = page.locator("#sweep-table table")
    assert table.get_by_role("row").count() >= 5
    for word in ("Perplexity", "Repeats"):
        expect(table).to_contain_text(word)


def test_a_saved_result_is_opened_by_its_link_and_repeats_itself(
    visit: Visit, server: Served
) -> None:
    page, number = steering_with(visit, "<b>cats</b> & ", tokens=8)
    page.get_by_role("button", name="Write", exact=True).click()
    expect(state(page)).to_contain_text("done", timeout=LOADED)
    written = column(page, "Steered").inner_text()
    page.get_by_role("button", name="Save result").click()
    expect(page).to_have_url(re.compile("result="))
    link = page.url.removeprefix(server.url)
    expect(page.get_by_role("list").locator(f"a[href='{link}']")).to_be_visible()
    other = page.context.new_page()
    other.goto(server.url + link)
    expect(column(other, "Steered")).to_have_text(written, use_inner_text=True)
    expect(other.get_by_label("Beginning of the text")).to_have_value("<b>cats</b> & ")
    expect(other.get_by_role("slider", name=f"Strength of feature {number}")).to_be_visible()
    with other.expect_download() as download:
        other.get_by_role("button", name="Download the intervention").click()
    intervention = json.loads(download.value.path().read_text(encoding="utf-8"))
    assert intervention["features"][0]["index"] == number
    name = download.value.suggested_filename
    assert name == f"intervention-{link.rpartition('=')[2]}.json"
    expect(other.locator("#command")).to_contain_text(f"--intervention {name} ")
    other.get_by_role("button", name="Run again").click()
    expect(state(other)).to_contain_text("done", timeout=LOADED)
    expect(column(other, "Steered")).to_have_text(written, use_inner_text=True)


def test_the_slider_is_moved_by_keyboard(visit: Visit) -> None:
    page, number = steering_with(visit, "x", tokens=1)
    slider = page.get_by_role("slider", name=f"Strength of feature {number}")
    slider.focus()
    before = float(slider.input_value())
    page.keyboard.press("ArrowRight")
    assert float(slider.input_value()) > before
    as_number = page.get_by_label(f"Strength of feature {number}, as a number")
    assert float(as_number.input_value()) == float(slider.input_value())

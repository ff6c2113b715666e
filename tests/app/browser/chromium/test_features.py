"""Reading features and picking them, as a person does."""

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from .conftest import N_LATENTS, Served, Visit

pytestmark = pytest.mark.slow


def firing(visit: Visit, place: int = 0) -> tuple[Page, int]:
    """The page of a feature that fires: the one at that place of the overview's list."""
    page = visit("/")
    row = page.get_by_role("table").get_by_role("rowheader").nth(place)
    number = int(row.get_by_role("link").first.inner_text())
    row.get_by_role("link").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(f"Feature {number}")
    return page, number


def pick_of(page: Page, served: Served, number: int) -> dict[str, object]:
    """The pick of a feature as the server has it."""
    answer = page.request.get(f"{served.url}/api/picks/{number}")
    assert answer.ok, answer.text()
    return answer.json()["pick"] or {}


def test_the_overview_says_what_it_is_and_lists_features_with_filters(visit: Visit) -> None:
    page = visit("/")
    expect(page.get_by_role("heading", level=1)).to_contain_text("<img src=x")
    for title in ("Autoencoder", "Held-out measures", "Data", "How often latents fire"):
        expect(page.get_by_role("heading", name=title)).to_be_visible()
    assert page.locator("svg.plot").count() >= 2
    n_listed = page.get_by_role("table").get_by_role("rowheader").count()
    assert 5 < n_listed <= N_LATENTS
    page.get_by_label("Show").select_option("starred")
    page.get_by_role("button", name="List", exact=True).click()
    expect(page).to_have_url(re.compile("show=starred"))
    page.go_back()
    assert page.get_by_role("table").get_by_role("rowheader").count() == n_listed


def test_every_number_can_be_asked_about_without_a_mouse(visit: Visit) -> None:
    page = visit("/")
    question = page.locator("details.why > summary").first
    question.focus()
    page.keyboard.press("Enter")
    expect(page.locator("details.why[open] > p")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("details.why[open]")).to_have_count(0)


def test_examples_show_where_it_fires_and_hostile_texts_as_text(visit: Visit) -> None:
    page, _ = firing(visit)
    examples = page.get_by_role("region", name="Examples")
    expect(examples.locator(".example").first).to_be_visible()
    first = examples.locator(".example").first
    peak = first.locator(".peak").first
    expect(peak).to_be_visible()
    outlined = peak.evaluate("peak => getComputedStyle(peak).outlineStyle")
    assert outlined == "solid", "the peak is not shown by color alone"
    assert page.locator("main script, main img, main svg[onload], main [onerror]").count() == 0


def test_all_texts_of_all_features_are_harmless_and_plainly_visible(
    visit: Visit, server: Served
) -> None:
    """At the end of each test no script of a text may have run; here every page is opened."""
    page = visit("/")
    seen = ""
    for number in range(N_LATENTS):
        page.goto(f"{server.url}/features/{number}")
        seen += page.get_by_role("main").inner_text()
        assert page.evaluate("window.pwned") is None
        assert page.locator("main script, main img").count() == 0
    assert "onerror" in seen and "{{ 7*7 }}" in seen and "49" not in seen.split("7*7")[1][:5]
    for hidden in "\u202e\u2066\u200b\x00\x1b\x85":
        assert hidden not in seen, f"U+{ord(hidden):04X} is not written out"


def test_a_pick_is_saved_at_once_and_is_there_after_a_reload(visit: Visit, server: Served) -> None:
    page, number = firing(visit, 1)
    panel = page.get_by_role("region", name="Pick")
    panel.get_by_role("button", name=re.compile("[Ss]tar")).click()
    expect(panel.get_by_role("status")).to_have_text("saved")
    panel.get_by_label("Label").fill("cats & <b>dogs</b>")
    panel.get_by_label("Label").press("Tab")
    expect(panel.get_by_role("status")).to_have_text("saved")
    panel.get_by_role("button", name="Keep").click()
    expect(panel.get_by_role("button", name="Keep")).to_have_attribute("aria-pressed", "true")
    panel.get_by_text("Note, strength, confidence").click()
    panel.get_by_role("button", name="4", exact=True).click()
    expect(panel.get_by_role("button", name="4", exact=True)).to_have_attribute(
        "aria-pressed", "true"
    )
    page.reload()
    expect(panel.get_by_label("Label")).to_have_value("cats & <b>dogs</b>")
    expect(panel.get_by_role("button", name="Keep")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("heading", level=1)).to_contain_text("cats & <b>dogs</b>")
    pick = pick_of(page, server, number)
    assert (pick["label"], pick["starred"], pick["verdict"], pick["confidence"]) == (
        "cats & <b>dogs</b>", True, "keep", 4,
    )  # fmt: skip
    file = json.loads((server.run / "picks.json").read_text(encoding="utf-8"))
    assert "cats & <b>dogs</b>" in [each["label"] for each in file["picks"]]


def test_what_was_typed_a_moment_before_the_page_is_left_is_kept(
    visit: Visit, server: Served
) -> None:
    page, number = firing(visit, 2)
    page.get_by_role("region", name="Pick").get_by_label("Label").press_sequentially("rain")
    page.goto(server.url + "/")
    for _ in range(100):  # what is sent while a page is left comes when it comes
        if pick_of(page, server, number).get("label") == "rain":
            break
        page.wait_for_timeout(100)
    assert pick_of(page, server, number).get("label") == "rain"


def test_undo_takes_the_last_change_back(visit: Visit, server: Served) -> None:
    page, number = firing(visit, 3)
    panel = page.get_by_role("region", name="Pick")
    panel.get_by_role("button", name="Keep").click()
    expect(panel.get_by_role("button", name="Keep")).to_have_attribute("aria-pressed", "true")
    panel.get_by_role("button", name="Reject").click()
    expect(panel.get_by_role("button", name="Reject")).to_have_attribute("aria-pressed", "true")
    panel.get_by_role("button", name="Undo").click()
    expect(panel.get_by_role("button", name="Keep")).to_have_attribute("aria-pressed", "true")
    assert pick_of(page, server, number)["verdict"] == "keep"
    panel.get_by_role("button", name="Undo").click()
    expect(panel.get_by_role("button", name="Keep")).to_have_attribute("aria-pressed", "false")
    assert not pick_of(page, server, number)


def test_two_tabs_lose_nothing(visit: Visit, server: Served) -> None:
    page, number = firing(visit, 4)
    other = page.context.new_page()
    other.goto(page.url)
    panels = [each.get_by_role("region", name="Pick") for each in (page, other)]
    panels[0].get_by_label("Label").fill("wind")
    panels[0].get_by_label("Label").press("Tab")
    expect(panels[0].get_by_role("status")).to_have_text("saved")
    panels[1].get_by_role("button", name=re.compile("[Ss]tar")).click()
    expect(panels[1].get_by_role("status")).to_have_text("saved")
    pick = pick_of(page, server, number)
    assert (pick["label"], pick["starred"]) == ("wind", True)
    for each in (page, other):
        each.reload()
        expect(each.get_by_role("region", name="Pick").get_by_label("Label")).to_have_value("wind")


def test_picks_are_taken_out_and_in(visit: Visit, server: Served, tmp_path: Path) -> None:
    page, number = firing(visit, 6)
    panel = page.get_by_role("region", name="Pick")
    panel.get_by_label("Label").fill("out and in")
    panel.get_by_label("Label").press("Tab")
    expect(panel.get_by_role("status")).to_have_text("saved")
    page.goto(server.url + "/")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download picks.json").click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    assert file.name == "picks.json"
    answer = page.request.post(
        f"{server.url}/api/picks/{number}/remove",
        headers={"Authorization": f"Bearer {server.token}", "Content-Type": "application/json"},
        data={},
    )
    assert answer.ok and not pick_of(page, server, number)
    chooser = page.get_by_label("Take a picks.json in")
    chooser.set_input_files(file)
    expect(page.locator("#picks-state")).to_contain_text("taken in")
    assert pick_of(page, server, number)["label"] == "out and in"
    file.write_text("not this")
    chooser.set_input_files(file)
    expect(page.locator("#picks-state")).to_contain_text("picks.json is no JSON")


def test_what_another_tab_picks_is_shown(visit: Visit) -> None:
    page, number = firing(visit, 5)
    other = page.context.new_page()
    other.goto(page.url)
    overview = page.context.new_page()
    overview.goto(page.url.partition("/features")[0])
    panel = page.get_by_role("region", name="Pick")
    panel.get_by_label("Label").fill("hills")
    panel.get_by_role("button", name="Keep").click()
    panel.get_by_role("button", name=re.compile("[Ss]tar")).click()
    expect(panel.get_by_role("status")).to_have_text("saved")
    heard = other.get_by_role("region", name="Pick")
    expect(heard.get_by_label("Label")).to_have_value("hills", timeout=15_000)
    for each in (
        heard.get_by_role("button", name="Keep"),
        overview.locator(f"[data-star='{number}']"),
    ):
        expect(each).to_have_attribute("aria-pressed", "true", timeout=15_000)
    panel.get_by_role("button", name="Remove the pick").click()
    expect(heard.get_by_role("status")).to_have_text("removed elsewhere", timeout=15_000)
    expect(heard.get_by_label("Label")).to_have_value("")


def test_a_text_is_tried_as_it_is_typed(visit: Visit) -> None:
    page, _ = firing(visit)
    region = page.get_by_role("region", name="Try a text")
    region.get_by_role("textbox").fill("cats\tand dogs, rain\nand wind over the hills <b>")
    expect(region.get_by_role("status")).to_contain_text(re.compile("fires on"), timeout=60_000)
    expect(region.locator(".tokens")).to_contain_text("over the hills <b>")


def test_two_features_stand_side_by_side(visit: Visit) -> None:
    page, number = firing(visit)
    page.get_by_role("link", name=re.compile("Compare with feature")).first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(str(number))
    assert page.get_by_role("region", name=re.compile("^Feature ")).count() == 2


def test_the_number_at_the_top_opens_a_feature(visit: Visit) -> None:
    page = visit("/")
    page.get_by_label("Number of a feature").fill("7")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/features/7$"))


def test_light_and_dark_are_chosen_and_stay(visit: Visit) -> None:
    page = visit("/", color_scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(ground)
    page.get_by_role("button", name="Dark").click()
    dark = page.evaluate(ground)
    assert dark != before
    page.reload()
    assert page.evaluate(ground) == dark
    page.get_by_role("button", name="Light").click()
    assert page.evaluate(ground) == before

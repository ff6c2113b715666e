"""The playground and the selection page in a real browser, to the end of what people do there."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from sparsteer.sae import LanguageModel
from sparsteer.steering.selection import ScoreConfig, score

from .conftest import HOSTILE, NARROW, WIDE, Faults, Visit
from .test_every_page import serious_faults

pytestmark = pytest.mark.slow

LOOKS: dict[str, dict[str, Any]] = {
    "wide and light": {"viewport": WIDE, "color_scheme": "light"},
    "narrow and dark": {"viewport": NARROW, "color_scheme": "dark", "has_touch": True},
}
COLUMNS = ("base", "steered", "prompted")


def ready(page: Page) -> None:
    """Waits for the language model, and for the settings to be there."""
    expect(page.locator("html[data-model=ready]")).to_have_count(1, timeout=60_000)
    expect(page.locator("#tier option").first).to_be_attached()


def write(page: Page) -> list[str]:
    """Writes, and gives the texts of the three columns."""
    page.get_by_role("button", name=re.compile("^(Write|Run again)$")).click()
    expect(page.locator("#state")).to_contain_text("done", timeout=60_000)
    return texts_of(page)


def texts_of(page: Page) -> list[str]:
    return [page.locator(f"#column-{name} .written").last.inner_text() for name in COLUMNS]


def begin(visit: Visit, feature: int = 3, **options: Any) -> Page:
    """The playground with one feature, and little to write."""
    page = visit(f"/playground?feature={feature}&strength=4", **options)
    ready(page)
    page.get_by_label("Tokens", exact=True).fill("12")
    return page


@pytest.mark.parametrize("look", LOOKS)
def test_texts_are_written_side_by_side_and_can_be_read_by_everyone(
    look: str, visit: Visit
) -> None:
    page = begin(visit, **LOOKS[look])
    page.get_by_label("Temperature", exact=True).fill("0.9")
    texts = write(page)
    assert all(texts) and texts[0] != texts[1]
    assert write(page) == texts, "the same seed writes the same"
    expect(page.locator("#column-steered .measures")).to_contain_text("perplexity")
    expect(page.locator("#strength-3-fraction")).to_contain_text("of the residual's norm")
    page.get_by_text("Where and how it steers").click()
    page.get_by_label("Mark what differs").check()
    assert page.locator("#column-steered ins").count() > 0
    assert serious_faults(page) == []
    wider = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wider <= 0, "nobody should have to scroll sideways"


def test_stopping_ends_the_texts_where_they_are(visit: Visit) -> None:
    page = begin(visit)
    page.get_by_label("Tokens", exact=True).fill("400")
    page.get_by_role("button", name="Write", exact=True).click()
    expect(page.locator("#column-base .written")).not_to_be_empty(timeout=30_000)
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator("#state")).to_have_text("stopped")
    stopped = texts_of(page)
    page.wait_for_timeout(500)
    assert texts_of(page) == stopped and len(stopped[0]) < 400
    expect(page.get_by_role("button", name="Write", exact=True)).to_be_enabled()


def test_a_write_that_fails_leaves_the_earlier_texts(visit: Visit, faults: Faults) -> None:
    faults.allowed = ("400",)
    page = begin(visit)
    texts = write(page)
    temperature = page.get_by_label("Temperature", exact=True)
    temperature.evaluate("field => field.removeAttribute('max')")
    temperature.fill("3")
    page.get_by_role("button", name="Write", exact=True).click()
    expect(page.locator("#state")).to_have_text("not written", timeout=30_000)
    assert texts_of(page) == texts


def test_a_reload_in_the_middle_keeps_what_is_written(visit: Visit) -> None:
    page = begin(visit)
    page.get_by_label("Tokens", exact=True).fill("400")
    page.get_by_role("button", name="Write", exact=True).click()
    expect(page.locator("#column-base .written")).not_to_be_empty(timeout=30_000)
    text = texts_of(page)[0]
    page.reload()
    expect(page.locator("#column-base .written")).not_to_be_empty()
    assert texts_of(page)[0].startswith(text)


def test_a_result_is_saved_reopened_and_run_again(visit: Visit) -> None:
    page = begin(visit)
    page.get_by_label("Temperature", exact=True).fill("0.7")
    page.get_by_label("Seed", exact=True).fill("11")
    texts = write(page)
    page.get_by_role("button", name="Save result").click()
    expect(page).to_have_url(re.compile(r"/playground\?result=[0-9a-f]{16}$"))
    address = page.url
    path = address.partition("/playground")[1] + address.partition("/playground")[2]
    other = visit(path)
    ready(other)
    expect(other.locator("#state")).to_contain_text("saved")
    assert texts_of(other) == texts
    expect(other.get_by_label("Seed", exact=True)).to_have_value("11")
    expect(other.locator("#strength-3")).to_have_value("4")
    assert write(other) == texts
    with other.expect_download() as download:
        other.locator("#results a", has_text="intervention").first.click()
    spec = json.loads(Path(download.value.path()).read_text("utf-8"))
    assert [(each["index"], each["strength"]) for each in spec["features"]] == [(3, 4)]


def test_nothing_is_lost_by_a_reload(visit: Visit) -> None:
    page = begin(visit)
    page.get_by_label("Beginning of the text").fill("rain and <b>wind</b>")
    page.locator("#strength-3").fill("1.5")
    texts = write(page)
    page.reload()
    ready(page)
    expect(page.get_by_label("Beginning of the text")).to_have_value("rain and <b>wind</b>")
    expect(page.locator("#strength-3")).to_have_value("1.5")
    assert texts_of(page) == texts
    expect(page.locator("#command")).to_contain_text("rain and <b>wind</b>")


def test_a_sweep_is_drawn_and_its_strengths_set_the_slider(visit: Visit) -> None:
    page = begin(visit)
    page.get_by_role("button", name="Sweep", exact=True).click()
    expect(page.locator("#sweep-state")).to_contain_text("done", timeout=90_000)
    expect(page.locator("#strip svg")).to_be_visible()
    rows = page.locator("#sweep-table tbody tr")
    assert rows.count() == 11
    broken = page.locator("#sweep-table tr.broken").count()
    assert page.locator("#strip path.broken").count() == 3 * broken
    page.get_by_role("button", name="Use strength -1", exact=True).press("Enter")
    expect(page.locator("#strength-3")).to_have_value("-1")
    assert serious_faults(page) == []
    page.get_by_role("button", name="Sweep", exact=True).click()
    expect(page.locator("#sweep-state")).to_have_text(re.compile(r"^\d+ of 11"), timeout=60_000)
    page.get_by_role("button", name="Stop the sweep").click()
    expect(page.locator("#sweep-state")).to_have_text("stopped")


def test_keys_alone_write_and_read_activations(visit: Visit) -> None:
    page = begin(visit)
    page.get_by_label("Seed", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#state")).to_contain_text("done", timeout=60_000)
    active = page.locator("#columns [role=button]")
    if active.count():
        assert page.locator("#columns .column [role=button][tabindex='0']").count() >= 1
        active.first.focus()
        expect(page.locator(".token-line:visible")).to_contain_text("feature 3:")
        page.keyboard.press("ArrowRight")
        expect(page.locator(".token-line:visible").first).to_contain_text("largest activation")
    page.get_by_role("button", name="Remove feature 3").press("Enter")
    expect(page.get_by_label("Add feature", exact=True)).to_be_focused()
    page.keyboard.type("5")
    page.keyboard.press("Enter")
    expect(page.locator("#strength-5")).to_have_value("1")


def test_what_is_wrong_is_a_sentence(visit: Visit, faults: Faults) -> None:
    faults.allowed = ("400", "404")
    page = begin(visit)
    page.get_by_label("Add feature", exact=True).fill("48")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("#messages")).to_contain_text("there is no feature 48")
    page.get_by_label("Temperature", exact=True).fill("-1")
    page.evaluate("document.getElementById('temperature').removeAttribute('min')")
    page.get_by_role("button", name="Write", exact=True).click()
    expect(page.locator("#messages")).to_contain_text("temperature", timeout=30_000)


@pytest.fixture(scope="module")
def scored(hostile_run: Path, tiny_model: LanguageModel) -> Iterator[Path]:
    """Scored rows beside the run, hostile ones among them."""
    folder = hostile_run.parent
    rows = [f"{text} {number}" for number in range(6) for text in (*HOSTILE, "rain and wind")]
    for name, texts in (("rows", rows), ("target", rows[::9])):
        lines = [json.dumps({"text": text}) + "\n" for text in texts]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    out = folder / "scored.jsonl"
    score(
        ScoreConfig(
            file=str(folder / "rows.jsonl"),
            target=str(folder / "target.jsonl"),
            run=str(hostile_run),
            out=str(out),
            device="cpu",
        )
    )
    yield out
    out.unlink()
    out.with_name("scored.jsonl.scoring").unlink()


@pytest.mark.parametrize("look", LOOKS)
def test_a_cut_is_moved_and_a_row_explained(look: str, visit: Visit, scored: Path) -> None:
    page = visit("/selection", **LOOKS[look])
    page.get_by_role("link", name="scored.jsonl").click()
    page.wait_for_load_state("networkidle")  # the page's script is there, too
    before = page.locator("#cut p").inner_text()
    page.get_by_label("Fraction to take", exact=True).fill("0.5")
    page.keyboard.press("Tab")
    expect(page.locator("#cut p")).not_to_have_text(before)
    expect(page.locator("#cut p")).to_contain_text("24 rows")
    expect(page).to_have_url(re.compile("ratio=0.5"))
    assert serious_faults(page) == []
    page.get_by_role("link", name=re.compile("^Row ")).first.click()
    expect(page.locator("svg.split")).to_be_visible(timeout=60_000)
    assert serious_faults(page) == []
    wider = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wider <= 0, "nobody should have to scroll sideways"

"""The page that opens from disk: what is in its files, and what a browser makes of it."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsteer.app.sharing.config import ShareConfig
from sparsteer.app.sharing.exporting import export_features
from sparsteer.app.sharing.static_page import script_json
from sparsteer.steering.features import FeatureIndex
from sparsteer.steering.features.listing import ranked

from ..pages_from_disk import chromium_without_window, quiet_page
from .conftest import ATTACKS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


def export(run: Path, folder: Path, **settings: Any) -> list[int]:
    settings = {"examples": 4, **settings}
    return export_features(ShareConfig(run=str(run), static=str(folder), **settings))["features"]


@settings(max_examples=40)
@given(st.text() | st.lists(st.sampled_from(ATTACKS)))
def test_json_in_a_script_says_the_same_and_ends_nothing(value: Any) -> None:
    text = script_json(value)
    assert json.loads(text) == value
    assert not re.search("</|<!--|\u2028|\u2029", text)


def test_the_page_loads_only_files_beside_it(picked_run: Path, tmp_path: Path) -> None:
    export(picked_run, tmp_path / "out")
    files = {path.name for path in (tmp_path / "out").iterdir()}
    page = (tmp_path / "out" / "index.html").read_text()
    assert set(re.findall(r'(?:src|href)="([^"#]+)"', page)) == files - {
        "index.html",
        "chunk-0000.js",
        "sparsteer-export.json",
    }
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    (nonce,) = set(re.findall(r"'nonce-([0-9a-f]{32})'", policy))
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    assert len(re.findall(f'nonce="{nonce}"', page)) == 4 == len(re.findall("<script|<link", page))
    assert not re.search(r"<script(?![^>]* src=)| on[a-z]+=| style=", page)


class _Tags(HTMLParser):
    """What a piece of HTML is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.names, self.attributes = set[str](), set[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}


@pytest.mark.slow
def test_hostile_texts_are_only_text(picked_run: Path, tmp_path: Path) -> None:
    export(picked_run, tmp_path / "out", all=True)
    chunk = (tmp_path / "out" / "chunk-0000.js").read_text()
    number, features = json.loads(f"[{chunk.removeprefix('sparsteerChunk(').rpartition(')')[0]}]")
    assert number == 0 and len(features) == len(ranked(FeatureIndex(picked_run), "density"))
    tags = _Tags()
    for feature in features:
        tags.feed(feature)
    assert {"h1", "h2", "p", "i", "bdi", "svg", "dl"} <= tags.names
    assert not tags.names & {"script", "img", "iframe", "style", "link", "object", "form", "base"}
    assert not any(n.startswith("on") or n in ("style", "src", "srcdoc") for n in tags.attributes)
    for text in (chunk, (tmp_path / "out" / "list.js").read_text()):
        assert not re.search("[\u202e\u2028\u2029\x00\x1b]", text)
    assert "&lt;script&gt;" in chunk


@pytest.fixture(scope="module")
def chromium() -> "Iterator[Browser]":
    with chromium_without_window() as browser:
        yield browser


@pytest.fixture
def page(chromium: "Browser") -> "Iterator[Page]":
    with quiet_page(chromium, "file:") as page:
        yield page


@pytest.mark.slow
def test_a_browser_opens_searches_and_shows(picked_run: Path, tmp_path: Path, page: "Page") -> None:
    numbers = export(picked_run, tmp_path / "out")
    index = FeatureIndex(picked_run)
    page.goto(f"file://{tmp_path}/out/index.html")
    page.wait_for_selector("#list li")
    assert page.locator("#list li").count() == 3
    text = page.locator("#list").inner_text()
    assert "mine <script>window.__pwned=1</script>" in text and "plain words" in text
    assert page.locator("#list .badge.machine").all_inner_texts() == ["machine 0.88"]
    page.fill("#search", "plain W")
    assert page.locator("#list a").all_inner_texts() == [str(numbers[1])]
    page.fill("#search", str(numbers[2]))
    assert page.locator("#list a").first.inner_text() == str(numbers[2])
    page.keyboard.press("Enter")
    page.wait_for_selector("#feature h1")
    assert page.url.endswith(f"#{numbers[2]}")
    heading = page.locator("#feature h1").inner_text()
    assert heading.startswith(f"Feature {numbers[2]}") and "machine" in heading
    assert "nobody checked it" in page.locator("#feature").inner_text()
    feature = index.feature(numbers[2])
    groups = [g for g in feature.quantiles if g.examples]
    assert page.locator("#feature h2").first.inner_text() == "Largest activations"
    assert page.locator("#feature .example").count() >= len(feature.top[:4]) + len(groups)
    assert page.locator("#feature .peak").count() == page.locator("#feature .example").count()
    page.locator("#shown").press("k")
    page.wait_for_function(f"location.hash === '#{numbers[1]}'")
    page.go_back()
    page.wait_for_function(f"location.hash === '#{numbers[2]}'")
    page.click("text=All features")
    page.wait_for_selector("#overview:not([hidden])")
    page.goto(f"file://{tmp_path}/out/index.html#{numbers[0]}")
    page.wait_for_selector("#feature .note")
    assert page.locator("#feature .note").inner_text() == f"a note {ATTACKS[1]}"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.slow
def test_hostile_texts_do_nothing_in_a_browser(
    picked_run: Path, tmp_path: Path, page: "Page", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsteer.app.sharing.static_page.FEATURES_IN_CHUNK", 16)
    numbers = export(picked_run, tmp_path / "out", all=True)
    assert len(list((tmp_path / "out").glob("chunk-*.js"))) == -(-len(numbers) // 16)
    page.goto(f"file://{tmp_path}/out/index.html")
    seen = ""
    for number in numbers:
        page.evaluate("number => { location.hash = `#${number}`; }", number)
        page.wait_for_function(
            "number => document.querySelector('#feature h1')?.textContent.startsWith("
            "`Feature ${number}`) && document.querySelector('#feature .example')",
            arg=number,
        )
        seen += page.locator("#feature").inner_text()
        assert page.locator("#feature :is(script, img, iframe, style, link)").count() == 0
    assert "onerror=window.__pwned" in seen and "<script>" in seen and "⟨U+202E⟩" in seen
    assert page.evaluate("typeof window.__pwned") == "undefined"


@pytest.mark.slow
def test_the_theme_follows_the_system_and_the_button(
    run: Path, tmp_path: Path, page: "Page"
) -> None:
    export(run, tmp_path / "out", feature=(ranked(FeatureIndex(run), "interest")[0],))
    back = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="dark")
    page.goto(f"file://{tmp_path}/out/index.html")
    dark = page.evaluate(back)
    page.emulate_media(color_scheme="light")
    light = page.evaluate(back)
    assert dark != light
    page.click("#theme")
    assert page.evaluate(back) == dark and page.get_attribute("#theme", "aria-pressed") == "true"


@pytest.mark.slow
def test_a_missing_chunk_is_said(run: Path, tmp_path: Path, chromium: "Browser") -> None:
    (number,) = export(run, tmp_path / "out", feature=(ranked(FeatureIndex(run), "interest")[0],))
    (tmp_path / "out" / "chunk-0000.js").unlink()
    page = chromium.new_page()
    page.goto(f"file://{tmp_path}/out/index.html#{number}")
    page.wait_for_selector("#feature .warning")
    assert "chunk-0000.js is missing" in page.locator("#feature").inner_text()
    page.evaluate("location.hash = '#39999'")
    page.wait_for_function("document.querySelector('#feature h1')?.textContent === 'Feature 39999'")
    page.close()

"""Pictures of the browser's pages, into docs/images/: `make screenshots`.

    python docs/take_screenshots.py [RUN] [--feature N] [--out docs/images]

RUN is the folder of a run with a feature index, by default the demo's. The pictures show its real
texts, and what its language model writes.
"""

import argparse
import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from sparsteer.app.browser.config import ServeConfig
from sparsteer.app.browser.server import Running, start

HERE = Path(__file__).parent
DEMO = Path("demo/runs/topk")
TEXT = "The company said on Tuesday that its shares fell after heavy rain closed two airports."
PROMPT = "My first day at the new job was"
WIDE: dict[str, Any] = {"viewport": {"width": 1280, "height": 860}}
NARROW: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 1.5}
COLORS = 96
MOST_BYTES = 200_000

Prepare = Callable[[Page, int], None]


def main() -> None:
    """Serve the run, take every picture and say how large it became."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path, nargs="?", default=DEMO)
    parser.add_argument("--feature", type=int, help="by default the first that the search finds")
    parser.add_argument("--out", type=Path, default=HERE / "images")
    words = parser.parse_args()
    chromium = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    running = start(ServeConfig(run=str(words.run), port=0), say=print)
    words.out.mkdir(parents=True, exist_ok=True)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
            )
            found = _found(browser, running)
            feature = found if words.feature is None else words.feature
            for name, (path, look, prepare) in PICTURES.items():
                _take(browser, running, words.out / f"{name}.png", path, look, prepare, feature)
            browser.close()
    finally:
        running.stop()


def _as_it_is(page: Page, feature: int) -> None:
    page.wait_for_timeout(300)


def _search(page: Page, feature: int) -> None:
    page.get_by_label("Text to read").fill(TEXT)
    expect(page.locator("#found").get_by_role("rowheader").first).to_be_visible(timeout=60_000)


def _triage(page: Page, feature: int) -> None:
    expect(page.locator("#card-title")).to_be_visible(timeout=60_000)


def _playground(page: Page, feature: int) -> None:
    page.get_by_label("Beginning of the text").fill(PROMPT)
    page.get_by_label("Tokens", exact=True).fill("40")
    page.get_by_label(f"Strength of feature {feature}, as a number").fill("1.5")
    page.get_by_role("button", name="Write", exact=True).click()
    expect(page.locator("#state")).to_contain_text("done", timeout=180_000)


def _sweep(page: Page, feature: int) -> None:
    _playground(page, feature)
    page.get_by_role("button", name="Sweep", exact=True).click()
    expect(page.locator("#sweep-state")).to_contain_text("done", timeout=600_000)
    page.locator("#columns").evaluate("columns => columns.scrollIntoView()")


PICTURES: dict[str, tuple[str, dict[str, Any], Prepare]] = {
    "overview": ("/", WIDE, _as_it_is),
    "feature": ("/features/{}", WIDE, _as_it_is),
    "feature-dark": ("/features/{}", {**WIDE, "color_scheme": "dark"}, _as_it_is),
    "feature-phone": ("/features/{}", NARROW, _as_it_is),
    "search": ("/search", WIDE, _search),
    "triage": ("/triage", WIDE, _triage),
    "playground": ("/playground?feature={}", WIDE, _playground),
    "sweep": ("/playground?feature={}", WIDE, _sweep),
}
"""Of each picture the page, how it is looked at, and what is done there before."""


def _take(
    browser: Browser,
    running: Running,
    file: Path,
    path: str,
    look: dict[str, Any],
    prepare: Prepare,
    feature: int,
) -> None:
    context = browser.new_context(**look)
    page = context.new_page()
    page.goto(f"{running.url}/?token={running.token}")
    page.goto(running.url + path.format(feature))
    page.wait_for_load_state("networkidle")
    prepare(page, feature)
    picture = Image.open(io.BytesIO(page.screenshot()))
    context.close()
    picture.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE).save(file, optimize=True)
    size = file.stat().st_size
    print(f"{file}: {size / 1e3:.0f} kB")
    if size > MOST_BYTES:
        raise SystemExit(f"{file} is larger than {MOST_BYTES / 1e3:.0f} kB")


def _found(browser: Browser, running: Running) -> int:
    """The feature that the text activates most, once the language model is read."""
    page = browser.new_page()
    page.goto(f"{running.url}/?token={running.token}")
    status = "loading"
    while status in ("waiting", "loading"):
        time.sleep(0.5)
        status = page.request.get(f"{running.url}/api/status").json()["model_status"]
    if status != "ready":
        raise SystemExit(f"the language model cannot be read: {status}")
    answer = page.request.post(
        f"{running.url}/api/search",
        headers={"Origin": running.url, "Content-Type": "application/json"},
        data={"by": "text", "query": TEXT},
    )
    feature = int(answer.json()["features"][0]["feature"])
    page.close()
    return feature


if __name__ == "__main__":
    main()

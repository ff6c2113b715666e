"""How soon and how light the pages of a server are, in the browser and over HTTP."""

import statistics
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch
from playwright.sync_api import sync_playwright
from served_run import Served, memory_of_model, serving

from sparsteer.steering.loading import load_run

ROUNDS = 5
_TEXT = "The weather in the mountains was cold, and the rain went on for three more days."
_SECONDS_TO_LOAD = 300.0
_WORDS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]

_PAINT = """() => {
    const [paint] = performance.getEntriesByName("first-contentful-paint");
    const loads = [...performance.getEntriesByType("navigation"),
                   ...performance.getEntriesByType("resource")];
    return [paint?.startTime ?? null, loads.reduce((sum, one) => sum + one.transferSize, 0)];
}"""


@dataclass(frozen=True)
class Figure:
    """What was measured, and how large it is to be."""

    name: str
    value: float
    goal: float
    unit: str
    at_least: bool = False
    """Whether more than the goal is better; else less is."""

    @property
    def met(self) -> bool:
        """Whether the goal is kept."""
        return self.value >= self.goal if self.at_least else self.value <= self.goal


def page_figures(run: Path, chromium: Path | None) -> list[Figure]:
    """Everything that is measured of one server that nobody else asks.

    Args:
        run: a run with a feature index.
        chromium: the browser; None leaves out what needs one.
    """
    starts = list[float]()
    for _ in range(2):
        with serving(run) as served:
            starts.append(served.seconds_to_start)
    with serving(run) as served, client_of(served) as client:
        starts.append(served.seconds_to_start)
        figures = [Figure("start until it answers", statistics.median(starts), 5.0, "s")]
        wait_for_model(client)
        if chromium is not None:
            figures += _in_browser(served, _busy_feature(client), chromium)
        figures.append(Figure("search by text", _median(lambda: _search(client)), 1.0, "s"))
        first = _median(lambda: _first_token(client))
        memory = served.memory
    figures.append(Figure("first token after the model's own", first - _own(run), 0.15, "s"))
    figures.append(
        Figure("memory above the model's", (memory - memory_of_model(run)) / 1e6, 300.0, "MB")
    )
    return figures


def client_of(served: Served) -> httpx.Client:
    """A client that the server answers."""
    return httpx.Client(base_url=served.url, headers=served.headers, timeout=120)


def wait_for_model(client: httpx.Client) -> None:
    """Until the language model is read."""
    deadline = time.monotonic() + _SECONDS_TO_LOAD
    while (status := _get(client, "/api/status")["model_status"]) in ("waiting", "loading"):
        if time.monotonic() > deadline:
            raise SystemExit(f"the model is not read after {_SECONDS_TO_LOAD:.0f} s")
        time.sleep(0.5)
    if status != "ready":
        raise SystemExit(f"the model cannot be read: {status}")


def _busy_feature(client: httpx.Client) -> int:
    """A feature that fires on the text, so that its page has everything."""
    return int(_search(client)["features"][0]["feature"])


def _in_browser(served: Served, feature: int, chromium: Path) -> Generator[Figure]:
    """Bytes and first paint of a feature's page, each time with an empty cache."""
    paints, sizes = list[float](), list[float]()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=_WORDS)
        for _ in range(ROUNDS):
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            page = context.new_page()
            page.goto(f"{served.url}/features/{feature}?token={served.token}")
            page.wait_for_load_state("networkidle")
            paint, size = page.evaluate(_PAINT)
            paints.append(paint)
            sizes.append(size)
            context.close()
        browser.close()
    yield Figure("feature page with all it loads", statistics.median(sizes) / 1e3, 100.0, "kB")
    yield Figure("first paint of a feature page", statistics.median(paints), 500.0, "ms")


def _search(client: httpx.Client) -> dict[str, Any]:
    answer = client.post("/api/search", json={"by": "text", "query": _TEXT})
    answer.raise_for_status()
    return answer.json()


def _first_token(client: httpx.Client) -> None:
    body = {"prompt": _TEXT, "max_tokens": 1, "temperature": 0, "stream": True}
    with client.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                return
    raise SystemExit("the server streamed no token")


def _own(run: Path) -> float:
    """Seconds that the model alone takes for the first token, by one forward pass."""
    loaded = load_run(str(run))
    model = loaded.model.fastest([loaded.site.name])
    tokens = torch.tensor([model.tokenize(_TEXT)])
    return _median(lambda: int(model.logits(tokens)[0, -1].argmax()))


def _median(call: Callable[[], object]) -> float:
    """Seconds of a call: the median of five, after one that warms up."""
    call()
    seconds = list[float]()
    for _ in range(ROUNDS):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _get(client: httpx.Client, path: str) -> dict[str, Any]:
    answer = client.get(path)
    answer.raise_for_status()
    return answer.json()

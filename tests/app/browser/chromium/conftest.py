"""A run with hostile texts, served by the command, and pages of a real browser that watch for
faults: errors of scripts, violations of the content-security-policy, answers of 400 and more."""

import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    expect,
    sync_playwright,
)

from sparsteer.sae import LanguageModel

from ....tiny_runs import cache_of_texts, random_topk

N_LATENTS = 48
CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
WORDS = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    "--host-resolver-rules=MAP evil.example 127.0.0.1",
]
"""The last word stands for the name server of an attacker."""

_MILLISECONDS = 60_000
"""How long a page may take to show what is expected: the machine may have other work."""

WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}

HOSTILE = (
    "<script>window.pwned=1</script>",
    "<img src=x onerror=window.pwned=1>",
    "</span></p></template><svg onload=window.pwned=1>",
    "\"'><a href=javascript:window.pwned=1>x</a>",
    "{{ 7*7 }}${7*7}%s",
    "\u202egnp.exe\u2066\u200b",
    "\x00\x1b[2J\u0085\u2028",
)
"""Texts of the run, each among the examples of some features."""


@pytest.fixture(scope="session")
def hostile_run(tiny_model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tiny model whose texts, and the name of whose folder, attack the page."""
    folder = tmp_path_factory.mktemp("browser")
    plain = ("cats\tand dogs", "rain\nand wind", "\u0645\u0631\u062d\u0628\u0627", "over the hills")
    texts = [f"{text} {number}" for number in range(20) for text in (*plain, *HOSTILE)]
    cache = cache_of_texts(folder, tiny_model, texts, context_length=64)
    run = folder / "<img src=x onerror=window.pwned=1>"
    random_topk(tiny_model, N_LATENTS).save(run / "sae")
    words = ("features", "build", str(run), "--cache", str(cache), "--examples", "8")
    subprocess.run(
        [sys.executable, "-m", "sparsteer.cli", *words, "--device", "cpu"], check=True, timeout=300
    )
    return run


@dataclass(frozen=True)
class Served:
    """A server in a process of its own."""

    url: str
    token: str
    run: Path

    @property
    def address(self) -> str:
        """What the command prints for a person."""
        return f"{self.url}/?token={self.token}"


@contextmanager
def serving(run: Path, *words: object) -> Generator[Served]:
    """The command `serve` on a run."""
    command = [sys.executable, "-m", "sparsteer.cli", "serve", str(run), "--port", "0", "--json"]
    environment = os.environ | {"SPARSTEER_THREADS": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--device", "cpu", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    with process:
        try:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], 120)[0], "no line in two minutes"
            line = process.stdout.readline()
            assert line, process.communicate()
            values = json.loads(line)
            yield Served(values["url"], values["token"], run)
            process.terminate()
            _, said = process.communicate(timeout=60)
            assert process.returncode == 0, said
            assert "Traceback" not in said, said
        finally:
            process.kill()


def copied(run: Path, folder: Path) -> Path:
    """A copy of a run without picks."""
    ignore = shutil.ignore_patterns("picks*", "searches*", "results*")
    return Path(shutil.copytree(run, folder / run.name, ignore=ignore))


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium without a window. Of the package: while it runs, no other test can run asyncio."""
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}; install chromium, or set CHROMIUM to where it is")
    expect.set_options(timeout=_MILLISECONDS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=WORDS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def server(hostile_run: Path) -> Iterator[Served]:
    """One server for what changes nothing, or only what its own test looks at."""
    with serving(hostile_run) as served:
        yield served


@dataclass
class Faults:
    """What a page complained about."""

    found: list[str] = field(default_factory=list[str])
    allowed: tuple[str, ...] = ()
    """Parts of complaints that a test causes on purpose."""

    def of_console(self, message: ConsoleMessage) -> None:
        """Take note of an error or a warning."""
        if message.type in ("error", "warning"):
            self.found.append(f"{message.type}: {message.text} {message.location}")

    def left(self) -> list[str]:
        """Those that nobody allowed."""
        return [fault for fault in self.found if not any(part in fault for part in self.allowed)]


Visit = Callable[..., Page]


@pytest.fixture
def faults() -> Faults:
    """What the pages of a test complained about; to be empty at its end."""
    return Faults()


@pytest.fixture
def visit(browser: Browser, server: Served, faults: Faults) -> Iterator[Visit]:
    """Opens a page in a new browser that has opened the printed address before; at the end, no page
    may have complained or run what a text of the run says."""
    contexts = list[BrowserContext]()

    def opened(path: str = "/", *, served: Served = server, **options: Any) -> Page:
        settings: dict[str, Any] = {"viewport": WIDE, "reduced_motion": "reduce", **options}
        context = browser.new_context(**settings)
        contexts.append(context)
        context.set_default_timeout(_MILLISECONDS)
        context.on("page", lambda page: _watch(page, faults))
        page = context.new_page()
        page.goto(served.address)
        if path != "/":
            page.goto(served.url + path)
        return page

    yield opened
    for context in contexts:
        for page in context.pages:
            assert page.evaluate("window.pwned") is None
        context.close()
    assert faults.left() == []


def _watch(page: Page, faults: Faults) -> None:
    page.on("console", faults.of_console)
    page.on("pageerror", lambda error: faults.found.append(f"script: {error}"))
    page.on("dialog", lambda dialog: faults.found.append(f"dialog: {dialog.message}"))

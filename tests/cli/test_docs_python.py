"""The Python that the documentation shows runs as it stands, each page from top to bottom."""

import re
import shutil
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsteer.cli.main import main
from sparsteer.sae import SparseAutoencoder
from sparsteer.sae.common import shipped
from sparsteer.steering.features import FeatureIndex
from sparsteer.training import ActivationCache

from ..hub_stand_in import HubStandIn
from ..shipped_stand_in import write_stand_in
from .conftest import Sparsteer

ROOT = Path(__file__).parents[2]
PYTHON = re.compile(r"^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if PYTHON.search(page.read_text())
]


@pytest.fixture(scope="module")
def runs_topk(run_folder: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run that the pages name, its cache, feature index and picks."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "caches").mkdir()
    (folder / "caches" / "news").symlink_to(cache)
    run = folder / "runs" / "topk"
    shutil.copytree(run_folder / "sae", run / "sae")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSTEER_THREADS", "1")
        assert main(["features", "build", str(run), "--cache", str(cache)]) == 0
    busiest = int(FeatureIndex.of_run(run).statistics["fired"].argmax())
    assert main(["pick", str(run), "add", str(busiest), "--strength", "-2"]) == 0
    return folder


@pytest.mark.slow_except("README.md", "selection.md", "publishing.md")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_a_page_runs(
    page: Path,
    runs_topk: Path,
    hub: HubStandIn,
    tiny_model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub.users["token-of-reader"] = "you"
    monkeypatch.setenv("HF_TOKEN", "token-of-reader")
    monkeypatch.chdir(runs_topk)
    given: dict[str, Any] = {"folder": str(tiny_model_folder)}
    with ExitStack() as stack:
        if page.name == "dictionary.md":
            write_stand_in(runs_topk / "runs" / "topk", runs_topk / "dictionaries")
            monkeypatch.setattr(shipped, "FOLDER", runs_topk / "dictionaries")
        if page.name == "endpoint.md":
            given |= stack.enter_context(serving("runs/topk"))
        names = run_python(page, **given)
    capsys.readouterr()
    if page.name == "publishing.md":
        assert torch.equal(names["again"].W_dec, names["sae"].W_dec)
        assert names["done"].commit == hub.repositories["you/topk"].branches["main"]
    if page.name == "steering.md":
        assert not torch.equal(names["logits"], names["steered_logits"])
        assert names["picked"].features[0].strength == -2
        assert len(names["texts"]) == 2
    if page.name == "models.md":
        assert names["activations"].shape == (1, 13, 32)
        unchanged = names["hf_model"].generate(names["tokens"], max_new_tokens=5)
        assert not torch.equal(names["changed"], unchanged)


@contextmanager
def serving(run: str) -> Generator[dict[str, Any]]:
    """The names of a server's page, and the server."""
    from sparsteer.app.browser.config import ServeConfig
    from sparsteer.app.browser.server import start

    running = start(ServeConfig(run=run, port=0, device="cpu"))
    try:
        fired = FeatureIndex(run).statistics["fired"]
        yield {"URL": running.url, "TOKEN": running.token, "FEATURE": int(fired.argmax())}
    finally:
        running.stop()


@pytest.mark.slow
def test_the_readme_trains_as_well_as_the_command(
    cache: Path, sparsteer: Sparsteer, tmp_path: Path
) -> None:
    """On the same rows, though neither the order nor the rows of the start are the same."""
    page = PYTHON.search((ROOT / "README.md").read_text())
    assert page
    activations = ActivationCache(cache)
    site = activations.sites[0]
    batches = activations.batches(100, site=site)
    rows = torch.cat([next(batches) for _ in range(200)])
    batches.close()
    sizes = {"torch.randn(8192, 576)": "ROWS", "576": "D", "4608": "96", "k=32": "k=4"}
    code = page["code"].replace("split(1024)", "split(100)")
    for size, value in sizes.items():
        assert size in code
        code = code.replace(size, value)
    names: dict[str, Any] = {"ROWS": rows, "D": activations.d_model}
    exec(code, names)
    words = [
        "--site",
        site,
        "--n-latents",
        96,
        "--k",
        4,
        "--tokens",
        len(rows),
        "--batch-size",
        100,
    ]
    done = sparsteer("train", "--cache", cache, "--out", tmp_path / "run", *words)
    assert done.status == 0
    held_out = activations.held_out(site=site)
    commands = SparseAutoencoder.load(tmp_path / "run" / "sae")
    # One batch is a small sample; without one the scale would be 1 and the center 0.
    assert float(names["sae"].input_scale) == pytest.approx(float(commands.input_scale), rel=0.1)
    assert float(commands.input_scale) < 0.7
    assert fvu(names["sae"], held_out) == pytest.approx(fvu(commands, held_out), rel=0.1)


def fvu(sae: SparseAutoencoder, x: torch.Tensor) -> float:
    """Fraction of the rows' variance that the reconstruction misses."""
    with torch.no_grad():
        error = (sae.decode(sae.encode(x)) - x).square().sum()
    return float(error / (x - x.mean(0)).square().sum())


def test_the_pages_that_show_python() -> None:
    named = {"features", "importing", "models", "publishing", "selection", "steering", "README"}
    assert named <= {page.stem for page in PAGES}


def run_python(page: Path, **given: Any) -> dict[str, Any]:
    """Run every block of the page in one namespace, and give what it holds at the end."""
    names: dict[str, Any] = {"__name__": "__main__", **given}
    text = page.read_text()
    for match in PYTHON.finditer(text):
        # Behind as many lines as stand before it, so that a traceback names the page's line.
        before = "\n" * text.count("\n", 0, match.start("code"))
        exec(compile(before + match["code"], str(page), "exec"), names)
    return names

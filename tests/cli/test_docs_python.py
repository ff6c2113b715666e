"""The Python that the documentation shows runs as it stands, each page from top to bottom."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsteer.cli.main import main
from sparsteer.steering.features import FeatureIndex

ROOT = Path(__file__).parents[2]
PYTHON = re.compile(r"^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if PYTHON.search(page.read_text())
]


@pytest.fixture(scope="module")
def runs_topk(run_folder: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run that the pages name, its feature index and picks."""
    folder = tmp_path_factory.mktemp("docs")
    run = folder / "runs" / "topk"
    shutil.copytree(run_folder / "sae", run / "sae")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSTEER_THREADS", "1")
        assert main(["features", "build", str(run), "--cache", str(cache)]) == 0
    busiest = int(FeatureIndex.of_run(run).statistics["fired"].argmax())
    assert main(["pick", str(run), "add", str(busiest), "--strength", "-2"]) == 0
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_a_page_runs(
    page: Path, runs_topk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(runs_topk)
    names = run_python(page)
    capsys.readouterr()
    if page.name == "steering.md":
        assert not torch.equal(names["logits"], names["steered_logits"])
        assert names["picked"].features[0].strength == -2


def test_the_pages_that_show_python() -> None:
    assert {"README.md", "features.md", "selection.md", "steering.md"} <= {p.name for p in PAGES}


def run_python(page: Path) -> dict[str, Any]:
    """Run every block of the page in one namespace, and give what it holds at the end."""
    names: dict[str, Any] = {"__name__": "__main__"}
    text = page.read_text()
    for match in PYTHON.finditer(text):
        # Behind as many lines as stand before it, so that a traceback names the page's line.
        before = "\n" * text.count("\n", 0, match.start("code"))
        exec(compile(before + match["code"], str(page), "exec"), names)
    return names

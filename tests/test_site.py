"""The site of the documentation is built strictly, and needs nothing from elsewhere."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import sparsteer

ROOT = Path(__file__).parents[1]
SOURCES = (
    "docs",
    "package",
    "kernels",
    "sae",
    "training",
    "steering",
    "app",
    "benchmarks",
    "examples",
)
LOADS = {"script": "src", "link": "href", "img": "src", "iframe": "src"}

pytestmark = pytest.mark.slow


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=root,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Loaded(HTMLParser):
    """Addresses that a page loads when it is opened, and the identifiers it has."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids.add(given.get("id") or "")
        if tag in LOADS and (address := given.get(LOADS[tag])):
            self.addresses.append(address)


def loaded(page: Path) -> Loaded:
    parser = Loaded()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        for address in loaded(page).addresses:
            if not address.startswith("data:"):
                assert "//" not in address, f"{page}: {address}"
                assert page.name == "404.html" or (page.parent / address.split("?")[0]).exists()


def test_every_name_of_the_package_is_described(site: Path) -> None:
    found = loaded(site / "api/index.html").ids
    for name in set(sparsteer.__all__) - {"__version__"}:
        assert f"sparsteer.{name}" in found
    assert "sparsteer.sae.metrics.measure_rows" in loaded(site / "api/sparsteer.sae.html").ids
    assert "sparsteer.kernels.codes.Codes" in loaded(site / "api/sparsteer.kernels.html").ids


def test_notebooks_have_their_outputs(site: Path) -> None:
    for path in (ROOT / "docs/notebooks").glob("*.ipynb"):
        assert "cell-output" in (site / f"notebooks/{path.stem}.html").read_text(encoding="utf-8")


def test_search_works_in_pages_that_are_files(site: Path) -> None:
    assert "var __index = " in (site / "search/search_index.js").read_text(encoding="utf-8")
    assert "assets/iframe-worker.js" in loaded(site / "index.html").addresses


def test_programs_find_llms_txt_and_what_it_names(site: Path) -> None:
    text = (site / "llms.txt").read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert targets and all((site / target).exists() for target in targets)


@pytest.mark.parametrize(
    "line",
    ["[no such page](no-such.md)", "[no such part](cli.md#no-such-part)"],
    ids=["page", "anchor"],
)
def test_a_link_that_leads_nowhere_fails_the_build(line: str, tmp_path: Path) -> None:
    for name in SOURCES:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [ROOT / "mkdocs.yml", *ROOT.glob("*.md")]:
        shutil.copy(path, tmp_path)
    with (tmp_path / "docs/data.md").open("a", encoding="utf-8") as page:
        page.write(f"\n{line}\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode == 1
    assert "no-such" in done.stdout + done.stderr

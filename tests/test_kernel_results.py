"""The tables in the documentation are those of the newest result files."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def fill_docs(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # pyright: ignore[reportUnknownMemberType] - untyped
    return import_module("fill_docs")


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("docs/kernels.md", "| encode_topk |"),
        ("docs/steering.md", "| lm-eval | lm-eval 0.4.13"),
        ("docs/comparison.md", "| none | sparsify |"),
        ("README.md", "the same step takes"),
    ],
)
def test_the_page_holds_the_newest_tables(name: str, row: str, fill_docs: Any) -> None:
    page = (ROOT / name).read_text()
    assert row in page
    assert fill_docs.filled(page) == page, f"run: python benchmarks/fill_docs.py {name}"


def test_the_newest_file_of_each_name_is_taken_and_nothing_else_changes(
    fill_docs: Any, tmp_path: Path
) -> None:
    for date, name, text in [
        ("2026-01-31", "fast", "old"),
        ("2026-02-01", "fast", "new"),
        ("2026-03-01", "faster", "other"),
    ]:
        (tmp_path / f"{date}-{name}.md").write_text(f"# {name}\n\n{text}\n")
    page = "a\n<!-- results fast -->\nx\n<!-- end -->\nb\n<!-- results none -->\ny\n<!-- end -->\n"
    once = fill_docs.filled(page, tmp_path)
    assert once == page.replace("\nx\n", "\n\nnew\n\n")
    assert fill_docs.filled(once, tmp_path) == once


def test_a_block_in_an_item_of_a_list_stays_in_it(fill_docs: Any, tmp_path: Path) -> None:
    (tmp_path / "2026-01-31-fast.md").write_text("# fast\n\nnew,\nand more\n")
    page = "- item\n  <!-- results fast -->\n  x\n  <!-- end -->\n- next\n"
    once = fill_docs.filled(page, tmp_path)
    assert once == page.replace("\n  x\n", "\n\n  new,\n  and more\n\n")
    assert fill_docs.filled(once, tmp_path) == once

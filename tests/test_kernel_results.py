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
    ("name", "row"), [("kernels", "| encode_topk |"), ("steering", "| lm-eval | lm-eval 0.4.13")]
)
def test_the_page_holds_the_newest_tables(name: str, row: str, fill_docs: Any) -> None:
    page = (ROOT / "docs" / f"{name}.md").read_text()
    assert row in page
    assert fill_docs.filled(page) == page, f"run: python benchmarks/fill_docs.py docs/{name}.md"


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

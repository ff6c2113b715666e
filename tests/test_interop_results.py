"""The table in docs/interop.md is that of the newest result file, and every difference is small."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from sparsteer.sae.interop.layouts import LAYOUTS, OWN, WritableLayout

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "interop.md"
ROW = re.compile(r"^\| (\S+) \| (read|write|there and back) \| .* \| (\S+) \| (\S+) \|$", re.M)


def test_the_page_holds_the_newest_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # pyright: ignore[reportUnknownMemberType] - untyped
    fill_docs: Any = import_module("fill_docs")
    page = PAGE.read_text(encoding="utf-8")
    assert fill_docs.filled(page) == page, "run: python benchmarks/fill_docs.py docs/interop.md"


def test_no_difference_exceeds_the_goal() -> None:
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    assert len(rows) > 100
    for layout, direction, codes, reconstruction in rows:
        assert max(float(codes), float(reconstruction)) <= 1e-5, (layout, direction)


def test_every_layout_of_another_library_is_in_the_table() -> None:
    found = {(layout, direction) for layout, direction, _, _ in ROW.findall(PAGE.read_text())}
    for name in LAYOUTS.names():
        if name == OWN:
            continue
        assert (name, "read") in found
        if isinstance(LAYOUTS.get(name), WritableLayout):
            assert {(name, "write"), (name, "there and back")} <= found

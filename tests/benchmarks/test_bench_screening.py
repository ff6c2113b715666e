"""The benchmark of screening runs end to end at tiny sizes, and refuses what is no case."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))  # pyright: ignore[reportUnknownMemberType] - untyped
    return import_module("bench_screening")


def test_it_writes_a_table(bench: Any, tmp_path: Path) -> None:
    cases = ["made-up-1200-4-300", "random-900-3-40"]
    bench.main(["--cases", *cases, "--turns", "1", "--threads", "1", "--results", str(tmp_path)])
    (found,) = tmp_path.glob("*-screening.md")
    text = found.read_text()
    assert "| made-up | 300, 768, 1,200, 4 | 100.0% |" in text
    assert "| random | 40, 768, 900, 3 | 100.0% |" in text


@pytest.mark.parametrize("word", ["real", "real-12", "fake-12-3", "real-12-3-4-5"])
def test_what_is_no_case_is_refused(bench: Any, word: str) -> None:
    with pytest.raises(ValueError, match=f"{word} is no case"):
        bench.Case.parsed(word)

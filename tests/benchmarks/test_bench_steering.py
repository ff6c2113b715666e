"""The benchmark of steering runs end to end at tiny sizes, and its ratio is of paired rounds."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))  # pyright: ignore[reportUnknownMemberType] - untyped
    return import_module("bench_steering")


@pytest.mark.slow
def test_it_writes_a_table(bench: Any, tiny_model_folder: Path, tmp_path: Path) -> None:
    sizes = ["--tokens", "3", "--prompts", "2", "--rounds", "2", "--latents", "64"]
    where = ["--model", str(tiny_model_folder), "--results", str(tmp_path), "--device", "cpu"]
    bench.main([*sizes, *where])
    (found,) = tmp_path.glob("*-steering.md")
    text = found.read_text()
    for case in bench.CASES:
        assert f"| {case.name} | " in text
    assert text.count("% to ") == len(bench.CASES) == 18
    assert "The goal is at most 5%" in text


def test_a_ratio_is_of_rounds_in_pairs(bench: Any) -> None:
    base = [1.0, 10.0, 100.0]
    assert bench.ratio([2.0, 20.0, 200.0], base) == pytest.approx((2, 2, 2))
    middle, low, high = bench.ratio([2.0, 10.0, 100.0], base)
    assert middle == pytest.approx(112 / 111) and 1 <= low < middle < high <= 2


def test_a_case_that_is_slow_misses_the_goal(bench: Any) -> None:
    slow, quick = bench.SteeredCase(8, "per_token", "add"), bench.SteeredCase(8, "constant", "add")
    one = bench.SteeredCase(1, "constant", "clamp")
    seconds = {
        None: bench.Seconds([1.0] * 3, [0.1] * 3),
        slow: bench.Seconds([1.0] * 3, [0.12] * 3),
        quick: bench.Seconds([1.0] * 3, [0.101] * 3),
        one: bench.Seconds([1.0] * 3, [0.2] * 3),
    }
    rows, missed = bench.table(seconds)
    assert missed == [slow.name]
    assert [row[0] for row in rows] == ["none", slow.name, quick.name, one.name]
    assert rows[1][3].startswith("+20.0%")

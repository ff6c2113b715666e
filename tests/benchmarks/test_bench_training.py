"""The race of training steps: whole at tiny sizes, it goes on where it stopped, and says all."""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
TINY = ["--width", "16", "--batch", "64", "--steps", "3", "--threads", str(torch.get_num_threads())]
OWN = ["sparsteer", "sparsteer, a tenth dead", "plain sparse PyTorch"]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The benchmark's modules, with a cache folder of their own."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # pyright: ignore[reportUnknownMemberType] - untyped
    monkeypatch.setenv("SPARSTEER_CACHE", str(tmp_path / "user"))
    names = ["bench_training", "benchmark_rows", "training_cases", "training_worker"]
    names += ["training_results", "training_tables", "training_race", "random_cache"]
    return SimpleNamespace(**{name: import_module(name) for name in names})


@pytest.fixture
def in_process(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes libraries that race in this process."""
    # It would keep the memory of all tests.
    monkeypatch.setattr("sparsteer.training.runtime.malloc.keep_freed_memory", lambda: True)
    monkeypatch.setattr(benchmark.training_cases, "keep_freed_memory", lambda: True)

    def make(name: str, words: Sequence[str]) -> Any:
        worker = benchmark.training_worker.Worker(benchmark.training_worker.parsed([name, *words]))

        def step(number: int) -> float:
            return worker.answer({"do": "step", "number": number})["seconds"]

        return SimpleNamespace(step=step, finish=lambda: worker.answer({"do": "finish"}))

    return make


def run(benchmark: Any, results: Path, make: Any, *words: str) -> Any:
    """Race the cases; the content of the file of results."""
    options = ["--results", str(results), "--libraries", *OWN, *TINY, "--cases", *words]
    benchmark.bench_training.run_cases(benchmark.bench_training.parsed(options), make)
    (file,) = results.glob("*-training.json")
    return json.loads(file.read_text())


def test_tiny_cases_are_raced_written_and_not_raced_again(
    benchmark: Any, in_process: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = ["made-up-128-4", "made-up-128-4-after-6"]
    content = run(benchmark, tmp_path, in_process, *cases)
    (found,) = content["runs"]
    assert list(found["cases"]) == cases
    for case in found["cases"].values():
        fvu = {each["library"]: each["fvu"] for each in case["libraries"]}
        assert list(fvu) == OWN
        assert fvu["plain sparse PyTorch"] == pytest.approx(fvu["sparsteer"], rel=1e-3)
        assert all(len(each["seconds"]) == 3 for each in case["libraries"])
    first, trained = (case["libraries"][0]["fvu"] for case in found["cases"].values())
    assert trained < first
    (table,) = tmp_path.glob("*-training.md")
    text = table.read_text()
    assert "| made-up | 16, 128, 4 | after 6 steps | none | plain sparse PyTorch |" in text

    def refuse(name: str, words: Sequence[str]) -> Any:
        raise AssertionError("it was measured already")

    assert run(benchmark, tmp_path, refuse, *cases)["runs"][0]["cases"] == found["cases"]
    with pytest.raises(AssertionError):
        run(benchmark, tmp_path, refuse, *cases, "--again")
    monkeypatch.setattr(benchmark.bench_training, "digest_of_sources", lambda: "other code")
    with pytest.raises(AssertionError):
        run(benchmark, tmp_path, refuse, *cases)


@pytest.mark.slow
def test_the_command_races_in_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSTEER_CACHE", str(tmp_path / "user"))
    script = ROOT / "benchmarks" / "bench_training.py"
    words = ["--cases", "made-up-128-4-after-2-dead", "made-up-128-4", "--libraries", *OWN, *TINY]
    command = [sys.executable, str(script), *words, "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    (sentence,) = tmp_path.glob("*-training-range.md")
    assert "plain sparse PyTorch" in sentence.read_text()
    assert "| made-up | 16, 128, 4 | after 2 steps | a tenth | sparsteer |" in done.stdout


@pytest.mark.slow
def test_a_library_that_ends_is_told_with_what_it_said(benchmark: Any) -> None:
    words = ["--batch", "1", "--k", "1", "--held-out", "1", "--threads", "1"]
    with pytest.raises(SystemExit, match=r"(?s)--rows, --start.*plain sparse PyTorch ended with"):
        benchmark.training_race.Competitor("plain sparse PyTorch", words)


def test_a_plain_step_that_trains_otherwise_stops_the_run(benchmark: Any) -> None:
    found = [{"library": "sparsteer", "fvu": 0.3}, {"library": "plain sparse PyTorch", "fvu": 0.31}]
    with pytest.raises(SystemExit, match=r"FVU of 0\.3100, sparsteer to 0\.3000"):
        benchmark.bench_training.require_same_quality(found)
    benchmark.bench_training.require_same_quality(found[:1])


def test_names_of_cases_are_read_as_they_are_written(benchmark: Any) -> None:
    case = benchmark.training_cases.TrainingCase
    for name in [*benchmark.training_cases.DEFAULT, "made-up-64-2-dead"]:
        assert case.parse(name).name == name
    assert case.parse("real-64-2-after-300-dead") == case("real", 64, 2, 300, True)
    for name in ["unreal-64-2", "real-64", "real-64-2-300", "made-up-64-2-after-x"]:
        with pytest.raises(argparse.ArgumentTypeError, match=f"'{name}' is not KIND-LATENTS-K"):
            case.parse(name)


def made_run(benchmark: Any, host: str, seconds: dict[str, dict[str, list[float]]]) -> Any:
    cases: dict[str, Any] = {
        name: {
            "rows": "some",
            "width": 16,
            "libraries": [
                {"library": library, "seconds": taken, "fvu": 0.1, "megabytes": 1, "verified": 0.9}
                for library, taken in libraries.items()
            ],
        }
        for name, libraries in seconds.items()
    }
    return benchmark.training_results.TrainingRun(
        "2026-01-01", host, "command", "versions", "code", {"batch": 8}, OWN, cases
    )


def test_the_sentence_has_the_worst_first_over_cases_and_hosts(benchmark: Any) -> None:
    fast = {"sparsteer": [1.0, 2.0, 3.0], "plain sparse PyTorch": [3.0, 3.0, 3.0]}
    saelens = {"sae-lens": [40.0] * 3, "sae-lens sparse": [20.0] * 3}
    slow = {"sparsteer": [2.0] * 3, "plain sparse PyTorch": [1.8] * 3}
    runs = [
        made_run(benchmark, "one", {"real-64-2": fast | saelens}),
        made_run(
            benchmark,
            "two",
            {"made-up-64-2": slow, "real-64-2-dead": {"sparsteer": [1.0], "sparsify": [0.1]}},
        ),
    ]
    sentence = benchmark.training_tables.range_sentence(runs)
    assert "plain sparse PyTorch 0.90 to 1.50, SAELens 10 to 10 times" in sentence
    assert "sparsify" not in sentence
    assert (
        "over 2 cases of rows (real, made-up), sizes and weights, on 2 hosts (one; two)" in sentence
    )
    lines = benchmark.training_tables.tables_of(runs[0])
    assert any("| 2000 | 90.0% |  | 1.50 (1.00 to 3.00) |" in line for line in lines)


def test_runs_of_other_hosts_are_kept_and_an_older_one_of_the_same_replaced(
    benchmark: Any, tmp_path: Path
) -> None:
    results: Any = benchmark.training_results
    case = {"real-64-2": {"sparsteer": [1.0]}}
    one, two = (made_run(benchmark, host, case) for host in ("one", "two"))
    path = results.save_runs([one, two], tmp_path)
    assert path.name == "2026-01-01-training.json"
    assert results.read_runs(tmp_path) == [one, two]
    newer = made_run(benchmark, "one", {})
    newer.date, newer.command = "2026-02-02", "another"
    kept = results.begin(newer, [one, two], again=False)
    assert kept == [two, newer] and newer.cases == one.cases
    assert (newer.date, newer.command) == ("2026-01-01", "command; another")
    other_code = made_run(benchmark, "one", {})
    other_code.sources = "new"
    assert results.begin(other_code, [one, two], again=False) == [two, other_code]
    assert not other_code.cases


def test_real_rows_are_cached_where_the_demo_has_none_and_scaled(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: Any = benchmark.benchmark_rows
    made: list[Any] = []

    def cache(config: Any, progress: Any) -> None:
        made.append(config)
        folder = Path(config.out)
        folder.mkdir(parents=True)
        benchmark.random_cache.write_random_cache(folder, 1000, 12, "float16")

    # A cache of another model than the default one is not taken.
    monkeypatch.setattr(rows, "cache_activations", cache)
    monkeypatch.setattr(rows, "DEMO", tmp_path / "demo")
    (tmp_path / "demo").mkdir()
    benchmark.random_cache.write_random_cache(tmp_path / "demo", 1000, 12, "float16")
    found = rows.benchmark_rows("real", 2000)
    (config,) = made
    assert Path(config.out).is_relative_to(tmp_path / "user")
    assert (config.model, config.dataset) == ("smollm2-135m", "news")
    assert found.scaled_ND.shape == (2000 + rows.HELD_OUT, 12)
    assert float(found.scaled_ND.square().sum(-1).mean()) == pytest.approx(12, rel=0.05)
    assert found.source == "blocks.0.hook_resid_post of random on random"
    given = rows.benchmark_rows("real", 2000, cache=tmp_path / "demo")
    assert len(made) == 1
    assert not torch.equal(given.scaled_ND, found.scaled_ND)

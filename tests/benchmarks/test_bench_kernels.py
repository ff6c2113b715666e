"""The benchmark of the kernels: nothing wrong is timed, and a whole run writes its table."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cases(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # pyright: ignore[reportUnknownMemberType] - untyped
    return import_module("kernel_cases")


def test_a_result_that_is_wrong_is_not_timed(cases: Any) -> None:
    def case(error: float) -> Any:
        return cases.Case(lambda: None, {}, 1, lambda: error)

    note = cases.require_right({"close": case(1e-6), "closer": case(1e-7)}, "float32")
    assert "1e-06 at most (close)" in note
    for error in (0.01, float("nan")):
        with pytest.raises(SystemExit, match=r"^off is wrong"):
            cases.require_right({"off": case(error)}, "float32")
    assert cases.require_right({"off": case(0.01)}, "bfloat16")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_small_run_writes_a_table_of_right_results(precision: str, tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; sys.path.insert(0, 'benchmarks'); import results_file, bench_kernels;"
        "results_file.write_table.__defaults__ = (pathlib.Path(sys.argv.pop()),);"
        "bench_kernels.main()"
    )
    sizes = ["--rows", "256", "--width", "64", "--latents", "1024", "--k", "8"]
    sizes += ["--turns", "2", "--steps", "20", "--threads", "1", "--device", "cpu"]
    sizes += ["--activations", "made-up"]
    command = [sys.executable, "-c", program, *sizes, "--precision", precision, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    (table,) = tmp_path.glob("*-kernels-cpu.md")
    text = table.read_text(encoding="utf-8")
    assert f"Operators and steps in {precision}" in text
    assert "Results differ from those of other ways" in text
    assert text.count("| training step") == 2

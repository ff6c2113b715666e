"""Rows are all computed once by any number of threads; errors come back; no folder is needed."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from sparsteer.kernels import compiled
from sparsteer.kernels.compiled import over_rows


def count(start: int, stop: int, seen: npt.NDArray[np.int64]) -> None:
    seen[start:stop] += 1


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("n_rows", [0, 1, 63, 64, 65, 1000])
def test_every_row_is_computed_once(n_rows: int) -> None:
    seen = np.zeros(n_rows, np.int64)
    over_rows(count, n_rows, seen)
    assert (seen == 1).all()


@pytest.mark.usefixtures("threads")
def test_an_error_in_a_thread_is_raised() -> None:
    def fail(start: int, stop: int) -> None:
        if start <= 200 < stop:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        over_rows(fail, 300)


def test_rows_are_computed_where_no_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*arguments: object) -> None:
        raise RuntimeError("cannot schedule new futures after shutdown")

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seen = np.zeros(200, np.int64)
        over_rows(count, 200, seen)
    finally:
        torch.set_num_threads(before)
    assert (seen == 1).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork beside threads
def test_a_forked_process_makes_threads_of_its_own() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        over_rows(count, 200, np.zeros(200, np.int64))
        child = os.fork()
        if child == 0:
            seen = np.zeros(200, np.int64)
            over_rows(count, 200, seen)
            os._exit(0 if (seen == 1).all() else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        torch.set_num_threads(before)


def test_nan_and_infinity_keep_their_meaning() -> None:
    @compiled.compiled
    def larger(one: float, other: float) -> float:
        return one if one > other else other

    assert larger(1.0, np.inf) == np.inf
    assert np.isnan(larger(np.nan, np.nan))
    assert larger(np.nan, 2.0) == 2.0


def test_loops_are_compiled_where_no_folder_can_keep_them(monkeypatch: pytest.MonkeyPatch) -> None:
    njit: Any = compiled.numba.njit  # pyright: ignore[reportUnknownMemberType] - untyped

    def without_cache(**options: Any) -> Any:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(compiled.numba, "njit", without_cache)

    @compiled.compiled
    def twice(x: int) -> int:
        return 2 * x

    assert twice(21) == 42


SCRIPT = """
import numpy as np, sys
sys.path.insert(0, {folder!r})
import sparsteer.kernels.compiled as compiled
compiled._sources = lambda: {stamp!r}
from loops import twice
print(twice(21), sum(twice.stats.cache_hits.values()))
"""


def run_twice(folder: Path, stamp: str = "as it is") -> str:
    """What a program prints that calls a compiled loop of a file in the folder."""
    program = SCRIPT.format(folder=str(folder), stamp=stamp)
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not found.stderr
    return found.stdout.strip()


@pytest.fixture
def loops(tmp_path: Path) -> Path:
    lines = ["from sparsteer.kernels.compiled import compiled", "", "@compiled"]
    lines += ["def twice(x):", "    return 2 * x", ""]
    (tmp_path / "loops.py").write_text("\n".join(lines))
    return tmp_path


@pytest.mark.slow
def test_code_is_kept_and_compiled_anew_after_any_change(loops: Path) -> None:
    assert run_twice(loops) == "42 0"
    assert run_twice(loops) == "42 1"
    assert run_twice(loops, "another source of another function") == "42 0"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("length", [0, 40])
def test_damaged_code_is_compiled_anew_and_replaced(loops: Path, kind: str, length: int) -> None:
    run_twice(loops)
    for kept in (loops / "__pycache__").glob(f"*.{kind}"):
        kept.write_bytes(kept.read_bytes()[:length])
    assert run_twice(loops) == "42 0"
    assert run_twice(loops) == "42 1"

"""`encode_topk` screened in bfloat16, beside the products that it saves and takes, on this machine.

    python benchmarks/bench_screening.py [--cases real-12288-32 made-up-12288-32-4096 ...]
        [--turns 7] [--threads 2] [--results FOLDER]

A case is KIND-LATENTS-K[-ROWS], of 4,096 rows unless it says so: real rows are activations of the
default language model (`benchmark_rows`), made-up ones sums of few directions of width 768, random
ones normal numbers of that width. Weights are random rows of norm 1. The bfloat16 product of all
rows, `encode_topk` screened and by blocks of the float32 product, and that product alone take
turns.
"""

import argparse
import os
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from benchmark_rows import benchmark_rows
from results_file import RESULTS, write_table
from torch import Tensor

from sparsteer.kernels import encode
from sparsteer.kernels.accelerators.screening import screened_topk
from sparsteer.kernels.policy import EncodePlan

DEFAULT = (
    *("real-12288-32", "made-up-12288-32", "random-12288-32", "real-4608-32"),
    *("real-12288-32-1024", "real-12288-256-1024", "real-12288-384-1024"),
)
WIDTH = 768
_CASE = re.compile(
    r"(?P<kind>real|made-up|random)-(?P<n_latents>\d+)-(?P<k>\d+)(-(?P<n_rows>\d+))?"
)


class Case(NamedTuple):
    """One table row."""

    kind: str
    n_latents: int
    k: int
    n_rows: int

    @staticmethod
    def parsed(word: str) -> "Case":
        """Raises ValueError if the word is none."""
        found = _CASE.fullmatch(word)
        if found is None:
            raise ValueError(f"{word} is no case, such as real-12288-32 or made-up-4608-32-1024")
        n_rows = int(found["n_rows"] or 4096)
        return Case(found["kind"], int(found["n_latents"]), int(found["k"]), n_rows)


def rows_of(case: Case) -> tuple[Tensor, str]:
    """Rows in scaled units, and what they are."""
    if case.kind == "random":
        seeded = torch.Generator().manual_seed(0)
        return torch.randn(case.n_rows, WIDTH, generator=seeded), f"random, D={WIDTH}"
    kind: Any = case.kind
    found = benchmark_rows(kind, case.n_rows, width=WIDTH)
    return found.scaled_ND[: case.n_rows].clone(), found.source


def measured(case: Case, turns: int) -> tuple[list[str], str]:
    """The table row, and what its rows are."""
    x, source = rows_of(case)
    B, D = x.shape
    F, k = case.n_latents, case.k
    drawn_FD = torch.randn(F, D, generator=torch.Generator().manual_seed(1))
    W = torch.nn.functional.normalize(drawn_FD, dim=-1)
    b_dec, b_enc = x.mean(0), torch.zeros(F)
    low_x, low_W = (x - b_dec).bfloat16(), W.bfloat16()
    low, wide = torch.empty(B, F, dtype=torch.bfloat16), torch.empty(B, F)

    def encoded(path: Any) -> None:
        def forced(*_: Any) -> EncodePlan:
            return EncodePlan(path, "forced")

        with patch.object(encode, "encode_plan", forced):
            encode.encode_topk(x, b_dec, W, b_enc, k)

    calls: dict[str, Callable[[], object]] = {
        "bfloat16": lambda: torch.mm(low_x, low_W.T, out=low),
        "screened": lambda: encoded("screened"),
        "blocks": lambda: encoded("blocks"),
        "float32": lambda: torch.mm(x, W.T, out=wide),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(turns + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if turn:  # the first compiles and warms up
                seconds[name].append(time.perf_counter() - started)
    ms = {name: 1e3 * statistics.median(found) for name, found in seconds.items()}
    verified = float(screened_topk(x - b_dec, W, b_enc, k).verified.float().mean())
    figures = [ms["bfloat16"], ms["screened"], ms["float32"], ms["blocks"]]
    times = [f"{ms['screened'] / ms['bfloat16']:.2f}", f"{ms['blocks'] / ms['screened']:.2f}"]
    sizes = [case.kind, f"{B:,}, {D}, {F:,}, {k}", f"{verified:.1%}"]
    return [*sizes, *(f"{each:.1f}" for each in figures), *times], source


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--cases", nargs="+", default=list(DEFAULT))
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    rows: list[list[str]] = []
    sources: dict[str, str] = {}
    for word in options.cases:
        case = Case.parsed(word)
        row, sources[case.kind] = measured(case, options.turns)
        rows.append(row)
    header = ["rows", "B, D, F, k", "verified", "bfloat16 product, ms", "`encode_topk`, ms"]
    header += ["float32 product, ms", "by the float32 product, ms", "times the bfloat16 product"]
    header += ["by the float32 product, times"]
    notes = [
        f"Medians of {options.turns} turns; weights are random, screening is forced. The last "
        "columns: `encode_topk` over the bfloat16 product, and by blocks of the float32 product "
        "over `encode_topk`.",
        *(f"{kind.capitalize()} rows: {source}." for kind, source in sources.items()),
    ]
    write_table("screening", header, rows, notes, options.results)


if __name__ == "__main__":
    main()

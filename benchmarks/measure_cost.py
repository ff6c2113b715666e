"""What does training cost as the dictionary and the cache grow? Time per row and peak memory.

    python benchmarks/measure_cost.py [--width 768] [--k 32] [--batch 4096] [--steps 8]
        [--latents 4096 16384 65536] [--rows 100000 1000000]

First `Trainer.step` at several numbers of latents, each in a process of its own, one step each in
turn. Then `sparsteer train` on caches of random rows, the same number of steps on each: time of the
whole command and peak memory of its process. One table, one plot, with the line of growth in
proportion.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from bench_activation_cache import write_random_cache
from bench_training_step import planted_rows
from benchmark_rows import HELD_OUT
from results_file import write_table
from training_cases import random_weights, save_weights
from training_race import OURS, WARM_UP, Competitor, race

SMALL_LATENTS = 4096


class Cost(NamedTuple):
    """What one size cost."""

    size: int
    microseconds: float
    """Per row."""
    megabytes: float


def cost_of_widths(arguments: argparse.Namespace, folder: Path) -> list[Cost]:
    """Steps at each number of latents, in turn."""
    file = folder / "rows.npy"
    n_rows = (WARM_UP + arguments.steps) * arguments.batch + HELD_OUT
    rows_ND = planted_rows(n_rows, arguments.width)
    np.save(file, rows_ND.numpy(), allow_pickle=False)
    words = ["--rows", file, "--batch", arguments.batch, "--k", arguments.k]
    words += ["--held-out", HELD_OUT, "--threads", torch.get_num_threads()]

    def make(n_latents: str, words: Sequence[str]) -> Competitor:
        start = folder / f"start-{n_latents}.safetensors"
        save_weights(start, random_weights(rows_ND, int(n_latents)))
        return Competitor(OURS, [*words, "--start", str(start)])

    sizes = [str(n_latents) for n_latents in arguments.latents]
    found = race(sizes, [str(word) for word in words], arguments.steps, make)
    return [
        Cost(
            int(each["library"]),
            1e6 * statistics.median(each["seconds"]) / arguments.batch,
            each["megabytes"],
        )
        for each in found
    ]


def cost_of_caches(arguments: argparse.Namespace, folder: Path) -> list[Cost]:
    """The command `sparsteer train`, the same number of steps on each cache."""
    found: list[Cost] = []
    for n_rows in arguments.rows:
        cache = folder / f"cache-{n_rows}"
        cache.mkdir()
        write_random_cache(cache, n_rows, arguments.width, "float16")
        tokens = arguments.batch * (min(arguments.rows) // arguments.batch)
        options = ["--cache", cache, "--out", folder / f"run-{n_rows}", "--k", arguments.k]
        options += ["--n-latents", SMALL_LATENTS, "--batch-size", arguments.batch]
        words = [sys.executable, "-m", "sparsteer.cli", "train", *options, "--tokens", tokens]
        started = time.perf_counter()
        with (folder / "errors").open("w+") as errors:
            process = subprocess.Popen([str(w) for w in words], stdout=errors, stderr=errors)
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                errors.seek(0)
                raise SystemExit(errors.read())
        seconds = time.perf_counter() - started
        found.append(Cost(n_rows, 1e6 * seconds / tokens, usage.ru_maxrss / 1024))
    return found


def draw(widths: Sequence[Cost], caches: Sequence[Cost], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    axes: Any = figure.subplots(1, 3)  # pyright: ignore[reportUnknownMemberType] - matplotlib's types are partial
    panels = (
        (widths, "microseconds", "latents", "microseconds a row, one step"),
        (widths, "megabytes", "latents", "peak MB, one step"),
        (caches, "microseconds", "rows in the cache", "microseconds a row, whole command"),
    )
    for axis, (costs, measure, xlabel, ylabel) in zip(axes, panels, strict=True):
        sizes = [cost.size for cost in costs]
        values = [getattr(cost, measure) for cost in costs]
        axis.plot(sizes, values, marker="o", label="measured")
        proportional = [values[0] * size / sizes[0] for size in sizes]
        axis.plot(sizes, proportional, linestyle=":", color="gray", label="in proportion")
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axis.minorticks_off()
        axis.set_xlabel(xlabel)
        axis.set_ylabel(ylabel)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path)  # pyright: ignore[reportUnknownMemberType] - matplotlib's types are partial


def lines_of(what: str, costs: Sequence[Cost]) -> list[list[str]]:
    first = costs[0]
    return [
        [
            what,
            f"{cost.size:,}",
            f"{cost.microseconds:.1f}",
            f"{cost.megabytes:,.0f}",
            f"{cost.size / first.size:.1f}",
            f"{cost.microseconds / first.microseconds:.2f}",
            f"{cost.megabytes / first.megabytes:.2f}",
        ]
        for cost in costs
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("width", 768), ("k", 32), ("batch", 4096), ("steps", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--latents", type=int, nargs="+", default=[4096, 16_384, 65_536])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        widths = cost_of_widths(arguments, Path(temporary))
        caches = cost_of_caches(arguments, Path(temporary))
    lines = [*lines_of("latents", widths), *lines_of("rows in the cache", caches)]
    header = ["grows", "to", "µs a row", "peak MB", "x size", "x time", "x memory"]
    notes = [
        f"topk, D={arguments.width}, k={arguments.k}, batches of {arguments.batch}, float32. "
        f"Latents: {arguments.steps} timed steps after {WARM_UP}, in turn; MB is the growth of "
        "peak memory from before the autoencoder was built. Rows: `sparsteer train` of "
        f"{SMALL_LATENTS:,} latents on a cache of random float16 rows, "
        f"{min(arguments.rows) // arguments.batch} steps on each, start, held-out measures and "
        "checksums included; MB is the process's peak."
    ]
    path = write_table("cost", header, lines, notes)
    draw(widths, caches, path.with_suffix(".svg"))


if __name__ == "__main__":
    main()

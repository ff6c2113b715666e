"""A training step of sparsteer, sae-lens, eai-sparsify and dictionary_learning on the same rows.

    python benchmarks/bench_training.py [--cache FOLDER] [--width 768] [--latents 12288] [--k 32]
        [--batch 4096] [--steps 20] [--environments .peers]

Each library runs in an environment of its own, made with pip if it is missing, in a process that
lives through the whole run. They take one step each in turn, so that a change of the machine's load
meets all of them; the first steps warm up. All start from the same weights and use the same rate.
Rows are those of an activation cache, or made up of sparse directions. The second table keeps half
of the latents marked dead, so that AuxK works at every step.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_training_step import planted_rows
from environments import ENVIRONMENTS, FOLDER, python_of
from results_file import write_table
from torch import Tensor

from sparsteer.training import ActivationCache

IN_ENVIRONMENT = {
    "sparsify": "eai-sparsify",
    "sae-lens": "sae-lens",
    "sae-lens sparse": "sae-lens",
    "dictionary_learning": "dictionary-learning",
}
FREE_ROWS = "sparsteer, free rows"
WARM_UP = 2
HELD_OUT = 4096
WORKER = Path(__file__).with_name("training_worker.py")


class Competitor:
    """A library in its process."""

    def __init__(self, name: str, python: str, arguments: list[str]) -> None:
        self.name = name
        self.seconds: list[float] = []
        self._errors = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            [python, str(WORKER), name, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self._answer()

    def step(self, number: int) -> None:
        seconds = self._ask({"do": "step", "number": number})["seconds"]
        if number >= WARM_UP:
            self.seconds.append(seconds)

    def finish(self) -> dict[str, Any]:
        found = self._ask({"do": "finish"})
        self._process.communicate()
        return found

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._errors.seek(0)
            raise SystemExit(f"{self._errors.read()}\n{self.name} ended with status {status}")
        return json.loads(line)


def rows_of(arguments: argparse.Namespace) -> Tensor:
    """Float32 rows with a mean squared norm of their width, the last HELD_OUT never trained on."""
    n_rows = (WARM_UP + arguments.steps) * arguments.batch
    if arguments.cache is None:
        torch.default_generator.manual_seed(0)
        rows_ND = planted_rows(n_rows + HELD_OUT, arguments.width)
    else:
        cache = ActivationCache(arguments.cache)
        batches = cache.batches(min(n_rows, cache.n_train), seed=0)
        rows_ND = torch.cat([next(batches).float(), cache.held_out(limit=HELD_OUT).float()])
        batches.close()
    return rows_ND * (rows_ND.shape[1] / rows_ND.square().sum(-1).mean()).sqrt()


def race(arguments: argparse.Namespace, file: str, dead: bool) -> list[list[str]]:
    """Let the libraries take their steps in turn; the lines of the table."""
    sizes = {
        "rows": file,
        "batch": arguments.batch,
        "latents": arguments.latents,
        "k": arguments.k,
        "held-out": HELD_OUT,
        "threads": arguments.threads,
    }
    words = [str(word) for name, value in sizes.items() for word in (f"--{name}", value)]
    words += ["--dead"] if dead else []
    names = ["sparsteer", FREE_ROWS, *IN_ENVIRONMENT]
    # The sparse activations of sae-lens meet an operator that is missing on a CPU in its AuxK.
    names = [name for name in names if not (dead and name in (FREE_ROWS, "sae-lens sparse"))]
    pythons = {
        name: python_of(IN_ENVIRONMENT[name], arguments.environments)
        if name in IN_ENVIRONMENT
        else sys.executable
        for name in names
    }
    competitors = [Competitor(name, pythons[name], words) for name in names]
    for number in range(WARM_UP + arguments.steps):
        for competitor in competitors:
            competitor.step(number)
    ours = competitors[0].seconds
    lines: list[list[str]] = []
    for competitor in competitors:
        found = competitor.finish()
        ratios = [theirs / own for theirs, own in zip(competitor.seconds, ours, strict=True)]
        median = statistics.median(competitor.seconds)
        lines.append(
            [
                "every other latent" if dead else "none",
                competitor.name,
                f"{1e3 * median:.0f}",
                f"{arguments.batch / median:,.0f}",
                f"{statistics.median(ratios):.2f}",
                f"{found['fvu']:.4f}",
                f"{found['megabytes']:,.0f}",
            ]
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path)
    for name, default in (("width", 768), ("latents", 12288), ("k", 32), ("batch", 4096)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--environments", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows_ND = rows_of(arguments)
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/rows.npy"
        np.save(file, rows_ND.numpy(), allow_pickle=False)
        lines = [line for dead in (False, True) for line in race(arguments, file, dead)]
    header = ["dead", "library", "median ms", "rows/s", "x sparsteer's time", "FVU", "MB"]
    source = "made-up sparse rows" if arguments.cache is None else f"rows of {arguments.cache}"
    used = [ENVIRONMENTS[name] for name in dict.fromkeys(IN_ENVIRONMENT.values())]
    versions = [(environment.alone or environment.packages)[0] for environment in used]
    notes = [
        f"D={rows_ND.shape[1]} F={arguments.latents} K={arguments.k} B={arguments.batch}, float32, "
        f"{source}; {arguments.steps} timed steps after {WARM_UP}, interleaved. The ratio is the "
        "median of ratios within a turn. FVU after all steps, on rows that were not trained on. "
        "MB: growth of the peak resident memory from before the autoencoder was built.",
        f"Versions: {', '.join(versions)}. sae-lens sparse: sparse "
        "activations without rescaling, its fastest way on a CPU; it cannot run AuxK there. "
        "sparsify is run with Adam in place of its default optimizer, as the others. sae-lens "
        f"does not keep decoder rows at norm 1, which lowers FVU in the first steps; {FREE_ROWS}: "
        "this project's step without it, too.",
    ]
    write_table("training", header, lines, notes)


if __name__ == "__main__":
    main()

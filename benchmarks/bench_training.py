"""A training step of sparsteer, plain sparse PyTorch and three other toolkits on the same rows.

    python benchmarks/bench_training.py [--cases real-12288-32 made-up-12288-32-after-300 ...]
        [--cache FOLDER] [--width 768] [--batch 4096] [--steps 8] [--libraries sparsteer ...]
        [--environments .peers] [--results FOLDER] [--again]

A case is KIND-LATENTS-K[-after-STEPS][-dead]: real rows are activations of the default language
model, from the demo's cache, from --cache, or cached once in the user's cache folder (minutes);
made-up ones are sums of few directions. With -after-STEPS all begin with weights that sparsteer has
trained for so many steps, which are kept in that folder, too; with -dead a tenth of the latents
count as dead in all libraries at every step.

Each library runs in an environment of its own, made with pip if it is missing, in a process that
lives through the case. They take one step each in turn, so that a change of the machine's load
meets all of them; the first steps warm up. All start from the same weights and use the same rate. A
step is everything that training does with a batch: loss, gradients, Adam, unit decoder rows where
the library keeps them, counts of dead latents. Every case is written when it is done, and the same
command goes on after the last one; cases of other hosts in the newest file are kept.
"""

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark_rows import HELD_OUT, BenchmarkRows, benchmark_rows
from environments import ENVIRONMENTS, FOLDER, python_of
from results_file import RESULTS, processor, processor_model, project_version
from training_cases import DEFAULT, N_BATCHES, TrainingCase, save_weights, starting_weights
from training_race import (
    IN_ENVIRONMENT,
    LIBRARIES,
    OURS,
    PLAIN,
    Competitor,
    Racer,
    libraries_of,
    race,
)
from training_results import TrainingRun, begin, digest_of_sources, read_runs, save_runs
from training_tables import write_tables

Make = Callable[[str, Sequence[str]], Racer]


class Options(argparse.Namespace):
    """The command's arguments."""

    cases: list[TrainingCase]
    cache: Path | None
    width: int
    batch: int
    steps: int
    threads: int
    libraries: list[str]
    environments: Path
    results: Path
    again: bool


def measure(
    case: TrainingCase, rows: BenchmarkRows, options: Options, make: Make
) -> dict[str, Any]:
    """The race of one case: the rows, their width, and every library's figures."""
    with tempfile.TemporaryDirectory() as folder:
        file, start = Path(folder) / "rows.npy", Path(folder) / "start.safetensors"
        np.save(file, rows.scaled_ND.numpy(), allow_pickle=False)
        save_weights(start, starting_weights(case, rows, options.batch))
        sizes = {
            "rows": file,
            "start": start,
            "batch": options.batch,
            "k": case.k,
            "held-out": HELD_OUT,
            "threads": options.threads,
        }
        words = [str(word) for name, value in sizes.items() for word in (f"--{name}", value)]
        words += ["--dead"] * case.dead
        found = race(libraries_of(case, options.libraries), words, options.steps, make)
    require_same_quality(found)
    return {"rows": rows.source, "width": rows.scaled_ND.shape[1], "libraries": found}


def require_same_quality(found: list[dict[str, Any]]) -> None:
    """Raise SystemExit if the plain step does not train as ours does: times would say nothing."""
    fvu = {each["library"]: each["fvu"] for each in found}
    if PLAIN in fvu and not abs(fvu[PLAIN] / fvu[OURS] - 1) < 0.01:
        raise SystemExit(f"{PLAIN} trains to an FVU of {fvu[PLAIN]:.4f}, {OURS} to {fvu[OURS]:.4f}")


def new_run(options: Options) -> TrainingRun:
    """A run of these options on this host, without cases."""
    used = dict.fromkeys(
        IN_ENVIRONMENT[name] for name in options.libraries if name in IN_ENVIRONMENT
    )
    toolkits = [(ENVIRONMENTS[name].alone or ENVIRONMENTS[name].packages)[0] for name in used]
    versions = [f"torch {torch.__version__}", f"sparsteer {project_version()}", *toolkits]
    return TrainingRun(
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        host=f"{processor()}{processor_model()}, {options.threads} threads",
        command=shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
        versions=", ".join(versions),
        sources=digest_of_sources(),
        settings={"batch": options.batch, "steps": options.steps, "made-up width": options.width},
        libraries=options.libraries,
    )


def run_cases(options: Options, make: Make) -> None:
    """Measure the cases that the newest file lacks, and write each when it is done."""
    run = new_run(options)
    runs = begin(run, read_runs(options.results), again=options.again)
    rows: dict[str, BenchmarkRows] = {}
    for case in options.cases:
        if case.name in run.cases:
            print(f"{case.name} is measured already; --again measures it anew")
            continue
        if case.kind not in rows:
            rows = {}  # one kind at a time in memory
            rows[case.kind] = benchmark_rows(
                case.kind,
                N_BATCHES * options.batch,
                width=options.width,
                cache=options.cache,
            )
        run.cases[case.name] = measure(case, rows[case.kind], options, make)
        path = save_runs(runs, options.results)
        print(f"{case.name} is written to {path}")
    if run.cases:
        print(write_tables(runs, save_runs(runs, options.results)))


def parsed(words: list[str] | None = None) -> Options:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", type=TrainingCase.parse, metavar="CASE")
    parser.add_argument("--cache", type=Path)
    for name, default in (("width", 768), ("batch", 4096), ("steps", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--environments", type=Path, default=FOLDER)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args(words, namespace=Options())
    options.cases = options.cases or [TrainingCase.parse(name) for name in DEFAULT]
    return options


def main(words: list[str] | None = None) -> None:
    options = parsed(words)
    torch.set_num_threads(options.threads)
    if "OMP_WAIT_POLICY" not in os.environ:  # in every process, as the command does in its own
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    for name in options.libraries:  # pip before anything is timed
        if name in IN_ENVIRONMENT:
            python_of(IN_ENVIRONMENT[name], options.environments)
    run_cases(options, partial(Competitor, environments=options.environments))


if __name__ == "__main__":
    main()

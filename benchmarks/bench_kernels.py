"""Time every operator and whole training steps against eager PyTorch and floors of the same run.

    python benchmarks/bench_kernels.py [--device cpu|cuda] [--precision float32|tf32|bfloat16]
        [--activations real made-up] [--rows 4096] [--width 768] [--latents 12288] [--k 32]
        [--turns 9] [--steps 50] [--threads N] [--clock wall|processor]

First on activations of the default language model with weights that have been trained for a while,
then on made-up rows, of the given width, with random weights (kernel_inputs.py). Everything takes
turns, so that a change of the machine's load meets all of it; a ratio is the median of the ratios
within a turn. Floors: PyTorch's product into a reused buffer; the encoder's product by the library
that the encoder takes; a copy of memory, for what is bound by bytes. Each result is compared with
another way's before it is timed. The same run trains some steps beside a plain dense PyTorch loop
from the same start and stops if the fraction of variance unexplained differs by more than 1 %. The
table goes to benchmarks/results/.

On a GPU the precision is bfloat16 by default, times are of events with a cold L2 cache, and steps
are timed one kind after the other, so that one trainer at a time is in memory. The processor's
clock, with one thread, is for a machine that is not quiet.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from benchmark_rows import KINDS, Kind
from gpu.device import Cuda
from gpu.sizes import PRECISIONS, allow_tf32
from kernel_cases import COPIED, FASTER, Call, Case, floors, operators, require_right, top_afa
from kernel_inputs import Inputs, kernel_inputs
from kernel_steps import quality, training_steps
from results_file import write_table
from verified_rows import verified_fraction

from sparsteer.kernels import dispatch
from sparsteer.kernels.policy import backend_of, typical_plans
from sparsteer.training.runtime.malloc import keep_freed_memory

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


class Options(argparse.Namespace):
    """The command's arguments."""

    device: str
    precision: str | None
    activations: list[Kind]
    rows: int
    width: int
    latents: int
    k: int
    turns: int
    steps: int
    threads: int
    clock: str


def planned(B: int, D: int, F: int, k: int, device: str, dtype: torch.dtype) -> str:
    """A note on the path that each operator takes, and why."""
    backend = backend_of(torch.empty(0, device=device, dtype=dtype))
    plans = typical_plans(B, D, F, k, backend)
    return "Paths: " + "; ".join(f"{n} {plan.path} ({plan.why})" for n, plan in plans.items()) + "."


def stopwatch(device: str, clock: str) -> Callable[[Call], float]:
    """Seconds of a call by the clock; on a GPU by events, with nothing of its inputs cached."""
    if device == "cuda":
        gpu = Cuda()
        return lambda call: gpu.cold_ms(call) / 1e3
    now = CLOCKS[clock]

    def seconds(call: Call) -> float:
        start = now()
        call()
        return now() - start

    return seconds


def in_turns(
    calls: dict[str, Call], turns: int, seconds: Callable[[Call], float]
) -> dict[str, list[float]]:
    """Seconds of each call in each turn, after one that warms up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(turns + 1):
        for name, call in calls.items():
            elapsed = seconds(call)
            if turn:
                times[name].append(elapsed)
    return times


def measure(
    cases: dict[str, Case],
    lowest: dict[str, Call],
    turns: int,
    seconds: Callable[[Call], float],
) -> Any:
    """Rows of the table, and the times of the floors."""
    calls = dict(lowest)
    for name, case in cases.items():
        calls |= {name: case.ours}
        calls |= {f"{name}: {other}": call for other, call in case.others.items()}
    times = in_turns(calls, turns, seconds)

    def ratio(above: str, below: str, factor: float = 1.0) -> float:
        pairs = zip(times[above], times[below], strict=True)
        return statistics.median(factor * a / b for a, b in pairs)

    rows: list[list[str]] = []
    for name, case in cases.items():
        if isinstance(case.floor, str):
            fraction = ratio(case.floor, name)
        else:  # a copy reads and writes its bytes
            fraction = ratio("copy", name, case.floor / (2 * COPIED))
        against = [f"{other} {ratio(f'{name}: {other}', name):.2f}" for other in case.others]
        if case.floor == "product":
            against.append(f"{FASTER} {ratio(FASTER, name):.2f}")
        median = 1e3 * statistics.median(times[name])
        rows.append(
            [
                name,
                f"{median:.3g}",
                f"{1e3 * min(times[name]):.3g}",
                f"{fraction:.2f}",
                ", ".join(against),
            ]
        )
    return rows, {name: statistics.median(times[name]) for name in lowest}


def measured_steps(
    inputs: Inputs,
    k: int,
    precision: str,
    turns: int,
    seconds: Callable[[Call], float],
) -> tuple[list[list[str]], dict[str, float]]:
    """As `measure`, of whole steps; on a GPU one kind at a time, for their memory."""
    device = inputs.x.device.type
    lowest = floors(inputs.to(device, PRECISIONS[precision][0]))
    made = training_steps(inputs, k, precision)
    if device == "cpu":
        return measure({name: make() for name, make in made.items()}, lowest, turns, seconds)
    rows: list[list[str]] = []
    found: dict[str, float] = {}
    for name, make in made.items():
        more, found = measure({name: make()}, lowest, turns, seconds)
        rows += more
        release()
    return rows, found


def release() -> None:
    """Give back memory that nothing refers to."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def measured_on(kind: Kind, options: Options, precision: str) -> tuple[list[list[str]], list[str]]:
    """The rows of the table for one kind of activations, and notes."""
    device, k, turns = options.device, options.k, options.turns
    seconds = stopwatch(device, options.clock)
    dtype = PRECISIONS[precision][0]
    drawn, source = kernel_inputs(kind, options.rows, options.width, options.latents, k)
    inputs = drawn.to(device, torch.float32)
    (B, D), F = inputs.x.shape, options.latents
    share = verified_fraction(inputs.autoencoder(k), inputs.x)
    with torch.no_grad():
        cases = operators(inputs.to(device, dtype), k)
        for fraction in (0.01, 0.5):
            name = f"top_afa_select, {fraction:.0%} positive"
            cases[name] = top_afa(B, F, fraction, device, dtype)
        right = require_right(cases, precision)
        lowest = floors(inputs.to(device, dtype))
        rows, found = measure(cases, lowest, turns, seconds)
    cases.clear()
    lowest.clear()
    release()
    steps, beside_steps = measured_steps(inputs, k, precision, turns, seconds)
    notes = [
        f"{kind.capitalize()} rows: {source}; rows {B}, width {D}, latents {F}, k {k}. "
        f"Floors: PyTorch's product {1e3 * found['product']:.1f} ms (beside the steps "
        f"{1e3 * beside_steps['product']:.1f}), the encoder's product "
        f"{1e3 * found[FASTER]:.1f} ms, a copy "
        f"{2 * COPIED / found['copy'] / 1e9:.1f} GB/s read and written. {right}",
        planned(B, D, F, k, device, dtype),
    ]
    if share is not None:
        notes.append(f"Screening in bfloat16 verifies {share:.2%} of the {kind} rows.")
    return [[kind, *row] for row in rows + steps], notes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=PRECISIONS)
    parser.add_argument("--activations", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--latents", type=int, default=12288)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args(namespace=Options())
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as `sparsteer train` does
    if options.clock == "processor" and options.device != "cpu":
        parser.error("--clock processor times a CPU only")
    device = options.device
    precision = options.precision or ("float32" if device == "cpu" else "bfloat16")
    if device == "cpu" and precision == "tf32":
        parser.error("--precision tf32 is of GPUs; a CPU has float32 and bfloat16")
    allow_tf32(PRECISIONS[precision][1])
    sizes = max(1, options.rows // 8), options.width, options.latents, options.k
    trained = quality(*sizes, options.steps, device)
    release()
    clock = "events, cold L2" if device == "cuda" else f"the {options.clock} clock"
    rows: list[list[str]] = []
    notes = [
        f"Operators and steps in {precision}. {options.turns} turns, by {clock}. "
        f"Triton {dispatch.triton_version()}.",
        "Fraction of floor: time of the floor divided by the time, 1 at the floor; above 1 where "
        "the encoder's library beats PyTorch's product, or data stays in the cache. The last "
        "column: how many times as long another way takes; plain sparse is plain_sparse.py.",
    ]
    for kind in options.activations:
        found, more = measured_on(kind, options, precision)
        rows += found
        notes += more
        release()
    header = ["rows", "operator", "median ms", "least ms", "fraction of floor", "times as long"]
    write_table(f"kernels-{device}", header, rows, [*notes, *trained])


if __name__ == "__main__":
    main()

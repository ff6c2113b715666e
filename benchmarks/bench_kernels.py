"""Time every operator and whole training steps against eager PyTorch and floors of the same run.

    python benchmarks/bench_kernels.py [--device cpu|cuda] [--rows 4096] [--width 768]
        [--latents 12288] [--k 32] [--turns 9] [--steps 50] [--threads N]
        [--clock wall|processor]

Everything takes turns, so that a change of the machine's load meets all of it; a ratio is the
median of the ratios within a turn. Floors: PyTorch's product into a reused buffer; the encoder's
product by the library that the encoder takes; a copy of memory, for what is bound by bytes. The
same run trains some steps beside a plain dense PyTorch loop from the same start and stops if the
fraction of variance unexplained differs by more than 1 %. The table goes to benchmarks/results/.
The processor's clock, with one thread, is for a machine that is not quiet.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from bench_training_step import planted_rows
from dense_trainer import DenseTrainer, fvu
from results_file import write_table
from torch import Tensor

from sparsteer.kernels import dispatch, reference
from sparsteer.kernels.accelerators.onednn import Affine
from sparsteer.kernels.accelerators.screening import screened_topk
from sparsteer.kernels.decode import decode, decode_mse
from sparsteer.kernels.encode import encode_topk, pre_activation_blocks
from sparsteer.kernels.numerics import row_norms
from sparsteer.kernels.optimizer import adam_step_, normalize_rows_
from sparsteer.kernels.policy import backend_of, encode_plan, typical_plans
from sparsteer.kernels.sparse_products import autoencoder_gradients
from sparsteer.kernels.top_afa import top_afa_select
from sparsteer.kernels.topk import topk_select
from sparsteer.sae import SparseAutoencoder, TopKConfig
from sparsteer.training.config import TrainerConfig
from sparsteer.training.initialize import initialize_from_rows
from sparsteer.training.runtime.malloc import keep_freed_memory
from sparsteer.training.trainer import Trainer

Call = Callable[[], object]
FASTER = "encoder's product"
"""The floor by the library that the encoder takes, weights brought into its layout each time."""
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
L0 = 64
"""Latents that top-AFA keeps of a row, about."""


class Case(NamedTuple):
    """One measurement: ours, what it is compared with, its floor."""

    ours: Call
    others: dict[str, Call]
    floor: str | int
    """Name of a floor, or bytes that must move."""


def operators(B: int, D: int, F: int, k: int, device: str, dtype: torch.dtype) -> dict[str, Case]:
    """The operators at these sizes, on random inputs."""
    x, W_enc, W_dec, b_enc, b_dec = parameters(B, D, F, device, dtype)
    pre = reference.pre_activations(x, b_dec, W_enc, b_enc)
    codes = topk_select(pre, k)
    dense = codes.dense(F)
    gradient, first, second = (torch.randn(F, D, device=device) for _ in range(3))
    second.abs_()
    size = x.element_size()

    def adam() -> None:
        adam_step_(W_dec, gradient.to(dtype), first, second, step=10, lr=1e-3, unit_rows=True)

    def eager_adam() -> None:
        sizes = (10, 1e-3, (0.9, 0.999), 1e-8, True)
        reference.adam_step(W_dec, gradient.to(dtype), first, second, *sizes)

    def eager_mse() -> Tensor:
        residual = dense @ W_dec + b_dec - x
        return (residual @ W_dec.T).gather(-1, codes.indices) + residual.square().mean()

    return {
        "encode_topk": Case(
            lambda: encode_topk(x, b_dec, W_enc, b_enc, k),
            {"eager": lambda: torch.nn.functional.linear(x - b_dec, W_enc, b_enc).topk(k)}
            | unscreened(x, b_dec, W_enc, b_enc, k),
            "product",
        ),
        "topk_select": Case(
            lambda: topk_select(pre, k), {"eager": lambda: pre.topk(k)}, B * F * size
        ),
        "decode": Case(
            lambda: decode(codes, W_dec, b_dec),
            {"eager": lambda: dense @ W_dec + b_dec} | sparsify_decode(codes, W_dec),
            (B * k + B) * D * size,
        ),
        "decode_mse": Case(
            lambda: decode_mse(codes, W_dec, b_dec, x),
            {"eager": eager_mse},
            (B * k + 4 * B) * D * size,
        ),
        "autoencoder_gradients": Case(
            lambda: autoencoder_gradients(codes.indices, codes.values, codes.values, x, x, F),
            {"eager": lambda: (dense.T @ x, dense.T @ x, dense.sum(0))},
            2 * (B * k + F) * D * size,
        ),
        "adam_unit_rows": Case(adam, {"eager": eager_adam}, F * D * (3 * size + 16)),
    }


def parameters(B: int, D: int, F: int, device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """x, W_enc, W_dec, b_enc and b_dec."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    return random(B, D), random(F, D), normalize_rows_(random(F, D)), random(F) / 99, random(D) / 99


def unscreened(x: Tensor, b_dec: Tensor, W_enc: Tensor, b_enc: Tensor, k: int) -> dict[str, Call]:
    """The same codes by the product in float32, where `encode_topk` ranks in bfloat16."""
    B, D = x.shape
    if encode_plan(B, D, len(W_enc), k, backend_of(x)).path != "screened":
        return {}
    blocks = partial(pre_activation_blocks, x, b_dec, W_enc, b_enc)
    return {"float32 product": lambda: [topk_select(pre, k) for pre, _ in blocks()]}


def verified(B: int, D: int, F: int, k: int) -> list[str]:
    """A note on the fraction of planted rows that screening verifies, where it runs."""
    torch.default_generator.manual_seed(0)
    x = planted_rows(B, D)
    if encode_plan(B, D, F, k, backend_of(x)).path != "screened":
        return []
    sae = SparseAutoencoder(TopKConfig(D, F, k))
    initialize_from_rows(sae, x)
    rows = screened_topk(sae.scaled(x) - sae.b_dec, sae.W_enc, sae.b_enc, k).verified
    return [f"Screening in bfloat16 verifies {rows.float().mean():.2%} of planted rows."]


def planned(B: int, D: int, F: int, k: int, device: str, dtype: torch.dtype) -> str:
    """A note on the path that each operator takes, and why."""
    backend = backend_of(torch.empty(0, device=device, dtype=dtype))
    plans = typical_plans(B, D, F, k, backend)
    return "Paths: " + "; ".join(f"{n} {plan.path} ({plan.why})" for n, plan in plans.items()) + "."


def sparsify_decode(codes: Any, W_dec: Tensor) -> dict[str, Call]:
    """The decoder of eai-sparsify, where it is installed."""
    if find_spec("sparsify") is None:
        return {}
    theirs: Any = import_module("sparsify.utils").decoder_impl
    return {"sparsify": lambda: theirs(codes.indices, codes.values, W_dec.mT)}


def top_afa(B: int, F: int, positive: float, device: str, dtype: torch.dtype) -> Case:
    """Selection to a target that about L0 latents reach, with this fraction of positives."""
    cut = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(1 - positive))
    pre = (torch.randn(B, F) - cut).to(device, dtype)
    norms = (0.9 + 0.2 * torch.rand(F)).to(device, dtype)
    wanted = (L0 / 2 + L0 * torch.rand(B, device=device)).long().clamp(max=int(positive * F * 0.8))
    largest = (pre.relu() * norms).float().topk(int(wanted.max()), dim=-1).values
    target = largest.square().cumsum(-1).sqrt().gather(-1, wanted[:, None] - 1)[:, 0].to(dtype)

    def by_sort() -> Tensor:
        scaled = (pre.relu() * norms).sort(dim=-1, descending=True).values
        reached = scaled.square().cumsum(-1).sqrt()
        return (reached - target[:, None]).abs().argmin(-1) + 1

    others: dict[str, Call] = {
        "torch.topk": lambda: pre.topk(L0, sorted=False),
        "our topk": lambda: topk_select(pre, L0),
        "sort": by_sort,
    }
    size = pre.element_size()
    return Case(lambda: top_afa_select(pre, norms, target), others, B * F * size)


def training_steps(B: int, D: int, F: int, k: int, device: str) -> dict[str, Case]:
    """Whole updates in float32, without dead latents and with a tenth of them dead."""
    torch.default_generator.manual_seed(0)
    x = planted_rows(B, D).to(device)

    def step(dead: int) -> Call:
        sae = SparseAutoencoder(TopKConfig(D, F, k)).to(device)
        initialize_from_rows(sae, x)
        trainer = Trainer(sae, TrainerConfig(tokens=100_000_000, batch_size=B))

        def run() -> None:
            trainer.tokens_since_fired[:dead] = trainer.dead_after_tokens
            trainer.step(x)

        return run

    dense = DenseTrainer(SparseAutoencoder(TopKConfig(D, F, k)).to(device), lr=1e-4)
    return {
        "training step": Case(step(0), {"dense": lambda: dense.step(x)}, "product"),
        "training step, AuxK, a tenth dead": Case(step(F // 10), {}, "product"),
    }


def quality(B: int, D: int, F: int, k: int, steps: int, device: str) -> list[str]:
    """Train beside the dense loop with AuxK off and on; a note on each.

    Raises:
        SystemExit: the fractions of variance unexplained differ by more than 1 %, a decoder row is
            not of norm 1, or the counts of dead latents differ by more than 1 % of the latents.
    """
    notes: list[str] = []
    for auxk in (0.0, 1 / 32):
        torch.default_generator.manual_seed(1)
        rows = planted_rows(B * 8, D).to(device)
        sae = SparseAutoencoder(TopKConfig(D, F, k)).to(device)
        initialize_from_rows(sae, rows)
        sae.b_enc.data[: F // 10] = -1  # silent from the start, so that AuxK has work
        config = TrainerConfig(
            tokens=steps * B, batch_size=B, lr=1e-3, auxk_coefficient=auxk, dead_after_tokens=4 * B
        )
        trainer = Trainer(sae, config)
        dense = DenseTrainer(sae, lr=1e-3, auxk=auxk, k_aux=trainer.k_aux, dead_after=4 * B)
        for number in range(steps):
            batch = rows[number % 8 * B : (number % 8 + 1) * B]
            trainer.step(batch)
            dense.step(sae.scaled(batch), trainer.learning_rate(number))
        found = fvu(sae.scaled(rows), sae.b_dec, sae.W_enc, sae.b_enc, sae.W_dec, k)
        wanted = fvu(sae.scaled(rows), *dense.ordered(), k)
        off_unit = float((row_norms(sae.W_dec.detach()) - 1).abs().max())
        dead = len(trainer.dead_latents()), int((dense.since_fired >= 4 * B).sum())
        note = (
            f"After {steps} steps of {B} rows with AuxK {'on' if auxk else 'off'}: fraction of "
            f"variance unexplained {found:.5f}, of the dense loop {wanted:.5f}; dead latents "
            f"{dead[0]} and {dead[1]}; decoder norms within {off_unit:.0e} of 1."
        )
        if abs(found / wanted - 1) > 0.01 or off_unit > 1e-5 or abs(dead[0] - dead[1]) > F / 100:
            raise SystemExit(f"the training step is wrong. {note}")
        notes.append(note)
    return notes


def stopwatch(device: str, clock: str) -> Callable[[Call], float]:
    """Seconds of a call by the clock, until the device has done it."""
    now = CLOCKS[clock]

    def seconds(call: Call) -> float:
        start = now()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
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


def floors(B: int, D: int, F: int, device: str, dtype: torch.dtype) -> dict[str, Call]:
    """The products and a copy."""
    x, W_enc, _, b_enc, _ = parameters(B, D, F, device, dtype)
    out = torch.empty(B, F, device=device, dtype=dtype)
    block = torch.empty(1 << 27, dtype=torch.uint8, device=device)
    copy = torch.empty_like(block)

    def encoder_product() -> None:
        affine = Affine(W_enc, b_enc, B)
        size = affine.plan.rows_at_once
        for start in range(0, B, size):
            affine(x[start : start + size])

    return {
        "product": lambda: torch.mm(x, W_enc.T, out=out),
        FASTER: encoder_product,
        "copy": lambda: copy.copy_(block),
    }


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
            fraction = ratio("copy", name, case.floor / (2 * (1 << 27)))
        against = [f"{other} {ratio(f'{name}: {other}', name):.2f}" for other in case.others]
        if case.floor == "product":
            against.append(f"{FASTER} {ratio(FASTER, name):.2f}")
        median = 1e3 * statistics.median(times[name])
        rows.append(
            [
                name,
                f"{median:.1f}",
                f"{1e3 * min(times[name]):.1f}",
                f"{fraction:.2f}",
                ", ".join(against),
            ]
        )
    return rows, {name: statistics.median(times[name]) for name in lowest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--latents", type=int, default=12288)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as `sparsteer train` does
    if options.clock == "processor" and options.device != "cpu":
        parser.error("--clock processor times a CPU only")
    seconds = stopwatch(options.device, options.clock)
    device, sizes = options.device, (options.rows, options.width, options.latents)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    B, D, F = sizes
    notes = quality(max(1, B // 8), D, F, options.k, options.steps, device)
    with torch.no_grad():
        notes += verified(B, D, F, options.k) if device == "cpu" else []
        cases = operators(*sizes, options.k, device, dtype)
        for fraction in (0.01, 0.5):
            cases[f"top_afa_select, {fraction:.0%} positive"] = top_afa(
                B, F, fraction, device, dtype
            )
        lowest = floors(*sizes, device, dtype)
        rows, found = measure(cases, lowest, options.turns, seconds)
    cases.clear()
    lowest = floors(*sizes, device, torch.float32)
    steps, in_float32 = measure(
        training_steps(*sizes, options.k, device), lowest, options.turns, seconds
    )
    notes = [
        f"Sizes: rows {B}, width {D}, latents {F}, k {options.k}; operators in {dtype}, steps in "
        f"torch.float32. {options.turns} turns by the {options.clock} clock. "
        f"Triton {dispatch.triton_version()}.",
        f"Floors: PyTorch's product {1e3 * found['product']:.1f} ms (float32: "
        f"{1e3 * in_float32['product']:.1f}), the encoder's product "
        f"{1e3 * found[FASTER]:.1f} ms, a copy "
        f"{2 * (1 << 27) / found['copy'] / 1e9:.1f} GB/s read and written.",
        "Share of floor: time of the floor divided by the time, 1 at the floor; above 1 where the "
        "encoder's library beats PyTorch's product, or data stays in the cache. The last column: "
        "how many times as long another way takes.",
        planned(*sizes, options.k, device, dtype),
        *notes,
    ]
    header = ["operator", "median ms", "least ms", "fraction of floor", "times as long"]
    write_table(f"kernels-{device}", header, rows + steps, notes)


if __name__ == "__main__":
    main()

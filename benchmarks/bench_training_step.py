"""One training step on a CPU against a plain dense PyTorch step and the encoder's product alone.

    python benchmarks/bench_training_step.py [--rounds 10] [--threads 2] [--also compiled bfloat16]

The competitors take one step each in turn, so that noise of the machine meets all of them; medians
and the ratio to the encoder's matrix product, which no exact step can avoid, are reported.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from dense_trainer import DenseTrainer
from results_file import write_table
from torch import Tensor

from sparsteer.sae import SparseAutoencoder, TopAFAConfig, TopKConfig
from sparsteer.training.initialize import initialize_from_rows
from sparsteer.training.runtime.malloc import keep_freed_memory
from sparsteer.training.trainer import Trainer
from sparsteer.training.trainer_config import TrainerConfig

SHAPES = [(576, 4608, 4096, 32), (768, 12288, 4096, 32)]
"""Width, latents, rows, k."""
_ROWS_AT_ONCE = 16_384  # made up, so that their strengths fit in memory


def planted_rows(n_rows: int, width: int, device: str = "cpu") -> Tensor:
    """Rows made of few of 4 * width directions: selection meets realistic pre-activations."""
    directions = torch.randn(4 * width, width, device=device)
    directions = torch.nn.functional.normalize(directions, dim=-1)
    rows = torch.empty(n_rows, width, device=device)
    for start in range(0, n_rows, _ROWS_AT_ONCE):
        block = rows[start : start + _ROWS_AT_ONCE]
        chosen = torch.rand(len(block), 4 * width, device=device) < 0.02
        strengths = chosen * torch.rand(len(block), 4 * width, device=device)
        block.copy_(strengths @ directions)
        block.add_(torch.randn(len(block), width, device=device), alpha=0.02)
    return rows


def sparsteer_step(
    sae: SparseAutoencoder, x: Tensor, *, compiled: bool = False, **options: Any
) -> Callable[[], object]:
    trainer = Trainer(sae, TrainerConfig(tokens=100_000_000, **options))
    if compiled:
        trainer.loss = torch.compile(trainer.loss)  # pyright: ignore[reportUnknownMemberType] - untyped
    return lambda: trainer.step(x)


ALSO: dict[str, dict[str, Any]] = {
    "compiled": {"compiled": True},
    "bfloat16": {"precision": "bfloat16"},
}
"""Ways to make the step of topk that are of no use on a CPU, which this shows."""


def encoder_product(x: Tensor, n_latents: int) -> Callable[[], object]:
    weights = torch.randn(n_latents, x.shape[1])
    out = torch.empty(len(x), n_latents)
    return lambda: torch.mm(x, weights.T, out=out)


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--also", nargs="*", choices=list(ALSO), default=[], help="ways of topk")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as `sparsteer train` does
    rows: list[list[str]] = []
    for width, n_latents, n_rows, k in SHAPES:
        torch.default_generator.manual_seed(0)
        x = planted_rows(n_rows, width)
        topk = SparseAutoencoder(TopKConfig(width, n_latents, k))
        top_afa = SparseAutoencoder(TopAFAConfig(width, n_latents))
        for sae in (topk, top_afa):
            initialize_from_rows(sae, x)
        dense = DenseTrainer(topk, lr=3e-4)
        competitors = {
            "encoder product alone": encoder_product(x, n_latents),
            "sparsteer topk": sparsteer_step(topk, x),
            "sparsteer top_afa": sparsteer_step(top_afa, x),
            "dense topk": lambda x=x, dense=dense: dense.step(x),
        }
        for name in arguments.also:
            own = SparseAutoencoder(topk.config)
            own.load_state_dict(topk.state_dict())
            competitors[f"sparsteer topk, {name}"] = sparsteer_step(own, x, **ALSO[name])
        times: dict[str, list[float]] = {name: [] for name in competitors}
        for call in competitors.values():
            call()
        for _ in range(arguments.rounds):
            for name, call in competitors.items():
                times[name].append(seconds(call))
        floor = statistics.median(times["encoder product alone"])
        for name, taken in times.items():
            median = statistics.median(taken)
            rows.append(
                [
                    f"D={width} F={n_latents} B={n_rows} K={k}",
                    name,
                    f"{1e3 * median:.0f}",
                    f"{1e3 * min(taken):.0f}",
                    f"{n_rows / median:,.0f}",
                    f"{median / floor:.2f}",
                ]
            )
    header = ["shape", "step", "median ms", "min ms", "rows/s", "x encoder product"]
    notes = [
        f"{arguments.rounds} rounds, interleaved. top_afa starts at few active latents and grows "
        "towards D during a run, where its step costs more.",
    ]
    write_table("training-step", header, rows, notes)


if __name__ == "__main__":
    main()

"""Kernels launched, waits and bytes of a training step on a GPU, counted without one.

    python benchmarks/step_counts.py [--json] [--kinds topk] [--detail] [--measured]
        [--rows 8192] [--width 768] [--latents 12288] [--k 32]

For every kind of step: each activation and nested topk, in float32 and bfloat16, without dead
latents and with a tenth of them dead, which AuxK revives. `step_counting.py` says what counts. All
figures are computed from the code and its shapes; none is a measurement.
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
from step_counting import Count, Guesses, on_meta

from sparsteer.sae import (
    BatchTopKConfig,
    JumpReLUConfig,
    SAEConfig,
    SparseAutoencoder,
    TopAFAConfig,
    TopKConfig,
)
from sparsteer.training.trainer import Trainer
from sparsteer.training.trainer_config import TrainerConfig

ACTIVATIONS: dict[str, Callable[[int, int, int], SAEConfig]] = {
    "topk": lambda D, F, k: TopKConfig(D, F, k),
    "nested topk": lambda D, F, k: TopKConfig(D, F, k, prefixes=(F // 8, F // 2)),
    "batch_topk": lambda D, F, k: BatchTopKConfig(D, F, k),
    "jumprelu": lambda D, F, k: JumpReLUConfig(D, F),
    "top_afa": lambda D, F, k: TopAFAConfig(D, F),
}
PRECISIONS = ("float32", "bfloat16")
DEAD = {"none dead": 0.0, "a tenth dead": 0.1}


def kinds() -> list[str]:
    """Every kind of step, by its name."""
    return [f"{a}, {p}, {dead}" for a in ACTIVATIONS for p in PRECISIONS for dead in DEAD]


def count_step(
    kind: str,
    *,
    rows: int = 8192,
    width: int = 768,
    latents: int = 12288,
    k: int = 32,
    measured: bool = False,
) -> Count:
    """What a step of the kind asks of a GPU, once training runs: the third step, which takes the
    width of its codes for granted. With `measured` it is one that is logged, and asks.

    Raises KeyError for an unknown kind.
    """
    activation, precision, dead = kind.split(", ")
    n_dead = round(DEAD[dead] * latents)
    config = TrainerConfig(tokens=1000 * rows, batch_size=rows, precision=precision)  # pyright: ignore[reportArgumentType] - one of the two
    with torch.device("meta"):
        sae = SparseAutoencoder(ACTIVATIONS[activation](width, latents, k))
    with on_meta(Guesses(rows, latents, k, n_dead)) as restart:
        trainer = Trainer(sae, config)
        x = torch.empty(rows, width, device="meta")
        for _ in range(2):
            trainer.step(x, measured=measured)
        restart()
        trainer.step(x, measured=measured)
        return restart()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--kinds", default="", help="only kinds whose name holds this")
    parser.add_argument("--detail", action="store_true", help="launches and waits by operator")
    for name, default in [("rows", 8192), ("width", 768), ("latents", 12288), ("k", 32)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--measured", action="store_true", help="a step that is logged")
    arguments = parser.parse_args()
    sizes = {name: getattr(arguments, name) for name in ("rows", "width", "latents", "k")}
    counts = {
        kind: count_step(kind, **sizes, measured=arguments.measured)
        for kind in kinds()
        if arguments.kinds in kind
    }
    if arguments.json:
        print(
            json.dumps({kind: _as_json(count, arguments.detail) for kind, count in counts.items()})
        )
        return
    print(f"(B, D, F, k) = {tuple(sizes.values())}, computed\n")
    print("| step | launches | waits | bytes |\n| --- | ---: | ---: | ---: |")
    for kind, count in counts.items():
        print(f"| {kind} | {count.launches} | {count.waits} | {count.bytes / 1e9:.2f} GB |")
        if arguments.detail:
            print(f"    launches: {dict(count.by_kernel.most_common())}")
            print(f"    waits: {dict(count.by_wait.most_common())}")


def _as_json(count: Count, detail: bool) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "launches": count.launches,
        "waits": count.waits,
        "bytes": count.bytes,
    }
    if detail:
        figures |= {"by_kernel": dict(count.by_kernel), "by_wait": dict(count.by_wait)}
    return figures


if __name__ == "__main__":
    main()

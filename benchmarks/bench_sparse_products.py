"""Sparse products against dense ones in blocks of rows, by latents for each slot, on this machine.

    python benchmarks/bench_sparse_products.py [--rounds 5] [--threads 2]

Decode, weight gradient and gathered dots are forced onto each path in turn; a ratio above 1 means
that the sparse path is faster. `kernels/policy.py` takes the dense path where it crosses 1.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from unittest.mock import patch

import torch
from results_file import write_table
from torch import Tensor

from sparsteer.kernels import policy
from sparsteer.kernels.decode import weighted_rows
from sparsteer.kernels.gather_dot import gathered_dots
from sparsteer.kernels.sparse_products import weight_gradient

SHAPES = [(576, 4608, 4096), (768, 12288, 4096)]
"""Width, latents, rows."""
LATENTS_PER_SLOT = (144, 48, 24, 12, 6, 4, 3)


def distinct_indices(n_rows: int, n_slots: int, n_latents: int) -> Tensor:
    """Latents of each row at random, none twice."""
    blocks = [
        torch.rand(min(512, n_rows - start), n_latents).topk(n_slots, dim=-1).indices
        for start in range(0, n_rows, 512)
    ]
    return torch.cat(blocks)


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def forced(call: Callable[[], Tensor], *, dense: bool) -> Callable[[], Tensor]:
    """The call on one path: a threshold of 0 latents for each slot is never undercut."""
    least = 1 << 40 if dense else 0

    def run() -> Tensor:
        with patch.multiple(
            policy,
            _DENSE_BELOW_LATENTS_PER_SLOT=least,
            _DENSE_BELOW_LATENTS_PER_SLOT_IN_ONEDNN=least,
        ):
            return call()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table: list[list[str]] = []
    for width, n_latents, n_rows in SHAPES:
        torch.default_generator.manual_seed(0)
        rows, weights = torch.randn(n_rows, width), torch.randn(n_latents, width)
        for per_slot in LATENTS_PER_SLOT:
            n_slots = n_latents // per_slot
            indices = distinct_indices(n_rows, n_slots, n_latents)
            values = torch.rand(n_rows, n_slots)
            calls: dict[str, Callable[[], Tensor]] = {
                "decode": lambda i=indices, v=values, w=weights: weighted_rows(i, v, w),
                "weight gradient": lambda i=indices, v=values, r=rows, f=n_latents: weight_gradient(
                    i, v, r, f
                ),
                "gathered dots": lambda i=indices, r=rows, w=weights: gathered_dots(i, r, w),
            }
            ratios: list[float] = []
            cells = [f"D={width} F={n_latents} B={n_rows}", str(per_slot), str(n_slots)]
            for call in calls.values():
                sparse, dense = forced(call, dense=False), forced(call, dense=True)
                sparse()
                dense()
                pairs = [(seconds(sparse), seconds(dense)) for _ in range(arguments.rounds)]
                median = [1e3 * statistics.median(side) for side in zip(*pairs, strict=True)]
                ratios.append(median[1] / median[0])
                cells.append(f"{median[0]:.0f} / {median[1]:.0f}")
            table.append([*cells, f"{statistics.geometric_mean(ratios):.2f}"])
    header = ["shape", "latents per slot", "slots", "decode ms", "weight gradient ms"]
    header += ["gathered dots ms", "dense / sparse"]
    notes = [f"Each cell: sparse / dense, medians of {arguments.rounds} interleaved rounds."]
    write_table("sparse-products", header, table, notes)


if __name__ == "__main__":
    main()

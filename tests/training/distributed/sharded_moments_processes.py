"""What each of several processes does for test_sharded_moments.py.

    torchrun --nproc-per-node N -m tests.training.distributed.sharded_moments_processes CACHE OUT

Writes OUT/rank-R.json: for each piece what came of it.
"""

import sys
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as torch_dist

from sparsteer.kernels.numerics import row_norms
from sparsteer.sae.common.files import write_json
from sparsteer.training import optimizer
from sparsteer.training.distributed import sharded_moments
from sparsteer.training.distributed.data_parallel import DataParallel
from sparsteer.training.distributed.joining import init_distributed
from sparsteer.training.distributed.sharded_moments import ShardedMoments
from sparsteer.training.train import train
from sparsteer.training.trainer import Trainer

from ..training_cases import config_of, run_case
from .two_processes import outcome, stopped_in_a_step

BATCH = 126
"""Rows that two and three processes can share."""
_COLLECTIVES = ("all_reduce", "all_gather", "broadcast", "send", "recv", "gather")
_OF_OBJECTS = ("all_gather_object", "broadcast_object_list")


def main(cache: Path, out: Path) -> None:
    with init_distributed() as dist:
        results: dict[str, Any] = {}
        for name in ("topk", "batch_topk", "jumprelu"):
            results[name] = compared(name, reduce_scatter=False)
        results["reduce-scatter"] = compared("topk", reduce_scatter=True)
        results["without clipping"] = compared("topk", reduce_scatter=True, clip_norm=0.0)
        settings: dict[str, Any] = {"batch_size": BATCH, "tokens": 40 * BATCH}
        train(config_of(cache, out / "whole", **settings))
        settings["shard_optimizer"] = True
        with rows_of_moments() as results["rows made"]:
            train(config_of(cache, out / "parts", **settings))
        for name in ("resumed", "left"):
            with stopped_in_a_step(dist) as stop:
                parts = config_of(cache, out / name, **settings)
                results[name] = outcome(partial(train, parts, stop=stop))
        with rows_of_moments() as results["rows made when resumed"]:
            train(config_of(cache, out / "resumed", **settings))
        results |= collectives_of_training(cache, out)
        write_json(out / f"rank-{dist.rank}.json", results)


def compared(name: str, *, reduce_scatter: bool, **changes: Any) -> dict[str, Any]:
    """Whether training with parts of the moments gives what training with all of them gives."""
    options: Any = {"batch_size": BATCH} | changes
    curve, whole = run_case(name, DataParallel(), **options)
    dist = ShardedMoments(reduce_scatter=reduce_scatter)
    own_curve, parts = run_case(name, dist, **options)
    gathered = dist.gather_moments(parts.sae, parts.optimizer.state())
    weights, own_weights = whole.sae.state_dict(), parts.sae.state_dict()
    moments = whole.optimizer.state()
    return {
        "same curve": curve == own_curve,
        "furthest": max(
            abs(ours[key] - theirs[key])
            for ours, theirs in zip(own_curve, curve, strict=True)
            for key in ("loss", "auxk", "gradient_norm")
        ),
        "clipped": any(line["gradient_norm"] > whole.config.clip_norm for line in curve),
        "auxk": any(line["auxk"] > 0 for line in curve),
        "same weights": all(torch.equal(weights[key], own_weights[key]) for key in weights),
        "same moments": all(torch.equal(moments[key], gathered[key]) for key in gathered),
        "gathered": sorted(gathered),
        "own rows": len(parts.optimizer.first["W_enc"]),
        "unit": float((row_norms(parts.sae.W_dec.detach()) - 1).abs().max()),
    }


@contextmanager
def rows_of_moments() -> Generator[list[int]]:
    """The numbers of rows of all matrices of moments that are made."""
    found: list[int] = []
    make: Callable[[torch.Tensor], torch.Tensor] = getattr(optimizer, "_moment")  # noqa: B009

    def noting(parameter: torch.Tensor) -> torch.Tensor:
        if parameter.ndim > 1:
            found.append(len(parameter))
        return make(parameter)

    with patch.object(optimizer, "_moment", noting):
        yield found


def collectives_of_training(cache: Path, out: Path) -> dict[str, dict[str, int]]:
    """Collectives from one step to the next, where nothing is logged, measured or saved."""
    found: dict[str, dict[str, int]] = {}
    never = 10**6
    for name, dead_after, few_rows, parts in (
        ("rows", never, True, False),
        ("matrices", never, False, False),
        ("matrices and dead latents", 200, False, False),
        ("matrices and parts", never, False, True),
    ):
        config = config_of(
            cache,
            out / "counted" / name,
            batch_size=BATCH,
            tokens=40 * BATCH,
            log_every=40,
            eval_every=never,
            checkpoint_every=never,
            dead_after_tokens=dead_after,
            shard_optimizer=parts,
        )

        def chosen(dist: DataParallel, touched_F: torch.Tensor, few: bool = few_rows) -> bool:
            return few

        with patch.object(DataParallel, "_few_rows", chosen), counted() as iterations:
            train(config)
        found[name] = max(iterations[1:], key=lambda counts: sum(counts.values()))
    return found


@contextmanager
def counted() -> Generator[list[dict[str, int]]]:
    """The numbers of collectives by name from the start of each step to that of the next."""
    counts: Counter[str] = Counter()
    iterations: list[dict[str, int]] = []
    inside = 0  # those of objects consist of others

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **options: Any) -> Any:
            nonlocal inside
            counts[name] += not inside
            inside += 1
            try:
                return function(*words, **options)
            finally:
                inside -= 1

        return call

    step = Trainer.step

    def stepped(self: Trainer, *rows: torch.Tensor, **options: Any) -> Any:
        if counts:
            iterations.append({name: number for name, number in counts.items() if number})
        counts.clear()
        return step(self, *rows, **options)

    with ExitStack() as patched:
        patched.enter_context(patch.object(Trainer, "step", stepped))
        for module, names in (
            (torch_dist, (*_COLLECTIVES, *_OF_OBJECTS)),
            (sharded_moments, ("_all_gather", "_reduce_scatter")),
        ):
            for name in names:
                wrapped = counting(name.strip("_"), getattr(module, name))
                patched.enter_context(patch.object(module, name, wrapped))
        yield iterations


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))

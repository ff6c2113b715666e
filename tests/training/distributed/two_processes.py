"""What each of two processes does for test_data_parallel.py, one piece after the other.

    torchrun --nproc-per-node 2 -m tests.training.distributed.two_processes CACHE OUT

Writes OUT/rank-R.json: for each piece what came of it.
"""

import errno
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from sparsteer.sae.common.files import write_json
from sparsteer.sae.common.tensor_files import save_tensors
from sparsteer.training import checkpoint
from sparsteer.training.checkpoint import trainer_state
from sparsteer.training.data.cache.reader import ActivationCache
from sparsteer.training.distributed.collectives import Distributed
from sparsteer.training.distributed.data_parallel import DataParallel
from sparsteer.training.distributed.joining import init_distributed
from sparsteer.training.distributed.sharded import Sharded
from sparsteer.training.runtime.stopping import StopRequest
from sparsteer.training.train import train, train_grid
from sparsteer.training.trainer import Trainer

from ..training_cases import CASES, config_of, planted_rows, run_case


def main(cache: Path, out: Path) -> None:
    with init_distributed() as dist:
        results: dict[str, Any] = {"size": dist.world_size}
        for name in CASES:
            curve, trainer = run_case(name, DataParallel())
            results[name] = curve
            save_tensors(out / f"{name}-{dist.rank}.safetensors", trainer_state(trainer))
        curve, part = run_case("topk", Sharded(2, torch.device("cpu")), averages=False)
        results["sharded"] = curve
        save_tensors(out / f"sharded-{dist.rank}.safetensors", trainer_state(part))
        options: Any = {"averages": False, "precision": "bfloat16"}
        results["sharded bfloat16"], _ = run_case(
            "topk", Sharded(2, torch.device("cpu")), **options
        )
        for name in ("sharded", "sharded left"):
            sharded = config_of(cache, out / name, "topk", shards=2)
            with stopped_in_a_step(dist) if "left" in name else nullcontext() as stop:
                results[f"train {name}"] = outcome(
                    lambda config=sharded, stop=stop: train(config, stop=stop)
                )
        results["not finite"] = outcome(not_finite)
        results["row gradients"] = row_gradients()
        for activation in ("topk", "batch_topk"):
            results[f"train {activation}"] = train(config_of(cache, out / activation, activation))
        stopped = config_of(cache, out / "stopped", "batch_topk")
        with stopped_in_a_step(dist) as stop:
            results["stopped"] = outcome(lambda: train(stopped, stop=stop))
        results["resumed"] = outcome(lambda: train(stopped))
        with stopped_in_a_step(dist) as stop:
            left = config_of(cache, out / "left", "batch_topk")
            results["left"] = outcome(lambda: train(left, stop=stop))
        grid = [config_of(cache, out / "grid" / name, name) for name in ("topk", "top_afa")]
        results["grid"] = outcome(lambda: train_grid(grid))
        results["again"] = outcome(lambda: train_grid(grid))
        with patch.object(ActivationCache, "batches", cut_short(dist)):
            lost = config_of(cache, out / "lost", "topk")
            results["changed shard"] = outcome(lambda: train(lost))
        with patch.object(checkpoint, "save_tensors", disk_full):
            full = config_of(cache, out / "full", "topk")
            results["full disk"] = outcome(lambda: train(full))
        results["uneven"] = outcome(lambda: train(config_of(cache, out / "uneven", batch_size=127)))
        few = config_of(cache, out / "few", shards=3)
        results["three shards"] = outcome(lambda: train(few))
        results["another"] = outcome(lambda: train(config_of(cache, out / "topk", lr=1e-3)))
        write_json(out / f"rank-{dist.rank}.json", results)


def outcome(work: Callable[[], Any]) -> Any:
    """What the work gives, or how it ends."""
    try:
        return work()
    except (Exception, KeyboardInterrupt) as error:
        return f"{type(error).__name__}: {error}"


@contextmanager
def stopped_in_a_step(dist: Distributed) -> Generator[StopRequest]:
    """A request that is set in the middle of a step, of the second process alone."""
    step, stop = Trainer.step, StopRequest()

    def stepped(self: Trainer, *rows: torch.Tensor, **options: Any) -> Any:
        if self.steps_done == 13 and dist.rank == 1:
            stop.set()
        return step(self, *rows, **options)

    with patch.object(Trainer, "step", stepped):
        yield stop


def cut_short(dist: Distributed) -> Callable[..., Iterator[torch.Tensor]]:
    """Batches that end with an error in the second process."""
    batches = ActivationCache.batches

    def cut(self: ActivationCache, *words: Any, **options: Any) -> Any:
        for number, x in enumerate(batches(self, *words, **options)):
            if number == 3 and dist.rank == 1:
                raise OSError(errno.EIO, "Input/output error")
            yield x

    return cut


def disk_full(*words: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def not_finite() -> None:
    x = planted_rows(128)
    x[70:72, 3] = torch.nan
    run_case("topk", DataParallel(), rows=x)


def row_gradients() -> dict[str, bool]:
    """Whether sending only the rows that have a gradient gives what sending all of them gives."""
    dist = DataParallel()
    same: dict[str, bool] = {}
    for share in (0.0, 0.1, 0.9):
        generator = torch.Generator().manual_seed(dist.rank)
        module = torch.nn.Linear(5, 40)
        factors = torch.randn(40, 5, generator=generator)
        factors[torch.rand(40, generator=generator) >= share / 2] = 0
        gradients: list[torch.Tensor] = []
        for touched in (torch.ones(40) > 0, torch.zeros(40) > 0):
            module.zero_grad()
            loss = (module.weight * factors).sum() + module.bias.sum()
            dist.backward(loss, module, touched)
            assert module.weight.grad is not None
            gradients.append(module.weight.grad.clone())
        same[str(share)] = torch.equal(*gradients)
    return same


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]))

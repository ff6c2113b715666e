"""Spreading what rank 0 has at first: the latents in shards, or Adam's moments by rows."""

import dataclasses
from collections.abc import Sequence

import torch

from .checkpoint import trainer_state
from .distributed.collectives import Distributed
from .distributed.data_parallel import DataParallel
from .distributed.sharded import Sharded, shard_of, shard_of_state
from .distributed.sharded_moments import ShardedMoments
from .loop import TrainingRun
from .trainer import Trainer
from .trainer_config import Precision, TrainerConfig


def sharing_moments(config: TrainerConfig, dist: Distributed, device: torch.device) -> Distributed:
    """The ranks as trainers take them: where the configuration spreads Adam's moments, a trainer
    makes those of its rank's rows alone.

    Args:
        dist: the ranks as they were joined.
        device: where this rank trains.
    """
    if not (config.shard_optimizer and isinstance(dist, DataParallel)):
        return dist
    return ShardedMoments(reduce_scatter=device.type == "cuda", host_group=dist.host_group)


def spread(runs: Sequence[TrainingRun], dist: Distributed, device: torch.device) -> None:
    """Give every rank the state of rank 0, or its part of it if the configuration says so.

    Args:
        runs: of one grid; the trainers of latents in shards are replaced.
        dist: the ranks; every one calls this.
        device: where this rank trains.
    """
    cut = None
    if runs and isinstance(dist, DataParallel) and runs[0].config.trainer.shards > 1:
        cut = Sharded(runs[0].config.trainer.shards, device, host_group=dist.host_group)
    for run in runs:
        trainer, state = run.trainer, trainer_state(run.trainer)
        for name in trainer.optimizer.partial():
            del state[f"adam.{name}"]
        dist.broadcast(state.values())
        trainer.steps_done = dist.broadcast_object(trainer.steps_done)
        if trainer.steps_done:  # else all moments are zero, as they were made
            trainer.dist.scatter_moments(trainer.sae, trainer.optimizer.state(), run.moments)
        run.moments = {}
        if cut is not None:
            run.full_trainer = trainer if cut.is_main else None
            run.trainer = with_sharded_latents(trainer, cut, device, run.precision)


def with_sharded_latents(
    full: Trainer, dist: Sharded, device: torch.device, precision: Precision
) -> Trainer:
    """A trainer of this rank's latents alone, on the device, in the precision."""
    config = dataclasses.replace(full.config, precision=precision)
    part = Trainer(shard_of(full.sae, dist).to(device), config, dist)
    part.steps_done = full.steps_done
    shard = shard_of_state(trainer_state(full), dist)
    for name, tensor in trainer_state(part).items():
        tensor.copy_(shard[name])
    return part

"""Spreading what every process has at first: the latents in shards, or Adam's moments by rows."""

import dataclasses
from collections.abc import Sequence

import torch

from .checkpoint import trainer_state
from .config import Precision
from .distributed.collectives import Distributed
from .distributed.data_parallel import DataParallel
from .distributed.sharded import Sharded, shard_of, shard_of_state
from .distributed.sharded_moments import ShardedMoments
from .loop import TrainingRun
from .trainer import Trainer


def spread(runs: Sequence[TrainingRun], dist: Distributed, device: torch.device) -> None:
    """Give every rank the state of rank 0, then its part of it alone if the configuration says so.

    Args:
        runs: of one grid; their trainers are replaced where they are cut.
        dist: the ranks; every one calls this.
        device: where this rank trains.
    """
    cut = None
    if runs and isinstance(dist, DataParallel):
        config = runs[0].config.trainer
        if config.shards > 1:
            cut = Sharded(config.shards, device, host_group=dist.host_group)
        elif config.shard_optimizer:
            on_gpus = device.type == "cuda"
            cut = ShardedMoments(reduce_scatter=on_gpus, host_group=dist.host_group)
    for run in runs:
        dist.broadcast(trainer_state(run.trainer).values())
        run.trainer.steps_done = dist.broadcast_object(run.trainer.steps_done)
        if isinstance(cut, Sharded):
            run.full_trainer = run.trainer if cut.is_main else None
            run.trainer = with_sharded_latents(run.trainer, cut, device, run.precision)
        elif cut is not None:
            run.trainer = with_sharded_moments(run.trainer, cut)


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


def with_sharded_moments(whole: Trainer, dist: ShardedMoments) -> Trainer:
    """A trainer of the same autoencoder that has the moments of this rank's rows alone."""
    part = Trainer(whole.sae, whole.config, dist)
    part.steps_done = whole.steps_done
    state = trainer_state(whole)
    for name, tensor in trainer_state(part).items():
        rows = None
        if name.startswith("adam."):
            _, _, parameter = name.split(".", 2)
            rows = dist.moment_rows(whole.sae.get_parameter(parameter))
        tensor.copy_(state[name] if rows is None else state[name][rows])
    return part

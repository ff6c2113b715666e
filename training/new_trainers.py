"""Trainers before the first step: new ones, initialized or resumed."""

import dataclasses
from collections.abc import Callable, Sequence

import torch

from ..sae.autoencoder import SparseAutoencoder
from ..sae.config import Origin
from ..sae.language_model.names import lasting_name
from .checkpoint import remove_older, restore_newest
from .config import TrainConfig
from .data.activation_source import ActivationSource
from .data.cache.rounding import rounding_caution
from .distributed.collectives import Distributed
from .finetuning import (
    Start,
    copy_weights,
    into_training_units,
    say_start,
    start_cautions,
)
from .graph_trainer import GraphTrainer
from .loop import TrainingRun
from .trainer import Trainer
from .trainer_config import Precision

_SAMPLE_ROWS = 16_384

Say = Callable[[str], None]


def new_trainer(
    config: TrainConfig,
    precision: Precision,
    data: ActivationSource,
    site: str,
    device: torch.device,
    dist: Distributed,
    start: Start | None,
) -> Trainer:
    """The trainer of an autoencoder, all latents of it, that has seen no data: a random one, or
    the one that the run starts with.

    One that is going to be sharded lies on the CPU and takes no step, so that no precision suits it
    but the CPU's.
    """
    origin = Origin(
        model=data.model,
        site=site,
        weights_hash=data.weights_hash,
        target_site=config.target_site,
        model_dtype=data.model_dtype,
        dataset=lasting_name(data.dataset),
        context_length=data.context_length,
        prepends_bos=data.prepends_bos,
    )
    sae_config = config.sae_config(data.d_model)
    sae = SparseAutoencoder(sae_config, seed=config.trainer.seed, origin=origin)
    if start is not None:
        copy_weights(start.sae, sae)
    sae = sae.to(device)
    if config.trainer.shards > 1:
        precision = "float32"
    kind = GraphTrainer if config.trainer.cuda_graph else Trainer
    return kind(sae, dataclasses.replace(config.trainer, precision=precision), dist)


def resume_or_initialize(
    runs: Sequence[TrainingRun], data: ActivationSource, start: Start | None, say: Say
) -> None:
    """Bring the trainers to where their runs go on, or to where new ones begin; open trackers."""
    for run in runs:
        data.held_out(site=run.site, limit=1)  # read while nothing can be lost
        _resume(run, say)
    _initialize([run for run in runs if not run.trainer.steps_done], data, start, say)
    for run in runs:
        run.folder.track(run.config.track, run.settings)


def _resume(run: TrainingRun, say: Say) -> None:
    """Load the newest checkpoint if there is one, and drop the metrics beyond it."""
    folder, trainer = run.folder, run.trainer
    run.seconds = restore_newest(folder.checkpoints, trainer, say, moments=run.moments)
    if trainer.steps_done:
        say(f"{folder.path} goes on from step {trainer.steps_done}")
        keep = run.config.trainer.keep_checkpoints
        # A process that was killed after its last checkpoint may not have removed the oldest.
        remove_older(folder.checkpoints, trainer.steps_done, keep=keep)
    folder.keep_metrics_until(trainer.steps_done)


def _initialize(
    new_runs: Sequence[TrainingRun], data: ActivationSource, start: Start | None, say: Say
) -> None:
    """Set what is estimated from a sample of the data, which is read once for the same sites; of an
    autoencoder that was trained before nothing but its units, where it has others."""
    if start is not None and new_runs:
        say_start(new_runs[0].config, start, say)
    for sites in dict.fromkeys(run.sites for run in new_runs):
        data_seed = new_runs[0].config.trainer.data_seed
        samples = [data.sample(_SAMPLE_ROWS, site=site, seed=data_seed) for site in sites]
        for site, sample in zip(sites, samples, strict=True):
            if caution := rounding_caution(sample, data.dtype, site):
                say(f"warning: {caution}")
        of_sites = [run for run in new_runs if run.sites == sites]
        for run in of_sites:
            if start is None:
                run.trainer.initialize(*samples)
            else:
                into_training_units(run.trainer.sae, *samples)
        if start is not None:
            for caution in start_cautions(of_sites[0].trainer.sae, samples[0], start.sae.origin):
                say(f"warning: {caution}")

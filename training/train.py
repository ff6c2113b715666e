"""One training run from cache to autoencoder: initialise or resume, fit, save."""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from ..sae.autoencoder import SparseAutoencoder
from ..sae.config import Origin, config_to_dict
from ..sae.devices import resolve_device
from ..sae.metrics import ReconstructionMetrics
from .cache import ActivationCache
from .checkpoint import restore_newest, save_checkpoint
from .config import TrainConfig
from .initialize import initialize_from_rows
from .run import RunFolder, to_plain
from .threads import use_free_cores
from .trainer import Trainer

_SAMPLE_ROWS = 16_384
_EVAL_ROWS_AT_ONCE = 4096

Report = Callable[[int, int, dict[str, float]], None]
"""Told after logged steps: steps done, steps in all, the newest figures."""


def train(
    config: TrainConfig,
    *,
    report: Report = lambda done, total, figures: None,
    say: Callable[[str], None] = lambda sentence: None,
) -> dict[str, Any]:
    """Train the autoencoder of the configuration, or go on where a killed run stopped.

    Args:
        config: what to train; its `out` folder is made or resumed.
        report: progress, every `log_every` steps.
        say: sentences for a person (resuming, nothing to do).

    Returns:
        The run's summary: run, activation, n_latents, steps, tokens, seconds, tokens_per_second,
        and the held-out measures of `ReconstructionMetrics.result`.

    Raises:
        InputError: the cache or the run folder does not fit the configuration.
        NonFiniteLoss: NaN or infinity in the data or the loss; the last checkpoint stays.
    """
    cache = ActivationCache(config.cache)
    site = cache.site_name(config.site)
    cache.held_out(site=site, limit=1)  # a cache without any is refused now, not after training
    device = resolve_device(config.trainer.device)
    sae_config = config.sae_config(cache.d_model)
    resolved = {
        **to_plain(config),
        "sae": config_to_dict(sae_config),
        "site": site,
        "cache_fingerprint": cache.fingerprint,
    }
    run = RunFolder(config.out)
    run.open(resolved, threads=use_free_cores(), device=str(device))
    if run.is_complete():
        say(f"{run.path} is complete; nothing to train")
        return run.summary()
    origin = Origin(model=cache.manifest.model, site=site, weights_hash=cache.manifest.weights_hash)
    sae = SparseAutoencoder(sae_config, seed=config.trainer.seed, origin=origin).to(device)
    trainer = Trainer(sae, config.trainer)
    seconds = restore_newest(run.checkpoints, trainer, say)
    if trainer.steps_done:
        say(f"{run.path} goes on from step {trainer.steps_done}")
    else:
        n_sample = min(_SAMPLE_ROWS, cache.n_train)
        sample = cache.batches(n_sample, site=site, seed=config.trainer.seed)
        initialize_from_rows(sae, next(sample))
        sample.close()
    run.keep_metrics_until(trainer.steps_done)
    try:
        seconds = fit(trainer, cache, site, run, seconds=seconds, report=report)
        summary = _summary(config, trainer, cache, site, seconds)
        run.log({"step": trainer.steps_done, "summary": summary})
    finally:
        run.close()
    sae.save(run.sae)
    return summary


def fit(
    trainer: Trainer,
    cache: ActivationCache,
    site: str,
    run: RunFolder,
    *,
    seconds: float = 0.0,
    report: Report,
) -> float:
    """Train from the trainer's step to the last, with metrics and checkpoints in the run folder.

    Returns:
        Seconds spent on updates, those before (`seconds`) included; evaluation and checkpoints do
        not count.
    """
    config, n_steps = trainer.config, trainer.config.n_steps
    device = trainer.sae.W_dec.device
    batches = cache.batches(
        config.batch_size, site=site, seed=config.seed, start=trainer.steps_done
    )
    try:
        while trainer.steps_done < n_steps:
            started = time.perf_counter()
            metrics = trainer.step(next(batches).to(device))
            step = trainer.steps_done
            seconds += time.perf_counter() - started
            last = step == n_steps
            if step % config.log_every == 0 or last:
                figures = {name: float(value) for name, value in metrics._asdict().items()}
                figures["lr"] = trainer.learning_rate(step - 1)
                figures["tokens"] = step * config.batch_size
                run.log({"step": step, **figures})
                report(step, n_steps, figures | {"seconds": seconds})
            if step % config.eval_every == 0 and not last:
                held_out = evaluate_rows(trainer.sae, cache, site, config.eval_rows).result()
                run.log({"step": step, "held_out": held_out})
                report(step, n_steps, {f"held_out_{k}": v for k, v in held_out.items()})
            if step % config.checkpoint_every == 0 and not last:
                save_checkpoint(
                    run.checkpoints, trainer, seconds=seconds, keep=config.keep_checkpoints
                )
    finally:
        batches.close()
    return seconds


def evaluate_rows(
    sae: SparseAutoencoder, cache: ActivationCache, site: str, limit: int
) -> ReconstructionMetrics:
    """The measures over at most `limit` held-out rows of the cache."""
    measures = ReconstructionMetrics(sae)
    held_out_ND = cache.held_out(site=site, limit=limit)
    for rows_BD in torch.split(held_out_ND, _EVAL_ROWS_AT_ONCE):
        measures.update(rows_BD.to(sae.W_dec.device))
    return measures


def _summary(
    config: TrainConfig, trainer: Trainer, cache: ActivationCache, site: str, seconds: float
) -> dict[str, Any]:
    tokens = trainer.steps_done * config.trainer.batch_size
    measures = evaluate_rows(trainer.sae, cache, site, config.trainer.eval_rows).result()
    return {
        "run": config.out,
        "activation": config.activation,
        **{k: v for k, v in asdict(trainer.sae.config).items() if k != "d_model"},
        "steps": trainer.steps_done,
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds if seconds else 0.0,
        "held_out": measures,
    }

"""Train autoencoders on rows whose features are known, and measure how many they recover."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ....sae.autoencoder import SparseAutoencoder
from ....sae.common.devices import as_current, resolve_device
from ....sae.config import SAEConfig, config_to_dict
from ...trainer import Trainer
from ...trainer_config import TrainerConfig
from .config import GroundTruthSettings
from .directions import mean_largest_overlap
from .generator import SyntheticFeatures
from .intervals import over_seeds
from .matching import chance_cosine
from .measures import measure_recovery
from .published import published_beside
from .recipes import autoencoder_at, training_at
from .results import SavedSeeds

_FIRST_ROWS = 8192
"""Rows from which scales and thresholds are estimated."""
_STEPS_BETWEEN_REPORTS = 20


def ground_truth(
    sae: SAEConfig,
    trainer: TrainerConfig | None = None,
    settings: GroundTruthSettings | None = None,
    *,
    out: Path | None = None,
    say: Callable[[str], None] = lambda sentence: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Train an autoencoder's kind on the synthetic benchmark, and measure what it recovers.

    SynthSAEBench (arXiv 2602.14687), its features made here from the published settings. The
    benchmark has its own width and L0; `recipes` says what is kept of the configurations.

    Args:
        sae: the autoencoder; its widths and k are replaced by the size's.
        trainer: how it is trained; by default as any.
        settings: the size, and how many seeds.
        out: a JSON file of results, written after each seed. Where it has seeds of the same
            settings these are not trained again.
        say: is told what goes on.
        progress: is told rows done and rows in all, to train on and to measure on.

    Returns:
        JSON-ready: `size`, `features` (their settings and measures), `sae`, `trainer` (those that
        were used), `seeds` (for each its measures, see `measure_recovery`), `measures` (for each
        its mean, standard deviation and 95% interval over seeds), `chance_mcc` of random
        directions, `overlap_of_features`, the mean largest |cosine| of a feature's direction with
        another's, and `published` (see `published_beside`).

    Raises:
        InputError: the settings do not go together, the device cannot be used, or `out` has
            results of other settings.
        NonFiniteLoss: training diverged.
    """
    settings = settings or GroundTruthSettings()
    trainer = trainer or TrainerConfig()
    device = resolve_device(settings.device)
    at_size = autoencoder_at(sae, settings)
    configs = [training_at(at_size, trainer, settings, seed=seed) for seed in range(settings.seeds)]
    common: dict[str, Any] = {
        "size": settings.size,
        "rows": settings.wanted_rows,
        "device": device.type,
        "features": dataclasses.asdict(settings.of_size.features),
        "sae": config_to_dict(at_size),
        "trainer": _of_every_seed(configs[0]),
    }
    saved = SavedSeeds(out, common)
    with as_current(device), saved.held():
        seeds = saved.seeds(settings.seeds)
        # Before any training, as it needs what may not be installed.
        of_size = settings.of_size.features
        facts = {**common, "chance_mcc": chance_cosine(of_size.d_model, of_size.n_features)}
        say(f"making {of_size.n_features:,} features")
        features = SyntheticFeatures.make(of_size, device)
        facts["overlap_of_features"] = mean_largest_overlap(features.directions)
        of_one = settings.wanted_samples + settings.wanted_rows
        done = len(seeds) * of_one

        def count(rows: int) -> None:
            nonlocal done
            done += rows
            progress(done, settings.seeds * of_one)

        for config in configs[len(seeds) :]:
            trained = _train(at_size, config, features, count)
            measured = measure_recovery(
                trained, features, rows=settings.wanted_rows, progress=count
            )
            seeds.append({"seed": config.seed, **measured})
            saved.write(_results(settings, at_size, facts, seeds))
    return _results(settings, at_size, facts, seeds)


def _train(
    sae: SAEConfig, config: TrainerConfig, features: SyntheticFeatures, count: Callable[[int], None]
) -> SparseAutoencoder:
    """Train on the stream of the configuration's seed; `count` is told of rows."""
    device = features.directions.device
    trainer = Trainer(SparseAutoencoder(sae, seed=config.seed).to(device), config)
    first_rows, _ = features.sample(_FIRST_ROWS, features.generator(config.data_seed, "first rows"))
    trainer.initialize(first_rows)
    generator = features.generator(config.data_seed, "training")
    for step in range(config.n_steps):
        x_BD, _ = features.sample(config.rows_per_step, generator)
        trainer.step(x_BD, measured=False)
        if not (step + 1) % _STEPS_BETWEEN_REPORTS:
            count(_STEPS_BETWEEN_REPORTS * config.rows_per_step)
    trainer.synchronize()
    left = config.n_steps % _STEPS_BETWEEN_REPORTS * config.rows_per_step
    count(left + config.tokens - config.n_steps * config.rows_per_step)
    return trainer.trained()


def _of_every_seed(config: TrainerConfig) -> dict[str, Any]:
    values = dataclasses.asdict(config)
    return {name: value for name, value in values.items() if name in _OF_TRAINING}


_OF_TRAINING = (
    *("tokens", "batch_size", "lr", "warmup_fraction", "decay_fraction", "beta1", "beta2"),
    *("precision", "ema_decay", "clip_norm", "auxk_coefficient", "auxk_fraction"),
    *("multi_topk_coefficient", "multi_topk", "afa_coefficient", "sparsity"),
    *("sparsity_coefficient", "target_l0", "loss_term"),
    *("whitening", "whitening_shrinkage", "whitening_loss"),
)
"""What of the training could change results; not where files would be written and when."""


def _results(
    settings: GroundTruthSettings,
    sae: SAEConfig,
    facts: dict[str, Any],
    seeds: list[dict[str, float | int]],
) -> dict[str, Any]:
    names = [name for name in seeds[0] if name != "seed"]
    return {
        **facts,
        "seeds": seeds,
        "measures": {name: over_seeds([seed[name] for seed in seeds]) for name in names},
        "published": published_beside(sae, settings),
    }

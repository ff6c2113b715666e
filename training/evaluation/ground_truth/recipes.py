"""What an autoencoder's configuration and training come to at a size of the benchmark.

The benchmark has a width, a number of latents and an L0 of its own. So of a user's autoencoder it
takes the kind: the activation with its settings, the nested prefixes as fractions, and the losses
of its training; not its k, nor its learning rate and batches, which suit other data. Imports no
torch.
"""

import dataclasses
from typing import Any

from ....sae.activations.registry import ACTIVATIONS
from ....sae.common.errors import InputError
from ....sae.config import SAEConfig, config_class
from ...config import prefix_latents
from ...target_l0 import scale_settings
from ...trainer_config import TrainerConfig
from .config import GroundTruthSettings


def plain_autoencoder(
    activation: str, prefixes: tuple[float, ...], settings: GroundTruthSettings
) -> SAEConfig:
    """The autoencoder with this activation, all else by default, at the size.

    Args:
        activation: a name that can be trained.
        prefixes: rising fractions of the latents, or numbers of them, that reconstruct alone, too.
        settings: the size and L0.

    Raises:
        InputError: the settings do not go together.
    """
    kind, n_latents = config_class(activation), settings.of_size.n_latents
    given: dict[str, Any] = {"k": settings.wanted_l0} if _has(kind, "k") else {}
    given |= scale_settings(kind, settings.wanted_l0, None)
    return kind(
        settings.of_size.features.d_model,
        n_latents,
        prefixes=prefix_latents(prefixes, n_latents),
        **given,
    )


def autoencoder_at(sae: SAEConfig, settings: GroundTruthSettings) -> SAEConfig:
    """The autoencoder's kind at the size.

    Raises:
        InputError: it is of a kind that only reads what others trained.
    """
    if sae.activation not in ACTIVATIONS.names():
        raise InputError(
            f"activation is {sae.activation}, which is not trained here, and the benchmark trains; "
            f"choose {', '.join(ACTIVATIONS.names())}",
            field="activation",
        )
    n_latents = settings.of_size.n_latents
    prefixes = {max(1, round(p * n_latents / sae.n_latents)) for p in sae.prefixes}
    given: dict[str, Any] = {"k": settings.wanted_l0} if _has(type(sae), "k") else {}
    given |= scale_settings(type(sae), settings.wanted_l0, None)
    if _has(type(sae), "fixed_thresholds"):
        given["fixed_thresholds"] = False
    return dataclasses.replace(
        sae,
        d_model=settings.of_size.features.d_model,
        n_latents=n_latents,
        prefixes=tuple(sorted(prefixes - {n_latents})),
        transcoder=False,
        skip=False,
        apply_b_dec_to_input=True,
        normalize_activations="none",
        **given,
    )


def training_at(
    sae: SAEConfig, trainer: TrainerConfig, settings: GroundTruthSettings, *, seed: int
) -> TrainerConfig:
    """The training at the size: its losses are kept, and precision and the shape of the schedule.

    Raises:
        InputError: the losses do not suit the autoencoder.
    """
    config = dataclasses.replace(
        trainer,
        tokens=settings.wanted_samples,
        batch_size=settings.of_size.batch_size,
        lr=settings.wanted_lr,
        seed=seed,
        data_seed=seed,
        target_l0=settings.wanted_l0 if "target_l0" in sae.training_settings else None,
        device=settings.device,
        **dict.fromkeys(("dead_after_tokens", "k_aux", "k_start")),
        **_ALONE,
    )
    config.validate_for(sae)
    return config


_ALONE = {"shards": 1, "shard_optimizer": False, "cuda_graph": False}
"""In one process, each step as it comes."""


def _has(kind: type[SAEConfig], name: str) -> bool:
    return name in {field.name for field in dataclasses.fields(kind)}

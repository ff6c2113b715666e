"""Active latents of a row that training aims at: which activations have such a target, and what it
means to them. Imports no torch."""

from typing import Any

from ..sae.common.errors import InputError
from ..sae.config import SAEConfig, TopAFAConfig, activations_with

DEFAULT_TARGET_L0 = 32
"""The target where it is left open."""


def aimed_l0(sae: SAEConfig, target: int | None) -> int | None:
    """Active latents of a row, on average, that training leads the autoencoder to.

    Args:
        sae: the autoencoder's configuration.
        target: the trainer's `target_l0`.

    Returns:
        The number; None if training leads to none.
    """
    if "target_l0" not in sae.training_settings:
        return None
    if isinstance(sae, TopAFAConfig) and not sae.learned_scale:
        return None
    return DEFAULT_TARGET_L0 if target is None else target


def require_target_for(sae: SAEConfig, target: int | None) -> None:
    """Raise an InputError if a target that is given means nothing to the autoencoder."""
    if target is None:
        return
    if "target_l0" not in sae.training_settings:
        having = " or ".join(activations_with("target_l0"))
        remedy = f"but {sae.activation} has none; leave it out, or choose activation {having}"
    elif isinstance(sae, TopAFAConfig) and not sae.learned_scale:
        remedy = (
            f"but this top_afa autoencoder has a fixed target_scale, {sae.target_scale:g}; leave "
            "it out, or set learned_scale"
        )
    elif target > sae.n_latents:
        remedy = f"but there are only {sae.n_latents} latents; lower target_l0"
    else:
        return
    raise InputError(f"target_l0 is {target}, {remedy}", field="target_l0")


def scale_settings(
    config: type[SAEConfig], target: int | None, target_scale: float | None
) -> dict[str, Any]:
    """What a target means to the settings of an autoencoder: top_afa learns its scale.

    Args:
        config: the class of the autoencoder's configuration.
        target: the trainer's `target_l0`.
        target_scale: the scale that is asked for.

    Raises:
        InputError: both are given to top_afa.
    """
    if target is None or not issubclass(config, TopAFAConfig):
        return {}
    if target_scale is not None:
        raise InputError(
            f"target_scale is {target_scale:g}, but with target_l0 {target} training finds the "
            "scale; leave one of the two out",
            field="target_scale",
        )
    return {"learned_scale": True}

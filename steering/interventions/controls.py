"""Controls: what a change of the same size does when it means something else."""

import dataclasses
from collections.abc import Sequence

import torch

from ...kernels.numerics import row_norms
from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.errors import InputError
from .intervention import Intervention, SteeredFeature
from .steering import change


def random_features(
    intervention: Intervention,
    sae: SparseAutoencoder,
    *,
    n: int,
    seed: int,
    candidates: Sequence[int] | None = None,
) -> list[Intervention]:
    """Different latents, drawn at random, each with a change of the intervention's norm.

    What they do too is the effect of a push of that size, not of the features' meaning. The tier
    is `constant`, whatever the intervention's is, for a random latent's firing means nothing.

    Args:
        intervention: what the controls stand beside.
        sae: the autoencoder of its features.
        n: how many.
        seed: which latents, and which signs.
        candidates: latents to draw from, such as those that ever fire; all if it is None.

    Returns:
        The controls; their strength is in the autoencoder's scaled units (max_activation is 1).

    Raises:
        InputError: there are fewer candidates than n outside the intervention's own features.
    """
    own = {feature.index for feature in intervention.features}
    pool = range(sae.config.n_latents) if candidates is None else candidates
    others = [latent for latent in dict.fromkeys(pool) if latent not in own]
    if len(others) < n:
        raise InputError(
            f"{n} random controls need as many latents besides the steered ones, and there are "
            f"{len(others)}; ask for fewer, or give more candidates"
        )
    generator = torch.Generator().manual_seed(seed)
    chosen = [others[int(at)] for at in torch.randperm(len(others), generator=generator)[:n]]
    signs = [2 * int(bit) - 1 for bit in torch.randint(2, (n,), generator=generator)]
    size = float(row_norms(change(intervention, sae) * sae.input_scale))
    controls: list[Intervention] = []
    for index, sign in zip(chosen, signs, strict=True):
        strength = size / float(row_norms(sae.W_dec.detach()[index]))
        feature = SteeredFeature(
            index=index, strength=strength, sign=1 if sign > 0 else -1, max_activation=1.0
        )
        controls.append(
            dataclasses.replace(intervention, features=(feature,), tier="constant", threshold=0.0)
        )
    return controls

"""Controls: what a change of the same size does when it means something else."""

import dataclasses
from collections.abc import Sequence

import torch

from ..kernels.norms import row_norms
from ..sae.autoencoder import SparseAutoencoder
from ..sae.errors import InputError
from .intervention import Intervention, SteeredFeature
from .steering_run import change


def random_feature(
    intervention: Intervention,
    sae: SparseAutoencoder,
    *,
    seed: int,
    candidates: Sequence[int] | None = None,
) -> Intervention:
    """Another latent, drawn at random, whose change has the same norm as the intervention's.

    What it does too is the effect of a push of that size, not of the features' meaning. The tier
    stays `constant`, whatever the intervention's is, for a random latent's firing means nothing.

    Args:
        intervention: what the control stands beside.
        sae: the autoencoder of its features.
        seed: which latent, and which sign.
        candidates: latents to draw from, such as those that ever fire; all if it is None.

    Returns:
        The control; its strength is in the autoencoder's scaled units (max_activation is 1).

    Raises:
        InputError: there is no candidate outside the intervention's own features.
    """
    own = {feature.index for feature in intervention.features}
    pool = range(sae.config.n_latents) if candidates is None else candidates
    others = [latent for latent in pool if latent not in own]
    if not others:
        raise InputError("there is no latent besides the steered ones; a random control needs one")
    generator = torch.Generator().manual_seed(seed)
    index = others[int(torch.randint(len(others), (1,), generator=generator))]
    sign = 1 if int(torch.randint(2, (1,), generator=generator)) else -1
    size = float(row_norms(change(intervention, sae) * sae.input_scale))
    unit = float(row_norms(sae.W_dec.detach()[index]))
    feature = SteeredFeature(index=index, strength=size / unit, sign=sign, max_activation=1.0)
    return dataclasses.replace(intervention, features=(feature,), tier="constant", threshold=0.0)

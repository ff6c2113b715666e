"""The direction `random`: decoder rows of latents that are drawn at random."""

from collections.abc import Iterable, Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ...kernels.numerics import row_norms
from ...sae.autoencoder import SparseAutoencoder
from ...sae.common.errors import InputError
from ..interventions.spec import SteeredFeature


def random(
    sae: SparseAutoencoder, features: Sequence[SteeredFeature], seed: int
) -> Float[Tensor, "P D"]:
    """For each feature the decoder row of another latent, with a random sign, as long as its own.

    What it does too is the effect of a push of that size, not of the features' meaning.

    Raises:
        InputError: the autoencoder has too few other latents.
    """
    own = [feature.index for feature in features]
    latents, signs = draw_latents(
        range(sae.config.n_latents), besides=own, n=len(features), seed=seed
    )
    W_FD = sae.W_dec.detach()
    lengths_P = row_norms(W_FD[own]) / row_norms(W_FD[latents])
    factors_P = lengths_P * torch.tensor(signs, dtype=lengths_P.dtype, device=lengths_P.device)
    return rearrange(factors_P, "p -> p 1") * W_FD[latents]


def draw_latents(
    candidates: Iterable[int], *, besides: Iterable[int], n: int, seed: int
) -> tuple[list[int], list[int]]:
    """Draw n different latents at random, and for each a sign, 1 or -1.

    Args:
        candidates: latents to draw from.
        besides: latents that are not drawn.
        n: how many.
        seed: of the draw.

    Raises:
        InputError: there are fewer candidates than n.
    """
    own = set(besides)
    others = [latent for latent in dict.fromkeys(candidates) if latent not in own]
    if len(others) < n:
        raise InputError(
            f"{n} random controls need as many latents besides the steered ones, and there are "
            f"{len(others)}; ask for fewer, or give more candidates"
        )
    generator = torch.Generator().manual_seed(seed)
    chosen = [others[int(at)] for at in torch.randperm(len(others), generator=generator)[:n]]
    signs = [2 * int(bit) - 1 for bit in torch.randint(2, (n,), generator=generator)]
    return chosen, signs

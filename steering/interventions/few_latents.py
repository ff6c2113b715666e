"""Activations of a few latents of every row, without waiting for the device.

Where a latent is active above a threshold of its own (relu, jumprelu, batch_topk), its activation
is found from its own row of the encoder. Of topk all latents compete, so the rows are encoded;
the number of values is known beforehand. The codes of other activations, and after a LISTA step,
are as wide as the data make them, for which encode waits.
"""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from ...sae.autoencoder import SparseAutoencoder


def has_own_thresholds(sae: SparseAutoencoder) -> bool:
    """Whether each latent's activation depends on its own pre-activation alone."""
    if not sae.values_are_pre_activations:
        return False
    try:
        sae.thresholds()
    except ValueError:
        return False
    return True


def few_activations(
    sae: SparseAutoencoder, h_RLD: Float[Tensor, "R L D"], latents_RP: Int[Tensor, "R P"]
) -> Float[Tensor, "R L P"]:
    """The activations of some latents, those of each text its own, in scaled units.

    They are those of `sae.encode` but for the rounding of sums, by which a pre-activation can come
    to lie on the other side of its threshold.

    Args:
        sae: the autoencoder.
        h_RLD: raw activations of R texts.
        latents_RP: numbers of latents for each text, on the autoencoder's device.
    """
    if has_own_thresholds(sae):
        centered_RLD = sae.scaled(h_RLD) - sae.center
        b_R1P = rearrange(sae.b_enc[latents_RP], "r p -> r 1 p")
        pre_RLP = centered_RLD @ sae.W_enc[latents_RP].mT + b_R1P
        limits_R1P = rearrange(sae.thresholds()[latents_RP], "r p -> r 1 p")
        return torch.where(pre_RLP > limits_R1P, pre_RLP, 0)
    codes = sae.encode(h_RLD)
    same_RLPM = rearrange(codes.indices, "r l m -> r l 1 m") == rearrange(
        latents_RP, "r p -> r 1 p 1"
    )
    # Values are not negative, so that of a slot which holds nothing is not taken.
    return torch.where(same_RLPM, rearrange(codes.values, "r l m -> r l 1 m"), 0).amax(dim=-1)

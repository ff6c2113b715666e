"""frequency: a penalty on latents that fire on a large part of the rows."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..kernels.sparse_products import latent_sums
from .losses import ForwardPass, in_float32

FREQUENCY_SCALE = 0.1
"""A latent that fires on this part of the rows costs as much as its share of L0."""


def frequency_penalty(forward: ForwardPass) -> Float[Tensor, ""]:
    """Sum over latents of p^2 / 0.1, with p the part of the batch's rows on which a latent fires.

    It is the quadratic part of the quadratic-frequency penalty of Google DeepMind's progress update
    of March 2025, whose linear part is L0. A rare latent pays next to nothing, a dense one much.

    Whether a latent fires does not move smoothly with the weights. Of jumprelu the gradient goes
    straight through the thresholds, as published: only these move. Other activations have no
    thresholds in training; there dp is taken as the change of the latent's mean activation, so that
    every active value is pushed down in proportion to its latent's frequency. That is this
    package's own choice.
    """
    codes, n_latents = forward.codes, forward.sae.config.n_latents
    gates_BM = in_float32(codes.values if codes.l0_gate is None else codes.l0_gate)
    with torch.no_grad():
        fires_BM = (codes.values > 0).to(gates_BM.dtype)
        own_F = latent_sums(codes.indices, fires_BM, n_latents) / len(fires_BM)
        frequencies_F = forward.mean(own_F)
        penalty = frequencies_F.square().sum() / FREQUENCY_SCALE
        slopes_BM = frequencies_F[codes.indices] * (2 / FREQUENCY_SCALE / len(fires_BM))
    # Row by row first: the bits of a sum over all values at once depend on the number of threads.
    along = (slopes_BM * gates_BM).sum(-1).sum()
    return penalty + (along - along.detach())

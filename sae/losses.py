"""Losses of the autoencoders, over rows in scaled units (mean squared norm D)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..kernels.codes import Codes
from ..kernels.decode import decode
from ..kernels.encode import encode_topk
from ..kernels.norms import row_norms
from .autoencoder import SparseAutoencoder


def reconstruction_loss(x: Float[Tensor, "B D"], x_hat: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
    """Mean over rows and dimensions of (x_hat - x)^2."""
    return torch.nn.functional.mse_loss(x_hat, x)


def afa_loss(codes: Codes, x: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
    """Mean over rows of (||codes|| - ||x||)^2: the dictionary is pulled to match norms.

    As published with top-AFA (arXiv 2503.24277), where selection matches ||x - b_dec|| but this
    loss ||x||.
    """
    return (row_norms(codes.values) - row_norms(x)).square().mean()


def auxk_loss(
    sae: SparseAutoencoder,
    x: Float[Tensor, "B D"],
    x_hat: Float[Tensor, "B D"],
    dead: Int[Tensor, "N"],
    k_aux: int,
) -> Float[Tensor, ""]:
    """How well the k_aux strongest dead latents predict what the living ones left.

    Mean of (dead_hat - e)^2 over the mean of (e - mean(e))^2, with the residual e = x - x_hat
    detached, so that only the dead latents and b_dec (through the encoder's centring) move
    (arXiv 2406.04093, with their normalisation). No dead latents: 0.

    Args:
        x, x_hat: [B, D] rows and their reconstructions, scaled units.
        dead: [N] int64 indices of the dead latents.
        k_aux: latents kept of each row; N where there are fewer.
    """
    if len(dead) == 0:
        return x.new_zeros(())
    residual_BD = (x - x_hat).detach()
    variance = (residual_BD - residual_BD.mean(0)).square().mean()
    codes = encode_topk(x, sae.b_dec, sae.W_enc[dead], sae.b_enc[dead], min(k_aux, len(dead)))
    dead_hat_BD = decode(codes, sae.W_dec[dead], torch.zeros_like(sae.b_dec))
    tiny = torch.finfo(x.dtype).tiny
    return (dead_hat_BD - residual_BD).square().mean() / variance.clamp(min=tiny)

"""Autoencoders whose decoder rows have norm 1, as training keeps them."""

import copy

import torch
from torch import Tensor

from ..sae.activations.jumprelu import set_thresholds
from ..sae.autoencoder import SparseAutoencoder
from ..sae.common.errors import InputError
from ..sae.config import JumpReLUConfig, TopAFAConfig

_TOLERANCE = 1e-3
"""Norms nearer to 1 are rounding, which the first step of training takes away."""


@torch.no_grad()
def with_unit_decoder_rows(sae: SparseAutoencoder, *, called: str) -> SparseAutoencoder:
    """The autoencoder with decoder rows of norm 1, latents scaled in their place; it reconstructs
    alike. One that has such rows comes back as it is.

    jumprelu compares each latent with its own threshold, and top_afa latents times the norms of
    their rows, so that scaling changes no choice. top-k compares the latents themselves.

    Args:
        sae: the autoencoder, which is not changed.
        called: what to call it in an error.

    Raises:
        InputError: scaled latents would be chosen otherwise.
    """
    norms_F = sae.decoder_norms()
    if bool(((norms_F - 1).abs() < _TOLERANCE).all()):
        return sae
    if not isinstance(sae.config, JumpReLUConfig | TopAFAConfig):
        raise InputError(
            f"{called} has decoder rows of norms from {float(norms_F.min()):.3g} to "
            f"{float(norms_F.max()):.3g}; training keeps them at 1, with which "
            f"{sae.config.activation} would choose other latents; give another one",
            field="finetune",
        )
    found = copy.deepcopy(sae)
    scales_F: Tensor = torch.where(norms_F > 0, norms_F, 1.0)
    found.W_dec.div_(scales_F[:, None])
    found.W_enc.mul_(scales_F[:, None])
    found.b_enc.mul_(scales_F)
    if isinstance(sae.config, JumpReLUConfig):
        set_thresholds(found, sae.thresholds() * scales_F)
    return found

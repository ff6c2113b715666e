"""How many rows screening in bfloat16 verifies, where the encoder uses it."""

import torch
from torch import Tensor

from sparsteer.kernels.accelerators.screening import screened_topk
from sparsteer.kernels.policy import backend_of, encode_plan
from sparsteer.sae import SparseAutoencoder, TopKConfig


@torch.no_grad()
def verified_fraction(sae: SparseAutoencoder, x_BD: Tensor) -> float | None:
    """The fraction of raw rows whose latents a bfloat16 product finds for certain; None where the
    encoder does without, by its sizes or on this processor."""
    assert isinstance(sae.config, TopKConfig)
    B, D = x_BD.shape
    F, k = sae.config.n_latents, sae.config.k
    if encode_plan(B, D, F, k, backend_of(sae.W_enc)).path != "screened":
        return None
    rows_BD = sae.scaled(x_BD) - sae.center
    return float(screened_topk(rows_BD, sae.W_enc, sae.b_enc, k).verified.float().mean())

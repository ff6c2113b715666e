"""The mathematics of training: every term of the loss as a plain function of a batch."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..kernels.autoencode import Autoencoding, autoencoder_mse
from ..kernels.codes import Codes
from ..kernels.decode import decode_mse
from ..sae.autoencoder import SparseAutoencoder
from ..sae.config import JumpReLUConfig, TopAFAConfig, TopKConfig
from ..sae.losses import (
    afa_loss,
    auxk_loss,
    l0_loss,
    multi_topk_loss,
    nested_loss,
    reconstruction_loss,
    tanh_loss,
)
from .config import TrainerConfig
from .distributed.collectives import Distributed
from .distributed.sharded import Sharded, sharded_auxk, sharded_reconstruction
from .precision import in_bfloat16


class Losses(NamedTuple):
    """Terms of the loss of one batch, and the forward pass they came from."""

    total: Float[Tensor, ""]
    mse: Float[Tensor, ""]
    auxk: Float[Tensor, ""]
    """Unweighted; 0 without dead latents."""
    afa: Float[Tensor, ""]
    """Unweighted; 0 for activations other than top_afa."""
    sparsity: Float[Tensor, ""]
    """Unweighted; 0 for activations other than jumprelu."""
    multi_topk: Float[Tensor, ""]
    """Unweighted; 0 where it is off."""
    codes: Codes
    x_hat: Float[Tensor, "B D"]


def objective(
    sae: SparseAutoencoder,
    config: TrainerConfig,
    scaled_BD: Float[Tensor, "B D"],
    dead_N: Int[Tensor, "N"] | None,
    *,
    target_BD: Float[Tensor, "B D"] | None = None,
    k_aux: int,
    k: int | None = None,
    dist: Distributed | None = None,
) -> Losses:
    """The loss of a batch and its terms, differentiable with respect to the weights.

    Args:
        config: which terms there are, and their weights.
        scaled_BD: [B, D] rows in scaled units.
        dead_N: [N] dead latents, which AuxK revives; none where it is None.
        target_BD: [B, D] what a transcoder predicts, in scaled units; None: the rows themselves.
        k_aux: dead latents kept of each row for AuxK.
        k: latents of a row, in place of the configuration's; only topk and batch_topk have it.
        dist: the processes that have the other rows of the batch; the terms are those of all
            rows, and its `backward` makes their gradients. By default these are all rows.
    """
    dist = dist or Distributed()

    def terms(sae: SparseAutoencoder, rows_BD: Tensor, target_BD: Tensor) -> Losses:
        return _terms(sae, config, rows_BD, target_BD, scaled_BD, dead_N, k_aux, k, dist)

    target_BD = scaled_BD if target_BD is None else target_BD
    if config.precision == "bfloat16":
        return in_bfloat16(sae, scaled_BD, target_BD, terms)
    return terms(sae, scaled_BD, target_BD)


def _terms(
    sae: SparseAutoencoder,
    config: TrainerConfig,
    rows_BD: Float[Tensor, "B D"],
    target_BD: Float[Tensor, "B D"],
    scaled_BD: Float[Tensor, "B D"],
    dead_N: Int[Tensor, "N"] | None,
    k_aux: int,
    k: int | None,
    dist: Distributed,
) -> Losses:
    """The loss of rows that the autoencoder reads, which are the target, too, unless it is a
    transcoder; `scaled_BD` are the rows before any rounding."""
    mean = dist.all_reduce_mean
    if isinstance(sae.config, TopKConfig) and config.multi_topk_coefficient:
        own_mse, own_further, x_hat_BD, codes = multi_topk_loss(
            sae, rows_BD, target_BD, k or sae.config.k, config.multi_topk
        )
        mse, multi_topk = mean(own_mse), mean(own_further)
        total = mse + config.multi_topk_coefficient * multi_topk
    else:
        own_loss, x_hat_BD, codes = _reconstruction(sae, rows_BD, target_BD, k, dist)
        mse = total = mean(own_loss)
        if sae.config.prefixes:
            mse = mean(reconstruction_loss(target_BD, x_hat_BD))
        multi_topk = torch.zeros_like(mse)
    auxk = afa = sparsity = torch.zeros_like(mse)
    if dead_N is not None and config.auxk_coefficient:
        if isinstance(dist, Sharded):
            auxk = sharded_auxk(sae, rows_BD, x_hat_BD, dead_N, k_aux, dist)
        elif len(dead_N):
            auxk = auxk_loss(sae, rows_BD, target_BD - x_hat_BD, dead_N, k_aux, mean)
        total = total + config.auxk_coefficient * auxk
    if isinstance(sae.config, TopAFAConfig) and config.afa_coefficient:
        afa = mean(afa_loss(codes, scaled_BD, sae.config.target_scale))
        total = total + config.afa_coefficient * afa
    if isinstance(sae.config, JumpReLUConfig):
        penalty = {"step": l0_loss, "tanh": tanh_loss}[config.sparsity]
        sparsity = penalty(codes, config.target_l0, mean)
        total = total + config.sparsity_coefficient * sparsity
    return Losses(total, mse, auxk, afa, sparsity, multi_topk, codes, x_hat_BD)


def _reconstruction(
    sae: SparseAutoencoder,
    rows_BD: Float[Tensor, "B D"],
    target_BD: Float[Tensor, "B D"],
    k: int | None,
    dist: Distributed,
) -> Autoencoding:
    """The reconstruction loss, the reconstructions and the codes."""
    if isinstance(dist, Sharded) and isinstance(sae.config, TopKConfig):
        return sharded_reconstruction(sae, rows_BD, k or sae.config.k, dist)
    at_once = not sae.config.prefixes and not isinstance(sae.config, JumpReLUConfig)
    if at_once and not sae.config.transcoder:
        with torch.no_grad():
            codes = sae.encode_train(rows_BD, k, dist.topk_group)
        weights = sae.b_dec, sae.W_enc, sae.b_enc, sae.W_dec
        return autoencoder_mse(codes, rows_BD, *weights)
    codes = sae.encode_train(rows_BD, k, dist.topk_group)
    if sae.config.prefixes:
        return Autoencoding(*nested_loss(sae, codes, target_BD), codes)
    return Autoencoding(*decode_mse(codes, sae.W_dec, sae.b_dec, target_BD), codes)

"""The mathematics of training: the reconstruction loss of a batch, and the terms added to it."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..kernels.autoencode import Autoencoding, autoencoder_mse
from ..kernels.codes import Codes
from ..kernels.decode import decode_mse
from ..sae.autoencoder import SparseAutoencoder
from ..sae.common.errors import InputError
from ..sae.loss_registry import FIGURES, LOSS_TERMS
from ..sae.losses import (
    ForwardPass,
    LossTerm,
    WeightedTerm,
    auxk_loss,
    difference,
    multi_topk_loss,
    nested_loss,
    reconstruction_loss,
)
from .distributed.collectives import Distributed
from .distributed.sharded import Sharded, sharded_auxk, sharded_reconstruction
from .precision import RoundedWeights, in_bfloat16
from .trainer_config import TrainerConfig
from .whitening import mse_in_units, reconstruction_in_units


class Losses(NamedTuple):
    """The loss of one batch, its terms, and the forward pass they came from."""

    total: Float[Tensor, ""]
    mse: Float[Tensor, ""]
    """Of the reconstructions."""
    terms: dict[str, Tensor]
    """Every further term that the configuration has, a scalar, unweighted, by name."""
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
    n_dead: Int[Tensor, ""] | None = None,
    k: int | None = None,
    dist: Distributed | None = None,
    rounded: RoundedWeights | None = None,
    step: int = 0,
    units: Float[Tensor, "D D"] | None = None,
) -> Losses:
    """The loss of a batch and its terms, differentiable with respect to the weights.

    Args:
        config: which terms there are, and their weights.
        scaled_BD: [B, D] rows in scaled units.
        dead_N: [N] dead latents, which AuxK revives; none where it is None.
        target_BD: [B, D] what a transcoder predicts, in scaled units; None: the rows themselves.
        k_aux: dead latents kept of each row for AuxK.
        n_dead: on the device, how many of `dead_N`, from the first on, are dead; None for all.
        k: latents of a row, in place of the configuration's; only topk and batch_topk have it.
        dist: the processes that have the other rows of the batch; the terms are those of all
            rows, and its `backward` makes their gradients. By default these are all rows.
        rounded: where training in bfloat16 may find the rounded weights.
        step: the number of the step, from 0.
        units: the matrix that takes reconstructions to the units in which they are compared, where
            these are others than the rows'; see `whitening`.
    """
    dist = dist or Distributed()

    def terms(
        sae: SparseAutoencoder, rows_BD: Tensor, target_BD: Tensor
    ) -> tuple[Float[Tensor, ""], Losses]:
        further = _further_terms(sae, config, dead_N, n_dead, k_aux, dist)
        own = _terms(sae, config, rows_BD, target_BD, scaled_BD, further, k, dist, step, units)
        return own.total, own

    target_BD = scaled_BD if target_BD is None else target_BD
    if config.precision == "bfloat16":
        total, losses = in_bfloat16(sae, scaled_BD, target_BD, terms, rounded)
        return losses._replace(total=total)
    return terms(sae, scaled_BD, target_BD)[1]


def _terms(
    sae: SparseAutoencoder,
    config: TrainerConfig,
    rows_BD: Float[Tensor, "B D"],
    target_BD: Float[Tensor, "B D"],
    scaled_BD: Float[Tensor, "B D"],
    further: list[WeightedTerm],
    k: int | None,
    dist: Distributed,
    step: int,
    units: Float[Tensor, "D D"] | None,
) -> Losses:
    """The loss of rows that the autoencoder reads, which are the target, too, unless it is a
    transcoder; `scaled_BD` are the rows before any rounding, `further` the terms to add."""
    mean = dist.all_reduce_mean
    k = k or sae.config.latents_of_row
    values: dict[str, Tensor] = {}
    if config.multi_topk_coefficient and k:
        own_mse, own_further, x_hat_BD, codes = multi_topk_loss(
            sae, rows_BD, target_BD, k, config.multi_topk
        )
        mse, values["multi_topk"] = dist.all_reduce_means(own_mse, own_further)
        total = mse + config.multi_topk_coefficient * values["multi_topk"]
    else:
        own_loss, x_hat_BD, codes = _reconstruction(sae, rows_BD, target_BD, k, dist, units)
        if sae.config.prefixes:
            compared = target_BD, x_hat_BD
            own_mse = (
                reconstruction_loss(*compared) if units is None else mse_in_units(*compared, units)
            )
            total, mse = dist.all_reduce_means(own_loss, own_mse)
        else:
            mse = total = mean(own_loss)
    forward = ForwardPass(sae, rows_BD, scaled_BD, target_BD, x_hat_BD, codes, mean, step)
    for term in further:
        if term.name in values or term.name in FIGURES:
            raise InputError(
                f"two terms of the loss or figures are called {term.name}; rename the term"
            )
        values[term.name] = term.compute(forward)
        total = total + term.coefficient * values[term.name]
    return Losses(total, mse, values, codes, x_hat_BD)


def _further_terms(
    sae: SparseAutoencoder,
    config: TrainerConfig,
    dead_N: Int[Tensor, "N"] | None,
    n_dead: Int[Tensor, ""] | None,
    k_aux: int,
    dist: Distributed,
) -> list[WeightedTerm]:
    """AuxK, the activation's own terms, and those asked for by name, in the order of addition."""
    terms: list[WeightedTerm] = []
    shards = isinstance(dist, Sharded)  # others of them may have dead latents
    if dead_N is not None and config.auxk_coefficient and (len(dead_N) or shards):

        def auxk(forward: ForwardPass) -> Float[Tensor, ""]:
            n = config.auxk_rows(len(forward.rows))
            sae, rows_BD, x_hat_BD = forward.sae, forward.rows[:n], forward.x_hat[:n]
            if isinstance(dist, Sharded):
                return sharded_auxk(sae, rows_BD, x_hat_BD, dead_N, k_aux, dist)
            residual_BD = difference(forward.target[:n], x_hat_BD)
            means = forward.mean, dist.all_reduce_means
            return auxk_loss(sae, rows_BD, residual_BD, dead_N, k_aux, *means, n_dead)

        terms.append(WeightedTerm("auxk", config.auxk_coefficient, auxk))
    terms += sae.activation.loss_terms(config.activation_settings(sae.config))
    terms += [
        WeightedTerm(name, coefficient, _measured_only(term) if coefficient == 0 else term)
        for name, coefficient in config.loss_terms.items()
        for term in (LOSS_TERMS.get(name),)
    ]
    return terms


def _measured_only(term: LossTerm) -> LossTerm:
    """The term without a gradient: it is logged, and changes nothing."""

    def measured(forward: ForwardPass) -> Float[Tensor, ""]:
        with torch.no_grad():
            return term(forward)

    return measured


def _reconstruction(
    sae: SparseAutoencoder,
    rows_BD: Float[Tensor, "B D"],
    target_BD: Float[Tensor, "B D"],
    k: int | None,
    dist: Distributed,
    units: Float[Tensor, "D D"] | None,
) -> Autoencoding:
    """The reconstruction loss, the reconstructions and the codes."""
    if isinstance(dist, Sharded) and k:
        return sharded_reconstruction(sae, rows_BD, k, dist)
    at_once = not sae.config.prefixes and sae.activation.keeps_pre_activations
    at_once = at_once and not sae.config.lista_step and units is None
    if at_once and not sae.config.transcoder:
        with torch.no_grad():
            codes = sae.encode_train(rows_BD, k, dist.topk_group)
        weights = sae.b_dec, sae.W_enc, sae.b_enc, sae.W_dec
        return autoencoder_mse(codes, rows_BD, *weights, squares=dist.square_sums)
    codes = sae.encode_train(rows_BD, k, dist.topk_group)
    if units is not None:
        return Autoencoding(*reconstruction_in_units(sae, codes, target_BD, units), codes)
    if sae.config.prefixes:
        return Autoencoding(*nested_loss(sae, codes, target_BD), codes)
    return Autoencoding(*decode_mse(codes, sae.W_dec, sae.b_dec, target_BD), codes)

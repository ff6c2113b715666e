"""Losses of the autoencoders, over rows in scaled units (mean squared norm D).

A reconstruction is compared with its target: with the rows themselves, or with what a transcoder
is to predict from them.

Where a loss is no mean over rows, it takes `mean`, which turns a mean over the given rows into one
over a batch of which these are but a part.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..kernels.codes import Codes
from ..kernels.dead_latents import dead_latents_mse
from ..kernels.decode import Reconstruction, decode, require_comparable
from ..kernels.dispatch import uses_triton
from ..kernels.nested import nested_mse
from ..kernels.numerics import at_least_float32
from .autoencoder import SparseAutoencoder
from .loss_registry import LOSS_TERMS

Mean = Callable[[Float[Tensor, "..."]], Float[Tensor, "..."]]
Means = Callable[..., tuple[Float[Tensor, ""], ...]]
"""`Mean` of several scalars at once, each an argument."""


class ForwardPass(NamedTuple):
    """What a term of the loss is computed from: a batch, or this process's rows of it."""

    sae: SparseAutoencoder
    """Its weights are rounded in bfloat16 training."""
    rows: Float[Tensor, "B D"]
    """In scaled units, as the autoencoder reads them."""
    scaled: Float[Tensor, "B D"]
    """The same rows before any rounding, with the center that bfloat16 training takes off first."""
    target: Float[Tensor, "B D"]
    """What `x_hat` is compared with: the rows, or what a transcoder predicts."""
    x_hat: Float[Tensor, "B D"]
    """Reconstructions, detached."""
    codes: Codes
    """With gradients in their values."""
    mean: Mean
    """Turns a mean over these rows into one over the rows of all processes."""
    step: int = 0
    """The number of the step, from 0, which alone may decide what is drawn at random."""


LossTerm = Callable[[ForwardPass], Float[Tensor, ""]]
"""A term of the loss, unweighted: of the rows of all processes, through `ForwardPass.mean`."""


class WeightedTerm(NamedTuple):
    """A term that is added to the reconstruction loss."""

    name: str
    """Under which its value, unweighted, is logged."""
    coefficient: float
    compute: LossTerm


def register_loss_term(name: str, term: LossTerm) -> None:
    """Make a term of the loss known in this process under a name.

    A package that is installed does it with an entry point of the group `sparsteer.loss_terms`,
    after which the command knows it, too.
    """
    LOSS_TERMS.register(name, term)


def own_mean(value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The mean of this process's rows as it is: for use where there is one process."""
    return value


def own_means(*values: Float[Tensor, ""]) -> tuple[Float[Tensor, ""], ...]:
    """`own_mean` of several scalars."""
    return values


def reconstruction_loss(
    target: Float[Tensor, "B D"], x_hat: Float[Tensor, "B D"]
) -> Float[Tensor, ""]:
    """Mean over rows and dimensions of (x_hat - target)^2."""
    return torch.nn.functional.mse_loss(in_float32(x_hat), in_float32(target))


def in_float32(x: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """The values in float32, or in float64 if they are so: losses are summed in no less."""
    return x.to(at_least_float32(x.dtype))


def difference(
    target: Float[Tensor, "*B D"], x_hat: Float[Tensor, "*B D"]
) -> Float[Tensor, "*B D"]:
    """target - x_hat in their dtype, given at least in float32, without a gradient."""
    wide = at_least_float32(target.dtype)
    missed = torch.empty_like(target, dtype=wide)
    return torch.sub(target.detach(), x_hat.detach(), out=missed)


def own_variance(rows: Float[Tensor, "B D"], mean: Mean = own_mean) -> Float[Tensor, ""]:
    """Mean over these rows and dimensions of (row - mean row)^2, with the mean row of the whole
    batch; its mean over the batch is the variance."""
    if uses_triton(rows):  # one pass over the rows, then their columns
        variances_D, own_D = torch.var_mean(rows, 0, correction=0)
        all_D = mean(own_D)
        return (variances_D if all_D is own_D else variances_D + (own_D - all_D).square()).mean()
    # Row by row first: the bits of a mean over all values at once depend on the number of threads.
    return (rows - mean(rows.mean(0))).square().mean(-1).mean()


def nested_loss(
    sae: SparseAutoencoder, codes: Codes, target: Float[Tensor, "B D"]
) -> Reconstruction:
    """Mean of the reconstruction losses of the configuration's prefixes and of the whole
    dictionary (arXiv 2503.17547, equal weights), and the whole's reconstructions, detached."""
    prefixes = (*sae.config.prefixes, sae.config.n_latents)
    return nested_mse(codes, sae.W_dec, sae.b_dec, target, prefixes)


class MultiTopK(NamedTuple):
    """What `multi_topk_loss` returns."""

    mse: Float[Tensor, ""]
    """With the k largest latents of each row."""
    further: Float[Tensor, ""]
    """With more of them."""
    x_hat: Float[Tensor, "B D"]
    """From the k largest, detached."""
    codes: Codes
    """The k largest."""


def multi_topk_loss(
    sae: SparseAutoencoder,
    x: Float[Tensor, "B D"],
    target: Float[Tensor, "B D"],
    k: int,
    multiple: int,
) -> MultiTopK:
    """Reconstruction losses with k and with `multiple` times k latents of a row (arXiv 2406.04093).

    Rows are encoded once, and each latent is decoded once: what the k largest give is the start of
    what all give. Both losses are differentiable with respect to all weights.

    Args:
        sae: a topk autoencoder.
        x: [B, D] rows in scaled units.
        target: [B, D] what the reconstructions are compared with.
        multiple: of k; as many latents as there are where that is more.

    Raises:
        ValueError: what `decode_mse` refuses: weights in float16, whose gradients vanish.
    """
    require_comparable(sae.W_dec, sae.b_dec, target)
    all_codes = sae.encode_train(x, min(multiple * k, sae.config.n_latents))
    order_BM = all_codes.values.argsort(dim=-1, descending=True, stable=True)
    largest, rest = (
        Codes(all_codes.indices.gather(-1, slots), all_codes.values.gather(-1, slots))
        for slots in (order_BM[:, :k], order_BM[:, k:])
    )
    x_hat_BD = decode(largest, sae.W_dec, sae.b_dec)
    mse = further = reconstruction_loss(target, x_hat_BD)
    if rest.values.shape[-1]:
        added_BD = decode(rest, sae.W_dec, torch.zeros_like(sae.b_dec))
        further = reconstruction_loss(target, x_hat_BD + added_BD)
    return MultiTopK(mse, further, x_hat_BD.detach(), largest)


def auxk_loss(
    sae: SparseAutoencoder,
    x: Float[Tensor, "B D"],
    residual: Float[Tensor, "B D"],
    dead: Int[Tensor, "N"],
    k_aux: int,
    mean: Mean = own_mean,
    means: Means = own_means,
    n_dead: Int[Tensor, ""] | None = None,
) -> Float[Tensor, ""]:
    """How well the k_aux strongest dead latents predict what the living ones left.

    Mean of (dead_hat - e)^2 over the mean of (e - mean(e))^2, with the residual e detached, so that
    only the dead latents and b_dec (through an autoencoder's centering) move (arXiv 2406.04093,
    with their normalization). No dead latents: 0.

    Args:
        x: [B, D] rows in scaled units.
        residual: [B, D] what their reconstructions miss of the target.
        dead: [N] int64 indices of the dead latents.
        k_aux: latents kept of each row; N where there are fewer.
        mean, means: turn means over these rows into means over a batch of which they are a part.
        n_dead: on their device, how many of `dead`, from the first on, are dead; None for all.
    """
    if len(dead) == 0:
        return x.new_zeros(())
    residual_BD = in_float32(residual).detach()
    weights = sae.center, sae.W_enc, sae.b_enc, sae.W_dec
    error = dead_latents_mse(x, *weights, dead, min(k_aux, len(dead)), residual_BD, n_dead)
    error, spread = means(error, own_variance(residual_BD, mean))
    return error / spread.clamp(min=torch.finfo(error.dtype).tiny)

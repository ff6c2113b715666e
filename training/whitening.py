"""Whitening of what an autoencoder reads in training, and its way back into the weights."""

import copy
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..kernels.codes import Codes
from ..kernels.decode import Reconstruction, decode
from ..sae.autoencoder import SparseAutoencoder
from ..sae.losses import in_float32


class Whitening:
    """A symmetric matrix that makes the directions of rows in scaled units more alike in variance.

    With the covariance C of a sample, shrunk to S = (1 - shrinkage) C + shrinkage * mean variance,
    the matrix is c * S^(-strength / 2): of strength 1 ZCA whitening but for the shrinkage, of
    strength 0 the unit matrix. The factor c keeps the mean variance as it was, so that rates and
    penalties keep their meaning. PCA whitening (arXiv 2511.13981) differs from ZCA whitening by a
    rotation, which changes no distance between rows.

    Attributes:
        matrix: [D, D] symmetric, the unit matrix until it is estimated.
        inverse: [D, D] its inverse.
        strength, shrinkage: as above.
    """

    def __init__(self, like: Float[Tensor, "D"], strength: float, shrinkage: float) -> None:
        """Take a tensor of the rows' width, whose dtype and device the matrices have."""
        self.strength, self.shrinkage = strength, shrinkage
        self.matrix = torch.eye(len(like), dtype=like.dtype, device=like.device)
        self.inverse = self.matrix.clone()

    @torch.no_grad()
    def estimate(self, rows: Float[Tensor, "N D"]) -> None:
        """Set the matrices from a sample of rows in scaled units, in place."""
        wide_ND = rows.to(self.matrix.device).double()
        centered_ND = wide_ND - wide_ND.mean(0)
        covariance_DD = centered_ND.T @ centered_ND / len(rows)
        variances_D, axes_DD = _eigen(covariance_DD)
        variances_D = variances_D.clamp(min=0)  # of fewer rows than directions some are rounding
        shrunk_D = torch.lerp(variances_D, variances_D.mean(), self.shrinkage)
        factors_D = shrunk_D ** (-self.strength / 2)
        factors_D *= (variances_D.sum() / (factors_D.square() * variances_D).sum()).sqrt()
        self.matrix.copy_((axes_DD * factors_D) @ axes_DD.T)
        self.inverse.copy_((axes_DD / factors_D) @ axes_DD.T)

    @property
    def is_estimated(self) -> bool:
        """Whether the matrix is another than the unit matrix; waits for a GPU."""
        return not torch.equal(self.matrix, torch.eye(len(self.matrix)).to(self.matrix))

    def whitened(self, rows: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """Rows in scaled units as the autoencoder in training reads them."""
        return rows @ self.matrix

    @torch.no_grad()
    def raw_whitened(self, sae: SparseAutoencoder, x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """The raw activations that are, in scaled units, the whitened ones of given raw ones."""
        whitened_ND = self.whitened(sae.scaled(x.to(self.matrix.device)))
        return whitened_ND / sae.input_scale + sae.input_center / sae.input_scale

    @torch.no_grad()
    def folded(self, sae: SparseAutoencoder) -> SparseAutoencoder:
        """A copy that reads plain rows and encodes and rebuilds them as `sae` does whitened ones.

        Its codes are the same, and so is the choice of latents, which depends on pre-activations
        alone. A decoder row, times a latent's value, is that latent's part of the plain row; it has
        not norm 1 any more, but is longer the more the row varies along it.
        """
        into, out_of = self.matrix.double(), self.inverse.double()
        folded = copy.deepcopy(sae)
        folded.W_enc.copy_(sae.W_enc.double() @ into)
        folded.W_dec.copy_(sae.W_dec.double() @ out_of)
        folded.b_dec.copy_(sae.b_dec.double() @ out_of)
        return folded


def _eigen(symmetric: Float[Tensor, "D D"]) -> tuple[Float[Tensor, "D"], Float[Tensor, "D D"]]:
    """Rising eigenvalues, and the eigenvectors as columns."""
    linalg: Any = torch.linalg  # untyped
    values_D, vectors_DD = linalg.eigh(symmetric)
    return values_D, vectors_DD


def mse_in_units(
    target: Float[Tensor, "B D"], x_hat: Float[Tensor, "B D"], units: Float[Tensor, "D D"]
) -> Float[Tensor, ""]:
    """Mean over rows and dimensions of ((x_hat - target) @ units)^2."""
    missed_BD = in_float32(x_hat) - in_float32(target)
    return (missed_BD @ units.to(missed_BD)).square().mean(-1).mean()


def reconstruction_in_units(
    sae: SparseAutoencoder,
    codes: Codes,
    target: Float[Tensor, "B D"],
    units: Float[Tensor, "D D"],
) -> Reconstruction:
    """The mean of `mse_in_units` over the reconstructions from the configuration's prefixes and
    from the whole dictionary, and the latter, detached and in their own units.

    Each latent is decoded once: every prefix adds what is between it and the one before.

    Args:
        codes: of the rows, with gradients in their values.
        units: the matrix that takes the autoencoder's units to those of the loss.
    """
    x_hat_BD: Tensor = sae.b_dec
    losses: list[Tensor] = []
    for start, end in pairwise((0, *sae.config.prefixes, sae.config.n_latents)):
        own_BM = (codes.indices >= start) & (codes.indices < end)
        own = codes._replace(values=torch.where(own_BM, codes.values, 0))
        x_hat_BD = x_hat_BD + decode(own, sae.W_dec, torch.zeros_like(sae.b_dec))
        losses.append(mse_in_units(target, x_hat_BD, units))
    return Reconstruction(torch.stack(losses).mean(), x_hat_BD.detach())

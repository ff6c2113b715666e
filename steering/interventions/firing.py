"""At which rows some of an autoencoder's latents are active enough, which gates ask.

A latent that does not survive the autoencoder's selection has activation 0, so encode itself is
asked, but only about rows where a picked latent could pass: an activation is relu(pre) or 0, and
the pre-activations of a few latents cost next to nothing.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from ...kernels.numerics import row_norms
from ...sae.autoencoder import SparseAutoencoder


class FiringLatents:
    """Fires at a row if any of some latents has an activation above its threshold there."""

    def __init__(
        self, sae: SparseAutoencoder, latents: Sequence[int], thresholds: Sequence[float]
    ) -> None:
        """Take the latents' numbers, and each one's threshold in the autoencoder's scaled units."""
        self._sae = sae
        self._latents = list(latents)
        self._thresholds = list(thresholds)

    @torch.no_grad()
    def fires(self, h_ND: Float[Tensor, "N D"]) -> Bool[Tensor, "N"]:
        """Which of some raw activations fire; equal to what `sae.encode` of them all would say."""
        if min(self._thresholds) < 0:  # An activation is never negative.
            return torch.ones(len(h_ND), dtype=torch.bool, device=h_ND.device)
        asked_ND = h_ND.to(self._sae.W_enc.device)
        if not self._sae.activation.values_are_pre_activations:
            return self._fires_by_encode(asked_ND).to(h_ND.device)
        fires_N = self._may_fire(asked_ND)
        if fires_N.any():
            fires_N[fires_N.clone()] = self._fires_by_encode(asked_ND[fires_N])
        return fires_N.to(h_ND.device)

    def _may_fire(self, h_ND: Float[Tensor, "N D"]) -> Bool[Tensor, "N"]:
        """False only where no pre-activation can exceed its threshold, however sums are rounded."""
        sae = self._sae
        W_PD, b_P = sae.W_enc[self._latents], sae.b_enc[self._latents]
        centered_ND = sae.scaled(h_ND) - sae.center
        pre_NP = centered_ND @ W_PD.T + b_P
        # Two orders of summation of D + 1 terms differ by less than this much of the terms' sizes.
        slack = 4 * (centered_ND.shape[1] + 2) * torch.finfo(W_PD.dtype).eps
        sizes_N1 = rearrange(row_norms(centered_ND), "n -> n 1")
        sizes_NP = sizes_N1 * row_norms(W_PD) + b_P.abs()
        thresholds_P = torch.tensor(self._thresholds, dtype=pre_NP.dtype, device=pre_NP.device)
        return (pre_NP + slack * sizes_NP > thresholds_P).any(dim=1)

    def _fires_by_encode(self, h_ND: Float[Tensor, "N D"]) -> Bool[Tensor, "N"]:
        codes = self._sae.encode(h_ND)
        fires_N = torch.zeros(len(h_ND), dtype=torch.bool, device=h_ND.device)
        for latent, threshold in zip(self._latents, self._thresholds, strict=True):
            kept_NM = torch.where(codes.indices == latent, codes.values, 0)
            fires_N |= kept_NM.amax(dim=1) > threshold
        return fires_N

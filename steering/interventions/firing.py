"""Activations of some of an autoencoder's latents where they are high enough, which gates ask.

A latent that does not survive the autoencoder's selection has activation 0, so encode itself is
asked, but only about positions where one of the latents could pass: an activation is relu(pre) or
0, and the pre-activations of a few latents cost next to nothing. To know these positions a GPU
would be waited for, so there all are asked (`few_latents.py`).
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...kernels.numerics import row_norms
from ...sae.autoencoder import SparseAutoencoder
from . import queued
from .few_latents import few_activations


class FiringLatents:
    """Fires at a row if any of some latents has an activation above its threshold there."""

    def __init__(
        self, sae: SparseAutoencoder, latents: Sequence[int], thresholds: Sequence[float]
    ) -> None:
        """Take the latents' numbers, and each one's threshold in the autoencoder's scaled units."""
        self._sae = sae
        self.latents = tuple(latents)
        self.thresholds = tuple(thresholds)

    @property
    def always(self) -> bool:
        """Whether it fires everywhere: an activation is never negative."""
        return min(self.thresholds) < 0

    def fires(self, h_ND: Float[Tensor, "N D"]) -> Bool[Tensor, "N"]:
        """Which of some raw activations fire; equal to what `sae.encode` of them all would say."""
        asked_N = torch.ones(len(h_ND), dtype=torch.bool, device=h_ND.device)
        return self.fires_where(h_ND[None], asked_N[None])[0]

    def fires_where(
        self, h_BLD: Float[Tensor, "B L D"], asked_BL: Bool[Tensor, "B L"]
    ) -> Bool[Tensor, "B L"]:
        """Which raw activations fire, of those that are asked about; the others do not.

        Args:
            h_BLD: raw activations.
            asked_BL: on the same device.
        """
        if self.always:
            return asked_BL.clone()
        h_1ND = rearrange(h_BLD, "b l d -> 1 (b l) d")
        acts_1NP = self._table.activations(h_1ND, rearrange(asked_BL, "b l -> 1 (b l)"))
        fires_1N = (acts_1NP > self._table.thresholds_RP.to(acts_1NP)).any(dim=2)
        return fires_1N.view(asked_BL.shape)

    @cached_property
    def _table(self) -> "LatentTable":
        return LatentTable(self._sae, [self.latents], [self.thresholds])


class LatentTable:
    """For each row of a batch of texts, latents and thresholds of its own."""

    def __init__(
        self,
        sae: SparseAutoencoder,
        latents: Sequence[Sequence[int]],
        thresholds: Sequence[Sequence[float]],
    ) -> None:
        """Take each row's latents, at least one in all, and their thresholds, none negative, in
        scaled units. Shorter rows are filled up with a latent that never passes."""
        self._sae = sae
        width = max(map(len, latents))
        device = sae.W_enc.device
        self.latents_RP: Int[Tensor, "R P"] = torch.zeros(len(latents), width, dtype=torch.int64)
        self.thresholds_RP: Float[Tensor, "R P"] = torch.full(
            (len(latents), width), torch.inf, dtype=sae.W_enc.dtype
        )
        for row, (numbers, limits) in enumerate(zip(latents, thresholds, strict=True)):
            self.latents_RP[row, : len(numbers)] = torch.tensor(numbers, dtype=torch.int64)
            self.thresholds_RP[row, : len(limits)] = torch.tensor(limits, dtype=torch.float64)
        self.latents_RP = self.latents_RP.to(device)
        self.thresholds_RP = self.thresholds_RP.to(device)

    @torch.no_grad()
    def activations(
        self, h_RLD: Float[Tensor, "R L D"], asked_RL: Bool[Tensor, "R L"]
    ) -> Float[Tensor, "R L P"]:
        """The latents' activations as encode gives them, in scaled units.

        0 where it is not asked. Where none of the row's latents is above its threshold they are
        below it, or 0 unseen.

        Args:
            h_RLD: raw activations.
            asked_RL: where it is asked.
        """
        sae, device = self._sae, h_RLD.device
        h_RLD, asked_RL = h_RLD.to(sae.W_enc.device), asked_RL.to(sae.W_enc.device)
        if queued.is_queued(sae.W_enc.device):
            every_RLP = few_activations(sae, h_RLD, self.latents_RP).to(sae.W_enc.dtype)
            return torch.where(rearrange(asked_RL, "r l -> r l 1"), every_RLP, 0).to(device)
        if sae.values_are_pre_activations:
            asked_RL = asked_RL & self._may_pass(h_RLD)
        acts_RLP = h_RLD.new_zeros(*asked_RL.shape, self.latents_RP.shape[1], dtype=sae.W_enc.dtype)
        rows_N, columns_N = asked_RL.nonzero(as_tuple=True)
        if len(rows_N):
            codes = sae.encode(h_RLD[rows_N, columns_N])
            same_NPM = rearrange(codes.indices, "n m -> n 1 m") == rearrange(
                self.latents_RP[rows_N], "n p -> n p 1"
            )
            kept_NPM = torch.where(same_NPM, rearrange(codes.values, "n m -> n 1 m"), 0)
            acts_RLP[rows_N, columns_N] = kept_NPM.amax(dim=2).to(acts_RLP.dtype)
        return acts_RLP.to(device)

    def _may_pass(self, h_RLD: Float[Tensor, "R L D"]) -> Bool[Tensor, "R L"]:
        """False only where no pre-activation can exceed its threshold, however sums are rounded."""
        sae = self._sae
        W_RPD, b_RP, norms_RP = self._rows_of_encoder
        centered_RLD = sae.scaled(h_RLD) - sae.center
        pre_RLP = centered_RLD @ W_RPD.mT + rearrange(b_RP, "r p -> r 1 p")
        # Two orders of summation of D + 1 terms differ by less than this much of the terms' sizes.
        slack = 4 * (centered_RLD.shape[-1] + 2) * torch.finfo(W_RPD.dtype).eps
        sizes_RL1 = rearrange(row_norms(centered_RLD), "r l -> r l 1")
        sizes_RLP = sizes_RL1 * rearrange(norms_RP, "r p -> r 1 p") + b_RP.abs()[:, None]
        passes_RLP = pre_RLP + slack * sizes_RLP > self.thresholds_RP[:, None]
        return passes_RLP.any(dim=2)

    @cached_property
    @torch.no_grad()
    def _rows_of_encoder(self) -> tuple[Tensor, Tensor, Tensor]:
        """W_enc [R, P, D] and b_enc [R, P] of the latents, and the norms [R, P] of the former."""
        W_RPD = self._sae.W_enc[self.latents_RP]
        return W_RPD, self._sae.b_enc[self.latents_RP], row_norms(W_RPD)

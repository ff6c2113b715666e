"""top_afa: each row keeps the latents whose joint norm is nearest the norm of the row itself, so it
chooses its own number of latents (arXiv 2503.24277)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ...kernels.codes import Codes
from ...kernels.encode import encode_top_afa, encode_topk
from ...kernels.numerics import row_norms
from ..autoencoder import SparseAutoencoder
from ..config import LEAST_SCALE, MOST_SCALE, TopAFAConfig
from ..losses import ForwardPass, WeightedTerm, in_float32
from .base import Activation, Ranks

_PACE = 0.02
"""By how much log(scale) moves in a step for each unit of log(target / L0). From a scale of 0.7 to
one of 0.9 L0 rose from 1 to 387 (docs/top-afa.md), as the 24th power: much more would swing."""
_FARTHEST = 1.0
"""Of log(target / L0): a batch that is farther off moves the scale no further."""


class TopAFA(Activation[TopAFAConfig]):
    """The prefix of a row's sorted latents whose norm is nearest a multiple of the row's.

    The multiple is `target_scale` of the configuration. With `learned_scale` it is the buffer
    `sae.target_scale`, which each step of training moves: up where the rows of its batch kept fewer
    than `target_l0` latents on average, down where they kept more.
    """

    config_class = TopAFAConfig
    keeps_pre_activations: ClassVar[bool] = True
    values_are_pre_activations: ClassVar[bool] = True
    n_code_parts: ClassVar[int] = 1

    def state(self) -> dict[str, Tensor]:
        scale = torch.full((), self.config.target_scale)
        return {"target_scale": scale} if self.config.learned_scale else {}

    def target_scale(self, sae: SparseAutoencoder) -> float | Float[Tensor, ""]:
        """The multiple of a row's norm that is aimed at."""
        learned = self.config.learned_scale
        return sae.get_buffer("target_scale") if learned else self.config.target_scale

    def described_config(self, sae: SparseAutoencoder) -> TopAFAConfig:
        if not self.config.learned_scale:
            return self.config
        learned = float(sae.get_buffer("target_scale"))
        # In low precision it may be rounded past an end.
        scale = min(max(learned, LEAST_SCALE), MOST_SCALE)
        return dataclasses.replace(self.config, target_scale=scale)

    def encode(self, sae: SparseAutoencoder, x_BD: Float[Tensor, "B D"]) -> Codes:
        weights = sae.center, sae.W_enc, sae.b_enc, sae.decoder_norms()
        scale = self.target_scale(sae)
        return encode_top_afa(x_BD, *weights, target_scale=scale, capacity=self.capacity)

    @torch.no_grad()
    def initialize(
        self, sae: SparseAutoencoder, x_ND: Float[Tensor, "N D"], settings: Mapping[str, Any]
    ) -> None:
        """Set a learned scale to the one at which a row in the middle keeps `target_l0` latents.

        So training begins near its target, wherever the scale was.
        """
        if not self.config.learned_scale:
            return
        scaled_ND = sae.scaled(x_ND.to(sae.W_enc.device))
        k = min(settings["target_l0"], self.config.n_latents)
        codes = encode_topk(scaled_ND, sae.center, sae.W_enc, sae.b_enc, k)
        own_N = row_norms(codes.values * sae.decoder_norms()[codes.indices])
        tiny = torch.finfo(own_N.dtype).tiny
        share_N = own_N / row_norms(scaled_ND - sae.center).clamp(min=tiny)
        middle = share_N.median()
        if middle > 0:  # else the sample makes no latent active, or is not finite
            sae.get_buffer("target_scale").copy_(middle.clamp(LEAST_SCALE, MOST_SCALE))

    @torch.no_grad()
    def after_step(
        self,
        sae: SparseAutoencoder,
        codes: Codes,
        settings: Mapping[str, Any],
        ranks: Ranks,
    ) -> None:
        """Move a learned scale a little towards the target L0."""
        if not self.config.learned_scale:
            return
        scale = sae.get_buffer("target_scale")
        n_active = (codes.values > 0).sum().to(scale.dtype)
        l0 = ranks.all_reduce_mean(n_active / len(codes.values))
        too_few = (settings["target_l0"] / l0).log().clamp(-_FARTHEST, _FARTHEST)
        scale.mul_((_PACE * too_few).exp()).clamp_(LEAST_SCALE, MOST_SCALE)

    def loss_terms(self, settings: Mapping[str, Any]) -> Sequence[WeightedTerm]:
        def norm_loss(forward: ForwardPass) -> Float[Tensor, ""]:
            # Of the rows as they are before any rounding.
            loss = afa_loss(forward.codes, forward.scaled, self.target_scale(forward.sae))
            return forward.mean(loss)

        coefficient = settings["afa_coefficient"]
        return [WeightedTerm("afa", coefficient, norm_loss)] if coefficient else []

    @torch.no_grad()
    def exported(self, sae: SparseAutoencoder) -> SparseAutoencoder:
        """With a learned scale as one of a fixed scale, which its configuration says; both encode
        rows alike."""
        if not self.config.learned_scale:
            return sae
        fixed = dataclasses.replace(self.described_config(sae), learned_scale=False)
        exported = SparseAutoencoder(fixed, origin=sae.origin).to(sae.W_dec)
        state = sae.state_dict()
        del state["target_scale"]
        exported.load_state_dict(state)
        return exported


def afa_loss(
    codes: Codes, x: Float[Tensor, "B D"], target_scale: float | Float[Tensor, ""] = 1.0
) -> Float[Tensor, ""]:
    """Mean over rows of (||codes|| - target_scale * ||x||)^2: codes are pulled to match norms.

    With a scale of 1 as published with top-AFA (arXiv 2503.24277), where selection matches
    ||x - b_dec|| but this loss ||x||.
    """
    gap_B = row_norms(in_float32(codes.values)) - target_scale * row_norms(in_float32(x))
    return gap_B.square().mean()

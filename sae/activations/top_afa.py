"""top_afa: each row keeps the latents whose joint norm is nearest the norm of the row itself, so it
chooses its own number of latents (arXiv 2503.24277)."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from ...kernels.codes import Codes
from ...kernels.encode import encode_top_afa
from ...kernels.numerics import row_norms
from ..autoencoder import SparseAutoencoder
from ..config import TopAFAConfig
from ..losses import ForwardPass, WeightedTerm, in_float32
from .base import Activation


class TopAFA(Activation[TopAFAConfig]):
    """The prefix of a row's sorted latents whose norm is nearest `target_scale` times the row's."""

    config_class = TopAFAConfig
    keeps_pre_activations: ClassVar[bool] = True
    values_are_pre_activations: ClassVar[bool] = True
    n_code_parts: ClassVar[int] = 1

    def encode(self, sae: SparseAutoencoder, x_BD: Float[Tensor, "B D"]) -> Codes:
        weights = sae.center, sae.W_enc, sae.b_enc, sae.decoder_norms()
        scale = self.config.target_scale
        return encode_top_afa(x_BD, *weights, target_scale=scale, capacity=self.capacity)

    def loss_terms(self, settings: Mapping[str, Any]) -> Sequence[WeightedTerm]:
        def norm_loss(forward: ForwardPass) -> Float[Tensor, ""]:
            # Of the rows as they are before any rounding.
            loss = afa_loss(forward.codes, forward.scaled, self.config.target_scale)
            return forward.mean(loss)

        coefficient = settings["afa_coefficient"]
        return [WeightedTerm("afa", coefficient, norm_loss)] if coefficient else []


def afa_loss(codes: Codes, x: Float[Tensor, "B D"], target_scale: float = 1.0) -> Float[Tensor, ""]:
    """Mean over rows of (||codes|| - target_scale * ||x||)^2: codes are pulled to match norms.

    With a scale of 1 as published with top-AFA (arXiv 2503.24277), where selection matches
    ||x - b_dec|| but this loss ||x||.
    """
    gap_B = row_norms(in_float32(codes.values)) - target_scale * row_norms(in_float32(x))
    return gap_B.square().mean()

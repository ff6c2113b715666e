"""relu: every positive pre-activation is kept (arXiv 2309.08600)."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ...kernels.codes import Codes
from ...kernels.jumprelu import encode_jumprelu
from ..autoencoder import SparseAutoencoder
from ..config import ReLUConfig
from .base import Activation


class ReLU(Activation[ReLUConfig]):
    """All latents with a positive pre-activation."""

    config_class = ReLUConfig
    values_are_pre_activations: ClassVar[bool] = True

    def encode(self, sae: SparseAutoencoder, x_BD: Float[Tensor, "B D"]) -> Codes:
        return encode_jumprelu(x_BD, sae.center, sae.W_enc, sae.b_enc, self.thresholds(sae))

    def saelens(self, sae: SparseAutoencoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return {"architecture": "standard"}, {}

    def thresholds(self, sae: SparseAutoencoder) -> Float[Tensor, "F"]:
        return torch.zeros_like(sae.b_enc)

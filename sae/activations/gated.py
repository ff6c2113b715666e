"""gated: one bias decides which latents are active, another their values (arXiv 2404.16014)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...kernels.codes import Codes, pack_entries
from ...kernels.jumprelu import encode_jumprelu
from ..autoencoder import SparseAutoencoder
from ..config import GatedConfig
from .base import Activation


class Gated(Activation[GatedConfig]):
    """The latents whose gate is open, with values of their own.

    With z = (x - b_dec) @ W_enc^T the gate of a latent is open where z + b_enc > 0, and its value
    is relu(exp(magnitude_exponent) * z + magnitude_bias): both share the encoder's directions.
    """

    config_class = GatedConfig

    def state(self) -> dict[str, Tensor]:
        return {
            "magnitude_bias": torch.zeros(self.config.n_latents),
            "magnitude_exponent": torch.zeros(self.config.n_latents),
        }

    def encode(self, sae: SparseAutoencoder, x_BD: Float[Tensor, "B D"]) -> Codes:
        open_at_0_F = torch.zeros_like(sae.b_enc)
        gates = encode_jumprelu(x_BD, sae.center, sae.W_enc, sae.b_enc, open_at_0_F)
        latents_BM = gates.indices
        products_BM = gates.values - sae.b_enc[latents_BM]
        scales_F = sae.get_buffer("magnitude_exponent").exp()
        biases_F = sae.get_buffer("magnitude_bias")
        values_BM = (scales_F[latents_BM] * products_BM + biases_F[latents_BM]).relu()
        rows_N, slots_N = ((gates.values > 0) & (values_BM > 0)).nonzero(as_tuple=True)
        return pack_entries(
            rows_N, latents_BM[rows_N, slots_N], values_BM[rows_N, slots_N], len(x_BD)
        )

    def saelens(self, sae: SparseAutoencoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Its gate's bias is b_enc here."""
        further = {
            "b_gate": sae.b_enc,
            "b_mag": sae.get_buffer("magnitude_bias"),
            "r_mag": sae.get_buffer("magnitude_exponent"),
        }
        return {"architecture": "gated"}, further

"""group_max: each of k groups of neighboring latents keeps its largest (sparsify's groupmax)."""

from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ...kernels.codes import Codes, join_codes, pack_entries
from ...kernels.encode import encode_chosen, pre_activation_blocks
from ..autoencoder import SparseAutoencoder
from ..config import GroupMaxConfig
from .base import Activation


class GroupMax(Activation[GroupMaxConfig]):
    """The largest positive latent of each of k groups of neighbors, so at most k of a row."""

    config_class = GroupMaxConfig
    values_are_pre_activations: ClassVar[bool] = True

    def encode(self, sae: SparseAutoencoder, x_BD: Float[Tensor, "B D"]) -> Codes:
        weights = sae.center, sae.W_enc, sae.b_enc

        def choose() -> Codes:
            blocks = pre_activation_blocks(x_BD, *weights)
            return join_codes([self._largest(pre_BF) for pre_BF, _ in blocks], x_BD)

        return encode_chosen(x_BD, *weights, choose)

    def _largest(self, pre_BF: Float[Tensor, "B F"]) -> Codes:
        k = self.config.k
        values_BK, places_BK = rearrange(pre_BF, "b (k g) -> b k g", k=k).max(dim=2)
        starts_K = torch.arange(k, device=pre_BF.device) * (self.config.n_latents // k)
        latents_BK = starts_K + places_BK
        rows_N, groups_N = (values_BK > 0).nonzero(as_tuple=True)
        return pack_entries(
            rows_N, latents_BK[rows_N, groups_N], values_BK[rows_N, groups_N], len(pre_BF)
        )

"""topk: every row keeps its k largest latents (arXiv 2406.04093)."""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from ...kernels.codes import Codes
from ...kernels.encode import encode_topk
from ...kernels.process_group import ProcessGroup
from ..autoencoder import SparseAutoencoder
from ..config import TopKConfig
from .base import Activation


class TopK(Activation[TopKConfig]):
    """The k largest latents of each row."""

    config_class = TopKConfig
    keeps_pre_activations: ClassVar[bool] = True
    values_are_pre_activations: ClassVar[bool] = True

    def encode(self, sae: SparseAutoencoder, x_BD: Float[Tensor, "B D"]) -> Codes:
        return encode_topk(x_BD, sae.center, sae.W_enc, sae.b_enc, self.config.k)

    def encode_train(
        self,
        sae: SparseAutoencoder,
        x_BD: Float[Tensor, "B D"],
        k: int | None = None,
        group: ProcessGroup | None = None,
    ) -> Codes:
        return encode_topk(x_BD, sae.center, sae.W_enc, sae.b_enc, k or self.config.k)

    def saelens(self, sae: SparseAutoencoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
        own = {"architecture": "topk", "k": self.config.k, "rescale_acts_by_decoder_norm": False}
        return own, {}

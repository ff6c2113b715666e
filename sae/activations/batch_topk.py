"""batch_topk: in training a batch of B rows keeps its B * k largest latents, and later each row
those above one threshold, a moving average of the smallest that a batch kept (arXiv 2412.06410)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ...kernels.codes import Codes
from ...kernels.encode import encode_batch_topk
from ...kernels.jumprelu import encode_jumprelu
from ...kernels.process_group import ProcessGroup
from ..autoencoder import SparseAutoencoder
from ..common.errors import InputError
from ..config import BatchTopKConfig, JumpReLUConfig
from .base import Activation, Ranks
from .jumprelu import saelens_thresholds, set_thresholds

_THRESHOLD_MEMORY = 0.95  # some 20 batches, whose smallest activations are precise quantiles


class BatchTopK(Activation[BatchTopKConfig]):
    """The B * k largest latents of a batch, later those above `sae.threshold`."""

    config_class = BatchTopKConfig
    keeps_pre_activations: ClassVar[bool] = True
    values_are_pre_activations: ClassVar[bool] = True
    n_code_parts: ClassVar[int] = 1

    def state(self) -> dict[str, Tensor]:
        return {"threshold": torch.zeros(())}

    def encode(self, sae: SparseAutoencoder, x_BD: Float[Tensor, "B D"]) -> Codes:
        return encode_jumprelu(x_BD, sae.center, sae.W_enc, sae.b_enc, self.thresholds(sae))

    def encode_train(
        self,
        sae: SparseAutoencoder,
        x_BD: Float[Tensor, "B D"],
        k: int | None = None,
        group: ProcessGroup | None = None,
    ) -> Codes:
        weights = sae.center, sae.W_enc, sae.b_enc
        return encode_batch_topk(x_BD, *weights, k or self.config.k, group, self.capacity)

    @torch.no_grad()
    def after_step(
        self,
        sae: SparseAutoencoder,
        codes: Codes,
        settings: Mapping[str, Any],
        ranks: Ranks,
    ) -> None:
        """Let the threshold follow the smallest activation of the batch."""
        threshold = sae.get_buffer("threshold")
        least = torch.where(codes.values > 0, codes.values, torch.inf).amin()
        least = ranks.all_reduce_min(least.to(threshold.dtype))
        least = torch.where(least < torch.inf, least, threshold)
        old = torch.where(threshold > 0, threshold, least)
        torch.lerp(least, old, _THRESHOLD_MEMORY, out=threshold)

    def thresholds(self, sae: SparseAutoencoder) -> Float[Tensor, "F"]:
        return sae.get_buffer("threshold").expand(self.config.n_latents)

    @torch.no_grad()
    def exported(self, sae: SparseAutoencoder) -> SparseAutoencoder:
        """As jumprelu with the threshold for every latent.

        Both encode rows alike. jumprelu stores logarithms, so its threshold may differ from the
        learned one by a millionth, where hardly a pre-activation lies.

        Raises InputError if no threshold was learned yet.
        """
        if not sae.get_buffer("threshold") > 0:
            raise InputError("the batch_topk autoencoder has learned no threshold; train it first")
        jump = JumpReLUConfig(
            d_model=self.config.d_model,
            n_latents=self.config.n_latents,
            prefixes=self.config.prefixes,
            transcoder=self.config.transcoder,
            lista_step=self.config.lista_step,
        )
        exported = SparseAutoencoder(jump, origin=sae.origin).to(sae.W_dec)
        own = {name: tensor for name, tensor in sae.state_dict().items() if name != "threshold"}
        exported.load_state_dict(own, strict=False)
        set_thresholds(exported, self.thresholds(sae))
        return exported

    def saelens(self, sae: SparseAutoencoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return saelens_thresholds(sae)

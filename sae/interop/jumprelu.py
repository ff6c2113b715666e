"""batch_topk as jumprelu, for layouts and tools that know only fixed thresholds."""

import torch

from ..autoencoder import SparseAutoencoder
from ..common.errors import InputError
from ..config import BatchTopKConfig, JumpReLUConfig


@torch.no_grad()
def as_jumprelu(sae: SparseAutoencoder) -> SparseAutoencoder:
    """The batch_topk autoencoder as a jumprelu one with its threshold for every latent.

    Both encode rows alike. jumprelu stores logarithms, so its threshold may differ from the learned
    one by a millionth, where hardly a pre-activation lies.

    Raises:
        InputError: the autoencoder is not batch_topk, or has learned no threshold yet.
    """
    config = sae.config
    if not isinstance(config, BatchTopKConfig):
        raise InputError(f"activation is {config.activation}; only batch_topk becomes jumprelu")
    if not sae.threshold > 0:
        raise InputError("the batch_topk autoencoder has learned no threshold; train it first")
    jump = JumpReLUConfig(
        d_model=config.d_model,
        n_latents=config.n_latents,
        prefixes=config.prefixes,
        transcoder=config.transcoder,
    )
    exported = SparseAutoencoder(jump, origin=sae.origin).to(sae.W_dec)
    own = {name: tensor for name, tensor in sae.state_dict().items() if name != "threshold"}
    exported.load_state_dict(own, strict=False)
    exported.set_thresholds(sae.thresholds())
    return exported

"""Autoencoders with random weights, scale, center and thresholds."""

import torch

from sparsteer.sae import BatchTopKConfig, JumpReLUConfig, Origin, SparseAutoencoder
from sparsteer.sae.activations.jumprelu import set_thresholds
from sparsteer.sae.config import SAEConfig

ORIGIN = Origin(model="some/model", site="blocks.1.hook_resid_post", weights_hash="0f" * 32)


def random_sae(config: SAEConfig, scale: float = 0.37) -> SparseAutoencoder:
    sae = SparseAutoencoder(config, seed=3, origin=ORIGIN)
    with torch.no_grad():
        sae.W_enc.add_(0.1 * torch.randn_like(sae.W_enc))
        sae.b_enc.add_(0.1 * torch.randn_like(sae.b_enc))
        sae.b_dec.add_(torch.randn_like(sae.b_dec))
        sae.input_scale.fill_(scale)
        sae.input_center.normal_()
        if isinstance(config, BatchTopKConfig):
            sae.get_buffer("threshold").fill_(0.6)
        if isinstance(config, JumpReLUConfig):
            set_thresholds(sae, 0.5 + torch.rand(config.n_latents))
    return sae

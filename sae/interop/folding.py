"""An autoencoder with its scale and centers folded into the weights: raw activations in, and
latents in raw units, as other libraries have them."""

import dataclasses

import torch

from ..autoencoder import SparseAutoencoder
from ..common.errors import InputError
from ..config import JumpReLUConfig


@torch.no_grad()
def in_raw_units(sae: SparseAutoencoder) -> SparseAutoencoder:
    """An autoencoder that reconstructs alike, with input_scale 1 and input_center 0.

    Its latents are those of `sae` divided by `decoder_scale`, and its decoder rows are the same, so
    that a latent times its row is a vector in the model's own units. b_dec takes the center in; of
    a transcoder b_enc takes that of its input. batch_topk becomes the jumprelu that encodes alike.
    It has no prefixes, which play no part after training. float32, on the CPU.

    Raises:
        InputError: thresholds were not learned yet.
    """
    sae = sae.activation.exported(sae)
    config = dataclasses.replace(sae.config, prefixes=())
    into, out_of = sae.input_scale.double(), sae.decoder_scale.double()
    W_enc, b_enc = sae.W_enc.double(), sae.b_enc.double()
    b_dec = sae.b_dec.double() + sae.decoder_center.double() * out_of
    if config.transcoder:
        b_enc = b_enc - W_enc @ sae.input_center.double()
    tensors = {
        "W_enc": W_enc * (into / out_of),
        "b_enc": b_enc / out_of,
        "W_dec": sae.W_dec,
        "b_dec": b_dec / out_of,
    }
    if config.skip:
        tensors["W_skip"] = sae.W_skip
    if isinstance(config, JumpReLUConfig):
        if not config.fixed_thresholds and not sae.thresholds().min() > 0:
            raise InputError("the autoencoder has learned no threshold; train it first")
        config = dataclasses.replace(config, fixed_thresholds=True)
        tensors["threshold"] = sae.thresholds().double() / out_of
    else:
        own = sae.activation.state()
        tensors |= {name: sae.state_dict()[name] for name in own}
    folded = SparseAutoencoder(config, origin=sae.origin)
    folded.load_state_dict(
        folded.state_dict() | {name: tensor.float().cpu() for name, tensor in tensors.items()}
    )
    return folded

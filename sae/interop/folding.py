"""An autoencoder with its scale and centers folded into the weights: raw activations in, and
latents in raw units, as other libraries have them."""

import dataclasses
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ..autoencoder import SparseAutoencoder
from ..common.errors import InputError
from ..config import JumpReLUConfig, SAEConfig


@torch.no_grad()
def in_raw_units(sae: SparseAutoencoder) -> SparseAutoencoder:
    """An autoencoder that reconstructs alike, with input_scale 1 and input_center 0.

    Its latents are those of `sae` divided by `decoder_scale`, and its decoder rows are the same, so
    that a latent times its row is a vector in the model's own units. b_dec takes the center in;
    where the encoder does not subtract b_dec, its biases take in that of its input. batch_topk
    becomes the jumprelu that encodes alike. It has no prefixes, which play no part after training.
    float32, on the CPU.

    Raises:
        InputError: thresholds were not learned yet, or it encodes with a LISTA step, which no
            other library does.
    """
    require_one_reading(sae)
    sae = sae.activation.exported(sae)
    config = dataclasses.replace(sae.config, prefixes=())
    into, out_of = sae.input_scale.double(), sae.decoder_scale.double()
    own = {name: sae.state_dict()[name] for name in sae.activation.state()}
    biases = _biases({"W_enc": sae.W_enc, "b_enc": sae.b_enc, **own})
    if not _subtracts_b_dec(config):
        biases = shifted_biases({"W_enc": sae.W_enc, **own, **biases}, -sae.input_center)
    b_dec = sae.b_dec.double() + sae.decoder_center.double() * out_of
    tensors = {
        **own,
        "W_enc": sae.W_enc.double() * (into / out_of),
        **{name: bias.double() / out_of for name, bias in biases.items()},
        "W_dec": sae.W_dec,
        "b_dec": b_dec / out_of,
    }
    if config.skip:
        tensors["W_skip"] = sae.W_skip
    if isinstance(config, JumpReLUConfig):
        if not config.fixed_thresholds and not sae.thresholds().min() > 0:
            raise InputError("the autoencoder has learned no threshold; train it first")
        config = dataclasses.replace(config, fixed_thresholds=True)
        tensors = {name: tensors[name] for name in tensors if name not in own}
        tensors["threshold"] = sae.thresholds().double() / out_of
    folded = SparseAutoencoder(config, origin=sae.origin)
    folded.load_state_dict(
        folded.state_dict() | {name: tensor.float().cpu() for name, tensor in tensors.items()}
    )
    return folded


def require_one_reading(sae: SparseAutoencoder) -> None:
    """Raise an InputError if it encodes with a LISTA step, for a library that does not."""
    if step := sae.config.lista_step:
        raise InputError(
            f"lista_step is {step:g}: the encoder reads each row twice, which no other library's "
            "layout can say; choose --format sparsteer"
        )


def require_plain_rows(sae: SparseAutoencoder, library: str) -> None:
    """Raise an InputError if it normalizes its rows, for a library that does not."""
    if (how := sae.config.normalize_activations) != "none":
        raise InputError(
            f"normalize_activations is {how}, which {library} does not do; choose --format saelens "
            "or sparsteer"
        )


@torch.no_grad()
def encoder_biases(plain: SparseAutoencoder, *, subtracts_b_dec: bool) -> dict[str, Tensor]:
    """b_enc, and magnitude_bias of a gated one, for an encoder that subtracts b_dec, or does not,
    whatever this one does; the pre-activations are the same."""
    tensors = {"b_enc": plain.b_enc, "W_enc": plain.W_enc, **dict(plain.named_buffers())}
    sign = int(subtracts_b_dec) - int(_subtracts_b_dec(plain.config))
    return shifted_biases(tensors, sign * plain.b_dec)


@torch.no_grad()
def shifted_biases(tensors: Mapping[str, Tensor], by_D: Float[Tensor, "D"]) -> dict[str, Tensor]:
    """The biases for rows from which a vector is subtracted, in place of those for plain rows.

    Args:
        tensors: W_enc [F, D] and b_enc [F]; of a gated one also magnitude_bias [F] and
            magnitude_exponent [F].
        by_D: the vector.
    """
    shift_F = tensors["W_enc"].double() @ by_D.double()
    shifted = {name: bias + shift_F for name, bias in _biases(tensors).items()}
    if "magnitude_bias" in shifted:
        scales_F = tensors["magnitude_exponent"].double().exp()
        shifted["magnitude_bias"] = tensors["magnitude_bias"] + scales_F * shift_F
    return shifted


def _biases(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensors[name] for name in ("b_enc", "magnitude_bias") if name in tensors}


def _subtracts_b_dec(config: SAEConfig) -> bool:
    return config.apply_b_dec_to_input and not config.transcoder

"""What SAELens 6 reads: autoencoders and transcoders under its keys, in raw units."""

from typing import Any

import torch
from torch import Tensor

from ..autoencoder import SparseAutoencoder
from ..common.errors import InputError
from ..config import GatedConfig, Origin
from .folding import in_raw_units
from .model_names import name_elsewhere

_VERSION = "6.0.0"  # of SAELens, the first with this layout; a file that names none is older


@torch.no_grad()
def to_saelens(sae: SparseAutoencoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The content of `cfg.json` and `sae_weights.safetensors` as SAELens 6 reads them.

    It takes raw activations, and its latents are in raw units, see `in_raw_units`. Each activation
    says what it is there (`Activation.saelens`): topk, jumprelu, relu and gated stay so, batch_topk
    becomes jumprelu. Prefixes play no part after training and are left out.

    Raises:
        InputError: SAELens has nothing that encodes as the activation does (top_afa, and topk in a
            transcoder), or thresholds were not learned yet.
    """
    trained_as = sae.config.activation
    own, further = sae.activation.saelens(sae)
    plain = in_raw_units(sae)
    if isinstance(plain.config, GatedConfig):
        _, further = plain.activation.saelens(plain)
    config = plain.config
    weights = {"W_enc": plain.W_enc.T, "W_dec": plain.W_dec, "b_dec": plain.b_dec}
    if own["architecture"] != "gated":
        weights["b_enc"] = plain.b_enc
    if config.transcoder:
        own, more = _transcoder_keys(plain, own["architecture"])
        further = further | more
    origin = sae.origin
    values = {
        "d_in": config.d_model,
        "d_sae": config.n_latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": config.apply_b_dec_to_input and not config.transcoder,
        "normalize_activations": config.normalize_activations,
        "reshape_activations": "none",
        **own,
        "metadata": {
            "sae_lens_version": _VERSION,
            "training_architecture": trained_as,
            **({} if origin is None else _metadata(origin)),
        },
    }
    return values, {name: tensor.float().cpu() for name, tensor in (weights | further).items()}


def _transcoder_keys(
    plain: SparseAutoencoder, architecture: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The architecture of a transcoder there, its output's width and its skip connection."""
    names = {"standard": "transcoder", "jumprelu": "jumprelu_transcoder"}
    if architecture not in names:
        raise InputError(
            f"SAELens has transcoders with ReLU and jumprelu, but none with {architecture}; choose "
            "--format sparsify or sparsteer"
        )
    name = names[architecture]
    skip = plain.config.skip
    if skip:
        name = name.replace("transcoder", "skip_transcoder")
    own = {"architecture": name, "d_out": plain.config.d_model}
    return own, {"W_skip": plain.W_skip} if skip else {}


def _metadata(origin: Origin) -> dict[str, Any]:
    """Where it came from as far as that is known, by the names that other tools know."""
    found = {
        "model_name": name_elsewhere(origin.model),
        "hook_name": origin.site,
        "hook_name_out": origin.target_site,
        "dataset_path": origin.dataset,
        "context_size": origin.context_length,
        "prepend_bos": origin.prepends_bos,
    }
    return {name: value for name, value in found.items() if value is not None}

"""The layout `saelens`: what SAELens 6 loads from disk; it is only written."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..autoencoder import SparseAutoencoder
from ..common.checksums import write_sums
from ..common.errors import InputError
from ..common.files import write_json
from ..common.tensor_files import save_tensors
from ..config import Origin
from ..fetching.artifacts import ARTIFACTS

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"
_VERSION = "6.0.0"  # of SAELens, the first with this layout; a file that names none is older


def recognizes(path: Path) -> bool:
    """Whether both files of an autoencoder of SAELens are there."""
    return (path / CONFIG_FILE).is_file() and (path / WEIGHTS_FILE).is_file()


def write(sae: SparseAutoencoder, out: Path) -> None:
    """Write the content that `to_saelens` gives, and checksums."""
    config, weights = to_saelens(sae)
    save_tensors(out / WEIGHTS_FILE, weights)
    write_json(out / CONFIG_FILE, config)
    write_sums(out)


@torch.no_grad()
def to_saelens(sae: SparseAutoencoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The content of `cfg.json` and `sae_weights.safetensors` as SAELens 6 reads them.

    It takes raw activations: its b_dec is this autoencoder's with the center. Its latents are
    these divided by `input_scale`, and its decoder rows keep norm 1, so that a latent times its row
    is a vector in the model's own units: what SAELens has scales with its input. Each activation
    says what it is there (`Activation.saelens`): topk and jumprelu stay so, batch_topk becomes
    jumprelu. Prefixes play no part after training and are left out.

    Raises:
        InputError: SAELens has nothing that encodes as the activation does (top_afa), or thresholds
            were not learned yet, or it is a transcoder.
    """
    if sae.config.transcoder:
        raise InputError(
            "a transcoder has no place in this layout of SAELens; choose --layout sparsteer"
        )
    scale = sae.input_scale.double()
    weights = {
        "W_enc": sae.W_enc.T,
        "b_enc": sae.b_enc / scale,
        "W_dec": sae.W_dec,
        "b_dec": (sae.b_dec.double() + sae.input_center) / scale,
    }
    own, further = sae.activation.saelens(sae)
    origin = sae.origin
    config = {
        "d_in": sae.config.d_model,
        "d_sae": sae.config.n_latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        **own,
        "metadata": {
            "sae_lens_version": _VERSION,
            "training_architecture": sae.config.activation,
            **({} if origin is None else _origin(origin)),
        },
    }
    return config, {name: tensor.float().cpu() for name, tensor in (weights | further).items()}


def _origin(origin: Origin) -> dict[str, Any]:
    """Where it came from as far as that is known, by the names that other tools know."""
    artifact = ARTIFACTS.get(origin.model)
    found = {
        "model_name": artifact.hub_name if artifact and artifact.hub_name else origin.model,
        "hook_name": origin.site,
        "dataset_path": origin.dataset,
        "context_size": origin.context_length,
        "prepend_bos": origin.prepends_bos,
    }
    return {name: value for name, value in found.items() if value is not None}

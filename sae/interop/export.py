"""Autoencoders for elsewhere: as JumpReLU with fixed thresholds, and in the layout of SAELens."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..autoencoder import CONFIG_FILE, WEIGHTS_FILE, SparseAutoencoder
from ..common.checksums import SUMS_FILE, write_sums
from ..common.errors import InputError
from ..common.files import atomic_folder, other_content, read_json, write_json
from ..common.locks import hold
from ..common.tensor_files import load_tensors, save_tensors
from ..config import BatchTopKConfig, JumpReLUConfig, Origin, TopKConfig
from ..fetching.artifacts import ARTIFACTS

Format = Literal["saelens", "sparsteer"]

SAELENS_CONFIG_FILE = "cfg.json"
SAELENS_WEIGHTS_FILE = "sae_weights.safetensors"
_EXPORTED = {SAELENS_CONFIG_FILE, SAELENS_WEIGHTS_FILE, SUMS_FILE, CONFIG_FILE, WEIGHTS_FILE}
_SAELENS_LAYOUT = "6.0.0"  # its first version with this layout; a file that names none is older


def export(sae: SparseAutoencoder, out: str | Path, format: Format, *, force: bool = False) -> None:
    """Write the autoencoder into a new folder, which appears whole or not at all.

    Args:
        out: the folder, not there yet or empty, or with this very export.
        format: `saelens`, as `to_saelens` describes; `sparsteer`, this package's own, with
            batch_topk as jumprelu.
        force: whether an export of another autoencoder or in another format is replaced.

    Raises:
        InputError: the folder has other content, the format cannot hold the autoencoder, or another
            process is writing there.
    """
    out = Path(out)
    if file := next((path for path in (out, *out.parents) if path.is_file()), None):
        raise InputError(f"{file} is a file, not a folder; choose another --out")
    if out.exists() and not {item.name for item in out.iterdir()} <= _EXPORTED:
        raise InputError(f"{out} holds something else than an export; choose another --out")
    if format == "sparsteer":
        own = as_jumprelu(sae) if isinstance(sae.config, BatchTopKConfig) else sae
        files, config, weights = (CONFIG_FILE, WEIGHTS_FILE), own.description(), own.tensors()
    else:
        own = None
        files = SAELENS_CONFIG_FILE, SAELENS_WEIGHTS_FILE, SUMS_FILE
        config, weights = to_saelens(sae)
    if (
        not force
        and out.exists()
        and any(out.iterdir())
        and not _holds(out, files, config, weights)
    ):
        raise other_content(out)
    with hold(out), atomic_folder(out, replace=force) as folder:
        if own is not None:
            own.save(folder)
        else:
            save_tensors(folder / SAELENS_WEIGHTS_FILE, weights)
            write_json(folder / SAELENS_CONFIG_FILE, config)
            write_sums(folder)


def _holds(
    out: Path, files: Sequence[str], config: dict[str, Any], weights: dict[str, Tensor]
) -> bool:
    """Whether the folder holds these files, of which the first is the configuration and the second
    the weights; looked at before anything is written."""
    if {item.name for item in out.iterdir()} != set(files):
        return False
    try:
        found = read_json(out / files[0], "configuration")
        stored = load_tensors(out / files[1], "")
    except InputError:
        return False
    return (
        all(found.get(name) == value for name, value in json.loads(json.dumps(config)).items())
        and stored.keys() == weights.keys()
        and all(
            stored[name].dtype == tensor.dtype and torch.equal(stored[name], tensor.cpu())
            for name, tensor in weights.items()
        )
    )


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


@torch.no_grad()
def to_saelens(sae: SparseAutoencoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The content of `cfg.json` and `sae_weights.safetensors` as SAELens 6 reads them.

    It takes raw activations: its b_dec is this autoencoder's with the center. Its latents are
    these divided by `input_scale`, and its decoder rows keep norm 1, so that a latent times its row
    is a vector in the model's own units: all three activations scale with their input. topk and
    jumprelu stay so, batch_topk becomes jumprelu. Prefixes play no part after training and are left
    out.

    Raises:
        InputError: SAELens has nothing that encodes as top_afa does, or batch_topk has learned no
            threshold yet, or it is a transcoder.
    """
    if sae.config.transcoder:
        raise InputError(
            "a transcoder has no place in this layout of SAELens; choose --format sparsteer"
        )
    scale = sae.input_scale.double()
    weights = {
        "W_enc": sae.W_enc.T,
        "b_enc": sae.b_enc / scale,
        "W_dec": sae.W_dec,
        "b_dec": (sae.b_dec.double() + sae.input_center) / scale,
    }
    match sae.config:
        case TopKConfig(k=k):
            own = {"architecture": "topk", "k": k, "rescale_acts_by_decoder_norm": False}
        case BatchTopKConfig() | JumpReLUConfig():
            if not sae.thresholds().min() > 0:
                raise InputError("the autoencoder has learned no threshold; train it first")
            own = {"architecture": "jumprelu"}
            weights["threshold"] = sae.thresholds() / scale
        case _:
            raise InputError(
                f"activation is {sae.config.activation}, for which SAELens has no equal; choose "
                "--format sparsteer"
            )
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
            "sae_lens_version": _SAELENS_LAYOUT,
            "training_architecture": sae.config.activation,
            **({} if origin is None else _origin(origin)),
        },
    }
    return config, {name: tensor.float().cpu() for name, tensor in weights.items()}


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

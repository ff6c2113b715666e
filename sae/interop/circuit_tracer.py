"""The layout `circuit-tracer`: a transcoder `layer_N.safetensors` beside the `config.yaml` of its
set, as circuit-tracer saves and loads them."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..autoencoder import SparseAutoencoder
from ..common.checksums import write_sums
from ..common.errors import InputError
from ..common.tensor_files import save_tensors
from ..common.yaml_files import read_yaml
from ..config import JumpReLUConfig, Origin, ReLUConfig
from .folding import in_raw_units
from .model_names import loadable_name, name_elsewhere
from .reading import (
    COPY_AGAIN,
    ForeignTensors,
    build,
    config_of,
    fits,
    only_file,
    origin_from,
    read_tensors,
)

CONFIG_FILE = "config.yaml"

_FILES = "layer_*.safetensors"
_CALLED = r"layer_(?P<layer>\d+)\.safetensors"
_CROSS_LAYER = "W_enc_*.safetensors"
_THRESHOLD, _SKIP = "activation_function.threshold", "W_skip"
_ALWAYS = frozenset(("W_enc", "W_dec", "b_enc", "b_dec"))
_NAMES = [
    *(_ALWAYS, _ALWAYS | {_THRESHOLD}),
    *(_ALWAYS | {_SKIP}, _ALWAYS | {_SKIP, _THRESHOLD}),
]


def recognizes(path: Path) -> bool:
    """Whether it is a transcoder's file, or a folder of some with the set's configuration."""
    if path.is_dir():
        return (path / CONFIG_FILE).is_file() and "model_kind:" in _text_of(path / CONFIG_FILE)
    return re.fullmatch(_CALLED, path.name) is not None and fits(path, _NAMES, _CALLED)


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@torch.no_grad()
def read(path: Path) -> SparseAutoencoder:
    """The transcoder in a file, or in a folder that holds one: ReLU, or jumprelu with a threshold
    of each latent, with or without a skip connection.

    `config.yaml` beside it, if it is there, says the language model and which places of each block
    are read and predicted; the block's number is the file's.

    Raises:
        InputError: a file is missing or damaged, the folder has several layers, or the set is a
            cross-layer transcoder, whose latents write into all later layers.
    """
    given = _configuration((path if path.is_dir() else path.parent) / CONFIG_FILE)
    kind = given.get("model_kind", "transcoder_set")
    if kind != "transcoder_set" or (path.is_dir() and any(path.glob(_CROSS_LAYER))):
        raise InputError(
            f"{path} is of the kind {kind}, but only a transcoder_set, each of which predicts one "
            "layer, can be read"
        )
    if path.is_dir() and "transcoders" in given and not any(path.glob(_FILES)):
        raise InputError(
            f"{path / CONFIG_FILE} only lists files that lie elsewhere: "
            f"{given['transcoders']!s:.200}; load one of them"
        )
    file = only_file(path, _FILES)
    found = ForeignTensors(read_tensors(file), file)
    ours = {
        "W_enc": found.take("W_enc", "F", "D"),
        "W_dec": found.take("W_dec", "F", "D"),
        "b_enc": found.take("b_enc", "F"),
        "b_dec": found.take("b_dec", "D"),
    }
    options: dict[str, Any] = {"transcoder": True, "apply_b_dec_to_input": False}
    if _SKIP in found:
        ours[_SKIP] = found.take(_SKIP, "D", "D")
        options["skip"] = True
    if jumps := _THRESHOLD in found:
        ours["threshold"] = found.take(_THRESHOLD, "F")
        if (below := int((ours["threshold"] < 0).sum())) > 0:
            raise InputError(
                f"{file}: {below} thresholds are below 0, so that latents may be negative, which "
                "no activation here holds; set them to 0 if that is not meant"
            )
        options["fixed_thresholds"] = True
    found.finish()
    config = config_of(JumpReLUConfig if jumps else ReLUConfig, found, file, **options)
    return build(config, ours, _origin_of(file, given))


def _configuration(where: Path) -> dict[Any, Any]:
    if not where.is_file():
        return {}
    return read_yaml(where, "configuration", remedy=COPY_AGAIN)


def _origin_of(file: Path, given: dict[Any, Any]) -> Origin | None:
    named = re.fullmatch(_CALLED, file.name)
    model, site = given.get("model_name"), given.get("feature_input_hook")
    target_site = given.get("feature_output_hook")
    if named is None or not (isinstance(model, str) and isinstance(site, str)):
        return None
    block = f"blocks.{named['layer']}"
    return origin_from(
        loadable_name(model),
        f"{block}.{site}",
        target_site=f"{block}.{target_site}" if isinstance(target_site, str) else None,
    )


def write(sae: SparseAutoencoder, out: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write `layer_N.safetensors`, N being the block's number, `config.yaml` and checksums.

    A set that circuit-tracer traces with needs a file for every block from 0: export each
    transcoder, and put the files of all into one folder beside one `config.yaml`. Latents are in
    raw units, see `in_raw_units`; batch_topk becomes jumprelu.

    Raises:
        InputError: it is no transcoder of one block, it is not known of which, or circuit-tracer
            has nothing that encodes as it does.
    """
    if not sae.config.transcoder:
        raise InputError(
            "circuit-tracer puts transcoders in place of MLPs, but this is an autoencoder, which "
            "predicts what it reads; choose --format saelens"
        )
    if sae.config.normalize_activations != "none":
        raise InputError(
            f"normalize_activations is {sae.config.normalize_activations}, which circuit-tracer "
            "does not do; choose --format saelens"
        )
    layer, description = _description(sae.origin)
    plain = in_raw_units(sae)
    tensors: dict[str, Tensor] = {name: getattr(plain, name) for name in sorted(_ALWAYS)}
    if plain.config.activation == "jumprelu":
        tensors[_THRESHOLD] = plain.thresholds()
    elif plain.config.activation != "relu":
        raise InputError(
            f"activation is {plain.config.activation}, but circuit-tracer loads ReLU and jumprelu; "
            "choose --format sparsify or sparsteer"
        )
    if plain.config.skip:
        tensors[_SKIP] = plain.W_skip
    rounded = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    save_tensors(out / f"layer_{layer}.safetensors", rounded)
    (out / CONFIG_FILE).write_text(description, encoding="utf-8")
    write_sums(out)


def _description(origin: Origin | None) -> tuple[int, str]:
    """The block's number, and the content of `config.yaml`."""
    if origin is None:
        raise InputError(
            "circuit-tracer names a transcoder's file by its block, and this one does not say "
            "where it reads; choose --format saelens"
        )
    site, target_site = (
        re.fullmatch(r"blocks\.(\d+)\.(.+)", name or "")
        for name in (origin.site, origin.target_site)
    )
    if site is None or target_site is None or site[1] != target_site[1]:
        raise InputError(
            f"the transcoder predicts {origin.target_site} from {origin.site}, but circuit-tracer "
            "needs both in the same block; choose --format saelens"
        )
    values = {
        "model_name": name_elsewhere(origin.model),
        "model_kind": "transcoder_set",
        "feature_input_hook": site[2],
        "feature_output_hook": target_site[2],
    }
    lines = [f"{name}: {json.dumps(value)}\n" for name, value in values.items()]
    return int(site[1]), "".join(lines)

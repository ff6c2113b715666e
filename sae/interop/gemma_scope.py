"""The layout `gemma_scope`: Gemma Scope's `params.npz` (arXiv 2408.05147), and Gemma Scope 2's
`params.safetensors` beside `config.json`; it is only read."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..autoencoder import SparseAutoencoder
from ..common.errors import InputError
from ..common.files import read_json
from ..config import JumpReLUConfig
from .model_names import loadable_name
from .reading import (
    ForeignTensors,
    build,
    config_of,
    fits,
    origin_from,
    read_tensors,
    thresholds,
)

CONFIG_FILE = "config.json"
WEIGHTS_FILES = ("params.npz", "params.safetensors")

_SKIP = "affine_skip_connection"
_FIRST = frozenset(("W_enc", "W_dec", "b_enc", "b_dec", "threshold"))
_SECOND = frozenset(("w_enc", "w_dec", "b_enc", "b_dec", "threshold"))
_NAMES = [_FIRST, _SECOND, _SECOND | {_SKIP}]

_MODULES = {
    "output": "hook_resid_post",
    "self_attn.o_proj.input": "attn.hook_z",
    "post_feedforward_layernorm.output": "hook_mlp_out",
    "pre_feedforward_layernorm.output": "mlp.hook_in",
}
"""Where in a block of transformers' Gemma 3 -> its name in TransformerLens."""

_FOLDERS = {
    "resid_post": ("hook_resid_post", None),
    "attn_out": ("attn.hook_z", None),
    "mlp_out": ("hook_mlp_out", None),
    "transcoder": ("mlp.hook_in", "hook_mlp_out"),
}
"""Folders of a repository of Gemma Scope 2 -> what is read, and what is predicted."""

_KINDS = {
    "res": ("hook_resid_post", None),
    "att": ("attn.hook_z", None),
    "mlp": ("hook_mlp_out", None),
    "transcoders": ("ln2.hook_normalized", "hook_mlp_out"),
}
"""Endings of the repositories of the first Gemma Scope, the same."""


def recognizes(path: Path) -> bool:
    """Whether it is such a file, or the folder that holds it."""
    files = [path / name for name in WEIGHTS_FILES] if path.is_dir() else [path]
    return any(
        fits(file, _NAMES, r"params\.(npz|safetensors)")
        for file in files
        if file.suffix in (".npz", ".safetensors")
    )


@torch.no_grad()
def read(path: Path) -> SparseAutoencoder:
    """The jumprelu autoencoder or transcoder in a folder or file.

    A latent is active where x @ W_enc^T + b_enc exceeds its threshold; b_dec is not subtracted
    first. Gemma Scope 2's transcoders may have an affine skip connection, stored as [in, out].
    `config.json` says model and sites. Without it, as beside an npz file, they are those that the
    release's names of repository and folders mean, if they are in the path; only by them such a
    file is known to be a transcoder.

    Raises:
        InputError: a file is missing or damaged, the two do not fit each other, or it reads or
            predicts several layers.
    """
    file = _weights_of(path)
    given = _configuration(file)
    tensors = read_tensors(file)
    for name, tensor in tensors.items():
        if tensor.ndim > 2:
            raise InputError(
                f"{file}: {name} has {tensor.ndim} dimensions, as cross-layer transcoders and "
                "crosscoders have; only what reads one site and predicts one can be read"
            )
    found = ForeignTensors(tensors, file, {"F": given.get("width")})
    encoder, decoder = ("W_enc", "W_dec") if file.suffix == ".npz" else ("w_enc", "w_dec")
    ours = {
        "W_enc": found.take(encoder, "D", "F").T,
        "W_dec": found.take(decoder, "F", "D"),
        "b_enc": found.take("b_enc", "F"),
        "b_dec": found.take("b_dec", "D"),
        "threshold": thresholds(found.take("threshold", "F")),
    }
    skip = bool(given.get("affine_connection")) or _SKIP in found
    if skip:
        ours["W_skip"] = found.take(_SKIP, "D", "D").T
    found.finish()
    model, site, target_site = _place_in(given) if "hf_hook_point_in" in given else _named(file)
    config = config_of(
        *(JumpReLUConfig, found, file),
        fixed_thresholds=True,
        apply_b_dec_to_input=False,
        transcoder=skip or target_site is not None or given.get("type") == "transcoder",
        skip=skip,
    )
    origin = origin_from(model, site, target_site=target_site, prepends_bos=True)
    return build(config, ours, origin)


def stated(path: Path) -> dict[str, float]:
    """The L0 in `config.json`, which Gemma Scope 2 has no number of in its names."""
    l0 = _configuration(_weights_of(path)).get("l0")
    return {"l0": float(l0)} if isinstance(l0, int | float) else {}


def _weights_of(path: Path) -> Path:
    files = [path / name for name in WEIGHTS_FILES] if path.is_dir() else [path]
    return next((file for file in files if file.is_file()), files[0])


def _configuration(file: Path) -> dict[str, Any]:
    """What `config.json` says; nothing where there is none, as beside an npz file."""
    where = file.parent / CONFIG_FILE
    if file.suffix == ".npz" or not where.is_file():
        return {}
    given = read_json(where, "configuration")
    if (architecture := given.get("architecture", "jump_relu")) != "jump_relu":
        raise InputError(
            f"{where}: architecture is {architecture!r}, but only jump_relu can be read"
        )
    return given


_Place = tuple[str | None, str | None, str | None]
"""The language model, the site that is read, and that which a transcoder predicts."""


def _place_in(given: Mapping[str, Any]) -> _Place:
    """What `config.json` says of the place."""
    site, target = (_site(given.get(f"hf_hook_point_{end}")) for end in ("in", "out"))
    model = given.get("model_name")
    name = _model(model.replace("gemma-v3", "gemma-3")) if isinstance(model, str) else None
    return name, site, target if target != site else None


def _site(module: object) -> str | None:
    """TransformerLens' name of a place that the file calls by transformers' modules."""
    if not isinstance(module, str):
        return None
    parts = re.fullmatch(r"model\.(?:language_model\.)?layers\.(\d+)\.(.+)", module)
    if parts is None or parts[2] not in _MODULES:
        return module
    return f"blocks.{parts[1]}.{_MODULES[parts[2]]}"


def _named(file: Path) -> _Place:
    """What the names of the repository and of folders in the path say of the place."""
    path = file.absolute().as_posix()
    if first := re.search(r"gemma-scope-(\d+b-(?:pt|it))-(res|att|mlp|transcoders)\b", path):
        layer, kind = re.search(r"layer_(\d+)/width", path), _KINDS[first[2]]
        model = _model(f"gemma-2-{first[1].removesuffix('-pt')}")
    else:
        layer = re.search(r"(\w+?)(?:_all)?/layer_(\d+)_width", path)
        second = re.search(r"gemma-scope-2-(\d+[bm]-(?:pt|it))", path)
        model = _model(f"gemma-3-{second[1]}") if second else None
        kind = _FOLDERS.get(layer[1]) if layer else None
    if layer is None or kind is None:
        return model, None, None
    site, target_site = (name and f"blocks.{layer[layer.lastindex or 0]}.{name}" for name in kind)
    return model, site, target_site


def _model(name: str) -> str:
    return loadable_name(name.replace("gemma-3-270m-pt", "gemma-3-270m"))

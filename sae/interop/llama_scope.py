"""The layout `llama_scope`: what OpenMOSS' library writes, lm-saes 2024 (Llama Scope, arXiv
2410.20526) and its successor llamascopium; it is only read."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...kernels.numerics import row_norms
from ..autoencoder import SparseAutoencoder
from ..common.errors import InputError
from ..common.files import read_json
from ..config import JumpReLUConfig, NormalizeActivations, Origin, ReLUConfig, SAEConfig, TopKConfig
from .model_names import loadable_name
from .reading import (
    COPY_AGAIN,
    ForeignTensors,
    as_object,
    build,
    config_of,
    flag,
    fold_decoder_norms,
    origin_from,
    read_tensors,
)

FIRST_CONFIG_FILE, CONFIG_FILE = "hyperparams.json", "config.json"
WEIGHTS_FILES = (
    "sae_weights.safetensors",
    "checkpoints/pruned.safetensors",
    "checkpoints/final.safetensors",
)
"""In the order in which the library looks for them."""

_NORM = "dataset_average_activation_norm"
_DEFAULTS = {
    "act_fn": "relu",
    "use_decoder_bias": True,
    "sparsity_include_decoder_norm": True,
    "top_k": 50,
}
_FLAGS = (
    *("use_decoder_bias", "sparsity_include_decoder_norm"),
    *("apply_decoder_bias_to_pre_encoder", "use_glu_encoder"),
)
_NORMALIZATIONS: dict[str, NormalizeActivations] = {
    "dataset-wise": "none",
    "inference": "none",
    "none": "none",
    "token-wise": "constant_norm_rescale",
}
"""How the library normalizes -> what is left to be done for each row, factors being folded."""
_THRESHOLDS = ("activation_function.log_jumprelu_threshold", "log_jumprelu_threshold")
_MODELS = {
    "Llama3_1-8B-Base-L": "meta-llama/Llama-3.1-8B",
    "Llama-Scope-R1-Distill": "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
}
"""What the path of a release has in it -> its language model, which no file names."""


def recognizes(path: Path) -> bool:
    """Whether it is a folder with a configuration of the library beside weights."""
    if not any((path / name).is_file() for name in WEIGHTS_FILES):
        return False
    if _is_first(path):
        return True
    try:
        given = read_json(path / CONFIG_FILE, "configuration")
    except InputError:
        return False
    return "sae_type" in given or {"hook_point_in", "act_fn"} <= given.keys()


@torch.no_grad()
def read(path: Path) -> SparseAutoencoder:
    """The autoencoder or transcoder in a folder of the library, for raw activations.

    Activations of norm sqrt(D) on average went in and came out in training, so that the weights
    take in a factor on either side. With `sparsity_include_decoder_norm` a latent is kept by its
    pre-activation times the norm of its decoder row.
    Codes are those that the library's own loader gives. That of 2024 (`hyperparams.json`) folds the
    factors so that latents are in the units of raw activations, and then makes decoder rows of norm
    1; its `jump_relu_threshold` is for those. The later one (`config.json`) leaves them as trained:
    codes of scaled activations, and decoder rows of any norm. Only its topk with
    `sparsity_include_decoder_norm` has decoder rows of norm 1 here, with its codes times the norm.

    Raises:
        InputError: a file is missing or damaged, the two do not fit each other, or it encodes in a
            way that is not read, such as batchtopk, which depends on the batch.
    """
    first = _is_first(path)
    where = path / (FIRST_CONFIG_FILE if first else CONFIG_FILE)
    # The library fills in what a file lacks, each version with its own values.
    given: dict[str, Any] = {
        "norm_activation": "token-wise" if first else "dataset-wise",
        "apply_decoder_bias_to_pre_encoder": first,
        **_DEFAULTS,
        **read_json(where, "configuration"),
    }
    given.setdefault("hook_point_out", given.get("hook_point_in"))
    _require_readable(given, where)
    file = next((path / name for name in WEIGHTS_FILES if (path / name).is_file()), None)
    if file is None:
        raise InputError(f"{path} holds no {' or '.join(WEIGHTS_FILES)}; {COPY_AGAIN}")
    sizes = {"D": given.get("d_model"), "F": given.get("d_sae")}
    found = ForeignTensors(read_tensors(file), file, sizes)
    ours = _weights(found, given)
    kind, options, threshold_F = _activation(found, given, where)
    into, out_of = _factors(found, given, where)
    found.finish()
    if threshold_F is not None:
        ours["threshold"] = threshold_F
        if given["sparsity_include_decoder_norm"] and not first:
            ours["threshold"] = threshold_F / row_norms(ours["W_dec"]).clamp(min=1e-8)
    ours["W_dec"], ours["b_dec"] = ours["W_dec"] / out_of, ours["b_dec"] / out_of
    if first:
        ours["b_enc"], ours["W_dec"] = ours["b_enc"] / into, ours["W_dec"] * into
    else:
        ours["W_enc"] = ours["W_enc"] * into
    if given["sparsity_include_decoder_norm"] and (first or kind is TopKConfig):
        fold_decoder_norms(ours)
    config = config_of(
        *(kind, found, where),
        apply_b_dec_to_input=False,
        transcoder=_is_transcoder(given),
        normalize_activations=_NORMALIZATIONS[given["norm_activation"]],
        **options,
    )
    return build(config, ours, _origin_of(path, given))


def stated(path: Path) -> dict[str, float]:
    """L0 of a jumprelu that was a top-k in training, as all of Llama Scope."""
    given = read_json(path / FIRST_CONFIG_FILE, "configuration") if _is_first(path) else {}
    top_k = given.get("top_k")
    is_converted = given.get("act_fn") == "jumprelu" and isinstance(top_k, int)
    return {"l0": float(top_k)} if is_converted and top_k else {}


def _is_first(path: Path) -> bool:
    return (path / FIRST_CONFIG_FILE).is_file()


def _is_transcoder(given: Mapping[str, Any]) -> bool:
    return given["hook_point_out"] != given.get("hook_point_in")


def _require_readable(given: Mapping[str, Any], where: Path) -> None:
    """Raise an InputError unless it is an autoencoder or transcoder that encodes each row alone."""
    if (kind := given.get("sae_type", "sae")) != "sae":
        raise InputError(
            f"{where}: sae_type is {kind!r}, but only sae, which reads one site and predicts one, "
            "can be read"
        )
    for name in _FLAGS:
        flag(given, name, where)
    if given.get("use_glu_encoder"):
        raise InputError(f"{where}: use_glu_encoder is true, which no activation here can hold")
    normalization = given["norm_activation"]
    if not isinstance(normalization, str) or normalization not in _NORMALIZATIONS:
        raise InputError(
            f"{where}: norm_activation is {normalization!r}, which is not read; those that are: "
            f"{', '.join(_NORMALIZATIONS)}"
        )
    if normalization == "token-wise" and _is_transcoder(given):
        raise InputError(
            f"{where}: norm_activation is token-wise in a transcoder, which would have to know the "
            "norm of what it predicts"
        )


def _weights(found: ForeignTensors, given: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights as they are stored, with what the encoder subtracts folded into b_enc."""
    biased = bool(given["use_decoder_bias"])
    if "W_E" in found:
        ours = {
            "W_enc": found.take("W_E", "D", "F").T,
            "b_enc": found.take("b_E", "F"),
            "W_dec": found.take("W_D", "F", "D"),
        }
        bias = "b_D"
    else:
        ours = {
            "W_enc": found.take("encoder.weight", "F", "D"),
            "b_enc": found.take("encoder.bias", "F"),
            "W_dec": found.take("decoder.weight", "D", "F").T,
        }
        bias = "decoder.bias"
    ours["b_dec"] = found.take(bias, "D") if biased else torch.zeros(found.size("D"))
    if given["apply_decoder_bias_to_pre_encoder"]:
        ours["b_enc"] = ours["b_enc"] - ours["W_enc"] @ ours["b_dec"]
    return ours


def _activation(
    found: ForeignTensors, given: Mapping[str, Any], where: Path
) -> tuple[type[SAEConfig], dict[str, Any], Tensor | None]:
    """The configuration's class, its own settings, and thresholds of jumprelu."""
    name = str(given["act_fn"]).lower()
    stored = next((one for one in _THRESHOLDS if one in found), None)
    single = given.get("jump_relu_threshold", 0.0)
    if not isinstance(single, int | float) or isinstance(single, bool) or not 0 <= single < 1e9:
        raise InputError(
            f"{where}: jump_relu_threshold is {single!r}, where a number from 0 on is needed"
        )
    if stored is not None and name == "jumprelu":
        return JumpReLUConfig, {"fixed_thresholds": True}, found.take(stored, "F").exp()
    if where.name == FIRST_CONFIG_FILE and name == "jumprelu":
        thresholds_F = torch.full((found.size("F"),), float(single))
        return JumpReLUConfig, {"fixed_thresholds": True}, thresholds_F
    if name == "topk":
        return TopKConfig, {"k": given.get("top_k")}, None
    if name == "relu":
        return ReLUConfig, {}, None
    if name == "jumprelu":
        found.take(_THRESHOLDS[-1], "F")  # it is missing
    raise InputError(
        f"{where}: act_fn is {given['act_fn']!r}, which is not read; those that are: relu, "
        "jumprelu, topk"
    )


def _factors(found: ForeignTensors, given: Mapping[str, Any], where: Path) -> tuple[float, float]:
    """sqrt(D) / average norm of what is read, and of what is reconstructed or predicted."""
    names = [name for name in found.names if name.startswith(f"{_NORM}.")]
    norms: dict[str, float] = {}
    if given["norm_activation"] == "dataset-wise":
        by_end = as_object(given.get(_NORM))
        by_site = {name.removeprefix(f"{_NORM}."): found.take(name).item() for name in names}
        for end in ("in", "out"):
            site = given.get(f"hook_point_{end}")
            norm = by_site.get(str(site), by_end.get(end))
            if not isinstance(norm, int | float) or isinstance(norm, bool) or not 0 < norm < 1e9:
                raise InputError(
                    f"{where}: the {_NORM} of {site} ({end}) is {norm!r}, where a number above 0 "
                    "is needed"
                )
            norms[end] = norm
    found.drop(*names)
    root = math.sqrt(found.size("D"))
    return root / norms.get("in", root), root / norms.get("out", root)


def _origin_of(path: Path, given: Mapping[str, Any]) -> Origin | None:
    place = path.absolute().as_posix()
    model = next((model for mark, model in _MODELS.items() if mark in place), None)
    return origin_from(
        model and loadable_name(model),
        given.get("hook_point_in"),
        target_site=given["hook_point_out"] if _is_transcoder(given) else None,
        prepends_bos=True,
    )

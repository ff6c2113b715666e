"""The layout `saelens`: what SAELens 6 writes and loads, and the files of its earlier versions."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..autoencoder import SparseAutoencoder
from ..common.checksums import write_sums
from ..common.errors import InputError
from ..common.files import read_json, write_json
from ..common.tensor_files import save_tensors
from ..config import Origin, config_class
from .model_names import loadable_name
from .reading import (
    ForeignTensors,
    as_object,
    build,
    config_of,
    flag,
    fold_decoder_norms,
    origin_from,
    read_tensors,
    thresholds,
)
from .saelens_keys import to_saelens

CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"
_SCALER_FILE = "activation_scaler.json"

_KINDS = {
    "standard": "relu",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "batchtopk": "jumprelu",
    "matryoshka_batchtopk": "jumprelu",
    "gated": "gated",
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}
"""Architecture there -> activation here."""

_NORMALIZATIONS = ("none", "expected_average_only_in", "constant_norm_rescale", "layer_norm")


def recognizes(path: Path) -> bool:
    """Whether both files of an autoencoder of SAELens are there."""
    return (path / CONFIG_FILE).is_file() and (path / WEIGHTS_FILE).is_file()


@torch.no_grad()
def read(path: Path) -> SparseAutoencoder:
    """The autoencoder in a folder of SAELens, which encodes as it does there.

    What SAELens changes before it encodes is folded into the weights: a scaling factor found in
    training and kept beside the weights, decoder norms of `rescale_acts_by_decoder_norm`, and the
    factors of `finetuning_scaling_factor`, which only its decoder uses. A batchtopk autoencoder, of
    whatever nesting, is the jumprelu that SAELens saves it as.

    Raises:
        InputError: a file is missing or damaged, the two do not fit each other, or the architecture
            is none that encodes a row by itself.
    """
    where = path / CONFIG_FILE
    given = _as_version_6(read_json(where, "configuration"))
    architecture = given.get("architecture", "standard")
    if architecture not in _KINDS:
        raise InputError(
            f"{where}: architecture is {architecture!r}, which is not read; those that are: "
            f"{', '.join(_KINDS)}"
        )
    normalization = given.get("normalize_activations") or "none"
    if normalization not in _NORMALIZATIONS:
        raise InputError(
            f"{where}: normalize_activations is {normalization!r}, which is not read; those that "
            f"are: {', '.join(_NORMALIZATIONS)}"
        )
    if (function := given.get("activation_fn", "relu")) not in ("relu", "topk"):
        raise InputError(f"{where}: activation_fn is {function!r}, which is neither relu nor topk")
    file = path / WEIGHTS_FILE
    found = ForeignTensors(
        read_tensors(file), file, {"D": given.get("d_in"), "F": given.get("d_sae")}
    )
    transcoder = "transcoder" in architecture
    if transcoder and given.get("d_out", given.get("d_in")) != given.get("d_in"):
        raise InputError(
            f"{where}: d_in is {given.get('d_in')}, but d_out is {given.get('d_out')}; only a "
            "transcoder with both the same can be read"
        )
    ours = {
        "W_enc": found.take("W_enc", "D", "F").T,
        "W_dec": found.take("W_dec", "F", "D"),
        "b_dec": found.take("b_dec", "D"),
    }
    ours |= _own_tensors(found, _KINDS[architecture], where)
    if "skip" in architecture:
        ours["W_skip"] = found.take("W_skip", "D", "D")
    _fold_finetuning(found, ours, given, where)
    found.finish()
    rescaled = flag(given, "rescale_acts_by_decoder_norm", where)
    if normalization == "expected_average_only_in":
        _fold_training_scale(ours, path / _SCALER_FILE, rescaled=rescaled)
        normalization = "none"
    if rescaled:
        fold_decoder_norms(ours)
    options: dict[str, Any] = {
        "transcoder": transcoder,
        "apply_b_dec_to_input": transcoder
        or flag(given, "apply_b_dec_to_input", where, default=True),
        "normalize_activations": normalization,
        "skip": "skip" in architecture,
    }
    kind = _KINDS[architecture]
    if kind == "topk":
        options["k"] = given.get("k")
    if kind == "jumprelu":
        options["fixed_thresholds"] = True
    config = config_of(config_class(kind), found, where, **options)
    return build(config, ours, _origin_of(given))


def stated(path: Path) -> dict[str, float]:
    """L0 and the fraction of dead latents that SAELens measured at the end of training."""
    values = _as_version_6(read_json(path / CONFIG_FILE, "configuration"))
    found: dict[str, float] = {}
    if isinstance(l0 := values.get("l0"), int | float):
        found["l0"] = float(l0)
    dead, n_latents = values.get("num_dead_features"), values.get("d_sae")
    if isinstance(dead, int) and isinstance(n_latents, int) and n_latents > 0:
        found["dead_fraction"] = dead / n_latents
    return found


def _as_version_6(given: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration under the keys of SAELens 6, whose earlier versions had one flat file."""
    values = dict(given)
    for old, new in (
        ("hook_point", "hook_name"),
        ("activation_fn_str", "activation_fn"),
    ):
        if old in values:
            values[new] = values.pop(old)
    values = as_object(values.pop("metadata", None)) | values
    if values.get("activation_fn") == "topk":
        arguments = as_object(values.get("activation_fn_kwargs"))
        values |= {"architecture": "topk", "k": arguments.get("k", values.get("k"))}
    if isinstance(values.get("normalize_activations"), bool):
        trained_so = values["normalize_activations"]
        values["normalize_activations"] = "expected_average_only_in" if trained_so else "none"
    return values


def _own_tensors(found: ForeignTensors, kind: str, where: Path) -> dict[str, Tensor]:
    """The tensors of one activation."""
    if kind == "gated":
        return {
            "b_enc": found.take("b_gate", "F"),
            "magnitude_bias": found.take("b_mag", "F"),
            "magnitude_exponent": found.take("r_mag", "F"),
        }
    own = {"b_enc": found.take("b_enc", "F")}
    if kind != "jumprelu":
        return own
    if "topk_threshold" in found:
        threshold = found.take("topk_threshold")
        if not threshold > 0:
            raise InputError(f"{where.parent} is a batchtopk that has learned no threshold yet")
        return own | {"threshold": threshold.expand(found.size("F")).clone()}
    if "log_threshold" in found:
        return own | {"threshold": found.take("log_threshold", "F").exp()}
    return own | {"threshold": thresholds(found.take("threshold", "F"))}


def _fold_finetuning(
    found: ForeignTensors, ours: dict[str, Tensor], given: Mapping[str, Any], where: Path
) -> None:
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        if name not in found:
            continue
        factors_F = found.take(name, "F")
        if not given.get("finetuning_scaling_factor") and not (factors_F == 1).all():
            raise InputError(
                f"{where}: there are factors in {name}, but finetuning_scaling_factor is not true, "
                "so that it is open whether they count; set it, or remove the tensor"
            )
        ours["W_dec"] = ours["W_dec"] * factors_F[:, None]


def _fold_training_scale(ours: dict[str, Tensor], scaler: Path, *, rescaled: bool) -> None:
    """Let the encoder scale its input by the factor that a training checkpoint keeps beside the
    weights; without that file the weights are folded already, or SAELens itself would not scale.

    It comes before decoder norms are folded (`rescaled`), as at the end of SAELens' training, so
    that latents of decoder rows of norm 1 are in raw units, and their threshold, too."""
    if not scaler.is_file():
        return
    factor = read_json(scaler, "activation scaler").get("scaling_factor")
    if not isinstance(factor, int | float) or isinstance(factor, bool) or not factor > 0:
        raise InputError(
            f"{scaler}: scaling_factor is {factor!r}, where a number above 0 is needed"
        )
    ours["W_enc"] = ours["W_enc"] * factor
    ours["W_dec"] = ours["W_dec"] / factor
    ours["b_dec"] = ours["b_dec"] / factor
    if rescaled and "threshold" in ours:
        ours["threshold"] = ours["threshold"] / factor


def _origin_of(given: Mapping[str, Any]) -> Origin | None:
    model = given.get("model_name")
    return origin_from(
        loadable_name(model) if isinstance(model, str) else None,
        given.get("hook_name"),
        target_site=given.get("hook_name_out"),
        dataset=given.get("dataset_path"),
        context_length=given.get("context_size"),
        prepends_bos=given.get("prepend_bos"),
    )


def write(sae: SparseAutoencoder, out: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write the content that `to_saelens` gives, and checksums."""
    config, weights = to_saelens(sae)
    config["dtype"] = str(dtype).removeprefix("torch.")
    save_tensors(out / WEIGHTS_FILE, {name: tensor.to(dtype) for name, tensor in weights.items()})
    write_json(out / CONFIG_FILE, config)
    write_sums(out)

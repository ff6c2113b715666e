"""The layout `dictionary_learning`: what that library's trainSAE writes, and load_dictionary loads.

Every class of its version 0.1.0 is read and written, but IdentityDict, which has no weights.
"""

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..autoencoder import SparseAutoencoder
from ..common.checksums import write_sums
from ..common.errors import InputError
from ..common.files import read_json, write_json
from ..common.tensor_files import save_tensors
from ..config import (
    BatchTopKConfig,
    GatedConfig,
    JumpReLUConfig,
    Origin,
    ReLUConfig,
    SAEConfig,
    TopKConfig,
)
from .folding import encoder_biases, in_raw_units, require_plain_rows, shifted_biases
from .model_names import loadable_name, name_elsewhere
from .reading import (
    ForeignTensors,
    as_object,
    build,
    config_of,
    fold_decoder_norms,
    origin_from,
    read_tensors,
    thresholds,
)

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "ae.pt"
SAFE_WEIGHTS_FILE = "ae.safetensors"
"""The same tensors; only this package writes and reads it."""

_CLASSES: dict[str, type[SAEConfig]] = {
    "AutoEncoder": ReLUConfig,
    "AutoEncoderNew": ReLUConfig,
    "GatedAutoEncoder": GatedConfig,
    "JumpReluAutoEncoder": JumpReLUConfig,
    "AutoEncoderTopK": TopKConfig,
    "BatchTopKSAE": JumpReLUConfig,
    "MatryoshkaBatchTopKSAE": JumpReLUConfig,
}
_RAW_INPUT = ("AutoEncoderNew", "JumpReluAutoEncoder")  # their encoders subtract no bias
_PARAMETERS = ("MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder")  # others have linear layers
_TRANSCODER = "in_and_out"  # what the buffer of a transcoder gives


def recognizes(path: Path) -> bool:
    """Whether it is a trainer's folder or a file of its weights, and the configuration names a
    class of the library."""
    config, weights = _files(path)
    if not weights.is_file():
        return False
    try:
        given = read_json(config, "configuration")
    except InputError:
        return False
    return "dict_class" in as_object(given.get("trainer"))


def _files(path: Path) -> tuple[Path, Path]:
    """Configuration and weights, of which one or both may be missing."""
    if path.is_dir() or not re.fullmatch(r"ae(_\d+)?\.(pt|safetensors)", path.name):
        safe = path / SAFE_WEIGHTS_FILE
        return path / CONFIG_FILE, safe if safe.is_file() else path / WEIGHTS_FILE
    # Those of training lie in a folder `checkpoints` beside the configuration.
    folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    return folder / CONFIG_FILE, path


@torch.no_grad()
def read(path: Path) -> SparseAutoencoder:
    """The dictionary in a folder of dictionary_learning, or in a file of its weights such as
    `checkpoints/ae_1000.pt`, which encodes as its class does there.

    BatchTopKSAE and MatryoshkaBatchTopKSAE keep what exceeds one threshold, and so are jumprelu; a
    threshold of -1, which was never learned, leaves the ReLU. Decoder norms of an AutoEncoder are
    folded, as its loader does by default.

    Raises:
        InputError: a file is missing or damaged, the two do not fit each other, or the class is
            unknown.
    """
    where, file = _files(path)
    given = read_json(where, "configuration")
    trainer = as_object(given.get("trainer"))
    kind = trainer.get("dict_class")
    if kind not in _CLASSES:
        raise InputError(
            f"{where}: dict_class is {kind!r}, which is not read; those that are: "
            f"{', '.join(_CLASSES)}"
        )
    tensors = read_tensors(file)
    options = _integers(kind, tensors, trainer, file)
    found = ForeignTensors(
        tensors, file, {"D": trainer.get("activation_dim"), "F": trainer.get("dict_size")}
    )
    ours = _weights(kind, found)
    found.finish()
    if kind == "AutoEncoder":
        fold_decoder_norms(ours)
    if _CLASSES[kind] is JumpReLUConfig:
        options["fixed_thresholds"] = True
    options["transcoder"] = as_object(given.get("buffer")).get("io") == _TRANSCODER
    options["apply_b_dec_to_input"] = options["transcoder"] or kind not in _RAW_INPUT
    if options["transcoder"] and kind not in _RAW_INPUT:
        ours |= shifted_biases(ours, -ours["b_dec"])
    return build(config_of(_CLASSES[kind], found, where, **options), ours, _origin_of(trainer))


def _integers(
    kind: str, tensors: dict[str, Tensor], trainer: Mapping[str, Any], file: Path
) -> dict[str, Any]:
    """What the tensors of whole numbers say, which are taken out; theirs is the class's choice."""
    k, groups = tensors.pop("k", None), tensors.pop("group_sizes", None)
    options: dict[str, Any] = {}
    if kind == "AutoEncoderTopK":
        tensors.pop("threshold", None)  # its encoder uses none unless asked to
        options["k"] = trainer.get("k") if k is None else _whole(k, "k", file)[0]
        if options["k"] != trainer.get("k", options["k"]):
            raise InputError(
                f"{file}: k is {options['k']}, but {CONFIG_FILE} beside it has {trainer['k']}; the "
                "two files belong to different autoencoders"
            )
    if kind == "MatryoshkaBatchTopKSAE":
        if groups is None:
            raise InputError(f"{file}: tensor group_sizes is missing; get the file again")
        sizes = _whole(groups, "group_sizes", file)
        options["prefixes"] = tuple(sum(sizes[: i + 1]) for i in range(len(sizes) - 1))
    return options


def _whole(tensor: Tensor, name: str, file: Path) -> list[int]:
    if tensor.is_floating_point() or tensor.is_complex():
        raise InputError(
            f"{file}: {name} holds {tensor.dtype} where whole numbers are needed; get the file "
            "again"
        )
    return [int(value) for value in tensor.flatten()]


def _weights(kind: str, found: ForeignTensors) -> dict[str, Tensor]:
    """The tensors of a class under this package's names."""
    if kind in _PARAMETERS:
        ours = {
            "W_enc": found.take("W_enc", "D", "F").T,
            "W_dec": found.take("W_dec", "F", "D"),
            "b_enc": found.take("b_enc", "F"),
            "b_dec": found.take("b_dec", "D"),
        }
    else:
        center = {
            "AutoEncoder": "bias",
            "AutoEncoderNew": "decoder.bias",
            "GatedAutoEncoder": "decoder_bias",
        }
        gated = kind == "GatedAutoEncoder"
        ours = {
            "W_enc": found.take("encoder.weight", "F", "D"),
            "W_dec": found.take("decoder.weight", "D", "F").T,
            "b_enc": found.take("gate_bias" if gated else "encoder.bias", "F"),
            "b_dec": found.take(center.get(kind, "b_dec"), "D"),
        }
        if gated:
            ours["magnitude_bias"] = found.take("mag_bias", "F")
            ours["magnitude_exponent"] = found.take("r_mag", "F")
    if kind == "JumpReluAutoEncoder":
        ours["threshold"] = thresholds(found.take("threshold", "F"))
    if kind in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        ours["threshold"] = thresholds(found.take("threshold")).expand(found.size("F")).clone()
    return ours


def _origin_of(trainer: Mapping[str, Any]) -> Origin | None:
    """The site is known where the trainer names a residual stream and its layer."""
    model, layer = trainer.get("lm_name"), trainer.get("layer")
    submodule = trainer.get("submodule_name")
    if not isinstance(submodule, str) or not re.match("resid_post", submodule):
        return None
    return origin_from(
        loadable_name(model) if isinstance(model, str) else None, f"blocks.{layer}.hook_resid_post"
    )


@torch.no_grad()
def write(sae: SparseAutoencoder, out: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write the autoencoder in raw units (`in_raw_units`), with checksums: `ae.pt`, which torch
    loads with weights_only=True, and the same tensors in safetensors beside it.

    topk is an AutoEncoderTopK, batch_topk a BatchTopKSAE or, with prefixes, a
    MatryoshkaBatchTopKSAE, jumprelu a JumpReluAutoEncoder, gated a GatedAutoEncoder, and relu an
    AutoEncoderNew, whose decoder norms its loader leaves as they are.

    Raises:
        InputError: the library has nothing that encodes alike: top_afa, normalized rows, a skip
            connection.
    """
    require_plain_rows(sae, "dictionary_learning")
    if sae.config.skip:
        raise InputError(
            "the transcoder has a skip connection, which dictionary_learning has not; choose "
            "--format sparsteer"
        )
    kind = _kind_of(sae.config)
    plain = in_raw_units(sae)
    tensors = {
        name: tensor.to(dtype).contiguous() for name, tensor in _named(kind, plain).items()
    } | _scalars(kind, sae, plain)
    torch.save(tensors, out / WEIGHTS_FILE)
    save_tensors(out / SAFE_WEIGHTS_FILE, tensors)
    values: dict[str, Any] = {"trainer": _trainer(kind, sae)}
    if sae.config.transcoder:
        values["buffer"] = {"io": _TRANSCODER}
    write_json(out / CONFIG_FILE, values)
    write_sums(out)


def _kind_of(config: SAEConfig) -> str:
    """The class that encodes as the configuration says."""
    match config:
        case TopKConfig():
            return "AutoEncoderTopK"
        case BatchTopKConfig():
            return "MatryoshkaBatchTopKSAE" if config.prefixes else "BatchTopKSAE"
        case JumpReLUConfig():
            return "JumpReluAutoEncoder"
        case GatedConfig():
            return "GatedAutoEncoder"
        case ReLUConfig():
            return "AutoEncoderNew"
        case _:
            raise InputError(
                f"activation is {config.activation}, for which dictionary_learning has no class; "
                "choose --format sparsteer"
            )


def _named(kind: str, plain: SparseAutoencoder) -> dict[str, Tensor]:
    """The weights under the names of the class."""
    biases = encoder_biases(plain, subtracts_b_dec=kind not in _RAW_INPUT)
    if kind in _PARAMETERS:
        own = {"threshold": plain.thresholds()} if kind == "JumpReluAutoEncoder" else {}
        return {
            "W_enc": plain.W_enc.T,
            "b_enc": biases["b_enc"],
            "W_dec": plain.W_dec,
            "b_dec": plain.b_dec,
            **own,
        }
    linear = {"encoder.weight": plain.W_enc, "decoder.weight": plain.W_dec.T}
    if kind == "GatedAutoEncoder":
        return {
            **linear,
            "decoder_bias": plain.b_dec,
            "gate_bias": biases["b_enc"],
            "mag_bias": biases["magnitude_bias"],
            "r_mag": plain.get_buffer("magnitude_exponent"),
        }
    center = "decoder.bias" if kind == "AutoEncoderNew" else "b_dec"
    return {**linear, "encoder.bias": biases["b_enc"], center: plain.b_dec}


def _scalars(kind: str, sae: SparseAutoencoder, plain: SparseAutoencoder) -> dict[str, Tensor]:
    """k, threshold and groups, where the class has them; they are never rounded."""
    config = sae.config
    if config.latents_of_row is None:
        return {}
    found = {
        "k": torch.tensor(config.latents_of_row, dtype=torch.int32),
        "threshold": torch.tensor(-1.0) if kind == "AutoEncoderTopK" else plain.thresholds()[0],
    }
    if kind == "MatryoshkaBatchTopKSAE":
        found["group_sizes"] = torch.tensor(_groups(config))
    return {name: tensor.clone() for name, tensor in found.items()}


def _groups(config: SAEConfig) -> list[int]:
    """The latents that each prefix adds to the one before it."""
    ends = (0, *config.prefixes, config.n_latents)
    return [end - start for start, end in pairwise(ends)]


def _trainer(kind: str, sae: SparseAutoencoder) -> dict[str, Any]:
    """What the library's own trainer would say, as far as it is known."""
    config, origin = sae.config, sae.origin
    values: dict[str, Any] = {
        "dict_class": kind,
        "activation_dim": config.d_model,
        "dict_size": config.n_latents,
        "device": "cpu",
    }
    if config.latents_of_row is not None:
        values["k"] = config.latents_of_row
    if kind == "MatryoshkaBatchTopKSAE":
        values["group_sizes"] = _groups(config)
    if origin is not None:
        values["lm_name"] = name_elsewhere(origin.model)
        found = re.fullmatch(r"blocks\.(\d+)\.hook_resid_post", origin.site)
        if found:
            values |= {"layer": int(found[1]), "submodule_name": f"resid_post_layer_{found[1]}"}
    return values

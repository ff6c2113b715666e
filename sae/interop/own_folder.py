"""The layout `sparsteer`: the folder that `SparseAutoencoder.save` writes and `load` reads."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..activations.registry import activation_class
from ..autoencoder import (
    CONFIG_FILE,
    FORMAT,
    FORMAT_VERSION,
    WEIGHTS_FILE,
    SparseAutoencoder,
    centers_that_may_lack,
)
from ..common.checksums import read_checked_json, record_of, recorded_files, write_checked_json
from ..common.errors import InputError
from ..common.files import read_json
from ..common.tensor_files import load_tensors, save_tensors
from ..config import Origin, SAEConfig, build_dataclass, config_from_dict
from . import int8_rows
from .layouts import LAYOUTS, OWN

_INT8_VERSION = 3
"""Of a folder whose matrices are in int8, which its configuration says as `"weights": "int8"`."""
_VERSIONS = (1, FORMAT_VERSION, _INT8_VERSION)
"""That are read; the first has no checksums."""
_WEIGHTS, _INT8 = "weights", "int8"
_REMEDY = "copy the whole folder again"


def recognizes(path: Path) -> bool:
    """Whether the folder, or the run that it is, holds an autoencoder of this package."""
    return is_own_folder(path)


def read(path: Path) -> SparseAutoencoder:
    """The autoencoder of a folder, or of the run folder that holds it as `sae/`.

    Raises:
        InputError: a file is missing, broken, has changed since it was written, or does not fit
            the other; the message names it.
    """
    folder = sae_folder(path)
    config, origin, record, in_int8 = _read_description(folder / CONFIG_FILE)
    weights = folder / WEIGHTS_FILE
    tensors = load_tensors(weights, _REMEDY, record=record)
    if in_int8:
        tensors = int8_rows.widened(tensors, weights)
    # Before anything is built: a broken config.json may name a size that no memory holds.
    _require_shapes_of(config, tensors, weights)
    sae = SparseAutoencoder(config, origin=origin)
    sae.load_state_dict(sae.state_dict() | tensors)
    return sae


def write(sae: SparseAutoencoder, out: Path, dtype: torch.dtype = torch.float32) -> None:
    """As `SparseAutoencoder.save`, but batch_topk as the jumprelu that encodes alike.

    In int8 only the encoder's and decoder's rows are rounded (`int8_rows`), each with a scale in
    float32; in another dtype all tensors are.
    """
    exported = sae.activation.exported(sae)
    if dtype == torch.int8:
        save_tensors(out / WEIGHTS_FILE, int8_rows.rounded(exported.tensors()))
        values = {**exported.description(), "version": _INT8_VERSION, _WEIGHTS: _INT8}
        files = recorded_files(out, [WEIGHTS_FILE])
        write_checked_json(out / CONFIG_FILE, {**values, "files": files})
        return
    if dtype != torch.float32:
        exported = copy.deepcopy(exported).to(dtype)
    exported.save(out)


def is_own_folder(path: Path) -> bool:
    """Whether `sae_folder` finds a folder here whose configuration is of this package."""
    try:
        folder = sae_folder(path)
        return read_json(folder / CONFIG_FILE, "configuration").get("format") == FORMAT
    except InputError:
        return False


def sae_folder(path: Path) -> Path:
    """The folder of an autoencoder, given by itself or by the run that holds it as `sae/`.

    Raises InputError if there is none.
    """
    for folder in (path, path / "sae"):
        if (folder / CONFIG_FILE).is_file():
            return folder
    if not path.exists():
        raise InputError(f"{path} does not exist; give the folder of a trained autoencoder")
    raise InputError(
        f"{path} holds no {CONFIG_FILE}; give the folder of a trained autoencoder, of another "
        f"library with all files of its layout ({_other_layouts()})"
    )


def _other_layouts() -> str:
    return ", ".join(name for name in LAYOUTS.names() if name != OWN)


def _read_description(
    path: Path,
) -> tuple[SAEConfig, Origin | None, Mapping[str, Any] | None, bool]:
    """The configuration, the origin, what is recorded of the weights' file, and whether its
    matrices are in int8."""
    values = read_checked_json(path, "autoencoder's configuration", remedy=_REMEDY)
    record = record_of(values, WEIGHTS_FILE)
    if values.pop("format", None) != FORMAT:
        raise InputError(
            f"{path} is not a sparsteer autoencoder's configuration, and no other library's layout "
            f"({_other_layouts()}) fits its folder; give the folder of an autoencoder"
        )
    if (version := values.pop("version", None)) not in _VERSIONS:
        raise InputError(
            f"{path} has format version {version!r}, but this sparsteer reads {_INT8_VERSION} and "
            "older ones; use the sparsteer that wrote it or a newer one"
        )
    stored = values.pop(_WEIGHTS, None) if version == _INT8_VERSION else None
    if version == _INT8_VERSION and stored != _INT8:
        raise InputError(
            f"{path} says that its weights are stored as {stored!r}, but this sparsteer reads "
            f"{_INT8}; use the sparsteer that wrote it or a newer one"
        )
    if record is not None:
        values.pop("files", None)
    origin = values.pop("origin", None)
    config = config_from_dict(values, str(path))
    read = None if origin is None else build_dataclass(Origin, origin, f"{path}, origin")
    return config, read, record, stored == _INT8


def _require_shapes_of(config: SAEConfig, found: dict[str, Tensor], path: Path) -> None:
    D, F = config.d_model, config.n_latents
    expected: dict[str, list[int]] = {
        "W_dec": [F, D],
        "W_enc": [F, D],
        "b_dec": [D],
        "b_enc": [F],
        "input_scale": [],
        "input_center": [D],
    }
    if config.skip:
        expected["W_skip"] = [D, D]
    if config.transcoder:
        expected |= {"output_scale": [], "output_center": [D]}
    with torch.device("meta"):  # shapes alone: the sizes of a broken config.json fit nowhere
        state = activation_class(config.activation)(config).state()
    expected |= {name: list(tensor.shape) for name, tensor in state.items()}
    for name in centers_that_may_lack(config):
        if name not in found:
            del expected[name]
    for name in sorted(found.keys() | expected.keys()):
        have, want = found.get(name), expected.get(name)
        if have is None or want is None:
            state = "missing" if have is None else "not expected"
            raise InputError(f"{path}: tensor {name} is {state}; copy the whole folder again")
        if list(have.shape) != want:
            raise InputError(
                f"{path}: {name} has shape {list(have.shape)}, but {CONFIG_FILE} beside it means "
                f"{want}; the two files belong to different autoencoders"
            )
        if not have.is_floating_point():
            raise InputError(
                f"{path}: {name} holds {have.dtype} where numbers with a fraction are needed; copy "
                "the whole folder again"
            )
        if not have.isfinite().all():
            raise InputError(f"{path}: {name} holds NaN or infinity; copy the folder again")

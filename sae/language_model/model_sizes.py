"""Whether a model's files can hold what its config.json states, told before the model is built.

A model of other sizes than its weights is built in full before transformers compares the two, which
for a wrong number may take hours and all memory.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ..common.errors import InputError
from ..common.paths import require_regular_file
from .model_files import weight_files

# These entry points leave the types of their arguments open.
_configs: Any = AutoConfig
_models: Any = AutoModelForCausalLM

_HEADER_BYTES = 100_000_000
"""The longest header of a safetensors file."""

_BITS = 8
"""Weights in a byte at most: a quantized one takes a bit or more."""


def require_sizes(folder: Path) -> None:
    """Raise an InputError unless the weights in the folder can be those of its configuration.

    No weight is read: the number of layers is compared with the number of stored tensors, and then
    the number of parameters, of the model on the meta device, with that of the stored values.
    """
    config = _configs.from_pretrained(folder, local_files_only=True)
    n_tensors, n_values, n_bytes = _stored(weight_files(folder))
    n_layers: object = getattr(config.get_text_config(), "num_hidden_layers", 1)
    if not isinstance(n_layers, int) or not 1 <= n_layers <= n_tensors:
        raise InputError(
            f"{folder / 'config.json'} states num_hidden_layers {n_layers}, but the weights beside "
            f"it are {n_tensors:,} tensors, and each layer has one or more; copy the whole model "
            "again"
        )
    with torch.device("meta"):
        model = _models.from_config(config, attn_implementation="eager")
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    is_quantized = getattr(config, "quantization_config", None) is not None
    # Twice: weights may be shared or put together while they are loaded.
    if n_parameters > (_BITS * n_bytes if is_quantized else 2 * n_values):
        raise InputError(
            f"{folder / 'config.json'} states a model of {n_parameters:,} parameters, but the "
            f"weights beside it are {n_values:,} values; copy the whole model again"
        )


def _stored(files: list[Path]) -> tuple[int, int, int]:
    """Tensors, values and bytes in safetensors files, by their headers."""
    n_tensors = n_values = n_bytes = 0
    for file in files:
        require_regular_file(file, "weights", "copy the whole model again")
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header: dict[str, Any] = json.loads(stream.read(min(length, _HEADER_BYTES)))
        header.pop("__metadata__", None)
        n_tensors += len(header)
        n_values += sum(math.prod(tensor["shape"]) for tensor in header.values())
        n_bytes += file.stat().st_size
    return n_tensors, n_values, n_bytes
